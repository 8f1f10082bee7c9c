# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts of sudoers files, made by chance, and what sudo's own parser reads in them."""

from __future__ import annotations

import json
import random
import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

CORPUS = Path(__file__).with_name("sudoers_corpus.json")
TOOLS = [which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") for name in ("visudo", "cvtsudoers")]
LINES = [
    "root ALL=(ALL:ALL) ALL",
    'Runas_Alias A = root, "a#b" : FRACTAL_IMPERSONATE_USERS = anna, !root',
    'Cmnd_Alias FRACTAL_CMD = /bin/ls, /bin/cat ^a,b$, \\\n   /bin/x "a b"',
    'Defaults env_reset, passprompt="x#y", !requiretty',
    "Defaults:fractal,%lab noexec",
    "Defaults>anna noexec",
    "Defaults@h !log_input",
    "Defaults!/bin/ls,A noexec",
    "# comment \\",
    "fractal ALL=(A : B) NOPASSWD: FRACTAL_CMD, (root) /bin/sh : h2 = ALL",
    "%wheel,!bob ALL=NOPASSWD: SETENV: /bin/ls a\\,b",
    '  User_Alias U = a, "b c" , #5',
    'Defaults env_keep += "SLURM_CONF X", secure_path = /a:/b',
    "u ALL = (#5, %g) /bin/a \\: b, !/bin/c",
    "Host_Alias H=10.0.0.0/8, fe80::1, h*",
]
PIECES = [
    *("Defaults", "Runas_Alias ", "Cmnd_Alias ", "User_Alias ", "Host_Alias ", "Cmd_Alias ", "FRACTAL_CMD", "A", "ALL"),
    *("root", "%lab", "%#27", "#0", "#-1", "+net", "%:x", '"a#b"', '"%x y"', '"q\\"r"', "DOM\\\\u", "a\\ b", "x\\#y"),
    *(" ", "  ", "\t", " = ", ":", " : ", ",", "!", "!!", "#", " # c", "\\\n", " \\\n", "\\ \n", "\n", "\n ", "\n#"),
    *("(ALL)", "(ALL:ALL)", "()", "NOPASSWD:", "NOEXEC: ", "/bin/ls", "/bin/cat a b", "/bin/ls ^a$", '/bin/e "a'),
    *("/bin/e \\#x", "/bin/d/", "sudoedit /etc/x", "list", " log_input", " requiretty", ' env_keep += "A B"', '"'),
    *("@host ", ":fractal ", ">root ", "!/bin/ls ", "\r\n", "\\", "\\x41", "*", "::1", "\x0b", "\x0c", "\u2028"),
    *("Runas_Alias", "User_AliasX", "Defaults:", "$", "[a]", "?", "NOPASSWD :", " Runas_AliasX = ALL\n"),
]
NOISE = ("", "", "", " ", "\\\n", " \\\n  ", "\t", "!", "!!")
NAMES = [
    '"x#y"',
    "\\#x",
    "a\\ b",
    "DOM\\\\u",
    "%#5",
    "#-1",
    '"%a b"',
    "+n",
    "ALL",
    "/bin/a b\\,c",
    "/bin/d/",
    '/bin/x "a#',
]
_LISTS = ("env_keep", "env_check", "env_delete")
_KINDS = {
    "usergroup": "%{}",
    "usergid": "%#{}",
    "nonunixgroup": "%:{}",
    "nonunixgid": "%:#{}",
    "netgroup": "+{}",
    "userid": "#{}",
}


def text_by_chance(chance: random.Random) -> str:
    """A text that sudo may take or not."""
    if chance.random() < 0.3:
        return "".join(chance.choice(PIECES) for _part in range(chance.randint(1, 14))) + "\n"
    text = "\n".join(chance.choice(LINES) for _line in range(chance.randint(1, 3))) + "\n"
    for _option in range(chance.choice((0, 1, 1, 2))):
        place = chance.randint(0, len(text))
        way = chance.random()
        if way < 0.4:
            text = re.sub(r"[ ,=:]", lambda match: match.group() + chance.choice(NOISE), text)
        elif way < 0.6:
            text = text.replace(chance.choice(("anna", "root", "a#b", "/bin/ls", "A", "U")), chance.choice(NAMES), 1)
        elif way < 0.8:
            text = text[:place] + chance.choice(PIECES) + text[place:]
        else:
            text = text[:place] + text[place + chance.randint(1, 4) :]
    return text


def sudos_reading(text: str) -> dict[str, Any] | None:
    """What sudo's tools read in a text; None where they refuse it, or print what is no JSON, as happens."""
    visudo, cvtsudoers = TOOLS
    data = text.encode("utf-8", "surrogateescape")
    if subprocess.run([visudo, "-cqf", "-"], input=data, capture_output=True, check=False).returncode != 0:
        return None
    argv = [cvtsudoers, "-c", "/dev/null", "-f", "json"]
    result = subprocess.run(argv, input=data, capture_output=True, check=False)
    try:
        document = json.loads(result.stdout.decode("utf-8", "surrogateescape")) if result.stdout.strip() else {}
    except ValueError:
        return None
    return {
        "aliases": sorted(
            [kind.partition("_")[0].replace("Command", "Cmnd"), name, _members(found)]
            for kind, section in document.items()
            if kind.endswith("_Aliases")
            for name, found in section.items()
        ),
        "defaults": [[_members(entry.get("Binding")), _options(entry)] for entry in document.get("Defaults", [])],
        "rules": [
            [_members(entry["User_List"]), _members(entry["Host_List"]), *_grant(granted), _member(command)]
            for entry in document.get("User_Specs", [])
            for granted in entry["Cmnd_Specs"]
            for command in granted["Commands"]
        ],
    }


def _member(entry: dict[str, Any]) -> str:
    ((kind, value),) = [item for item in entry.items() if item[0] != "negated" and not item[0].startswith("sha")]
    return ("!" if entry.get("negated") else "") + _KINDS.get(kind, "{}").format(value)


def _members(entries: Any) -> list[str]:
    return [member for member in map(_member, entries or []) if member]


def _options(entry: dict[str, Any]) -> list[list[str]]:
    found = []
    for option in entry["Options"]:
        ((name, value),) = [item for item in option.items() if item[0] != "operation"]
        found.append([name, "=" if not isinstance(value, bool) else "" if value else "!"])
    return found


def _grant(granted: dict[str, Any]) -> list[Any]:
    options = {name: value for option in granted.get("Options", []) for name, value in option.items()}
    return [_members(granted.get("runasusers")), options.get("authenticate"), options.get("noexec")]


def our_reading(statements: list[Any]) -> dict[str, Any]:
    """What our reader reads, in the same form."""
    aliases, defaults, rules = [], [], []
    for statement in statements:
        value = statement.value
        if statement.kind == "alias":
            aliases.append([value.type, value.name, _texts(value.members)])
        elif statement.kind == "defaults":
            # Lists that are set as a whole, or emptied, look alike in sudo's answer.
            options = [
                [name, "=" if operator not in ("", "!") or name in _LISTS else operator]
                for name, operator, _value in value.options
            ]
            defaults.append([_texts(value.members), options])
        elif statement.kind == "rule":
            for grant in value.grants:
                password = {"NOPASSWD": False, "PASSWD": True}
                noexec = {"NOEXEC": True, "EXEC": False}
                rules.append(
                    [
                        _texts(value.users),
                        _texts(grant.hosts),
                        _texts(grant.run_as or []),
                        next((password[tag] for tag in grant.tags if tag in password), None),
                        next((noexec[tag] for tag in grant.tags if tag in noexec), None),
                        _texts([grant.command])[0],
                    ]
                )
    return {"aliases": sorted(aliases), "defaults": defaults, "rules": rules}


def _texts(members: list[Any]) -> list[str]:
    return [("!" if member.negated else "") + member.text for member in members]
