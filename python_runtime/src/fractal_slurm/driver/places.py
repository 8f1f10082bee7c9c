# SPDX-License-Identifier: BSD-3-Clause
"""Whether there is a place for a submission: which limits are reached, and whose turn the last places are.

Where runs of several users wait for a limit of all users, or come to it, a place is for the user who has the fewest
jobs in flight. Where all users have a limit on submissions, it is for the user who had the fewest in that span. Of
equals it is for the one whose last submission is the longest ago. So each user comes to as many as the others, and it
does not matter which process looks first, or whose job made the room. Of one user's runs the oldest comes first, by
their ids.

All that is asked of the file of :mod:`.ledger`, in a transaction of its.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import count_of
from ..limits import Scope, parse_rate

# So long a run that waits for a limit does not look again, at the least and at the most, in seconds. The first is for
# waits whose end is not known; the second, since a clock may jump.
LOOK_FIRST_S, _LOOK_LAST_S = 1.0, 30.0
# What a run wants is believed for so long after it was to look again: its process may have died, or be slow.
_WANTS_S = 15.0
# A place that was taken, and whose job's id nobody knows, counts as a job in flight for so long where SLURM does not
# show the job: its process died, or its sbatch hangs.
_UNANSWERED_S = 600.0
# A job that nobody has seen for so long counts no more: its cluster, or its driver, is gone.
UNSEEN_S = 86_400.0
# One run tries for so long, after a refusal of the site, then another may.
TRY_S = 90.0
# The file of an earlier version may be without these.
WANT = """\
CREATE TABLE IF NOT EXISTS want (
    run TEXT PRIMARY KEY,
    user TEXT NOT NULL,
    jobs INTEGER NOT NULL,   -- how many it would submit now
    until REAL NOT NULL      -- for how long that is believed
) WITHOUT ROWID
"""
# The same for the younger runs of the same user. A table of its own: an earlier version, which may use the file at the
# same time, knows the other one with its columns.
LINE = """\
CREATE TABLE IF NOT EXISTS line (
    run TEXT PRIMARY KEY,
    user TEXT NOT NULL,
    jobs INTEGER NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID
"""
LAST = "CREATE INDEX IF NOT EXISTS job_last ON job (user, at)"
# Jobs in flight by user, of all or of one. What was seen, or taken, before these times does not count.
_IN_FLIGHT = """\
SELECT user, count(*) FROM job WHERE gone IS NULL
AND ((job_id IS NOT NULL AND seen > :unseen)
OR (job_id IS NULL AND at > CASE WHEN shown THEN :unseen ELSE :unanswered END)) GROUP BY user
"""
_IN_FLIGHT_OF_ONE = _IN_FLIGHT.replace("GROUP BY", "AND user = :user GROUP BY")
_SUBMITTED = "FROM job WHERE at > :since"
_SUBMITTED_OF_ONE = f"{_SUBMITTED} AND user = :user"
_OLDER = "SELECT sum(jobs) FROM line WHERE user = :user AND run < :run AND until > :now AND until < :latest"
# What is noted of a run that one of the limits with these names keeps back.
_NOTE = {
    "limits.all_users.": "INSERT INTO want VALUES (?, ?, ?, ?)",
    "limits.": "INSERT INTO line VALUES (?, ?, ?, ?)",
}
_FORGET = ("DELETE FROM want WHERE run = ? OR until < ?", "DELETE FROM line WHERE run = ? OR until < ?")
_WANTED = "SELECT user, sum(jobs) FROM want WHERE user != :user AND until > :now AND until < :latest GROUP BY user"


@dataclass(frozen=True)
class Blocked:
    """Why nothing may be submitted now.

    Attributes:
        limit: Which limit it is, as the settings name it; empty for one of the site.
        words: What is waited for, a part of a sentence; of the site's limit, the words with which it refused.
        until: When it goes on, in seconds since the epoch; None where that is not known.
    """

    limit: str
    words: str
    until: float | None

    def look_s(self, now: float) -> float:
        """Seconds after which to look again."""
        left = LOOK_FIRST_S if self.until is None else self.until - now
        return min(max(0.0, left), _LOOK_LAST_S)


class _Room(NamedTuple):
    """One limit, and how far it is from being reached.

    Attributes:
        name: Which one it is.
        words: What it allows.
        free: How many may be submitted now.
        until: When it goes on, if none may and this is known.
    """

    name: str
    words: str
    free: int
    until: float | None


def in_flight(db: sqlite3.Connection, now: float, user: str = "") -> dict[str, int]:
    """How many jobs SLURM has or may have, by user; of one user, if one is given. Who has none may be missing."""
    values = {"unseen": now - UNSEEN_S, "unanswered": now - _UNANSWERED_S, "user": user}
    return dict(db.execute(_IN_FLIGHT_OF_ONE if user else _IN_FLIGHT, values).fetchall())


def blocked_by(
    db: sqlite3.Connection, now: float, user: str, run_id: str, scopes: Sequence[Scope], foreign: Mapping[str, int]
) -> Blocked | None:
    """What keeps a submission back, if something does: a limit of ours, one of the site, or another's turn.

    Args:
        db: The file, in a transaction.
        now: The time.
        user: Whose submission it is.
        run_id: The run.
        scopes: The limits that hold for the user.
        foreign: Jobs that users submitted without us, by user, where they count.
    """
    for scope in scopes:
        reached = [room for room in _rooms(db, now, scope, foreign) if room.free <= 0]
        if reached:
            room = max(reached, key=lambda room: room.until or 0.0)
            return _blocked(scope, room, "when a job ends" if room.until is None else f"at {clock(room.until)}")
    row = db.execute("SELECT until, words FROM full WHERE user = ?", (user,)).fetchone()
    if row is not None and now < row[0] <= now + TRY_S:
        return Blocked("", row[1], row[0])
    values = {"user": user, "run": run_id, "now": now, "latest": _latest(now)}
    older = db.execute(_OLDER, values).fetchone()[0] or 0 if scopes else 0
    for scope in scopes:
        left = older + (0 if scope.user else _left_to_others(db, now, user, scope, foreign))
        if left:
            room = min(_rooms(db, now, scope, foreign), key=lambda room: room.free)
            if room.free <= left:
                first = f"older runs of {user}" if room.free <= older else "users who have fewer"
                return _blocked(scope, room._replace(until=None), f"after {first}")
    return None


def note_want(db: sqlite3.Connection, now: float, user: str, run_id: str, more: int, blocked: Blocked | None) -> None:
    """Note what a run would submit, for which others are to leave places: other users, and its user's younger runs.

    Args:
        db: The file, in a transaction.
        now: The time.
        user: The user of the run.
        run_id: The run.
        more: How many more jobs it would submit now, after the one for which it just asked.
        blocked: What keeps that one back.
    """
    until = now + (blocked.look_s(now) if blocked is not None else 0.0) + _WANTS_S
    forget_want(db, now, run_id)
    for limits, statement in _NOTE.items():
        # What something else keeps back is no reason to leave places.
        jobs = more if blocked is None else more + 1 if blocked.limit.startswith(limits) else 0
        if jobs > 0:
            db.execute(statement, (run_id, user, jobs, until))


def forget_want(db: sqlite3.Connection, now: float, run_id: str) -> None:
    """Forget what a run would submit, so that nobody leaves places for it; and what was wanted too long ago.

    Args:
        db: The file, in a transaction.
        now: The time.
        run_id: The run.
    """
    for statement in _FORGET:
        db.execute(statement, (run_id, now))


def _latest(now: float) -> float:
    """When what a run wants now is no longer believed, at the latest: what ends later was noted by another clock."""
    return now + _LOOK_LAST_S + _WANTS_S + 1.0


def _left_to_others(db: sqlite3.Connection, now: float, user: str, scope: Scope, foreign: Mapping[str, int]) -> int:
    """How many of the places of all users are left to others, who come before a user."""
    values = {"user": user, "now": now, "latest": _latest(now)}
    wanted = db.execute(_WANTED, values).fetchall()
    if not wanted:
        return 0
    limits = scope.limits
    rate = parse_rate(limits.max_submissions or "")
    # One measure for all limits: with one for each, two users could wait for each other.
    if rate is not None or limits.min_submission_interval:
        since = now - (rate.seconds if rate is not None else limits.min_submission_interval or 0.0)
        had = dict(db.execute("SELECT user, count(*) FROM job WHERE at > ? GROUP BY user", (since,)).fetchall())
    else:
        had = in_flight(db, now)
        for other, jobs in foreign.items():
            had[other] = had.get(other, 0) + jobs
    left = 0
    for other, jobs in wanted:
        behind = had.get(user, 0) - had.get(other, 0)
        if behind == 0 and _last(db, other) < _last(db, user):
            behind = 1
        left += max(0, min(jobs, behind))
    return left


def _last(db: sqlite3.Connection, user: str) -> float:
    return float(db.execute("SELECT max(at) FROM job WHERE user = ?", (user,)).fetchone()[0] or 0.0)


def _rooms(db: sqlite3.Connection, now: float, scope: Scope, foreign: Mapping[str, int]) -> Iterator[_Room]:
    limits, user, whom = scope.limits, scope.user, scope.of_whom
    if most := limits.max_jobs_in_flight:
        others = {user: foreign.get(user, 0)} if user else foreign
        free = most - sum(in_flight(db, now, user).values()) - sum(others.values())
        yield _Room("max_jobs_in_flight", f"{count_of(most, 'job')} in flight for {whom}", free, None)
    rate = parse_rate(limits.max_submissions or "")
    if rate is not None:
        words = f"{count_of(rate.most, 'submission')} in {_span(rate.seconds)} for {whom}"
        yield _Room("max_submissions", words, *_free_in(db, now, user, rate.most, rate.seconds))
    if interval := limits.min_submission_interval:
        words = f"one submission in {interval:g} s for {whom}"
        yield _Room("min_submission_interval", words, *_free_in(db, now, user, 1, interval))


def _free_in(db: sqlite3.Connection, now: float, user: str, most: int, seconds: float) -> tuple[int, float | None]:
    """How many more submissions a sliding window has room for; and if none, when it has."""
    values = {"since": now - seconds, "user": user, "before": most - 1}
    submitted = _SUBMITTED_OF_ONE if user else _SUBMITTED
    free = most - int(db.execute(f"SELECT count(*) {submitted}", values).fetchone()[0])
    if free > 0:
        return free, None
    # The submission before which so many others came.
    (at,) = db.execute(f"SELECT at {submitted} ORDER BY at DESC LIMIT 1 OFFSET :before", values).fetchone()
    return free, at + seconds


def _blocked(scope: Scope, room: _Room, when: str) -> Blocked:
    name = scope.names[room.name]
    return Blocked(name, f"for our limit of {room.words} ({name}): it goes on {when}", room.until)


def clock(at: float) -> str:
    """A time of day, with its date if that is another day."""
    there = time.localtime(at)
    today = there[:3] == time.localtime(time.time())[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", there)


def _span(seconds: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds % length == 0:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
