# SPDX-License-Identifier: GPL-3.0-or-later
from types import SimpleNamespace

import pytest
from fractal_slurm.doctor.checks import _sudo
from fractal_slurm.doctor.findings import Code


class TestRightsBeyondOurs:
    def test_none_are_said_to_be_none(self):
        sudo = SimpleNamespace(holds_programs_back=list, other_rights=list)
        findings = list(_sudo(SimpleNamespace(sudo=sudo)))
        assert [(each.code, each.level) for each in findings] == [(Code.SUDO_PRELOAD, "ok"), (Code.SUDO_MORE, "ok")]

    @pytest.mark.parametrize(
        ("rule", "ok"),
        [
            ("(ALL : ALL) ALL", False),
            ("(ALL) NOPASSWD:ALL", False),
            ("(ALL) NOPASSWD: ALL, !/usr/bin/su", False),
            ("(anna) /usr/bin/cat, ALL", False),
            ("(ALL) NOPASSWD: /usr/bin/systemctl restart fractal-server", True),
            ("(root) /opt/ALL/bin/tool", True),
        ],
    )
    def test_all_commands_are_a_fault_some_left_out_or_not(self, rule, ok):
        sudo = SimpleNamespace(holds_programs_back=list, other_rights=lambda: [rule])
        (finding,) = (each for each in _sudo(SimpleNamespace(sudo=sudo)) if each.code is Code.SUDO_MORE)
        assert finding.ok == ok
        assert rule in finding.words
