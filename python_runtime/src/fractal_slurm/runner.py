# SPDX-License-Identifier: BSD-3-Clause
"""Drive a run: submit, track, collect, try again, cancel. All it needs to know is in the journal.

The loop is the same for a new run and for one whose driver died: every act is journalled before it is done,
so whatever state the journal shows, the loop goes on from there.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import ClusterError, FractalSlurmError, ImpersonationError
from .journal import Job, Journal
from .outcome import LOST, Action, judge
from .plan import replan
from .resolve import SlurmConfig
from .results import Kind, classify, split_lines
from .script import (
    JobSettings,
    ScriptTooLarge,
    claim_path,
    job_folder,
    job_limit_s,
    output_path,
    render,
    safe_job_name,
    stop_path,
)
from .settings import Settings
from .slurm import (
    HOPELESS_REASONS,
    ORDINARY_REASONS,
    PENDING_HINTS,
    JobState,
    Silence,
    Slurm,
    Submitted,
    is_back_pressure,
)
from .walltime import format_walltime, parse_walltime
from .worker import BEAT_S

# A record is an out-JSON, the end of a log, and little more.
_RECORD_BYTES = 16_000
# The longest pause between two looks at SLURM: while jobs run, and while all of them wait.
_POLL_RUNNING_S, _POLL_PENDING_S = 15.0, 30.0
# While SLURM is silent, pauses grow from the first to the second.
_OUTAGE_FIRST_S, _OUTAGE_LAST_S = 2.0, 60.0
_FULL_FIRST_S, _FULL_LAST_S = 2.0, 60.0
_NEVER_BEGAN_S = 3.0
_NO_ANSWER = "SLURM does not answer"
# For so long a reason that no waiting cures has to stand: while nodes are down it may be given, too.
_HOPELESS_AFTER_S = 20.0
# A job's first sight after this many seconds says nothing of its name any more: its id may be another job's.
_RENAMED_WITHIN_S = 60.0
_PEEK_FIRST_S, _PEEK_LAST_S = 3.0, 300.0


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


@dataclass
class Watch:
    """What the driver knows of a job in flight, beside the journal."""

    state: str = "PENDING"
    missing_since: float | None = None
    hopeless_since: float | None = None
    ended_at: float | None = None
    running_since: float | None = None
    done: int = 0
    predicted_end: float | None = None
    began: bool = False
    restart: int = 0
    ends: dict[int, str] = field(default_factory=dict)  # of the last start, by node
    nodes: int = 1
    most_nodes: int = 1
    lines: int = 0
    lines_before: int = 0
    heard_at: float | None = None
    list_again: bool = False
    steps: dict[tuple[int, int], int] = field(default_factory=dict)
    listed: bool = False
    seen: bool = False
    files: list[str] = field(default_factory=list)


class Runner:
    """Drives one run to its end.

    Args:
        journal: The run's journal, locked.
        settings: Our own settings.
        slurm: The cluster.
        say: Takes sentences for a person.
        show: Takes the progress, whenever it changed or a second went by.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        slurm: Slurm,
        *,
        say: Callable[[str], None],
        show: Callable[[Progress], None] = lambda _progress: None,
    ) -> None:
        self.journal = journal
        self.settings = settings
        self.slurm = slurm
        self.say = say
        self.show = show
        self.user: str = journal.get("user")
        self.run_id: str = journal.get("run_id")
        self.run_folder: str = journal.get("run_folder")
        self.config = SlurmConfig(**journal.get("config"))
        stored = journal.get("job_settings")
        self.job_settings = JobSettings(**{**stored, "command": tuple(stored["command"])})
        self.hidden: bool = journal.get("hides_jobs")
        self.cancel_at: float | None = None  # when to cancel, as a monotonic time
        self.detach_requested = False
        self.cancelled: bool = journal.get("cancelled", False)
        self.refusal: str | None = journal.get("refusal")
        self.tokens = journal.tokens()
        self.watches: dict[str, Watch] = {}
        self.began = time.monotonic()
        self.last_submission = self.began
        self.next_poll = self.began
        self.next_peek = self.began + _PEEK_FIRST_S
        self.peek_s = _PEEK_FIRST_S
        self.outage_s = 0.0
        self.outage_until = 0.0
        self.trouble = ""
        self.full_s = 0.0
        self.full_until = 0.0
        self.durations: list[float] = []
        self.late: set[tuple[str, int]] = set()
        self.started: set[str] = set()
        self.next_listing = 0.0
        self.claimed_since: dict[str, float] = {}
        self.unclaimed: set[str] = set()  # jobs whose claims are ours: they never run
        self.marked: set[str] = set()  # jobs that were told to end
        self.cancelled_ids: set[str] = set()  # jobs that SLURM was told to end
        self.cancel_deadline = self.began + settings.cancel_grace_s  # when those go to scancel that do not heed it
        self.said: set[str] = set()
        self.last_shown = 0.0

    # -- the loop ----------------------------------------------------------------------------------------

    def drive(self) -> None:
        """Go on until every task has an end.

        Raises:
            FractalSlurmError: The user's folder can't be made, or sudo refuses.
            Detached: The second interrupt: jobs go on without a driver.
        """
        if self.has_work():
            self.slurm.sudo.mkdir(self.user, [self.run_folder], timeout=self.settings.command_timeout_s)
        if self.hidden:
            self.say(
                "SLURM shows this account its own jobs only (PrivateData): the jobs of this run are followed "
                "by their result files"
            )
        self.journal.put("state", "driven")
        self.next_poll = time.monotonic() + 0.3
        asked = False
        while True:
            if self.detach_requested:
                raise Detached
            if self.cancel_at is not None and not asked and not self.cancelled:
                asked = True
                left = self.cancel_at - time.monotonic()
                if left > 0:
                    self.say(f"cancelling in {left:.0f} s; Ctrl-C again leaves the jobs running")
            if self.cancel_is_due() and not self.cancelled:
                self.cancel()
            self.plan_again()
            if self.may_ask():
                self.guarded(self.settle_unknown)
            if self.may_ask():
                self.guarded(self.pursue_cancel if self.cancelled else self.submit_some)
            if time.monotonic() >= self.next_poll and self.may_ask():
                self.guarded(self.poll)
                self.next_poll = time.monotonic() + self.pause()
            if not self.has_work():
                break
            self.report()
            self.wait()
        self.journal.put("state", "cancelled" if self.cancelled else "done")
        self.journal.put("ended", time.time())
        self.report(force=True)

    def has_work(self) -> bool:
        """Whether there is a task that has no end yet."""
        return bool(self.journal.jobs("planned", "submitting", "submitted", "ended") or self.journal.unassigned())

    def may_ask(self) -> bool:
        """Whether no pause after an outage is on."""
        return time.monotonic() >= self.outage_until

    def cancel_is_due(self) -> bool:
        return self.cancel_at is not None and time.monotonic() >= self.cancel_at

    def interrupt(self, delay_s: float = 0.0) -> None:
        """Cancel the run after a while, or, when that was asked for already, leave its jobs alone and stop driving.

        Args:
            delay_s: Seconds in which a second call still leaves all jobs as they are.
        """
        if self.cancel_at is None:
            self.cancel_at = time.monotonic() + delay_s
        else:
            self.detach_requested = True

    def guarded(self, step: Callable[[], None]) -> None:
        """Do a step; if SLURM is silent, or the user's side is in trouble, say so once and try again later.

        Raises:
            ClusterError: There is trouble, and no job is out yet that would be left alone.
        """
        try:
            step()
        except Silence as silence:
            self.outage(f"{_NO_ANSWER} ({silence}): waiting; what runs goes on")
        except ClusterError as error:
            if not any(job.slurm_job_id or job.state == "submitting" for job in self.journal.jobs()):
                raise
            self.outage(f"{error}: trying again")
        else:
            if self.outage_s and step == self.poll:
                self.outage_s = 0.0
                self.say("SLURM answers again" if self.trouble.startswith(_NO_ANSWER) else "going on")
                self.trouble = ""

    def say_once(self, words: str) -> bool:
        """Say a sentence, unless it was said before. Returns whether it was news."""
        if words in self.said:
            return False
        self.said.add(words)
        self.say(words)
        return True

    def outage(self, words: str) -> None:
        """Something can't be done now: say it, if it is news, and pause, longer each time."""
        if words != self.trouble and (not self.trouble or not words.startswith(_NO_ANSWER)):
            self.trouble = words
            self.say(words)
            self.journal.event("outage", "", words)
        self.outage_s = min(_OUTAGE_LAST_S, max(_OUTAGE_FIRST_S, self.outage_s * 1.5))
        self.outage_until = time.monotonic() + self.outage_s

    def wait(self) -> None:
        """Sleep until something is due, or an interrupt comes."""
        due = self.next_poll
        if self.outage_until:
            due = max(due, self.outage_until)
        if self.full_until > time.monotonic():
            due = min(due, self.full_until)
        while not self.detach_requested and (self.cancelled or not self.cancel_is_due()):
            left = due - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.1, left))
            self.report()

    def pause(self) -> float:
        """Seconds until the next look at SLURM.

        A second for the first ten; then growing, up to a quarter of a minute, or half a minute while all jobs
        wait; at each job's predicted end; and never so often that squeue is more than a twentieth of the time.
        """
        now = time.monotonic()
        watches = list(self.watches.values())
        elapsed = now - self.last_submission
        running = any(watch.state == "RUNNING" for watch in watches)
        pause = 1.0 if elapsed < 10 else 1.0 + (elapsed - 10) * 0.1
        pause = min(pause, _POLL_RUNNING_S if running else _POLL_PENDING_S)
        if any(watch.ended_at is not None for watch in watches):
            pause = min(pause, 1.0)  # results that are not there yet
        for watch in watches:
            if watch.predicted_end is not None and watch.state == "RUNNING":
                left = watch.predicted_end + 0.2 - now
                # A prediction that was missed is asked after ever more slowly.
                pause = min(pause, max(0.3, left) if left > 0 else max(1.0, -left * 0.5))
        return max(pause, 20 * self.slurm.squeue_s)

    def report(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not force and now - self.last_shown < 1.0:
            return
        self.last_shown = now
        self.show(self.progress())

    def progress(self) -> Progress:
        """How far the run is now."""
        counts = self.journal.counts()
        states = [watch.state for watch in self.watches.values()]
        by_state: dict[str, int] = {}
        for job in self.journal.jobs():
            by_state[job.state] = by_state.get(job.state, 0) + 1
        running = sum(state in ("RUNNING", "COMPLETING") for state in states)
        return Progress(
            tasks=sum(counts.values()),
            succeeded=counts.get("succeeded", 0),
            failed=counts.get("failed", 0),
            not_run=counts.get("not_run", 0),
            jobs_waiting=max(0, by_state.get("submitted", 0) + by_state.get("submitting", 0) - running),
            jobs_running=running,
            jobs_planned=by_state.get("planned", 0),
            jobs_ended=by_state.get("collected", 0) + by_state.get("ended", 0),
            elapsed_s=time.time() - self.journal.get("created"),
        )

    # -- submitting --------------------------------------------------------------------------------------

    def plan_again(self) -> None:
        """New jobs for tasks that have to run again."""
        if self.cancelled or self.refusal:
            self.give_up(self.refusal or "the run was cancelled")
            return
        tasks = self.journal.unassigned()
        if not tasks:
            return
        suspects = set(self.journal.get("alone", []))
        alone = [index for index in tasks if index in suspects]
        others = [index for index in tasks if index not in suspects]
        with self.journal.transaction():
            for batch in replan(self.config, self.job_settings, others) if others else []:
                self.journal.add_job(self.new_token(), batch)
            if alone:
                self.journal.add_job(self.new_token(), alone, slots=1)
            self.journal.put("alone", [])

    def give_up(self, words: str) -> None:
        """Nothing more is submitted: what is planned, or waits for a plan, does not run."""
        planned, tasks = self.journal.jobs("planned"), self.journal.unassigned()
        if not planned and not tasks:
            return
        with self.journal.transaction():
            self.journal.finish_tasks(tasks, "not_run", words)
            for job in planned:
                self.journal.finish_tasks(self.journal.tasks_of(job.token, "waiting", "cut"), "not_run", words)
                self.journal.update_job(job.token, "given up", state="abandoned", reason=words)

    def new_token(self) -> str:
        token = secrets.token_hex(8)
        self.tokens.add(token)
        return token

    def submit_some(self) -> None:
        """Submit what is planned, as far as there is room."""
        if self.cancelled or self.refusal or time.monotonic() < self.full_until:
            return
        most = self.settings.max_jobs_in_flight
        for job in self.journal.jobs("planned"):
            if self.cancel_is_due() or self.detach_requested:
                return
            if most and len(self.journal.jobs("submitting", "submitted")) >= most:
                return
            if not self.submit(job):
                return

    def job_config(self, job: Job) -> SlurmConfig:
        if job.slots:
            return replace(self.config, parallel_tasks_per_job=job.slots)
        return self.config

    def submit(self, job: Job) -> bool:
        """Submit one job. Returns whether to go on with the next."""
        lines = self.journal.task_lines(job.token)
        try:
            script = render(self.job_config(job), self.job_settings, token=job.token, tasks=lines)
        except ScriptTooLarge as error:
            if len(lines) < 2:
                self.journal.update_job(job.token, "refused", state="refused", reason=str(error))
                self.journal.finish_tasks([lines[0][0]], "failed", str(error))
                return True
            self.split(job, [index for index, _attempt, _args in lines])
            return True
        self.journal.update_job(job.token, "submitting", state="submitting", submitted_at=time.time())
        submission = self.slurm.submit(self.user, script, timeout=self.settings.sbatch_timeout_s)
        if submission.outcome is Submitted.ACCEPTED:
            self.journal.update_job(job.token, "submitted", state="submitted", slurm_job_id=submission.job_id)
            self.last_submission = time.monotonic()
            self.full_s = 0.0
            return True
        if submission.outcome is Submitted.FULL:
            self.journal.update_job(job.token, "no room", state="planned", reason=submission.words)
            self.no_room(submission.words)
            return False
        if submission.outcome is Submitted.UNKNOWN:
            self.journal.event("no answer", job.token, submission.words)
            if not is_back_pressure(submission.words):
                raise Silence(submission.words)
            self.no_room(submission.words)
            return False
        self.journal.update_job(job.token, "refused", state="planned", reason=submission.words)
        words = f"SLURM refused the job: {submission.words}"
        if "sbatch:" not in submission.raw:
            words = self.slurm.sudo.refusal(self.user, f"{self.slurm.sudo.slurm_bin_dir}/sbatch")
            if not any(other.slurm_job_id for other in self.journal.jobs()):
                raise ImpersonationError(words)
        self.refuse(words)
        return False

    def no_room(self, words: str) -> None:
        """A limit of the site: wait, longer each time, or until one of our jobs ends."""
        self.say_once(f"the site's limit is reached ({words}): waiting for room")
        self.full_s = min(_FULL_LAST_S, max(_FULL_FIRST_S, self.full_s * 1.5))
        self.full_until = time.monotonic() + self.full_s

    def refuse(self, words: str) -> None:
        """SLURM refused what no waiting cures: nothing more is submitted, what runs is brought home."""
        self.refusal = words
        self.journal.put("refusal", words)
        self.give_up(words)
        self.say(words)

    def split(self, job: Job, indices: Sequence[int]) -> None:
        """Two jobs of half the tasks each, in place of one whose script is too large."""
        half = len(indices) // 2
        with self.journal.transaction():
            self.journal.update_job(job.token, "split", state="abandoned", reason="its script was too large")
            self.journal.add_job(self.new_token(), indices[:half], slots=job.slots)
            self.journal.add_job(self.new_token(), indices[half:], slots=job.slots)

    # -- submissions without an answer -------------------------------------------------------------------

    def settle_unknown(self) -> None:
        """Find out about submissions whose answer did not come: ask for the name, then let the fence decide.

        Raises:
            Silence: SLURM does not answer; nothing is decided.
        """
        unknown = self.journal.jobs("submitting")
        if not unknown:
            return
        by_name: dict[str, JobState] = {}
        if not self.hidden:
            names = [f"{safe_job_name(self.config.job_name)}.{job.token}" for job in unknown]
            by_name = {state.name.rpartition(".")[2]: state for state in self.slurm.squeue(names=names).values()}
        else:
            self.slurm.config()  # is slurmctld there at all?
        rest = []
        for job in unknown:
            state = by_name.get(job.token)
            if state is None:
                rest.append(job)
                continue
            self.journal.update_job(job.token, "found by its name", state="submitted", slurm_job_id=state.job_id)
            self.last_submission = time.monotonic()
        if rest:
            self.fence(rest)

    def fence(self, jobs: Sequence[Job]) -> None:
        """Take the claims of jobs that may or may not exist. Where the claim is ours, the work gets a new token."""
        paths = [claim_path(self.run_folder, job.token) for job in jobs]
        taken = self.slurm.sudo.take_names(self.user, paths, timeout=self.settings.command_timeout_s)
        claimed = []
        for job, ours, path in zip(jobs, taken, paths, strict=True):
            # A folder is a fence of ours, from before a crash; what a job leaves is a symlink.
            if ours or self.slurm.sudo.is_folder(self.user, path, timeout=self.settings.command_timeout_s):
                with self.journal.transaction():
                    self.journal.update_job(
                        job.token, "fenced", state="abandoned", reason="its submission got no answer"
                    )
                    indices = self.journal.tasks_of(job.token, "waiting", "cut")
                    if indices:
                        self.journal.add_job(self.new_token(), indices, slots=job.slots)
            else:
                claimed.append(job)
        if claimed:
            self.find_claimers(claimed)

    def find_claimers(self, jobs: Sequence[Job]) -> None:
        """Jobs that exist, since they hold their claims: their workers' first records tell their ids."""
        folders = {job_folder(self.run_folder, job.token): job for job in jobs}
        listed = self.slurm.sudo.list_folders(self.user, list(folders), timeout=self.settings.command_timeout_s)
        paths = [f"{folder}/{name}" for folder, names in listed.items() for name in names if _is_result_file(name)]
        ids: dict[str, str] = {}
        for line in self.read(paths):
            kind, record = classify(line, self.tokens)
            if kind is Kind.BEGIN:
                ids[record["token"]] = record["job"]
        now = time.monotonic()
        for job in jobs:
            if job.token in ids:
                self.journal.update_job(job.token, "found by its claim", state="submitted", slurm_job_id=ids[job.token])
            elif now - self.claimed_since.setdefault(job.token, now) > self.settings.results_wait_s:
                # It took its claim, and died before its first record.
                self.job_ended(job, LOST, "it began, and left nothing", nodes=job.nodes)

    def predicted_file(self, job: Job, node: int = 0) -> str:
        return f"{job_folder(self.run_folder, job.token)}/results-0-{node}"

    def read(self, paths: Sequence[str]) -> Any:
        """The lines of result files."""
        room = sum(job.tasks for job in self.journal.jobs()) * (self.settings.max_out_bytes + _RECORD_BYTES)
        return split_lines(
            self.slurm.sudo.read_files(self.user, paths, timeout=self.settings.command_timeout_s, max_bytes=room),
            # What json makes of a byte takes six at the most.
            longest=6 * self.settings.max_out_bytes + 4 * _RECORD_BYTES,
        )

    # -- tracking ----------------------------------------------------------------------------------------

    def poll(self) -> None:
        """One look at all jobs in flight: their states in one call, the results of those that ended in another.

        Raises:
            Silence: slurmctld does not answer; nothing is concluded.
        """
        jobs = self.journal.jobs("submitted", "ended")
        if not jobs:
            return
        for token in set(self.watches) - {job.token for job in jobs}:
            del self.watches[token]
        submitted = [job for job in jobs if job.state == "submitted"]
        now = time.monotonic()
        if submitted and not self.hidden:
            self.look(submitted, now)
        ended = self.journal.jobs("ended")
        for job in ended:
            watch = self.watches.setdefault(job.token, Watch())
            if watch.ended_at is None:
                watch.ended_at, watch.state = now, job.slurm_state or LOST
        running = [
            job
            for job in self.journal.jobs("submitted")
            if self.hidden or self.watches.setdefault(job.token, Watch()).state in ("RUNNING", "COMPLETING")
        ]
        # Never together with jobs that ended: the last line of a file that is being written may be torn as yet.
        peek = bool(running) and not ended and (now >= self.next_peek or self.hidden)
        if peek:
            self.peek_s = min(_PEEK_LAST_S, self.peek_s * 2)
            self.next_peek = now + self.peek_s
        if ended or peek:
            if not self.collect(running if peek else ended, now):
                return  # nothing follows from results that could not be read
            if self.hidden and peek:
                self.judge_hidden(running, now)
        for job in self.journal.jobs("ended"):
            self.settle(job, now)

    def look(self, jobs: Sequence[Job], now: float) -> None:
        """Ask SLURM for the states of jobs."""
        ids = [job.slurm_job_id or "" for job in jobs]
        states = self.slurm.squeue(ids)
        missing = [job_id for job_id in ids if job_id not in states]
        if missing:
            # Gone from slurmctld after MinJobAge: the accounting may know, or else the result files tell.
            for job_id, state in self.slurm.sacct(missing).items():
                if state.is_final:
                    states[job_id] = state
        gone = []
        for job in jobs:
            watch = self.watches.setdefault(job.token, Watch())
            found = states.get(job.slurm_job_id or "")
            if found is not None and not watch.seen:
                self.read_back(job, found)
            if found is None or not self.is_ours(job, found):
                gone.append(job)
                continue
            watch.missing_since, watch.seen = None, True
            if found.reason not in HOPELESS_REASONS:
                watch.hopeless_since = None
            if found.state == "RUNNING" and watch.running_since is None:
                watch.running_since = now
                self.journal.update_job(job.token, slurm_state="RUNNING", began_at=time.time(), nodes=found.nodes)
                self.predict_from_others(watch)
            if found.state == "PENDING":
                watch.running_since = watch.predicted_end = None  # it may have been requeued
            watch.state = found.state
            if found.is_final:
                if watch.running_since is not None:
                    self.durations.append(now - watch.running_since)
                self.job_ended(job, found.state, found.reason, nodes=found.nodes)
            elif found.state == "PENDING" and found.reason in HOPELESS_REASONS:
                self.hopeless(job, watch, found, now)
            elif found.state == "PENDING" and found.reason not in ORDINARY_REASONS:
                hint = PENDING_HINTS.get(found.reason, "")
                self.say_once(f"a job waits for the reason {found.reason}{hint}")
        if gone:
            self.lost_sight(gone, now)

    def is_ours(self, job: Job, found: JobState) -> bool:
        """Whether an id still means our job: a slurmctld that lost its state gives ids a second time."""
        return found.name.endswith(f".{job.token}") or bool(self.journal.get("renamed"))

    def read_back(self, job: Job, found: JobState) -> None:
        """What the site made of a job as it took it (job_submit plugins rewrite values); said once."""
        if self.journal.get("read_back"):
            return
        self.journal.put("read_back", True)
        if not found.name.endswith(f".{job.token}") and time.time() - (job.submitted_at or 0) < _RENAMED_WITHIN_S:
            self.journal.put("renamed", True)
            self.say(f"the site renamed job {found.job_id} to {found.name!r}: jobs are told by their ids alone")
        if not set(found.partition.split(",")) <= {"", *self.config.partition.split(",")}:
            self.say(f"the site put job {found.job_id} into the partition {found.partition!r}")
        wanted = job_limit_s(self.job_config(job), self.job_settings, job.tasks)
        try:
            given = parse_walltime(found.time_limit)
        except FractalSlurmError:
            return
        if wanted is not None and given < wanted:
            self.say(
                f"the site gave job {found.job_id} {found.time_limit} of time, less than its tasks may need "
                f"({format_walltime(wanted)}): "
                "a task that it cuts short fails, one that has not started runs in another job"
            )

    def judge_hidden(self, jobs: Sequence[Job], now: float) -> None:
        """Jobs that SLURM does not show us: their workers say when they end, and beat while they do not.

        A job whose worker has begun and then fell silent is lost; so is one whose output is there, which SLURM makes
        when it starts a job, and whose worker does not begin. One that has not started waits, for all we know.
        """
        begun = self.output_files(now) if any(not self.watches[job.token].began for job in jobs) else set()
        for job in jobs:
            watch = self.watches[job.token]
            if watch.lines != watch.lines_before or (watch.heard_at is None and job.token in begun):
                watch.lines_before, watch.heard_at = watch.lines, now
            silent = now - watch.heard_at if watch.heard_at is not None else 0.0
            watch.state = "RUNNING" if watch.began else "PENDING"
            if watch.began and watch.running_since is None:
                watch.running_since = now
                self.journal.update_job(job.token, slurm_state="RUNNING", began_at=time.time(), nodes=watch.nodes)
            if self.worker_ended(replace(job, nodes=watch.nodes), watch):
                self.job_ended(job, "COMPLETED", "", nodes=watch.nodes)
            elif silent > self.settings.silent_worker_s:
                self.job_ended(job, LOST, f"its worker was silent for {silent:.0f} s", nodes=watch.nodes)
            elif silent > 2 * BEAT_S:
                watch.list_again = True  # it may have been requeued, and write another file

    def output_files(self, now: float) -> set[str]:
        """The tokens of the jobs that SLURM has started, by their output files; looked at now and then."""
        if now >= self.next_listing:
            self.next_listing = now + BEAT_S
            folders = self.slurm.sudo.list_folders(
                self.user, [self.run_folder], timeout=self.settings.command_timeout_s
            )
            names = folders.get(self.run_folder, [])
            self.started = {name.partition(".")[0] for name in names if name.endswith(".slurm.out")}
        return self.started

    def predict_from_others(self, watch: Watch) -> None:
        if self.durations and watch.running_since is not None:
            watch.predicted_end = watch.running_since + sorted(self.durations)[len(self.durations) // 2]

    def lost_sight(self, jobs: Sequence[Job], now: float) -> None:
        """Neither squeue nor sacct know these jobs: their results are looked at for a while before they are lost."""
        for job in jobs:
            watch = self.watches[job.token]
            if watch.missing_since is None:
                watch.missing_since = now
        if not self.collect(jobs, now):
            return
        for job in jobs:
            watch = self.watches[job.token]
            if self.worker_ended(job, watch):
                self.job_ended(job, "COMPLETED", "", nodes=job.nodes)
            elif now - (watch.missing_since or now) > self.settings.results_wait_s:
                self.job_ended(job, LOST, "", nodes=job.nodes)

    def worker_ended(self, job: Job, watch: Watch) -> bool:
        """Whether the workers on all nodes of a job ended by themselves, in its last start."""
        return len(watch.ends) >= job.nodes

    def job_ended(self, job: Job, state: str, reason: str, *, nodes: int) -> None:
        self.journal.update_job(
            job.token, "ended", state="ended", slurm_state=state, reason=reason, nodes=nodes, ended_at=time.time()
        )

    def hopeless(self, job: Job, watch: Watch, found: JobState, now: float) -> None:
        """A job that would wait for ever, if the reason stays: it is cancelled, and its tasks do not run."""
        if watch.hopeless_since is None:
            watch.hopeless_since = now
        if now - watch.hopeless_since < _HOPELESS_AFTER_S:
            self.say_once(f"SLURM says that it can't start job {found.job_id}: {found.reason}")
            return
        words = f"SLURM will never start job {found.job_id}: {found.reason}"
        self.slurm.cancel(self.user, [found.job_id])
        self.job_ended(job, "CANCELLED", words, nodes=job.nodes)
        self.refuse(words)

    # -- collecting --------------------------------------------------------------------------------------

    def collect(self, jobs: Sequence[Job], now: float) -> bool:
        """Read the results of jobs, in one call of cat, and journal them. Returns whether they could be read."""
        paths: list[str] = []
        unlisted = []
        for job in jobs:
            watch = self.watches.setdefault(job.token, Watch())
            watch.done = watch.lines = 0
            watch.most_nodes = job.tasks
            if watch.files:
                paths += watch.files
            else:
                paths += [self.predicted_file(job, node) for node in range(max(job.nodes, watch.nodes))]
            if watch.list_again or (watch.ended_at is not None and now - watch.ended_at > 0.5 and not watch.listed):
                watch.list_again = False
                unlisted.append(job)
        odd = {Kind.TORN: 0, Kind.FOREIGN: 0}
        try:
            if unlisted:
                # Not all came from where it was expected: a job that was requeued has other files, too.
                folders = {job_folder(self.run_folder, job.token): job for job in unlisted}
                listed = self.slurm.sudo.list_folders(self.user, list(folders), timeout=self.settings.command_timeout_s)
                for folder, names in listed.items():
                    watch = self.watches[folders[folder].token]
                    watch.files = [f"{folder}/{name}" for name in names if _is_result_file(name)]
                    paths += [path for path in watch.files if path not in paths]
            with self.journal.transaction():
                for line in self.read(paths):
                    kind = self.take_line(line)
                    if kind in odd:
                        odd[kind] += 1
        except ClusterError as error:
            self.outage(f"results can't be read now: {error}")
            return False
        if any(odd.values()) and all(job.state == "ended" for job in jobs):
            self.name_odd_lines(jobs, odd[Kind.TORN], odd[Kind.FOREIGN])
        for job in unlisted:
            self.watches[job.token].listed = True
        for job in jobs:
            watch = self.watches[job.token]
            if watch.running_since is not None and watch.done:
                rate = watch.done / max(0.5, now - watch.running_since)
                watch.predicted_end = now + max(0, job.tasks - watch.done) / rate
        return True

    def name_odd_lines(self, jobs: Sequence[Job], torn: int, foreign: int) -> None:
        """Lines that no worker of ours wrote whole: passed over, and said once for each set of jobs."""
        which = ", ".join(job.slurm_job_id or job.token for job in jobs)
        words = f"in the result files of job {which}, {torn} torn and {foreign} foreign lines were passed over"
        if self.say_once(words):
            self.journal.event("odd lines", which, words)

    def take_line(self, line: bytes) -> Kind:
        """One line of a result file; returns what it is."""
        kind, record = classify(line, self.tokens)
        if kind in (Kind.TORN, Kind.FOREIGN):
            return kind
        watch = self.watches.setdefault(record["token"], Watch())
        watch.began = True
        watch.lines += 1
        if kind is Kind.TASK:
            watch.done += 1
            self.take_record(record, line.decode("utf-8", "replace"))
        elif kind is not Kind.BEAT and record["restart"] >= watch.restart:
            if record["restart"] > watch.restart:
                watch.restart = record["restart"]
                watch.ends.clear()  # of a start that SLURM took back
            if kind is Kind.BEGIN:
                watch.nodes = max(watch.nodes, min(record["nodes"], watch.most_nodes))
            else:
                watch.ends[record["node"]] = record["end"]
        if kind is Kind.END:
            watch.steps[record["restart"], record["node"]] = record["steps"]
        return kind

    def take_record(self, record: dict[str, Any], text: str) -> None:
        """The end of a task. The first whole record of the valid attempt counts; others are named."""
        index = record["task"]
        row = self.journal.task_row(index)
        if row is None:
            return
        attempt, token, state, retries, _node_retries, stored = row
        if token != record["token"] or attempt != record["attempt"]:
            if (record["token"], index) not in self.late:
                self.late.add((record["token"], index))
                self.journal.event("late record", record["token"], f"task {index}, attempt {record['attempt']}")
            return
        if state not in ("waiting", "cut"):
            if stored != text and (text, index) not in self.late:
                self.late.add((text, index))
                self.journal.event("second record", record["token"], f"task {index}, attempt {attempt}")
            return
        reason = record.get("reason")
        if record["state"] == "succeeded":
            self.journal.finish_task(index, "succeeded", None, text)
        elif record["state"] == "cut":
            if stored != text:
                self.journal.finish_task(index, "cut", reason, text)
        elif retries < self.settings.max_retries and not self.cancelled:
            self.journal.event("task again", record["token"], f"task {index}: {reason}")
            self.journal.try_again(index, own_fault=True)
        else:
            self.journal.finish_task(index, "failed", reason, text)

    def settle(self, job: Job, now: float) -> None:
        """A job has ended: once its results are there, or have had their time, decide on what it left."""
        watch = self.watches.setdefault(job.token, Watch())
        unfinished = self.journal.tasks_of(job.token, "waiting", "cut")
        if unfinished:
            came = watch.listed and self.worker_ended(job, watch)
            waited = now - (watch.ended_at or now)
            # A script that failed before its worker leaves none; else it is the file system that lags.
            never = watch.listed and not watch.began and job.slurm_state == "FAILED" and waited > _NEVER_BEGAN_S
            if not came and not never and waited < self.settings.results_wait_s:
                return
            self.decide(job, watch, unfinished)
        # One step for a job that was spread over several nodes, and those of its slots where they have their own.
        steps = sum(watch.steps.values()) + (job.nodes > 1)
        if steps:
            self.journal.put("srun_steps", self.journal.get("srun_steps", 0) + steps)
        self.journal.update_job(job.token, "collected", state="collected")
        self.watches.pop(job.token, None)
        self.full_until = 0.0  # there is room for another

    def decide(self, job: Job, watch: Watch, unfinished: Sequence[int]) -> None:
        """What becomes of the tasks that a job left."""
        slots = job.slots or min(self.config.parallel_tasks_per_job, job.tasks)
        cut = set(self.journal.tasks_of(job.token, "cut"))
        # The queue is in order, so what was running is among the first that have no end.
        running = cut
        if not self.worker_ended(job, watch):
            running = cut | set(unfinished if job.nodes > 1 else unfinished[:slots])
        verdict = judge(
            state=job.slurm_state or LOST,
            reason=job.reason or "",
            job=f"job {job.slurm_job_id}",
            slots=slots,
            began=watch.began,
            progress=watch.done > len(cut),
            worker_end=next(iter(watch.ends.values()), None),
            cancelled_by_us=self.cancelled,
        )
        words = verdict.words
        if not watch.began and not self.cancelled and (job.slurm_state or LOST) in ("FAILED", LOST):
            words += self.job_output(job)
        if {verdict.running, verdict.waiting} - {Action.NOT_RUN}:
            self.shut_out(job)
        alone: list[int] = []
        again = 0
        with self.journal.transaction():
            for index in unfinished:
                action = verdict.running if index in running else verdict.waiting
                row = self.journal.task_row(index)
                if row is None:
                    continue
                if action is Action.RETRY and row[4] >= self.settings.max_node_retries:
                    self.journal.finish_task(index, "failed", f"{words}; it was tried {row[4] + 1} times", None)
                elif action is Action.FAIL and row[3] < self.settings.max_retries:
                    self.journal.try_again(index, own_fault=True)
                    again += 1
                elif action is Action.FAIL:
                    self.journal.finish_task(index, "failed", words, None)
                elif action is Action.NOT_RUN:
                    self.journal.finish_task(index, "not_run", words, None)
                elif action is Action.AGAIN:
                    if job.slots:
                        alone.append(index)
                    self.journal.release([index])
                    again += 1
                else:
                    if action is Action.ALONE:
                        alone.append(index)
                    self.journal.try_again(index, own_fault=False)
                    again += 1
            if alone:
                self.journal.put("alone", [*self.journal.get("alone", []), *alone])
            self.journal.event("left unfinished", job.token, f"{len(unfinished)} tasks: {words}")
        if again:
            self.say(f"{words}: {again} of its tasks go into a new job")
        elif not self.cancelled:
            self.say(words)

    def shut_out(self, job: Job) -> None:
        """Before a job's tasks go elsewhere: should it start late, or its worker live on, it starts nothing more.

        Raises:
            ClusterError: The marks can't be made; then nothing goes elsewhere.
        """
        self.slurm.sudo.mkdir(self.user, [self.run_folder], timeout=self.settings.command_timeout_s)
        paths = [claim_path(self.run_folder, job.token), stop_path(self.run_folder, job.token)]
        self.slurm.sudo.take_names(self.user, paths, timeout=self.settings.command_timeout_s)

    def job_output(self, job: Job) -> str:
        """The end of what a job printed outside of its tasks, for the words of its failure."""
        try:
            chunks = self.slurm.sudo.read_files(
                self.user, [output_path(self.run_folder, job.token)], timeout=30, max_bytes=1_000_000
            )
            text = b"".join(chunks).decode("utf-8", "replace").strip()
        except FractalSlurmError:
            return ""
        return f"; it printed: {text[-500:]}" if text else "; it printed nothing"

    # -- cancelling --------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Cancel the run: from here on nothing more is submitted, and :meth:`pursue_cancel` ends what is out."""
        self.cancelled = True
        with self.journal.transaction():
            self.journal.put("cancelled", True)
            self.journal.event("cancel")
        live = self.journal.jobs("submitting", "submitted")
        if live:
            self.say(f"cancelling {len(live)} jobs; what has finished is brought home")
        now = time.monotonic()
        self.cancel_deadline = now + self.settings.cancel_grace_s
        self.last_submission = self.next_poll = now

    def pursue_cancel(self) -> None:
        """End the jobs that are out: a mark that their workers heed, a grace, then scancel in one call.

        Raises:
            ClusterError: One of them could not be done; it is done again.
        """
        live = self.journal.jobs("submitted")
        unmarked = [job for job in live if job.token not in self.marked]
        if unmarked:
            claims = [claim_path(self.run_folder, job.token) for job in unmarked]
            marks = [stop_path(self.run_folder, job.token) for job in unmarked]
            free = self.slurm.sudo.take_names(self.user, [*claims, *marks], timeout=self.settings.command_timeout_s)
            self.marked |= {job.token for job in unmarked}
            # Whose claim is ours now has not begun, and never will.
            self.unclaimed |= {job.token for job, ours in zip(unmarked, free, strict=False) if ours}
        running = [job for job in live if job.token not in self.unclaimed]
        due = time.monotonic() >= self.cancel_deadline
        left = [job for job in live if job.slurm_job_id and job.slurm_job_id not in self.cancelled_ids]
        if left and (due or not running):
            ids = [job.slurm_job_id or "" for job in left]
            self.slurm.cancel(self.user, ids)
            self.cancelled_ids |= set(ids)
            self.cancel_deadline = time.monotonic() + self.settings.cancel_grace_s
            self.next_poll = time.monotonic()
        elif self.hidden and not left:
            for job in live:
                if due or job.token in self.unclaimed:
                    self.job_ended(job, "CANCELLED", "", nodes=job.nodes)

    # -- the end -----------------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """The outcome of the run, as the command line prints it with --json."""
        counts = self.journal.counts()
        jobs = self.journal.jobs()
        failures = [
            {"index": index, "reason": reason or state, "state": state, **_of_record(record)}
            for index, _attempt, _token, state, reason, record, _args in self.journal.tasks("failed", "not_run")
        ]
        return {
            "run_id": self.run_id,
            "state": self.journal.get("state"),
            "user": self.user,
            "tasks": sum(counts.values()),
            "succeeded": counts.get("succeeded", 0),
            "failed": counts.get("failed", 0),
            "not_run": counts.get("not_run", 0),
            "jobs": sum(job.slurm_job_id is not None for job in jobs),
            "wall_s": round(time.monotonic() - self.began, 3),
            "sudo_calls": self.slurm.sudo.calls,
            "squeue_calls": self.slurm.squeue_calls,
            "srun_steps": self.journal.get("srun_steps", 0),
            "run_folder": self.run_folder,
            "failures": failures,
        }


def _is_result_file(name: str) -> bool:
    return re.fullmatch(r"results-[0-9]{1,9}-[0-9]{1,9}", name) is not None


class Detached(Exception):
    """The driver was told to leave the jobs alone."""


def _of_record(text: str | None) -> dict[str, Any]:
    """What helps with a failure, out of a worker's record."""
    if text is None:
        return {}
    record = json.loads(text)
    found = {key: record[key] for key in ("exit", "signal", "host", "job", "tail") if record.get(key) is not None}
    return {{"exit": "exit_code", "tail": "log_tail"}.get(key, key): value for key, value in found.items()}
