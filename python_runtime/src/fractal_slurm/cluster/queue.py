# SPDX-License-Identifier: BSD-3-Clause
"""Ask SLURM for the states of jobs. Several runs share one squeue, and one sacct for jobs that squeue does not know."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from ..errors import ClusterError
from .commands import Slurm, SlurmJob


class Queue:
    """The states of jobs, as SLURM reports them.

    Several runs can share one object. If one run asks, it asks for the jobs of all runs. The other runs use the same
    answer if it is new enough. So slurmctld gets no more questions than from a single run.

    Args:
        slurm: The cluster.
        fresh_s: Seconds for which other runs may use an answer. 0 if there is only one run.
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
        """Seconds that slurmctld needs for an answer."""
        return self._slurm.squeue_s

    @property
    def calls(self) -> int:
        """Number of squeue calls so far."""
        return self._slurm.squeue_calls

    def states(self, run_id: str, job_ids: Sequence[str]) -> dict[str, SlurmJob | None]:
        """Return the states of jobs. The state is None if neither squeue nor the accounting knows the job.

        Jobs that were submitted after the last question to SLURM are left out: nothing is known of them yet.

        Args:
            run_id: The run that asks.
            job_ids: The submitted jobs of this run that have not ended.

        Raises:
            ClusterError: slurmctld does not answer, or squeue can't be run.
        """
        called = time.monotonic()
        with self._lock:
            self._wanted[run_id] = frozenset(job_ids)
            # If another run asked while this call waited for the lock, its answer is new enough.
            if self._asked_at <= called - self._fresh_s:
                self._ask(frozenset().union(*self._wanted.values()))
            if self._trouble is not None:
                raise type(self._trouble)(str(self._trouble))
            return {job_id: self._states.get(job_id) for job_id in job_ids if job_id in self._asked}

    def add(self, run_id: str, job_id: str) -> None:
        """Note that a run has submitted a job. The next question to SLURM includes this job.

        Args:
            run_id: The run.
            job_id: The job.
        """
        with self._lock:
            self._wanted[run_id] = self._wanted.get(run_id, frozenset()) | {job_id}

    def leave(self, run_id: str) -> None:
        """Note that a run asks no more."""
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
            # slurmctld forgets a job after MinJobAge. The accounting may know it. If not, the result files say more.
            self._states |= {job_id: state for job_id, state in self._slurm.sacct(missing).items() if state.is_final}
