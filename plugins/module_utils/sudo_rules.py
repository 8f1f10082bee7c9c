# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""What sudo lets the service account do: which commands, in which forms, as whom. Standard library only.

The runtime has the same rules. A host may have no runtime yet, so they are not imported from there. A test makes sure
that the two agree.
"""

from __future__ import annotations

import re

SLURM_COMMANDS = ("sbatch", "scancel")
RUNAS_ALIAS = "FRACTAL_IMPERSONATE_USERS"
CMND_ALIAS = "FRACTAL_CMD"

# Each form of a command that the runtime uses, in four parts:
# 1. The command.
# 2. Its first arguments.
# 3. What follows them: "" for nothing, "ids" for ids of jobs, "below" for paths below a work folder, "work" for a work
#    folder or paths below it.
# 4. Words that may stand before the first arguments.
FORMS: tuple[tuple[str, tuple[str, ...], str, tuple[str, ...]], ...] = (
    ("sbatch", ("--parsable",), "", ()),
    ("scancel", (), "ids", ()),
    ("cat", ("--",), "below", ()),
    ("ls", ("--",), "below", ()),
    ("mkdir", ("-p", "-m", "700", "--"), "work", ()),
    ("mkdir", ("--",), "below", ("-m", "700")),
)
COMMANDS = tuple(dict.fromkeys(form[0] for form in FORMS))

# Names as Unix and directory services have them: anna, anna@site.org, SITE\anna, SITE+anna, 1anna, host$; and groups
# such as "Domain Users". Sudo takes all of them. Some need quotes, or sudo would read them as something else.
_USER_NAME = re.compile(r"(?!.*\\\\)(?![0-9]+\$?$)[A-Za-z0-9_](?:[A-Za-z0-9_.@\\+-]*[A-Za-z0-9_.@+-])?\$?")
_GROUP_NAME = re.compile(r"(?!.*\\\\)(?![0-9]+\$?$)[A-Za-z0-9_](?:[A-Za-z0-9_.@\\+&'() -]*[A-Za-z0-9_.@+&'()-])?\$?")
_MAX_NAME = 255


def fault_of_account_name(name: str, what: str, is_group: bool = False) -> str | None:
    """The fault of a user's or group's name, or None where sudo and SLURM take it as it is.

    Args:
        name: The name. That of a group comes without its %.
        what: What messages call it.
        is_group: Whether it is a group's. Such names may have blanks, and some signs more.
    """
    if name == "ALL":
        return "%s %r: the name is not allowed: sudoers reads it as everybody; name users and %%groups" % (what, name)
    if (_GROUP_NAME if is_group else _USER_NAME).fullmatch(name) and len(name) <= _MAX_NAME:
        return None
    return (
        "%s %r: the name is not allowed: it must begin with a letter, a digit or _, go on with letters, digits, "
        "_ . - @ + \\%s, have at most %d of them, end in no \\ and not be a number (in YAML, write DOMAIN\\name with "
        "one \\, and without quotes)" % (what, name, " & ' ( ) and blanks inside" if is_group else "", _MAX_NAME)
    )


def examples(work_dir: str) -> list[tuple[str, list[str]]]:
    """An example of each form, with all its options, as a run below a work folder would use it.

    Args:
        work_dir: The work folder.

    Returns:
        A list of (command, arguments).
    """
    base = work_dir.rstrip("/")
    rests: dict[str, list[str]] = {"": [], "ids": ["1"], "below": ["%s/fractal/run" % base], "work": [base or "/"]}
    return [(command, list(optional + words) + rests[rest]) for command, words, rest, optional in FORMS]
