# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver as it is, with all that is around it played: SLURM, sudo, files, jobs, and the time.

A driver lives in a thread that runs only while :meth:`Site.pass_time` is in progress: so nothing happens at the same
time, and a test decides what happens when. It reaches the world by two functions of ``fractal_slurm.process``, by the
module ``time``, and by SQLite. These are what is played; nothing is known here of what is inside of it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fractal_slurm import process
from fractal_slurm.cluster.commands import Slurm
from fractal_slurm.driver.journal import Journal, run_ids
from fractal_slurm.driver.prepare import connect, create_run
from fractal_slurm.driver.runner import Runner
from fractal_slurm.errors import FractalSlurmError
from fractal_slurm.node.protocol import read_work
from fractal_slurm.settings import Settings
from fractal_slurm.spec import build_spec
from samples import config_file
from standins import Said, Standins

USER = "played-anna"
# How long a program takes, and how long SLURM knows a job that ended.
CALL_S, MIN_JOB_AGE_S = 0.01, 300.0
GRAIN_S = 0.5
BEAT_S = 30.0
FINAL = ("succeeded", "failed", "not_run")


class Killed(BaseException):
    """The driver's process is killed here."""


class Clock:
    """The module ``time`` for the driver: it passes when the driver sleeps, or calls a program."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000.0 + self.now

    def clock_gettime(self, _clock: int) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        # As on a busy machine: the driver sleeps in short pieces, and each would cost a test real time.
        self.now += max(seconds, GRAIN_S)
        self.slept()


class Played:
    """A command of the driver's, as :class:`fractal_slurm.process.Child` is one."""

    def __init__(self, said: Said) -> None:
        self.process = types.SimpleNamespace(returncode=said.code)
        self.stderr = bytearray(said.err)
        self._out = said.out

    def piece(self, _wait_s: float, stop: Callable[[], bool] = lambda: False) -> bytes:
        if stop():
            raise process.Stopped
        out, self._out = self._out, b""
        return out

    def close(self) -> None:
        pass

    def end(self) -> bool:
        return True


class Worker:
    """What runs inside of a job: claims it, starts tasks, and writes what the real one writes.

    Attributes:
        running: The tasks that run: their lines of the script.
        alive: Whether it runs.
        lost: Whether SLURM, and so the driver, may take it for dead while it runs.
    """

    def __init__(self, site: Site, job_id: str) -> None:
        self.site, self.id = site, job_id
        job = site.slurm.job(job_id)
        self.restart: int = job["restart"]
        self.slots: int = job["slots"]
        self.header, _command, lines = read_work(site.slurm.script(job_id))
        self.token = self.header["token"]
        self.queue = [line.split(b"\t", 2) for line in lines]
        self.running: list[list[bytes]] = []
        self.alive, self.lost = True, False
        self.beaten = site.clock.now
        self.begin()

    @property
    def tasks(self) -> list[int]:
        return [int(line[0]) for line in self.running]

    def begin(self) -> None:
        """Take the claim, and leave out what an earlier start of the job has done."""
        claim, folder = self.header["claim"], self.header["folder"]
        mine = f".job-{self.id}"
        try:
            os.symlink(mine, claim)
        except FileExistsError:
            if not os.path.islink(claim) or os.readlink(claim) != mine or os.path.isdir(f"{claim}.stop"):
                self.gone("COMPLETED")
                return
        except OSError:
            self.gone("FAILED", "73:0")  # the folder is away
            return
        os.makedirs(folder, exist_ok=True)
        done = set()
        for name in os.listdir(folder):
            for line in Path(folder, name).read_bytes().split(b"\n"):
                if b'"task":' in line and line.endswith(b"}") and b'"cut"' not in line:
                    done.add(json.loads(line)["task"])
        self.queue = [line for line in self.queue if int(line[0]) not in done]
        self.write({"begin": self.site.clock.time(), "nodes": 1, "slots": self.slots})

    def write(self, record: Mapping[str, Any], *, torn: bool = False) -> None:
        record = {**record, "token": self.token, "job": self.id, "restart": self.restart, "node": 0}
        line = b"\n" + json.dumps(record, separators=(",", ":")).encode() + b"\n"
        if torn:
            line = line[: len(line) // 2]
        with open(self.file, "ab") as file:
            file.write(line)

    @property
    def file(self) -> str:
        return f"{self.header['folder']}/results-{self.restart}-0"

    def reaches_files(self) -> bool:
        return os.path.isdir(self.header["folder"])

    def start(self) -> None:
        """Start what there is room for, or end, if the server made the mark."""
        if os.path.isdir(f"{self.header['claim']}.stop"):
            while self.running:
                self.finish("cut", "the run was cancelled")
            self.end("the run was cancelled")
            return
        while self.queue and len(self.running) < self.slots:
            line = self.queue.pop(0)
            self.site.started(int(line[0]), self)
            self.running.append(line)

    def finish(self, state: str, reason: str | None = None, *, torn: bool = False) -> None:
        """End the task that runs longest."""
        index, attempt, args = self.running.pop(0)
        record: dict[str, Any] = {"task": int(index), "attempt": int(attempt), "state": state}
        if state == "succeeded":
            record["out"] = {"token": self.token, "args": json.loads(args)}
        if reason or state != "succeeded":
            record["reason"] = reason or "exit code 3"
        self.write(record, torn=torn)
        if not torn:
            self.site.wrote.add((int(index), self.token, state))

    def end(self, why: str = "the queue is empty") -> None:
        """End by itself, with nothing left."""
        self.write({"end": why, "steps": 0, "ended": 0, "left": len(self.queue)})
        self.gone("COMPLETED")

    def gone(self, state: str, code: str = "0:0", reason: str = "None") -> None:
        """Its process is gone, and with it the job, unless SLURM had said so before."""
        self.alive = False
        self.running = []
        if self.site.slurm.job(self.id)["state"] == "RUNNING" and not self.lost:
            self.site.slurm.change(self.id, state=state, exit=code, reason=reason)

    def work(self) -> None:
        """Do all that is left."""
        while self.alive:
            self.start()
            if not self.alive:
                return
            if not self.running:
                self.end()
                return
            self.finish("succeeded")

    def beat(self) -> None:
        if self.alive and self.site.clock.now - self.beaten > BEAT_S and self.reaches_files():
            self.beaten = self.site.clock.now
            with open(self.file, "ab") as file:
                file.write(f'\n{{"beat":{self.beaten:.0f},"token":"{self.token}"}}\n'.encode())


class Site:
    """One run of a few tasks, and the world that it runs in.

    Args:
        folder: An empty folder.
        tasks: How many tasks there are.
        hidden: Whether SLURM hides jobs.
        accounting: Whether sacct answers.
        settings: Of our own settings, those that differ.

    Attributes:
        ends: How each task ended, as the journal's listener heard it.
        wrote: Each record of a task that is in a file whole: index, token, state.
        faults: What must not be, and was.
    """

    def __init__(
        self, folder: Path, *, tasks: int = 4, hidden: bool = False, accounting: bool = False, **settings: Any
    ) -> None:
        self.folder, self.tasks = folder, tasks
        self.clock = Clock()
        self.clock.slept = self._slept
        self.slurm = Standins(folder / "cluster")
        if hidden:
            self.slurm.hide()
        if accounting:
            self.slurm.account()
        self.work_dir = folder / "work"
        self.work_dir.mkdir()
        self.settings = Settings(
            **{
                "slurm_bin_dir": "/played",
                "state_dir": str(folder / "state"),
                "worker_python": sys.executable,
                "refusal_wait_s": 3_600,
                "results_wait_s": 10,
                **settings,
            }
        )
        self.workers: list[Worker] = []
        self.tokens_of: dict[int, list[str]] = {}
        self.ends: dict[int, str] = {}
        self.wrote: set[tuple[int, str, str]] = set()
        self.faults: list[str] = []
        self.said: list[str] = []
        self._ended: dict[str, float] = {}  # since when jobs have ended
        self.runner: Runner | None = None
        self.error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._until = 0.0
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._kill_in: int | None = None
        self._kill_after = ""
        self._killed = False

    # -- the driver ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the run, and start to drive it."""
        document = {
            "task": {"name": "Measure wells", "command": "measure"},
            "parameters": [{"n": number} for number in range(self.tasks)],
        }
        config = config_file(
            batching_config={"target_cpus_per_job": 2, "max_cpus_per_job": 2, "target_num_jobs": 2, "max_num_jobs": 3}
        )

        def open_journal(slurm: Slurm) -> Journal:
            return create_run(
                config,
                build_spec(document, source="a test"),
                self.settings,
                slurm,
                user=USER,
                cache_dir="/cache",
                work_dir=str(self.work_dir),
                say=self.said.append,
            )

        self._launch(open_journal)

    def resume(self) -> None:
        """Start to drive it again, as ``fractal-slurm resume`` does."""
        if not self.run_id():
            self.begin()  # it died before the run was one
            return
        self._launch(lambda _slurm: Journal.open(self.settings.state_path(), self.run_id(), drive=True), resumed=True)

    def _launch(self, open_journal: Callable[[Slurm], Journal], *, resumed: bool = False) -> None:
        assert not self.is_driven()
        self.error, self._kill_in, self._kill_after, self._killed = None, None, "", False

        def life() -> None:
            self._go.acquire()
            try:
                slurm = connect(self.settings)
                with open_journal(slurm) as journal:
                    self.note_ends(journal)
                    journal.listener = lambda end: self.ended(end.index, str(end.state))
                    runner = self.runner = Runner(journal, self.settings, slurm, say=self.said.append)
                    if resumed and runner.run.take_up_again():
                        self.ends = {}
                        self.note_ends(journal)
                    runner.drive()
            except BaseException as error:
                self.error = error
            self._done.release()

        self._thread = threading.Thread(target=life, daemon=True)
        self._thread.start()

    def is_driven(self) -> bool:
        return self._thread is not None

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the driver do in it what it does."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            for worker in self.workers:
                worker.beat()
            step = min(end, self.clock.now + BEAT_S)
            if self._thread is None:
                self.clock.now = step
                continue
            self._until = step
            self._turn()
        self._forget_old_jobs()
        self.check()

    def _forget_old_jobs(self) -> None:
        for job_id, job in self.slurm.jobs().items():
            since = self._ended.setdefault(job_id, self.clock.now)
            if job["state"] in ("PENDING", "RUNNING"):
                del self._ended[job_id]
            elif self.clock.now - since > MIN_JOB_AGE_S and not job["forgotten"]:
                self.slurm.change(job_id, forgotten="old")

    def _turn(self) -> None:
        self._go.release()
        if not self._done.acquire(timeout=60):
            raise AssertionError("the driver neither sleeps nor ends")
        if self._thread is not None and not self._in_turn:
            self._thread.join()
            self._thread = None
            self.runner = None
            if self._killed:
                self._unlock()

    def _unlock(self) -> None:
        """The kernel closes the files of a process that is killed: here the lock on the run, if it is open yet."""
        for fd in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                path = os.readlink(f"/proc/self/fd/{fd}")
                if path.startswith(f"{self.settings.state_dir}/") and path.endswith("/lock"):
                    os.close(int(fd))

    _in_turn = False

    def _slept(self) -> None:
        """The driver sleeps: the turn is the test's, once the driver had its time."""
        if threading.current_thread() is not self._thread:
            return
        self._act()
        if self.clock.now >= self._until:
            self._in_turn = True
            self._done.release()
            self._go.acquire()
            self._in_turn = False
            if self._killed:
                raise Killed

    def kill(self, at: int | str = 0) -> None:
        """Kill the driver: now, while it sleeps; after so many acts of its own; or before it hears of a program."""
        if self._thread is None:
            return
        if at:
            self._kill_in, self._kill_after = (None, at) if isinstance(at, str) else (at, "")
            return
        self._killed = True
        self._turn()

    def _act(self) -> None:
        """The driver does something that others can see: here it may be killed."""
        if threading.current_thread() is not self._thread:
            return
        if self._killed:
            raise Killed
        if self._kill_in is not None:
            self._kill_in -= 1
            if self._kill_in < 0:
                self._killed = True
                raise Killed

    # -- what it sees of the world -------------------------------------------------------------------------------

    def call(self, argv: Sequence[str], stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Said:
        self._act()
        said = self.slurm.call(argv, stdin, env)
        self.clock.now += CALL_S
        if self._kill_after and any(word.endswith(f"/{self._kill_after}") for word in argv):
            self._kill_in = 0
        self._act()
        return said

    @contextmanager
    def played(self) -> Iterator[Site]:
        """Put the played world in place of the real one; at the end the driver is ended, and all is as it was."""
        site = self

        def run_command(argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes = b"", **_: Any) -> Any:
            return process.Finished(*site.call(argv, stdin, env))

        class Child(Played):
            def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes = b"") -> None:
                super().__init__(site.call(argv, stdin, env))

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                if sql != "ROLLBACK":
                    site._act()
                return super().execute(sql.replace("synchronous = FULL", "synchronous = OFF"), *values)

        database = types.ModuleType("sqlite3")
        database.__dict__.update(vars(sqlite3))
        database.__dict__["connect"] = lambda *args, **options: sqlite3.connect(*args, factory=Connection, **options)
        instead = {
            id(process.run_command): run_command,
            id(process.Child): Child,
            id(time): self.clock,
            id(sqlite3): database,
        }
        before: list[tuple[types.ModuleType, str, Any]] = []
        for module in [each for name, each in sys.modules.items() if name.startswith("fractal_slurm.")]:
            for name, value in list(vars(module).items()):
                if id(value) in instead and module is not process:
                    before.append((module, name, value))
                    setattr(module, name, instead[id(value)])
        try:
            yield self
        finally:
            self.kill()
            for module, name, value in before:
                setattr(module, name, value)

    # -- jobs ----------------------------------------------------------------------------------------------------

    def jobs(self, *states: str) -> list[str]:
        """The ids of the jobs in any of these states, as far as SLURM knows them."""
        return [
            key
            for key, job in self.slurm.jobs().items()
            if job["state"] in states and not job["unborn"] and not job["forgotten"]
        ]

    def start(self, job_id: str) -> Worker:
        """SLURM starts a job, and it comes to its first tasks."""
        self.slurm.change(job_id, state="RUNNING")
        worker = Worker(self, job_id)
        self.workers.append(worker)
        if worker.alive:
            worker.start()
        return worker

    def alive(self) -> list[Worker]:
        """The workers that run and reach their files."""
        return [worker for worker in self.workers if worker.alive and worker.reaches_files()]

    def heed_scancel(self) -> None:
        """SLURM ends the workers of jobs that it cancelled."""
        for worker in self.workers:
            if worker.alive and self.slurm.job(worker.id)["state"] == "CANCELLED" and not worker.lost:
                worker.gone("CANCELLED")

    # -- what has to hold ----------------------------------------------------------------------------------------

    def started(self, task: int, worker: Worker) -> None:
        """A task starts: nowhere else may it run, and under no token that another has followed."""
        tokens = self.tokens_of.setdefault(task, [])
        if worker.token in tokens[:-1]:
            self.faults.append(f"task {task} was started under {worker.token} after it was under {tokens[-1]}")
        if worker.token not in tokens:
            tokens.append(worker.token)
        for other in self.workers:
            if other is not worker and other.alive and not other.lost and task in other.tasks:
                self.faults.append(f"task {task} runs under {other.token} and {worker.token} at once")
        if self.ends.get(task) == "succeeded":
            self.faults.append(f"task {task} was started after it had succeeded")

    def ended(self, task: int, state: str) -> None:
        """The driver says that a task ended."""
        if task in self.ends:
            self.faults.append(f"task {task} ended twice: {self.ends[task]}, {state}")
        self.ends[task] = state

    def note_ends(self, journal: Journal) -> None:
        """A driver that is killed may not come to say what it has written down."""
        for task in journal.tasks():
            if str(task.state) in FINAL:
                if self.ends.setdefault(task.index, str(task.state)) != str(task.state):
                    self.faults.append(f"task {task.index} was {self.ends[task.index]}, and is {task.state}")
            elif task.index in self.ends:
                self.faults.append(f"task {task.index} had ended, and has not any more")

    def check(self) -> None:
        """What has to hold at any time."""
        if self.error is not None and not isinstance(self.error, (Killed, FractalSlurmError)):
            raise self.error
        if self.run_id():
            with Journal.open(self.settings.state_path(), self.run_id(), drive=False) as journal:
                assert sum(journal.counts().values()) == self.tasks
                assert not journal.damage
        assert not self.faults, self.faults

    def run_id(self) -> str:
        found = run_ids(self.settings.state_path())
        return found[0] if found else ""

    def outcome(self) -> list[tuple[str, str]]:
        """State and reason of each task, by the journal. What succeeded has the result of its own, and of its token."""
        with Journal.open(self.settings.state_path(), self.run_id(), drive=False) as journal:
            self.note_ends(journal)
            found = []
            for task in journal.tasks():
                if task.state == "succeeded":
                    out = json.loads(task.record or "{}").get("out")
                    assert out == {"token": task.token, "args": {"n": task.index}}
                    assert (task.index, task.token, "succeeded") in self.wrote
                found.append((str(task.state), task.reason or ""))
        assert not self.faults, self.faults
        return found

    def state(self) -> str:
        """How far the run is, by the journal."""
        with Journal.open(self.settings.state_path(), self.run_id(), drive=False) as journal:
            return str(journal.record.state)

    def go_on(self, *, most_s: float = 7_200.0) -> None:
        """All is well from here on: jobs start, do their tasks and end, until the run has ended."""
        deadline = self.clock.now + most_s
        while self.is_driven():
            for worker in self.alive():
                worker.work()
            for job_id in self.jobs("PENDING"):
                self.start(job_id)
            self.heed_scancel()
            self.pass_time(5.0)
            assert self.clock.now < deadline, f"the run does not end: {self.said[-5:]}"
