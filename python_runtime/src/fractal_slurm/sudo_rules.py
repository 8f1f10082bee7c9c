# SPDX-License-Identifier: BSD-3-Clause
"""The commands that the service account may run through sudo, their arguments, and the users that it may run them as.

The role ``fractal.slurm.sudoers`` allows exactly these. Its modules run on hosts that may have no runtime yet. So they
have the same rules in ``plugins/module_utils/sudo_rules.py``. A test checks that the two are the same.
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
    """One allowed form of a command.

    Attributes:
        command: The name of the command.
        words: Its first arguments.
        rest: The kind of its other arguments: "" for none, "ids" for job ids, "below" for paths below a work folder,
            "work" for such paths and for work folders.
        optional: Arguments that may come before ``words``.
    """

    command: str
    words: tuple[str, ...] = ()
    rest: str = ""
    optional: tuple[str, ...] = ()


# All allowed forms. sbatch reads its script from standard input.
FORMS = (
    Form("sbatch", ("--parsable",)),
    Form("scancel", (), "ids"),
    Form("cat", ("--",), "below"),
    Form("ls", ("--",), "below"),
    # The first form makes missing folders above a run's folder, the work folder included. The second one makes the
    # run's folder and names in it.
    Form("mkdir", ("-p", "-m", "700", "--"), "work"),
    Form("mkdir", ("--",), "below", ("-m", "700")),
)
COMMANDS = tuple(dict.fromkeys(form.command for form in FORMS))

# User names of Unix and of directory services: anna, anna@site.org, SITE\anna, SITE+anna, 1anna, host$. A number is not
# allowed, because SLURM reads it as a uid. Names with another meaning for sudo are not allowed either. The role
# fractal.slurm.sudoers has the same rule.
_USER_NAME = re.compile(
    r"(?!.*\\\\)(?![0-9]+\$?$)[A-Za-z0-9_](?:[A-Za-z0-9_.@\\+-]*[A-Za-z0-9_.@+-])?\$?",
)
_MAX_USER_NAME = 255
# A path that cat, ls and mkdir may get, as in the hardened rules. It has no blank. A name with a leading dot, such as
# .ssh, is not allowed, except that of fractal-server's folder. The home of a user of a directory service may be called
# user@domain.
_SAFE_NAME = r"(\.fractal_cache|[A-Za-z0-9_][A-Za-z0-9_.@+-]*)"
_SAFE_PATH = re.compile(rf"(/{_SAFE_NAME})+")
_JOB_ID = re.compile(r"[0-9]{1,10}")


def check_user_name(name: str) -> str:
    """Accept a user name that sudo and SLURM accept. Names of directory services are allowed.

    Raises:
        FractalSlurmError: The name is not allowed: ``#uid``, a number, root, or a name with blanks or quotes, for
            instance.
    """
    if not _USER_NAME.fullmatch(name) or len(name) > _MAX_USER_NAME or name in ("root", "ALL"):
        raise FractalSlurmError(f"{name!r} is not allowed as a user to impersonate: give the name of an ordinary user")
    return name


def check_path(path: str | Path, what: str) -> str:
    """Accept an absolute path of plain names. The rules of the sudoers role allow such paths.

    Raises:
        FractalSlurmError: The path is relative, or has ``..``, or a name with a leading dot other than
            ``.fractal_cache``, or a character other than letters, digits, ``_``, ``.``, ``@``, ``+`` and ``-``.
    """
    if not _SAFE_PATH.fullmatch(str(path)):
        raise FractalSlurmError(
            f"{what} {str(path)!r} is not allowed: it must be absolute, of names that consist of letters, digits and "
            "_ . @ + -, and begin with a letter, a digit or _ (.fractal_cache is allowed, too)"
        )
    return str(path)


def clean_path(path: str, what: str) -> str:
    """Remove double slashes and a slash at the end from a path. Accept it as :func:`check_path` does.

    Raises:
        FractalSlurmError: See :func:`check_path`.
    """
    return check_path(re.sub("/+", "/", path).rstrip("/") or path, what)


def check_form(command: str, arguments: Sequence[str]) -> None:
    """Accept a command and its arguments, if they have one of the allowed :data:`FORMS`.

    Raises:
        FractalSlurmError: The command is not allowed, or not with these arguments.
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
    """Return arguments for a question to sudo whether a command is allowed. Empty if the command needs paths."""
    form = next(form for form in FORMS if form.command == command)
    return {"": list(form.words), "ids": [*form.words, "1"]}.get(form.rest, [])


def hardened_arguments(base_dirs: Iterable[str]) -> dict[str, list[str]]:
    """Return the patterns of arguments that the hardened sudoers rules allow for each command.

    They are regular expressions for sudo 1.9.10 and newer (sudoers(5), "Command arguments"). sudo joins the arguments
    with blanks before it compares them.

    Args:
        base_dirs: The work folders, as absolute paths. Paths below them are allowed.

    Returns:
        Name of a command -> its patterns. They match exactly :data:`FORMS`.
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
    """Return the rules in the output of ``sudo -l`` that allow other commands than ours.

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
