# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables of the roles, as far as they can be judged on the controller."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible.errors import AnsibleUndefinedVariable
from ansible_collections.fractal.slurm.plugins.plugin_utils import role_variables

ROOT = Path(__file__).resolve().parents[4]


def faults(role, **variables):
    return role_variables.check_values(role, variables, variables.__getitem__)[1]


class TestCheckNames:
    def test_suggests_what_was_meant(self):
        found, warnings = role_variables.check_names(["fractal_slurm_sudoer_mode", "ansible_user"])
        assert found == [
            "fractal_slurm_sudoer_mode: there is no such variable; did you mean fractal_slurm_sudoers_mode?"
        ]
        assert warnings == []

    @pytest.mark.parametrize("name", ["fractal_slurm_our_own_note", "fractal_slurm_note", "fractal_slurm_x"])
    def test_warns_of_what_nothing_reads(self, name):
        found, warnings = role_variables.check_names([name])
        assert found == []
        assert warnings == [f"{name}: no role of fractal.slurm reads this variable"]

    @pytest.mark.parametrize(
        "name",
        [
            "fractal_slurm_config_content_common",
            "fractal_slurm_common_config_content",
            "fractal_slurm_sudoers_impersonate_users_extra",
            "fractal_slurm_lab_bin_dirs",
            "fractal_slurm_config_common",
            "fractal_slurm_runtime_settings_of_login",
        ],
    )
    def test_a_helper_of_the_sites_own_stops_nothing(self, name):
        found, warnings = role_variables.check_names([name])
        assert found == []
        assert name in warnings[0]

    @pytest.mark.parametrize(
        "name",
        [
            "fractal_slurm_sudoers_impersonate_user",
            "fractal_slurm_sudoer_impersonate_users",
            "fractal_slurm_config_contents",
            "fractal_slurm_bin_dir",
            "fractal_slurm_runtimeprefix",
        ],
    )
    def test_a_misspelt_one_does(self, name):
        assert "did you mean" in role_variables.check_names([name])[0][0]

    def test_knows_all_that_roles_and_playbooks_use(self):
        used = set()
        for folder in ("playbooks", "roles", "molecule"):
            for path in (ROOT / folder).rglob("*.yml"):
                used |= set(re.findall(r"\bfractal_slurm_\w+", path.read_text(encoding="utf-8")))
        used.discard("fractal_slurm_server")  # the package
        assert len(used) > 30
        assert role_variables.check_names(used) == ([], [])


class TestChosenRoles:
    ROLES = ("sudoers", "slurm_config", "runtime")

    @pytest.mark.parametrize(
        ("run", "skip", "expected"),
        [
            (["all"], [], ["sudoers", "slurm_config", "runtime"]),
            (["preflight"], [], ["sudoers", "slurm_config", "runtime"]),
            (["config"], [], ["slurm_config"]),
            (["runtime", "sudoers"], [], ["sudoers", "runtime"]),
            (["all"], ["sudoers"], ["slurm_config", "runtime"]),
        ],
    )
    def test_by_tags(self, run, skip, expected):
        assert role_variables.chosen_roles(self.ROLES, run, skip) == expected


class TestCheckValues:
    def test_gives_values_with_defaults(self):
        values, found = role_variables.check_values("runtime", {"fractal_slurm_runtime_keep": "5"}, lambda _name: "5")
        assert found == []
        assert values["fractal_slurm_runtime_keep"] == 5
        assert values["fractal_slurm_runtime_prefix"] == "/opt/fractal-slurm"

    def test_reports_every_fault_of_the_sudo_rights(self):
        found = faults(
            "sudoers",
            fractal_slurm_service_user="root",
            fractal_slurm_sudoers_impersonate_users=["anna", "anna", "root", "a b", "%wheel", "ALL"],
            fractal_slurm_sudoers_mode="hardened",
            fractal_slurm_sudoers_file="fractal.conf",
            fractal_slurm_bin_dirs=["opt/slurm"],
            fractal_slurm_sudoers_directory="sudoers.d",
        )
        for words in (
            "the service account root has uid 0",
            "user anna: stands 2 times in the list: keep one",
            "user root: can't be impersonated because of uid 0",
            "user 'a b': the name is not allowed",
            "group wheel: privileged",
            "user 'ALL': the name is not allowed",
            "hardened mode needs the folders",
            "the file name 'fractal.conf' is not allowed",
            "the folder 'opt/slurm' of SLURM commands must be absolute",
            "fractal_slurm_sudoers_directory: found 'sudoers.d'; an absolute path is allowed",
        ):
            assert [fault for fault in found if words in fault], (words, found)
        assert len(found) == 10

    def test_names_every_bad_work_folder(self):
        found = faults(
            "sudoers",
            fractal_slurm_sudoers_impersonate_users=["anna"],
            fractal_slurm_sudoers_mode="hardened",
            fractal_slurm_sudoers_work_dirs=["data", "/a b", "/fine"],
        )
        assert len(found) == 2

    def test_an_empty_list_is_a_fault_but_not_where_the_rights_are_removed(self):
        assert "is empty" in faults("sudoers")[0]
        assert faults("sudoers", fractal_slurm_sudoers_state="absent") == []

    def test_reports_every_wrong_type_and_choice(self):
        found = faults(
            "runtime", fractal_slurm_runtime_keep="many", fractal_slurm_runtime_state="gone", fractal_slurm_bin_dirs={}
        )
        assert len(found) == 3

    def test_reports_every_fault_of_the_runtime(self):
        found = faults(
            "runtime",
            fractal_slurm_runtime_settings={"slurm_bin": "/x", "max_retries": -1},
            fractal_slurm_runtime_version="0.1",
            fractal_slurm_runtime_keep=0,
        )
        assert len(found) == 4
        assert any("did you mean 'slurm_bin_dir'?" in fault for fault in found)

    def test_a_variable_that_can_not_be_rendered_is_a_fault_with_its_name(self):
        def value(name):
            raise AnsibleUndefinedVariable("'lab' is undefined")

        _values, found = role_variables.check_values("sudoers", ["fractal_slurm_sudoers_impersonate_users"], value)
        assert found[0].startswith("fractal_slurm_sudoers_impersonate_users: ")
        assert "'lab' is undefined" in found[0]


class TestPaths:
    @pytest.mark.parametrize(
        ("role", "name"),
        [
            ("runtime", "fractal_slurm_runtime_prefix"),
            ("sudoers", "fractal_slurm_sudoers_directory"),
            ("sudoers", "fractal_slurm_sudoers_main_file"),
            ("slurm_config", "fractal_slurm_config_path"),
        ],
    )
    @pytest.mark.parametrize("path", ["", "/a\0b", "/a\nb", "/a\ud800"])
    def test_refuses_what_is_no_path(self, role, name, path):
        given = {name: path, "fractal_slurm_sudoers_impersonate_users": ["anna"]}
        known = {key: value for key, value in given.items() if key in role_variables.options(role)}
        _values, faults = role_variables.check_values(role, known, known.__getitem__)
        assert any(fault.startswith(f"{name}: found {path!r}; ") for fault in faults)
