# SPDX-License-Identifier: BSD-3-Clause
"""One submission of fractal-server: its data, which is a label of the engine's run, and the results of its tasks.

Logs, metadiff files, statuses and errors have the same form as from fractal-server's own runner. The same code handles
a run whose workflow waits for it, and a run that an ended process left.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from fractal_server.app.db import get_sync_db
from fractal_server.app.models.v2 import HistoryUnit
from fractal_server.runner.exceptions import JobExecutionError, TaskExecutionError
from sqlalchemy import update

from fractal_slurm.api import ClusterError, FractalSlurmError, RunHandle, TaskEnd

LABEL = "fractal-server"
DONE, FAILED = "done", "failed"
SHUTDOWN_MESSAGE = "Failed due to job-execution shutdown."
# Number of rows to change with one statement, as in fractal-server.
_ROWS = 2_000
# If a log has more characters, an error shows only its length. The file has the whole log.
_MOST_SHOWN = 100_000
# Seconds between two looks at the logs of running tasks, the logs of one look, and the bytes of one log.
_SHOW_S, _MOST_RUNNING, _MOST_SO_FAR = 20.0, 100, 1_000_000
# So many seconds after we saw that a task runs, its log is read if it still runs: the second, if tasks are shorter than
# the first. For we do not know at once that a task has ended. So short tasks cost no call of sudo.
_STAYS_S, _STAYS_LONG_S = 10.0, 60.0
# The pause between two looks grows to this with the age of the run, of which it is a part.
_SHOW_LAST_S, _SHOW_PART = 120.0, 0.1
# A look that took long, because files are long or slow, is followed by a pause that is so many times as long.
_PAUSES = 20
_GOES_ON = "\n(The task runs, and its log is longer: the rest comes when it ends.)\n"

# The message of our worker on a task that it could not start.
_CANNOT_START = re.compile(r"(\S+) can't be started: .*", re.DOTALL)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sheet:
    """One submission.

    Attributes:
        owner: The name of the server process that it belongs to.
        job: The id of the job of fractal-server. None in fractal-server's tests.
        resource: The id of the resource.
        user: The id of the user in fractal-server, for accounting.
        task_type: The type of the task, such as ``parallel``.
        is_multisubmit: Whether the submission may have many tasks.
        order: The position of the task in its workflow.
        task: The id of the task in its workflow.
        task_name: The name of the task.
        folder: The folder of the files, on the server.
        stems: For each task, the beginning of the names of its files.
        units: For each task, the id of its history unit.
    """

    owner: str
    job: int | None
    resource: int | None
    user: int
    task_type: str
    is_multisubmit: bool
    order: int
    task: int
    task_name: str
    folder: str
    stems: Sequence[str] = field(default_factory=list)
    units: Sequence[int] = field(default_factory=list)

    def label(self) -> dict[str, Any]:
        """Return the sheet as labels of a run."""
        return {LABEL: asdict(self)}

    @classmethod
    def of(cls, labels: Mapping[str, Any]) -> Sheet | None:
        """Return the sheet of a run, or None if the run is not one of fractal-server."""
        try:
            return cls(**labels[LABEL])
        except (KeyError, TypeError):
            return None

    def file(self, index: int, what: str) -> Path:
        """Return the path of a file of a task.

        Args:
            index: The number of the task in this submission.
            what: ``args.json``, ``log.txt`` or ``metadiff.json``.
        """
        return Path(self.folder) / f"{self.stems[index]}-{what}"

    def is_first_part(self) -> bool:
        """Return whether this is the first part of a compound task, which makes the list for its other parts."""
        return not self.is_multisubmit and self.task_type.endswith("compound")

    def is_ours_to_set(self, state: str) -> bool:
        """Return whether the runner sets this status of a unit. For compound tasks its caller sets most of them."""
        is_compound = self.task_type.endswith("compound")
        return not is_compound if self.is_multisubmit else (state == FAILED or not is_compound)


class Desk:
    """Receives the results of tasks one by one, and writes several of them at a time.

    Args:
        sheet: The submission.
        is_alone: Whether no workflow waits for the run. If so, all statuses are set here. But a compound task of which
            only the first part ran is never done.
    """

    def __init__(self, sheet: Sheet, *, is_alone: bool = False) -> None:
        self.sheet = sheet
        self.is_alone = is_alone
        self.results: dict[int, Any] = {}
        self.errors: dict[int, BaseException] = {}
        self._ends: SimpleQueue[TaskEnd] = SimpleQueue()
        self._began = self._next_show = time.monotonic()
        self._since: dict[int, float] = {}  # when we first saw that a task runs
        self._ended, self._took_s = 0, 0.0  # tasks that ran to their end, and how long all of them took
        self._shown = -1

    def take(self, end: TaskEnd) -> None:
        """Receive the result of a task."""
        self._ends.put(end)

    def write_down(self, handle: RunHandle, *, is_stopped: bool) -> None:
        """Write the results since the last call: first the files, then the statuses.

        Args:
            handle: The run.
            is_stopped: Whether the job was told to stop.
        """
        ends = list(self._drain())
        if not ends:
            return
        logs = self._logs(handle, ends)
        units: dict[tuple[str, bool], list[int]] = {}
        for end in ends:
            if end.state != "not_run":
                self._ended += 1
                self._took_s += end.seconds
            log = logs.get(end.index)
            if log is not None:
                self.sheet.file(end.index, "log.txt").write_bytes(log)
            if end.out is not None:
                self.sheet.file(end.index, "metadiff.json").write_text(json.dumps(end.out), encoding="utf-8")
            error = None if end.state == "succeeded" else self._error(end, log or b"", is_stopped=is_stopped)
            if error is None:
                self.results[end.index] = end.out
            else:
                self.errors[end.index] = error
            status = DONE if error is None else FAILED
            if self._is_ours_to_set(status):
                has_warnings = b"warning" in (log or b"").lower()
                units.setdefault((status, has_warnings), []).append(self.sheet.units[end.index])
        for (status, has_warnings), some in units.items():
            set_statuses(some, status, has_warnings=has_warnings)

    def show_running(self, handle: RunHandle) -> None:
        """Copy what running tasks have printed so far into the job's folder, now and then. There the API reads logs.

        Args:
            handle: The run.
        """
        began = time.monotonic()
        if began < self._next_show:
            return
        try:
            running = [index for index in handle.running() if not (index in self.results or index in self.errors)]
            self._since = {index: self._since.get(index, began) for index in running}
            stays_s = _STAYS_LONG_S if self._took_s < _STAYS_S * self._ended else _STAYS_S
            tasks = [index for index in running if began - self._since[index] > stays_s]
            # The next look goes on after the last one of this look: one call does not read any number of bytes.
            tasks = [*(index for index in tasks if index > self._shown), *(i for i in tasks if i <= self._shown)]
            tasks = tasks[:_MOST_RUNNING]
            if not tasks:
                self._next_show = began + _STAYS_S
                return
            logs = handle.logs_so_far(tasks, most_bytes=_MOST_SO_FAR)
            for index, log in logs.items():
                is_cut = len(log) >= _MOST_SO_FAR
                self.sheet.file(index, "log.txt").write_bytes(log + (_GOES_ON.encode() if is_cut else b""))
            self._shown = list(logs or tasks)[-1]
        except FractalSlurmError as error:
            logger.info("fractal-slurm: run %s: logs of running tasks can't be read: %s", handle.run_id, error)
        now = time.monotonic()
        grown = min(_SHOW_LAST_S, _SHOW_PART * (now - self._began))
        self._next_show = now + max(_SHOW_S, _PAUSES * (now - began), grown)

    def _is_ours_to_set(self, status: str) -> bool:
        if self.is_alone:
            return status == FAILED or not self.sheet.is_first_part()
        return self.sheet.is_ours_to_set(status)

    def _drain(self) -> Iterable[TaskEnd]:
        while True:
            try:
                yield self._ends.get_nowait()
            except Empty:
                return

    def _logs(self, handle: RunHandle, ends: Sequence[TaskEnd]) -> dict[int, bytes]:
        try:
            return handle.logs([end.index for end in ends])
        except ClusterError as error:
            logger.warning("fractal-slurm: run %s: the ends of logs stand for the logs: %s", handle.run_id, error)
            return {end.index: end.log_tail.encode() for end in ends if end.log_bytes}

    def _error(self, end: TaskEnd, log: bytes, *, is_stopped: bool) -> Any:
        """Return the error that fractal-server's own runner would raise, with the same words if it has any."""
        if end.exit_code is None and is_stopped:
            return JobExecutionError(SHUTDOWN_MESSAGE)
        if end.state == "not_run":
            return JobExecutionError(end.reason or "the task did not run")
        if cannot_start := _CANNOT_START.fullmatch(end.reason or ""):
            hint = f'Command "{cannot_start[1]}" is not valid. Hint: make sure that it is executable.'
            return self._task_error(f"{hint}\n{end.reason}")
        code = end.exit_code if end.exit_code is not None else -(end.signal or 0)
        words = [] if end.exit_code and end.reason == f"exit code {end.exit_code}" else [f"{end.reason}."]
        if code:
            words.append(f"Task failed with returncode={code}.")
        text = log.decode("utf-8", "replace")
        if len(text) > _MOST_SHOWN:
            text = (
                f"Cannot display stderr of length {len(text)}. "
                "You can find the detailed logs by downloading the job-log folder."
            )
        words.append(f"STDERR: {text}")
        return self._task_error("\n".join(words))

    def _task_error(self, words: str) -> Any:
        return TaskExecutionError(
            words,
            workflow_task_id=self.sheet.task,
            workflow_task_order=self.sheet.order,
            task_name=self.sheet.task_name,
        )


def set_statuses(units: Sequence[int], status: str, *, has_warnings: bool | None = None) -> None:
    """Set the status of history units.

    Args:
        units: Their ids.
        status: ``done`` or ``failed``.
        has_warnings: Whether their logs have warnings. None does not change this value.
    """
    values: dict[str, Any] = {"status": status}
    if has_warnings is not None and hasattr(HistoryUnit, "has_warnings"):  # since fractal-server 2.23
        values["has_warnings"] = has_warnings
    with next(get_sync_db()) as db:
        for first in range(0, len(units), _ROWS):
            some = list(units[first : first + _ROWS])
            db.execute(update(HistoryUnit).where(HistoryUnit.id.in_(some)).values(**values))
            db.commit()
