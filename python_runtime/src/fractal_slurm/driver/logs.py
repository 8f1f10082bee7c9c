# SPDX-License-Identifier: BSD-3-Clause
"""What tasks printed: where it stands in the user's run folder, and many tasks' logs in few calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import ClusterError
from ..jobs.layout import is_running_name, job_folder, log_path, slot_of, task_log_path
from ..sudo import Impersonator
from .journal import Journal, record_of
from .model import JobState, TaskRow, TaskState

# Of one task's log so many bytes are read; of a longer one, the last.
MOST_LOG_BYTES = 10_000_000
_TIMEOUT_S = 600
# Of a task that runs: so long its log is waited for, in seconds, and so many nodes of its job are asked.
_WAIT_S, _MOST_NODES = 60, 1000
# More than any log file has that is worth its reading. What a record says of its place is the user's word.
_MOST_FILE_BYTES = 1 << 36


@dataclass(frozen=True)
class Place:
    """Where a task's log is.

    Attributes:
        path: The file, in the user's run folder.
        offset: Where the log begins in it.
        size: Its bytes; None while the task runs.
    """

    path: str
    offset: int
    size: int | None


def place_of(journal: Journal, task: TaskRow, *, tokens: set[str] | None = None) -> Place | None:
    """Where the log of a task is; None if there is none that can be read yet.

    Args:
        journal: The run's journal.
        task: The task.
        tokens: The tokens of the run's jobs, where the caller has them already.
    """
    tokens = journal.tokens() if tokens is None else tokens
    run = journal.record
    folder, is_separate = run.run_folder, run.job_settings.task_logs == "separate"
    record = record_of(task.record)
    if record.get("log") and record.get("token") in tokens:
        offset, size = record["log"]
        token = record["token"]
        if is_separate:
            path = task_log_path(folder, token, index=task.index, attempt=record["attempt"])
        else:
            path = log_path(folder, token, restart=record["restart"], node=record["node"])
        return Place(path, offset, size)
    if is_separate and task.token is not None and task.state is TaskState.WAITING:
        return Place(task_log_path(folder, task.token, index=task.index, attempt=task.attempt), 0, None)
    return None


def whole_tail(task: TaskRow) -> bytes | None:
    """The log of a task, where all of it is in the journal already."""
    record = record_of(task.record)
    text = record.get("tail") or ""
    tail: bytes = text.encode("utf-8")
    # What is no UTF-8 stands in the record as U+FFFD.
    return tail if record.get("log") and record["log"][1] == len(tail) and "\ufffd" not in text else None


def read_logs(
    journal: Journal, sudo: Impersonator, indices: Iterable[int], *, most_bytes: int = MOST_LOG_BYTES
) -> dict[int, bytes]:
    """The logs of tasks, by task; those that have none are left out, as are files that can't be read any more.

    Logs that are short are in the journal already. Of the others each file is read once, however many logs it holds.

    Args:
        journal: The run's journal.
        sudo: Reads as the user.
        indices: The tasks.
        most_bytes: Bytes of one log; of a longer one, the last are kept.

    Raises:
        ClusterError: sudo refused, or does not answer.
    """
    found: dict[int, bytes] = {}
    files: dict[str, dict[int, Place]] = {}
    tokens = journal.tokens()
    for index in indices:
        task = journal.task(index)
        if task is None:
            continue
        text = whole_tail(task)
        if text is not None:
            found[index] = text[-most_bytes:]
            continue
        place = place_of(journal, task, tokens=tokens)
        if place is not None:
            files.setdefault(place.path, {})[index] = place
    for path, places in files.items():
        found.update(_read_file(sudo, journal.record.user, path, places, most_bytes))
    return found


def running(journal: Journal) -> list[int]:
    """The tasks that may run now, by index: of each job that has begun, as many as run side by side.

    No record says that a task has begun. But a job takes its tasks in order, so those that run are among the first that
    have no end.
    """
    found = []
    for job in journal.jobs(JobState.SUBMITTED):
        if job.began_at is not None:
            slots = (job.slots or journal.record.config.parallel_tasks_per_job) * max(1, job.nodes)
            found += journal.tasks_of(job.token, TaskState.WAITING)[:slots]
    return sorted(found)


def _read_file(
    sudo: Impersonator, user: str, path: str, places: Mapping[int, Place], most_bytes: int
) -> dict[int, bytes]:
    """The logs that are in one file."""
    parts = {index: bytearray() for index in places}
    ends = {index: _MOST_FILE_BYTES if at.size is None else at.offset + at.size for index, at in places.items()}
    position, came, closed = 0, False, dict[str, str]()
    last = min(_MOST_FILE_BYTES, max(ends.values()))
    for chunk in sudo.read_files(user, [path], timeout=_TIMEOUT_S, max_bytes=last, closed=closed):
        came = True
        for index, place in places.items():
            part = chunk[max(0, place.offset - position) : max(0, ends[index] - position)]
            if part:
                parts[index] += part
                del parts[index][:-most_bytes]
        position += len(chunk)
    if closed:
        raise ClusterError(f"the log {path} of {user} can't be read: {closed.get(path, '')}")
    return {index: bytes(part) for index, part in parts.items()} if came else {}


class RunningLog:
    """What a task that runs printed so far. The commands that are allowed read files from their beginning only.

    Args:
        journal: The run's journal.
        sudo: Reads as the user.
        index: The task.
        most_bytes: More is not read while it runs.

    Attributes:
        shown: Bytes that were given.
        full: Whether it has more bytes than are read.
    """

    def __init__(self, journal: Journal, sudo: Impersonator, index: int, *, most_bytes: int = MOST_LOG_BYTES) -> None:
        self._journal, self._sudo, self._index, self._most = journal, sudo, index, most_bytes
        self._running: list[str] = []  # the files that say which task runs where
        self._attempt: tuple[str, int] | None = None
        self.shown = 0
        self.full = False

    def shown_of(self, attempt: object) -> int:
        """Bytes that were given of this attempt of the task."""
        return self.shown if self._attempt is not None and self._attempt[1] == attempt else 0

    def new(self) -> bytes:
        """What it printed since the last call; nothing while it does not run.

        Raises:
            ClusterError: sudo refused, or does not answer.
        """
        task = self._journal.task(self._index)
        if task is None or task.token is None or task.state is not TaskState.WAITING:
            return b""
        if self._attempt != (task.token, task.attempt):
            # It is set up anew: what it printed before does not count.
            self._attempt, self._running, self.shown, self.full = (task.token, task.attempt), [], 0, False
        if self.full:
            return b""
        place = place_of(self._journal, task)
        text = self._read([place.path]) if place else self._slot(task.token, task.attempt)
        self.full = len(text) >= self._most
        new = text[self.shown : self._most]
        self.shown += len(new)
        return new

    def _slot(self, token: str, attempt: int) -> bytes:
        user, folder = self._journal.record.user, job_folder(self._journal.record.run_folder, token)
        if not self._running:
            names = self._sudo.list_folders(user, [folder], wanted=is_running_name).get(folder, [])
            # SLURM may start a job again: the last start counts.
            starts = {name: int(name.split("-")[1]) for name in names}
            last = max(starts.values(), default=0)
            self._running = [f"{folder}/{name}" for name in sorted(starts) if starts[name] == last][:_MOST_NODES]
        if not self._running:
            return b""
        running = self._read(self._running)
        slot = slot_of(running, self._index, attempt)
        if slot is None:
            self._running = []  # it may be the start of a job that is over
            return b""
        # The slots are read after the output: if the task is still there, the output was its own.
        both = self._read([f"{folder}/{slot}", *self._running], more=len(running))
        if len(both) >= self._most + len(running):
            return both[: self._most]
        text, after = both[: len(both) - len(running)], both[len(both) - len(running) :]
        return text if slot_of(after, self._index, attempt) == slot else b""

    def _read(self, paths: list[str], *, more: int = 0) -> bytes:
        chunks = self._sudo.read_files(
            self._journal.record.user, paths, timeout=_WAIT_S, max_bytes=self._most + more, closed={}
        )
        return b"".join(chunks)[: self._most + more]
