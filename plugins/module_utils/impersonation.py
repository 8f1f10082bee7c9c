# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks sudo whether a service account can do as others what it must, and nothing else. Standard library only."""

from __future__ import annotations

import os

from . import sudo_listing, sudo_rules, sudoers, sudoers_rights
from .commands import run
from .sudo_rules import COMMANDS

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from .commands import Answer

# Who may run one of these may do anything. So they must be refused, whomever they would run as.
REFUSED_COMMANDS = [["/bin/sh", "-c", "id"], ["/usr/bin/env"], ["/usr/bin/python3"], ["/usr/bin/tee", "/etc/passwd"]]
# Forms of these commands that only print something. Of what must be refused, nothing else is ever tried.
_HARMLESS = (
    ["/bin/sh", "-c", "echo it ran"],
    ["/usr/bin/env"],
    ["/usr/bin/python3", "-c", "print('it ran')"],
    ["/usr/bin/tee"],
)
_TEE_INPUT = b"it ran\n"
ARGUMENT_SPEC = {
    "service_user": {"type": "str", "required": True},
    "users": {"type": "list", "elements": "str", "required": True},
    "refused_users": {"type": "list", "elements": "str", "default": []},
    "work_dirs": {"type": "list", "elements": "str", "default": ["/data"]},
    "bin_dirs": {"type": "list", "elements": "str", "default": []},
    "refused_commands": {"type": "list", "elements": "list", "default": REFUSED_COMMANDS},
}


def forms(commands: Mapping[str, str], work_dir: str) -> list[list[str]]:
    """The command lines that the runtime uses, one for each of its forms.

    Args:
        commands: Command to absolute path.
        work_dir: A folder below which users' work lies.
    """
    return [[commands[name]] + arguments for name, arguments in sudo_rules.examples(work_dir)]


def harmless(line: list[str]) -> list[str] | None:
    """A harmless form of a command line that must be refused; None where there is none.

    Should sudo run it, it prints something on standard output, and does nothing else.

    Args:
        line: The command line: one of :func:`forms`, or one that the site names.
    """
    if line in REFUSED_COMMANDS:
        return _HARMLESS[REFUSED_COMMANDS.index(line)]
    if os.path.basename(line[0]) in COMMANDS:
        return [line[0], "--version"]
    return None


def says_yes(answer: Answer) -> bool | None:
    """Whether an answer of ``sudo -l`` means yes; None where it means neither yes nor no."""
    return {0: True, 1: False}.get(answer.status)


def was_refused(answer: Answer) -> bool | None:
    """Whether sudo refused to run one of the harmless forms.

    The exit status tells it, and what the command would have printed. Sudo's words are no proof: on standard error, it
    also warns of other things, and then runs the command.

    Args:
        answer: What the call of sudo said.

    Returns:
        True where sudo refused; False where the command ran; None where that can't be told.
    """
    if answer.status == 0 or answer.out.strip():
        return False
    return True if answer.status == 1 else None


def sudos_words(answer: Answer) -> str:
    """The line in which sudo says why it refused."""
    lines = [line.strip() for line in answer.err.splitlines() if line.strip()]
    return ([line for line in lines if "unable to resolve host" not in line] or lines or ["sudo said nothing"])[-1]


def expand(entries: Iterable[str], accounts: sudoers.HostAccounts, faults: list[str]) -> list[str]:
    """The users of a list. Groups are replaced by their members.

    Args:
        entries: Names of users, and of groups with a leading ``%``.
        accounts: The host's accounts.
        faults: A sentence for each unknown user or group is added to this list.
    """
    found: list[str] = []
    for entry in entries:
        group = accounts.group(entry[1:]) if entry.startswith("%") else None
        if entry.startswith("%") and group is None:
            faults.append("group %s: unknown on this host" % entry[1:])
        else:
            found += group.members if group else [entry]
    faults.extend("user %s: unknown on this host" % name for name in found if accounts.user(name) is None)
    return list(dict.fromkeys(found))


class Rights:
    """Sudo's answers about a service account.

    Args:
        params: The parameters of :data:`ARGUMENT_SPEC`.
        sudo: Path of sudo; None where there is none, which is a fault.

    Attributes:
        faults: Why sudo can't be asked, one sentence for each fault. Ask only where there is none.
        users: The users as whom the service account must be able to act.
        matrix: After :meth:`ask`, a mapping for each user and command line.
        surprises: After :meth:`ask`, a sentence for each answer that is not as it must be.
    """

    def __init__(self, params: Mapping[str, Any], sudo: str | None) -> None:
        self._params = params
        self._sudo = sudo or "sudo"
        self.matrix: list[dict[str, Any]] = []
        self.surprises: list[str] = []
        self.faults: list[str] = []
        if sudo is None:
            self.faults.append(sudoers.not_found("sudo", ("/sbin", "/usr/sbin", "/usr/local/sbin")))
        if os.geteuid() != 0:
            self.faults.append("root's rights are needed to ask sudo about another user: run with become")
        accounts = self._accounts = sudoers.HostAccounts()
        if accounts.user(params["service_user"]) is None:
            self.faults.append("the service account %s is unknown on this host" % params["service_user"])
        self.users = expand(params["users"], accounts, self.faults)
        if not params["work_dirs"]:
            self.faults.append("work_dirs is empty: name a folder that users' work lies below")
        self._commands, faults = sudoers.find_commands(COMMANDS, params["bin_dirs"])
        if len(self._commands) < len(COMMANDS):
            self.faults += faults

    def check_rights(
        self, files: Mapping[str, str], asked_entries: Iterable[str], accepted: Iterable[str], host: str
    ) -> list[tuple[str, str, bool]]:
        """Compare what sudo's rules give the service account with what was asked for. No command is run.

        Args:
            files: Path to text of the sudoers files, as sudo reads them; empty where they can't be read.
            asked_entries: Names of users, and of groups with a leading ``%``.
            accepted: Further commands that are meant, as they stand in the rules.
            host: This host's name.

        Returns:
            A list of (where, what, covered), one for each rule that is not our own or that gives more. It is covered
            where it gives no more than was asked for.
        """
        service = self._params["service_user"]
        names = list(dict.fromkeys(self.users + expand(asked_entries, self._accounts, [])))
        users = [user for user in map(self._accounts.user, names) if user is not None]

        def members(name: str) -> tuple[str, ...] | None:
            group = self._accounts.group(name)
            return group.members if group else None

        asked = sudoers_rights.Asked(
            list(asked_entries) + self._params["users"],
            [(user.name, user.uid) for user in users],
            members,
            self._commands.values(),
            service,
            accepted,
        )
        subject = self._accounts.subject(service, host)
        own = {path for path, text in files.items() if sudoers.fault_of_foreign_file(path, text, service) is None}
        found = []
        known: set[str] = set()
        for path, line, rights in sudoers_rights.foreign_rights(sudoers_rights.Rules(files), subject, None):
            covered = all(asked.covers_right(right) for right in rights)
            known |= {right.command.text for right in rights if not asked.covers_right(right)}
            if path not in own or not covered:
                words = "; ".join(dict.fromkeys(sudoers_rights.words_of(right) for right in rights))
                found.append(("%s:%d" % (path, line), words[:500], covered))
        # Sudo also knows the rules of directory services.
        answer = run([self._sudo, "-n", "-ll", "-U", service])
        for rule in sudo_listing.parse_listing(answer.out):
            positive = sudo_listing.users_of(rule["run_as"] or "root")
            groups = bool(rule["groups"])
            for command in rule["commands"]:
                if command.startswith("!") or command in known or asked.covers(positive, groups, command):
                    continue
                where = rule["source"] or "a rule that is in no file of this host (LDAP or SSSD, perhaps)"
                found.append((where, "(%s) %s" % (rule["run_as"] or "root", command[:200]), False))
        return found

    def ask(self) -> None:
        """Ask sudo about each user and command line. No command is run."""
        service = self._params["service_user"]
        rules = sudo_listing.parse_listing(run([self._sudo, "-n", "-ll", "-U", service]).out)
        used = forms(self._commands, self._params["work_dirs"][0])
        questions = [(user, line, True) for user in self.users for line in used]
        questions += [(user, line, False) for user in ["root"] + self._params["refused_users"] for line in used]
        questions += [(u, line, False) for u in ["root"] + self.users for line in self._params["refused_commands"]]
        for name, line, expected in questions:
            answer = self._ask(name, line)
            user = self._accounts.user(name)
            groups = self._accounts.group_names(user) if user else ()
            rule = sudo_listing.deciding_rule(rules, user, groups, line) if user else None
            self.judge(name, line, expected, answer, rule)

    def _ask(self, user: str, line: list[str]) -> Answer:
        return run([self._sudo, "-n", "-l", "-U", self._params["service_user"], "-u", user, "--"] + line)

    def judge(self, user: str, line: list[str], expected: bool, answer: Answer, rule: str | None) -> None:
        """Keep an answer in the matrix, and among the surprises where it is one."""
        allowed = says_yes(answer)
        if allowed is None:
            self.surprises.append(
                "sudo gave no answer whether %s may run %s as %s: %s"
                % (self._params["service_user"], " ".join(line), user, sudos_words(answer))
            )
        elif allowed != expected:
            words = "may run %s as %s, and must not" if allowed else "may not run %s as %s, and must"
            self.surprises.append(("%s " + words) % (self._params["service_user"], " ".join(line), user))
        self.matrix.append(
            {
                "user": user,
                "command": line,
                "allowed": bool(allowed),
                "expected": expected,
                "rule": rule,
                "answered": allowed is not None,
            }
        )

    def attempt(self, entry: Mapping[str, Any]) -> tuple[bool, str] | None:
        """Try a command line that must be refused, as the service account, where that can harm nobody.

        Sudo is first asked about this very form. Only what it would refuse is tried.

        Args:
            entry: An entry of :attr:`matrix`.

        Returns:
            Whether it was refused, and sudo's words; None where nothing was tried.
        """
        line = harmless(entry["command"])
        if line is None or entry["expected"] or entry["allowed"] or not entry["answered"]:
            return None
        if says_yes(self._ask(entry["user"], line)) is not False:
            return None
        argv = [self._sudo, "-n", "-u", entry["user"], "--"] + line
        answer = run(argv, user=self._params["service_user"], stdin=_TEE_INPUT)
        refused = was_refused(answer)
        if refused:
            return True, sudos_words(answer)
        if refused is None:
            return False, "no clear answer (exit status %d): %s" % (answer.status, sudos_words(answer))
        return False, "%s ran, although sudo says that it is not allowed" % " ".join(line)
