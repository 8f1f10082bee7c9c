# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what ``sudo -ll`` prints about a user's rights. Standard library only."""

from __future__ import annotations

import re

_FIELD = re.compile(r"    (RunAsUsers|RunAsGroups|Options|Commands|[A-Z][A-Za-z]+): ?(.*)")


def parse_listing(text):
    """The rules in the output of ``sudo -ll -U USER``.

    Args:
        text: The output, in the C locale.

    Returns:
        A list of rules in sudo's order, each with ``source`` (the file, where this sudo names it, else None),
        ``run_as`` (whom, as it is written), ``options`` and ``commands`` (a list).
    """
    rules = []
    field = None
    for line in text.splitlines():
        entry = re.match(r"Sudoers entry:\s*(.*)|LDAP Role:\s*(.*)", line)
        if entry:
            rules.append(
                {
                    "source": (entry.group(1) or entry.group(2) or "").strip() or None,
                    "run_as": "",
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
            elif field == "Options":
                rules[-1]["options"] = match.group(2).strip()
        elif field == "Commands" and line.startswith("\t"):
            rules[-1]["commands"].append(line.strip())
        elif field == "RunAsUsers" and line.startswith("     "):
            rules[-1]["run_as"] += " " + line.strip()
        elif field == "Options" and line.startswith("     "):
            rules[-1]["options"] += " " + line.strip()
    return rules


def deciding_rule(rules, command):
    """The rule that a command falls under, as a sentence, or None.

    The last rule that names the command counts, as it does for sudo.

    Args:
        rules: What :func:`parse_listing` returned.
        command: Absolute path of the command.
    """
    for rule in reversed(rules):
        for granted in reversed(rule["commands"]):
            if granted == "ALL" or granted.split(" ")[0] == command:
                source = " in %s" % rule["source"] if rule["source"] else ""
                return "(%s) %s%s" % (rule["run_as"] or "root", granted, source)
    return None
