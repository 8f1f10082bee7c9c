# SPDX-License-Identifier: GPL-3.0-or-later
"""What sudoers files say of the service account: settings that matter, and rights that this role did not give."""

from __future__ import annotations

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import sudoers_rights as rights

FRACTAL = rights.Subject("fractal", 990, ("fractal", "Apps"), (990, 2000), "node1.example.org")
COMMANDS = ("/usr/bin/sbatch", "/usr/bin/cat")


def warnings(text, subject=FRACTAL):
    return rights.set_warnings({"/etc/sudoers": text}, subject)


class TestWarnings:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("Defaults noexec", "1: noexec: sudo puts a library into LD_PRELOAD"),
            ("Defaults:fractal noexec", "Defaults:fractal !noexec"),
            ("User_Alias APPS = %apps\nDefaults:APPS noexec", ":2: noexec"),
            ("Defaults@node1 noexec", "noexec"),
            ("Defaults@10.0.0.0/8 noexec", "noexec"),
            ("Defaults>anna noexec", "noexec"),
            ("Defaults!/usr/bin/sbatch noexec", "noexec"),
            ("Cmnd_Alias C = /bin/ls, /bin/cat\nDefaults!C noexec", ":2: noexec"),
            ("Defaults intercept", "intercept: sudo puts a library"),
            ("Defaults !env_reset", "!env_reset: whoever holds the service account"),
            ("Defaults setenv", "setenv: fractal may set any variable"),
            ('Defaults env_keep += "LANG SLURM_CONF"', "env_keep lets SLURM_CONF through"),
            ('Defaults env_keep = "LD_PRELOAD"', "env_keep lets LD_PRELOAD through"),
            ("Defaults:%#2000 env_keep += SBATCH_*", "env_keep lets SBATCH_* through"),
            ("Defaults umask = 0077", "umask=0077: sudo sets this for the commands, and sbatch hands it on"),
            ("Defaults rlimit_nofile = 100", "rlimit_nofile=100"),
            ("fractal ALL=(anna) SETENV: NOPASSWD: /bin/ls", "SETENV: fractal may set any variable"),
            ("Defaults log_input", "lands in sudo's I/O log"),
            ("Defaults requiretty", "Defaults:fractal !requiretty"),
        ],
    )
    def test_names_what_reaches_the_jobs(self, text, words):
        (found,) = warnings(text + "\n")
        assert found.startswith("/etc/sudoers:")
        assert words in found

    @pytest.mark.parametrize(
        "text",
        [
            "Defaults !noexec",
            "Defaults noexec\nDefaults:fractal !noexec",
            "Defaults:fractal !noexec\nDefaults noexec\nDefaults:%apps !noexec",
            "Defaults:anna noexec",
            "Defaults:%admins noexec",
            "Defaults:ALL,!fractal noexec",
            "Defaults@other noexec",
            "Defaults>root noexec",
            "Defaults!/bin/less noexec",
            "Defaults env_reset, !setenv",
            'Defaults env_keep += "LANG LC_ALL EDITOR"',
            "Defaults env_keep += SLURM_CONF\nDefaults:fractal env_keep -= SLURM_CONF",
            'Defaults env_keep += SLURM_CONF\nDefaults env_keep = "LANG"',
            "Defaults umask=0022",
            "anna ALL=(ALL) SETENV: ALL",
            "# Defaults noexec",
        ],
    )
    def test_says_nothing_of_the_rest(self, text):
        assert warnings(text + "\n") == []

    def test_settings_for_whom_they_act_as_come_after_those_for_who_acts(self):
        assert warnings("Defaults>anna noexec\nDefaults:fractal !noexec\n")
        assert not warnings("Defaults>anna !noexec\nDefaults:fractal noexec\n")


def foreign(text, subject=FRACTAL):
    files = {"/own": "fractal ALL=(anna) NOPASSWD: /usr/bin/sbatch\n", "/etc/sudoers": text}
    return rights.foreign_warnings(rights.Rules(files), subject, "/own")


class TestForeignRights:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("fractal ALL=(anna,ben) NOPASSWD: /usr/bin/sbatch", ":1: gives fractal rights"),
            ("#990 ALL=ALL", "(root) ALL"),
            ("%apps ALL=(ALL:ALL) NOPASSWD: ALL", "(ALL : ALL) NOPASSWD: ALL"),
            ("%#2000 ALL=(ALL) ALL", "(ALL) ALL"),
            ("ALL ALL=(ALL) ALL", "(ALL) ALL"),
            ("User_Alias U = x, fractal\nCmnd_Alias C = /bin/sh\n\nU ALL=(ben) C", ":4: gives fractal"),
            ("Runas_Alias R = ben, !root\nfractal ALL=(R) /bin/sh", "that this role did not: (ben, !root) /bin/sh;"),
            ("fractal node1.site.org=(ben) /bin/sh", "(ben) /bin/sh"),
            ("fractal node1, other=(ben) /bin/sh", "(ben) /bin/sh"),
            ("root h=ALL\nanna,fractal ALL=/bin/a, (ben) /bin/b", "(root) /bin/a; (ben) /bin/b"),
        ],
    )  # fmt: skip
    def test_names_them_with_file_and_line(self, text, words):
        (found,) = foreign(text + "\n")
        assert found.startswith("/etc/sudoers:")
        assert words in found

    @pytest.mark.parametrize(
        "text",
        [
            "anna ALL=(ALL) ALL",
            "%sudo ALL=(ALL) ALL",
            "ALL, !fractal ALL=(ALL) ALL",
            "fractal other=(ALL) ALL",
            "User_Alias U = ALL, !V : V = fractal\nU ALL=(ALL) ALL",
            "+net ALL=(ALL) ALL",
            "fractal ALL=(ALL) !/bin/sh",
        ],
    )
    def test_says_nothing_of_others_rights(self, text):
        assert foreign(text + "\n") == []

    def test_ends_where_aliases_stand_for_each_other(self):
        assert foreign("User_Alias A = B : B = A\nA ALL=(ALL) ALL\n") == []


class TestAsked:
    @pytest.fixture
    def asked(self):
        members = {"lab": ("anna", "ben"), "all": ("anna", "eve"), "none": ()}.get
        users = [("anna", 1001), ("ben", 1002)]
        return rights.Asked(["anna", "%lab"], users, members, COMMANDS, "fractal", ["/bin/systemctl restart x"])

    def covered(self, asked, text):
        found = rights.rights(rights.Rules({"/f": f"fractal ALL={text}\n"}), FRACTAL)
        return all(asked.covers_right(right) for right in found)

    @pytest.mark.parametrize(
        "text",
        [
            "(anna) /usr/bin/sbatch",
            "(anna, %lab, !root) NOPASSWD: /usr/bin/sbatch --parsable, /usr/bin/cat",
            "(#1002) /usr/bin/cat",
            "(fractal) /usr/bin/cat",
            "/bin/systemctl restart x",
            "(anna) !/bin/sh",
        ],
    )
    def test_covers_what_was_asked_for(self, asked, text):
        assert self.covered(asked, text)

    @pytest.mark.parametrize(
        "text",
        [
            "/usr/bin/sbatch",
            "(ALL) /usr/bin/sbatch",
            "(ALL, !root) /usr/bin/sbatch",
            "(eve) /usr/bin/sbatch",
            "(%all) /usr/bin/sbatch",
            "(%none) /usr/bin/sbatch",
            "(%gone) /usr/bin/sbatch",
            "(#1003) /usr/bin/sbatch",
            "(anna : docker) /usr/bin/sbatch",
            "(anna) ALL",
            "(anna) /usr/bin/",
            "(anna) /usr/bin/*",
            "(anna) sudoedit /etc/x",
            "(anna) /usr/bin/sbatch, /bin/sh",
            "/bin/systemctl restart y",
        ],
    )
    def test_does_not_cover_more(self, asked, text):
        assert not self.covered(asked, text)
