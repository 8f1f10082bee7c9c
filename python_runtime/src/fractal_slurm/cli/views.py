# SPDX-License-Identifier: BSD-3-Clause
"""Who is told of a run as it goes: a terminal, a file, a program, or nobody."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Protocol

import click

from ..driver.journal import Journal, record_of
from ..driver.model import FINAL, TaskEnd, TaskState
from ..terminal import json_text
from .common import say
from .following import Ends, Follower, Sight, job_state
from .live import LiveView, can_live, pace

# Seconds between two lines: at first, and later on.
_SOON_S, _LATE_S, _SOON_FOR_S = 2.0, 10.0, 60.0


class View(Protocol):
    """What shows a run as it goes."""

    def say(self, sentence: str) -> None:
        """Show a sentence for a person."""

    def show(self, progress: object = None) -> None:
        """Look at the run, and show what is new."""

    def close(self) -> None:
        """Show no more of it: something else follows."""


class Lines:
    """A line every few seconds, if something changed; sentences as they come."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._last = ""
        self._began = time.monotonic()
        self._last_at = self._began - _LATE_S

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        say(sentence)

    def show(self, _progress: object = None) -> None:
        """Look at the run, and print what is new."""
        now = time.monotonic()
        if now - self._last_at >= pause_s(now - self._began):
            self._look()

    def _look(self) -> None:
        sight = self._follower.look()
        for sentence in sight.told:
            say(sentence)
        line = line_of(sight)
        if line != self._last:
            self._last, self._last_at = line, time.monotonic()
            say(told_line(line, sight, self._follower.created))

    def close(self) -> None:
        """Look a last time."""
        self._look()


class Quiet:
    """Nothing."""

    def say(self, sentence: str) -> None:
        """Print nothing."""

    def show(self, progress: object = None) -> None:
        """Print nothing."""

    def close(self) -> None:
        """Print nothing."""


class Events:
    """An event a line, JSON, on standard output, for programs.

    Args:
        follower: Looks at the run.
        own: Whether this process drives it: then the journal itself tells of each task's end.
    """

    def __init__(self, follower: Follower, *, own: bool) -> None:
        self._follower = follower
        self._jobs: dict[str, tuple[Any, ...]] = {}
        self._counts: dict[str, int] = {}
        self._waits: list[Any] = []
        self._ends = None if own else Ends(follower.journal, FINAL)
        if own:
            follower.journal.listener = self._task
        self._tell("run", user=follower.user, task_name=follower.task_name, tasks=follower.journal.record.tasks)

    def _tell(self, event: str, **values: Any) -> None:
        head = {"event": event, "at": round(time.time(), 3), "run_id": self._follower.run_id}
        click.echo(json_text({**head, **values}).encode())

    def _task(self, end: TaskEnd) -> None:
        record = record_of(end.record)
        found = {"host": record.get("host"), "exit_code": record.get("exit"), "duration_s": record.get("seconds")}
        self._tell("task", index=end.index, state=end.state, reason=end.reason, **found)

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self._tell("said", words=sentence)

    def show(self, _progress: object = None) -> None:
        """Look at the run, and print what is new."""
        sight = self._follower.look()
        for sentence in sight.told:
            self.say(sentence)
        for job in sight.jobs:
            row = (job.slurm_job_id, *job_state(job, sight.notes.get(job.token)))
            if self._jobs.get(job.token) != row:
                self._jobs[job.token] = row
                values = dict(zip(("slurm_job_id", "state", "reason", "node"), row, strict=True))
                self._tell("job", number=job.number, tasks=job.tasks, **values)
        if self._ends is not None:
            for index in self._ends.new():
                task = self._follower.journal.task(index)
                if task is not None:
                    self._task(TaskEnd(index, task.state, task.reason, task.record))
        if sight.waits != self._waits:
            self._waits = sight.waits
            self._tell("waits", waits=[wait._asdict() for wait in sight.waits])
        counts = {str(state): number for state, number in sight.counts.items()}
        if counts != self._counts:
            self._counts = counts
            self._tell("progress", tasks=sight.total, **counts, tasks_per_s=sight.rate, left_s=sight.left_s)

    def close(self) -> None:
        """Look a last time."""
        self.show()


def pause_s(driven_s: float) -> float:
    """Seconds between two lines of a run that is driven for so many seconds."""
    return _SOON_S if driven_s < _SOON_FOR_S else _LATE_S


def told_line(line: str, sight: Sight, created: float) -> str:
    """A line of :func:`line_of` with the pace, and the time that the run takes, or took."""
    now = sight.ended or time.time()
    words = pace(sight, now) if sight.left_s is not None else ""
    return "  ".join(filter(None, (line, words, f"{now - created:.0f} s")))


def line_of(sight: Sight) -> str:
    """How far a run is, on one line without a time."""
    failed, not_run = sight.counts[TaskState.FAILED], sight.counts[TaskState.NOT_RUN]
    parts = [f"{sight.done}/{sight.total} tasks"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{not_run} did not run"] if not_run else []
    states: dict[str, int] = {}
    for job in sight.jobs:
        state = job_state(job, sight.notes.get(job.token))[0].lower()
        states[state] = states.get(state, 0) + 1
    jobs = ", ".join(f"{number} {state}" for state, number in states.items())
    return f"{', '.join(parts)}; jobs: {jobs or 'none'}{'; waits' if sight.waits else ''}"


def view_of(journal: Journal, *, quiet: bool, json_lines: bool, state_dir: Path | None = None, hint: str = "") -> View:
    """The view that fits where the output goes.

    Args:
        journal: The run's journal.
        quiet: Whether nothing is to be shown.
        json_lines: Whether a program listens.
        state_dir: Folder of all journals, for a run of another driver; None for this process's own.
        hint: What the reader of a live view can do.
    """
    if quiet:
        return Quiet()
    follower = Follower(journal, state_dir, old=state_dir is not None)
    if json_lines:
        return Events(follower, own=state_dir is None)
    if can_live(sys.stderr):
        return LiveView(follower, sys.stderr, hint=hint)
    # The driver's own lines go to a log more often than to a person: they are worth no calls of sudo.
    follower.asks = state_dir is not None
    return Lines(follower)
