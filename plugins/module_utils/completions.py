# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds where shells look for completions, and which files there are ours. Standard library only."""

from __future__ import annotations

import os

from .commands import run
from .managed_file import unwritable

NAME = "fractal-slurm"
# A shell, its folder below share/, and the file's name.
_SHELLS = (
    ("bash", "bash-completion/completions", NAME),
    ("zsh", "zsh/vendor-completions", "_" + NAME),
    ("zsh", "zsh/site-functions", "_" + NAME),
    ("fish", "fish/vendor_completions.d", NAME + ".fish"),
)
# Each of our files holds this text. A file of the same name that is not ours does not.
_MARK = "_FRACTAL_SLURM_COMPLETE"
_MOST_BYTES = 1000000


def _candidates(command: str | None) -> list[tuple[str, str]]:
    """All places where a shell may look for completions: a list of (shell, file)."""
    folder, name = os.path.split(command or "")
    if name != NAME or os.path.basename(folder) != "bin":
        return []  # shells complete a command by its name in PATH
    base = os.path.dirname(folder)
    shares = [os.path.join(base, "share")]
    if base == "/usr/local":
        shares.append("/usr/share")
    return [(shell, os.path.join(share, inside, file)) for shell, inside, file in _SHELLS for share in shares]


def places(command: str | None) -> dict[str, str]:
    """Shell to the file for its completions. A shell without a folder for them is left out.

    Args:
        command: Path of the link to the command; None or empty for no link.
    """
    found: dict[str, str] = {}
    for shell, path in _candidates(command):
        if os.path.isdir(os.path.dirname(path)) and unwritable(os.path.dirname(path)) is None:
            found.setdefault(shell, path)
    return found


def ours(command: str | None) -> list[str]:
    """The files that are ours, in all places."""
    found = []
    for _shell, path in _candidates(command):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                if _MARK in stream.read(_MOST_BYTES):
                    found.append(path)
        except OSError:
            continue
    return found


def text(python: str, shell: str) -> str | None:
    """The completions that a version of the runtime prints, or None where it prints none.

    Args:
        python: Path of that version's Python.
        shell: bash, zsh or fish.
    """
    argv = [python, "-I", "-m", "fractal_slurm.cli", "completion", shell]
    answer = run(argv, timeout=60, environment={"HOME": "/nonexistent"})
    return answer.out if answer.status == 0 and _MARK in answer.out else None
