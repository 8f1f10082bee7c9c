# SPDX-License-Identifier: BSD-3-Clause
"""The places of one run's submissions, out of what all runs of this host share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .ledger import NotShared, ledger_of
from .model import IN_FLIGHT, JobRow, JobState
from .places import LOOK_FIRST_S, Blocked

if TYPE_CHECKING:
    from .context import Run

# So often a run that waits for a place among jobs in flight sees to it that somebody asks how they are, in seconds. An
# answer that is older does not tell how many jobs a user has without us.
_ASK_S = 15.0
# So often a run tells that its jobs are there, also if nothing changed: where SLURM hides them nobody else knows it.
_KEEP_S = 3_600.0
# What is shared could not be used: pauses in which nothing is submitted, where a limit holds.
_TROUBLE_S = 5.0


class Quota:
    """Asks for places before submissions, and gives account of the run's jobs.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ledger = ledger_of(run.settings)
        self.scopes = run.settings.limits.of(run.user)
        self.counts_foreign = (
            run.settings.limits.count_foreign_jobs and run.settings.limits.counts_jobs(run.user) and not run.hidden
        )
        self.told: set[tuple[str, bool]] = set()
        self.asked_at = float("-inf")  # when this run, as it waited, last asked how jobs are
        self._kept: dict[str, tuple[str | None, float]] | None = None
        self._kept_at = float("-inf")
        self._kept_in = 0  # which opening of the shared file that was

    def take(self, job: JobRow, more: int = 0) -> bool:
        """Take a place for a submission. If there is none, say so once, and submit nothing for a while.

        Args:
            job: What is to be submitted.
            more: How many more jobs the run would submit now, after this one.

        Raises:
            ClusterError: Jobs of others count, and SLURM does not tell.
        """
        try:
            blocked = self.ledger.reserve(
                job.token,
                self.run.user,
                self.run.id,
                self.scopes,
                more=more,
                shown=not self.run.hidden,
                foreign=self.foreign(),
            )
        except NotShared as trouble:
            if not self.scopes:
                self.run.say_once(f"{trouble}; no limit of ours is set, so the run goes on without")
                return True
            self.run.say_once(f"{trouble}; limits are set, so nothing is submitted meanwhile")
            self.run.notes.wait("limit", str(trouble))
            self.run.full_until = time.monotonic() + _TROUBLE_S
            return False
        if blocked is None:
            self.run.notes.wait("limit", "")
            return True
        self.wait(blocked)
        return False

    def foreign(self) -> Mapping[str, int] | None:
        """The jobs that users submitted without us, where they count.

        Raises:
            ClusterError: SLURM does not tell.
        """
        queue, user = self.run.queue, self.run.user
        if not self.counts_foreign:
            return None
        # A run that waited for something else did not ask meanwhile.
        if user not in queue.foreign or queue.age_s >= _ASK_S:
            self.look()
        return queue.foreign

    def look(self) -> None:
        """Ask SLURM, or who asked last, how jobs are.

        Raises:
            ClusterError: SLURM does not tell.
        """
        self.asked_at = time.monotonic()
        jobs = [job.slurm_job_id for job in self.run.journal.jobs(JobState.SUBMITTED) if job.slurm_job_id]
        self.run.queue.states(self.run.id, jobs, fresh_s=_ASK_S, user=self.run.user)

    def wait(self, blocked: Blocked) -> None:
        """Say what is waited for, and submit nothing until it may go on."""
        if not blocked.limit:
            self.wait_for_room(blocked.words)
            self.run.full_until = time.monotonic() + LOOK_FIRST_S
            return
        self.run.notes.wait("limit", blocked.words)
        # After another's turn, the time when it goes on may be known: that is said, too.
        what = blocked.limit, blocked.until is not None
        if what not in self.told:
            self.told.add(what)
            self.run.say(f"waiting {blocked.words}")
            self.run.journal.event("limit reached", self.run.user, f"waiting {blocked.words}")
        is_due = blocked.until is None and not self.run.hidden and time.monotonic() - self.asked_at >= _ASK_S
        if is_due and not self.run.journal.jobs(JobState.SUBMITTED):
            # A run without jobs does not poll: if none does, nobody would learn that there is room.
            self.look()
        if self.run.queue.unshared:
            # That jobs ended is not noted then: the limit may be reached for that reason alone.
            self.run.say_once(f"{self.run.queue.unshared}; limits are set, so nothing is submitted meanwhile")
        self.run.full_until = time.monotonic() + blocked.look_s(time.time())

    def wait_for_room(self, words: str) -> None:
        """Say that the site's limit is reached; ``words`` are its own."""
        self.run.say_once(f"the site's limit is reached ({words}): waiting for room")
        self.run.notes.wait("room", f"for room: the site's limit is reached ({words})")

    def accepted(self, job: JobRow, job_id: str) -> None:
        """SLURM took a job."""
        self._tell(lambda: self.ledger.accepted(job.token, job_id, self.run.user))

    def give_back(self, job: JobRow) -> None:
        """There is certainly no job."""
        self._tell(lambda: self.ledger.give_back(job.token, self.run.user))

    def withdraw(self) -> None:
        """The run submits nothing more, at least by this process: nobody is to leave places for it."""
        if self.scopes:
            self._tell(lambda: self.ledger.withdraw(self.run.id))

    def refused(self, words: str) -> float | None:
        """The site's limit is reached: all runs of the user wait. Returns the seconds, if they could be told."""
        try:
            return self.ledger.refused(self.run.user, words)
        except NotShared:
            return None

    def keep(self) -> None:
        """Bring the account up to date with the journal, if anything changed, or it was not for long."""
        jobs = {
            job.token: (job.slurm_job_id, job.submitted_at or time.time()) for job in self.run.journal.jobs(*IN_FLIGHT)
        }
        # Another file knows nothing of them yet.
        is_other = self._kept_in != self.ledger.opened
        is_old = bool(jobs) and (is_other or time.monotonic() - self._kept_at >= _KEEP_S)
        if is_old or (jobs != self._kept and (jobs or self._kept is not None)):
            self._kept, self._kept_at = jobs, time.monotonic()
            self._tell(lambda: self.ledger.keep(self.run.user, self.run.id, jobs, shown=not self.run.hidden))
            self._kept_in = self.ledger.opened

    def _tell(self, act: Callable[[], object]) -> None:
        """Do what only accounts: where it can't be done, the run goes on, and the next change brings it."""
        try:
            act()
        except NotShared as trouble:
            self._kept = None
            if self.scopes:
                self.run.say_once(str(trouble))
