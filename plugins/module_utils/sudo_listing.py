# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what ``sudo -ll`` prints about a user's rights. Standard library only."""

from __future__ import annotations

import fnmatch
import re
import signal

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import NoReturn, TypedDict

    from .sudoers import User

    class Rule(TypedDict):
        """A rule as ``sudo -ll`` prints it."""

        source: str | None
        run_as: str
        groups: str
        options: str
        commands: list[str]


# The processor's time that a pattern may take, in seconds. One that takes more is given up: sudo itself knows.
_PATIENCE_S = 0.2
_MAX_PATTERN = 65536
_unreadable: set[str] = set()  # the patterns that were given up

_FIELD = re.compile(r"    (RunAsUsers|RunAsGroups|Options|Commands|[A-Z][A-Za-z]+): ?(.*)")


def parse_listing(text: str) -> list[Rule]:
    """The rules in the output of ``sudo -ll -U USER``.

    Args:
        text: The output, in the C locale.

    Returns:
        The rules in sudo's order. ``source`` is the rule's file, or None where this sudo does not name it. ``run_as``
        and ``groups`` say as whom commands may run, in the words of the rule.
    """
    rules: list[Rule] = []
    field = None
    for line in text.splitlines():
        entry = re.match(r"Sudoers entry:\s*(.*)|LDAP Role:\s*(.*)", line)
        if entry:
            rules.append(
                {
                    "source": (entry.group(1) or entry.group(2) or "").strip() or None,
                    "run_as": "",
                    "groups": "",
                    "options": "",
                    "commands": [],
                }
            )
            field = None
            continue
        if not rules:
            continue
        match = _FIELD.match(line)
        if match:
            field = match.group(1)
            if field == "RunAsUsers":
                rules[-1]["run_as"] = match.group(2).strip()
            elif field == "RunAsGroups":
                rules[-1]["groups"] = match.group(2).strip()
            elif field == "Options":
                rules[-1]["options"] = match.group(2).strip()
        elif field == "Commands" and line.startswith("\t"):
            rules[-1]["commands"].append(line.strip())
        elif field == "RunAsUsers" and line.startswith("     "):
            rules[-1]["run_as"] += " " + line.strip()
        elif field == "Options" and line.startswith("     "):
            rules[-1]["options"] += " " + line.strip()
    return rules


def deciding_rule(rules: Sequence[Rule], user: User, groups: Collection[str], line: Sequence[str]) -> str | None:
    """The rule that allows a command line, as a sentence; None where no rule does.

    The last rule that matches counts, as it does for sudo. If a pattern can't be tried here, the sentence says so.

    Args:
        rules: What :func:`parse_listing` returned.
        user: The user that the command would run as.
        groups: Names of all groups of that user.
        line: The command line, with an absolute path.
    """
    for rule in reversed(rules):
        if not _names_user(rule["run_as"] or "root", user, groups):
            continue
        for granted in reversed(rule["commands"]):
            named = _names_command(granted.lstrip("!"), line)
            if named is None:
                return "unknown: a pattern of sudo's rules can't be tried here: %.200s" % granted
            if named:
                if granted.startswith("!"):
                    return None
                source = " in %s" % rule["source"] if rule["source"] else ""
                return "(%s) %s%s" % (rule["run_as"] or "root", granted, source)
    return None


def users_of(run_as: str) -> list[str]:
    """The entries of a list of users, as sudo prints it. Those with a ! are left out."""
    return [entry for entry in _entries(run_as) if not entry.startswith(("!", "%!"))]


def _entries(run_as: str) -> list[str]:
    """The entries of a list of users, as sudo prints it. The quotes around some are left out."""
    found = re.findall(r'(?:[^,"]|"[^"]*")+', run_as)
    return [entry.strip().replace('"', "") for entry in found if entry.strip()]


def _names_user(run_as: str, user: User, groups: Collection[str]) -> bool:
    """Whether a list of users, as sudo prints it, holds this user. The last entry that names the user counts."""
    named = {"ALL", user.name, "#%d" % user.uid} | {"%" + name for name in groups}
    for entry in reversed(_entries(run_as)):
        # sudo 1.9.13 prints "!%wheel" as "%!wheel"
        negated = entry.startswith(("!", "%!"))
        if (entry.replace("!", "", 1) if negated else entry) in named:
            return not negated
    return False


def _names_command(granted: str, line: Sequence[str]) -> bool | None:
    """Whether a command of a rule allows this command line; None where that is unknown.

    A command without arguments allows any.
    """
    path, _blank, arguments = granted.partition(" ")
    given = " ".join(line[1:])
    if granted == "ALL":
        return True
    if path.startswith("^"):
        named = _matches(path, line[0])
    else:
        named = _matches(path, line[0], fnmatch.translate)
    if not named or not arguments:
        return named
    if arguments == '""':
        return not given
    if arguments.startswith("^") and arguments.endswith("$"):
        return _matches(arguments, given)
    return _matches(arguments, given, fnmatch.translate)


def _matches(pattern: str, text: str, translate: Callable[[str], str] = str) -> bool | None:
    """Whether a text matches a pattern; None where Python takes too long, or would read the pattern in another way."""
    # To Python, [[:alpha:]] is not the class of POSIX.
    if pattern in _unreadable or len(pattern) > _MAX_PATTERN or "[:" in pattern:
        return None
    previous = signal.signal(signal.SIGVTALRM, _give_up)
    try:
        # The timer repeats: a signal is lost where it comes while Python can't react.
        signal.setitimer(signal.ITIMER_VIRTUAL, _PATIENCE_S, _PATIENCE_S)
        try:
            return re.match(translate(pattern), text) is not None
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except (re.error, OverflowError, RecursionError, MemoryError, ValueError, TimeoutError):
        _unreadable.add(pattern)
        return None
    finally:
        signal.signal(signal.SIGVTALRM, previous)


def _give_up(_number: int, _frame: object) -> NoReturn:
    raise TimeoutError
