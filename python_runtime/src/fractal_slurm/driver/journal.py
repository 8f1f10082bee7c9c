# SPDX-License-Identifier: BSD-3-Clause
"""The journal of one run, in SQLite: what is planned, submitted and known. It is written before each act.

A run is a folder with ``journal.sqlite`` and ``lock`` in it. Whoever drives the run holds the lock, so that
two drivers can't. After a crash the journal says all that a new driver needs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from ..errors import RunError, one_line, shown
from .model import ENDED, FINAL, UNFINISHED, EventRow, JobRow, JobState, RunState, TaskEnd, TaskLine, TaskRow, TaskState
from .records import is_task_record

_SCHEMA = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE job (
    token TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,        -- planned, submitting, submitted, ended, collected, abandoned, refused
    slurm_job_id TEXT,
    slurm_state TEXT,
    reason TEXT,
    tasks INTEGER NOT NULL,
    slots INTEGER,              -- how many of its tasks run at the same time, where that is not the config's
    nodes INTEGER NOT NULL DEFAULT 1,
    submitted_at REAL,
    began_at REAL,
    ended_at REAL
) WITHOUT ROWID;
CREATE TABLE task (
    idx INTEGER PRIMARY KEY,
    args TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,       -- runs again for its own failure
    node_retries INTEGER NOT NULL DEFAULT 0,  -- runs again for a fault of its node or job
    token TEXT,                               -- the job that it belongs to
    state TEXT NOT NULL DEFAULT 'waiting',    -- waiting, cut, succeeded, failed, not_run
    reason TEXT,
    record TEXT                               -- the worker's record, JSON
);
CREATE INDEX task_token ON task (token);
CREATE INDEX task_state ON task (state);
CREATE TABLE event (at REAL NOT NULL, what TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL);
"""
_SCHEMA_VERSION = 1
_RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
# A draft that is older than this, in seconds, and not locked, was left behind.
_DRAFT_S = 3600
# How long a lock is tried for that somebody holds who does not drive the run, in seconds.
_LOCK_WAIT_S = 2.0
# What a driver writes into its lock: its pid, its host, and whether it cancels on SIGTERM.
_LOCK_TEXT = re.compile(r"([0-9]{1,9}) ([A-Za-z0-9._-]{1,255})( heeds)?")
_MOST_DAMAGE = 20
_RUN_STATES, _JOB_STATES, _TASK_STATES = frozenset(RunState), frozenset(JobState), frozenset(TaskState)
# What reading a damaged journal may end in: SQLite's own messages, too, may hold what is damaged.
_BROKEN = (sqlite3.Error, UnicodeError)
# The columns of a job and of a task, in the order of the fields of JobRow and TaskRow.
_JOB = ", ".join(field.name for field in fields(JobRow))
_TASK = ", ".join({"index": "idx"}.get(field.name, field.name) for field in fields(TaskRow))


def check_run_id(run_id: str) -> str:
    """Accept the id of a run.

    Raises:
        RunError: The text is not the id of a run.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise RunError(f"{run_id!r} is no id of a run; `fractal-slurm status` lists them")
    return run_id


class Journal:
    """The journal of one run, open. Each method is one transaction, unless inside of :meth:`transaction`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, lock_fd: int | None) -> None:
        self.folder = folder
        self._db = connection
        self._lock_fd = lock_fd
        self._depth = 0
        self.damage: list[str] = []  # what could not be read of it, a sentence each
        # Told of each task that came to its end, once that is on disk.
        self.listener: Callable[[TaskEnd], None] | None = None
        self._ended: list[TaskEnd] = []

    # -- opening -----------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        state_dir: Path,
        run_id: str,
        values: dict[str, Any],
        args: Iterable[str],
        batches: Mapping[str, range],
        reason: str,
    ) -> Journal:
        """Make the journal of a new run, whole or not at all, and lock it.

        Args:
            state_dir: Folder of all journals; made, private, where it is missing.
            run_id: The run's id.
            values: What the run is; JSON values by name.
            args: The args-JSON of each task, one line each.
            batches: Token to tasks of each planned job.
            reason: Why they are batched so.

        Raises:
            RunError: The folder can't be written.
        """
        folder = state_dir / "runs" / check_run_id(run_id)
        # Under another name until it is complete: a driver that dies here leaves no half of a run.
        draft = folder.with_name(f".{run_id}.draft")
        lock_fd = None
        try:
            _remove_old_drafts(folder.parent)
            _make_private(draft)
            lock_fd = _lock(draft)
            connection = _connect(draft / "journal.sqlite")
            with closing(connection):
                connection.executescript(_SCHEMA + f"PRAGMA user_version = {_SCHEMA_VERSION};")
                journal = cls(draft, connection, None)
                with journal.transaction():
                    connection.executemany("INSERT INTO task (idx, args) VALUES (?, ?)", enumerate(args))
                    for key, value in values.items():
                        journal.put(key, value)
                    for token, tasks in batches.items():
                        journal.add_job(token, tasks)
                    journal.event("run created", run_id, reason)
            draft.rename(folder)
            return cls(folder, _connect(folder / "journal.sqlite"), lock_fd)
        except BaseException as error:
            if lock_fd is not None:  # a program that makes many runs lives on
                os.close(lock_fd)
            if isinstance(error, (OSError, sqlite3.Error)):
                raise RunError(
                    f"the journal can't be written in {folder}: {error}; see state_dir in our settings"
                ) from None
            raise

    @classmethod
    def open(cls, state_dir: Path, run_id: str, *, drive: bool) -> Journal:
        """Open the journal of a run.

        Args:
            state_dir: Folder of all journals.
            run_id: The run's id.
            drive: Whether to lock it, for driving the run.

        Raises:
            RunError: There is no such run, its journal can't be read, or another process drives it.
        """
        folder = state_dir / "runs" / check_run_id(run_id)
        file = folder / "journal.sqlite"
        if not file.is_file():
            raise RunError(f"there is no run {run_id} in {state_dir}; `fractal-slurm status` lists them")
        lock_fd = None
        try:
            lock_fd = _lock(folder) if drive else None
            journal = cls(folder, _connect(file, read_only=True), None)
            version = journal._db.execute("PRAGMA user_version").fetchone()[0]
            if journal.lacks_tables():
                raise RunError(f"the journal of run {run_id} is damaged: it its tables are missing")
            if version != _SCHEMA_VERSION:
                raise RunError(
                    f"the journal of run {run_id} has format {version}; this version of fractal-slurm reads format "
                    f"{_SCHEMA_VERSION}: use the version that began the run"
                )
            if not drive:
                return journal
            # Nothing is written to a journal that is damaged: what follows from it would be wrong, too.
            with journal:
                journal.examine()
            return cls(folder, _connect(file), lock_fd)
        except BaseException as error:
            if lock_fd is not None:
                os.close(lock_fd)
            if isinstance(error, (OSError, *_BROKEN)):
                raise RunError(f"the journal of run {run_id} can't be read: {error}") from None
            raise

    def lacks_tables(self) -> bool:
        """Say whether a table of a journal is missing."""
        rows = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return not {"run", "job", "task", "event"} <= {row[0] for row in rows}

    def examine(self) -> None:
        """Read everything that a driver relies on.

        Raises:
            RunError: Some of it is damaged.
        """
        try:
            words = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except _BROKEN as error:
            words = str(error)
        if words != "ok":
            self._damaged(words)
        for key in _VALUES:
            self.get(key)
        self.jobs()
        for _row in self.tasks():
            pass
        if self.damage:
            raise RunError([*self.damage, "it is not driven, and nothing is written to it"])

    def _damaged(self, words: str) -> None:
        """Note damage of this journal: the rest can be shown, but the run can't be driven.

        Raises:
            RunError: It is being driven.
        """
        sentence = f"the journal of run {self.folder.name} is damaged: {one_line(words)}"
        if self._lock_fd is not None:
            raise RunError(sentence)
        if sentence not in self.damage and len(self.damage) < _MOST_DAMAGE:
            self.damage.append(sentence)

    def _select(
        self, sql: str, values: Sequence[Any] = (), sound: Callable[[tuple[Any, ...]], bool] = lambda _row: True
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows that can be read; those that are not ``sound`` are noted as damage and left out."""
        try:
            for row in self._db.execute(sql, values):
                if sound(row):
                    yield row
                else:
                    self._damaged(f"a row has values that are not valid ({_place(row)})")
        except _BROKEN as error:
            self._damaged(str(error))

    def heeds_signals(self) -> None:
        """Write into the lock that this process cancels the run on SIGTERM; others would only end."""
        if self._lock_fd is not None:
            os.pwrite(self._lock_fd, f"{os.getpid()} {os.uname().nodename} heeds\n".encode(), 0)

    def close(self) -> None:
        """Close the journal and release the lock."""
        self._db.close()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what happens inside; on disk at the end."""
        if self._depth == 0:
            self._db.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if self._depth == 0:
                self._db.execute("ROLLBACK")
                self._ended.clear()
            raise
        self._depth -= 1
        if self._depth == 0:
            self._db.execute("COMMIT")
            ended, self._ended = self._ended, []
            for end in ended:
                if self.listener is not None:
                    self.listener(end)

    # -- the run -----------------------------------------------------------------------------------------

    def put(self, key: str, value: Any) -> None:
        """Remember a value of the run."""
        self._db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the run."""
        for (text,) in self._select("SELECT value FROM run WHERE key = ?", (key,)):
            try:
                value = json.loads(text)
                if _VALUES.get(key, _is_anything)(value):
                    return value
            except (ValueError, TypeError, RecursionError):
                pass
            self._damaged(f"its {key} can't be read")
        return default

    def event(self, what: str, subject: str = "", detail: str = "") -> None:
        """Note that something happened."""
        self._db.execute("INSERT INTO event VALUES (?, ?, ?, ?)", (time.time(), what, subject, detail))

    def events(self) -> list[EventRow]:
        """All that happened, in its order."""
        sql = "SELECT at, what, subject, detail FROM event ORDER BY rowid"
        return [EventRow(*row) for row in self._select(sql, (), _is_event)]

    # -- jobs --------------------------------------------------------------------------------------------

    def add_job(self, token: str, tasks: Sequence[int], *, slots: int | None = None) -> None:
        """Plan a job, and give it its tasks; ``slots`` where not as many as usual run at the same time."""
        with self.transaction():
            number = self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM job").fetchone()[0]
            self._db.execute(
                "INSERT INTO job (token, number, state, tasks, slots) VALUES (?, ?, ?, ?, ?)",
                (token, number, JobState.PLANNED, len(tasks), slots),
            )
            if isinstance(tasks, range):
                self._db.execute(
                    "UPDATE task SET token = ? WHERE idx >= ? AND idx < ?", (token, tasks.start, tasks.stop)
                )
            else:
                self._db.executemany("UPDATE task SET token = ? WHERE idx = ?", ((token, index) for index in tasks))

    def update_job(
        self,
        token: str,
        event: str = "",
        *,
        state: JobState | None = None,
        slurm_job_id: str | None = None,
        slurm_state: str | None = None,
        reason: str | None = None,
        nodes: int | None = None,
        submitted_at: float | None = None,
        began_at: float | None = None,
        ended_at: float | None = None,
    ) -> None:
        """Change fields of a job, and note the change as an event. What is None stays as it is.

        Args:
            token: Which job.
            event: What happened to it, in a word or two; empty for no event.
            state: As in :class:`JobRow`; so are the others.
        """
        given = {
            "state": state, "slurm_job_id": slurm_job_id, "slurm_state": slurm_state, "reason": reason,
            "nodes": nodes, "submitted_at": submitted_at, "began_at": began_at, "ended_at": ended_at,
        }  # fmt: skip
        values = {name: value for name, value in given.items() if value is not None}
        columns = ", ".join(f"{name} = ?" for name in values)
        with self.transaction():
            self._db.execute(f"UPDATE job SET {columns} WHERE token = ?", (*values.values(), token))
            if event:
                self.event(event, token, json.dumps(values))

    def jobs(self, *states: JobState) -> list[JobRow]:
        """The jobs in any of these states, or all, by number."""
        sql = f"SELECT {_JOB} FROM job {_where(states)} ORDER BY number"
        return [_job(row) for row in self._select(sql, states, _is_job)]

    def tokens(self) -> set[str]:
        """The tokens of all jobs that ever were."""
        return {row[0] for row in self._db.execute("SELECT token FROM job")}

    # -- tasks -------------------------------------------------------------------------------------------

    def task_lines(self, token: str) -> list[TaskLine]:
        """The tasks that a job is to run."""
        sql = f"SELECT idx, attempt, args FROM task {_where(UNFINISHED)} AND token = ? ORDER BY idx"
        return [TaskLine(*row) for row in self._db.execute(sql, (*UNFINISHED, token))]

    def tasks_of(self, token: str, *states: TaskState) -> list[int]:
        """The tasks of a job that are in any of these states, by index."""
        sql = f"SELECT idx FROM task {_where(states)} AND token = ? ORDER BY idx"
        return [row[0] for row in self._db.execute(sql, (*states, token))]

    def task(self, index: int) -> TaskRow | None:
        """One task, if there is one of this index."""
        sql = f"SELECT {_TASK} FROM task WHERE idx = ?"
        return next((_task(row) for row in self._select(sql, (index,), _is_task)), None)

    def finish_task(self, index: int, state: TaskState, reason: str | None, record: str | None) -> None:
        """Note how a task ended; without a record the one that it has is kept."""
        with self.transaction():
            self._db.execute(
                "UPDATE task SET state = ?, reason = ?, record = coalesce(?, record) WHERE idx = ?",
                (state, reason, record, index),
            )
            if self.listener is not None and state in FINAL:
                self._ended.append(TaskEnd(index, state, reason, record))

    def finish_tasks(self, indices: Iterable[int], state: TaskState, reason: str) -> None:
        """The same end for several tasks."""
        with self.transaction():
            for index in indices:
                self.finish_task(index, state, reason, None)

    def try_again(self, index: int, *, own_fault: bool) -> None:
        """Set a task up for its next attempt."""
        column = "retries" if own_fault else "node_retries"
        self._db.execute(
            f"UPDATE task SET attempt = attempt + 1, {column} = {column} + 1, state = ?, token = NULL WHERE idx = ?",
            (TaskState.WAITING, index),
        )

    def release(self, indices: Iterable[int]) -> None:
        """Take tasks that never started from their job, for another one."""
        with self.transaction():
            self._db.executemany(
                "UPDATE task SET attempt = attempt + 1, state = ?, token = NULL WHERE idx = ?",
                ((TaskState.WAITING, index) for index in indices),
            )

    def take_up_again(self, reasons: Sequence[str]) -> int:
        """Set tasks that did not run, for one of these reasons, up for their next attempt; returns their number."""
        with self.transaction():
            return sum(
                self._db.execute(
                    "UPDATE task SET attempt = attempt + 1, state = ?, token = NULL, reason = NULL "
                    "WHERE state = ? AND reason = ?",
                    (TaskState.WAITING, TaskState.NOT_RUN, reason),
                ).rowcount
                for reason in dict.fromkeys(reasons)
            )

    def unassigned(self) -> list[int]:
        """Waiting tasks that belong to no job."""
        sql = "SELECT idx FROM task WHERE token IS NULL AND state = ? ORDER BY idx"
        return [row[0] for row in self._db.execute(sql, (TaskState.WAITING,))]

    def has_records(self) -> bool:
        """Whether a worker has told of a task."""
        return self._db.execute("SELECT 1 FROM task WHERE record IS NOT NULL LIMIT 1").fetchone() is not None

    def ended_of(self, tokens: Sequence[str]) -> dict[str, int]:
        """Number of tasks of each of these jobs that have an end."""
        marks = ", ".join("?" * len(tokens))
        sql = f"SELECT token, count(*) FROM task {_where(tuple(FINAL))} AND token IN ({marks}) GROUP BY token"
        return dict(self._select(sql, (*FINAL, *tokens)))

    def indices(self, *states: TaskState) -> list[int]:
        """The tasks in any of these states, by index."""
        return [row[0] for row in self._select(f"SELECT idx FROM task {_where(states)} ORDER BY idx", states)]

    def without_out(self) -> int:
        """Number of tasks that succeeded and wrote no out-JSON."""
        # In a string of a record a quote stands behind a backslash.
        sql = "SELECT count(*) FROM task WHERE state = ? AND record NOT LIKE '%\"out\":%'"
        return sum(row[0] for row in self._select(sql, (TaskState.SUCCEEDED,)))

    def counts(self) -> dict[TaskState, int]:
        """Number of tasks by state; states in which there is none are there, too."""
        sql = "SELECT state, count(*) FROM task GROUP BY state"
        found = {TaskState(row[0]): row[1] for row in self._select(sql, (), lambda row: row[0] in _TASK_STATES)}
        return {state: found.get(state, 0) for state in TaskState}

    def tasks(self, *states: TaskState) -> Iterator[TaskRow]:
        """The tasks in any of these states, or all, by index."""
        sql = f"SELECT {_TASK} FROM task {_where(states)} ORDER BY idx"
        yield from map(_task, self._select(sql, states, _is_task))


def _where(states: Sequence[str]) -> str:
    """The condition that a row is in one of these states; none for any state."""
    return f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""


def _job(row: tuple[Any, ...]) -> JobRow:
    token, number, state, *rest = row
    return JobRow(token, number, JobState(state), *rest)


def _task(row: tuple[Any, ...]) -> TaskRow:
    index, attempt, token, state, *rest = row
    return TaskRow(index, attempt, token, TaskState(state), *rest)


def _is_anything(_value: object) -> bool:
    return True


def _is(*types: type) -> Callable[[object], bool]:
    # A bool is an int to Python.
    return lambda value: isinstance(value, types) and (not isinstance(value, bool) or bool in types)


_is_text, _is_maybe_text, _is_count = _is(str), _is(str, NoneType), _is(int)


def _is_time(value: object) -> bool:
    # What the clock's functions take, too.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 10**11


def _is_maybe_time(value: object) -> bool:
    return value is None or _is_time(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_wait(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_text(value[0]) and _is_time(value[1])


# The values of a run whose types are relied on.
_VALUES: dict[str, Callable[[object], bool]] = {
    "run_id": _is_text,
    "created": _is_time,
    "ended": _is_time,
    "user": _is_text,
    "task_name": _is_text,
    "tasks": _is_count,
    "run_folder": _is_text,
    "config": _is(dict),
    "job_settings": _is(dict),
    "hides_jobs": _is(bool),
    "labels": _is(dict),
    "state": lambda value: isinstance(value, str) and value in _RUN_STATES,
    "cancelled": _is(bool),
    "refusal": _is_maybe_text,
    "refusals": _is_texts,
    "bad_nodes": lambda value: isinstance(value, dict) and _is_texts(list(value.values())),
    "nodes_agree": _is_texts,
    "unclaimed": _is_texts,
    "alone": _is(list),
    "srun_steps": _is_count,
    "retry_of": _is_maybe_text,
    "retry_tasks": _is(list),
    "metas": _is(dict),
    "sources": _is(dict),
    "job_notes": lambda value: isinstance(value, dict) and all(map(_is_texts, value.values())),
    "waits": lambda value: isinstance(value, dict) and all(map(_is_wait, value.values())),
}


def _fits(*checks: Callable[[object], bool]) -> Callable[[tuple[Any, ...]], bool]:
    def fits(row: tuple[Any, ...]) -> bool:
        for check, value in zip(checks, row, strict=True):  # noqa: SIM110 - for every row, and all() is slower
            if not check(value):
                return False
        return True

    return fits


_is_event = _fits(_is_time, _is_text, _is_text, _is_text)
_is_job = _fits(
    _is_text, _is_count, _JOB_STATES.__contains__, _is_maybe_text, _is_maybe_text, _is_maybe_text, _is_count,
    _is(int, NoneType), _is_count, _is_maybe_time, _is_maybe_time, _is_maybe_time,
)  # fmt: skip
_is_task = _fits(
    _is_count, _is_count, _is_maybe_text, _TASK_STATES.__contains__, _is_count, _is_count, _is_maybe_text,
    _is_maybe_text, _is_text,
)  # fmt: skip


def _place(row: tuple[Any, ...]) -> str:
    return shown(row[0], 30)


def record_of(text: str | None) -> dict[str, Any]:
    """The record of a task, as the journal has it; empty where there is none, or it is damaged."""
    try:
        record = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) and (not record or is_task_record(record)) else {}


def _connect(file: Path, *, read_only: bool = False) -> sqlite3.Connection:
    if read_only:
        name = f"{file.absolute().as_uri()}?mode=ro"
        return sqlite3.connect(name, timeout=30, isolation_level=None, uri=True)
    # Made private before SQLite can make it otherwise: the args of other people's tasks are in it.
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    # A run may be made in one thread and driven in another; never by two at the same time.
    connection = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: what is journalled before an act is on disk before the act, also when the power goes.
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _lock(folder: Path) -> int:
    """Lock a run. Whoever only asks whether it is driven holds the lock for an instant: that is waited for.

    Raises:
        RunError: Another process drives it.
    """
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            driver = _driver(fd)
            if driver.pid or time.monotonic() >= deadline:
                os.close(fd)
                raise RunError(
                    f"run {folder.name} is driven by another process ({driver}): let it go on, or end it first"
                ) from None
            time.sleep(0.01)
        except OSError:
            os.close(fd)
            raise
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)
    return fd


def _make_private(folder: Path) -> None:
    """Make a folder, and what is missing above it, for this account alone (mkdir(1) makes only the last part so)."""
    for missing in reversed([part for part in folder.parents if not part.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700)


def _remove_old_drafts(folder: Path) -> None:
    """Remove what drivers left that died before their runs began."""
    for draft in folder.glob(".*.draft"):
        try:
            if time.time() - draft.stat().st_mtime < _DRAFT_S:
                continue  # its driver may not have come to locking it
            fd = _lock(draft)
        except (OSError, RunError):
            continue  # its driver is at it
        shutil.rmtree(draft, ignore_errors=True)
        os.close(fd)


class Driver(NamedTuple):
    """The process that drives a run.

    Attributes:
        host: Its host; empty where that is not known.
        pid: Its number there, above 1; on this host it was seen to hold the lock, on another it is what the lock's
            file says. 0 where it is not known.
        heeds: Whether it cancels the run on SIGTERM.
    """

    host: str
    pid: int
    heeds: bool = False

    def __str__(self) -> str:
        return f"pid {self.pid or 'unknown'} on {self.host or 'an unknown host'}"


def _driver(fd: int) -> Driver:
    """Who holds a lock that is held, by what its file says. Of this host's processes only one that has it is named."""
    try:
        text = os.pread(fd, 300, 0).decode("ascii", "replace")
    except OSError:
        text = ""
    match = _LOCK_TEXT.fullmatch(text.strip())
    if match is None:
        return Driver("", 0)
    pid, host = int(match[1]), match[2]
    if pid < 2 or (host == os.uname().nodename and not _has_lock(pid, os.fstat(fd))):
        pid = 0
    return Driver(host, pid, heeds=match[3] is not None)


def _has_lock(pid: int, lock: os.stat_result) -> bool:
    """Whether a process has a file open, with a lock on it that lets nobody else in."""
    folder = Path(f"/proc/{pid}")
    try:
        for entry in (folder / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(entry.stat(), lock):
                    info = (folder / "fdinfo" / entry.name).read_text(encoding="ascii", errors="replace")
                    if re.search(r"^lock:.* WRITE ", info, re.MULTILINE):
                        return True
    except OSError:  # it is gone, or somebody else's
        pass
    return False


def run_ids(state_dir: Path) -> list[str]:
    """The ids of all runs, oldest first."""
    folder = state_dir / "runs"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if _RUN_ID.fullmatch(entry.name))


def state_now(state: RunState, driver: Driver | None) -> RunState:
    """What the journal's word for a run's state means, given who drives it."""
    open_ended = state in (RunState.PLANNED, RunState.DRIVEN)
    return RunState.INTERRUPTED if open_ended and driver is None else state


def is_driven(state_dir: Path, run_id: str) -> Driver | None:
    """The process that drives a run, if there is one."""
    try:
        fd = os.open(state_dir / "runs" / run_id / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _driver(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return None


def prune(state_dir: Path, before: float, *, dry_run: bool = False) -> tuple[list[str], list[str]]:
    """Remove the journals of runs that ended before a time; those that have not ended, or can't be read, are kept.

    Args:
        state_dir: Folder of all journals.
        before: The time, in seconds since the epoch.
        dry_run: Whether to remove nothing.

    Returns:
        The ids of the runs that were removed, or would be, and why others are kept that may be older: a sentence each.

    Raises:
        RunError: A journal can't be removed.
    """
    removed, kept = [], []
    for run_id in run_ids(state_dir):
        folder = state_dir / "runs" / run_id
        try:
            with Journal.open(state_dir, run_id, drive=False) as journal:
                state, ended = journal.get("state"), journal.get("ended", journal.get("created"))
                journal.jobs()
                journal.counts()
                if journal.damage:
                    raise RunError(journal.damage)
            if not isinstance(ended, (int, float)) or ended >= before:
                continue
            if state not in ENDED:
                kept.append(f"run {run_id} has not ended: fractal-slurm resume or cancel it")
                continue
            fd = _lock(folder)
        except RunError as error:
            kept += [f"{message}: kept" for message in error.messages]
            continue
        try:
            if not dry_run:
                # Under another name first: should it be removed in part only, it is no run any more.
                gone = folder.with_name(f".{run_id}.draft")
                folder.rename(gone)
                shutil.rmtree(gone)
            removed.append(run_id)
        except OSError as error:
            raise RunError(f"the journal of run {run_id} can't be removed: {error}") from None
        finally:
            os.close(fd)
    return removed, kept
