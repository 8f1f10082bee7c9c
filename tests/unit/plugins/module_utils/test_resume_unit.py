# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit that continues runs at boot: its text, and that it comes and goes without a trace."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import resume_unit, systemd
from ansible_collections.fractal.slurm.plugins.module_utils.commands import Answer

ME = pwd.getpwuid(os.geteuid()).pw_name
# What implies NoNewPrivileges in a unit with User=, by systemd.exec(5); with it, sudo does not work.
IMPLIES = re.compile(
    "SystemCall|RestrictAddressFamilies|RestrictNamespaces|PrivateDevices|ProtectKernel|ProtectClock|DynamicUser|"
    "MemoryDenyWriteExecute|RestrictRealtime|RestrictSUIDSGID|LockPersonality|ProtectHostname"
)


class Module:
    """The part of AnsibleModule that is used."""

    check_mode = False

    def __init__(self, **params):
        values = {"service_user": ME, "settings_file": "/etc/fractal/fractal-slurm.toml", "settings": {}}
        self.params = {**values, **params}

    def fail_json(self, **result):
        raise AssertionError(result["msg"])

    def load_file_common_arguments(self, params, path):
        return {"path": path, "mode": None}

    def set_fs_attributes_if_different(self, attributes, changed):
        return changed


class Systemd:
    """systemctl, as far as it is asked."""

    def __init__(self):
        self.enabled = False
        self.is_there = True
        self.acts = []

    def run(self, argv, timeout):
        if not self.is_there:
            return Answer(1, "", "System has not been booted with systemd as init system")
        if argv[1] == "show":
            state = "enabled" if self.enabled else "disabled"
            return Answer(0, f"LoadState=loaded\nActiveState=inactive\nUnitFileState={state}\n", "")
        self.acts.append(argv[1])
        self.enabled = {"enable": True, "disable": False}.get(argv[1], self.enabled)
        return Answer(0, "", "")


@pytest.fixture
def manager(monkeypatch, tmp_path):
    manager = Systemd()
    monkeypatch.setattr(systemd, "run", manager.run)
    monkeypatch.setattr(systemd, "UNIT_FOLDER", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return manager


def unit(**params):
    return resume_unit.ResumeUnit(Module(**params), "/opt/fractal-slurm")


class TestKeeping:
    def test_writes_and_enables_once_and_never_starts(self, manager):
        assert unit().faults() == []
        (outcome,) = unit().keep()
        assert outcome["changed"]
        assert "ExecStart" in outcome["diff"]["after"]
        assert unit().keep() == []
        assert manager.acts == ["daemon-reload", "enable"]

    def test_enables_again_what_somebody_disabled(self, manager):
        unit().keep()
        manager.enabled = False
        assert len(unit().keep()) == 1
        assert unit().keep() == []

    def test_follows_the_settings(self, manager):
        unit().keep()
        assert len(unit(settings={"state_dir": "/data/state"}).keep()) == 1
        assert manager.acts == ["daemon-reload", "enable", "daemon-reload"]

    def test_changes_nothing_in_check_mode(self, manager, monkeypatch, tmp_path):
        monkeypatch.setattr(Module, "check_mode", True)
        assert len(unit().keep()) == 1
        assert list(tmp_path.iterdir()) == []
        assert manager.acts == []


class TestRemoving:
    def test_leaves_nothing_and_has_nothing_to_do_then(self, manager, tmp_path):
        assert unit().remove() == []
        unit().keep()
        assert unit().is_ours()
        (outcome,) = unit().remove()
        assert outcome["changed"]
        assert (unit().remove(), list(tmp_path.iterdir())) == ([], [])
        assert manager.acts[2:] == ["disable", "daemon-reload"]

    def test_removes_nothing_in_check_mode(self, manager, monkeypatch):
        unit().keep()
        monkeypatch.setattr(Module, "check_mode", True)
        assert len(unit().remove()) == 1
        assert unit().is_ours()
        assert manager.enabled

    def test_leaves_the_unit_of_somebody_else(self, manager, tmp_path):
        theirs = tmp_path / resume_unit.NAME
        theirs.write_text("[Service]\n")
        assert unit().remove() == []
        assert any("is not a file of this role" in fault for fault in unit().faults())
        assert theirs.read_text() == "[Service]\n"


class TestFaults:
    def test_name_an_account_that_is_not_there(self, manager):
        (fault,) = unit(service_user="no-such-account").faults()
        assert "'no-such-account' is unknown on this host" in fault

    def test_say_that_there_is_no_systemd(self, manager):
        manager.is_there = False
        assert "has not been booted with systemd" in unit().faults()[0]
        assert unit().remove() == []

    def test_refuse_a_path_of_two_lines(self, manager):
        assert "one line" in unit(settings={"state_dir": "/a\nExecStart=/b"}).faults()[0]


class TestText:
    @pytest.fixture
    def text(self):
        return resume_unit.unit_text('/opt/50%"a', "fractal", "/etc/a b.toml", "/data/state")

    def test_has_nothing_that_keeps_sudo_from_working(self, text):
        names = re.findall(r"^([A-Za-z]+)=", text, re.MULTILINE)
        assert not [name for name in names if IMPLIES.match(name)]
        assert "NoNewPrivileges=no\n" in text

    def test_quotes_what_systemd_would_read_otherwise(self, text):
        assert 'ExecStart="/opt/50%%\\"a/current/bin/fractal-slurm" resume --all\n' in text
        assert 'Environment="FRACTAL_SLURM_SETTINGS_FILE=/etc/a b.toml"\n' in text
        assert 'RequiresMountsFor="/opt/50%%\\"a" "/data/state"\n' in text

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
    def test_is_a_unit_that_systemd_accepts(self, tmp_path):
        program = tmp_path / "a %x" / "current/bin/fractal-slurm"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        file = tmp_path / resume_unit.NAME
        file.write_text(resume_unit.unit_text(str(tmp_path / "a %x"), ME, "/etc/a.toml", None))
        answer = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(file)], capture_output=True, text=True, check=False
        )
        assert resume_unit.NAME not in answer.stderr
        assert answer.returncode == 0, answer.stderr
