# SPDX-License-Identifier: BSD-3-Clause
"""The journal of one run: what was meant, what was submitted, what came back. SQLite, written before the act.

A run is a folder with ``journal.sqlite`` and ``lock`` in it. Whoever drives the run holds the lock, so that
two drivers can't. After a crash the journal says all that a new driver needs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import RunError

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
# States of a task that are its end.
FINAL = ("succeeded", "failed", "not_run")


@dataclass(frozen=True)
class Job:
    """One submission of a batch of tasks; fields as in the table ``job``."""

    token: str
    number: int
    state: str
    slurm_job_id: str | None
    slurm_state: str | None
    reason: str | None
    tasks: int
    slots: int | None
    nodes: int
    submitted_at: float | None
    began_at: float | None
    ended_at: float | None


def check_run_id(run_id: str) -> str:
    """Accept the id of a run.

    Raises:
        RunError: It is none.
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
        # Told of each task that came to its end, once that is on disk: index, state, reason, record.
        self.listener: Callable[[int, str, str | None, str | None], None] | None = None
        self._ended: list[tuple[int, str, str | None, str | None]] = []

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
        try:
            _remove_old_drafts(folder.parent)
            draft.mkdir(mode=0o700, parents=True)
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
        except (OSError, sqlite3.Error) as error:
            raise RunError(
                f"the journal can't be written in {folder}: {error}; see state_dir in our settings"
            ) from None

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
        try:
            lock_fd = _lock(folder) if drive else None
            connection = _connect(file)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except (OSError, sqlite3.Error) as error:
            raise RunError(f"the journal of run {run_id} can't be read: {error}") from None
        if version != _SCHEMA_VERSION:
            raise RunError(
                f"the journal of run {run_id} has format {version}; this version of fractal-slurm reads format "
                f"{_SCHEMA_VERSION}: use the version that began the run"
            )
        return cls(folder, connection, lock_fd)

    def close(self) -> None:
        """Close it, and let go of the lock."""
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
                    self.listener(*end)

    # -- the run -----------------------------------------------------------------------------------------

    def put(self, key: str, value: Any) -> None:
        """Remember a value of the run."""
        self._db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the run."""
        row = self._db.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def event(self, what: str, subject: str = "", detail: str = "") -> None:
        """Note that something happened."""
        self._db.execute("INSERT INTO event VALUES (?, ?, ?, ?)", (time.time(), what, subject, detail))

    def events(self) -> list[tuple[float, str, str, str]]:
        """All that happened: time, what, to whom, details."""
        return list(self._db.execute("SELECT at, what, subject, detail FROM event ORDER BY rowid"))

    # -- jobs --------------------------------------------------------------------------------------------

    def add_job(self, token: str, tasks: Sequence[int], *, slots: int | None = None) -> None:
        """Plan a job, and give it its tasks; ``slots`` where not as many as usual run at the same time."""
        with self.transaction():
            number = self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM job").fetchone()[0]
            self._db.execute(
                "INSERT INTO job (token, number, state, tasks, slots) VALUES (?, ?, 'planned', ?, ?)",
                (token, number, len(tasks), slots),
            )
            if isinstance(tasks, range):
                self._db.execute(
                    "UPDATE task SET token = ? WHERE idx >= ? AND idx < ?", (token, tasks.start, tasks.stop)
                )
            else:
                self._db.executemany("UPDATE task SET token = ? WHERE idx = ?", ((token, index) for index in tasks))

    def update_job(self, token: str, event: str = "", **values: Any) -> None:
        """Change fields of a job, and note the change as an event."""
        columns = ", ".join(f"{name} = ?" for name in values)
        with self.transaction():
            self._db.execute(f"UPDATE job SET {columns} WHERE token = ?", (*values.values(), token))
            if event:
                self.event(event, token, json.dumps(values))

    def jobs(self, *states: str) -> list[Job]:
        """The jobs in any of these states, or all, by number."""
        where = f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        rows = self._db.execute(
            "SELECT token, number, state, slurm_job_id, slurm_state, reason, tasks, slots, nodes, "
            "submitted_at, began_at, "
            f"ended_at FROM job {where} ORDER BY number",
            states,
        )
        return [Job(*row) for row in rows]

    def tokens(self) -> set[str]:
        """The tokens of all jobs that ever were."""
        return {row[0] for row in self._db.execute("SELECT token FROM job")}

    # -- tasks -------------------------------------------------------------------------------------------

    def task_lines(self, token: str) -> list[tuple[int, int, str]]:
        """Index, attempt and args of the tasks that a job is to run."""
        return list(
            self._db.execute(
                "SELECT idx, attempt, args FROM task WHERE token = ? AND state IN ('waiting', 'cut') ORDER BY idx",
                (token,),
            )
        )

    def tasks_of(self, token: str, *states: str) -> list[int]:
        """The tasks of a job that are in any of these states, by index."""
        rows = self._db.execute(
            f"SELECT idx FROM task WHERE token = ? AND state IN ({', '.join('?' * len(states))}) ORDER BY idx",
            (token, *states),
        )
        return [row[0] for row in rows]

    def task_row(self, index: int) -> tuple[int, str | None, str, int, int, str | None] | None:
        """Attempt, token, state, retries, node_retries and record of one task."""
        row: tuple[int, str | None, str, int, int, str | None] | None = self._db.execute(
            "SELECT attempt, token, state, retries, node_retries, record FROM task WHERE idx = ?", (index,)
        ).fetchone()
        return row

    def finish_task(self, index: int, state: str, reason: str | None, record: str | None) -> None:
        """Note how a task ended; without a record the one that it has is kept."""
        with self.transaction():
            self._db.execute(
                "UPDATE task SET state = ?, reason = ?, record = coalesce(?, record) WHERE idx = ?",
                (state, reason, record, index),
            )
            if self.listener is not None and state in FINAL:
                self._ended.append((index, state, reason, record))

    def finish_tasks(self, indices: Iterable[int], state: str, reason: str) -> None:
        """The same end for several tasks."""
        with self.transaction():
            for index in indices:
                self.finish_task(index, state, reason, None)

    def try_again(self, index: int, *, own_fault: bool) -> None:
        """Set a task up for its next attempt."""
        column = "retries" if own_fault else "node_retries"
        self._db.execute(
            f"UPDATE task SET attempt = attempt + 1, {column} = {column} + 1, state = 'waiting', token = NULL "
            "WHERE idx = ?",
            (index,),
        )

    def release(self, indices: Iterable[int]) -> None:
        """Take tasks that never started from their job, for another one."""
        with self.transaction():
            self._db.executemany(
                "UPDATE task SET attempt = attempt + 1, state = 'waiting', token = NULL WHERE idx = ?",
                ((index,) for index in indices),
            )

    def take_up_again(self, reasons: Sequence[str]) -> int:
        """Set tasks that did not run, for one of these reasons, up for their next attempt; returns their number."""
        with self.transaction():
            return sum(
                self._db.execute(
                    "UPDATE task SET attempt = attempt + 1, state = 'waiting', token = NULL, reason = NULL "
                    "WHERE state = 'not_run' AND reason = ?",
                    (reason,),
                ).rowcount
                for reason in dict.fromkeys(reasons)
            )

    def unassigned(self) -> list[int]:
        """Waiting tasks that belong to no job."""
        return [
            row[0]
            for row in self._db.execute("SELECT idx FROM task WHERE token IS NULL AND state = 'waiting' ORDER BY idx")
        ]

    def has_records(self) -> bool:
        """Whether a worker has told of a task."""
        return self._db.execute("SELECT 1 FROM task WHERE record IS NOT NULL LIMIT 1").fetchone() is not None

    def counts(self) -> dict[str, int]:
        """Number of tasks by state."""
        return dict(self._db.execute("SELECT state, count(*) FROM task GROUP BY state"))

    def tasks(self, *states: str) -> Iterator[tuple[int, int, str | None, str, str | None, str | None, str]]:
        """Index, attempt, token, state, reason, record and args of tasks in any of these states, or all."""
        where = f"WHERE state IN ({', '.join('?' * len(states))})" if states else ""
        yield from self._db.execute(
            f"SELECT idx, attempt, token, state, reason, record, args FROM task {where} ORDER BY idx",
            states,
        )


def _connect(file: Path) -> sqlite3.Connection:
    # Made private before SQLite can make it otherwise: the args of other people's tasks are in it.
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(file, timeout=30, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: what is journalled before an act is on disk before the act, also when the power goes.
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _lock(folder: Path) -> int:
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        host, pid = _owner(fd)
        os.close(fd)
        raise RunError(
            f"run {folder.name} is driven by another process (pid {pid} on {host}): let it go on, or end it first"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)
    return fd


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


def _owner(fd: int) -> tuple[str, int]:
    """Host and pid of the process that holds a lock."""
    pid, _blank, host = os.pread(fd, 300, 0).decode(errors="replace").strip().partition(" ")
    return host, int(pid) if pid.isdigit() else 0


def run_ids(state_dir: Path) -> list[str]:
    """The ids of all runs, oldest first."""
    folder = state_dir / "runs"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if _RUN_ID.fullmatch(entry.name))


def state_now(state: str, driver: tuple[str, int] | None) -> str:
    """What the journal's word for a run's state means, given who drives it."""
    return "interrupted" if state in ("planned", "driven") and driver is None else state


def is_driven(state_dir: Path, run_id: str) -> tuple[str, int] | None:
    """Host and pid of the process that drives a run, if there is one."""
    try:
        fd = os.open(state_dir / "runs" / run_id / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(fd)
    finally:
        os.close(fd)
    return None
