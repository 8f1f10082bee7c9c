# SPDX-License-Identifier: BSD-3-Clause
"""The states of jobs, for all who ask at about the same time: one squeue, and one sacct for those that it forgot."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from ..errors import ClusterError
from .commands import Slurm, SlurmJob


class Queue:
    """What SLURM says of jobs.

    Runs that share one ask together: whoever asks does so for the jobs of all of them, and the others take the answer
    if it is new enough. So slurmctld is asked as often as by one run.

    Args:
        slurm: The cluster.
        fresh_s: For so many seconds an answer is new enough for others. 0 for a run that is alone.
    """

    def __init__(self, slurm: Slurm, *, fresh_s: float = 0.0) -> None:
        self._slurm = slurm
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._wanted: dict[str, frozenset[str]] = {}  # by run
        self._asked: frozenset[str] = frozenset()
        self._asked_at = float("-inf")
        self._states: dict[str, SlurmJob] = {}
        self._trouble: ClusterError | None = None

    @property
    def answer_s(self) -> float:
        """How long it takes slurmctld to answer, in seconds."""
        return self._slurm.squeue_s

    @property
    def calls(self) -> int:
        """Number of squeue calls so far."""
        return self._slurm.squeue_calls

    def states(self, run_id: str, job_ids: Sequence[str]) -> dict[str, SlurmJob | None]:
        """How jobs are; None for those that neither squeue nor the accounting knows.

        Jobs that are newer than the answer are left out: nothing is known of them yet.

        Args:
            run_id: Who asks.
            job_ids: The jobs of the run that are out.

        Raises:
            ClusterError: slurmctld does not answer, or squeue can't be run.
        """
        called = time.monotonic()
        with self._lock:
            self._wanted[run_id] = frozenset(job_ids)
            # An answer that was asked for while this call waited is as new as can be.
            if self._asked_at <= called - self._fresh_s:
                self._ask(frozenset().union(*self._wanted.values()))
            if self._trouble is not None:
                raise type(self._trouble)(str(self._trouble))
            return {job_id: self._states.get(job_id) for job_id in job_ids if job_id in self._asked}

    def add(self, run_id: str, job_id: str) -> None:
        """A run has another job out: whoever asks next asks for it, too.

        Args:
            run_id: The run.
            job_id: The job.
        """
        with self._lock:
            self._wanted[run_id] = self._wanted.get(run_id, frozenset()) | {job_id}

    def leave(self, run_id: str) -> None:
        """A run asks no more."""
        with self._lock:
            self._wanted.pop(run_id, None)

    def _ask(self, job_ids: frozenset[str]) -> None:
        self._asked, self._asked_at, self._trouble = job_ids, time.monotonic(), None
        try:
            self._states = self._slurm.squeue(sorted(job_ids))
        except ClusterError as trouble:
            self._trouble = trouble
            return
        missing = sorted(job_ids - set(self._states))
        if missing:
            # Gone from slurmctld after MinJobAge: the accounting may know, or else the result files tell.
            self._states |= {job_id: state for job_id, state in self._slurm.sacct(missing).items() if state.is_final}
