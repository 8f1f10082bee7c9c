# SPDX-License-Identifier: BSD-3-Clause
"""What a program that embeds the engine is told of its runs and their tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .journal import Journal, record_of
from .model import TaskEnd as StoredEnd
from .model import TaskState

RunState = Literal["waiting", "running", "done", "cancelled", "refused", "left", "broken"]


@dataclass(frozen=True)
class TaskEnd:
    """How a task ended.

    Attributes:
        run_id: The run that it belongs to.
        index: Which of the run's tasks, from 0.
        state: ``succeeded``; ``failed``; or ``not_run``: it never ran, for the reason told.
        reason: Why it did not succeed, in words.
        out: Its out-JSON; None if it wrote none.
        exit_code: What it ended with, if it did.
        signal: The signal that ended it, if one did.
        log_tail: The end of what it printed.
        log_bytes: The length of all that it printed.
        seconds: How long it ran.
        host: Where.
        job_id: The SLURM job that it ran in.
    """

    run_id: str
    index: int
    state: Literal["succeeded", "failed", "not_run"]
    reason: str | None = None
    out: Any = None
    exit_code: int | None = None
    signal: int | None = None
    log_tail: str = ""
    log_bytes: int = 0
    seconds: float = 0.0
    host: str = ""
    job_id: str | None = None


@dataclass(frozen=True)
class RunEnd:
    """How a run ended.

    Attributes:
        run_id: Its id, for ``fractal-slurm report``.
        state: ``done``: every task has an end. ``cancelled``. ``refused``: SLURM took no more jobs. ``left``: it is
            not driven any more, its jobs go on, and it can be resumed.
        succeeded: Number of tasks, as are ``failed`` and ``not_run``.
        job_ids: The SLURM jobs that were submitted, in order.
        refusal: Why SLURM took no more jobs, in words.
        sudo_calls: How often sudo was called.
    """

    run_id: str
    state: RunState
    succeeded: int
    failed: int
    not_run: int
    job_ids: tuple[int, ...]
    refusal: str | None = None
    sudo_calls: int = 0


@dataclass(frozen=True)
class StoredRun:
    """A run as the state folder has it.

    Attributes:
        run_id: Its id.
        user: As whom it runs.
        labels: As its :class:`RunRequest` had them.
        has_ended: Whether every task has an end.
        is_driven: Whether a process drives it at the moment.
    """

    run_id: str
    user: str
    labels: Mapping[str, Any]
    has_ended: bool
    is_driven: bool


def task_end(run_id: str, end: StoredEnd) -> TaskEnd:
    """A task's end, out of the worker's record. That is the user's: believed, and never trusted in its form."""
    record = record_of(end.record)
    seconds, log = record.get("seconds"), record.get("log")
    return TaskEnd(
        run_id=run_id,
        index=end.index,
        state=end.state.value,  # type: ignore[arg-type]
        reason=end.reason,
        out=record.get("out"),
        exit_code=record.get("exit"),
        signal=record.get("signal"),
        log_tail=record.get("tail") or "",
        log_bytes=log[1] if log else 0,
        seconds=float(seconds) if seconds is not None else 0.0,
        host=record.get("host") or "",
        job_id=record.get("job"),
    )


def run_end(journal: Journal, state: RunState, *, refusal: str | None = None, sudo_calls: int = 0) -> RunEnd:
    """How a run ended, out of its journal."""
    counts = journal.counts()
    succeeded, failed, not_run = (
        counts.get(each, 0) for each in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.NOT_RUN)
    )
    return RunEnd(journal.record.run_id, state, succeeded, failed, not_run, job_ids_of(journal), refusal, sudo_calls)


def job_ids_of(journal: Journal) -> tuple[int, ...]:
    """The SLURM jobs of a run that were submitted, in order."""
    return tuple(int(job.slurm_job_id) for job in journal.jobs() if job.slurm_job_id)
