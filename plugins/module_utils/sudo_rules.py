# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""What sudo lets the service account do: which commands, in which forms, as whom. Standard library only.

The runtime has the same rules in ``fractal_slurm/sudo_rules.py``, and can't be imported on a host that has none yet; a
test holds that the two agree.
"""

from __future__ import annotations

import re

SLURM_COMMANDS = ("sbatch", "scancel")
RUNAS_ALIAS = "FRACTAL_IMPERSONATE_USERS"
CMND_ALIAS = "FRACTAL_CMD"

# Each form that the runtime uses: the command; its first arguments; what follows them: "" for nothing, "ids" for ids of
# jobs, "below" for paths below a work folder, "work" for such paths or work folders; words that may stand before.
FORMS: tuple[tuple[str, tuple[str, ...], str, tuple[str, ...]], ...] = (
    ("sbatch", ("--parsable",), "", ()),
    ("scancel", (), "ids", ()),
    ("cat", ("--",), "below", ()),
    ("ls", ("--",), "below", ()),
    ("mkdir", ("-p", "-m", "700", "--"), "work", ()),
    ("mkdir", ("--",), "below", ("-m", "700")),
)
COMMANDS = tuple(dict.fromkeys(form[0] for form in FORMS))

# What Unix and directory services have: anna, anna@site.org, SITE\anna, SITE+anna, 1anna, host$; and groups such as
# "Domain Users". Sudo takes all of them, in quotes where it would read them as something else.
_USER_NAME = re.compile(r"(?!.*\\\\)(?![0-9]+\$?$)[A-Za-z0-9_](?:[A-Za-z0-9_.@\\+-]*[A-Za-z0-9_.@+-])?\$?")
_GROUP_NAME = re.compile(r"(?!.*\\\\)(?![0-9]+\$?$)[A-Za-z0-9_](?:[A-Za-z0-9_.@\\+&'() -]*[A-Za-z0-9_.@+&'()-])?\$?")
_MAX_NAME = 255


def fault_of_account_name(name: str, what: str, is_group: bool = False) -> str | None:
    """The fault of a user's or group's name, or None where sudo and SLURM take it as just that.

    Args:
        name: The name; a group's without its %.
        what: How messages call it.
        is_group: Whether it is a group's: these may have blanks and some signs more.
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
    """Arguments of each form, all options in it, as they would be for a run below a work folder.

    Args:
        work_dir: The work folder.

    Returns:
        A list of (command, arguments).
    """
    base = work_dir.rstrip("/")
    rests: dict[str, list[str]] = {"": [], "ids": ["1"], "below": ["%s/fractal/run" % base], "work": [base or "/"]}
    return [(command, list(optional + words) + rests[rest]) for command, words, rest, optional in FORMS]
