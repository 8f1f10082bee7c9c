# SPDX-License-Identifier: BSD-3-Clause
"""The tables of a journal, and how an older journal becomes one of today.

The number of the schema stands in the journal (``PRAGMA user_version``). It goes up with each change that an older
version of the runtime could not read, or would read wrongly; :data:`_STEPS` then gets one more step.

What only looks at a journal reads an older one as it is: a step may add tables, columns and values that have
defaults, and no more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from ..errors import RunError
from .model import JobState

VERSION = 3
# The first version that tells which tasks changed.
MOVES_SINCE = 3
_OLDEST = 1
# Which tasks changed their state, in this order: whoever looks again and again reads on from where it was.
_MOVED = "CREATE TABLE moved (seq INTEGER PRIMARY KEY, idx INTEGER NOT NULL)"
_TABLES = f"""\
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
{_MOVED};
CREATE TABLE event (at REAL NOT NULL, what TEXT NOT NULL, subject TEXT NOT NULL, detail TEXT NOT NULL);
"""


def make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables of a new journal."""
    connection.executescript(f"{_TABLES}PRAGMA user_version = {VERSION};")


def version_of(connection: sqlite3.Connection) -> int:
    """The number of a journal's schema."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def check_version(version: int, run_id: str) -> None:
    """Accept a journal's schema, or one from which it can be brought up to date.

    Raises:
        RunError: It is of a version of the runtime that this one does not know.
    """
    if not _OLDEST <= version <= VERSION:
        advice = "install that version or a newer one" if version > VERSION else "use the version that began the run"
        raise RunError(
            f"the journal of run {run_id} has format {version}, of another version of fractal-slurm; this one reads "
            f"formats {_OLDEST} to {VERSION}: {advice}. Nothing was changed"
        )


def bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Take a journal, step by step, to the schema of today. In one transaction of the caller's: all or nothing."""
    for version in range(version_of(connection), VERSION):
        _STEPS[version](connection)
        connection.execute(f"PRAGMA user_version = {version + 1}")


def _from_1(connection: sqlite3.Connection) -> None:
    """Version 1 did not always say whether the run's folder was made: with the first submission it was."""
    (submitted,) = connection.execute("SELECT count(*) FROM job WHERE state <> ?", (JobState.PLANNED,)).fetchone()
    connection.execute("INSERT OR IGNORE INTO run VALUES ('folder_made', ?)", ("true" if submitted else "false",))


def _from_2(connection: sqlite3.Connection) -> None:
    """Version 2 did not tell which tasks changed."""
    connection.execute(_MOVED)


# By the version that it starts from: a step to the next one.
_STEPS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _from_1, 2: _from_2}
