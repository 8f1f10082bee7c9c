# SPDX-License-Identifier: GPL-3.0-or-later
"""Many runs: whose jobs go out first, with limits of ours and without. sudo and SLURM are played."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from fractal_slurm import process
from fractal_slurm.api import Engine, RunHandle, RunRequest
from fractal_slurm.cluster.commands import Slurm, SlurmJob, Submission, Submitted
from fractal_slurm.driver import loop
from fractal_slurm.executor import SlurmExecutor
from fractal_slurm.settings import Settings
from played import Played, Worker
from samples import config_file, slurm_config
from standins import Standins

SUBMIT_S = 0.002


class Site:
    """An engine whose submissions are noted, and others beside it.

    Attributes:
        job_s: Seconds that a job takes; None if no job ever starts.
    """

    def __init__(self, folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.job_s: float | None = None
        self.submitted: dict[str, float] = {}
        self.clock = types.SimpleNamespace(now=0.0, time=time.time)
        self.wrote: set[Any] = set()
        self.order: list[str] = []  # the user and the run's name, at each submission
        self.now, self.most = 0, 0  # submissions at this moment, and at the most
        self.hung: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self.slurm = Standins(folder / "cluster")

        def run_command(argv: Any, *, env: Any, stdin: bytes = b"", **_: Any) -> Any:
            return process.Finished(*self.slurm.call(argv, stdin, env))

        def child(argv: Any, *, env: Any, stdin: bytes = b"") -> Played:
            return Played(self.slurm.call(argv, stdin, env))

        def submit(slurm: Slurm, user: str, script: bytes, *, timeout: float) -> Submission:
            with slurm.gate:
                with self._lock:
                    self.now += 1
                    self.most = max(self.most, self.now)
                if user in self.hung:
                    self.hung[user].wait(20)
                time.sleep(SUBMIT_S)
                name = next(line for line in script.decode().splitlines() if "--job-name=" in line)
                with self._lock:
                    self.now -= 1
                    self.order.append(f"{user}/{name.partition('=')[2].rpartition('.')[0]}")
                    job_id = str(len(self.order))
                    self.submitted[job_id] = time.monotonic()
                    if self.job_s is not None:
                        job_id = self.slurm.call(["sbatch", "--parsable"], script).out.decode().strip()
                        self.slurm.change(job_id, state="RUNNING")
                        Worker(self, job_id).work()  # type: ignore[arg-type]
                    return Submission(Submitted.ACCEPTED, job_id)

        for module in [each for name, each in sys.modules.items() if name.startswith("fractal_slurm.")]:
            for called, played in (("run_command", run_command), ("Child", child)):
                if getattr(module, called, None) is getattr(process, called) and module is not process:
                    monkeypatch.setattr(module, called, played)
        monkeypatch.setattr(Slurm, "submit", submit)
        monkeypatch.setattr(Slurm, "squeue", lambda _slurm, ids=(), **_names: self.states(ids))
        (folder / "work").mkdir()
        self.engines: list[Engine] = []
        self.engine = self.begin()

    def begin(self, **settings: Any) -> Engine:
        """Another engine, as another process of the same host has one."""
        self.engine = Engine(
            Settings(
                slurm_bin_dir="/played",
                state_dir=str(self.folder / "state"),
                worker_python=sys.executable,
                results_wait_s=3_600,
                refusal_wait_s=3_600,
                **settings,
            )
        )
        self.engines.append(self.engine)
        return self.engine

    def started(self, _task: int, _worker: Worker) -> None:
        """A worker starts a task."""

    def states(self, ids: Sequence[str]) -> dict[str, SlurmJob]:
        """What squeue shows of jobs."""
        if self.job_s is None:
            return {job_id: SlurmJob(job_id, "PENDING") for job_id in ids}
        over = time.monotonic() - self.job_s
        return {job_id: SlurmJob(job_id, "COMPLETED" if self.submitted[job_id] < over else "RUNNING") for job_id in ids}

    def start(self, user: str, name: str, jobs: int) -> RunHandle:
        config = replace(
            slurm_config(tot_tasks=jobs),
            tasks_per_job=1,
            parallel_tasks_per_job=1,
            target_num_jobs=jobs,
            max_num_jobs=jobs,
            job_name=name,
        )
        return self.engine.start(
            RunRequest(
                user=user,
                task_name=name,
                command="true",
                parameters=[{"n": n} for n in range(jobs)],
                config=config,
                cache_dir="/cache",
                work_dir=str(self.folder / "work"),
            )
        )

    def until(self, *counts: tuple[str, int]) -> list[str]:
        """The order of submissions, once there were so many of each."""
        end = time.monotonic() + 60
        while not all(self.order.count(who) >= number for who, number in counts):
            assert time.monotonic() < end, {who: self.order.count(who) for who, _number in counts}
            time.sleep(0.01)
        return list(self.order)


@pytest.fixture
def site(tmp_path, monkeypatch):
    made = Site(tmp_path, monkeypatch)
    try:
        yield made
    finally:
        for event in made.hung.values():
            event.set()
        assert all(engine.shutdown("leave", timeout=30) for engine in made.engines)


class TestSubmissions:
    def test_a_run_of_10_jobs_is_not_behind_one_of_1000(self, site):
        site.start("anna", "big", 1_000)
        site.until(("anna/big", 20))
        begun = len(site.order)
        site.start("ben", "small", 10)
        order = site.until(("ben/small", 10))
        # Ten in two turns of eight; meanwhile the other user has as many turns, and the one that was on.
        assert order[begun:].count("anna/big") <= 120

    def test_at_most_four_submit_at_once(self, site):
        users = [f"user-{number}" for number in range(7)]
        for user in users:
            site.start(user, "some", 12)
        site.until(*((f"{user}/some", 12) for user in users))
        assert 1 < site.most <= 4

    def test_users_whose_sbatch_hangs_hold_back_no_other(self, site):
        hung = [f"hung-{number}" for number in range(6)]
        site.hung = {user: threading.Event() for user in hung}
        for user in (*hung, "anna", "ben"):
            site.start(user, "some", 12)
        site.until(("anna/some", 12), ("ben/some", 12))
        assert not [who for who in site.order if who.startswith("hung")]

    def test_of_one_user_the_oldest_goes_first(self, site, monkeypatch):
        monkeypatch.setattr(loop, "_LONG_S", 60.0)  # however slow this machine is
        site.hung = {"anna": threading.Event()}
        for name in ("first", "second", "third"):
            site.start("anna", name, 24)
        site.hung["anna"].set()
        order = site.until(("anna/third", 24))
        ends = [len(order) - order[::-1].index(f"anna/{name}") for name in ("first", "second", "third")]
        assert ends == sorted(ends)


class TestLimitsOfAll:
    @pytest.mark.parametrize("own_process", [False, True])
    def test_a_user_with_10_jobs_shares_what_is_free_with_one_with_1000(self, site, own_process):
        limits = {"all_users": {"max_jobs_in_flight": 10}}
        site.job_s = 0.2
        site.begin(limits=limits)
        site.start("anna", "big", 1_000)
        site.until(("anna/big", 20))
        if own_process:
            site.begin(limits=limits)
        site.start("ben", "small", 10)
        order = site.until(("ben/small", 10))
        first, *_others, last = (at for at, who in enumerate(order) if who == "ben/small")
        assert order[first:last].count("anna/big") <= 20


class TestExecutor:
    def test_many_windows_with_many_commands_share_one_loop(self, site):
        site.job_s = 0.0
        before = threading.active_count()
        most = before
        executor = SlurmExecutor(
            "anna",
            config=config_file(),
            cache_dir="/cache",
            work_dir=str(site.folder / "work"),
            settings=site.engine.settings,
            window_s=0.01,
        )
        with executor:
            futures = []
            for _window in range(6):
                futures += [executor.submit(f"task-{number}", {"n": number}) for number in range(5)]
                time.sleep(0.05)
            while not all(future.done() for future in futures):
                most = max(most, threading.active_count())
                time.sleep(0.02)
            runs = {future.result().run_id for future in futures}
        assert len(runs) >= 10
        # One that gathers, four that start runs, and of the loop one for the one user, one that watches, and one that
        # has just ended its turn.
        assert most - before <= 1 + 4 + 3
