# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver in a played world: random sequences of what can happen to a run, and what has to hold all the same.

No task runs under two tokens at once, none is lost, each ends once, and the journal can be read at any time. At the end
all faults are mended: then the run has to come to its end, with a right end for each task.
"""

import os
import tempfile
from pathlib import Path

import pytest
from fractal_slurm.driver.journal import Journal
from fractal_slurm.errors import RunError
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from played import Site
from standins import SBATCH_FAULTS

# In memory, where there is such a folder: journals are written line by line.
SHM = "/dev/shm"  # noqa: S108 - what is made there is private
PLACE = SHM if os.access(SHM, os.W_OK) else None
picks = st.integers(0, 7)
# What sbatch does: all is well, or one of its faults that may pass.
SUBMISSIONS = ["", "", *(fault for fault in SBATCH_FAULTS if fault != "wrong")]


def with_jobs(*states):
    return precondition(lambda self: self.site.jobs(*states))


with_workers = precondition(lambda self: self.site.alive())
with_running = precondition(lambda self: any(worker.running for worker in self.site.alive()))


class Life(RuleBasedStateMachine):
    """A run, and what happens to it."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=PLACE)
        self.site = None

    @initialize(
        tasks=st.integers(1, 6),
        hidden=st.sampled_from([False, False, True]),
        accounting=st.booleans(),
        fault=st.sampled_from(SUBMISSIONS),
        killed=st.sampled_from(["", "", "sbatch", "mkdir", *range(30, 60)]),
        seconds=st.sampled_from([0.1, 1]),
        cancels=st.sampled_from([False, False, False, True]),
    )
    def begin(self, tasks, hidden, accounting, fault, killed, seconds, cancels):
        folder = Path(self.folder.name)
        # So many node faults as one life has do not make a task fail.
        self.site = Site(folder, tasks=tasks, hidden=hidden, accounting=accounting, max_node_retries=100)
        self.world = self.site.played()
        self.world.__enter__()
        self.aside = folder / "aside"
        self.cancelled = False  # the run
        self.cancelled_jobs = set()
        self.hidden, self.cancels = hidden, cancels
        self.failed = set()
        self.site.slurm.fault("sbatch", fault)
        self.site.begin()
        if killed:  # in the midst of the first submissions
            self.site.kill(killed)
        self.site.pass_time(seconds)

    # -- what goes well

    @rule(seconds=st.sampled_from([0.1, 1, 5, 40, 90]))
    def time_passes(self, seconds):
        self.site.pass_time(seconds)
        self.mend()  # what is at fault is so for a while, else nothing would ever go on

    @with_jobs("PENDING")
    @rule(pick=picks)
    def a_job_starts(self, pick):
        jobs = self.site.jobs("PENDING")
        self.site.start(jobs[pick % len(jobs)])

    @with_running
    @rule(pick=picks, state=st.sampled_from(["succeeded", "succeeded", "failed"]))
    def a_task_ends(self, pick, state):
        worker = self.pick([worker for worker in self.site.alive() if worker.running], pick)
        if state == "failed":
            self.failed.add(worker.tasks[0])
        worker.finish(state)
        worker.start()

    @with_workers
    @rule(pick=picks)
    def a_job_comes_to_its_end(self, pick):
        self.pick(self.site.alive(), pick).work()

    # -- what goes wrong with submissions

    @rule(fault=st.sampled_from(SUBMISSIONS))
    def sbatch_says(self, fault):
        self.site.slurm.fault("sbatch", fault)

    @precondition(lambda self: any(job["unborn"] for job in self.site.slurm.jobs().values()))
    @rule()
    def a_late_job_comes_up_and_starts(self):
        for job_id, job in self.site.slurm.jobs().items():
            if job["unborn"]:
                self.site.slurm.change(job_id, unborn=False)
                self.site.start(job_id)
                return

    # -- what goes wrong with jobs

    @with_workers
    @rule(pick=picks, end=st.sampled_from(["FAILED 0:9", "TIMEOUT 0:0", "OUT_OF_MEMORY 0:9", "NODE_FAIL 0:0"]))
    def a_job_is_ended(self, pick, end):
        worker = self.pick(self.site.alive(), pick)
        state, code = end.split()
        self.failed |= set(worker.tasks)
        worker.gone(state, code)

    @with_running
    @rule(pick=picks)
    def a_worker_is_killed_in_the_midst_of_a_record(self, pick):
        worker = self.pick([worker for worker in self.site.alive() if worker.running], pick)
        self.failed |= set(worker.tasks)
        worker.finish("succeeded", torn=True)
        worker.gone("FAILED", "0:9")

    @with_workers
    @rule(pick=picks)
    def a_node_is_given_up_and_its_worker_lives_on(self, pick):
        worker = self.pick(self.site.alive(), pick)
        self.site.slurm.change(worker.id, state="NODE_FAIL")
        worker.lost = True

    @with_workers
    @rule(pick=picks)
    def a_job_is_requeued(self, pick):
        worker = self.pick(self.site.alive(), pick)
        job = self.site.slurm.job(worker.id)
        if job["state"] == "RUNNING" and not worker.lost:
            worker.lost = True  # nothing is written of its end
            worker.gone("PENDING")
            self.site.slurm.change(worker.id, state="PENDING", restart=job["restart"] + 1)

    @with_jobs("PENDING", "RUNNING")
    @rule(pick=picks)
    def a_job_is_cancelled_by_somebody(self, pick):
        job_id = self.pick(self.site.jobs("PENDING", "RUNNING"), pick)
        self.cancelled_jobs.add(job_id)
        self.site.slurm.change(job_id, state="CANCELLED")
        self.site.heed_scancel()

    @with_jobs("PENDING", "RUNNING", "COMPLETED", "FAILED")
    @rule(pick=picks)
    def slurm_forgets_a_job(self, pick):
        job_id = self.pick(self.site.jobs("PENDING", "RUNNING", "COMPLETED", "FAILED"), pick)
        state = self.site.slurm.job(job_id)["state"]
        if self.hidden and state == "PENDING":
            return  # nothing tells of it, unless SLURM told of one of the run's jobs before
        ended = state in ("COMPLETED", "FAILED")
        self.site.slurm.change(job_id, forgotten="old" if ended else "lost")
        for worker in self.site.workers:
            worker.lost |= worker.id == job_id

    @with_jobs("PENDING", "RUNNING")
    @rule(pick=picks)
    def slurm_loses_a_job_and_gives_its_id_to_another(self, pick):
        job_id = self.pick(self.site.jobs("PENDING", "RUNNING"), pick)
        if not self.hidden:
            self.site.slurm.change(job_id, name="other.0123456789abcdef", state="CANCELLED")
            for worker in self.site.workers:
                worker.lost |= worker.id == job_id

    # -- what goes wrong with the driver and with what it needs

    @precondition(lambda self: self.site.is_driven())
    @rule(at=st.sampled_from([0, 0, "sbatch", "mkdir", "cat", 1, 2, 3, 4, 5, 6, 8, 11, 15, 20, 30]))
    def the_driver_is_killed(self, at):
        self.site.kill(at)

    @precondition(lambda self: not self.site.is_driven())
    @rule()
    def the_run_is_resumed(self):
        self.site.resume()
        self.site.pass_time(1)

    @precondition(lambda self: self.site.is_driven() and self.site.run_id())
    @rule()
    def a_second_driver_is_refused(self):
        with pytest.raises(RunError):
            Journal.open(self.site.settings.state_path(), self.site.run_id(), drive=True)

    @rule(program=st.sampled_from(["slurmctld", "sudo"]), words=st.sampled_from(["", "unable to fork"]))
    def a_program_refuses(self, program, words):
        self.site.slurm.fault(program, words)

    @rule()
    def the_work_folder_goes_away_or_comes_back(self):
        if self.aside.exists():
            self.site.work_dir.unlink()
            self.aside.rename(self.site.work_dir)
        else:
            self.site.work_dir.rename(self.aside)
            self.site.work_dir.symlink_to("/nowhere/at/all")  # nor can it be made anew

    @precondition(lambda self: self.cancels and self.site.runner and self.site.runner.run.cancel_at is None)
    @rule()
    def the_run_is_cancelled(self):
        self.cancelled = True
        self.site.runner.interrupt()

    # -- what has to hold

    @invariant()
    def holds(self):
        if self.site is not None:
            self.site.check()

    def teardown(self):
        if self.site is None:
            return
        try:
            self.mend()
            for job_id in self.site.slurm.jobs():
                self.site.slurm.change(job_id, unborn=False)
            self.site.kill()
            self.site.resume()
            self.site.pass_time(1)
            self.site.go_on()
            self.judge()
        finally:
            self.world.__exit__(None, None, None)
            self.folder.cleanup()

    def mend(self):
        """What the driver needs is there again."""
        for program in ("sbatch", "slurmctld", "sudo"):
            self.site.slurm.fault(program)
        if self.aside.exists():
            self.the_work_folder_goes_away_or_comes_back()

    def judge(self):
        """Every task has an end, and the right one."""
        assert self.site.error is None, self.site.error
        outcome = self.site.outcome()
        assert set(self.site.ends) == set(range(self.site.tasks))
        for index, (state, reason) in enumerate(outcome):
            if state == "failed":
                assert index in self.failed, reason
            elif state == "not_run":
                assert self.cancelled or any(f"job {each} was cancelled" in reason for each in self.cancelled_jobs), (
                    reason
                )
            else:
                assert state == "succeeded"
        assert self.site.state() in ("done", "cancelled")

    @staticmethod
    def pick(some, number):
        return some[number % len(some)]


TestLife = Life.TestCase
QUICK = os.environ.get("HYPOTHESIS_PROFILE", "quick") == "quick"
TestLife.settings = settings(
    # A life takes as long as a hundred calls of a function, and to find the shortest that fails takes minutes.
    max_examples=40 if QUICK else 1_000,
    stateful_step_count=30,
    phases=[Phase.generate] if QUICK else list(Phase),
)
