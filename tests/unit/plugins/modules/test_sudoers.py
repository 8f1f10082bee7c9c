# SPDX-License-Identifier: GPL-3.0-or-later
"""The module sudoers on hosts that the tests can not have: RHEL-like ones, and Ubuntu with sudo-rs."""

from __future__ import annotations

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import sudoers as rules
from ansible_collections.fractal.slurm.plugins.modules import sudoers
from ansible_collections.fractal.slurm.tests.unit.plugins.module_utils.test_sudoers import Accounts

PRIVILEGED = ["root", "sudo", "wheel", "admin", "docker"]


class Host:
    """A host with a sudo of some version."""

    def __init__(self, version):
        self._version = version

    def sudo_version(self):
        return self._version


class RedHatAccounts(Accounts):
    """No group sudo or admin; wheel is what makes an administrator."""

    def __init__(self):
        super().__init__()
        self.groups = {"wheel": (10, ("carl",)), "lab": (2000, ("anna", "ben")), "mixed": (2001, ("anna", "carl"))}
        self.users["carl"] = (1003, 1003, {1003, 10})


@pytest.fixture(autouse=True)
def red_hat(monkeypatch):
    """Accounts and commands as on Rocky Linux 9."""
    commands = {name: f"/usr/bin/{name}" for name in ("sbatch", "scancel", "cat", "ls", "mkdir")}
    monkeypatch.setattr(rules, "HostAccounts", RedHatAccounts)
    monkeypatch.setattr(rules, "find_commands", lambda _names, _dirs: (commands, []))


def wanted(version, **options):
    params = {
        "impersonate_users": ["anna", "%lab"],
        "service_user": "fractal",
        "privileged_groups": PRIVILEGED,
        "accept_system_users": [],
        "accept_unlistable_groups": False,
        "commands": [],
        "bin_dirs": [],
        "mode": "standard",
        "arguments": None,
        "known_faults": [],
        **options,
    }
    text, _commands, faults = sudoers.wanted_text(params, Host(version), None)
    return text, faults


HARDENED = {"mode": "hardened", "arguments": {name: ["^x$"] for name in ("sbatch", "scancel", "cat", "ls", "mkdir")}}
ROCKY_9 = "Sudo version 1.9.5p2\nSudoers policy plugin version 1.9.5p2\n"
UBUNTU_25_10 = "sudo-rs 0.2.8\n"


def test_grants_and_closes_by_wheel():
    text, faults = wanted(ROCKY_9)
    assert faults == []
    assert "!%wheel" in text
    assert "/usr/bin/sbatch, \\\n    /usr/bin/scancel" in text


def test_refuses_members_of_wheel():
    _text, faults = wanted(ROCKY_9, impersonate_users=["carl", "%mixed", "%wheel"])
    assert len(faults) == 3
    assert all("wheel" in fault for fault in faults)


@pytest.mark.parametrize(("version", "words"), [(ROCKY_9, "this host has 1.9.5"), (UBUNTU_25_10, "another program")])
def test_refuses_hardened_mode_where_sudo_has_no_patterns(version, words):
    text, faults = wanted(version, **HARDENED)
    assert text is None
    assert len(faults) == 1
    assert faults[0].startswith("hardened mode needs sudo 1.9.10 or newer")
    assert words in faults[0]


def test_takes_hardened_mode_where_it_has():
    text, faults = wanted("Sudo version 1.9.17\n", **HARDENED)
    assert faults == []
    assert "/usr/bin/cat ^x$" in text


def test_has_every_fault_at_once():
    _text, faults = wanted(ROCKY_9, impersonate_users=["root", "carl", "gone"], service_user="nobody-here", **HARDENED)
    assert len(faults) == 5
