# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``sudo -ll`` prints, recorded from two versions."""

from __future__ import annotations

from ansible_collections.fractal.slurm.plugins.module_utils.sudo_listing import deciding_rule, parse_listing

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


class TestDecidingRule:
    def test_names_the_last_rule_with_the_command(self):
        assert deciding_rule(parse_listing(SUDO_1_9_13), "/usr/bin/cat") == "(root) /usr/bin/cat /var/log/fractal"

    def test_names_the_file(self):
        rule = deciding_rule(parse_listing(SUDO_1_9_16), "/usr/bin/sbatch")
        assert rule == "(anna) /usr/bin/sbatch in /etc/sudoers.d/fractal-slurm"

    def test_is_none_where_nothing_grants_it(self):
        assert deciding_rule(parse_listing(SUDO_1_9_13), "/bin/sh") is None
