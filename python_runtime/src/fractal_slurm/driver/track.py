# SPDX-License-Identifier: BSD-3-Clause
"""Follow jobs that are out: by one squeue for all, by sacct once it forgot, by their files where hidden."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace

from ..cluster.commands import HELD_REASONS, ORDINARY_REASONS, PENDING_HINTS, SlurmJob, SlurmState
from ..config.walltime import format_walltime, parse_walltime
from ..errors import ClusterError, FractalSlurmError
from ..jobs.layout import claim_path, token_of_output
from ..jobs.script import job_limit_s
from ..node.protocol import BEAT_S
from ..refusals import is_hopeless
from .collect import Collector
from .context import Run
from .model import JobRow, JobState
from .notes import is_watched
from .outcome import LOST
from .settle import Settler
from .sight import Sighting
from .together import Together

# The longest pause in seconds between two looks at SLURM: while jobs run, and while all jobs are pending.
_POLL_RUNNING_S, _POLL_PENDING_S = 15.0, 30.0
# Seconds that a reason without hope must stand before the job is cancelled: SLURM also gives it while nodes are down.
_HOPELESS_AFTER_S = 20.0
# A job that is first seen after so many seconds may be another job with the same id, so its name proves nothing.
_RENAMED_WITHIN_S = 60.0
_HAS_TOKEN = re.compile(r"\.[0-9a-f]{16}$")
# The results of a job that ended are looked for every second in the first so many seconds, later at this interval.
_SOON_S, _LATE_S = 10.0, 5.0
_PEEK_FIRST_S, _PEEK_LAST_S = 3.0, 300.0
# While somebody looks at the run: seconds between two looks at SLURM, and at results, which may not take longer than a
# part of that.
_POLL_WATCHED_S, _PEEK_WATCHED_S, _PEEK_PART = 3.0, 2.0, 20
# The most hidden jobs that SLURM is asked about in one look: each costs a call.
_PROBES = 20


class Tracker:
    """Knows how the jobs of a run are, and sees to those that ended.

    Args:
        run: The run.
        collector: Reads their results.
        settler: Decides on what they left.
        together: Reads results of other runs of the user, too.
    """

    def __init__(self, run: Run, collector: Collector, settler: Settler, together: Together) -> None:
        self.together = together
        self.run = run
        self.collector = collector
        self.settler = settler
        self.peek_s = _PEEK_FIRST_S
        self.next_peek = time.monotonic() + _PEEK_FIRST_S
        self.last_peek = 0.0
        self.paused_s = 1.0  # the pause before this look: an answer that is no older tells as much
        self.durations: list[float] = []
        self.started: set[str] = set()
        self.next_listing = 0.0
        self.next_probe = 0.0
        # How often to look for what became of hidden jobs whose workers have not begun.
        self.hidden_s = min(BEAT_S, run.settings.silent_worker_s)
        self.probed: dict[str, float] = {}  # token to the time of the last probe

    def poll(self) -> None:
        """One look at all jobs in flight: their states in one call, the results of those that ended in another.

        Raises:
            ClusterError: slurmctld does not answer, or results can't be read; nothing is concluded.
        """
        jobs = self.run.journal.jobs(JobState.SUBMITTED, JobState.ENDED)
        if not jobs:
            return
        tokens = {job.token for job in jobs}
        self.run.keep(tokens)
        self.run.notes.keep(tokens)
        submitted = [job for job in jobs if job.state is JobState.SUBMITTED]
        now = time.monotonic()
        if submitted and not self.run.hidden:
            self.look(submitted, now)
        ended = self.run.journal.jobs(JobState.ENDED)
        for job in ended:
            sighting = self.run.sightings[job.token]
            if sighting.ended_at is None:
                sighting.ended_at, sighting.state = now, job.slurm_state or LOST
        running = [
            job
            for job in self.run.journal.jobs(JobState.SUBMITTED)
            if self.run.hidden or self.run.sightings[job.token].state in (SlurmState.RUNNING, SlurmState.COMPLETING)
        ]
        # Never together with jobs that ended: the last line of a file that is being written may be torn as yet.
        peek = bool(running) and not ended and (now >= self.next_peek or self.run.hidden or self.is_looked_for(now))
        if peek:
            self.peek_s = min(_PEEK_LAST_S, self.peek_s * 2)
            self.next_peek = now + self.peek_s
            self.last_peek = now
        if ended or peek:
            try:
                self.read(running if peek else ended, now)
            except ClusterError:
                if self.run.cancelled:  # such a run ends, also if its user keeps the results from being read
                    self.settle(now)
                raise
            if self.run.hidden and peek:
                self.judge_hidden(running, now)
        self.settle(now)
        self.run.notes.write()

    def is_looked_for(self, now: float) -> bool:
        """Whether somebody looks at the run, and would see old counts."""
        pause = max(_PEEK_WATCHED_S, _PEEK_PART * self.collector.read_s)
        return now - self.last_peek >= pause and is_watched(self.run.journal.folder)

    def read(self, jobs: Sequence[JobRow], now: float) -> None:
        """Read the results of jobs, and predict from them when the jobs will end.

        Raises:
            ClusterError: They can't be read now.
        """
        self.together.collect(self.collector, jobs, now)
        for job in jobs:
            sighting, done = self.run.sightings[job.token], self.run.readings[job.token].done
            if sighting.running_since is not None and done:
                rate = done / max(0.5, now - sighting.running_since)
                sighting.predicted_end = now + max(0, job.tasks - done) / rate

    def settle(self, now: float) -> None:
        """Decide on the tasks of all jobs that have ended."""
        for job in self.run.journal.jobs(JobState.ENDED):
            self.settler.settle(job, now)

    def pause(self) -> float:
        """Seconds until the next look at SLURM.

        A second for the first ten; then growing, up to a quarter of a minute, or half a minute while all jobs
        wait; at each job's predicted end; and never so often that squeue is more than a twentieth of the time, or
        the reading of all results, where jobs are hidden and nothing else tells of them.
        """
        now = time.monotonic()
        sightings = list(self.run.sightings.values())
        elapsed = now - self.run.last_submission
        running = any(sighting.state == SlurmState.RUNNING for sighting in sightings)
        pause = 1.0 if elapsed < 10 else 1.0 + (elapsed - 10) * 0.1
        pause = min(pause, _POLL_RUNNING_S if running else _POLL_PENDING_S)
        # Results that are not there yet: soon, or else late.
        waits = [now - sighting.ended_at for sighting in sightings if sighting.ended_at is not None]
        if waits:
            pause = min(pause, 1.0 if min(waits) < _SOON_S else _LATE_S)
        if pause > _POLL_WATCHED_S and is_watched(self.run.journal.folder):
            pause = _POLL_WATCHED_S
        if not self.run.hidden:
            # From when SLURM was asked, not from now: so runs that share an answer look again at the same time.
            pause = max(0.3, pause - min(pause, self.run.queue.age_s))
        for sighting in sightings:
            if sighting.predicted_end is not None and sighting.state == SlurmState.RUNNING:
                left = sighting.predicted_end + 0.2 - now
                # A prediction that was missed is asked after ever more slowly.
                pause = min(pause, max(0.3, left) if left > 0 else max(0.5, -left * 0.5))
        self.paused_s = max(pause, 20 * (self.collector.read_s if self.run.hidden else self.run.queue.answer_s))
        return self.paused_s

    def look(self, jobs: Sequence[JobRow], now: float) -> None:
        """Ask SLURM for the states of jobs."""
        ids = [job.slurm_job_id or "" for job in jobs]
        states = self.run.queue.states(self.run.id, ids, fresh_s=self.paused_s, user=self.run.user)
        gone = []
        for job in jobs:
            sighting = self.run.sightings[job.token]
            if job.slurm_job_id not in states:
                continue
            found = states[job.slurm_job_id]
            if found is not None and not sighting.seen:
                self.read_back(job, found)
            if found is None or not self.is_ours(job, found):
                gone.append(job)
                continue
            sighting.missing_since, sighting.seen = None, True
            stuck = found.reason in HELD_REASONS or is_hopeless(found.reason)
            if not stuck:
                sighting.hopeless_since = None
            if found.state == SlurmState.RUNNING and sighting.running_since is None:
                # Not since we saw it: a job that began between two looks would be expected to end too late.
                sighting.running_since = now - found.elapsed_s
                began_at = time.time() - found.elapsed_s
                self.run.journal.update_job(
                    job.token, slurm_state=SlurmState.RUNNING, began_at=began_at,
                    nodes=min(found.nodes, self.run.most_nodes(job)),
                )  # fmt: skip
                self.predict_from_others(sighting)
            if found.state == SlurmState.PENDING:
                sighting.running_since = sighting.predicted_end = None  # it may have been requeued
            sighting.state = found.state
            self.run.notes.job(job.token, found.state, found.reason, found.node)
            if found.is_final:
                if sighting.running_since is not None:
                    self.durations.append(now - sighting.running_since)
                self.run.job_ended(job, found.state, self.reason(found, sighting), nodes=found.nodes)
            elif found.state == SlurmState.PENDING and stuck:
                self.hopeless(job, sighting, found, now)
            elif found.state == SlurmState.PENDING and found.reason not in ORDINARY_REASONS:
                hint = PENDING_HINTS.get(found.reason, "")
                self.run.say_once(f"a job waits for the reason {found.reason}{hint}")
        if gone:
            self.lost_sight(gone, now)

    def reason(self, found: SlurmJob, sighting: Sighting) -> str:
        """Why a job ended; of one that failed also where, and with which code: slurmctld forgets it.

        Raises:
            Silence: slurmctld does not answer.
        """
        sighting.host = found.host
        if found.state != SlurmState.FAILED or "exit " in found.reason:
            return found.reason
        code, sighting.host = self.run.slurm.end_of(found.job_id)
        return f"{found.reason}, exit {code}" if code else found.reason

    def is_ours(self, job: JobRow, found: SlurmJob) -> bool:
        """Whether an id still means our job: a slurmctld that lost its state gives ids a second time."""
        return found.name.endswith(f".{job.token}") or self.run.record.renamed

    def read_back(self, job: JobRow, found: SlurmJob) -> None:
        """What the site made of a job as it took it (job_submit plugins rewrite values); said once."""
        is_ours = found.name.endswith(f".{job.token}")
        if self.run.record.read_back or (not is_ours and _HAS_TOKEN.search(found.name)):
            return  # a name with another token is another job's
        self.run.journal.write(replace(self.run.record, read_back=True))
        if not is_ours and time.time() - (job.submitted_at or 0) < _RENAMED_WITHIN_S:
            self.run.note_renamed(found)
        if not set(found.partition.split(",")) <= {"", *self.run.config.partition.split(",")}:
            self.run.say(f"the site put job {found.job_id} into the partition {found.partition!r}")
        wanted = job_limit_s(self.run.job_config(job), self.run.job_settings, job.tasks)
        try:
            given = parse_walltime(found.time_limit)
        except FractalSlurmError:
            return
        if wanted is not None and given < wanted:
            self.run.say(
                f"the site gave job {found.job_id} {found.time_limit} of time, less than its tasks may need "
                f"({format_walltime(wanted)}): "
                "a task that it cuts short fails, one that has not started runs in another job"
            )

    def judge_hidden(self, jobs: Sequence[JobRow], now: float) -> None:
        """Judge jobs that SLURM does not show to this account, by the records that their workers write.

        A worker writes a sign of life now and then, and a last record when it ends. A job is lost if its worker began
        and then was silent for too long. It is also lost if SLURM started it, so that its output file exists, and no
        worker began for too long. Any other job counts as pending.
        """
        waiting = [job for job in jobs if not self.run.readings[job.token].began]
        begun = self.output_files(now) if waiting else set()
        gone = self.probe(waiting, now) if now >= self.next_probe else set()
        for job in jobs:
            if job.token in gone:
                continue
            sighting, reading = self.run.sightings[job.token], self.run.readings[job.token]
            if reading.lines != sighting.lines_heard or (sighting.heard_at is None and job.token in begun):
                sighting.lines_heard, sighting.heard_at = reading.lines, now
            silent = now - sighting.heard_at if sighting.heard_at is not None else 0.0
            sighting.state = SlurmState.RUNNING if reading.began else SlurmState.PENDING
            self.run.notes.job(job.token, sighting.state, "", "")
            if reading.began and sighting.running_since is None:
                sighting.running_since = now
                self.run.journal.update_job(
                    job.token, slurm_state=SlurmState.RUNNING, began_at=time.time(), nodes=reading.nodes
                )
            if reading.workers_ended(reading.nodes):
                self.run.job_ended(job, SlurmState.COMPLETED, "", nodes=reading.nodes)
            elif silent > self.run.settings.silent_worker_s:
                self.run.job_ended(job, LOST, f"its worker was silent for {silent:.0f} s", nodes=reading.nodes)
            elif silent > 2 * BEAT_S:
                self.collector.list_again(job)  # it may have been requeued, and write another file

    def probe(self, jobs: Sequence[JobRow], now: float) -> set[str]:
        """Find hidden jobs that ended before their workers began; note their end and return their tokens.

        The accounting may show them. If it does not, the driver asks SLURM for the script of each job. SLURM refuses in
        other words for a job that it has than for one that it forgot, some minutes after the job's end. This is
        believed only after it worked once in this run, for a job that SLURM had. A forgotten job without an output file
        was cancelled while it was pending, if the driver can still take its claim.
        """
        self.next_probe = now + self.hidden_s
        accounted = self.run.slurm.sacct([job.slurm_job_id or "" for job in jobs]) if jobs else {}
        gone = set()
        for job in sorted(jobs, key=lambda job: self.probed.get(job.token, 0.0))[:_PROBES]:
            self.probed[job.token] = now
            state = accounted.get(job.slurm_job_id or "")
            if state is not None and state.is_final and self.is_ours(job, state):
                self.run.job_ended(job, state.state, state.reason, nodes=state.nodes)
                gone.add(job.token)
                continue
            there = self.run.slurm.exists(job.slurm_job_id or "")
            if there:
                self.run.journal.write(replace(self.run.record, probe_works=True))
            elif there is False and self.run.record.probe_works:
                words = "SLURM does not know it any more"
                self.next_listing = 0.0
                if job.token in self.output_files(now):
                    self.run.job_ended(job, LOST, words, nodes=job.nodes)
                elif self.run.take_names([claim_path(self.run.folder, job.token)]) == [True]:
                    self.run.job_ended(job, SlurmState.CANCELLED, f"{words}, and it never began", nodes=job.nodes)
                else:
                    continue  # its worker has begun
                gone.add(job.token)
        return gone

    def output_files(self, now: float) -> set[str]:
        """Return the tokens of the jobs that SLURM has started: it made their output files. Looks now and then."""
        if now >= self.next_listing:
            self.next_listing = now + self.hidden_s
            folders = self.run.list_folders([self.run.folder], wanted=self.is_output, most=len(self.run.tokens))
            self.started = {token_of_output(name) for name in folders.get(self.run.folder, [])}
        return self.started

    def is_output(self, name: str) -> bool:
        """Say whether a name in the run's folder is the name of a job's output file."""
        return token_of_output(name) in self.run.tokens

    def predict_from_others(self, sighting: Sighting) -> None:
        """Predict the end of a job from the durations of other jobs of the run."""
        if self.durations and sighting.running_since is not None:
            sighting.predicted_end = sighting.running_since + sorted(self.durations)[len(self.durations) // 2]

    def lost_sight(self, jobs: Sequence[JobRow], now: float) -> None:
        """Look for the results of jobs that neither squeue nor sacct know; after a while such a job counts as lost."""
        for job in jobs:
            sighting = self.run.sightings[job.token]
            if sighting.missing_since is None:
                sighting.missing_since = now
        try:
            self.read(jobs, now)
        except ClusterError:
            if not self.run.cancelled:
                raise
        for job in jobs:
            missing_since = self.run.sightings[job.token].missing_since or now
            if self.run.readings[job.token].workers_ended(job.nodes):
                self.run.job_ended(job, SlurmState.COMPLETED, "", nodes=job.nodes)
            elif now - missing_since > self.run.settings.results_wait_s:
                self.run.job_ended(job, LOST, "", nodes=job.nodes)

    def hopeless(self, job: JobRow, sighting: Sighting, found: SlurmJob, now: float) -> None:
        """Cancel a job that would be pending for ever, once its reason has stood for long enough.

        The run ends then, with one exception: if SLURM holds the job after a failed launch on a node, or if nodes are
        left out, its tasks run in another job.
        """
        if sighting.hopeless_since is None:
            sighting.hopeless_since = now
        if now - sighting.hopeless_since < _HOPELESS_AFTER_S:
            self.run.say_once(f"SLURM says that it can't start job {found.job_id}: {found.reason}")
            return
        self.run.slurm.cancel(self.run.user, [found.job_id])
        if found.reason in HELD_REASONS:
            self.run.job_ended(job, SlurmState.REQUEUE_HOLD, found.reason, nodes=job.nodes)
            return
        if self.run.record.bad_nodes:
            words = f"without {', '.join(self.run.record.bad_nodes)} SLURM can't start it: {found.reason}"
            self.run.forgive_nodes(words)
            self.run.job_ended(job, SlurmState.REQUEUE_HOLD, words, nodes=job.nodes)
            return
        words = f"SLURM will never start job {found.job_id}: {found.reason}"
        self.run.refuse(words)
        self.run.job_ended(job, SlurmState.CANCELLED, words, nodes=job.nodes)
