# SPDX-License-Identifier: GPL-3.0-or-later
"""Accounts, names, files and binaries: what the sudoers module accepts, and in which words it refuses."""

from __future__ import annotations

import os
import subprocess
from shutil import which

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import sudo_rules, sudoers
from ansible_collections.fractal.slurm.plugins.module_utils.sudoers import Group, User
from ansible_collections.fractal.slurm.tests.unit.plugins.module_utils import sudoers_samples as samples

PRIVILEGED = ("sudo", "docker")


class Accounts:
    """Accounts as a host's name service would answer for them."""

    uid_min, uid_max = 1000, 60000
    why_system = sudoers.HostAccounts.why_system

    def __init__(self, listable=True):
        self.listable = listable
        self.directory = {"dirk"}
        self.users = {
            "nobody": (65534, 65534, {65534}),
            "slurm": (64030, 64030, {64030}),
            "dirk": (64031, 64031, {64031}),
            "erna": (1005, 1005, {1005, 27}),
            "root": (0, 0, {0}),
            "toor": (0, 0, {0}),
            "daemon": (1, 1, {1}),
            "fractal": (990, 990, {990}),
            "anna": (1001, 1001, {1001, 2000}),
            "ben": (1002, 2000, {2000}),
            "carl": (1003, 1003, {1003, 27}),
            "dora": (1004, 999, {999}),
        }
        self.groups = {
            "sudo": (27, ("carl",)),
            "chefs": (27, ("erna",)),
            "docker": (999, ("dora",)),
            "lab": (2000, ("anna", "ben")),
            "mixed": (2001, ("anna", "carl", "gone")),
            "empty": (2002, ()),
        }

    def user(self, name):
        return User(name, *self.users[name][:2]) if name in self.users else None

    def group(self, name):
        return Group(name, *self.groups[name]) if name in self.groups else None

    def group_ids(self, user):
        return self.users[user.name][2]

    def is_local(self, user):
        return user.name not in self.directory

    def local_system_uids(self):
        return {1, 990, 64030}


def faults(entries, **options):
    accounts = options.pop("accounts", None) or Accounts()
    service = options.pop("service_user", "fractal")
    return sudoers.account_faults(entries, accounts, service, privileged_groups=PRIVILEGED, **options)


class TestAccountFaults:
    def test_accepts_users_and_groups(self):
        assert faults(["anna", "%lab"]) == []

    def test_accepts_the_service_user_itself(self):
        assert faults(["fractal", "anna"]) == []

    def test_reports_every_fault_at_once(self):
        assert len(faults(["root", "nobody-here", "a b", "%sudo"])) == 4

    @pytest.mark.parametrize("name", ["root", "toor"])
    def test_refuses_uid_0_by_any_name(self, name):
        assert faults([name]) == [f"user {name}: can't be impersonated because of uid 0"]

    def test_refuses_system_accounts(self):
        assert "below this host's UID_MIN of 1000" in faults(["daemon"])[0]

    def test_accepts_system_accounts_that_are_named_as_meant(self):
        assert faults(["daemon"], accept_system_users=["daemon"]) == []

    def test_refuses_local_accounts_above_the_last_uid_of_users(self):
        assert "above this host's UID_MAX of 60000" in faults(["slurm"])[0]
        assert faults(["slurm"], accept_system_users=["slurm"]) == []

    def test_a_directory_has_users_there(self):
        assert faults(["dirk"]) == []

    def test_refuses_nobody_wherever_it_is_known(self):
        accounts = Accounts()
        accounts.directory.add("nobody")
        assert "the uid 65534" in faults(["nobody"], accounts=accounts)[0]

    @pytest.mark.parametrize("accepted", [[], ["slurm"]])
    def test_refuses_whom_slurm_runs_as_even_as_an_exception(self, accepted):
        found = faults(["slurm"], accept_system_users=accepted, slurm_users={64030: "SlurmUser"})
        assert found == [
            "user slurm: can't be impersonated because of SLURM's SlurmUser, who can start jobs as anybody"
        ]

    def test_refuses_it_as_the_service_user_in_its_own_list(self):
        assert "SlurmUser" in faults(["fractal"], slurm_users={990: "SlurmUser"})[0]

    def test_refuses_a_privileged_gid_under_another_name(self):
        assert "group chefs: privileged" in faults(["%chefs"])[0]
        assert "privileged group sudo" in faults(["erna"])[0]

    def test_never_accepts_uid_0_as_an_exception(self):
        assert faults(["toor"], accept_system_users=["toor"]) != []

    def test_refuses_members_of_privileged_groups(self):
        assert "privileged group sudo" in faults(["carl"])[0]

    def test_counts_the_primary_group(self):
        assert "privileged group docker" in faults(["dora"])[0]

    def test_refuses_privileged_groups(self):
        assert faults(["%sudo"]) == [
            "group sudo: privileged: its members are as good as root and can't be impersonated"
        ]

    def test_refuses_groups_with_a_privileged_member(self):
        assert faults(["%mixed"]) == [
            "group mixed: its member carl can't be impersonated because of membership in the privileged group sudo"
        ]

    def test_accepts_an_empty_group_where_all_members_can_be_listed(self):
        assert faults(["%empty"]) == []

    def test_refuses_groups_that_can_not_be_listed(self):
        accounts = Accounts(listable=False)
        assert "fractal_slurm_sudoers_accept_unlistable_groups" in faults(["%lab"], accounts=accounts)[0]
        assert faults(["%lab"], accounts=accounts, accept_unlistable_groups=True) == []

    def test_still_looks_at_the_members_it_sees(self):
        accounts = Accounts(listable=False)
        assert len(faults(["%mixed"], accounts=accounts, accept_unlistable_groups=True)) == 1

    def test_refuses_an_empty_list(self):
        assert "is empty" in faults([])[0]

    def test_refuses_an_unknown_service_user(self):
        assert "unknown on this host" in faults(["anna"], service_user="nobody-here")[0]

    def test_refuses_a_service_user_with_uid_0(self):
        assert "needs no sudo" in faults(["anna"], service_user="root")[0]

    @pytest.mark.parametrize(
        "name",
        [
            "",
            "a b",
            "a,b",
            "a:b",
            "a=b",
            "!a",
            "#0",
            "#1000",
            "+net",
            "a\\",
            "\\a",
            "a\\\\b",
            '"a"',
            "-a",
            "@a",
            "1",
            "12$",
            "a\nb",
            "a%b",
            "a'b",
            "a" * 256,
        ],
    )
    def test_refuses_names_that_sudoers_reads_specially(self, name):
        assert "is not allowed" in faults([name])[0]

    @pytest.mark.parametrize("entry", ["ALL", "%ALL"])
    def test_refuses_everybody(self, entry):
        assert "sudoers reads it as everybody" in faults([entry])[0]

    @pytest.mark.parametrize("name", ["a  b", "R&D (all)", "SITE\\domain users", "o'neil", "X", "1a", "a@b.c"])
    def test_takes_names_of_groups_from_directories(self, name):
        assert sudo_rules.fault_of_account_name(name, "group", is_group=True) is None

    @pytest.mark.parametrize("name", ["", " a", "a ", "a,b", 'a"b', "a\nb", "a\\", "#5", ":x", "7", "a=b", "é"])
    def test_refuses_others(self, name):
        assert "is not allowed" in sudo_rules.fault_of_account_name(name, "group", is_group=True)


class TestQuoted:
    @pytest.mark.parametrize("entry", ["anna", "%lab", "a.b-c_d", "Anna", "%Lab", "_x"])
    def test_leaves_plain_names(self, entry):
        assert sudoers.quoted(entry) == entry

    @pytest.mark.parametrize(
        "entry",
        [
            "ANNA",
            "%X1",
            "1anna",
            "anna@site.org",
            "SITE\\anna",
            "%SITE\\Domain Users",
            "host$",
            "%R&D (all)",
            "10.0.0.1",
            "sha256",
            "sudoedit",
            "Defaults",
            "User_Alias",
        ],
    )
    def test_quotes_the_others_and_sudo_reads_them_as_they_are(self, entry):
        text = "Runas_Alias A = x, %s, !%s\n%s ALL=(ALL) ALL\n" % ((sudoers.quoted(entry),) * 3)
        alias, rule = sudoers.sudoers_reader.read(text)
        kind = "group" if entry.startswith("%") else "word"
        assert [tuple(member) for member in alias.value.members[1:]] == [(False, kind, entry), (True, kind, entry)]
        assert [tuple(member) for member in rule.value.users] == [(False, kind, entry)]
        if all(samples.TOOLS):
            members = [["x", entry, "!" + entry]]
            assert [found[2] for found in samples.sudos_reading(text)["aliases"]] == members


class TestClosingEntries:
    def closed(self, entries, **options):
        return sudoers.closing_entries(entries, Accounts(), "fractal", PRIVILEGED, **options)

    def test_closes_privileged_groups_by_number(self):
        assert self.closed(["anna"]) == ["!%#27", "!%#999"]

    def test_closes_system_accounts_where_groups_are_allowed(self):
        assert self.closed(["%lab"]) == ["!%#27", "!%#999", "!#1", "!#64030"]

    def test_not_those_that_are_meant(self):
        assert self.closed(["%lab"], accept_system_users=["daemon", "gone"]) == ["!%#27", "!%#999", "!#64030"]

    def test_always_closes_whom_slurm_runs_as(self):
        assert self.closed(["anna"], slurm_users={64030: "SlurmUser", 0: "SlurmdUser"}) == [
            "!%#27",
            "!%#999",
            "!#64030",
        ]


class TestSlurmUsers:
    def test_reads_what_scontrol_says(self):
        text = "SlurmdUser              = root(0)\nSlurmUser               = slurm(64030)\nSlurmUserX = x(1)\n"
        assert sudoers.parse_slurm_users(text) == [("root", 0, "SlurmdUser"), ("slurm", 64030, "SlurmUser")]

    def test_reads_the_configuration(self):
        text = "#SlurmUser=old\n slurmuser=fancy # ours\nSlurmdUser=77\n"
        assert sudoers.parse_slurm_users(text) == [("fancy", None, "slurmuser"), ("77", 77, "SlurmdUser")]

    @pytest.mark.parametrize("text", ["ClusterName=c SlurmUser=fancy", 'SlurmUser="fancy"', "SlurmUser=fancy#old"])
    def test_reads_it_as_slurm_does(self, text):
        assert sudoers.parse_slurm_users(text) == [("fancy", None, "SlurmUser")]


class TestNameService:
    def test_reads_uid_max(self):
        assert sudoers.parse_uid_max("# UID_MAX 5\nUID_MAX\t\t 70000\n") == 70000
        assert sudoers.parse_uid_max("") == 60000

    def test_reads_local_uids(self):
        assert sudoers.local_uids("a:x:1:100:::\nbroken\n+::::::\nb:x:b:1::\n") == {"a": 1}

    def test_reads_uid_min(self):
        assert sudoers.parse_uid_min("# UID_MIN 5\nUID_MIN\t\t 500\n") == 500
        assert sudoers.parse_uid_min("") == 1000

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("passwd: files\ngroup: files\n", True),
            ("passwd: files systemd\ngroup: files [SUCCESS=merge] systemd\n", True),
            ("passwd: files sss\ngroup: files\n", False),
            ("passwd: files\ngroup: files ldap\n", False),
            ("", True),
        ],
    )
    def test_knows_directory_services(self, text, expected):
        assert sudoers.sources_are_local(text) is expected

    def test_finds_primary_members(self):
        passwd = "a:x:1:100:::\nb:x:2:200:::\nbroken\nc:x:3:100::/:/bin/sh\n"
        assert sudoers.primary_members(passwd, 100) == {"a", "c"}


class TestFileName:
    @pytest.mark.parametrize("name", ["fractal-slurm", "50_fractal", "x"])
    def test_accepts_what_sudo_reads(self, name):
        assert sudoers.fault_of_file_name(name) is None

    @pytest.mark.parametrize("name", ["", "a.b", "a~", ".a", "a/b", "..", "a b"])
    def test_refuses_what_sudo_ignores(self, name):
        assert "is not allowed" in sudoers.fault_of_file_name(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="files of root's are needed")
class TestPathFaults:
    @pytest.fixture
    def tree(self, tmp_path_factory):
        # pytest's folder is below /tmp, which all can write: the tests look at what is found below it
        folder = tmp_path_factory.mktemp("bin")
        folder.chmod(0o755)
        file = folder / "sbatch"
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
        return folder

    def found(self, path, folder):
        return [
            fault
            for fault in sudoers.path_faults(str(path), "the command")
            if fault.split(": ", 1)[1].startswith(str(folder))
        ]

    def test_accepts_the_systems_own(self):
        assert sudoers.path_faults("/usr/bin/cat", "the command") == []

    def test_accepts_a_file_of_root_s(self, tree):
        assert self.found(tree / "sbatch", tree) == []

    def test_refuses_a_file_that_others_can_write(self, tree):
        (tree / "sbatch").chmod(0o757)
        assert "can be written by others (mode 0757)" in self.found(tree / "sbatch", tree)[0]

    def test_refuses_a_folder_that_a_group_can_write(self, tree):
        tree.chmod(0o775)
        assert "(mode 0775)" in self.found(tree / "sbatch", tree)[0]

    def test_refuses_a_file_of_another_user(self, tree):
        os.chown(tree / "sbatch", 1234, 0)
        assert "belongs to uid 1234" in self.found(tree / "sbatch", tree)[0]

    def test_looks_behind_symlinks(self, tree):
        elsewhere = tree / "open"
        elsewhere.mkdir()
        elsewhere.chmod(0o777)
        (elsewhere / "real").write_text("")
        (tree / "link").symlink_to("open/real")
        assert any("(mode 0777)" in fault for fault in self.found(tree / "link", tree))

    def test_looks_at_the_folder_of_each_symlink(self, tree):
        elsewhere = tree / "open"
        elsewhere.mkdir()
        elsewhere.chmod(0o777)
        (elsewhere / "middle").symlink_to(tree / "sbatch")
        (tree / "link").symlink_to(elsewhere / "middle")
        assert any("(mode 0777)" in fault for fault in self.found(tree / "link", tree))

    def test_says_what_is_missing(self, tree):
        assert "No such file" in sudoers.path_faults(str(tree / "gone"), "the command")[0]


COMMANDS = {"sbatch": "/usr/bin/sbatch", "cat": "/usr/bin/cat"}


class TestRender:
    def test_grants_the_commands_as_the_users(self):
        text = sudoers.render("fractal", ["anna", "%lab"], COMMANDS, privileged_groups=["sudo"])
        assert (
            "Runas_Alias FRACTAL_IMPERSONATE_USERS = anna, \\\n    %lab, \\\n    !root, \\\n    !#0, \\\n    !%sudo\n"
            in text
        )
        assert "Cmnd_Alias FRACTAL_CMD = /usr/bin/sbatch, \\\n    /usr/bin/cat\n" in text
        assert text.endswith("\nfractal ALL=(FRACTAL_IMPERSONATE_USERS) NOPASSWD: FRACTAL_CMD\n")

    def test_narrows_the_arguments(self):
        arguments = {"sbatch": ["--parsable"], "cat": ["^-- a$", "^-- b$"]}
        text = sudoers.render("fractal", ["anna"], COMMANDS, arguments=arguments)
        assert "/usr/bin/sbatch --parsable, \\\n    /usr/bin/cat ^-- a$, \\\n    /usr/bin/cat ^-- b$\n" in text

    @pytest.mark.skipif(which("visudo") is None and not os.path.exists("/usr/sbin/visudo"), reason="sudo is not here")
    def test_visudo_accepts_it(self, tmp_path):
        path = tmp_path / "candidate"
        path.write_text(sudoers.render("fractal", ["anna", "%lab"], COMMANDS, privileged_groups=["sudo"]))
        path.chmod(0o440)
        visudo = which("visudo") or "/usr/sbin/visudo"
        result = subprocess.run([visudo, "-c", "-f", str(path)], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


class TestAliasClashes:
    @pytest.mark.parametrize(
        "line",
        [
            "Cmnd_Alias FRACTAL_CMD = /bin/bash",
            "Cmnd_Alias\tFRACTAL_CMD=/bin/bash",
            "Cmnd_Alias OTHER = /bin/ls : FRACTAL_CMD = /bin/bash",
            "Cmnd_Alias OTHER = /bin/ls : \\\n  FRACTAL_CMD = /bin/bash",
            "Cmd_Alias FRACTAL_CMD = /bin/bash",
            "Runas_Alias FRACTAL_IMPERSONATE_USERS = root",
            "Host_Alias FRACTAL_CMD = h",
            "  User_Alias FRACTAL_CMD = u # comment",
        ],
    )
    def test_finds_every_definition_of_ours(self, line):
        files = {"/etc/sudoers": "root ALL=(ALL) ALL\n" + line + "\n"}
        assert sudoers.alias_clashes(files, None)[0].startswith("/etc/sudoers:2: defines the alias FRACTAL_")

    @pytest.mark.parametrize(
        "line",
        [
            "# Cmnd_Alias FRACTAL_CMD = /bin/bash",
            "Cmnd_Alias FRACTAL_CMD2 = /bin/bash",
            "Cmnd_Alias MY_FRACTAL_CMD = /bin/bash",
            "Cmnd_Alias OTHER = FRACTAL_CMD",
            "bob ALL=(ALL) FRACTAL_CMD",
        ],
    )
    def test_leaves_others_alone(self, line):
        assert sudoers.alias_clashes({"/etc/sudoers": line + "\n"}, None) == []

    @pytest.mark.parametrize("line", ["# wiki \\", 'Runas_Alias A = "a#b" : B = #-1', "Defaults !!requiretty"])
    def test_nothing_before_it_hides_one(self, line):
        files = {"/etc/sudoers": line + "\n Runas_AliasFRACTAL_IMPERSONATE_USERS = ALL\n"}
        assert sudoers.alias_clashes(files, None)[0].startswith("/etc/sudoers:2: defines the alias FRACTAL_")

    def test_believes_sudos_own_parser(self):
        assert sudoers.hidden_clashes("/etc/sudoers", {"OTHER"}) == []
        assert "defines the alias FRACTAL_CMD, which is ours" in sudoers.hidden_clashes("/e", {"FRACTAL_CMD"})[0]

    def test_leaves_our_own_file_alone(self):
        assert sudoers.alias_clashes({"/a": "Cmnd_Alias FRACTAL_CMD = /bin/cat\n"}, "/a") == []


class TestWithoutOurRights:
    def rest(self, text):
        return sudoers.without_our_rights(text, "fractal", ("sbatch", "cat"))

    def test_takes_aliases_and_rules_of_ours_away(self):
        text = (
            "# a comment\n"
            "Runas_Alias FRACTAL_IMPERSONATE_USERS = anna : \\\n  FRACTAL_CMD = ben\n"
            "Cmnd_Alias C = /opt/bin/sbatch\n"
            "fractal ALL=(anna) NOPASSWD: C, \\\n /bin/cat x # why\n"
            "fractal ALL=(FRACTAL_IMPERSONATE_USERS) FRACTAL_CMD"
        )
        rest, kept, faults = self.rest(text)
        assert rest == "# a comment\n"
        assert (kept, faults) == ([], [])

    @pytest.mark.parametrize(("elsewhere", "stays"), [((), False), (("D",), True), (("X",), False)])
    def test_takes_aliases_away_that_nobody_else_uses(self, elsewhere, stays):
        aliases = "Cmnd_Alias D = /bin/cat\nCmnd_Alias C = /opt/bin/sbatch, D\nRunas_Alias R = anna\n"
        rule = "fractal ALL=(R) NOPASSWD: C\n"
        rest, kept, _faults = sudoers.without_our_rights(aliases + rule, "fractal", ("sbatch", "cat"), elsewhere)
        assert rest == ("Cmnd_Alias D = /bin/cat\n" if stays else "")
        assert bool(kept) is stays
        used = aliases + "bob ALL=(R) C\n"
        assert sudoers.without_our_rights(used + rule, "fractal", ("sbatch", "cat"))[0] == used

    @pytest.mark.parametrize(
        "text",
        [
            "Defaults:fractal !requiretty\n",
            "anna ALL=(ALL) /bin/cat\n",
            "fractal ALL=/bin/systemctl restart x\n",
            "Runas_Alias OTHER = anna\n",
            "@include x\n",
        ],
    )
    def test_leaves_the_rest(self, text):
        assert self.rest(text) == (text, sudoers.sudoers_reader.read(text), [])

    @pytest.mark.parametrize(
        "text",
        [
            "fractal, anna ALL=(ben) /bin/cat\n",
            "fractal ALL=(ben) /bin/cat, /bin/sh\n",
            "Runas_Alias A = anna : FRACTAL_IMPERSONATE_USERS = ben\n",
            "fractal ALL=(FRACTAL_IMPERSONATE_USERS) ALL\n",
        ],
    )
    def test_names_what_is_together_with_others(self, text):
        rest, _kept, faults = self.rest("\n" + text)
        assert rest == "\n" + text
        assert [line for line, _words in faults] == [2]


class TestAliasNames:
    PLAIN = (sudoers.RUNAS_ALIAS, sudoers.CMND_ALIAS)

    def test_are_the_usual_ones(self):
        by_hand = {"/a": "Cmnd_Alias FRACTAL_CMD = /bin/cat\nother ALL=FRACTAL_CMD\n"}
        assert sudoers.alias_names(by_hand, "/own", "fractal") == self.PLAIN
        own = {"/own": sudoers.render("other", ["anna"], COMMANDS), "/b": sudoers.render("fractal", ["a"], COMMANDS)}
        assert sudoers.alias_names(own, "/own", "fractal") == self.PLAIN

    def test_are_others_beside_another_account_s_file(self):
        files = {"/a": sudoers.render("other", ["anna"], COMMANDS)}
        names = sudoers.alias_names(files, "/own", "fractal.2")
        assert names == ("FRACTAL_IMPERSONATE_USERS_FRACTAL_2", "FRACTAL_CMD_FRACTAL_2")
        granted = f"ALL=({names[0]}) NOPASSWD: {names[1]}"
        assert granted in sudoers.render("fractal.2", ["anna"], COMMANDS, names=names)


class TestSetWarnings:
    def test_warns_of_recorded_input(self):
        assert "lands in sudo's I/O log" in sudoers.set_warnings({"/etc/sudoers": "Defaults log_input\n"})[0]

    def test_warns_of_requiretty(self):
        assert "requiretty" in sudoers.set_warnings({"/etc/sudoers": "Defaults    requiretty\n"})[0]

    def test_counts_negations(self):
        files = {"/etc/sudoers": "Defaults !!requiretty\nDefaults ! log_input\n"}
        assert len(sudoers.set_warnings(files)) == 1

    def test_says_nothing_where_it_is_off(self):
        assert sudoers.set_warnings({"/etc/sudoers": "Defaults !log_input, !requiretty\nDefaults log_output\n"}) == []


class TestParseSudoVersion:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Sudo version 1.9.13p3\nConfigure options: x\n", (1, 9, 13)),
            ("Sudo version 1.9.5p2\n", (1, 9, 5)),
            ("sudo-rs 0.2.5\n", None),
            ("", None),
        ],
    )
    def test_knows_the_original_sudo_only(self, text, expected):
        assert sudoers.parse_sudo_version(text) == expected


class TestSudoersSet:
    @pytest.fixture
    def etc(self, tmp_path):
        (tmp_path / "sudoers").write_text("Defaults env_reset\n@includedir sudoers.d\n")
        (tmp_path / "sudoers.d").mkdir()
        (tmp_path / "sudoers.d" / "20-b").write_text("b ALL=(ALL) ALL\n")
        (tmp_path / "sudoers.d" / "10-a").write_text("a ALL=(ALL) ALL\n")
        (tmp_path / "sudoers.d" / "ignored.bak").write_text("nonsense\n")
        (tmp_path / "sudoers.d" / "ignored~").write_text("nonsense\n")
        return tmp_path

    def names(self, files, etc):
        return [os.path.relpath(path, etc) for path in files.files]

    def load(self, etc, overrides=None):
        return sudoers.SudoersSet(str(etc / "sudoers"), "node1.example.org", overrides)

    def test_reads_in_sudos_order_and_leaves_out_what_sudo_ignores(self, etc):
        assert self.names(self.load(etc), etc) == ["sudoers", "sudoers.d/10-a", "sudoers.d/20-b"]

    def test_puts_a_candidate_in_its_place(self, etc):
        candidate = str(etc / "sudoers.d" / "15-new")
        files = self.load(etc, {candidate: "new\n"})
        assert self.names(files, etc) == ["sudoers", "sudoers.d/10-a", "sudoers.d/15-new", "sudoers.d/20-b"]
        assert files.files[candidate] == "new\n"

    def test_takes_a_file_away(self, etc):
        files = self.load(etc, {str(etc / "sudoers.d" / "10-a"): None})
        assert self.names(files, etc) == ["sudoers", "sudoers.d/20-b"]

    @pytest.mark.parametrize(
        "directive",
        ["#include extra", "@include extra", '@include "extra"', "  @include  extra  ", "@include {etc}/extra"],
    )
    def test_follows_every_form_of_include(self, etc, directive):
        (etc / "extra").write_text("extra ALL=(ALL) ALL\n")
        (etc / "sudoers").write_text(directive.replace("{etc}", str(etc)) + "\n")
        assert self.names(self.load(etc), etc) == ["sudoers", "extra"]

    def test_replaces_the_hosts_name(self, etc):
        (etc / "sudoers.node1").write_text("")
        (etc / "sudoers").write_text("@include sudoers.%h\n")
        assert self.names(self.load(etc), etc) == ["sudoers", "sudoers.node1"]

    def test_reads_a_path_with_a_blank(self, etc):
        (etc / "a b").write_text("")
        (etc / "sudoers").write_text("@include a\\ b\n")
        assert self.names(self.load(etc), etc) == ["sudoers", "a b"]

    def test_takes_no_comment_for_an_include(self, etc):
        (etc / "sudoers").write_text("# include extra\n#included\n")
        assert self.names(self.load(etc), etc) == ["sudoers"]

    def test_ends_where_files_include_each_other(self, etc):
        (etc / "sudoers").write_text("@include other\n")
        (etc / "other").write_text("@include sudoers\n")
        assert self.names(self.load(etc), etc) == ["sudoers", "other"]

    def test_the_copy_is_the_same_set(self, etc, tmp_path_factory):
        target = tmp_path_factory.mktemp("copy")
        main, originals = self.load(etc).write_copy(str(target))
        copied = sudoers.SudoersSet(main, "node1")
        assert [originals[path] for path in copied.files] == list(self.load(etc).files)

    def test_keeps_line_numbers_in_the_copy(self, etc, tmp_path_factory):
        target = tmp_path_factory.mktemp("copy")
        main, _originals = self.load(etc).write_copy(str(target))
        with open(main, encoding="utf-8") as stream:
            assert len(stream.read().splitlines()) == 2

    @pytest.mark.parametrize("name", ["sudoers.d/15-pipe", "pipe"])
    def test_a_pipe_is_no_file(self, etc, name):
        os.mkfifo(etc / name)
        (etc / "sudoers.d" / "16-folder").mkdir()
        (etc / "sudoers").write_text("@include pipe\n@includedir sudoers.d\n")
        assert self.names(self.load(etc), etc) == ["sudoers", "sudoers.d/10-a", "sudoers.d/20-b"]

    @pytest.mark.parametrize(
        "text",
        [
            "@includedir sudoers.d # drop-ins\n",
            "@includedir \\\nsudoers.d\n",
            "# wiki \\\n@includedir sudoers.d\n",
            '@includedir"sudoers.d"# drop-ins\n',
            "@includedir sudoers.d\r\n#includedir gone\n",
            " #include gone\n@includedir sudoers.d\n @include /a\\ b\n",
        ],
    )
    @pytest.mark.skipif(not all(samples.TOOLS), reason="sudo is not here")
    def test_sudo_reads_the_same_set_and_the_same_copy(self, etc, text, tmp_path_factory):
        (etc / "sudoers").write_text(text, newline="")
        target = tmp_path_factory.mktemp("copy")
        files = self.load(etc)
        main, originals = files.write_copy(str(target))
        for path, names in ((etc / "sudoers", {}), (main, originals)):
            said = subprocess.run([samples.TOOLS[0], "-c", "-f", path], capture_output=True, text=True, check=False)
            read = [line.rpartition(": ")[0] for line in said.stdout.splitlines()]
            if "/a" not in text:  # visudo refuses what is not there, by either name
                assert [names.get(file, file) for file in read] == list(files.files), said.stderr
        assert sudoers.read_otherwise(said.stdout, main, originals) is None

    def test_says_where_sudo_reads_otherwise(self):
        originals = {"/t/file0": "/etc/sudoers", __file__: "/etc/sudoers.d/a"}
        known = "/t/file0: parsed OK\n"
        assert sudoers.read_otherwise(known, "/t/file0", originals) is None  # sudo-rs names no other file
        other = known + "/etc/other: parsed OK\n"
        assert "sudo reads /etc/other, too" in sudoers.read_otherwise(other, "/t/file0", originals)
        both = known + "/t/folder0/x: parsed OK\n"
        assert "sudo does not read /etc/sudoers.d/a" in sudoers.read_otherwise(
            both, "/t/file0", {**originals, "/t/folder0/x": "/etc/sudoers.d/x"}
        )

    def test_names_the_real_files_in_messages(self):
        message = sudoers.name_originals(
            "/t/file1: syntax error; /t/file10: other", {"/t/file1": "/a", "/t/file10": "/b"}
        )
        assert message == "/a: syntax error; /b: other"


class TestEmptyGroups:
    def test_are_named_where_all_members_can_be_listed(self):
        (warning,) = sudoers.empty_groups(["anna", "%lab", "%empty", "%empty", "%gone"], Accounts())
        assert warning.startswith("group empty: nobody is in it on this host")
        assert sudoers.empty_groups(["%empty"], Accounts(listable=False)) == []


class TestNotFound:
    def test_says_where_it_was_looked_for(self, monkeypatch):
        monkeypatch.setenv("PATH", "/a:/b")
        words = sudoers.not_found("sudo", ("/sbin", "/a"))
        assert words.startswith("sudo is not there: looked in /a, /b, /sbin: install it, or add its folder to the PATH")
