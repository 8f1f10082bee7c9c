# SPDX-License-Identifier: BSD-3-Clause
"""One run, as the parts of its driver share it: the journal, the cluster, and what is known of the jobs in flight."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..cluster.commands import Slurm, SlurmJob
from ..cluster.queue import Queue
from ..config.resolve import SlurmConfig
from ..errors import ClusterError
from ..jobs.plan import without_nodes
from ..jobs.script import JobSettings
from ..settings import Settings
from ..sudo import Interrupted
from .folders import slurm_may_write
from .journal import Journal
from .ledger import ledger_of
from .model import IN_FLIGHT, UNFINISHED, JobRow, JobState, RunRecord, TaskState
from .notes import Notes
from .quota import Quota
from .sight import Reading, Sighting

NO_ANSWER = "SLURM does not answer"
# While SLURM is silent, pauses grow from the first to the second.
_OUTAGE_FIRST_S, _OUTAGE_LAST_S = 2.0, 60.0
# How many names are tried for the folder of a new run.
_NAMES = 3


class Run:
    """One run, and what its driver knows of it at the moment.

    Args:
        journal: The run's journal, locked.
        settings: Our own settings.
        slurm: The cluster.
        say: Takes sentences for a person.
        queue: Tells how jobs are; None for one of this run's own.
    """

    def __init__(
        self,
        journal: Journal,
        settings: Settings,
        slurm: Slurm,
        *,
        say: Callable[[str], None],
        queue: Queue | None = None,
    ) -> None:
        self.journal = journal
        self.settings = settings
        self.slurm = slurm
        self.queue = queue or Queue(slurm, shared=ledger_of(settings), foreign=settings.limits.count_foreign_jobs)
        self.sudo = slurm.sudo
        self.sudo.stop = self.is_wanted_elsewhere
        self.say = say
        self.user = self.record.user
        self.id = self.record.run_id
        self.config = self.record.config
        self.hidden = self.record.hides_jobs
        self.slurm_output = slurm_may_write(self.folder, self.user)
        self.tokens = journal.tokens()
        # What is known of the jobs in flight, by token.
        self.sightings: defaultdict[str, Sighting] = defaultdict(Sighting)
        self.readings: defaultdict[str, Reading] = defaultdict(Reading)
        self.cancel_at: float | None = None  # when to cancel, as a monotonic time
        self.detach_requested = False
        self.last_submission = time.monotonic()
        self.full_until = 0.0  # until when there is no room for another job
        self.trouble = ""
        self.outage_s = 0.0
        self.outage_until = 0.0
        self.said: set[str] = set()
        self.notes = Notes(journal)
        self.quota = Quota(self)

    @property
    def record(self) -> RunRecord:
        """What the journal has of the run as a whole."""
        return self.journal.record

    @property
    def folder(self) -> str:
        """The run's folder, in the user's work folder."""
        return self.record.run_folder

    @property
    def cancelled(self) -> bool:
        return self.record.cancelled

    @property
    def refusal(self) -> str | None:
        """Why nothing more is submitted, if that is so."""
        return self.record.refusal

    @property
    def job_settings(self) -> JobSettings:
        """What the scripts have in common that are submitted now."""
        settings = self.record.job_settings
        return replace(
            settings,
            # Where they are today: the version that began the run may be gone.
            worker_python=self.settings.python(),
            worker_folder=self.settings.folder(),
            srun=f"{self.settings.bin_dir()}/srun",
            slurm_output=self.slurm_output,
            clear_preload=self.record.clear_preload,
            task_start="fresh" if self.record.fork_off else settings.task_start,
        )

    def note_renamed(self, found: SlurmJob) -> None:
        """Note that the site renames jobs, as one that is certainly ours shows; said once."""
        if self.record.renamed:
            return
        self.journal.write(replace(self.record, renamed=True))
        self.say(f"the site renamed job {found.job_id} to {found.name!r}: jobs are told by their ids alone")

    def stop_forking(self, why: str) -> None:
        """Let jobs that are submitted from now on start each task in a new process; ``why`` says the reason."""
        self.journal.write(replace(self.record, fork_off=why))

    def has_work(self) -> bool:
        """Say whether a task has not ended yet."""
        return bool(self.journal.jobs(JobState.PLANNED, *IN_FLIGHT, JobState.ENDED) or self.journal.unassigned())

    def keep(self, tokens: set[str]) -> None:
        """Forget what was known of jobs in flight that are not among these."""
        for known in (self.sightings, self.readings):
            for token in set(known) - tokens:
                del known[token]

    def cancel_is_due(self) -> bool:
        """Say whether the run is to be cancelled now."""
        return self.cancel_at is not None and time.monotonic() >= self.cancel_at

    def is_wanted_elsewhere(self) -> bool:
        """Say whether the driver must still leave the jobs alone or cancel, because it was told to."""
        return self.detach_requested or (self.cancel_is_due() and not self.cancelled)

    def heed(self) -> None:
        """Stop a long piece of work if something else must be done first; called between its parts.

        Raises:
            Interrupted: Something else must be done. The parts that were done stay done, and may be done again.
        """
        if self.is_wanted_elsewhere():
            raise Interrupted("the driver was told to stop")

    def most_nodes(self, job: JobRow) -> int:
        """Return the most nodes that a job can have: one for each task, or as many as the config allows."""
        asked = int((self.config.nodes or "1").rpartition("-")[2])
        return max(1, min(job.tasks, max(asked, job.slots or self.config.parallel_tasks_per_job)))

    def may_ask(self) -> bool:
        """Say whether no pause after an outage is left."""
        return time.monotonic() >= self.outage_until

    def say_once(self, words: str) -> bool:
        """Say a sentence, unless it was said before; return whether it was new."""
        if words in self.said:
            return False
        self.said.add(words)
        self.say(words)
        return True

    def outage(self, words: str) -> None:
        """Note that SLURM or the user's folder is out of reach: say so once, and pause, longer each time."""
        if words != self.trouble and (not self.trouble or not words.startswith(NO_ANSWER)):
            self.trouble = words
            self.say(words)
            self.journal.event("outage", "", words)
        self.notes.wait("outage", words)
        self.outage_s = min(_OUTAGE_LAST_S, max(_OUTAGE_FIRST_S, self.outage_s * 1.5))
        self.outage_until = time.monotonic() + self.outage_s

    def outage_is_over(self) -> None:
        """Note that SLURM and the user's folder can be reached again: say so after an outage, and end the pause."""
        if not self.outage_s:
            return
        self.outage_s = 0.0
        self.notes.wait("outage", "")
        self.say("SLURM answers again" if self.trouble.startswith(NO_ANSWER) else "going on")
        self.trouble = ""

    def refuse(self, words: str) -> None:
        """End the run after a final refusal: submit nothing more, and wait for the jobs that run."""
        self.journal.write(replace(self.record, refusal=words, refusals=(*self.record.refusals, words)))
        self.give_up(words)
        self.say(f"{words}; once the cause is gone: fractal-slurm resume {self.id}")

    def take_up_again(self) -> int:
        """Set up again the tasks that did not run because the run was refused; return their number."""
        return take_up_again(self.journal)

    def give_up(self, words: str) -> None:
        """Submit nothing more: the tasks of planned jobs, and those that wait for a plan, do not run."""
        planned, tasks = self.journal.jobs(JobState.PLANNED), self.journal.unassigned()
        if not planned and not tasks:
            return
        with self.journal.transaction():
            self.journal.finish_tasks(tasks, TaskState.NOT_RUN, words)
            for job in planned:
                self.journal.finish_tasks(self.journal.tasks_of(job.token, *UNFINISHED), TaskState.NOT_RUN, words)
                self.journal.update_job(job.token, "given up", state=JobState.ABANDONED, reason=words)
        self.quota.withdraw()

    def new_token(self) -> str:
        """Return a token that no job has yet."""
        token = secrets.token_hex(8)
        self.tokens.add(token)
        return token

    def job_config(self, job: JobRow) -> SlurmConfig:
        """Return the config of a job that is submitted now."""
        left_out = sorted(self.record.bad_nodes)
        config = without_nodes(self.config, left_out) if left_out else self.config
        return replace(config, parallel_tasks_per_job=job.slots) if job.slots else config

    def leave_out(self, host: str, why: str) -> None:
        """Keep the jobs that are submitted from now on off this node."""
        self.journal.write(replace(self.record, bad_nodes={**self.record.bad_nodes, host: why}))
        self.journal.event("node left out", host, why)

    def forgive_nodes(self, why: str) -> None:
        """Let jobs run on all nodes again."""
        self.journal.write(replace(self.record, bad_nodes={}))
        self.journal.event("no node left out", "", why)

    def job_ended(self, job: JobRow, state: str, reason: str, *, nodes: int) -> None:
        """Note that a job has ended, in which of SLURM's states and why."""
        self.journal.update_job(
            job.token, "ended", state=JobState.ENDED, slurm_state=state, reason=reason,
            nodes=min(nodes, self.most_nodes(job)), ended_at=time.time(),
        )  # fmt: skip

    # -- as the user, with the usual time limit

    def make_folder(self) -> None:
        """Make the run's folder. A new run needs a folder that did not exist; a run that goes on may find its own.

        Raises:
            ClusterError: The folder can't be made.
            ImpersonationError: sudo refused.
        """
        made = self.record.folder_made
        timeout = self.settings.command_timeout_s
        stem = folder = self.folder
        if not made or not self.sudo.look(self.user, [stem], timeout=timeout):  # the worker proves whose it is
            tries = 1 if made else _NAMES
            while words := self.sudo.make_folder(self.user, folder, timeout=timeout):
                tries -= 1
                if not tries:
                    raise ClusterError(f"{self.user} can't make the folder {folder}: {words}")
                # Somebody was faster, or the answer to an earlier call got lost. No job knows the folder yet.
                folder = f"{stem}-{secrets.token_hex(3)}"
        self.slurm_output = slurm_may_write(folder, self.user)
        settings = replace(self.record.job_settings, run_folder=folder)
        self.journal.write(replace(self.record, folder_made=True, run_folder=folder, job_settings=settings))

    def clear_preload(self) -> None:
        """From now on, submit jobs without the LD_PRELOAD that sudo gives to sbatch."""
        self.journal.write(replace(self.record, clear_preload=True))

    def take_names(self, paths: Sequence[str]) -> list[bool]:
        """Take names in the run's folder; return for each whether the driver has it, now or since earlier."""
        return self.sudo.take_names(self.user, paths, timeout=self.settings.command_timeout_s)

    def list_folders(self, folders: Sequence[str], *, wanted: Callable[[str], bool], most: int) -> dict[str, list[str]]:
        """Return the wanted names in each folder, at most ``most`` of each; a missing folder has none."""
        return self.sudo.list_folders(
            self.user, folders, timeout=self.settings.command_timeout_s, wanted=wanted, most=most
        )


def take_up_again(journal: Journal) -> int:
    """Set up again the tasks of a run that did not run because the run was refused; return their number.

    Args:
        journal: The run's journal, locked.
    """
    record = journal.record
    with journal.transaction():
        tasks = journal.take_up_again([*record.refusals, *filter(None, [record.refusal])])
        journal.write(replace(record, refusal=None, refusals=()))
        if tasks:
            journal.event("taken up again", record.run_id, f"{tasks} tasks")
    return tasks
