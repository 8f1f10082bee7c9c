# SPDX-License-Identifier: GPL-3.0-or-later
import re

import pytest
from fractal_slurm.errors import FractalSlurmError
from fractal_slurm.sudo_rules import (
    COMMANDS,
    check_form,
    check_path,
    check_user_name,
    hardened_arguments,
    question,
    rules_beyond,
)
from hypothesis import given
from hypothesis import strategies as st
from samples import outcome

names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,6}", fullmatch=True)
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


def allows(command, arguments, bases=("/home/ann/work", "/scratch")):
    """Whether a hardened rule lets a command run: sudo joins its arguments with blanks and matches the whole."""
    joined = " ".join(arguments)
    patterns = hardened_arguments(bases)[command]
    return any(re.search(p, joined) is not None if p.startswith("^") else p == joined for p in patterns)


class TestHardenedArguments:
    def test_covers_the_five_commands_and_no_other(self):
        assert COMMANDS == ("sbatch", "scancel", "cat", "ls", "mkdir")
        assert set(hardened_arguments(["/work"])) == set(COMMANDS)

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("sbatch", ["--parsable"]),
            ("scancel", ["1"]),
            ("scancel", ["1", "22", "333"]),
            ("cat", ["--", "/home/ann/work/run/results-0-0"]),
            ("cat", ["--", "/home/ann/work/a", "/scratch/b/c.json"]),
            ("ls", ["--", "/scratch/run"]),
            ("cat", ["--", "/scratch/ann@site.org/run+1/results-0-0"]),
            ("mkdir", ["-p", "-m", "700", "--", "/scratch/run"]),
            ("mkdir", ["-p", "-m", "700", "--", "/scratch"]),
            ("mkdir", ["-m", "700", "--", "/scratch/run"]),
            ("mkdir", ["--", "/scratch/run/token.claim", "/scratch/run/token.claim.stop"]),
        ],
    )
    def test_allows_the_forms_that_the_runtime_uses(self, command, arguments):
        assert allows(command, arguments)

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("sbatch", []),
            ("sbatch", ["--parsable", "--wrap=id"]),
            ("sbatch", ["--parsable", "/home/ann/x.sh"]),
            ("sbatch", ["--parsable\n"]),
            ("scancel", []),
            ("scancel", ["--user=ann"]),
            ("scancel", ["1", "-u", "ann"]),
            ("scancel", ["1_2"]),
            ("scancel", ["1\n2"]),
            ("scancel", ["12345678901"]),
            ("cat", ["/home/ann/work/x"]),
            ("cat", ["--", "/etc/shadow"]),
            ("cat", ["--", "/home/ann/work"]),
            ("cat", ["--", "/home/ann/workx/y"]),
            ("cat", ["--", "/home/ann/work/../.ssh/id_rsa"]),
            ("cat", ["--", "/home/ann/work/.hidden"]),
            ("cat", ["--", "/home/ann/work/.fractal_cache2/x"]),
            ("cat", ["--", "/home/ann/work/.ssh/.fractal_cache"]),
            ("cat", ["--", "/home/ann/work/a/.."]),
            ("cat", ["--", "/home/ann/work//x"]),
            ("cat", ["--", "/home/ann/work/x/"]),
            ("cat", ["--", "/home/ann/work/x", "/etc/shadow"]),
            ("cat", ["--", "/home/ann/work/x /etc/shadow"]),
            ("cat", ["--", "/home/ann/work/x\n/etc/shadow"]),
            ("cat", ["--", "/home/ann/work/-n"]),
            ("cat", ["--", "/homeXann/work/x"]),
            ("cat", ["--"]),
            ("ls", ["-l", "--", "/scratch/x"]),
            ("ls", ["--", "/"]),
            ("mkdir", ["-p", "-m", "777", "--", "/scratch/x"]),
            ("mkdir", ["-m", "4777", "--", "/scratch/x"]),
            ("mkdir", ["-p", "--", "/scratch/x"]),
            ("mkdir", ["-m", "700", "--", "/scratch"]),
            ("mkdir", ["--", "/scratch"]),
            ("mkdir", ["-p", "-m", "700", "--", "/scratchx"]),
            ("mkdir", ["-p", "-m", "700", "--", "/"]),
            ("mkdir", ["-m", "777", "--", "/scratch/x"]),
            ("mkdir", ["-m", "700", "-p", "--", "/scratch/x"]),
        ],
    )
    def test_allows_nothing_else(self, command, arguments):
        assert not allows(command, arguments)

    @given(st.lists(paths, min_size=1, max_size=3), st.lists(paths, min_size=1, max_size=3))
    def test_allows_plain_paths_below_any_base(self, bases, below):
        assert allows("cat", ["--", *(base + path for base in bases for path in below)], bases)

    @given(st.lists(st.text(max_size=12) | paths, max_size=3))
    def test_keeps_cat_below_the_bases_whatever_the_arguments(self, arguments):
        if allows("cat", arguments):
            assert arguments[0] == "--"
            words = " ".join(arguments[1:]).split(" ")
            assert all(re.match("/(home/ann/work|scratch)/", word) and "/." not in word for word in words)

    @pytest.mark.parametrize(
        "base", ["", "/", "work", "/a b", "/a/../b", "/a/.b", "/a$", "/a*", "/(a|b)", "/a\nb", "/-a"]
    )
    def test_refuses_a_work_folder_that_is_no_plain_path(self, base):
        with pytest.raises(FractalSlurmError, match="the work folder"):
            hardened_arguments([base])

    def test_knows_the_folder_of_fractal_server_though_its_name_begins_with_a_dot(self):
        assert allows("ls", ["--", "/home/ann/work/p/.fractal_cache/x"])
        assert allows("mkdir", ["-m", "700", "--", "/data/ann/.fractal_cache/run"], ["/data/ann/.fractal_cache"])
        assert not allows("cat", ["--", "/data/ann/.fractal_cache"], ["/data/ann/.fractal_cache"])
        assert not allows("cat", ["--", "/data/ann/Xfractal_cache/x"], ["/data/ann/.fractal_cache"])

    def test_takes_a_dot_in_a_base_for_a_dot(self):
        assert allows("ls", ["--", "/a.b-c/x"], ["/a.b-c"])
        assert not allows("ls", ["--", "/aXb-c/x"], ["/a.b-c"])


class TestCheckForm:
    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("sbatch", ["--parsable"]),
            ("scancel", ["1", "22"]),
            ("cat", ["--", "/work/ann/run/results-0-0"]),
            ("mkdir", ["-p", "-m", "700", "--", "/work"]),
            ("mkdir", ["-m", "700", "--", "/work/run"]),
            ("mkdir", ["--", "/work/run/a", "/work/run/b"]),
        ],
    )
    def test_takes_our_forms_and_hardened_rules_do_too(self, command, arguments):
        check_form(command, arguments)
        assert allows(command, arguments, ["/work"])

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            ("sbatch", []),
            ("sbatch", ["--parsable", "--wrap=id"]),
            ("scancel", []),
            ("scancel", ["--user=ann"]),
            ("scancel", ["1_2"]),
            ("cat", ["/work/x"]),
            ("cat", ["--"]),
            ("cat", ["--", "/work/../etc/shadow"]),
            ("cat", ["--", "/work/a b"]),
            ("ls", ["-l", "--", "/work"]),
            ("mkdir", ["-m", "777", "--", "/work/x"]),
            ("mkdir", ["-p", "--", "/work/x"]),
            ("id", []),
        ],
    )
    def test_refuses_all_else(self, command, arguments):
        with pytest.raises(FractalSlurmError, match="can't be run as another user: its forms are "):
            check_form(command, arguments)

    @given(st.sampled_from(COMMANDS), st.lists(st.text(max_size=6) | paths | st.sampled_from(["--", "-m", "700", "1"])))
    def test_takes_nothing_below_a_base_that_hardened_rules_refuse(self, command, arguments):
        _none, messages = outcome(check_form, command, arguments)
        below = [f"/work{word}" if word.startswith("/") else word for word in arguments]
        if not messages:
            assert allows(command, below, ["/work"])

    def test_every_command_can_be_asked_about(self):
        assert {command: question(command) for command in COMMANDS} == {
            "sbatch": ["--parsable"], "scancel": ["1"], "cat": [], "ls": [], "mkdir": []
        }  # fmt: skip


class TestCheckUserName:
    @pytest.mark.parametrize(
        "name",
        ["ann", "_svc", "ann.lee-2", "Ann", "host$", "ann@site.org", "SITE\\ann", "S+ann", "1ann", "ANN", "a" * 255],
    )
    def test_takes_names_of_users(self, name):
        assert check_user_name(name) == name

    @pytest.mark.parametrize(
        "name",
        ["", "root", "#0", "#1000", "-u", "ann lee", "ann\n", "ann\0", "a;b", "%group", "a/b", "0", "ALL,b", "!ann"],
    )
    def test_refuses_what_sudo_reads_otherwise(self, name):
        with pytest.raises(FractalSlurmError, match="as a user to impersonate"):
            check_user_name(name)

    @pytest.mark.parametrize(
        "name", ["a" * 256, "é", ".ann", "$ann", "ann$x", "SITE\\\\ann", "ann\\", "\\ann", "7", "ALL", "a'b"]
    )
    def test_refuses_what_is_no_users_name(self, name):
        with pytest.raises(FractalSlurmError, match="as a user to impersonate"):
            check_user_name(name)


class TestCheckPath:
    @given(st.text(max_size=16) | paths)
    def test_lets_only_plain_absolute_paths_through(self, text):
        path, messages = outcome(check_path, text, "it")
        if messages:
            assert "\n" not in messages[0]
        else:
            assert re.fullmatch(r"(/[A-Za-z0-9_.@+-]+)+", path)
            assert not any(part.startswith((".", "-")) for part in path.split("/"))


class TestRulesBeyond:
    OURS = "    (anna, %lab, !root) NOPASSWD: /bin/sbatch, /bin/scancel ^[0-9]{1,10}( [0-9]{1,10})*$, /usr/bin/cat\n"
    HEAD = "Matching Defaults entries for svc on h:\n    env_reset, use_pty\n\nUser svc may run the following on h:\n"

    def test_knows_our_own(self):
        assert rules_beyond(self.HEAD + self.OURS) == []
        assert rules_beyond("") == []

    @pytest.mark.parametrize(
        "rule",
        [
            "(ALL : ALL) ALL",
            "(ALL) NOPASSWD: ALL",
            "(root) NOPASSWD: SETENV: /bin/systemctl restart x",
            "(anna) /usr/bin/sbatch, /bin/sh",
            '("a b") /usr/bin/',
        ],
    )
    def test_finds_what_is_more(self, rule):
        assert rules_beyond(f"{self.HEAD}{self.OURS}    {rule}\n") == [rule]

    def test_reads_wrapped_lines(self):
        listing = self.HEAD + "    (anna,\n        ben) NOPASSWD: /usr/bin/cat,\n        /bin/sh\n"
        assert rules_beyond(listing) == ["(anna, ben) NOPASSWD: /usr/bin/cat, /bin/sh"]
