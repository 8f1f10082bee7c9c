# SPDX-License-Identifier: BSD-3-Clause
"""A run as its journal shows it from one look to the next: the same for its driver and for whoever attaches to it."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..driver.journal import Journal, record_of
from ..driver.lock import is_driven, state_now
from ..driver.model import ENDED, FINAL, JobNote, JobRow, JobState, RunState, TaskState, Wait
from ..driver.notes import job_notes, waits, watch
from ..driver.tally import Tally

# Of the failures that came between two looks so many are told with the end of their log.
_MOST_NEW = 20
# The rate is that of the last so many seconds, and of no fewer than so many looks.
_RATE_S, _RATE_LOOKS = 120.0, 3
# Events of the journal that say something to a person; the others are steps of ours.
_TOLD = frozenset({"outage", "limit reached", "node left out", "no node left out", "cancel", "taken up again"})


@dataclass(frozen=True)
class Failure:
    """A task that failed or did not run: fields as in the journal, and the end of its log."""

    index: int
    state: str
    reason: str
    args: Any
    host: str | None
    tail: str


@dataclass(frozen=True)
class Sight:
    """How a run is at one look.

    Attributes:
        state: What the run's state means, given who drives it.
        counts: Number of tasks by state.
        jobs: All jobs, by number.
        notes: What SLURM said last of the jobs in flight, by token.
        waits: What the driver waits for.
        rate: Tasks that end in a second; None where that is not known yet.
        left_s: Seconds until all tasks have ended, at that rate; None where that is not known.
        failures: What failed since the look before, the first few of it.
        told: What happened since the look before, a sentence each.
        ended: When the run ended; None while it goes on.
    """

    state: RunState
    counts: dict[TaskState, int]
    jobs: list[JobRow]
    notes: Mapping[str, JobNote]
    waits: list[Wait]
    rate: float | None
    left_s: float | None
    failures: list[Failure] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    ended: float | None = None

    @property
    def total(self) -> int:
        """The number of tasks."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """The number of tasks that have ended, well or not."""
        return sum(self.counts[state] for state in FINAL)


class Ends:
    """Tells which tasks came to an end in one of these states, each once for each end.

    Args:
        journal: The run's journal.
        states: The states.
        old: Whether to tell of those, too, that ended before.
    """

    def __init__(self, journal: Journal, states: Collection[TaskState], *, old: bool = True) -> None:
        self._journal = journal
        self._states = frozenset(states)
        self._mark: int | None = None
        self._told: set[int] = set()  # where the journal is of an older version, which does not tell what changed
        if not old:
            self.new()

    def new(self) -> list[int]:
        """Those that ended since the last call."""
        journal = self._journal
        if self._mark is not None:
            moves, self._mark = journal.moves(self._mark)
            return list(dict.fromkeys(index for index, state, _token in moves if state in self._states))
        with journal.snapshot():
            if journal.tells_moves():
                self._mark = journal.last_move()
            found = [index for index in journal.indices(*self._states) if index not in self._told]
        if self._mark is None:
            self._told.update(found)
        return found


class Follower:
    """Looks at a run again and again. What was there at the last look is not read again.

    Args:
        journal: Its journal.
        state_dir: Folder of all journals; None for the driver's own eyes.
        old: Whether failures from before the first look are news, too.

    Attributes:
        asks: Whether the driver is to look at SLURM and at results more often, for somebody who watches.
    """

    def __init__(self, journal: Journal, state_dir: Path | None, *, old: bool = False) -> None:
        self.journal = journal
        run = journal.record
        self.user = run.user
        self.run_id: str = journal.folder.name
        self.task_name = run.task_name
        self.created = run.created or time.time()
        self.asks = True
        self._state_dir = state_dir
        self._tally = Tally(journal)
        self._looks: deque[tuple[float, int]] = deque()
        self._failed = Ends(journal, (TaskState.FAILED, TaskState.NOT_RUN), old=old)
        self._event = 0 if old else journal.last_event()

    def look(self) -> Sight:
        """Look once, and let the driver know that somebody does."""
        if self.asks:
            watch(self.journal.folder)
        counts = self._tally.counts()
        run = self.journal.record
        state = run.state
        if self._state_dir is not None:
            state = state_now(state, is_driven(self._state_dir, self.run_id))
        done = sum(counts[one] for one in FINAL)
        rate = self._rate(done)
        left = sum(counts.values()) - done
        return Sight(
            state=state,
            counts=counts,
            jobs=self.journal.jobs(),
            notes=job_notes(self.journal),
            waits=waits(self.journal) if state == RunState.DRIVEN else [],
            rate=rate,
            left_s=left / rate if rate and left else None,
            failures=list(filter(None, map(self._failure, self._failed.new()[:_MOST_NEW]))),
            told=self._told() if self._state_dir is not None else [],
            ended=run.ended if state in ENDED else None,
        )

    def done_of(self, jobs: list[JobRow]) -> dict[str, int]:
        """How many of the tasks of each of these jobs have ended."""
        return self._tally.ended_of([job.token for job in jobs]) if jobs else {}

    def _rate(self, done: int) -> float | None:
        now = time.monotonic()
        looks = self._looks
        if not looks or looks[-1][1] != done:
            looks.append((now, done))
        while len(looks) > _RATE_LOOKS and now - looks[0][0] > _RATE_S:
            looks.popleft()
        (since, first), span = looks[0], now - looks[0][0]
        return (done - first) / span if len(looks) >= _RATE_LOOKS and span > 0 and since < now else None

    def _failure(self, index: int) -> Failure | None:
        row = self.journal.task(index)
        if row is None:
            return None
        record = record_of(row.record)
        args = json.loads(row.args)
        return Failure(index, row.state, row.reason or "", args, record.get("host"), record.get("tail") or "")

    def _told(self) -> list[str]:
        events, self._event = self.journal.events_since(self._event)
        return [f"{event.what}: {event.detail or event.subject}" for event in events if event.what in _TOLD]


def is_over(state: RunState) -> bool:
    """Whether nobody goes on with a run now."""
    return state in ENDED or state == RunState.INTERRUPTED


def job_state(job: JobRow, note: JobNote | None) -> tuple[str, str, str]:
    """State, reason and node of a job for people: SLURM's words while SLURM has it."""
    if job.state == JobState.SUBMITTED:
        return (note.state, note.reason, note.node) if note else ("SUBMITTED", "", "")
    if job.state == JobState.ENDED or job.state == JobState.COLLECTED:
        return job.slurm_state or job.state, "" if job.reason in (None, "None") else str(job.reason), ""
    return job.state, job.reason or "", ""
