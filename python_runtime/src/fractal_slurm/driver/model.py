# SPDX-License-Identifier: BSD-3-Clause
"""What a run consists of: its jobs and tasks, and the states that they can be in. Nothing here does anything.

The states are words, in the journal and in JSON as well as here: ``JobState.PLANNED == "planned"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from ..config.resolve import SlurmConfig
from ..jobs.script import JobSettings

# What the clock's functions take, in seconds since the epoch.
Time = Annotated[float, Field(ge=0, lt=10**11, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


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
class Metas:
    """What a spec asked for: ``task_meta``, the task's own, and ``meta``, the run's."""

    task_meta: Mapping[str, Any]
    meta: Mapping[str, Any]


class JobNote(NamedTuple):
    """What SLURM said of a job last.

    Attributes:
        state: SLURM's word for its state.
        reason: Why it waits, in SLURM's word; empty where it does not.
        node: The node of its script.
    """

    state: str
    reason: str
    node: str


class Wait(NamedTuple):
    """What a driver waits for.

    Attributes:
        words: What it is, a sentence.
        since: Since when, in seconds since the epoch.
    """

    words: str
    since: Time


@dataclass(frozen=True)
class RunRecord:
    """What a run is, and what its driver has to know of it as a whole. Times are in seconds since the epoch.

    Attributes:
        run_id: Its id.
        created: When it was made.
        user: As whom its jobs run.
        task_name: The name of its task.
        tasks: How many tasks it has.
        run_folder: Its folder, in the user's work folder.
        config: The merged config, with the batching that holds.
        sources: Option to where its value came from, as ``explain`` shows it; empty in journals of older versions.
        job_settings: What the scripts of its jobs have in common.
        settings: Our own settings as they were when it began, for a person.
        hides_jobs: Whether SLURM hides its jobs from this account.
        state: How far it is.
        ended: When it ended, if it did.
        cancelled: Whether it was cancelled.
        refusal: Why nothing more is submitted, if that is so.
        refusals: All that it was refused for since it was last taken up. By these words its tasks are found again.
        bad_nodes: Nodes that are left out, and why.
        nodes_agree: Nodes on which its jobs died before their first task.
        unclaimed: Tokens of jobs whose claims are ours: they never run.
        alone: Tasks that are to run in a job that runs one task at a time.
        folder_made: Whether its folder was made.
        clear_preload: Whether jobs are submitted without the LD_PRELOAD that sudo gives to sbatch.
        fork_off: Why tasks of later jobs start in new processes, if they do.
        read_back: Whether it was looked at what the site made of its first job.
        renamed: Whether the site renames jobs, so that they are told by their ids alone.
        probe_works: Whether SLURM told once that a hidden job is there.
        srun_steps: How many steps its jobs had.
        forked: How many tasks ran in forks.
        labels: What the program that began it wants to find with it later.
        job_notes: What SLURM said last of the jobs in flight, by token, for whoever looks at the run.
        waits: What its driver waits for, by kind, for whoever looks at the run.
        retry_of: The run whose tasks it runs again, if it does.
        retry_tasks: Which task of the first run each of its tasks is, if it is a retry.
        metas: The metas of its spec, for a retry; None in journals of older versions.
        startups: Of some tasks: the seconds until they read their args, and those that they took in all.
    """

    run_id: str
    created: Time
    user: str
    task_name: str
    tasks: Count
    run_folder: str
    config: SlurmConfig
    job_settings: JobSettings
    settings: Mapping[str, Any]
    hides_jobs: bool
    state: RunState = RunState.PLANNED
    sources: Mapping[str, str] = field(default_factory=dict)
    ended: Time | None = None
    cancelled: bool = False
    refusal: str | None = None
    refusals: tuple[str, ...] = ()
    bad_nodes: Mapping[str, str] = field(default_factory=dict)
    nodes_agree: tuple[str, ...] = ()
    unclaimed: tuple[str, ...] = ()
    alone: tuple[Count, ...] = ()
    folder_made: bool = False
    clear_preload: bool = False
    fork_off: str | None = None
    read_back: bool = False
    renamed: bool = False
    probe_works: bool = False
    srun_steps: Count = 0
    forked: Count = 0
    labels: Mapping[str, Any] = field(default_factory=dict)
    job_notes: Mapping[str, JobNote] = field(default_factory=dict)
    waits: Mapping[str, Wait] = field(default_factory=dict)
    retry_of: str | None = None
    retry_tasks: tuple[Count, ...] = ()
    metas: Metas | None = None
    startups: tuple[tuple[float, float], ...] = ()


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
