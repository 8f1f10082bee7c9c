# SPDX-License-Identifier: BSD-3-Clause
"""Who is told of many runs of one process: a terminal, a file, a program, or nobody.

A view of one run is called in that run's turns, which are in other threads than the rest. So what is printed, and what
the views share, is behind one lock.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

from ..driver.journal import Journal
from ..driver.model import TaskState
from ..errors import count_of, one_line
from ..report import span
from ..terminal import plain
from .common import say
from .following import Follower, Sight
from .live import Screen, can_live
from .views import Events, Quiet, View, line_of, pause_s, told_line

if TYPE_CHECKING:
    from rich.console import RenderableType

# Seconds between two drawings of the screen.
_DRAW_S = 1.0


class Member:
    """One run among many: what was seen of it last.

    Attributes:
        name: Its task's name, on one line.
        sight: How it was at the last look; None before the first.
        ended: How it ended; empty while it goes on.
    """

    def __init__(self, crowd: Crowd, follower: Follower) -> None:
        self._crowd = crowd
        self._follower = follower
        self.run_id = follower.run_id
        self.name = one_line(follower.task_name, 40)
        self.created = follower.created
        self.sight: Sight | None = None
        self.ended = ""
        self.last, self.last_at = "", 0.0

    def say(self, sentence: str) -> None:
        """Show a sentence for a person, with the run's name."""
        self._crowd.say(f"run {self.run_id} ({self.name}): {sentence}")

    def show(self, _progress: object = None) -> None:
        """Look at the run; it is shown with the others."""
        sight = self._follower.look()
        with self._crowd.lock:
            self.sight = sight

    def close(self) -> None:
        """Nothing is to be done: it goes on to stand among the others."""


class Crowd:
    """Shows many runs.

    Attributes:
        lock: Held while something is printed or changed.
        members: The runs, in order; none where nobody or a program looks.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.members: dict[str, Member] = {}

    def view_of(self, journal: Journal) -> View:
        """The view of one run; its methods are called in the run's turns."""
        member = Member(self, self._follower(journal))
        with self.lock:
            self.members[member.run_id] = member
        return member

    def _follower(self, journal: Journal) -> Follower:
        follower = Follower(journal, None)
        # As for one run: lines are worth no calls of sudo.
        follower.asks = False
        return follower

    def ended(self, run_id: str, words: str) -> None:
        """A run has ended, in these words."""
        with self.lock:
            member = self.members.get(run_id)
            if member is not None:
                member.ended = words
        self.say(f"run {run_id}{f' ({member.name})' if member else ''}: {words}")

    def say(self, sentence: str) -> None:
        """Show a sentence that is of no run alone."""
        with self.lock:
            say(sentence)

    def tick(self) -> None:
        """Print or draw what is new; called all the time, and seldom does something."""

    def close(self) -> None:
        """Show no more: something else follows."""


class CrowdQuiet(Crowd):
    """Nothing."""

    def view_of(self, _journal: Journal) -> View:
        """A view that shows nothing."""
        return Quiet()

    def say(self, sentence: str) -> None:
        """Print nothing."""

    def ended(self, run_id: str, words: str) -> None:
        """Print nothing."""


class CrowdEvents(Crowd):
    """An event a line, for programs; each names its run."""

    def view_of(self, journal: Journal) -> View:
        """The view of one run, with the same events as those of a single run."""
        return Events(Follower(journal, None), own=True)

    def ended(self, run_id: str, words: str) -> None:
        """The run's last event says it."""


class CrowdLines(Crowd):
    """A line a run every few seconds, if something changed with it; sentences as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()

    def tick(self) -> None:
        """Print a line for each run that has changed since its last one."""
        now = time.monotonic()
        pause = pause_s(now - self._began)
        with self.lock:
            for member in self.members.values():
                if member.sight is None or member.ended or now - member.last_at < pause:
                    continue
                line = line_of(member.sight)
                if line != member.last:
                    member.last, member.last_at = line, now
                    member.say(told_line(line, member.sight, member.created))


class CrowdLive(Crowd):
    """A row for each run, on a terminal.

    Args:
        hint: What the last line says that the reader can do.
    """

    def __init__(self, hint: str) -> None:
        super().__init__()
        self._hint = hint
        self._screen = Screen(sys.stderr)
        self._drawn_at = float("-inf")

    def _follower(self, journal: Journal) -> Follower:
        return Follower(journal, None)

    def say(self, sentence: str) -> None:
        """Keep a sentence for the lines below the runs."""
        with self.lock:
            self._screen.said.append(sentence)
            self._drawn_at = float("-inf")

    def tick(self) -> None:
        """Draw the screen anew, now and then."""
        now = time.monotonic()
        with self.lock:
            if now - self._drawn_at < _DRAW_S:
                return
            self._drawn_at = now
            self._screen.draw(self.frame)

    def close(self) -> None:
        """Give the screen back, and leave there what was said."""
        with self.lock:
            self._screen.close()

    def frame(self, width: int, height: int) -> RenderableType:
        """The whole view, no larger than the screen: the runs that go on first, the last sentences below them."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        def line(text: str, style: str = "") -> Text:
            return Text(plain(one_line(text, max(10, width))), style=style, overflow="ellipsis", no_wrap=True)

        said = list(self._screen.said)
        members = sorted(self.members.values(), key=lambda member: bool(member.ended))
        over = sum(bool(member.ended) for member in members)
        room = max(1, height - 3)
        for_lines = min(len(said), max(0, room // 3))
        shown = members[: max(1, room - for_lines - 1)]
        grid = Table(box=None, pad_edge=False, padding=(0, 1), show_header=True, header_style="dim")
        for name in ("run", "task", "tasks", "failed", "for"):
            right = name in ("tasks", "failed", "for")
            grid.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
        grid.add_column("state", ratio=1, no_wrap=True, overflow="ellipsis")
        for member in shown:
            sight = member.sight
            bad = sight.counts[TaskState.FAILED] + sight.counts[TaskState.NOT_RUN] if sight else 0
            grid.add_row(
                member.run_id,
                Text(plain(member.name), overflow="ellipsis"),
                f"{sight.done}/{sight.total}" if sight else "",
                Text(str(bad or ""), style="red"),
                span(((sight and sight.ended) or time.time()) - member.created),
                Text(plain(member.ended or (_state_words(sight) if sight else "waits for its turn"))),
            )
        parts: list[RenderableType] = [
            line(f"{count_of(len(members), 'run')}, {over} ended", "bold"),
            grid,
        ]
        if len(shown) < len(members):
            parts.append(line(f"and {len(members) - len(shown)} more runs", "dim"))
        parts += [line(sentence) for sentence in said[len(said) - for_lines :]]
        return Group(*parts, line(self._hint, "dim"))


def _state_words(sight: Sight) -> str:
    """What a run does now: what it waits for, or its jobs."""
    if sight.waits:
        return f"waits {one_line(sight.waits[0].words)}"
    return line_of(sight).partition("; ")[2]


def crowd_of(*, quiet: bool, json_lines: bool, hint: str) -> Crowd:
    """What shows many runs, as it fits where the output goes."""
    if quiet:
        return CrowdQuiet()
    if json_lines:
        return CrowdEvents()
    return CrowdLive(hint) if can_live(sys.stderr) else CrowdLines()
