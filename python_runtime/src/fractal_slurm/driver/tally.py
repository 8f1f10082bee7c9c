# SPDX-License-Identifier: BSD-3-Clause
"""How many tasks of a run are in which state, at one look after the other. What did not change is not read again."""

from __future__ import annotations

from collections.abc import Sequence

from .journal import Journal
from .model import FINAL, TaskState

_STATES = tuple(TaskState)
_CODES = {state: code for code, state in enumerate(_STATES)}
# SQLite takes no more than 999 values in a statement, in its older versions.
_MOST_AT_ONCE = 500
_FINAL = frozenset(_CODES[state] for state in FINAL)


class Tally:
    """Counts the tasks of a run; for a driver, and for whoever looks at a run of another.

    It holds a byte for each task. Where the journal does not tell what changed, it reads all of them each time.

    Args:
        journal: The run's journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._codes = bytearray()
        self._counts = [0] * len(_STATES)
        self._done: dict[str, int] = {}
        self._mark = 0
        self._undone = -1

    def counts(self) -> dict[TaskState, int]:
        """Number of tasks by state; states in which there is none are there, too."""
        if not self._look():
            return self._journal.counts()
        return dict(zip(_STATES, self._counts, strict=True))

    def ended_of(self, tokens: Sequence[str]) -> dict[str, int]:
        """Number of tasks of each of these jobs that have an end."""
        if not self._look():
            return self._count_ended(tokens)
        new = [token for token in tokens if token not in self._done]
        if new:
            # The tasks and the mark belong together: what changes meanwhile is told at the next look.
            with self._journal.snapshot():
                self._look()
                self._done |= self._count_ended(new)
        return {token: self._done.get(token, 0) for token in tokens}

    def _count_ended(self, tokens: Sequence[str]) -> dict[str, int]:
        found = dict.fromkeys(tokens, 0)
        for first in range(0, len(tokens), _MOST_AT_ONCE):
            found |= self._journal.ended_of(tokens[first : first + _MOST_AT_ONCE])
        return found

    def _look(self) -> bool:
        """Read what changed. Returns whether the journal tells of it."""
        if not self._codes or self._undone != self._journal.undone:
            return self._begin()
        moves, self._mark = self._journal.moves(self._mark)
        for index, state, token in moves:
            if index >= len(self._codes):
                continue  # the journal is damaged
            before, code = self._codes[index], _CODES[state]
            if before == code:
                continue
            self._codes[index] = code
            self._counts[before] -= 1
            self._counts[code] += 1
            if code in _FINAL and before not in _FINAL:
                if token in self._done:
                    self._done[token] += 1
            elif before in _FINAL:
                self._done.clear()  # it was set up again, and has no token any more
        return True

    def _begin(self) -> bool:
        journal = self._journal
        if not journal.tells_moves():
            return False
        with journal.snapshot():
            self._undone = journal.undone
            self._mark = journal.last_move()
            counts = journal.counts()
            total = sum(counts.values())
            codes = bytearray([_CODES[TaskState.WAITING]]) * total
            for state, code in _CODES.items():
                if state is not TaskState.WAITING and counts[state]:
                    for index in journal.indices(state):
                        if index >= total:
                            return False  # the journal is damaged
                        codes[index] = code
        self._codes, self._counts, self._done = codes, [counts[state] for state in _STATES], {}
        return bool(codes)
