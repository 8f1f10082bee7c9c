# SPDX-License-Identifier: BSD-3-Clause
"""A :class:`concurrent.futures.Executor` for commands, on the same engine as the command line.

Example::

    with SlurmExecutor("anna", cache_dir="/cache/anna", work_dir="/work/anna") as executor:
        future = executor.submit("python3 /opt/tasks/measure.py", {"well": "B03"})
        print(future.result().out)
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config.file import SlurmConfigFile, named_config_file
from .config.resolve import resolve
from .driver.asked import RunRequest
from .driver.engine import Engine, RunHandle
from .driver.told import TaskEnd
from .errors import FractalSlurmError, RunError
from .settings import Settings

# So many runs are checked and started at the same time.
_STARTERS = 4


@dataclass(frozen=True)
class TaskResult:
    """The result of a task that succeeded.

    Attributes:
        out: Its out-JSON; None if it wrote none.
        log_tail: The end of what it printed.
        seconds: How long it ran.
        host: Where.
        run_id: The run that it belonged to, for ``fractal-slurm report``.
    """

    out: Any
    log_tail: str
    seconds: float
    host: str
    run_id: str


class TaskFailed(FractalSlurmError):
    """A task that did not succeed.

    Attributes:
        exit_code: Its exit code, if it had one.
        log_tail: The end of what it printed.
    """

    exit_code: int | None  # type: ignore[assignment]

    def __init__(self, reason: str, *, exit_code: int | None = None, log_tail: str = "") -> None:
        super().__init__(f"{reason}\n{log_tail}".rstrip() if log_tail else reason)
        self.exit_code = exit_code
        self.log_tail = log_tail


@dataclass
class _Waiting:
    future: Future[TaskResult]
    command: str
    parameters: Mapping[str, Any]


class SlurmExecutor(Executor):
    """Runs commands as SLURM jobs of a user. Tasks that are submitted shortly after one another share jobs.

    A task is cancellable until it is handed to SLURM, which happens at the end of the window in which it was
    submitted.

    Args:
        user: Whom to run them as.
        cache_dir: The user's cache_dir, base of user_local_exports.
        work_dir: A folder that the user can write, on the nodes too.
        config: The config file, or its path; None for the path in FRACTAL_SLURM_CONFIG_FILE, else the default one.
        task_name: The tasks' name.
        task_meta: task.meta.
        meta: WorkflowTask.meta.
        account: The account from the user's settings.
        settings: Our own settings; None to read them.
        window_s: Seconds after a submission in which others join it.
        say: Takes sentences for a person.

    Raises:
        FractalSlurmError: The config file or the settings are not valid.
    """

    def __init__(
        self,
        user: str,
        *,
        cache_dir: str,
        work_dir: str,
        config: SlurmConfigFile | str | Path | None = None,
        task_name: str = "task",
        task_meta: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        account: str | None = None,
        settings: Settings | None = None,
        window_s: float = 0.1,
        say: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        if not isinstance(config, SlurmConfigFile):
            _file, config = named_config_file(config, argument="config")
        self._config = config
        self._engine = Engine(settings)
        self._resolving: dict[str, Any] = {
            "task_name": task_name,
            "task_meta": dict(task_meta or {}),
            "workflow_task_meta": dict(meta or {}),
            "account": account,
        }
        self._requesting: dict[str, Any] = {
            "user": user,
            "task_name": task_name,
            "cache_dir": cache_dir,
            "work_dir": work_dir,
        }
        self._window_s = window_s
        self._say = say
        self._changed = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._window_ends = 0.0
        self._closed = False
        self._cancelled = False
        self._starting = ThreadPoolExecutor(_STARTERS, thread_name_prefix="fractal-slurm start")
        self._handles: list[RunHandle] = []  # of the runs that have not ended
        self._gatherer: threading.Thread | None = None

    def submit(  # type: ignore[override]
        self, command: str | Sequence[str], parameters: Mapping[str, Any] | None = None, /
    ) -> Future[TaskResult]:
        """Run a command once.

        Args:
            command: The command, as one string (split without a shell) or as words. It is given
                ``--args-json FILE --out-json FILE``.
            parameters: What stands in its args file.

        Returns:
            A future whose result is a :class:`TaskResult`, or whose exception is :class:`TaskFailed`.

        Raises:
            RuntimeError: The executor was shut down.
        """
        line = command if isinstance(command, str) else shlex.join(command)
        with self._changed:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            waiting = _Waiting(Future(), line, dict(parameters or {}))
            if not self._waiting:
                self._window_ends = time.monotonic() + self._window_s
            self._waiting.append(waiting)
            if self._gatherer is None:
                self._gatherer = threading.Thread(target=self._gather, name="fractal-slurm gatherer", daemon=True)
                self._gatherer.start()
            self._changed.notify_all()
        return waiting.future

    def map(  # type: ignore[override]
        self,
        command: str | Sequence[str],
        parameters: Iterable[Mapping[str, Any]],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[TaskResult]:
        """Run a command once for each parameter set; results come in their order.

        Args:
            command: See :meth:`submit`.
            parameters: The parameter sets.
            timeout: Seconds, from this call on, after which TimeoutError is raised.
            chunksize: Has no effect; the config file's batching decides.
        """
        end = None if timeout is None else time.monotonic() + timeout
        futures = [self.submit(command, each) for each in parameters]

        def results() -> Iterator[TaskResult]:
            try:
                for future in futures:
                    yield future.result(None if end is None else max(0.0, end - time.monotonic()))
            finally:
                for future in futures:
                    future.cancel()

        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and free what was used.

        Args:
            wait: Whether to return only when all tasks have ended.
            cancel_futures: Whether to cancel what was not handed to SLURM yet.
        """
        with self._changed:
            self._closed = True
            if cancel_futures:
                for waiting in self._waiting:
                    waiting.future.cancel()
            self._changed.notify_all()
        if wait:
            if self._gatherer is not None:
                self._gatherer.join()
            self._starting.shutdown()
            self._engine.shutdown()

    def cancel(self) -> None:
        """Cancel everything, jobs that run included; their futures raise :class:`TaskFailed`."""
        self.shutdown(wait=False, cancel_futures=True)
        with self._changed:
            self._cancelled = True
            handles = list(self._handles)
        for handle in handles:
            handle.cancel()

    def _gather(self) -> None:
        """Hand what came in a window to SLURM, as one run for each command."""
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                while (left := self._window_ends - time.monotonic()) > 0 and not self._closed:
                    self._changed.wait(left)
                gathered, self._waiting = self._waiting, []
            by_command: dict[str, list[_Waiting]] = {}
            for waiting in gathered:
                if waiting.future.set_running_or_notify_cancel():
                    by_command.setdefault(waiting.command, []).append(waiting)
            for tasks in by_command.values():
                self._starting.submit(self._start, tasks)

    def _start(self, tasks: list[_Waiting]) -> None:
        """Hand tasks of one command to the engine, as one run."""
        futures = [task.future for task in tasks]

        def over(handle: RunHandle) -> None:
            try:
                handle.wait()
                error: BaseException = RunError("the run ended without a result of this task")
            except BaseException as raised:  # whatever it is, those who wait are to know
                error = raised
            _fail(futures, error)

        try:
            resolution = resolve(self._config, tot_tasks=len(tasks), **self._resolving)
            parameters = [dict(task.parameters) for task in tasks]
            request = RunRequest(command=tasks[0].command, parameters=parameters, config=resolution, **self._requesting)
            handle = self._engine.start(
                request, on_task_end=lambda end: _settle(futures[end.index], end), on_end=over, say=self._say
            )
            with self._changed:
                self._handles = [*(other for other in self._handles if not other.has_ended()), handle]
                is_cancelled = self._cancelled
            if is_cancelled:
                handle.cancel()
        except BaseException as raised:
            _fail(futures, raised)


def _fail(futures: Sequence[Future[TaskResult]], error: BaseException) -> None:
    """Give futures without a result the reason as their error."""
    for future in futures:
        if not future.done():
            future.set_exception(error)


def _settle(future: Future[TaskResult], end: TaskEnd) -> None:
    """Tell a future how its task ended."""
    if future.done():
        return
    if end.state == "succeeded":
        future.set_result(TaskResult(end.out, end.log_tail, end.seconds, end.host, end.run_id))
    else:
        future.set_exception(TaskFailed(end.reason or end.state, exit_code=end.exit_code, log_tail=end.log_tail))
