# SPDX-License-Identifier: BSD-3-Clause
"""Many runs in one process, for programs that embed the engine: start, follow, cancel, find again after a crash."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ..cluster.commands import Slurm
from ..cluster.queue import Queue
from ..config.given import as_resolved
from ..config.resolve import Resolution
from ..errors import FractalSlurmError, RunError, SettingsError, shown
from ..jobs.script import render, split_command, without_tasks
from ..settings import Settings, load_settings
from ..spec import Spec, build_parameters
from .asked import RunRequest, check_labels, check_listeners, check_request
from .journal import Journal, run_ids
from .ledger import ledger_of
from .lock import is_driven
from .logs import MOST_LOG_BYTES, read_logs, running
from .loop import Gate, Loop, Member
from .model import ENDED, FINAL
from .model import RunState as StoredState
from .model import TaskEnd as StoredEnd
from .prepare import connect, create_resolved_run
from .runner import Detached, Runner
from .so_far import MOST_SO_FAR_BYTES, LogsSoFar
from .together import Together
from .told import RunEnd, RunState, StoredRun, TaskEnd, job_ids_of, run_end, task_end

# Jobs that are submitted at the same time, for different users; and those of one run in one turn.
_SUBMISSIONS, _JOBS_PER_TURN = 4, 8
# For so many seconds what squeue said of the jobs of all runs is new enough for each of them.
_FRESH_S = 1.0

_HOWS = ("wait", "cancel", "leave")
_ENDS: dict[StoredState, RunState] = {
    StoredState.DONE: "done",
    StoredState.CANCELLED: "cancelled",
    StoredState.REFUSED: "refused",
}


class RunHandle:
    """One run of an :class:`Engine`. Its methods may be called from anywhere, at any time.

    Attributes:
        run_id: The run's id.
        user: As whom it runs.
    """

    def __init__(
        self,
        engine: Engine,
        journal: Journal,
        on_task_end: Callable[[TaskEnd], None] | None,
        on_end: Callable[[RunHandle], None] | None,
        say: Callable[[str], None],
        show: Callable[[object], None] | None = None,
    ) -> None:
        self.run_id: str = journal.record.run_id
        self.user: str = journal.record.user
        self._engine = engine
        self._journal = journal
        self._on_task_end = on_task_end
        self._on_end = on_end
        self._say = say
        self._show = show
        self._member: Member | None = None
        self._has_begun = self._stays_open = False
        self._so_far, self._reading = LogsSoFar(), threading.Lock()
        self._over = threading.Event()
        self._told = threading.Event()
        self._lock = threading.Lock()
        self._runner: Runner | None = None
        self._wish: Literal["", "cancel", "leave"] = ""
        self._end: RunEnd | None = None
        self._error: BaseException | None = None
        self._state: RunState = "waiting"

    @property
    def state(self) -> RunState:
        """``waiting`` for its turn, ``running``, or as it ended: see :class:`RunEnd`; ``broken`` if wait() raises."""
        return self._state

    def has_ended(self) -> bool:
        """Whether wait() returns at once."""
        return self._over.is_set()

    def wait(self, timeout: float | None = None) -> RunEnd:
        """Wait until the run has ended; every task's end was told by then.

        Args:
            timeout: Seconds.

        Raises:
            TimeoutError: It has not ended by then.
            RuntimeError: ``on_task_end`` of a run of the same user waits: that run stands still meanwhile.
            FractalSlurmError: It can't be driven any more. Nothing is lost: it can be resumed.
            Exception: Whatever ``on_task_end`` raised first.
        """
        self._engine._check_process()
        if not self._over.is_set() and self._engine._telling.get(threading.get_ident()) == self.user:
            raise RuntimeError(f"run {self.run_id} can't go on while a function that it called waits for its end")
        if not self._over.wait(timeout):
            raise TimeoutError(f"run {self.run_id} has not ended within {timeout:g} seconds")
        if self._error is not None or self._end is None:
            raise self._error or RunError(f"run {self.run_id} was not driven")
        return self._end

    def cancel(self) -> None:
        """Cancel the run: what has finished is kept, the rest ends, jobs that run included. Does not wait."""
        self._ask("cancel")

    def leave(self) -> None:
        """Leave the run: its jobs go on, and it can be resumed later, by another process too. Does not wait."""
        self._ask("leave")

    def job_ids(self) -> tuple[int, ...]:
        """The SLURM jobs that were submitted so far, in order."""
        with self._engine.open(self.run_id) as journal:
            return job_ids_of(journal)

    def script(self) -> str:
        """The script of its first job, as SLURM gets it, but without its tasks. Empty before there is any job."""
        with self._engine.open(self.run_id) as journal:
            run, jobs = journal.record, journal.jobs()
            if not jobs:
                return ""
            tasks = [(0, 0, "{}")] * jobs[0].tasks  # their number has a part in the options
            return without_tasks(render(run.config, run.job_settings, token=jobs[0].token, tasks=tasks))

    def logs(self, tasks: Sequence[int], *, most_bytes: int = MOST_LOG_BYTES) -> dict[int, bytes]:
        """What tasks printed, by task. Those that have no log, or none yet, or are not of the run, are left out.

        Of a task that runs, it is what was printed so far; only with ``task_logs = separate`` in our settings.

        Args:
            tasks: The tasks' indices.
            most_bytes: Bytes of one log; of a longer one, the last are returned.

        Raises:
            ClusterError: The user's files can't be read now.
        """
        with self._engine.open(self.run_id) as journal:
            own = _own(journal, tasks)
            return read_logs(journal, connect(self._engine.settings).sudo, own, most_bytes=most_bytes)

    def running(self) -> list[int]:
        """The tasks that may run now, by index: of each job that has begun, as many as run side by side."""
        with self._engine.open(self.run_id) as journal:
            return running(journal)

    def log_so_far(self, task: int, *, most_bytes: int = MOST_SO_FAR_BYTES) -> bytes | None:
        """What a running task has printed so far: :meth:`logs_so_far` for one task.

        Returns:
            None if it has printed nothing, has ended, or does not run yet.
        """
        return self.logs_so_far([task], most_bytes=most_bytes).get(task)

    def logs_so_far(self, tasks: Sequence[int], *, most_bytes: int = MOST_SO_FAR_BYTES) -> dict[int, bytes]:
        """What running tasks have printed so far, by task: as a rule in one call of sudo, and never in more than four.

        Left out are tasks that have printed nothing, have ended, do not run yet, or are not of the run;
        also the last ones, if there are more than 500 logs, or their bytes are more than 16 million: ask for these
        again, without the others.

        Args:
            tasks: The tasks' indices.
            most_bytes: The first bytes of a log that is longer.

        Raises:
            ClusterError: The user's files can't be read now.
        """
        with self._reading, self._engine.open(self.run_id) as journal:
            sudo = connect(self._engine.settings).sudo
            return self._so_far.read(journal, sudo, _own(journal, tasks), most_bytes=most_bytes)

    # -- for the engine

    def _ask(self, wish: Literal["cancel", "leave"]) -> None:
        with self._lock:
            self._wish = "leave" if "leave" in (wish, self._wish) else wish
            if self._runner is not None:
                self._heed(self._runner)
        if self._member is not None:
            self._engine._loop.wake(self._member)

    def _hurry(self) -> None:
        """Have a turn soon: results of the run's jobs were read in the turn of another run of the user."""
        if self._runner is not None and self._member is not None:
            self._runner.hurry()
            self._engine._loop.wake(self._member)

    def _heed(self, runner: Runner) -> None:
        if self._wish == "leave":
            runner.leave()
        elif self._wish == "cancel" and runner.run.cancel_at is None:
            runner.interrupt()

    def _tell(self, end: StoredEnd) -> None:
        if self._on_task_end is None or self._error is not None:
            return
        try:
            self._on_task_end(task_end(self.run_id, end))
        except BaseException as error:  # the run goes on; who waits for it is to know
            self._error = error

    def _turn(self) -> float | None:
        """Do one round of the run. Returns when the next is due, or None at its end."""
        self._engine._telling[threading.get_ident()] = self.user
        try:
            return self._round()
        finally:
            del self._engine._telling[threading.get_ident()]

    def _round(self) -> float | None:
        try:
            if self._runner is None:
                self._begin()
            due = self._go()
        except (OSError, sqlite3.Error) as error:  # of the state folder, or of whoever is told
            self._error = self._error or RunError(
                f"run {self.run_id} can't go on: {error}; the journal has all that was done so far: "
                f"fractal-slurm resume {self.run_id}"
            )
            due = None
        except BaseException as error:
            self._error = self._error or error
            due = None
        if due is None:
            self._close()
        return due

    def _begin(self) -> None:
        """Tell of what has ended already, and take up the rest."""
        self._state = "running"
        if self._on_task_end is not None:
            for task in self._journal.tasks(*FINAL):
                self._tell(StoredEnd(task.index, task.state, task.reason, task.record))
            self._journal.listener = self._tell
        slurm = self._engine._connect()
        runner = Runner(
            self._journal,
            self._engine.settings,
            slurm,
            say=self._say,
            show=self._show,
            queue=self._engine._queue,
            most_at_once=_JOBS_PER_TURN,
            together=self._engine._together,
        )
        self._engine._together.join(runner.collector, self._hurry)
        with self._lock:
            self._runner = runner
            self._heed(runner)

    def _go(self) -> float | None:
        runner, journal = self._runner, self._journal
        assert runner is not None  # noqa: S101 - as _begin left it
        is_left = False
        if journal.record.state not in ENDED:
            try:
                if not self._has_begun:
                    runner.begin()
                    self._has_begun = True
                if runner.turn():
                    return runner.due()
            except Detached:
                is_left = True
            except FractalSlurmError:
                if not self._stays_open:
                    runner.note_end()
                raise
        state = "left" if is_left else _ENDS[journal.record.state]
        self._end = run_end(journal, state, refusal=runner.run.refusal, sudo_calls=runner.run.sudo.calls)
        return None

    def _close(self) -> None:
        """The end, whichever it is: whoever waits is told."""
        with self._lock:
            runner, self._runner = self._runner, None
        if runner is not None:
            self._engine._together.leave(runner.collector)
        self._engine._queue.leave(self.run_id)
        try:
            self._journal.close()
        except Exception as error:
            self._error = self._error or error
        self._state = "broken" if self._end is None else self._end.state
        self._over.set()
        self._engine._ended(self)
        if self._on_end is not None:
            with contextlib.suppress(Exception):  # the loop goes on
                self._on_end(self)
        self._told.set()

    def _leave_unbegun(self) -> None:
        """It is not its turn any more: its journal stays, as that of a run that was never driven."""
        self._end = run_end(self._journal, "left")
        self._close()


class Engine:
    """Drives many runs at the same time, and finds those again that a process left that died.

    Leaving the ``with`` block waits for all runs. All that is needed to go on after a crash is in the state folder.

    All runs share one look at SLURM and a few threads, whose number does not grow with the runs. Users take turns: the
    calls as one user, however slow, hold back that user's runs alone.

    An engine belongs to the process that made it. A child process (after ``os.fork``) makes one of its own.

    Example::

        with Engine() as engine:
            run = engine.start(request, on_task_end=lambda end: print(end.index, end.state))
            print(run.wait().succeeded)

    Args:
        settings: Our own settings; None to read them.
        max_runs: How many runs are driven at the same time, at least 1; others wait for their turn; None for all.

    Raises:
        SettingsError: The settings, or ``max_runs``, are not valid.
    """

    def __init__(self, settings: Settings | None = None, *, max_runs: int | None = None) -> None:
        if not isinstance(settings, Settings | None):
            raise SettingsError(f"settings: found {shown(settings)}; what load_settings() returned is allowed")
        if max_runs is not None and (not isinstance(max_runs, int) or max_runs < 1):
            raise SettingsError(f"max_runs: found {shown(max_runs)}; a whole number from 1 is allowed, or None for all")
        self.settings = settings or load_settings()
        self.max_runs = max_runs
        self._pid = os.getpid()
        self._telling: dict[int, str] = {}  # by thread: whose run has a turn in it, which may call the program
        self._lock = threading.Lock()
        self._waiting: deque[RunHandle] = deque()
        self._driven: set[RunHandle] = set()
        self._is_shut = False
        self._loop = Loop()
        self._queue = Queue(
            connect(self.settings),
            fresh_s=_FRESH_S,
            shared=ledger_of(self.settings),
            foreign=self.settings.limits.count_foreign_jobs,
        )
        self._gate = Gate(_SUBMISSIONS)
        self._together = Together()

    def start(
        self,
        request: RunRequest,
        *,
        on_task_end: Callable[[TaskEnd], None] | None = None,
        on_end: Callable[[RunHandle], None] | None = None,
        say: Callable[[str], None] = lambda _sentence: None,
    ) -> RunHandle:
        """Check everything that can be checked, and start a run.

        Args:
            request: What is to be run.
            on_task_end: Told of each task's end, as it comes and once each, after it is on disk. It should return
                soon, since the run stands still meanwhile, and may be called from another thread.
            on_end: Told once that the run has ended, whichever way; its wait() returns at once then.
            say: Takes sentences for a person: warnings, and what the run waits for.

        Raises:
            FractalSlurmError: The request is not valid, sudo or SLURM refuse, or the state folder can't be written.
            RuntimeError: The engine was shut down, or made by another process.
            TypeError: It is no :class:`RunRequest`, or a listener is no function.
        """
        self._check_open()
        if not isinstance(request, RunRequest):
            raise TypeError(f"request: found {shown(request)}; a RunRequest is allowed")
        check_listeners(on_task_end=on_task_end, on_end=on_end, say=say)
        check_request(request)
        command = request.command
        spec = Spec(
            task_name=request.task_name,
            command=split_command(command) if isinstance(command, str) else tuple(command),
            parameters=build_parameters(request.parameters),
        )
        config = request.config
        journal = create_resolved_run(
            config if isinstance(config, Resolution) else as_resolved(config, tot_tasks=len(spec.parameters)),
            spec,
            self.settings,
            connect(self.settings),
            user=request.user,
            cache_dir=request.cache_dir,
            work_dir=request.work_dir,
            labels=request.labels,
            say=say,
        )
        return self._take(RunHandle(self, journal, on_task_end, on_end, say))

    def resume(
        self,
        run_id: str,
        *,
        on_task_end: Callable[[TaskEnd], None] | None = None,
        on_end: Callable[[RunHandle], None] | None = None,
        say: Callable[[str], None] = lambda _sentence: None,
    ) -> RunHandle:
        """Go on with a run whose process is gone, or look at one that has ended.

        Args:
            run_id: The run's id; see :meth:`stored`.
            on_task_end: Told of all tasks that have an end already, then of each other one as it ends.
            on_end: See :meth:`start`.
            say: See :meth:`start`.

        Raises:
            RunError: There is no such run, it can't be read, or another process drives it.
            RuntimeError: The engine was shut down, or made by another process.
        """
        self._check_open()
        check_listeners(on_task_end=on_task_end, on_end=on_end, say=say)
        journal = Journal.open(self.settings.state_path(), run_id, drive=True)
        return self._take(RunHandle(self, journal, on_task_end, on_end, say))

    def drive(
        self,
        journal: Journal,
        *,
        say: Callable[[str], None],
        show: Callable[[object], None] | None = None,
        on_end: Callable[[RunHandle], None] | None = None,
        stays_open: bool = False,
    ) -> RunHandle:
        """Drive a run whose journal is open and locked, and close the journal at the end.

        Args:
            journal: The run's journal. Its listener stays as it is.
            say: Takes sentences for a person.
            show: Called in the run's own turns, at most once a second: the journal can be read there.
            on_end: See :meth:`start`.
            stays_open: Whether it has not ended if it can't be driven: its cause may pass, and it is taken up again.
        """
        self._check_open()
        handle = RunHandle(self, journal, None, on_end, say, show)
        handle._stays_open = stays_open
        return self._take(handle)

    def stored(self) -> list[StoredRun]:
        """The runs in the state folder, oldest first; those that can't be read are left out.

        Raises:
            RunError: The state folder can't be read.
        """
        found = []
        for run_id in run_ids(self.settings.state_path()):
            try:
                with self.open(run_id) as journal:
                    run = journal.record
                    driver = is_driven(self.settings.state_path(), run_id)
                    found.append(StoredRun(run_id, run.user, run.labels, run.state in ENDED, driver is not None))
            except RunError:
                continue
        return found

    def set_labels(self, run_id: str, labels: Mapping[str, Any]) -> None:
        """Change labels of a run that is not driven; those not named stay.

        Raises:
            SpecError: The labels are not JSON values by name.
            RunError: There is no such run, it can't be read, or it is driven.
        """
        check_labels(labels)
        with Journal.open(self.settings.state_path(), run_id, drive=True) as journal:
            journal.write(replace(journal.record, labels={**journal.record.labels, **labels}))

    def shutdown(self, how: Literal["wait", "cancel", "leave"] = "wait", *, timeout: float | None = None) -> bool:
        """Take no more runs, and end those that are there.

        Args:
            how: ``wait`` until they have ended; ``cancel`` them, and wait; or ``leave`` them: their jobs go on, and
                they can be resumed later, by another process too.
            timeout: Seconds to wait. A function that a run calls, such as ``on_task_end``, never waits here.

        Returns:
            Whether all of them have ended, or were left.

        Raises:
            ValueError: ``how`` is none of these.
            RuntimeError: Another process made the engine.
        """
        if how not in _HOWS:
            raise ValueError(f"how: found {shown(how)}; allowed are {', '.join(_HOWS)}")
        self._check_process()
        if threading.get_ident() in self._telling:
            timeout = 0.0
        with self._lock:
            self._is_shut = True
            unbegun = list(self._waiting) if how == "leave" else []
            for handle in unbegun:
                self._waiting.remove(handle)
            handles = [*self._driven, *self._waiting]
        for handle in unbegun:
            handle._leave_unbegun()
        for handle in handles:
            if how != "wait":
                handle._ask(how)
        deadline = None if timeout is None else time.monotonic() + timeout
        for handle in handles:
            handle._told.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return all(handle._told.is_set() for handle in handles)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def open(self, run_id: str) -> Journal:
        """The journal of a run, to look at."""
        return Journal.open(self.settings.state_path(), run_id, drive=False)

    def _check_process(self) -> None:
        if self._pid != os.getpid():  # its threads are there alone
            raise RuntimeError("the engine was made by another process: make one in this process")

    def _check_open(self) -> None:
        self._check_process()
        if self._is_shut:
            raise RuntimeError("the engine was shut down")

    def squeue_calls(self) -> int:
        """How often SLURM was asked for the states of jobs, for all runs together."""
        return self._queue.calls

    def _connect(self) -> Slurm:
        """SLURM and sudo for one run; what is submitted at the same time is bounded for all together."""
        slurm = connect(self.settings)
        slurm.gate = self._gate
        return slurm

    def _take(self, handle: RunHandle) -> RunHandle:
        with self._lock:
            is_late = self._is_shut
            if not is_late:
                self._waiting.append(handle)
                self._admit()
        if is_late:
            handle._leave_unbegun()
        return handle

    def _admit(self) -> None:
        """Begin with what waits, as far as there is room; with the lock."""
        while self._waiting and (self.max_runs is None or len(self._driven) < self.max_runs):
            handle = self._waiting.popleft()
            self._driven.add(handle)
            handle._member = self._loop.add(handle.user, handle._turn)

    def _ended(self, handle: RunHandle) -> None:
        """A run needs no more turns; another may begin."""
        with self._lock:
            self._driven.discard(handle)
            self._admit()


def _own(journal: Journal, tasks: Sequence[int]) -> list[int]:
    """Those of some indices that are tasks of the run."""
    return [task for task in tasks if 0 <= task < journal.record.tasks]
