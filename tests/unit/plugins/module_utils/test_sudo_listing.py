# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``sudo -ll`` prints, recorded from two versions."""

from __future__ import annotations

import time

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils.sudo_listing import deciding_rule, parse_listing
from ansible_collections.fractal.slurm.plugins.module_utils.sudoers import User

SUDO_1_9_13 = """\
Matching Defaults entries for fractal on host:
    env_reset, mail_badpass, use_pty

User fractal may run the following commands on host:

Sudoers entry:
    RunAsUsers: anna, %lab, !root, !#0, %!root, %!sudo, %!wheel, %!admin,
        %!docker
    Options: !authenticate
    Commands:
\t/usr/bin/sbatch --parsable
\t/usr/bin/cat ^-- /data$

Sudoers entry:
    RunAsUsers: root
    Commands:
\t/usr/bin/cat /var/log/fractal
"""
SUDO_1_9_16 = """\
User fractal may run the following commands on host:

Sudoers entry: /etc/sudoers.d/fractal-slurm
    RunAsUsers: anna
    Options: !authenticate
    Commands:
\t/usr/bin/sbatch
"""


class TestParseListing:
    def test_reads_rules_in_order(self):
        rules = parse_listing(SUDO_1_9_13)
        assert [rule["commands"] for rule in rules] == [
            ["/usr/bin/sbatch --parsable", "/usr/bin/cat ^-- /data$"],
            ["/usr/bin/cat /var/log/fractal"],
        ]
        assert rules[0]["run_as"].startswith("anna, %lab, !root")
        assert rules[0]["run_as"].endswith("%!admin, %!docker")
        assert rules[0]["options"] == "!authenticate"

    def test_reads_the_file_where_sudo_names_it(self):
        assert parse_listing(SUDO_1_9_16)[0]["source"] == "/etc/sudoers.d/fractal-slurm"

    def test_reads_nothing_from_a_refusal(self):
        assert parse_listing("User nobody is not allowed to run sudo on host.\n") == []


TWO_USERS = """\
Sudoers entry:
    RunAsUsers: anna, %lab, #1005, !root, %!wheel
    Commands:
\t/usr/bin/cat ^--( (/data)(/[a-z.]+)+)+$
\t/usr/bin/ls ""
\t/usr/bin/sbatch --parsable
\t/usr/bin/scancel

Sudoers entry:
    RunAsUsers: eve
    Commands:
\tALL
\t!/usr/bin/scancel
"""


def rule(listing, name, line, groups=(), uid=1001):
    return deciding_rule(parse_listing(listing), User(name, uid, uid), groups, line.split(" "))


class TestDecidingRule:
    def test_takes_the_rule_of_the_user(self):
        assert rule(TWO_USERS, "anna", "/usr/bin/sbatch --parsable").endswith("/usr/bin/sbatch --parsable")
        assert rule(TWO_USERS, "eve", "/usr/bin/sbatch --parsable") == "(eve) ALL"
        assert rule(TWO_USERS, "carl", "/usr/bin/sbatch --parsable") is None

    def test_takes_the_last_rule_that_matches(self):
        assert (
            rule(SUDO_1_9_13, "root", "/usr/bin/cat /var/log/fractal", uid=0) == "(root) /usr/bin/cat /var/log/fractal"
        )
        assert rule(TWO_USERS, "eve", "/usr/bin/scancel 1") is None

    def test_knows_groups_and_uids(self):
        assert rule(TWO_USERS, "ben", "/usr/bin/scancel 1", groups=("lab",))
        assert rule(TWO_USERS, "dora", "/usr/bin/scancel 1", uid=1005)

    def test_the_last_entry_of_a_list_decides(self):
        assert rule(TWO_USERS, "ben", "/usr/bin/scancel 1", groups=("lab", "wheel")) is None
        assert rule(TWO_USERS, "root", "/usr/bin/scancel 1", groups=("lab",), uid=0) is None

    def test_reads_arguments(self):
        assert rule(TWO_USERS, "anna", "/usr/bin/cat -- /data/a /data/b")
        assert rule(TWO_USERS, "anna", "/usr/bin/cat -- /etc/shadow") is None
        assert rule(TWO_USERS, "anna", "/usr/bin/ls")
        assert rule(TWO_USERS, "anna", "/usr/bin/ls /") is None
        assert rule(TWO_USERS, "anna", "/usr/bin/sbatch") is None

    def test_names_the_file(self):
        assert rule(SUDO_1_9_16, "anna", "/usr/bin/sbatch") == "(anna) /usr/bin/sbatch in /etc/sudoers.d/fractal-slurm"

    def test_is_none_where_nothing_grants_it(self):
        assert rule(SUDO_1_9_13, "anna", "/bin/sh") is None


class TestPatterns:
    def listing(self, granted):
        return f"Sudoers entry:\n    RunAsUsers: anna\n    Commands:\n\t{granted}\n"

    @pytest.mark.parametrize(
        "granted",
        [
            "/bin/ls ^a{99999999999}$",  # more than Python counts
            "/bin/ls ^" + "(" * 2000 + "a" + ")" * 2000 + "$",  # deeper than Python follows
            "/bin/ls ^(a+)+$",  # longer than anybody waits
            "/bin/ls ^((a*)*)*$",
            "/bin/ls ^[[:alpha:]]+$",  # other classes than Python's
            "/bin/ls ^" + "a" * 100_000 + "$",
            "^/bin/(l+)+$",
        ],
    )
    def test_what_can_not_be_tried_is_unknown(self, granted):
        line = ["/bin/" + "l" * 200 + "s", "x"] if granted.startswith("^") else ["/bin/ls", "a" * 200 + "!"]
        began = time.monotonic()
        for _attempt in range(3):
            found = deciding_rule(parse_listing(self.listing(granted)), User("anna", 1, 1), (), line)
            assert found.startswith("unknown: a pattern of sudo's rules can't be tried here: ")
            assert len(found) < 300
        assert time.monotonic() - began < 30

    def test_patterns_that_can_be_tried_are(self):
        for granted, arguments, named in [
            ("/bin/ls ^a{2}$", "aa", True),
            ("/bin/ls ^a{2}$", "aaa", False),
            ("/bin/ls a*", "abc", True),
            ("/bin/l? a*", "b", False),
            ("^/bin/(ls|cat)$", "x", True),
        ]:
            found = deciding_rule(parse_listing(self.listing(granted)), User("anna", 1, 1), (), ["/bin/ls", arguments])
            assert (found is not None) is named
