# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service user must be able to do as others, and what it must not; and sudo's answers. Standard library only."""

from __future__ import annotations

import os

from . import sudo_listing, sudoers
from .commands import run

COMMANDS = ("sbatch", "scancel", "cat", "ls", "mkdir")
# As good as everything: refused as anybody.
REFUSED_COMMANDS = [["/bin/sh", "-c", "id"], ["/usr/bin/env"], ["/usr/bin/python3"], ["/usr/bin/tee", "/etc/passwd"]]
ARGUMENT_SPEC = {
    "service_user": {"type": "str", "required": True},
    "users": {"type": "list", "elements": "str", "required": True},
    "refused_users": {"type": "list", "elements": "str", "default": []},
    "work_dirs": {"type": "list", "elements": "str", "default": ["/data"]},
    "bin_dirs": {"type": "list", "elements": "str", "default": []},
    "refused_commands": {"type": "list", "elements": "list", "default": REFUSED_COMMANDS},
}


def forms(commands, work_dir):
    """The command lines that the runtime uses, one a command.

    Args:
        commands: Command to absolute path.
        work_dir: A folder that users' work lies below.
    """
    path = "%s/fractal/run" % work_dir.rstrip("/")
    arguments = {
        "sbatch": ["--parsable"],
        "scancel": ["1"],
        "cat": ["--", path],
        "ls": ["--", path],
        "mkdir": ["-p", "-m", "700", "--", path],
    }
    return [[commands[name]] + arguments[name] for name in COMMANDS]


def expand(entries, accounts, faults):
    """The users of a list, groups replaced by their members.

    Args:
        entries: Users, and groups with a leading ``%``.
        accounts: The host's accounts.
        faults: Gets a sentence for each that is unknown.
    """
    found = []
    for entry in entries:
        group = accounts.group(entry[1:]) if entry.startswith("%") else None
        if entry.startswith("%") and group is None:
            faults.append("group %s: unknown on this host" % entry[1:])
        else:
            found += group.members if group else [entry]
    faults.extend("user %s: unknown on this host" % name for name in found if accounts.user(name) is None)
    return list(dict.fromkeys(found))


class Rights:
    """Sudo's answers about a service user.

    Args:
        params: The parameters of :data:`ARGUMENT_SPEC`.
        sudo: Path of sudo, or None.

    Attributes:
        faults: Why sudo can't be asked, one sentence each.
        users: Whom the service user should be able to act as.
        matrix: After :meth:`ask`: a mapping for each user and command line.
        surprises: After :meth:`ask`: what is not as it must be, one sentence each.
    """

    def __init__(self, params, sudo):
        self._params = params
        self._sudo = sudo
        self.matrix = []
        self.surprises = []
        self.faults = []
        if sudo is None:
            self.faults.append("sudo is not installed on this host")
        if os.geteuid() != 0:
            self.faults.append("root's rights are needed to ask sudo about another user: run with become")
        accounts = self._accounts = sudoers.HostAccounts()
        if accounts.user(params["service_user"]) is None:
            self.faults.append("the service user %s is unknown on this host" % params["service_user"])
        self.users = expand(params["users"], accounts, self.faults)
        if not params["work_dirs"]:
            self.faults.append("work_dirs is empty: name a folder that users' work lies below")
        self._commands, faults = sudoers.find_commands(COMMANDS, params["bin_dirs"])
        if len(self._commands) < len(COMMANDS):
            self.faults += faults

    def ask(self):
        """Ask sudo about each user and command line; nothing is run."""
        service = self._params["service_user"]
        rules = sudo_listing.parse_listing(run([self._sudo, "-n", "-ll", "-U", service]).out)
        used = forms(self._commands, self._params["work_dirs"][0])
        questions = [(user, line, True) for user in self.users for line in used]
        questions += [(user, line, False) for user in ["root"] + self._params["refused_users"] for line in used]
        questions += [(u, line, False) for u in ["root"] + self.users for line in self._params["refused_commands"]]
        for name, line, expected in questions:
            answer = run([self._sudo, "-n", "-l", "-U", service, "-u", name, "--"] + line)
            user = self._accounts.user(name)
            groups = self._accounts.group_names(user) if user else ()
            rule = sudo_listing.deciding_rule(rules, user, groups, line) if user else None
            self.judge(name, line, expected, answer.status == 0, rule)

    def judge(self, user, line, expected, allowed, rule):
        """Keep an answer, and what it means."""
        self.matrix.append({"user": user, "command": line, "allowed": allowed, "expected": expected, "rule": rule})
        if allowed != expected:
            words = "may run %s as %s, and must not" if allowed else "may not run %s as %s, and must"
            self.surprises.append(("%s " + words) % (self._params["service_user"], " ".join(line), user))
