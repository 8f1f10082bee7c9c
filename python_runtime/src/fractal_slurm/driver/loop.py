# SPDX-License-Identifier: BSD-3-Clause
"""Turns for many runs, in a number of threads that does not grow with the runs.

A turn is one round of a run's driver: submit, look, collect. It calls sudo as the run's user, and may take as long as
that user's side makes it. So each user has one turn at a time, and users that wait go before those just served.

Users whose calls hang hold back nobody else. A turn that lasts for long counts no more: another thread takes up what
that one would have done. And users whose last turn lasted very long share half of the threads.

Of one user's runs the oldest goes first. Where it always has more to do, such as 1,000 jobs to submit, every second
turn goes to the run that has waited longest, once that is some time: so results of the others are read, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

# Threads at the most whose turns count, beside one that may watch; and with those in turns that hang.
MOST_THREADS, _MOST_IN_ALL = 15, 63
# A thread that had nothing to do for so long ends.
_IDLE_S = 10.0
# A run that has waited so long for its turn, in seconds, goes before an older one of the same user, now and then.
_LONG_S = 2.0
# A turn that lasts for so long, in seconds, counts no more: some wait longer than _LONG_S for others to submit. A user
# whose last turn took so long as the second is slow: half of the threads are for all of these together.
_HANGS_S, _SLOW_S = 5.0, 10.0


@dataclass(eq=False)
class Member:
    """One run in the loop.

    Attributes:
        user: Whose turn it is. One user has one turn at a time.
        turn: Does one round. It returns the monotonic time of the next, or None when there is none.
        due: When its next turn is.
        woken: Whether it is to have another turn at once, whatever the one that is on returns.
        since: When it began to wait for its next turn.
    """

    user: str
    turn: Callable[[], float | None]
    due: float = field(default_factory=time.monotonic)
    woken: bool = False
    since: float = field(default_factory=time.monotonic)


class Loop:
    """Gives its members their turns until they need none.

    Args:
        most_threads: Threads at the most, beside those in turns that hang. There are only as many as have something to
            do.
    """

    def __init__(self, most_threads: int = MOST_THREADS) -> None:
        self._most_threads = most_threads
        self._changed = threading.Condition()
        self._members: list[Member] = []  # the oldest first
        self._busy: dict[str, float] = {}  # users who have a turn: since when
        self._slow: set[str] = set()
        self._served: dict[str, float] = {}  # when each user had the last turn
        self._overtaken: set[str] = set()  # users whose oldest run goes next, since another went before it
        self._threads = self._idle = 0
        self._is_watched = False  # while all threads are taken, another one sees when there is room for one more
        self._watch_until = float("inf")  # when an idle thread sees what becomes due; the others sleep until called

    def add(self, user: str, turn: Callable[[], float | None]) -> Member:
        """Take another run in; its first turn is due at once.

        Args:
            user: Whose run it is.
            turn: See :class:`Member`. It raises nothing.
        """
        member = Member(user, turn)
        with self._changed:
            self._members.append(member)
            self._start_thread()
            self._changed.notify()
        return member

    def wake(self, member: Member) -> None:
        """Have a turn at once: something changed."""
        with self._changed:
            member.due, member.woken = time.monotonic(), True
            self._start_thread()
            self._changed.notify()

    def threads(self) -> int:
        """How many threads take turns at the moment."""
        return self._threads

    def _start_thread(self) -> None:
        """Have one more thread, if none waits for something to do."""
        most = self._most_threads + len(self._busy) - len(self._counted(time.monotonic()))
        if self._idle == 0 and self._threads < min(most, self._most_threads + _MOST_IN_ALL - MOST_THREADS):
            self._threads += 1
            threading.Thread(target=self._work, name=f"fractal-slurm loop {self._threads}", daemon=True).start()

    def _next(self, now: float) -> Member | None:
        """Whose turn it is: of the user who was served the longest ago, the oldest run, or one that waited long."""
        if len(self._counted(now)) >= self._most_threads:
            return None
        due = [member for member in self._free() if member.due <= now]
        if not due:
            return None
        user = min(due, key=lambda member: self._served.get(member.user, 0.0)).user
        own = [member for member in due if member.user == user]
        woken = next((member for member in own if member.woken), None)
        if woken is not None:
            return woken
        longest = min(own, key=lambda member: max(member.due, member.since))
        is_long = now - max(longest.due, longest.since) > _LONG_S
        return longest if is_long and user not in self._overtaken else own[0]

    def _counted(self, now: float) -> list[float]:
        """When the turns began that count: those that have not lasted for long."""
        return [began for began in self._busy.values() if now - began < _HANGS_S]

    def _free(self) -> list[Member]:
        """The members that may have a turn as far as their users go."""
        too_many = sum(user in self._slow for user in self._busy) >= max(1, self._most_threads // 2)
        not_now = self._slow.union(self._busy) if too_many else self._busy
        return [member for member in self._members if member.user not in not_now]

    def _next_look(self, now: float) -> float:
        """When something is due, or there is room for it because a turn lasts for long."""
        counted = self._counted(now)
        if len(counted) >= self._most_threads:
            return min(counted) + _HANGS_S
        return min((member.due for member in self._free()), default=float("inf"))

    def _note_order(self, member: Member, now: float) -> None:
        """Remember whether a run goes before an older one of its user that is due."""
        oldest = next(other for other in self._members if other.user == member.user and other.due <= now)
        if oldest is member:
            self._overtaken.discard(member.user)
        else:
            self._overtaken.add(member.user)

    def _sleep(self, now: float, due: float) -> None:
        """Be idle until something is due, or another idle thread sees to that; with the lock."""
        watches = due < self._watch_until
        if watches:
            self._watch_until = due
        self._idle += 1
        self._changed.wait(min(max(0.0, due - now), _IDLE_S) if watches else _IDLE_S)
        self._idle -= 1
        if watches and self._watch_until == due:
            self._watch_until = float("inf")

    def _watch(self) -> None:
        """While all threads are taken: see to it that another takes up what is due once their turns last for long."""
        with self._changed:
            while self._members and not self._idle:
                now = time.monotonic()
                if self._next(now) is not None:
                    self._start_thread()
                self._changed.wait(min(max(0.01, self._next_look(now) - now), _LONG_S))
            self._is_watched = False
            self._changed.notify()  # what was meant for an idle thread

    def _work(self) -> None:
        idle_since = time.monotonic()
        while True:
            with self._changed:
                while (member := self._next(time.monotonic())) is None:
                    now = time.monotonic()
                    # One thread stays, to see what becomes due.
                    if not self._members or (self._idle and now - idle_since > _IDLE_S):
                        self._threads -= 1
                        self._changed.notify()
                        return
                    self._sleep(now, self._next_look(now))
                began = time.monotonic()
                self._note_order(member, began)
                self._busy[member.user] = began
                member.woken = False
                if self._idle == 0 and self._free():  # this turn may hang: somebody must see what becomes due
                    self._start_thread()
                    if self._threads >= self._most_threads and not self._is_watched:
                        self._is_watched = True
                        threading.Thread(target=self._watch, name="fractal-slurm loop", daemon=True).start()
                self._changed.notify()  # another takes up the watch
            due = member.turn()
            with self._changed:
                del self._busy[member.user]
                self._served[member.user] = idle_since = member.since = time.monotonic()
                (self._slow.add if idle_since - began > _SLOW_S else self._slow.discard)(member.user)
                if due is None:
                    self._members.remove(member)
                    if not any(other.user == member.user for other in self._members):
                        del self._served[member.user]
                        self._overtaken.discard(member.user)
                        self._slow.discard(member.user)
                elif not member.woken:
                    member.due = due
                self._changed.notify()


class Gate:
    """Lets so many threads in at once; one that is in for long counts no more, since it may hang as its user wants.

    Args:
        most: Threads that are in at once.
        long_s: Seconds after which a thread counts no more.
    """

    def __init__(self, most: int, long_s: float = _LONG_S) -> None:
        self._most = most
        self._long_s = long_s
        self._changed = threading.Condition()
        self._inside: dict[int, float] = {}  # by thread: when it came in

    def __enter__(self) -> None:
        with self._changed:
            while (left := self._wait_s(time.monotonic())) > 0:
                self._changed.wait(left)
            self._inside[threading.get_ident()] = time.monotonic()

    def __exit__(self, *_: object) -> None:
        with self._changed:
            del self._inside[threading.get_ident()]
            self._changed.notify()

    def _wait_s(self, now: float) -> float:
        """Seconds until there is room, if nobody goes out before; 0 if there is room."""
        lefts = sorted(self._long_s - (now - began) for began in self._inside.values())
        counted = [left for left in lefts if left > 0]
        return counted[len(counted) - self._most] if len(counted) >= self._most else 0.0
