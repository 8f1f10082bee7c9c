# SPDX-License-Identifier: BSD-3-Clause
"""What the runs of all processes of one host share: what was submitted, whom the site told to wait, squeue's answer.

It is a file of SQLite in the state folder, one for each host and cluster. A process that dies in the midst of a
transaction leaves nothing of it, and the kernel gives its lock back. No transaction outlasts a few statements: nothing
is held while a command of SLURM runs.

It decides on no task: whatever is lost with it, each run's own journal has all that its driver needs.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from weakref import WeakValueDictionary

from ..cluster.commands import SlurmJob
from ..cluster.queue import Answer, Question
from ..errors import ClusterError, one_line
from ..limits import LONGEST_SPAN_S, Scope
from ..settings import Settings
from . import clocks, places
from .clocks import boot
from .journal import make_private
from .lock import check_locks, is_driven
from .places import TRY_S, UNSEEN_S, Blocked

# Seconds for which a process waits for another that writes; and after that, does not wait again.
_BUSY_S, _AWAY_S = 5.0, 10.0
# How often another file is tried that came in the place of one that was open, and seconds between two tries.
_AGAIN, _AGAIN_S = 10, 0.1
# A place that was taken, and whose job's id nobody knows: its process died, or its sbatch hangs. From the first age on,
# SLURM is asked for a job of that name. From the second on, there is none if SLURM has none and nobody drives the run.
_ASK_BY_NAME_S, _NEVER_CAME_S = 10.0, 60.0
# Of a job that is gone SLURM is asked for so long, for a driver that has not seen it.
_GONE_S = 600.0
# How often it is noted that a job was seen.
_SEEN_EVERY_S = 3_600.0
# The longest time for which one process may be the one who asks, and the longest answer that is shared, in bytes.
_MOST_HOLD_S, _MOST_SAID = 60.0, 1 << 23
# Pauses after a refusal of the site grow from the first to the second.
FULL_FIRST_S, FULL_LAST_S = 2.0, 60.0
# The answer, if it was asked for after one monotonic time of this start of the host, and not after another.
_ANSWERED = "FROM answer WHERE boot = ? AND asked > ? AND asked <= ?"
_JOB_FIELDS = [field.name for field in fields(SlurmJob)]
_FORMAT = 1
_TABLES = f"""\
CREATE TABLE job (
    token TEXT PRIMARY KEY,
    user TEXT NOT NULL,
    run TEXT NOT NULL,
    at REAL NOT NULL,        -- when its place was taken; later, when SLURM took it
    seen REAL NOT NULL,      -- when somebody knew last that it is there
    job_id TEXT,
    gone REAL,               -- when it was seen to be over
    shown INTEGER NOT NULL   -- whether SLURM shows it to this account
) WITHOUT ROWID;
CREATE INDEX job_at ON job (at);
CREATE INDEX job_there ON job (user) WHERE gone IS NULL;
CREATE TABLE full (user TEXT PRIMARY KEY, until REAL NOT NULL, pause REAL NOT NULL, words TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE asking (one INTEGER PRIMARY KEY, boot TEXT NOT NULL, until REAL NOT NULL);
CREATE TABLE answer (one INTEGER PRIMARY KEY, boot TEXT NOT NULL, asked REAL NOT NULL, said BLOB NOT NULL);
PRAGMA user_version = {_FORMAT};
"""


class NotShared(ClusterError):
    """What runs share can't be read or written."""


class Ledger:
    """The shared file.

    Args:
        file: Its path. It is made, private, with the first use.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.opened = 0  # how often a file was opened: another number may mean another file
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._pid = 0
        self._which: tuple[int, int] | None = None  # the file that is open, by device and inode
        self._away: tuple[float, str] = (0.0, "")  # until when another process is taken to hold it, and the words

    # -- submissions

    def reserve(
        self,
        token: str,
        user: str,
        run_id: str,
        scopes: Sequence[Scope],
        *,
        more: int = 0,
        shown: bool = True,
        foreign: Mapping[str, int] | None = None,
    ) -> Blocked | None:
        """Take a place for a submission, before sbatch is called. Returns why there is none, if so.

        A place that is not given back counts as a submission, whatever became of it. For who gets the last places, see
        :mod:`.places`.

        Args:
            token: The job's token.
            user: Whose job it becomes.
            run_id: The run.
            scopes: The limits that hold for the user.
            more: How many more jobs the run would submit now, after this one.
            shown: Whether SLURM shows the job to this account.
            foreign: Jobs that users submitted without us, by user; None where they do not count.

        Raises:
            NotShared: The file can't be used. Nothing was taken.
        """
        with self._write() as (db, now):
            blocked = places.blocked_by(db, now, user, run_id, scopes, foreign or {})
            if scopes:
                places.note_want(db, now, user, run_id, more, blocked)
            if blocked is not None:
                return blocked
            row = db.execute("SELECT 1 FROM full WHERE user = ?", (user,)).fetchone()
            if row is not None:
                # This run tries; the others wait for what it is told.
                db.execute("UPDATE full SET until = ? WHERE user = ?", (now + TRY_S, user))
            db.execute(
                "INSERT OR REPLACE INTO job (token, user, run, at, seen, shown) VALUES (?, ?, ?, ?, ?, ?)",
                (token, user, run_id, now, now, shown),
            )
            old = now - LONGEST_SPAN_S - _GONE_S
            db.execute("DELETE FROM job WHERE at < ? AND (gone IS NOT NULL OR seen < ?)", (old, old))
        return None

    def accepted(self, token: str, job_id: str, user: str) -> None:
        """SLURM took the job: what was full for its user has room.

        Raises:
            NotShared: The file can't be used.
        """
        with self._write() as (db, now):
            # Its time is that of the answer: SLURM's own is between the two.
            db.execute("UPDATE job SET job_id = ?, at = ?, seen = ? WHERE token = ?", (job_id, now, now, token))
            db.execute("DELETE FROM full WHERE user = ?", (user,))

    def give_back(self, token: str, user: str) -> None:
        """There is certainly no job: its place is free, and whoever waits for what this try is told may try.

        Raises:
            NotShared: The file can't be used.
        """
        with self._write() as (db, now):
            # What its run wants has to wait: nobody is to wait for that.
            row = db.execute("SELECT run FROM job WHERE token = ?", (token,)).fetchone()
            if row is not None:
                places.forget_want(db, now, row[0])
            db.execute("DELETE FROM job WHERE token = ? AND job_id IS NULL", (token,))
            _there_is_room(db, now, user)

    def withdraw(self, run_id: str) -> None:
        """A run that may have asked for places submits nothing more: nobody is to wait for it.

        Raises:
            NotShared: The file can't be used.
        """
        with self._write() as (db, now):
            places.forget_want(db, now, run_id)

    def refused(self, user: str, words: str) -> float:
        """The site's limit for a user is reached: nobody tries for a while, longer each time. Returns the seconds.

        Raises:
            NotShared: The file can't be used.
        """
        with self._write() as (db, now):
            row = db.execute("SELECT pause FROM full WHERE user = ?", (user,)).fetchone()
            pause = min(FULL_LAST_S, max(FULL_FIRST_S, row[0] * 1.5 if row else 0.0))
            db.execute("INSERT OR REPLACE INTO full VALUES (?, ?, ?, ?)", (user, now + pause, pause, one_line(words)))
        return float(pause)

    def keep(self, user: str, run_id: str, jobs: Mapping[str, tuple[str | None, float]], *, shown: bool = True) -> None:
        """Bring the jobs of a run up to date, as its journal has them.

        Args:
            user: Whose jobs they are.
            run_id: The run.
            jobs: Token to id and time of submission of all that SLURM has or may have now.
            shown: Whether SLURM shows them to this account.

        Raises:
            NotShared: The file can't be used.
        """
        with self._write() as (db, now):
            sql = "SELECT token FROM job WHERE run = ? AND (gone IS NULL OR gone > 0)"
            known = [token for (token,) in db.execute(sql, (run_id,)).fetchall()]
            for token, (job_id, at) in jobs.items():
                db.execute(
                    "INSERT OR IGNORE INTO job (token, user, run, at, seen, shown) VALUES (?, ?, ?, ?, ?, ?)",
                    (token, user, run_id, min(at, now), now, shown),
                )
                db.execute(
                    "UPDATE job SET job_id = coalesce(?, job_id), seen = ?, shown = ? WHERE token = ?",
                    (job_id, now, shown, token),
                )
            ended = [token for token in known if token not in jobs]
            # 0: its driver has seen it, so nobody needs to ask for it any more.
            db.executemany("UPDATE job SET gone = 0 WHERE token = ?", ((token,) for token in ended))
            if ended:
                _there_is_room(db, now, user)

    def in_flight(self, user: str = "") -> int:
        """How many jobs of a user SLURM has or may have; of all users, if none is given.

        Raises:
            NotShared: The file can't be used.
        """
        with self._write() as (db, now):
            return sum(places.in_flight(db, now, user).values())

    # -- squeue's answers

    def answer(self, after: float) -> Answer | None:
        """The newest answer of squeue's, if it was asked for after a monotonic time.

        Raises:
            NotShared: The file can't be used.
        """
        with self._use() as db:
            row = db.execute(
                f"SELECT said {_ANSWERED}",
                (boot(), after, time.monotonic()),
            ).fetchone()
        return _answer_of(row[0]) if row is not None else None

    def claim(self, hold_s: float, seen: float) -> Question | None:
        """Be the one who asks for all, for so many seconds; None if another process is, or just was.

        Args:
            hold_s: For so many seconds the others wait.
            seen: The monotonic time of the answer that was seen last. A newer one may come before this call has the
                file.

        Raises:
            NotShared: The file can't be used.
        """
        at = time.monotonic()
        with self._write() as (db, now):
            if db.execute(f"SELECT 1 {_ANSWERED}", (boot(), seen, time.monotonic())).fetchone() is not None:
                return None
            row = db.execute("SELECT until FROM asking WHERE boot = ?", (boot(),)).fetchone()
            if row is not None and at < row[0] <= at + _MOST_HOLD_S:
                return None
            db.execute("INSERT OR REPLACE INTO asking VALUES (1, ?, ?)", (boot(), at + min(hold_s, _MOST_HOLD_S)))
            rows = db.execute(
                "SELECT job_id, token, user, gone IS NULL AND at < ? FROM job "
                "WHERE shown AND (gone IS NULL OR gone > ?) AND seen > ?",
                (now - _ASK_BY_NAME_S, now - _GONE_S, now - UNSEEN_S),
            ).fetchall()
        return Question(
            job_ids=frozenset(row[0] for row in rows if row[0] is not None),
            tokens={row[1]: row[2] for row in rows if row[0] is None},
            users=frozenset(row[2] for row in rows),
            unsure=frozenset(row[2] for row in rows if row[0] is None and row[3]),
        )

    def publish(self, answer: Answer) -> None:
        """Let others have an answer, and learn from it which jobs are over.

        Raises:
            NotShared: The file can't be used.
        """
        said = _text_of(answer)
        live = {job_id for job_id, job in answer.states.items() if not job.is_final}
        with self._write() as (db, now):
            db.execute("DELETE FROM asking")
            if len(said) > _MOST_SAID:
                return  # the others ask themselves
            row = db.execute("SELECT asked FROM answer WHERE boot = ?", (boot(),)).fetchone()
            if row is not None and answer.asked_at < row[0] <= time.monotonic():
                return  # somebody was faster
            db.execute("INSERT OR REPLACE INTO answer VALUES (1, ?, ?, ?)", (boot(), answer.asked_at, said))
            if answer.trouble:
                return
            for token in answer.looked_for:
                self._note_by_name(db, now, token, answer.named.get(token))
            sql = "SELECT token, user, job_id, seen, gone FROM job WHERE shown AND (gone IS NULL OR gone > 0)"
            for token, user, job_id, seen, gone in db.execute(sql).fetchall():
                if job_id not in answer.asked:
                    continue
                if job_id not in live and gone is None:
                    db.execute("UPDATE job SET gone = ? WHERE token = ?", (now, token))
                    _there_is_room(db, now, user)
                elif job_id in live and (gone is not None or seen < now - _SEEN_EVERY_S):
                    db.execute("UPDATE job SET gone = NULL, seen = ? WHERE token = ?", (now, token))

    def _note_by_name(self, db: sqlite3.Connection, now: float, token: str, job_id: str | None) -> None:
        """SLURM was asked for a job by its name, since nobody knew its id: note it; or that there is certainly none."""
        if job_id is not None:
            sql = "UPDATE job SET job_id = ?, seen = ? WHERE token = ? AND job_id IS NULL"
            db.execute(sql, (job_id, now, token))
            return
        sql = "SELECT run, user FROM job WHERE token = ? AND job_id IS NULL AND gone IS NULL AND at < ?"
        row = db.execute(sql, (token, now - _NEVER_CAME_S)).fetchone()
        if row is not None and is_driven(self.file.parent.parent, row[0]) is None:
            db.execute("UPDATE job SET gone = ? WHERE token = ?", (now, token))
            _there_is_room(db, now, row[1])

    # -- the file

    @contextlib.contextmanager
    def _write(self) -> Iterator[tuple[sqlite3.Connection, float]]:
        """One transaction. Gives the connection, and the time now."""
        with self._use() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db, clocks.time_in(db)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time; what is wrong with the file, in words."""
        with self._lock:
            until, words = self._away
            if time.monotonic() < until <= time.monotonic() + _AWAY_S:
                raise NotShared(words)
            try:
                yield self._connection()
            # Values of another type than ours come of damage.
            except (OSError, sqlite3.Error, TypeError, ValueError) as error:
                cause = _cause(error)
                if cause != _held():
                    self._forget()  # the next use begins with the file that is there then
                words = f"what runs share in {self.file} can't be used: {cause}; see state_dir in our settings"
                self._away = (time.monotonic() + _AWAY_S if cause == _held() else 0.0, words)
                raise NotShared(words) from None

    def _connection(self) -> sqlite3.Connection:
        # A process that was forked must not use the connection of the other. And a file that was moved away, or
        # emptied, is no longer what the others share.
        if self._db is None or self._pid != os.getpid() or self._which != _which(self.file):
            self._forget()
            self._db = self._open_again() if self.opened else _open(self.file)
            self._pid, self._which = os.getpid(), _which(self.file)
            self.opened += 1
        return self._db

    def _open_again(self) -> sqlite3.Connection:
        """Open another file of the name: for an instant, others still use what lies beside the one of before."""
        for _turn in range(_AGAIN):
            try:
                return _open(self.file)
            except sqlite3.OperationalError as error:
                if "disk I/O error" not in str(error):
                    raise
            time.sleep(_AGAIN_S)
        return _open(self.file)

    def _forget(self) -> None:
        if self._db is not None and self._pid == os.getpid():
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = None


def _text_of(answer: Answer) -> bytes:
    """An answer as the file has it."""
    states = [[getattr(job, name) for name in _JOB_FIELDS] for job in answer.states.values()]
    said = {**vars(answer), "asked": sorted(answer.asked), "states": states, "foreign": dict(answer.foreign)}
    for name in ("named", "looked_for"):  # the ledger has that already
        del said[name]
    return json.dumps(said, separators=(",", ":")).encode()


def _answer_of(said: bytes) -> Answer | None:
    """The answer in the file; None if it is none of ours."""
    try:
        found = json.loads(said)
        jobs = [SlurmJob(*job) for job in found["states"]]
        states = {job.job_id: job for job in jobs}
        answer = Answer(**{**found, "asked": frozenset(found["asked"]), "states": states})
        return answer if isinstance(answer.asked_at, float) and answer.asked_at < float("inf") else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _open(file: Path) -> sqlite3.Connection:
    if not file.parent.exists():
        with contextlib.suppress(FileExistsError):
            make_private(file.parent)
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        _check_ours(os.fstat(fd), stat.S_ISREG, "file")
        check_locks(fd)
    finally:
        os.close(fd)
    _check_ours(os.stat(file.parent), stat.S_ISDIR, "folder")
    db = sqlite3.connect(file, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        # What the last seconds before a power cut added may be lost; the journals of the runs have it.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _TABLES.split(";\n"):
                if statement.strip():
                    db.execute(statement)
        if version in (0, _FORMAT):
            for statement in (places.WANT, places.LINE, places.LAST, clocks.CLOCK):
                db.execute(statement)
        db.execute("COMMIT")
        if version not in (0, _FORMAT):
            raise sqlite3.DatabaseError(f"it has format {version}, of another version of fractal-slurm")
    except BaseException:
        db.close()
        raise
    return db


def _which(file: Path) -> tuple[int, int] | None:
    """Which file has this name, by device and inode; None if it has nothing in it, or is not there."""
    try:
        status = os.lstat(file)
    except FileNotFoundError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None


def _check_ours(status: os.stat_result, is_right: Callable[[int], bool], what: str) -> None:
    """Whoever else could write there would tell us which jobs are over.

    Raises:
        PermissionError: It is not our own, others may write in it, or it is something else.
    """
    if not is_right(status.st_mode):
        raise PermissionError(errno.EPERM, f"it is no {what}")
    if os.geteuid() not in (0, status.st_uid) or status.st_mode & 0o022:
        raise PermissionError(
            errno.EPERM,
            f"the {what} belongs to the uid {status.st_uid}, with mode {stat.S_IMODE(status.st_mode):o}; one that "
            "belongs to this account, and that no other may write in, is allowed",
        )


def _held() -> str:
    return f"another process holds it for over {_BUSY_S:g} s"


def _cause(error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if "database is locked" in words or "busy" in words:
        return _held()
    has_none = getattr(error, "errno", 0) == errno.ENOLCK
    if has_none:
        words = os.strerror(errno.ENOLCK)
    if has_none or "disk I/O error" in words or "locking protocol" in words:
        return f"{one_line(words)}; a file system that has no locks, such as some NFS, is no place for it"
    is_odd = re.search(r"malformed|not a database|no such (?:table|column)|has no column", words) is not None
    if is_odd or isinstance(error, (TypeError, ValueError)):
        beside = "with the two files beside it that begin with its name"
        return f"it is damaged ({one_line(words)}): move it away, {beside}, and the runs that are driven make another"
    return one_line(words)


def _there_is_room(db: sqlite3.Connection, now: float, user: str) -> None:
    """Whoever waits since the site refused a job of a user may try."""
    db.execute("UPDATE full SET until = min(until, ?) WHERE user = ?", (now, user))


_ledgers: WeakValueDictionary[Path, Ledger] = WeakValueDictionary()
_ledgers_lock = threading.Lock()


def ledger_of(settings: Settings) -> Ledger:
    """The ledger of this host and cluster; the same object for all runs of a process."""
    cluster = f"{settings.bin_dir()}\n{os.environ.get('SLURM_CONF', '')}"
    host = re.sub(r"[^A-Za-z0-9.-]", "_", os.uname().nodename)[:200] or "host"
    name = f"{host}-{hashlib.sha256(cluster.encode(errors='replace')).hexdigest()[:8]}.sqlite"
    file = settings.state_path() / "shared" / name
    with _ledgers_lock:
        ledger = _ledgers.get(file)
        if ledger is None:
            ledger = _ledgers[file] = Ledger(file)
        return ledger
