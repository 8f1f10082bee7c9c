# SPDX-License-Identifier: BSD-3-Clause
"""Read what jobs of several runs of one user left, in one call of cat.

SLURM answers for the jobs of all runs at once. So the run that looks first knows which jobs of the user's other runs
have ended, too. It reads their files with its own, and writes what they say to the journal of each run. Those runs find
it there at their next turn. This is safe because a user has one turn at a time, whichever run it belongs to.

Only files without any trouble are read this way. After an odd line, a file that is closed or one that never ends, each
run of the user reads its own for a while, and says what is wrong with them.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from ..errors import ClusterError, RunError
from ..process import slices
from .collect import Collector, most_records, sort_line
from .model import JobRow, JobState
from .records import Kind

# After trouble with a user's files each run reads its own for so many seconds.
_ALONE_S = 300.0


class _Part(NamedTuple):
    """Jobs of one run that have ended."""

    collector: Collector
    jobs: list[JobRow]


class Together:
    """The runs of one process, by user, whose results are read together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: dict[str, dict[Collector, Callable[[], None]]] = {}
        self._alone_until: dict[str, float] = {}

    def join(self, collector: Collector, hurry: Callable[[], None]) -> None:
        """Take a run in.

        Args:
            collector: The run's.
            hurry: Lets the run have a turn soon: results of its jobs were read.
        """
        with self._lock:
            self._members.setdefault(collector.run.user, {})[collector] = hurry

    def leave(self, collector: Collector) -> None:
        """Let a run go, which need not be in."""
        user = collector.run.user
        with self._lock:
            members = self._members.get(user, {})
            members.pop(collector, None)
            if not members:
                self._members.pop(user, None)
                self._alone_until.pop(user, None)

    def collect(self, collector: Collector, jobs: Sequence[JobRow], now: float) -> None:
        """Read the results of jobs of one run, in its turn; and those of jobs of the user's other runs that ended.

        Raises:
            ClusterError: The run's own results can't be read now.
            Interrupted: Its driver has something else to do.
        """
        jobs = [job for job in jobs if not collector.was_read_ahead(job)]
        if not jobs:
            return
        if self._may_share(collector, jobs, now):
            parts = self._ended_elsewhere(collector, now)
            if parts:
                if self._read([_Part(collector, list(jobs)), *parts]):
                    self._tell(parts)
                    return
                with self._lock:
                    self._alone_until[collector.run.user] = now + _ALONE_S
        collector.collect(jobs, now)

    def _may_share(self, collector: Collector, jobs: Sequence[JobRow], now: float) -> bool:
        """Whether the files of these jobs may be read with others: all are written to the end, and as expected."""
        with self._lock:
            if now < self._alone_until.get(collector.run.user, 0.0):
                return False
        return all(job.state is JobState.ENDED and not collector.is_unlisted(job, now) for job in jobs)

    def _ended_elsewhere(self, collector: Collector, now: float) -> list[_Part]:
        """The jobs of the user's other runs that have ended, as SLURM's last answer says."""
        with self._lock:
            others = [other for other in self._members.get(collector.run.user, ()) if other is not collector]
        parts = []
        for other in others:
            over = other.run.queue.over(other.run.id)
            if not over or other.run.hidden:
                continue
            try:
                jobs = [job for job in other.run.journal.jobs(JobState.SUBMITTED) if job.slurm_job_id in over]
            except (OSError, sqlite3.Error):
                continue  # it says so itself, in its own turn
            jobs = [job for job in jobs if other.may_read_ahead(job, now)]
            if jobs:
                parts.append(_Part(other, jobs))
        return parts

    def _read(self, parts: Sequence[_Part]) -> bool:
        """Read the files of the first run, and of others of its user, in one call; write what they say to the journals.

        Returns:
            Whether all is well with all of them. Else each is to read its own, from the beginning.

        Raises:
            Interrupted: The driver of the first has something else to do.
        """
        asking = parts[0].collector
        owners: dict[str, Collector] = {}
        paths: list[str] = []
        for collector, jobs in parts:
            paths += collector.start(jobs)
            owners |= dict.fromkeys((job.token for job in jobs), collector)
        all_jobs = [job for part in parts for job in part.jobs]
        closed: dict[str, str] = {}
        left = most_records(all_jobs)
        began = time.monotonic()
        try:
            lines = asking.read(
                paths,
                closed,
                longest=max(collector.longest for collector, _jobs in parts),
                room=sum(collector.room(jobs) for collector, jobs in parts),
            )
            for some in slices(lines):
                asking.run.heed()
                with ExitStack() as stack:
                    begun = set[Collector]()
                    for line in some:
                        kind, record = sort_line(line, owners)
                        left -= kind is not Kind.BEAT
                        if kind in (Kind.TORN, Kind.FOREIGN) or left <= 0:
                            return False
                        collector = owners[record["token"]]
                        if collector not in begun:
                            stack.enter_context(collector.run.journal.transaction())
                            begun.add(collector)
                        collector.take(kind, record, line)
        except (ClusterError, RunError, OSError, sqlite3.Error):
            return False  # whose trouble it is says so itself
        asking.read_s = time.monotonic() - began
        return not closed

    def _tell(self, parts: Sequence[_Part]) -> None:
        """Note that the results of these jobs were read, and let their runs see to them."""
        for collector, jobs in parts:
            collector.note_read_ahead(jobs)
            with self._lock:
                hurry = self._members.get(collector.run.user, {}).get(collector)
            if hurry is not None:
                hurry()
