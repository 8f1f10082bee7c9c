# SPDX-License-Identifier: BSD-3-Clause
"""The journal of one run, in SQLite: what is planned, submitted and known. It is written before each act.

A run is a folder with ``journal.sqlite`` and ``lock`` in it. Whoever drives the run holds the lock, so that
two drivers can't. After a crash the journal says all that a new driver needs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import RunError, one_line, shown
from . import schema
from .lock import check_locks_of, heeds_signals, lock
from .model import (
    ENDED,
    FINAL,
    UNFINISHED,
    EventRow,
    JobRow,
    JobState,
    RunRecord,
    TaskEnd,
    TaskLine,
    TaskRow,
    TaskState,
)  # fmt: skip
from .records import is_task_record
from .stored import (
    EVENT_COLUMNS,
    JOB_COLUMNS,
    TASK_COLUMNS,
    is_count_of_tasks,
    is_event,
    is_job,
    is_move,
    is_task,
    job_of,
    read_record,
    task_of,
    written,
)  # fmt: skip

_RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
# A draft that is older than this, in seconds, and not locked, was left behind.
_DRAFT_S = 3600
_MOST_DAMAGE = 20
# So many jobs are kept, to be asked for again.
_FEW_JOBS = 1_000
# What reading a damaged journal may end in: SQLite's own messages, too, may hold what is damaged.
_BROKEN = (sqlite3.Error, UnicodeError)


def check_run_id(run_id: str) -> str:
    """Accept the id of a run.

    Raises:
        RunError: The text is not the id of a run.
    """
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise RunError(f"{run_id!r} is no id of a run; `fractal-slurm status` lists them")
    return run_id


class Journal:
    """The journal of one run, open. Each method is one transaction, unless inside of :meth:`transaction`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, lock_fd: int | None) -> None:
        self.folder = folder
        self._db = connection
        self._lock_fd = lock_fd
        self._depth = 0
        self._record: RunRecord | None = None
        self._record_before: RunRecord | None = None
        self._read_at: tuple[int, int] | None = None  # how the journal was when its record was read
        self._moves = False
        self.undone = 0  # how often something that was written was taken back
        # The jobs that were asked for since something was last written.
        self._jobs_read: dict[tuple[JobState, ...], list[JobRow]] = {}
        self._jobs_version = (-1, -1)
        self.damage: list[str] = []  # what could not be read of it, a sentence each
        # Told of each task that came to its end, once that is on disk.
        self.listener: Callable[[TaskEnd], None] | None = None
        self._ended: list[TaskEnd] = []

    # -- opening -----------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        state_dir: Path,
        record: RunRecord,
        args: Iterable[str],
        batches: Mapping[str, range],
        reason: str,
    ) -> Journal:
        """Make the journal of a new run, whole or not at all, and lock it.

        Args:
            state_dir: Folder of all journals; made, private, where it is missing.
            record: What the run is.
            args: The args-JSON of each task, one line each.
            batches: Token to tasks of each planned job.
            reason: Why they are batched so.

        Raises:
            RunError: The folder can't be written.
        """
        run_id = check_run_id(record.run_id)
        folder = state_dir / "runs" / run_id
        # Under another name until it is complete: a driver that dies here leaves no half of a run.
        draft = folder.with_name(f".{run_id}.draft")
        lock_fd = None
        try:
            _remove_old_drafts(folder.parent)
            make_private(draft)
            lock_fd = lock(draft)
            connection = _connect(draft / "journal.sqlite")
            with closing(connection):
                schema.make_tables(connection)
                journal = cls(draft, connection, None)
                with journal.transaction():
                    connection.executemany("INSERT INTO task (idx, args) VALUES (?, ?)", enumerate(args))
                    for field in fields(record):
                        journal._store(field.name, getattr(record, field.name))
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
            RunError: There is no such run, its journal can't be read or may be another account's work, or another
                process drives it.
        """
        folder = state_dir / "runs" / check_run_id(run_id)
        file = folder / "journal.sqlite"
        lock_fd = None
        try:
            if not _is_there(file):
                raise RunError(f"there is no run {run_id} in {state_dir}; `fractal-slurm status` lists them")
            _check_own(folder)
            if drive:
                lock_fd = lock(folder)
            else:
                check_locks_of(folder)
            journal = cls(folder, _connect(file, read_only=True), None)
            version = schema.version_of(journal._db)
            if journal.lacks_tables():
                raise RunError(f"the journal of run {run_id} is damaged: its tables are missing")
            schema.check_version(version, run_id)
            if not drive:
                return journal
            # Nothing is written to a journal that is damaged: what follows from it would be wrong, too.
            with journal:
                journal.examine()
            journal = cls(folder, _connect(file), lock_fd)
            if version != schema.VERSION:
                with journal.transaction():
                    schema.bring_up_to_date(journal._db)
                    journal.event("journal brought up to date", run_id, f"format {version} to {schema.VERSION}")
            return journal
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
        self.record  # noqa: B018 - it notes what can't be read
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

    def heeds_signals(self, *, of_many: bool = False) -> None:
        """Write into the lock how this process is told to cancel the run; others would only end on SIGTERM."""
        if self._lock_fd is not None:
            heeds_signals(self._lock_fd, of_many=of_many)

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
            self._record_before = self._record
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            if self._depth == 0:
                self._db.execute("ROLLBACK")
                self.undone += 1
                self._record = self._record_before
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

    @property
    def record(self) -> RunRecord:
        """What the run is: as its driver knows it, or, for all others, as it is now on disk."""
        now = self._now() if self._lock_fd is None else None
        if self._record is None or now != self._read_at:
            self._read_at = now
            stored = self._select("SELECT CAST(key AS BLOB), CAST(value AS BLOB) FROM run")
            self._record, unread = read_record({key.decode(errors="replace"): value for key, value in stored})
            for name in unread:
                self._damaged(f"its {name} can't be read")
        return self._record

    def _now(self) -> tuple[int, int]:
        """Another value after each change: by others, or by this connection."""
        return self._db.execute("PRAGMA data_version").fetchone()[0], self._db.total_changes

    def write(self, record: RunRecord) -> None:
        """Store what has changed in the run's record."""
        before = self.record
        changed = {field.name: getattr(record, field.name) for field in fields(record)}
        changed = {name: value for name, value in changed.items() if value != getattr(before, name)}
        if changed:
            with self.transaction():
                for name, value in changed.items():
                    self._store(name, value)
                self._record = record

    def _store(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (name, written(name, value)))

    def event(self, what: str, subject: str = "", detail: str = "") -> None:
        """Note that something happened."""
        self._db.execute("INSERT INTO event VALUES (?, ?, ?, ?)", (time.time(), what, subject, detail))

    def events(self) -> list[EventRow]:
        """All that happened, in its order."""
        sql = f"SELECT {EVENT_COLUMNS} FROM event ORDER BY rowid"
        return [EventRow(*row) for row in self._select(sql, (), is_event)]

    def events_since(self, mark: int) -> tuple[list[EventRow], int]:
        """What happened after a mark, in its order, and the next mark. The first mark is 0."""
        sql = f"SELECT {EVENT_COLUMNS}, rowid FROM event WHERE rowid > ? ORDER BY rowid"
        rows = list(self._select(sql, (mark,), lambda row: is_event(row[:-1])))
        return [EventRow(*row[:-1]) for row in rows], rows[-1][-1] if rows else mark

    def last_event(self) -> int:
        """The mark of the last event: see :meth:`events_since`."""
        return int(self._db.execute("SELECT coalesce(max(rowid), 0) FROM event").fetchone()[0])

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
        # A driver asks again and again while nothing changes, and nobody else writes. Who has no lock is no driver.
        version = self._db.total_changes, self.undone
        if version != self._jobs_version or self._lock_fd is None:
            self._jobs_version, self._jobs_read = version, {}
        found = self._jobs_read.get(states)
        if found is None:
            sql = f"SELECT {JOB_COLUMNS} FROM job {_where(states)} ORDER BY number"
            found = [job_of(row) for row in self._select(sql, states, is_job)]
            if len(found) <= _FEW_JOBS:
                self._jobs_read[states] = found
        return list(found)

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
        sql = f"SELECT {TASK_COLUMNS} FROM task WHERE idx = ?"
        return next((task_of(row) for row in self._select(sql, (index,), is_task)), None)

    def finish_task(self, index: int, state: TaskState, reason: str | None, record: str | None) -> None:
        """Note how a task ended; without a record the one that it has is kept."""
        with self.transaction():
            self._db.execute(
                "UPDATE task SET state = ?, reason = ?, record = coalesce(?, record) WHERE idx = ?",
                (state, reason, record, index),
            )
            self._db.execute("INSERT INTO moved (idx) VALUES (?)", (index,))
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
        with self.transaction():
            self._db.execute(
                f"UPDATE task SET attempt = attempt + 1, {column} = {column} + 1, state = ?, token = NULL "
                "WHERE idx = ?",
                (TaskState.WAITING, index),
            )
            self._moved([index])

    def release(self, indices: Iterable[int]) -> None:
        """Take tasks that never started from their job, for another one."""
        released = list(indices)
        with self.transaction():
            self._db.executemany(
                "UPDATE task SET attempt = attempt + 1, state = ?, token = NULL WHERE idx = ?",
                ((TaskState.WAITING, index) for index in released),
            )
            self._moved(released)

    def take_up_again(self, reasons: Sequence[str]) -> int:
        """Set tasks that did not run, for one of these reasons, up for their next attempt; returns their number."""
        with self.transaction():
            marks = ", ".join("?" * len(set(reasons)))
            self._db.execute(
                f"INSERT INTO moved (idx) SELECT idx FROM task WHERE state = ? AND reason IN ({marks})",
                (TaskState.NOT_RUN, *dict.fromkeys(reasons)),
            )
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
        found = {TaskState(row[0]): row[1] for row in self._select(sql, (), is_count_of_tasks)}
        return {state: found.get(state, 0) for state in TaskState}

    def tells_moves(self) -> bool:
        """Whether it tells which tasks changed: not the journal of an older version, which is read as it is."""
        if not self._moves:
            self._moves = schema.version_of(self._db) >= schema.MOVES_SINCE
        return self._moves

    def last_move(self) -> int:
        """The mark of the last change of a task: see :meth:`moves`."""
        return int(self._db.execute("SELECT coalesce(max(seq), 0) FROM moved").fetchone()[0])

    def moves(self, mark: int) -> tuple[list[tuple[int, TaskState, str | None]], int]:
        """Index, state of today and token of the tasks whose state changed after a mark, in this order; the next mark.

        A task is there for each of its changes.
        """
        sql = "SELECT seq, idx, state, token FROM moved JOIN task USING (idx) WHERE seq > ? ORDER BY seq"
        rows = list(self._select(sql, (mark,), is_move))
        return [(index, TaskState(state), token) for _seq, index, state, token in rows], rows[-1][0] if rows else mark

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside belongs together, whatever its driver writes meanwhile."""
        if self._depth or self._lock_fd is not None:
            yield
            return
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def _moved(self, indices: Iterable[int]) -> None:
        self._db.executemany("INSERT INTO moved (idx) VALUES (?)", ((index,) for index in indices))

    def tasks(self, *states: TaskState) -> Iterator[TaskRow]:
        """The tasks in any of these states, or all, by index."""
        sql = f"SELECT {TASK_COLUMNS} FROM task {_where(states)} ORDER BY idx"
        yield from map(task_of, self._select(sql, states, is_task))


def _where(states: Sequence[str]) -> str:
    """The condition that a row is in one of these states; none for any state."""
    return f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""


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


def make_private(folder: Path) -> None:
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
            fd = lock(draft)
        except (OSError, RunError):
            continue  # its driver is at it
        shutil.rmtree(draft, ignore_errors=True)
        os.close(fd)


def run_ids(state_dir: Path) -> list[str]:
    """The ids of all runs, oldest first.

    Raises:
        RunError: The folder of the journals can't be read.
    """
    try:
        names = os.listdir(state_dir / "runs")
    except FileNotFoundError:
        return []
    except OSError as error:
        words = f"the journals in {state_dir} can't be read: {error.strerror}; see state_dir in our settings"
        raise RunError(words) from None
    return sorted(name for name in names if _RUN_ID.fullmatch(name))


def _is_there(file: Path) -> bool:
    """Whether there is a journal. Path.is_file() says no, too, where a folder above it is closed.

    Raises:
        OSError: It can't be looked at.
    """
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _check_own(folder: Path) -> None:
    """Accept the folder of a run, whose journal says what is run as whom. Root may use that of another account.

    Raises:
        RunError: Another account may have written what is in it.
    """
    status = os.lstat(folder)
    is_own = os.geteuid() in (0, status.st_uid)
    if not stat.S_ISDIR(status.st_mode) or not is_own or status.st_mode & 0o022:
        raise RunError(
            f"{folder}: not safe: uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}; a folder that belongs "
            "to this account, and that no other account can write in, is allowed"
        )


def discard(folder: Path) -> None:
    """Remove a new run of which nothing was submitted.

    Args:
        folder: The run's folder, with the journal in it.

    Raises:
        DrivenElsewhere: Another process has begun to drive it.
    """
    lock_fd = lock(folder)
    try:
        _remove(folder)
    finally:
        os.close(lock_fd)


def _remove(folder: Path) -> None:
    """Remove the folder of a run, whose lock is held."""
    # Under another name first: should it be removed in part only, it is no run any more.
    gone = folder.with_name(f".{folder.name}.draft")
    folder.rename(gone)
    shutil.rmtree(gone)


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
                record = journal.record
                journal.jobs()
                journal.counts()
                if journal.damage:
                    raise RunError(journal.damage)
            if (record.ended or record.created) >= before:
                continue
            if record.state not in ENDED:
                kept.append(f"run {run_id} has not ended: fractal-slurm resume or cancel it")
                continue
            fd = lock(folder)
        except RunError as error:
            kept += [f"{message}: kept" for message in error.messages]
            continue
        except OSError as error:
            kept.append(f"run {run_id} can't be locked: {error.strerror}: kept")
            continue
        try:
            if not dry_run:
                _remove(folder)
            removed.append(run_id)
        except OSError as error:
            raise RunError(f"the journal of run {run_id} can't be removed: {error}") from None
        finally:
            os.close(fd)
    return removed, kept
