# SPDX-License-Identifier: BSD-3-Clause
"""What sudo lets the service account do: which commands, in which forms, as whom.

The role ``fractal.slurm.sudoers`` grants just that. Its modules run on hosts that have no runtime yet, and have the
same rules in ``plugins/module_utils/sudo_rules.py``; a test holds that the two agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .errors import FractalSlurmError, shown

SLURM_COMMANDS = ("sbatch", "scancel")
RUNAS_ALIAS = "FRACTAL_IMPERSONATE_USERS"
CMND_ALIAS = "FRACTAL_CMD"


class Form(NamedTuple):
    """How a command is called.

    Attributes:
        command: Its name.
        words: Its first arguments.
        rest: What the others are: "" for none, "ids" for ids of jobs, "below" for paths below a work folder, "work" for
            such paths or work folders.
        optional: Words that may stand before the first ones.
    """

    command: str
    words: tuple[str, ...] = ()
    rest: str = ""
    optional: tuple[str, ...] = ()


# The one list. sbatch reads its script from standard input.
FORMS = (
    Form("sbatch", ("--parsable",)),
    Form("scancel", (), "ids"),
    Form("cat", ("--",), "below"),
    Form("ls", ("--",), "below"),
    # What is missing above a run's folder, the work folder itself included; the folder; names in it.
    Form("mkdir", ("-p", "-m", "700", "--"), "work"),
    Form("mkdir", ("--",), "below", ("-m", "700")),
)
COMMANDS = tuple(dict.fromkeys(form.command for form in FORMS))

# What Unix and directory services have: anna, anna@site.org, SITE\anna, SITE+anna, 1anna, host$. Left out: a number,
# which SLURM reads as a uid, and what sudo reads as something else. The role fractal.slurm.sudoers has the same rule.
_USER_NAME = re.compile(
    r"(?!.*\\\\)(?![0-9]+\$?$)[A-Za-z0-9_](?:[A-Za-z0-9_.@\\+-]*[A-Za-z0-9_.@+-])?\$?",
)
_MAX_USER_NAME = 255
# A path that cat, ls and mkdir may be given, as the hardened rules allow it: no blank, no name with a leading dot but
# that of fractal-server's folder (others, such as .ssh, are nobody's business). Homes of a directory service may be
# called user@domain.
_SAFE_NAME = r"(\.fractal_cache|[A-Za-z0-9_][A-Za-z0-9_.@+-]*)"
_SAFE_PATH = re.compile(rf"(/{_SAFE_NAME})+")
_JOB_ID = re.compile(r"[0-9]{1,10}")


def check_user_name(name: str) -> str:
    """Accept the name of a user, as sudo and SLURM take it, those of directory services among them.

    Raises:
        FractalSlurmError: The text is no such name: ``#uid``, a number, or a name with blanks or quotes, for instance.
    """
    if not _USER_NAME.fullmatch(name) or len(name) > _MAX_USER_NAME or name in ("root", "ALL"):
        raise FractalSlurmError(f"{name!r} is not allowed as a user to impersonate: give the name of an ordinary user")
    return name


def check_path(path: str | Path, what: str) -> str:
    """Accept an absolute path of plain names, which every rule of the sudoers role allows.

    Raises:
        FractalSlurmError: It is relative, or has ``..``, a name that begins with a dot other than
            ``.fractal_cache``, or a character other than letters, digits, ``_``, ``.``, ``@``, ``+`` and ``-``.
    """
    if not _SAFE_PATH.fullmatch(str(path)):
        raise FractalSlurmError(
            f"{what} {str(path)!r} is not allowed: it must be absolute, of names that consist of letters, digits and "
            "_ . @ + -, and begin with a letter, a digit or _ (.fractal_cache is allowed, too)"
        )
    return str(path)


def clean_path(path: str, what: str) -> str:
    """A path of plain names as :func:`check_path` takes it, without slashes that mean nothing.

    Raises:
        FractalSlurmError: As there.
    """
    return check_path(re.sub("/+", "/", path).rstrip("/") or path, what)


def check_form(command: str, arguments: Sequence[str]) -> None:
    """Accept the arguments of a command, if it may be called so as another user.

    Raises:
        FractalSlurmError: No form of ours is like that.
    """
    if not any(_fits(form, arguments) for form in FORMS if form.command == command):
        allowed = "; ".join(" ".join((*form.words, form.rest)) for form in FORMS if form.command == command)
        words = shown(" ".join(arguments), 200)
        raise FractalSlurmError(f"{command} {words} can't be run as another user: its forms are {allowed or 'none'}")


def _fits(form: Form, arguments: Sequence[str]) -> bool:
    given = tuple(arguments)
    if form.optional and given[: len(form.optional)] == form.optional:
        given = given[len(form.optional) :]
    rest = given[len(form.words) :]
    if given[: len(form.words)] != form.words or bool(rest) != bool(form.rest):
        return False
    return all((_JOB_ID if form.rest == "ids" else _SAFE_PATH).fullmatch(word) for word in rest)


def question(command: str) -> list[str]:
    """Arguments to ask sudo about a command with, where no work folder is known; none where paths are among them."""
    form = next(form for form in FORMS if form.command == command)
    return {"": list(form.words), "ids": [*form.words, "1"]}.get(form.rest, [])


def hardened_arguments(base_dirs: Iterable[str]) -> dict[str, list[str]]:
    """The argument patterns to which the hardened sudoers rules narrow each command.

    They are regular expressions as sudo 1.9.10 and newer take them (sudoers(5), "Command arguments"):
    sudo joins the arguments with blanks before it matches.

    Args:
        base_dirs: The work folders, absolute; paths below them are allowed.

    Returns:
        Command to patterns. They cover exactly :data:`FORMS`.
    """
    checked = [check_path(base.rstrip("/"), "the work folder") for base in base_dirs]
    bases = "|".join(re.escape(base).replace(r"\-", "-") for base in checked)
    rests = {
        "ids": "[0-9]{1,10}( [0-9]{1,10})*",
        "below": rf"( ({bases})(/{_SAFE_NAME})+)+",
        "work": rf"( ({bases})(/{_SAFE_NAME})*)+",
    }
    found: dict[str, list[str]] = {command: [] for command in COMMANDS}
    for form in FORMS:
        words = " ".join(form.words)
        optional = f"({' '.join(form.optional)} )?" if form.optional else ""
        found[form.command].append(f"^{optional}{words}{rests[form.rest]}$" if form.rest else words)
    return found


def rules_beyond(listing: str) -> list[str]:
    """The rules in the output of ``sudo -l`` that allow something else than our commands.

    Args:
        listing: The output, in English.
    """
    found = []
    for rule in re.findall(r"^    (\(.*(?:\n {5,}.*)*)", listing, re.MULTILINE):
        text = " ".join(rule.split())
        _run_as, _end, granted = text.partition(") ")
        words = re.sub(r"^(?:[A-Z_]+: ?)+", "", granted).split(", ")
        paths = [word.split(" ")[0] for word in words if word and not word.startswith("!")]
        if any(path.rpartition("/")[2] not in COMMANDS for path in paths):
            found.append(text)
    return found
