# SPDX-License-Identifier: BSD-3-Clause
"""The time, for what runs share: a clock that is set makes nothing in the file older or younger than it is.

Times in the file are those of the wall clock, which somebody may set at any time. Since the start of the host another
clock runs that nobody can set. The file has by how much the wall clock is ahead of that one. If this has changed, the
wall clock was set, and all times in the file are moved with it. Over a restart of the host there is the wall clock
alone.
"""

from __future__ import annotations

import os
import sqlite3
import time
from functools import lru_cache
from pathlib import Path

# What two readings may differ by, in seconds, although no clock was set.
_STEP_S = 0.1
# The file of an earlier version may be without this.
CLOCK = "CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY, boot TEXT NOT NULL, ahead REAL NOT NULL)"
# All times of the wall clock in the file. A job's gone may be 0, which is no time.
_TIMES = (
    "UPDATE job SET at = at + :step, seen = seen + :step",
    "UPDATE job SET gone = gone + :step WHERE gone > 0",
    "UPDATE full SET until = until + :step",
    "UPDATE want SET until = until + :step",
    "UPDATE line SET until = until + :step",
)


@lru_cache(maxsize=1)
def boot() -> str:
    """Which start of this host it is: monotonic times of another one mean nothing. Empty where that is not known."""
    try:
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    try:
        # In another time namespace these clocks show another time.
        return f"{start} {os.stat('/proc/self/ns/time').st_ino}"
    except OSError:
        return start


def time_in(db: sqlite3.Connection) -> float:
    """The time now, after the times in the file were moved if the wall clock was set.

    Args:
        db: The file of :mod:`.ledger`, in a transaction that may write.
    """
    now, ahead = _read()
    row = db.execute("SELECT boot, ahead FROM clock").fetchone()
    is_same = row is not None and bool(boot()) and row[0] == boot()
    step = ahead - row[1] if is_same else 0.0
    if not is_same or abs(step) > _STEP_S:
        if step:
            for statement in _TIMES:
                db.execute(statement, {"step": step})
        db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?)", (boot(), ahead))
    if not is_same:
        # A clock that went back must not hold anybody up: what lies in the future was now at the latest.
        db.execute("UPDATE job SET at = :now WHERE at > :now", {"now": now})
        db.execute("UPDATE job SET seen = :now WHERE gone IS NULL AND seen > :now", {"now": now})
    return now


def _read() -> tuple[float, float]:
    """The wall clock, and by how much it is ahead of the clock that nobody can set."""
    while True:
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        now = time.time()
        took = time.clock_gettime(time.CLOCK_BOOTTIME) - before
        if took < _STEP_S / 2:  # else the process was stopped in between, and the two do not belong together
            return now, now - before - took / 2
