# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of sudo, what is tried, and how an answer is read. Nothing here runs sudo."""

from __future__ import annotations

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import impersonation
from ansible_collections.fractal.slurm.plugins.module_utils.commands import Answer

UNRESOLVED = "sudo: unable to resolve host node1: Name or service not known"


class TestWasRefused:
    def test_a_refusal_prints_nothing_and_ends_with_1(self):
        assert impersonation.was_refused(Answer(1, "", "sudo: a password is required")) is True

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(0, "", ""),
            Answer(0, "it ran\n", UNRESOLVED),
            Answer(1, "it ran\n", UNRESOLVED),
            Answer(3, "cat (GNU coreutils) 9.1\n", "sudo: something"),
        ],
    )
    def test_what_ran_is_never_a_refusal(self, answer):
        assert impersonation.was_refused(answer) is False

    @pytest.mark.parametrize("answer", [Answer(124, "", UNRESOLVED), Answer(127, "", ""), Answer(-9, "", "sudo: x")])
    def test_what_gave_no_answer_is_none_either(self, answer):
        assert impersonation.was_refused(answer) is None

    def test_says_sudos_reason(self):
        answer = Answer(1, "", "sudo: a password is required\n" + UNRESOLVED)
        assert impersonation.sudos_words(answer) == "sudo: a password is required"
        assert impersonation.sudos_words(Answer(1, "", UNRESOLVED)) == UNRESOLVED
        assert impersonation.sudos_words(Answer(1, "", "")) == "sudo said nothing"


class TestHarmless:
    def test_the_commands_print_their_version(self):
        for name in impersonation.COMMANDS:
            assert impersonation.harmless([f"/opt/slurm/bin/{name}", "-p", "x"]) == [
                f"/opt/slurm/bin/{name}",
                "--version",
            ]

    def test_nothing_is_written_and_no_command_of_the_sites_is_tried(self):
        assert impersonation.harmless(["/usr/bin/tee", "/etc/passwd"]) == ["/usr/bin/tee"]
        assert impersonation.harmless(["/usr/bin/tee", "/etc/group"]) is None
        assert impersonation.harmless(["/sbin/reboot"]) is None
        assert impersonation.harmless(["/bin/sh", "-c", "rm -rf /"]) is None


class Rights(impersonation.Rights):
    """Rights whose sudo is a dict of answers; what is run as the service account is kept."""

    def __init__(self, allowed):
        self._params = {"service_user": "fractal"}
        self._sudo = "sudo"
        self._allowed = allowed
        self.matrix, self.surprises, self.asked = [], [], []

    def _ask(self, user, line):
        self.asked.append(line)
        return Answer(0 if self._allowed(line) else 1, "", "")


class TestAttempt:
    @pytest.fixture
    def ran(self, monkeypatch):
        commands = []

        def run(argv, **_options):
            commands.append(argv)
            return Answer(1, "", "sudo: a password is required")

        monkeypatch.setattr(impersonation, "run", run)
        return commands

    def attempt(self, rights, line, expected=False):
        rights.judge("root", line, expected, rights._ask("root", line), None)
        return rights.attempt(rights.matrix[-1])

    @pytest.mark.parametrize("line", impersonation.REFUSED_COMMANDS)
    def test_never_runs_what_sudo_allows(self, ran, line):
        assert self.attempt(Rights(lambda _line: True), line) is None
        assert ran == []

    def test_never_runs_a_form_that_sudo_allows(self, ran):
        assert self.attempt(Rights(lambda line: line == ["/usr/bin/tee"]), ["/usr/bin/tee", "/etc/passwd"]) is None
        assert ran == []

    def test_never_runs_the_sites_own_commands(self, ran):
        assert self.attempt(Rights(lambda _line: False), ["/sbin/poweroff"]) is None
        assert ran == []

    def test_tries_the_harmless_form_of_what_is_refused(self, ran):
        found = self.attempt(Rights(lambda _line: False), ["/usr/bin/tee", "/etc/passwd"])
        assert found == (True, "sudo: a password is required")
        assert ran == [["sudo", "-n", "-u", "root", "--", "/usr/bin/tee"]]


def test_no_answer_is_a_surprise_and_nothing_is_tried():
    rights = Rights(lambda _line: False)
    rights.judge("root", ["/usr/bin/env"], False, Answer(124, "", "no answer within 60 seconds"), None)
    assert rights.surprises == [
        "sudo gave no answer whether fractal may run /usr/bin/env as root: no answer within 60 seconds"
    ]
    assert rights.attempt(rights.matrix[0]) is None
