# SPDX-License-Identifier: GPL-3.0-or-later
"""The service: which lines and drop-ins are ours, which units will do, and when a restart is due."""

from __future__ import annotations

import os
import time

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import systemd as systemd_units
from ansible_collections.fractal.slurm.plugins.module_utils.commands import Answer
from ansible_collections.fractal.slurm.plugins.module_utils.systemd import unit_name
from ansible_collections.fractal.slurm.plugins.modules import service_environment
from ansible_collections.fractal.slurm.plugins.modules.service_environment import drop_in, with_line


class Failed(Exception):
    """What fail_json said."""


class Module:
    """The part of AnsibleModule that is used."""

    check_mode = False

    def __init__(self, **params):
        names = ("environment_file", "systemd_unit", "restart_unit")
        self.params = {"state": "present", "config_changed": False, **dict.fromkeys(names), **params}

    def fail_json(self, **result):
        raise Failed(result["msg"])

    def load_file_common_arguments(self, params, path):
        return {"path": path, "mode": None}

    def set_fs_attributes_if_different(self, attributes, changed):
        return changed


class Systemd:
    """One unit, and what it was asked for."""

    def __init__(self, **state):
        self.state = {"LoadState": "loaded", "ActiveState": "active", "ActiveEnterTimestampMonotonic": "0", **state}
        self.calls = []
        self.fails = False

    def run(self, argv, timeout):
        self.calls.append(argv[1:])
        if argv[1] == "show":
            return Answer(0, "".join(f"{key}={value}\n" for key, value in self.state.items()), "")
        if self.fails:
            return Answer(1, "", "Job for fractal.service failed.")
        if argv[1] == "restart":
            self.state.update(ActiveState="active", ActiveEnterTimestampMonotonic=str(int(time.monotonic() * 1e6)))
        return Answer(0, "", "")

    @property
    def restarts(self):
        return [words for words in self.calls if words[0] == "restart"]


@pytest.fixture
def systemd(monkeypatch, tmp_path):
    systemd = Systemd()
    monkeypatch.setattr(systemd_units, "run", systemd.run)
    monkeypatch.setattr(systemd_units, "UNIT_FOLDER", str(tmp_path / "system"))
    (tmp_path / "system").mkdir()
    return systemd


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "slurm_config.json"
    path.write_text("{}")
    return path


def apply(config, **params):
    service = service_environment.Service(Module(config_path=str(config), **params))
    faults = service.faults()
    if faults:
        raise Failed("\n".join(faults))
    return service.apply()


class TestRestart:
    def test_is_made_up_for_where_an_earlier_run_did_not_come_to_it(self, systemd, config):
        assert apply(config, restart_unit="fractal")["restarted"]
        assert systemd.restarts == [["restart", "fractal.service"]]
        assert not apply(config, restart_unit="fractal")["changed"]  # and once is enough
        assert len(systemd.restarts) == 1

    def test_that_fails_is_due_still(self, systemd, config):
        systemd.fails = True
        with pytest.raises(Failed, match=r"systemctl restart fractal\.service failed: Job for"):
            apply(config, restart_unit="fractal.service")
        systemd.fails = False
        assert apply(config, restart_unit="fractal.service")["restarted"]

    def test_is_not_due_where_the_service_began_after_the_change(self, systemd, config):
        systemd.state["ActiveEnterTimestampMonotonic"] = str(int(time.monotonic() * 1e6))
        os.utime(config, (time.time() - 60, time.time() - 60))
        assert not apply(config, restart_unit="fractal")["changed"]

    @pytest.mark.parametrize("state", ["inactive", "failed"])
    def test_a_stopped_service_is_started_by_a_change_alone(self, systemd, config, state):
        systemd.state["ActiveState"] = state
        assert not apply(config, restart_unit="fractal")["changed"]
        assert apply(config, restart_unit="fractal", config_changed=True)["restarted"]

    def test_does_not_happen_in_check_mode(self, systemd, config, monkeypatch):
        monkeypatch.setattr(Module, "check_mode", True)
        assert apply(config, restart_unit="fractal")["restarted"]
        assert systemd.restarts == []

    def test_does_not_happen_where_the_configuration_is_taken_away(self, systemd, config):
        assert not apply(config, restart_unit="fractal", state="absent", config_changed=True)["restarted"]

    @pytest.mark.parametrize(
        ("state", "words"),
        [
            ({"LoadState": "not-found"}, "systemd knows no unit fractal.service on this host"),
            ({"LoadState": "masked"}, "is masked"),
        ],
    )
    def test_of_a_unit_that_can_not_be_restarted_is_a_fault(self, systemd, config, state, words):
        systemd.state.update(state)
        with pytest.raises(Failed, match=f"fractal_slurm_config_restart_unit: .*{words}"):
            apply(config, restart_unit="fractal")
        assert apply(config, restart_unit="fractal", state="absent")["changed"] is False

    def test_where_there_is_no_systemd_is_a_fault_with_its_words(self, systemd, config, monkeypatch):
        answer = Answer(1, "", "System has not been booted with systemd")
        monkeypatch.setattr(systemd_units, "run", lambda *_, **__: answer)
        with pytest.raises(Failed, match=r"can't be asked for fractal\.service: System has not been booted"):
            apply(config, restart_unit="fractal")

    @pytest.mark.parametrize("name", ["--all", "a b", "x;y", "../x", ""])
    def test_takes_no_other_words_for_a_unit(self, systemd, config, name):
        if not name:
            assert not apply(config, restart_unit=name)["restarted"]
            return
        with pytest.raises(Failed, match="the name of a systemd unit is allowed"):
            apply(config, restart_unit=name)
        assert systemd.calls == []


class TestDropIn:
    def test_comes_and_goes(self, systemd, config, tmp_path):
        assert apply(config, systemd_unit="fractal")["changed"]
        path = tmp_path / "system" / "fractal.service.d" / "fractal-slurm.conf"
        assert path.read_text().splitlines()[1:] == ["[Service]", f'Environment="FRACTAL_SLURM_CONFIG_FILE={config}"']
        assert oct(path.stat().st_mode) == "0o100644"
        assert ["daemon-reload"] in systemd.calls
        assert not apply(config, systemd_unit="fractal")["changed"]
        assert apply(config, systemd_unit="fractal", state="absent")["changed"]
        assert not path.parent.exists()
        assert not apply(config, systemd_unit="fractal", state="absent")["changed"]

    def test_quotes_what_systemd_reads_specially(self):
        assert drop_in('/a "b"\\%h').splitlines()[2] == 'Environment="FRACTAL_SLURM_CONFIG_FILE=/a \\"b\\"\\\\%%h"'

    def test_the_name_is_completed_as_systemctl_does(self):
        assert [unit_name(name) for name in ("a", "a.service", "a@b", "a.socket")] == [
            "a.service",
            "a.service",
            "a@b.service",
            "a.socket",
        ]


class TestEnvironmentFile:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (None, "FRACTAL_SLURM_CONFIG_FILE=/new\n"),
            ("A=1", "A=1\nFRACTAL_SLURM_CONFIG_FILE=/new\n"),
            ("FRACTAL_SLURM_CONFIG_FILE=/old\nA=1\n", "FRACTAL_SLURM_CONFIG_FILE=/new\nA=1\n"),
            (
                "export FRACTAL_SLURM_CONFIG_FILE=/1\nA=1\n FRACTAL_SLURM_CONFIG_FILE=/2\nB=2\n",
                "A=1\nFRACTAL_SLURM_CONFIG_FILE=/new\nB=2\n",
            ),
        ],
    )
    def test_has_one_line_of_ours(self, before, after):
        assert with_line(before, "/new") == after
        assert with_line(after, "/new") == after

    def test_keeps_the_rest_as_it_is_and_shows_none_of_it(self, config, tmp_path):
        path = tmp_path / "server.env"
        path.write_bytes(b"SECRET=\xff1\n")
        path.chmod(0o600)
        result = apply(config, environment_file=str(path))
        assert path.read_bytes() == b"SECRET=\xff1\n" + f"FRACTAL_SLURM_CONFIG_FILE={config}\n".encode()
        assert oct(path.stat().st_mode) == "0o100600"
        assert "SECRET" not in str(result["diff"])
        assert not apply(config, environment_file=str(path))["changed"]
        assert apply(config, environment_file=str(path), state="absent")["changed"]
        assert path.read_bytes() == b"SECRET=\xff1\n"

    def test_is_made_readable_and_never_more_whatever_the_umask(self, config, tmp_path):
        before = os.umask(0)
        try:
            apply(config, environment_file=str(tmp_path / "new.env"))
        finally:
            os.umask(before)
        assert oct((tmp_path / "new.env").stat().st_mode) == "0o100644"
