# SPDX-License-Identifier: BSD-3-Clause
"""Get jobs into SLURM: plan, submit, wait for room, and find out about submissions that got no answer."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence, Set
from dataclasses import replace

from ..cluster.commands import Silence, SlurmJob, Submission, Submitted
from ..errors import ClusterError, ImpersonationError
from ..jobs.layout import claim_path
from ..jobs.plan import replan
from ..jobs.script import ScriptTooLarge, render, safe_job_name
from ..process import slices
from ..refusals import Refusal, kind_of, no_cluster_advice
from ..sudo import Stalled
from .collect import Collector
from .context import Run
from .model import IN_FLIGHT, UNFINISHED, JobRow, JobState, TaskState
from .outcome import LOST
from .records import Kind, classify

_FULL_FIRST_S, _FULL_LAST_S = 2.0, 60.0
# A site's words may hold the time or a number that changes: of one spell of refusals no more are told.
_MOST_TOLD = 6


class Submitter:
    """Submits what is planned.

    Args:
        run: The run.
        collector: Reads the first records of jobs whose ids never came.
        most_at_once: Jobs that are submitted in one go; None for all that there is room for.
    """

    def __init__(self, run: Run, collector: Collector, *, most_at_once: int | None = None) -> None:
        self.run = run
        self.collector = collector
        self.most_at_once = most_at_once
        self.has_more = False  # whether another job can be submitted at once
        self.full_s = 0.0
        self.refused_since: float | None = None  # since when nothing was accepted, for reasons that may pass
        self.told: set[str] = set()  # the refusals that were said in this spell
        self.claimed_since: dict[str, float] = {}
        self.commented: set[str] = set()  # the tokens that were looked for by the comments of jobs

    def plan_again(self) -> None:
        """Plan new jobs for the tasks that must run again."""
        if self.run.cancelled or self.run.refusal:
            self.run.give_up(self.run.refusal or "the run was cancelled")
            return
        tasks = self.run.journal.unassigned()
        if not tasks:
            return
        suspects = set(self.run.record.alone)
        alone = [index for index in tasks if index in suspects]
        others = [index for index in tasks if index not in suspects]
        with self.run.journal.transaction():
            for batch in replan(self.run.config, self.run.job_settings, others) if others else []:
                self.run.journal.add_job(self.run.new_token(), batch)
            if alone:
                self.run.journal.add_job(self.run.new_token(), alone, slots=1)
            self.run.journal.write(replace(self.run.record, alone=()))

    def submit_some(self) -> None:
        """Submit planned jobs, as far as there is room."""
        self.has_more = False
        if self.run.cancelled or self.run.refusal or time.monotonic() < self.run.full_until:
            return
        self.run.full_until = 0.0
        if self.run.sudo.is_lingering():
            # What it submits late would take the room of others.
            raise ClusterError(f"an sbatch as {self.run.user} that got no answer in time can't be ended")
        # More than max_num_jobs are planned only where tasks run again: then they wait for those that are out.
        most = min(self.run.settings.max_jobs_in_flight or self.run.config.max_num_jobs, self.run.config.max_num_jobs)
        planned = self.run.journal.jobs(JobState.PLANNED)
        for number, job in enumerate(planned):
            if number == self.most_at_once:
                self.has_more = True
                return
            if self.run.cancel_is_due() or self.run.detach_requested:
                return
            room = most - len(self.run.journal.jobs(*IN_FLIGHT))
            if room <= 0:
                return
            if not self.submit(job, more=min(len(planned) - number, room) - 1):
                return

    def submit(self, job: JobRow, *, more: int) -> bool:
        """Submit one job; return whether to go on with the next.

        Args:
            job: The job.
            more: How many more the run would submit now, after this one.

        Raises:
            Silence: SLURM did not answer; the job may exist.
            ImpersonationError: sudo refused the first submission of the run, for good.
        """
        if not self.run.quota.take(job, more):
            return False
        # Only with a place: a run that waits for one asks often, and a script costs more than that.
        lines = self.run.journal.task_lines(job.token)
        try:
            script = render(self.run.job_config(job), self.run.job_settings, token=job.token, tasks=lines)
        except BaseException as error:
            self.run.quota.give_back(job)
            if not isinstance(error, ScriptTooLarge):
                raise
            self.too_large(job, [line.task for line in lines], str(error))
            return True
        self.run.journal.update_job(job.token, "submitting", state=JobState.SUBMITTING, submitted_at=time.time())
        submission = self.run.slurm.submit(self.run.user, script, timeout=self.run.settings.sbatch_timeout_s)
        if submission.outcome is Submitted.ACCEPTED:
            self.run.journal.update_job(
                job.token, "submitted", state=JobState.SUBMITTED, slurm_job_id=submission.job_id
            )
            self.run.queue.add(self.run.id, submission.job_id or "")
            self.run.quota.accepted(job, submission.job_id)
            self.run.last_submission = time.monotonic()
            self.full_s = 0.0
            self.told.clear()
            self.run.notes.wait("room", "")
            if self.refused_since is not None:
                self.refused_since = None
                self.run.say("SLURM takes jobs again")
            return True
        if submission.raw and self.is_news(f"raw: {submission.raw}"):
            self.run.journal.event("said by sbatch", job.token, submission.raw)
        if submission.outcome is Submitted.UNKNOWN:
            self.run.journal.event("no answer", job.token, submission.words)
            if not submission.raw:
                raise Silence(submission.words)
            if kind_of(submission.raw) is Refusal.FULL:
                self.no_room(submission.words)
            else:
                self.not_now(submission.words)
            return False
        if submission.exists_not or submission.outcome is not Submitted.NOT_NOW:
            self.run.journal.update_job(
                job.token, submission.outcome.value, state=JobState.PLANNED, reason=submission.words
            )
            self.run.quota.give_back(job)
        if submission.outcome is Submitted.FULL:
            self.no_room(submission.words)
        elif submission.outcome is Submitted.TOO_LARGE:
            self.too_large(job, [line.task for line in lines], f"SLURM refused it: {submission.words}")
            return True
        elif submission.outcome is Submitted.REFUSED and not submission.by_sudo and self.run.record.bad_nodes:
            # It may be for want of the nodes that were left out: one of them is better than none.
            self.run.forgive_nodes(submission.words)
            return True
        else:
            self.refused(submission)
        return False

    def refused(self, submission: Submission) -> None:
        """Handle a refused submission: a final refusal ends the run, any other is waited out.

        Once a job of the run was accepted, the request is not wrong: SLURM, sudo or the site have changed, and may
        change back.

        Raises:
            ImpersonationError: sudo refused the first submission of the run, for good.
        """
        accepted = any(job.slurm_job_id for job in self.run.journal.jobs())
        words = f"SLURM refused the job: {submission.words}"
        if advice := no_cluster_advice(submission.words, user=self.run.user):
            words += f"; {advice}"
        if submission.by_sudo:
            sudo = self.run.sudo
            words = sudo.refusal(self.run.user, f"{sudo.slurm_bin_dir}/sbatch", submission.raw.splitlines())
            if submission.outcome is Submitted.REFUSED and not accepted:
                raise ImpersonationError(words)
        elif submission.outcome is Submitted.REFUSED and (submission.forbidden or not accepted):
            self.run.refuse(words)
            return
        self.not_now(words)

    def no_room(self, words: str) -> None:
        """Handle a limit of the site: wait, longer each time, or until a job of the run ends."""
        self.run.quota.wait_for_room(words)
        shared_s = self.run.quota.refused(words)
        self.pause()
        if shared_s is not None:
            self.run.full_until = time.monotonic() + shared_s

    def not_now(self, words: str) -> None:
        """Handle a refusal that may pass: wait, longer each time, for ``refusal_wait_s`` in all."""
        now, most = time.monotonic(), self.run.settings.refusal_wait_s
        if self.refused_since is None:
            self.refused_since = now
        if now - self.refused_since >= most:
            self.run.refuse(words)
            return
        self.run.notes.wait("room", f"for SLURM to take jobs: {words}")
        if self.is_news(words):
            span = f"{most / 3600:g} h" if most >= 3600 else f"{most} s"
            self.run.say(
                f"{words}: this may pass, so it is tried again, for up to {span} (refusal_wait_s in our settings)"
            )
        self.pause()
        # Not past the limit: the last try is at its end.
        self.run.full_until = min(self.run.full_until, self.refused_since + most)

    def is_news(self, words: str) -> bool:
        """Say whether these words are new since submissions are refused, numbers aside; note them."""
        shape = re.sub(r"[0-9]+", "0", words)
        if shape in self.told or len(self.told) >= _MOST_TOLD:
            return False
        self.told.add(shape)
        return True

    def pause(self) -> None:
        """Submit nothing for a while, longer each time."""
        self.full_s = min(_FULL_LAST_S, max(_FULL_FIRST_S, self.full_s * 1.5))
        self.run.full_until = time.monotonic() + self.full_s

    def too_large(self, job: JobRow, indices: Sequence[int], words: str) -> None:
        """Handle a script that is too large for the cluster: split the job; a task that is too large alone fails."""
        if len(indices) > 1:
            self.split(job, indices)
            return
        self.run.journal.update_job(job.token, "refused", state=JobState.REFUSED, reason=words)
        self.run.journal.finish_tasks(indices, TaskState.FAILED, words)

    def split(self, job: JobRow, indices: Sequence[int]) -> None:
        """Plan two jobs of half the tasks each, in place of one."""
        half = len(indices) // 2
        with self.run.journal.transaction():
            self.run.journal.update_job(job.token, "split", state=JobState.ABANDONED, reason="its script was too large")
            self.run.journal.add_job(self.run.new_token(), indices[:half], slots=job.slots)
            self.run.journal.add_job(self.run.new_token(), indices[half:], slots=job.slots)

    def settle_unknown(self) -> None:
        """Find out about submissions without an answer: ask SLURM for the job's name and comment, or take its claim.

        Raises:
            Silence: SLURM does not answer; nothing is decided.
        """
        unknown = self.run.journal.jobs(JobState.SUBMITTING)
        if not unknown:
            return
        found: dict[str, SlurmJob] = {}
        if not self.run.hidden:
            names = [f"{safe_job_name(self.run.config.job_name)}.{job.token}" for job in unknown]
            states = self.run.slurm.squeue(names=names, user=self.run.user).values()
            found = {state.tokens[0]: state for state in states}
            found |= self.renamed({job.token for job in unknown} - set(found))
        else:
            self.run.slurm.config()  # is slurmctld there at all?
        rest = []
        for job in unknown:
            state = found.get(job.token)
            if state is None:
                rest.append(job)
                continue
            how = "name" if state.name.endswith(f".{job.token}") else "comment"
            self.run.journal.update_job(
                job.token, f"found by its {how}", state=JobState.SUBMITTED, slurm_job_id=state.job_id
            )
            if how == "comment":
                self.run.note_renamed(state)
            self.run.last_submission = time.monotonic()
        if rest:
            self.fence(rest)

    def renamed(self, tokens: Set[str]) -> dict[str, SlurmJob]:
        """Of jobs that SLURM has under no name of ours: those that it has with a comment of ours, by token.

        A site may rename jobs as it takes them. The comment is its own to rewrite, too, but few do. Each token is
        looked for once: this asks for all jobs of the user.
        """
        tokens = tokens - self.commented
        self.commented |= tokens
        jobs = self.run.slurm.squeue_of([self.run.user]) if tokens else None
        return {
            job.tokens[1]: job for user, _id, job in jobs or () if user == self.run.user and job.tokens[1] in tokens
        }

    def fence(self, jobs: Sequence[JobRow]) -> None:
        """Take the claims of jobs that may exist; the tasks of a job whose claim the driver gets go to a new token."""
        paths = [claim_path(self.run.folder, job.token) for job in jobs]
        taken = self.run.take_names(paths)
        claimed = []
        for job, ours in zip(jobs, taken, strict=True):
            # A fence of ours, perhaps from before a crash; what a job leaves is a symlink.
            if ours:
                with self.run.journal.transaction():
                    self.run.journal.update_job(
                        job.token, "fenced", state=JobState.ABANDONED, reason="its submission got no answer"
                    )
                    indices = self.run.journal.tasks_of(job.token, *UNFINISHED)
                    if indices:
                        self.run.journal.add_job(self.run.new_token(), indices, slots=job.slots)
            else:
                claimed.append(job)
        if claimed:
            self.find_claimers(claimed)

    def find_claimers(self, jobs: Sequence[JobRow]) -> None:
        """Find the ids of jobs that hold their claims, in the first records of their workers."""
        files = self.collector.find_files(jobs)
        ids: dict[str, str] = {}
        room, longest = self.collector.room(jobs), self.collector.longest
        with contextlib.suppress(Stalled):  # what came before tells, and what did not come is waited for
            for some in slices(self.collector.read(list(files), {}, longest=longest, room=room)):
                self.run.heed()
                for line in some:
                    kind, record = classify(line, self.run.tokens)
                    if kind is Kind.BEGIN:
                        ids[record["token"]] = record["job"]
        now = time.monotonic()
        for job in jobs:
            if job.token in ids:
                self.run.journal.update_job(
                    job.token, "found by its claim", state=JobState.SUBMITTED, slurm_job_id=ids[job.token]
                )
            elif now - self.claimed_since.setdefault(job.token, now) > self.run.settings.results_wait_s:
                # It took its claim, and died before its first record.
                self.run.job_ended(job, LOST, "it began, and left nothing", nodes=job.nodes)
