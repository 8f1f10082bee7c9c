# SPDX-License-Identifier: GPL-3.0-or-later
"""Our reader of sudoers files agrees with sudo's own parser, on a recorded corpus and on texts made by chance."""

from __future__ import annotations

import json
import os
import random

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import sudoers_reader
from ansible_collections.fractal.slurm.tests.unit.plugins.module_utils import sudoers_samples as samples

# How many texts are tried against this machine's visudo and cvtsudoers.
NUMBER = int(os.environ.get("FRACTAL_TEST_SUDOERS_TEXTS", "200"))


def kinds(text):
    return [(statement.kind, statement.line) for statement in sudoers_reader.read(text)]


def aliases(text):
    return [statement.value.name for statement in sudoers_reader.read(text) if statement.kind == "alias"]


def includes(text):
    return [
        (statement.kind, statement.value.path, text[slice(*statement.span)])
        for statement in sudoers_reader.read(text)
        if statement.kind.startswith("include")
    ]


@pytest.mark.parametrize("entry", json.loads(samples.CORPUS.read_text(encoding="utf-8")), ids=lambda entry: "text")
def test_agrees_with_what_sudo_was_seen_to_read(entry):
    assert samples.our_reading(sudoers_reader.read(entry["text"])) == entry["sudo"], entry["text"]


@pytest.mark.skipif(not all(samples.TOOLS), reason="visudo and cvtsudoers are needed")
def test_agrees_with_the_sudo_of_this_machine():
    # The same on every run, so that a red test means a change; a search tries other seeds.
    seed = int(os.environ.get("FRACTAL_TEST_SUDOERS_SEED", "1"))
    chance = random.Random(seed)  # noqa: S311
    compared = 0
    for _text in range(NUMBER):
        text = samples.text_by_chance(chance)
        sudos = samples.sudos_reading(text)
        if sudos is not None:
            compared += 1
            assert samples.our_reading(sudoers_reader.read(text)) == sudos, (seed, text)
    assert compared > NUMBER / 10


def test_a_command_of_defaults_is_read_as_a_word():
    text = "Defaults!/bin/a\\ b, /bin/a\\#b noexec\n"
    (statement,) = sudoers_reader.read(text)
    assert [member.text for member in statement.value.members] == ["/bin/a b", "/bin/a#b"]


class TestComments:
    def test_a_backslash_does_not_continue_a_comment(self):
        assert aliases("# wiki \\\nRunas_Alias X = ALL\n") == ["X"]
        assert includes("# x \\\n@includedir /d\n") == [("includedir", "/d", "/d")]

    def test_a_number_behind_the_sign_is_a_uid(self):
        assert aliases("Runas_Alias A = #-1 : B = #5, root # a comment : C = root\n") == ["A", "B"]

    def test_quotes_hold_it(self):
        assert aliases('Runas_Alias A = "a#b" : B = ALL\n') == ["A", "B"]
        (statement,) = sudoers_reader.read('Defaults passprompt="a#b", log_input\n')
        assert statement.value.options == [("passprompt", "=", "a#b"), ("log_input", "", None)]

    def test_quotes_in_arguments_do_not(self):
        (statement,) = sudoers_reader.read('u ALL = /bin/echo "a#b", /bin/sh\n')
        assert [grant.command.text for grant in statement.value.grants] == ['/bin/echo "a']


class TestIncludes:
    @pytest.mark.parametrize(
        ("text", "path", "written"),
        [
            ("@includedir /d # drop-ins\n", "/d", "/d"),
            ("#includedir /d\n", "/d", "/d"),
            ("  @includedir\t/d\n", "/d", "/d"),
            ("@includedir \\\n/d\n", "/d", "/d"),
            ('@includedir"/d"\n', "/d", '"/d"'),
            ('@includedir "/a b" \n', "/a b", '"/a b"'),
            ("@includedir /a\\ b\n", "/a b", "/a\\ b"),
            ("@includedir /a#b\n", "/a#b", "/a#b"),
            ("@includedir /d\r\n", "/d", "/d"),
            ("@includedir /d", "/d", "/d"),
        ],
    )
    def test_reads_every_form(self, text, path, written):
        assert includes(text) == [("includedir", path, written)]

    @pytest.mark.parametrize(
        "text",
        [
            " #includedir /d\n",
            "#includedir\n",
            "# includedir /d\n",
            "#included /d\n",
            "@include/d\n",
            "u ALL=\\\n#include x\n",
        ],
    )
    def test_takes_nothing_else_for_one(self, text):
        assert includes(text) == []


class TestWhatIsBehindANul:
    def test_is_no_part_of_its_line(self):
        text = "User_Alias A = a\0, b : B = c\nCmnd_Alias C = /bin/ls \\\0x\n  -l\n# c\0\nHost_Alias D = h\n"
        found = {found.value.name: found.value.members for found in sudoers_reader.read(text)}
        assert {name: [member.text for member in members] for name, members in found.items()} == {
            "A": ["a"],
            "C": ["/bin/ls -l"],
            "D": ["h"],
        }

    def test_leaves_the_places_of_includes_as_they_are(self):
        text = "# \0 comment\n@include a\0 b\n@include c\n"
        assert includes(text) == [("include", "a", "a"), ("include", "c", "c")]


class TestNumbers:
    def test_are_as_sudo_counts_them(self):
        (statement,) = sudoers_reader.read("User_Alias A = #0005, %#027, #-2, #-1, %#0, #99999999999, a5\n")
        texts = [member.text for member in statement.value.members]
        assert texts == ["#5", "%#27", "#4294967294", "#-1", "%#0", "#99999999999", "a5"]


class TestStatements:
    @pytest.mark.parametrize("text", [" Runas_AliasX = ALL\n", "Cmd_Alias X=/bin/ls", "\tHost_Alias\\\nX = h\n"])
    def test_reads_every_form_of_an_alias(self, text):
        assert aliases(text) == ["X"]

    @pytest.mark.parametrize(
        "text", ["Runas_AliasX = ALL\n", "u ALL=\\\nRunas_Alias X = ALL\n", "x Runas_Alias X = ALL"]
    )
    def test_takes_nothing_else_for_one(self, text):
        assert aliases(text) == []

    @pytest.mark.parametrize(
        ("text", "operator"), [("!!requiretty", ""), ("! requiretty", "!"), ("!!!requiretty", "!"), ("requiretty", "")]
    )
    def test_counts_negations(self, text, operator):
        (statement,) = sudoers_reader.read(f"Defaults {text}\n")
        assert statement.value.options == [("requiretty", operator, None)]

    def test_goes_on_behind_what_it_can_not_read(self):
        assert kinds("root ALL=ALL\n(((\nDefaults x\n\\") == [
            ("rule", 1),
            ("unread", 2),
            ("defaults", 3),
            ("unread", 4),
        ]

    def test_only_a_line_break_ends_a_line(self):
        assert kinds("# a\x0bu ALL=ALL\x0c\u2028\x85\nDefaults x\n") == [("defaults", 2)]

    def test_names_keep_one_backslash(self):
        for text in ("DOM\\\\user", '"DOM\\user"'):
            (statement,) = sudoers_reader.read(f"Runas_Alias A = {text}\n")
            assert [member.text for member in statement.value.members] == ["DOM\\user"]

    def test_a_long_file_is_read_soon(self):
        assert len(sudoers_reader.read("u ALL = (root) NOPASSWD: /bin/ls a b c, /bin/cat\n" * 5000)) == 5000


class TestAliasesOfJson:
    def test_reads_names_of_every_kind(self):
        text = '{"Defaults": [], "Runas_Aliases": {"A": []}, "Command_Aliases": {"B": []}, "User_Specs": []}'
        assert sudoers_reader.aliases_of_json(text) == {"A", "B"}

    @pytest.mark.parametrize("text", ["", "nonsense", "[]", "7", '{"Runas_Aliases": []}', "[" * 100_000])
    def test_reads_whatever_else_comes(self, text):
        assert sudoers_reader.aliases_of_json(text) == set()
