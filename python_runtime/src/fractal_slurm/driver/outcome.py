# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of the tasks that a job left unfinished, by how the job ended. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..cluster.commands import NODE_FAULTS, SlurmState

# A state of ours: SLURM does not know the job any more, and nothing tells how it ended.
LOST = "LOST"


# So many nodes on which jobs died before their first task, and none on which one did not, say that it is the job.
NODES_THAT_AGREE = 3
# States in which a job that died by itself, or by its node, is before its first task.
DIED = frozenset({SlurmState.COMPLETED, SlurmState.FAILED, SlurmState.TIMEOUT})


class Action(Enum):
    """What becomes of a task."""

    AGAIN = "again"  # it never started, and others of its job did end: into a new job
    RETRY = "retry"  # the same, but counted: max_node_retries bounds it
    ALONE = "alone"  # it ran when its job was ended for what one task did: into a new job, one at a time
    FAIL = "fail"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Verdict:
    """The fate of the unfinished tasks of a job.

    Attributes:
        running: What becomes of those that ran, or may have run, when the job ended.
        waiting: What becomes of those that surely had not started.
        words: Why, in words for a person.
    """

    running: Action
    waiting: Action
    words: str


def judge(
    *,
    state: str,
    reason: str,
    job: str,
    slots: int,
    began: bool,
    progress: bool,
    worker_end: str | None,
    cancelled_by_us: bool,
    node: str = "",
) -> Verdict:
    """Decide on the unfinished tasks of a job.

    Args:
        state: The job's last state: one of squeue(1)'s final ones, or :data:`LOST`.
        reason: SLURM's reason.
        job: How to name the job in words.
        slots: How many of its tasks ran at the same time.
        began: Whether its worker started.
        progress: Whether at least one of its tasks ended.
        worker_end: Why the worker ended by itself, or could not begin, where that is known.
        cancelled_by_us: Whether this run was cancelled.
        node: The node to blame for a job that died before its first task, if there is one.
    """
    again = Action.AGAIN if progress else Action.RETRY
    because = f" ({reason})" if reason not in ("", "None", "exit 0:0") else ""
    if cancelled_by_us:
        return Verdict(Action.NOT_RUN, Action.NOT_RUN, "the run was cancelled")
    if state == SlurmState.CANCELLED:
        who = f" {reason}" if reason.startswith("by ") else because or " from outside"
        return Verdict(Action.NOT_RUN, Action.NOT_RUN, f"{job} was cancelled{who}")
    if state == SlurmState.DEADLINE:
        return Verdict(Action.NOT_RUN, Action.NOT_RUN, f"{job} was ended by its deadline")
    if state in NODE_FAULTS:
        return Verdict(Action.RETRY, again, f"{job} was lost with its node: {state}{because}")
    where = f", on {node}" if node else ""
    if state == SlurmState.TIMEOUT and not began and node:
        return Verdict(Action.RETRY, Action.RETRY, f"{job} did not come to its first task in its time{where}")
    if state == SlurmState.TIMEOUT:
        return Verdict(Action.FAIL, again, f"{job} was ended by its time limit (TIMEOUT)")
    if not began:
        if state == SlurmState.FAILED and worker_end is not None:
            return Verdict(Action.RETRY, Action.RETRY, f"{job}: {worker_end}{where}")
        if state == SlurmState.FAILED:
            words = f"{job} failed before its first task started{because}{where}"
            return Verdict(*(Action.RETRY, Action.RETRY) if node else (Action.FAIL, Action.FAIL), words)
        if state == SlurmState.OUT_OF_MEMORY:
            return Verdict(Action.FAIL, Action.FAIL, f"{job} ran out of memory before its first task started")
        return Verdict(Action.RETRY, Action.RETRY, f"{job} ended without a trace ({state}){because}{where}")
    if state in (SlurmState.OUT_OF_MEMORY, SlurmState.FAILED):
        if worker_end is not None and state == SlurmState.FAILED:
            return Verdict(Action.RETRY, again, f"{job}: {worker_end}")
        # With one slot there is no doubt who it was, and that is as good as progress for those behind.
        culprit = Action.FAIL if slots == 1 else Action.ALONE
        what = "ran out of memory" if state == SlurmState.OUT_OF_MEMORY else f"was killed or failed{because}"
        return Verdict(culprit, Action.AGAIN, f"{job} {what}")
    if state == SlurmState.COMPLETED and worker_end is not None:
        return Verdict(Action.RETRY, Action.AGAIN if progress else Action.RETRY, f"{job}: {worker_end}")
    return Verdict(Action.RETRY, again, f"{job} ended, and its results did not come ({state}){because}")
