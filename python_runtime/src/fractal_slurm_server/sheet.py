# SPDX-License-Identifier: BSD-3-Clause
"""One submission of fractal-server's: what it consists of, as a label of the engine's run, and how its tasks ended.

All that is written here looks as fractal-server's own runner leaves it: logs, metadiff files, statuses, errors. The
same code serves a run that its workflow waits for, and one that a dead process left.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from fractal_server.app.db import get_sync_db
from fractal_server.app.models.v2 import HistoryUnit
from fractal_server.runner.exceptions import JobExecutionError, TaskExecutionError
from sqlalchemy import update

from fractal_slurm.api import ClusterError, RunHandle, TaskEnd

LABEL = "fractal-server"
DONE, FAILED = "done", "failed"
SHUTDOWN_MESSAGE = "Failed due to job-execution shutdown."
# As many rows as fractal-server changes with one statement.
_ROWS = 2_000
# Of a longer log, an error says the length alone; all of it is in its file.
_MOST_SHOWN = 100_000

# What our worker says of a task that it could not start.
_CANNOT_START = re.compile(r"(\S+) can't be started: .*", re.DOTALL)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sheet:
    """One submission.

    Attributes:
        owner: The server process that it belongs to.
        job: The job of fractal-server's; None in its tests.
        resource: The resource.
        user: Who pays, by fractal-server's id.
        task_type: Such as ``parallel``.
        is_multisubmit: Whether it is one of many tasks.
        order: The place of the task in its workflow.
        task: The task's id.
        task_name: Its name.
        folder: The folder of its files, on the server.
        stems: The beginning of the names of the files of each task.
        units: The history unit of each task.
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
        """The sheet, as labels of a run have it."""
        return {LABEL: asdict(self)}

    @classmethod
    def of(cls, labels: Mapping[str, Any]) -> Sheet | None:
        """The sheet of a run, if it is one of fractal-server's."""
        try:
            return cls(**labels[LABEL])
        except (KeyError, TypeError):
            return None

    def file(self, index: int, what: str) -> Path:
        """A file of a task: ``args.json``, ``log.txt`` or ``metadiff.json``."""
        return Path(self.folder) / f"{self.stems[index]}-{what}"

    def is_ours_to_set(self, state: str) -> bool:
        """Whether the runner sets this status of a unit; that of compound tasks is left to its caller."""
        is_compound = self.task_type.endswith("compound")
        return not is_compound if self.is_multisubmit else (state == FAILED or not is_compound)


class Desk:
    """Takes the ends of a run's tasks as they come, and writes them down in handfuls.

    Args:
        sheet: The submission.
        is_alone: Whether no workflow waits for it: then all statuses are set here.
    """

    def __init__(self, sheet: Sheet, *, is_alone: bool = False) -> None:
        self.sheet = sheet
        self.is_alone = is_alone
        self.results: dict[int, Any] = {}
        self.errors: dict[int, BaseException] = {}
        self._ends: SimpleQueue[TaskEnd] = SimpleQueue()

    def take(self, end: TaskEnd) -> None:
        """A task ended."""
        self._ends.put(end)

    def write_down(self, handle: RunHandle, *, is_stopped: bool) -> None:
        """Write down what ended since the last time: files first, then statuses.

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
            if self.is_alone or self.sheet.is_ours_to_set(status):
                has_warnings = b"warning" in (log or b"").lower()
                units.setdefault((status, has_warnings), []).append(self.sheet.units[end.index])
        for (status, has_warnings), some in units.items():
            set_statuses(some, status, has_warnings=has_warnings)

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
        """What fractal-server's own runner would raise, in its words where it has any."""
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
            text = f"(a log of {len(text)} characters: it is among the logs of the job)"
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
        has_warnings: Whether their logs have warnings; None to leave that as it is.
    """
    values: dict[str, Any] = {"status": status}
    if has_warnings is not None and hasattr(HistoryUnit, "has_warnings"):  # since fractal-server 2.23
        values["has_warnings"] = has_warnings
    with next(get_sync_db()) as db:
        for first in range(0, len(units), _ROWS):
            some = list(units[first : first + _ROWS])
            db.execute(update(HistoryUnit).where(HistoryUnit.id.in_(some)).values(**values))
            db.commit()
