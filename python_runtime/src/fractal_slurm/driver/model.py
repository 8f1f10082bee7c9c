# SPDX-License-Identifier: BSD-3-Clause
"""What a run consists of: its jobs and tasks, and the states that they can be in. Nothing here does anything.

The states are words, in the journal and in JSON as well as here: ``JobState.PLANNED == "planned"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Word(str, Enum):
    """A word out of a closed list. It is written, compared and stored as the word alone."""

    def __str__(self) -> str:
        return str(self.value)


class RunState(Word):
    """How far a run is."""

    PLANNED = "planned"  # the journal is made, nothing is submitted
    DRIVEN = "driven"  # a driver took it up
    DONE = "done"  # every task has an end
    CANCELLED = "cancelled"
    REFUSED = "refused"  # SLURM or sudo refused what no waiting cures

    # Not in a journal: what is made of one when it is looked at.
    INTERRUPTED = "interrupted"  # not ended, and nobody drives it
    DAMAGED = "damaged"  # some of its journal can't be read
    UNKNOWN = "unknown"  # this word of its journal can't be read


class JobState(Word):
    """How far a job of ours is. What SLURM calls its state is something else: :attr:`JobRow.slurm_state`."""

    PLANNED = "planned"  # it has its tasks
    SUBMITTING = "submitting"  # sbatch may have been called; its answer is not known
    SUBMITTED = "submitted"  # SLURM has it, under an id
    ENDED = "ended"  # it is over; its results may not have come yet
    COLLECTED = "collected"  # its results came, and each of its tasks was decided on
    ABANDONED = "abandoned"  # it was never submitted, or is shut out: its tasks went elsewhere, or do not run
    REFUSED = "refused"  # its script is too large for the cluster, with one task


class TaskState(Word):
    """How far a task is."""

    WAITING = "waiting"  # it has not run, or runs
    CUT = "cut"  # its job was ended under it; what becomes of it is decided when the job is
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    NOT_RUN = "not_run"  # the run was cancelled or refused before it ran


# States of a run that are its end.
ENDED = frozenset({RunState.DONE, RunState.CANCELLED, RunState.REFUSED})
# States of a task that are its end, and the others.
FINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.NOT_RUN})
UNFINISHED = (TaskState.WAITING, TaskState.CUT)
# States of a job that may be in SLURM.
IN_FLIGHT = (JobState.SUBMITTING, JobState.SUBMITTED)


@dataclass(frozen=True)
class JobRow:
    """One submission of a batch of tasks.

    Attributes:
        token: Its name of 16 hexadecimal digits, part of its job name in SLURM.
        number: Its number in the run, from 1.
        state: How far it is.
        slurm_job_id: SLURM's id, once it is known.
        slurm_state: SLURM's word for its state; :data:`~fractal_slurm.driver.outcome.LOST` where SLURM lost it.
        reason: Why it is in this state, by SLURM or by us.
        tasks: How many tasks it was given.
        slots: How many of them run at the same time, where that is not the config's number.
        nodes: On how many nodes it runs.
        submitted_at: When it was submitted, in seconds since the epoch.
        began_at: When SLURM started it.
        ended_at: When it was seen to be over.
    """

    token: str
    number: int
    state: JobState
    slurm_job_id: str | None
    slurm_state: str | None
    reason: str | None
    tasks: int
    slots: int | None
    nodes: int
    submitted_at: float | None
    began_at: float | None
    ended_at: float | None

    @property
    def may_be_out(self) -> bool:
        """Whether SLURM has, had or may have this job."""
        return self.slurm_job_id is not None or self.state is JobState.SUBMITTING


@dataclass(frozen=True)
class TaskRow:
    """One task.

    Attributes:
        index: Its place among the parameters of the spec, from 0.
        attempt: How often it was set up again. A record of another attempt does not count.
        token: The job that it belongs to, if there is one.
        state: How far it is.
        retries: How often it was run again for its own failure.
        node_retries: How often it was run again for a fault of its node or job.
        reason: Why it did not succeed.
        record: The worker's record of its end, JSON.
        args: Its args-JSON, one line.
    """

    index: int
    attempt: int
    token: str | None
    state: TaskState
    retries: int
    node_retries: int
    reason: str | None
    record: str | None
    args: str


class TaskLine(NamedTuple):
    """A task as the script of a job has it: its index, its attempt and its args-JSON (see :class:`TaskRow`)."""

    task: int
    attempt: int
    args: str


@dataclass(frozen=True)
class TaskEnd:
    """A task that came to its end: fields as in :class:`TaskRow`."""

    index: int
    state: TaskState
    reason: str | None
    record: str | None


class EventRow(NamedTuple):
    """Something that happened.

    Attributes:
        at: When, in seconds since the epoch.
        what: What, in a word or two.
        subject: To whom: a token, a host, the run.
        detail: More of it, as a sentence or as JSON.
    """

    at: float
    what: str
    subject: str
    detail: str
