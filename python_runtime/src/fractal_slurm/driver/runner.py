# SPDX-License-Identifier: BSD-3-Clause
"""Drive a run: submit, track, collect, try again, cancel. All it needs to know is in the journal.

The loop is the same for a new run and for one whose driver died: every act is journalled before it is done,
so whatever state the journal shows, the loop goes on from there.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..cluster.commands import Silence, Slurm, SlurmState
from ..cluster.queue import Queue
from ..config.walltime import format_walltime
from ..errors import ClusterError, count_of
from ..jobs.layout import claim_path, stop_path
from ..settings import Settings
from ..sudo import Interrupted
from .collect import Collector
from .context import NO_ANSWER, Run
from .journal import Journal, record_of
from .model import IN_FLIGHT, JobRow, JobState, RunState, TaskState
from .settle import Settler
from .submit import Submitter
from .tally import Tally
from .together import Together
from .track import Tracker


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    tasks: int
    succeeded: int
    failed: int
    not_run: int
    jobs_waiting: int
    jobs_running: int
    jobs_planned: int
    jobs_ended: int
    elapsed_s: float


class Detached(Exception):
    """The driver was told to leave the jobs alone."""


class Runner:
    """Drives one run to its end.

    Args:
        journal: The run's journal, locked.
        settings: Our own settings.
        slurm: The cluster.
        say: Takes sentences for a person.
        show: Takes the progress, whenever it changed or a second went by.
        queue: Tells how jobs are; None for one of this run's own.
        most_at_once: Jobs that are submitted in one turn; None for all that there is room for.
        together: Reads results for all runs of a user; None if there is only this one.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        slurm: Slurm,
        *,
        say: Callable[[str], None],
        show: Callable[[Progress], None] | None = None,
        queue: Queue | None = None,
        most_at_once: int | None = None,
        together: Together | None = None,
    ) -> None:
        self.run = Run(journal, settings, slurm, say=say, queue=queue)
        self.collector = Collector(self.run)
        self.submitter = Submitter(self.run, self.collector, most_at_once=most_at_once)
        self.tracker = Tracker(self.run, self.collector, Settler(self.run, self.collector), together or Together())
        self.show = show
        self.tally = Tally(journal)
        self.began = time.monotonic()
        self.next_poll = self.began
        self.last_shown = 0.0
        self.failing: dict[str, float] = {}  # steps that are in trouble, with the time since when
        self.marked: set[str] = set()  # jobs that were told to end
        self.cancelled_ids: set[str] = set()  # jobs that SLURM was told to end
        self.cancel_deadline = self.began + settings.cancel_grace_s  # when those go to scancel that do not heed it
        self.has_folder = False
        self.told_of_cancel = False

    def drive(self) -> None:
        """Go on until every task has an end.

        Raises:
            FractalSlurmError: The user's folder can't be made, or sudo refuses, and no job is out yet.
            Detached: The second interrupt: jobs go on without a driver.
        """
        self.begin()
        while self.turn():
            self.wait()

    def begin(self) -> None:
        """What comes before the first turn.

        Raises:
            FractalSlurmError: The user's folder can't be made, or sudo refuses, and no job is out yet.
        """
        self.has_folder = not self.run.has_work() or self.guarded(self.run.make_folder)
        if self.run.hidden:
            self.run.say(
                "SLURM shows this account its own jobs only (PrivateData): the jobs of this run are followed "
                "by their result files"
            )
        self.run.journal.write(replace(self.run.record, state=RunState.DRIVEN))
        self.run.notes.write()
        self.run.quota.keep()
        self.next_poll = time.monotonic() + 0.3

    def turn(self) -> bool:
        """One round: submit what can be submitted, and look if a look is due. Returns whether there is more to do.

        Raises:
            FractalSlurmError: As :meth:`drive` does.
            Detached: The second interrupt: jobs go on without a driver.
        """
        if self.run.detach_requested:
            self.run.quota.withdraw()
            raise Detached
        if self.run.cancel_at is not None and not self.told_of_cancel and not self.run.cancelled:
            self.told_of_cancel = True
            left = self.run.cancel_at - time.monotonic()
            if left > 0:
                self.run.say(f"cancelling in {left:.0f} s; Ctrl-C again leaves the jobs running")
        if self.run.cancel_is_due() and not self.run.cancelled:
            self.cancel()
        self.submitter.plan_again()
        if self.run.may_ask():
            self.guarded(self.submitter.settle_unknown)
        if self.run.cancelled and self.run.may_ask():
            self.guarded(self.pursue_cancel)
        elif self.has_folder and self.run.may_ask():
            self.guarded(self.submitter.submit_some)
        if time.monotonic() >= self.next_poll and self.run.may_ask():
            self.guarded(self.tracker.poll)
            self.next_poll = time.monotonic() + self.tracker.pause()
        if not self.has_folder and self.run.may_ask():
            self.has_folder = self.guarded(self.run.make_folder)
        self.run.quota.keep()
        if self.run.has_work():
            self.report()
            return True
        ended = RunState.CANCELLED if self.run.cancelled else RunState.REFUSED if self.run.refusal else RunState.DONE
        self.run.journal.write(replace(self.run.record, state=ended, ended=time.time()))
        self.run.notes.end()
        self.report(force=True)
        return False

    def note_end(self) -> None:
        """After an error of :meth:`drive`: a run of which no job is out has ended, refused. Another can be resumed."""
        if not self._has_jobs_out():
            journal = self.run.journal
            journal.write(replace(journal.record, state=RunState.REFUSED))

    def _has_jobs_out(self) -> bool:
        """Whether a job of the run may be in SLURM."""
        return any(job.may_be_out for job in self.run.journal.jobs())

    def interrupt(self, delay_s: float = 0.0) -> None:
        """Cancel the run after a while, or, when that was asked for already, leave its jobs alone and stop driving.

        Args:
            delay_s: Seconds in which a second call still leaves all jobs as they are.
        """
        if self.run.cancel_at is None:
            self.run.cancel_at = time.monotonic() + delay_s
        else:
            self.run.detach_requested = True

    def leave(self) -> None:
        """Leave the jobs alone and stop driving, at the next occasion: the run can be resumed."""
        self.run.detach_requested = True

    def guarded(self, step: Callable[[], None]) -> bool:
        """Do a step; if SLURM is silent, or the user's side is in trouble, say so once and try again later.

        Returns:
            Whether it is done.

        Raises:
            ClusterError: There is trouble, and no job is out yet that would be left alone; or it does not pass.
        """
        name = getattr(step, "__name__", "")
        try:
            step()
        except Interrupted:
            return False
        except Silence as silence:
            self.run.outage(f"{NO_ANSWER} ({silence}): waiting; running jobs go on")
        except ClusterError as error:
            if not self._has_jobs_out():
                raise
            began = self.failing.setdefault(name, time.monotonic())
            if time.monotonic() - began > self.run.settings.refusal_wait_s:
                raise ClusterError(
                    f"{error}: it did not pass within {format_walltime(self.run.settings.refusal_wait_s)} "
                    f"(refusal_wait_s in our settings); no task is lost: fractal-slurm resume {self.run.id}"
                ) from None
            self.run.outage(f"{error}: trying again")
        else:
            self.failing.pop(name, None)
            if step == self.tracker.poll and not self.failing:
                self.run.outage_is_over()
            return True
        return False

    def due(self) -> float:
        """When the next turn is due, as a monotonic time. An interrupt comes before."""
        due = self.next_poll
        # Also if that is over by now: it is taken back with the next try.
        if self.run.full_until and self.has_folder and not self.run.cancelled and not self.run.refusal:
            due = min(due, self.run.full_until)
        if self.run.outage_until:
            due = max(due, self.run.outage_until)
        if self.run.cancel_at is not None and not self.run.cancelled:
            due = min(due, self.run.cancel_at)
        return 0.0 if self.submitter.has_more and self.run.may_ask() else due

    def hurry(self) -> None:
        """Let the next turn look at the jobs. Not called during a turn."""
        self.next_poll = min(self.next_poll, time.monotonic())

    def wait(self) -> None:
        """Sleep until something is due, or an interrupt comes."""
        due = self.due()
        while not self.run.detach_requested and (self.run.cancelled or not self.run.cancel_is_due()):
            left = due - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.1, left))
            self.report()

    def report(self, *, force: bool = False) -> None:
        """Show the progress, at most once a second unless ``force`` is set."""
        now = time.monotonic()
        if self.show is None or (not force and now - self.last_shown < 1.0):
            return
        self.last_shown = now
        self.show(self.progress())

    def progress(self) -> Progress:
        """How far the run is now."""
        counts = self.tally.counts()
        states = [sighting.state for sighting in self.run.sightings.values()]
        jobs = Counter(job.state for job in self.run.journal.jobs())
        running = sum(state in (SlurmState.RUNNING, SlurmState.COMPLETING) for state in states)
        return Progress(
            tasks=sum(counts.values()),
            succeeded=counts[TaskState.SUCCEEDED],
            failed=counts[TaskState.FAILED],
            not_run=counts[TaskState.NOT_RUN],
            jobs_waiting=max(0, sum(jobs[state] for state in IN_FLIGHT) - running),
            jobs_running=running,
            jobs_planned=jobs[JobState.PLANNED],
            jobs_ended=jobs[JobState.COLLECTED] + jobs[JobState.ENDED],
            elapsed_s=time.time() - self.run.record.created,
        )

    def cancel(self) -> None:
        """Cancel the run: submit nothing more. :meth:`pursue_cancel` then ends the jobs that SLURM has."""
        self.run.notes.wait("room", "")
        self.run.notes.wait("limit", "")
        with self.run.journal.transaction():
            self.run.journal.write(replace(self.run.record, cancelled=True))
            self.run.journal.event("cancel")
        live = self.run.journal.jobs(*IN_FLIGHT)
        if live:
            self.run.say(f"cancelling {count_of(len(live), 'job')}; results of finished tasks are kept")
        now = time.monotonic()
        self.cancel_deadline = now + self.run.settings.cancel_grace_s
        self.run.last_submission = self.next_poll = now

    def pursue_cancel(self) -> None:
        """End the jobs that SLURM has: first a mark that asks their workers to end, later scancel in one call.

        Raises:
            ClusterError: A step failed; the next call does it again.
        """
        live = self.run.journal.jobs(JobState.SUBMITTED)
        due = time.monotonic() >= self.cancel_deadline
        try:
            self.mark([job for job in live if job.token not in self.marked])
        except ClusterError as error:
            if not due:
                raise
            self.run.say_once(f"{error}: only scancel ends these jobs now")
        running = [job for job in live if job.token not in self.run.record.unclaimed]
        left = [job for job in live if job.slurm_job_id and job.slurm_job_id not in self.cancelled_ids]
        if left and (due or not running):
            ids = [job.slurm_job_id or "" for job in left]
            self.run.slurm.cancel(self.run.user, ids)
            self.cancelled_ids |= set(ids)
            self.cancel_deadline = time.monotonic() + self.run.settings.cancel_grace_s
            self.next_poll = time.monotonic()
        elif self.run.hidden and not left:
            for job in live:
                if due or job.token in self.run.record.unclaimed:
                    self.run.job_ended(job, SlurmState.CANCELLED, "", nodes=job.nodes)

    def mark(self, jobs: Sequence[JobRow]) -> None:
        """Make the marks that ask the workers of jobs to end.

        Raises:
            ClusterError: The marks can't be made.
        """
        if not jobs:
            return
        claims = [claim_path(self.run.folder, job.token) for job in jobs]
        marks = [stop_path(self.run.folder, job.token) for job in jobs]
        free = self.run.take_names([*claims, *marks])
        self.marked |= {job.token for job in jobs}
        # A job whose claim the driver just took has not begun, and it never will: to begin, it must take the claim.
        unclaimed = {job.token for job, ours in zip(jobs, free, strict=False) if ours}
        record = self.run.record
        self.run.journal.write(replace(record, unclaimed=tuple(sorted(unclaimed.union(record.unclaimed)))))

    def summary(self) -> dict[str, Any]:
        """The outcome of the run, as the command line prints it with --json."""
        return summary_of(
            self.run.journal,
            wall_s=time.monotonic() - self.began,
            sudo_calls=self.run.sudo.calls,
            squeue_calls=self.run.queue.calls,
        )


def summary_of(journal: Journal, *, wall_s: float, sudo_calls: int, squeue_calls: int) -> dict[str, Any]:
    """The outcome of a run, as the command line prints it with --json.

    Args:
        journal: The run's journal.
        wall_s: Seconds for which it was driven.
        sudo_calls: How often sudo was called.
        squeue_calls: How often squeue was called.
    """
    counts, jobs, record = journal.counts(), journal.jobs(), journal.record
    failures = [
        {
            "index": task.index,
            "reason": task.reason or task.state,
            "state": task.state,
            "args": json.loads(task.args),
            **_of_record(task.record),
        }
        for task in journal.tasks(TaskState.FAILED, TaskState.NOT_RUN)
    ]
    return {
        "run_id": record.run_id,
        "state": record.state,
        "user": record.user,
        "tasks": sum(counts.values()),
        "succeeded": counts[TaskState.SUCCEEDED],
        "failed": counts[TaskState.FAILED],
        "not_run": counts[TaskState.NOT_RUN],
        "jobs": sum(job.slurm_job_id is not None for job in jobs),
        "wall_s": round(wall_s, 3),
        "sudo_calls": sudo_calls,
        "squeue_calls": squeue_calls,
        "srun_steps": record.srun_steps,
        "forked": record.forked,
        "run_folder": record.run_folder,
        "without_out": journal.without_out(),
        "refusal": record.refusal,
        "failures": failures,
    }


def _of_record(text: str | None) -> dict[str, Any]:
    """What helps with a failure, out of a worker's record."""
    record = record_of(text)
    found = {key: record[key] for key in ("exit", "signal", "host", "job", "tail") if record.get(key) is not None}
    return {{"exit": "exit_code", "tail": "log_tail"}.get(key, key): value for key, value in found.items()}
