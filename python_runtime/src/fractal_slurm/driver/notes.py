# SPDX-License-Identifier: BSD-3-Clause
"""What a driver knows beside its journal's rows, left in the journal for whoever looks at the run.

Nothing is decided by it: a driver that goes on with a run begins with empty notes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import one_line
from .model import JobNote, Wait

if TYPE_CHECKING:
    from .journal import Journal

# Whoever looks at a run says so at least so often, in seconds: then its results are read more often.
_WATCHED_S = 10.0


class Notes:
    """The notes of the one driver of a run.

    Args:
        journal: The run's journal, locked.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._jobs: dict[str, JobNote] = {}
        self._waits: dict[str, Wait] = {}
        self._written: tuple[dict[str, JobNote], dict[str, Wait]] | None = None

    def job(self, token: str, state: str, reason: str, node: str) -> None:
        """What SLURM says of a job now."""
        self._jobs[token] = JobNote(state, "" if reason == "None" else one_line(reason, 200), node)

    def keep(self, tokens: set[str]) -> None:
        """Forget the jobs that are not among these."""
        self._jobs = {token: note for token, note in self._jobs.items() if token in tokens}

    def wait(self, what: str, words: str) -> None:
        """What the driver waits for, of each kind one thing at a time; empty words where it does not any more."""
        before = self._waits.get(what)
        if not words:
            self._waits.pop(what, None)
        elif before is None or before.words != one_line(words):
            self._waits[what] = Wait(one_line(words), before.since if before else time.time())
        self.write()

    def end(self) -> None:
        """The driver waits for nothing any more."""
        self._jobs, self._waits = {}, {}
        self.write()

    def write(self) -> None:
        """Leave them in the journal, if they changed."""
        if self._written == (self._jobs, self._waits):
            return
        self._journal.write(replace(self._journal.record, job_notes=dict(self._jobs), waits=dict(self._waits)))
        self._written = dict(self._jobs), dict(self._waits)


def job_notes(journal: Journal) -> Mapping[str, JobNote]:
    """What SLURM said last of the jobs in flight, by token."""
    return journal.record.job_notes


def waits(journal: Journal) -> list[Wait]:
    """What the driver waits for."""
    return sorted(journal.record.waits.values(), key=lambda wait: wait.since)


def watch(folder: Path) -> None:
    """Tell the driver that somebody looks at the run.

    Args:
        folder: The run's folder, with the journal in it.
    """
    file = folder / "watched"
    with contextlib.suppress(OSError):
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.close(fd)
        os.utime(file)


def is_watched(folder: Path) -> bool:
    """Whether somebody looks at the run now."""
    try:
        return abs(time.time() - (folder / "watched").stat().st_mtime) < _WATCHED_S
    except OSError:
        return False
