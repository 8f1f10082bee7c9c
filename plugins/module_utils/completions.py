# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where shells look for the completions of a command, and what is ours there. Standard library only."""

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
# What stands in each of our files, and in no other of their names.
_MARK = "_FRACTAL_SLURM_COMPLETE"
_MOST_BYTES = 1000000


def _candidates(command: str | None) -> list[tuple[str, str]]:
    """Shell and file of each place that is looked at for a link to the command."""
    folder, name = os.path.split(command or "")
    if name != NAME or os.path.basename(folder) != "bin":
        return []  # a completion is for a command of this name, and PATH has it elsewhere
    base = os.path.dirname(folder)
    shares = [os.path.join(base, "share")]
    if base == "/usr/local":
        shares.append("/usr/share")
    return [(shell, os.path.join(share, inside, file)) for shell, inside, file in _SHELLS for share in shares]


def places(command: str | None) -> dict[str, str]:
    """The file of each shell that is on the host: no folder is made for one that is not.

    Args:
        command: Path of the link to the command; empty for none.
    """
    found: dict[str, str] = {}
    for shell, path in _candidates(command):
        if os.path.isdir(os.path.dirname(path)) and unwritable(os.path.dirname(path)) is None:
            found.setdefault(shell, path)
    return found


def ours(command: str | None) -> list[str]:
    """Our files, in all places."""
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
    """The completions of a version of the runtime, or None where it has none.

    Args:
        python: The Python of that version.
        shell: bash, zsh or fish.
    """
    argv = [python, "-I", "-m", "fractal_slurm.cli", "completion", shell]
    answer = run(argv, timeout=60, environment={"HOME": "/nonexistent"})
    return answer.out if answer.status == 0 and _MARK in answer.out else None
