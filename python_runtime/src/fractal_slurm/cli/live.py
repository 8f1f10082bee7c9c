# SPDX-License-Identifier: BSD-3-Clause
"""The live view of a run on a terminal. Others' words in it are text: no markup of rich's, no control characters."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import IO, TYPE_CHECKING

from ..cluster.commands import PENDING_HINTS
from ..driver.model import JobRow, JobState, RunState, TaskState
from ..errors import one_line
from ..report import args_words, span, wait_words
from ..terminal import indented, plain
from .following import Failure, Follower, Sight, job_state

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

# Sentences and failures that are kept; the last of them are shown, as the screen has room.
MOST_LINES = 200
# What SLURM's reasons mean for who waits.
_REASONS = {
    "Priority": "other jobs go first",
    "Resources": "it waits for free CPUs or memory",
    "Dependency": "it waits for another job",
    "BeginTime": "it may not begin yet",
    "ReqNodeNotAvail": "nodes that it needs are away",
    "Reservation": "it waits for its reservation",
    "Licenses": "it waits for licences",
    **{reason: hint.lstrip(": ") for reason, hint in PENDING_HINTS.items()},
}
_ORDER = ("RUNNING", "COMPLETING", "PENDING", "SUBMITTED", "submitting", "planned")
_STYLES = {"RUNNING": "green", "COMPLETED": "dim", "PENDING": "yellow", "planned": "dim", "collected": "dim"}


def can_live(stream: IO[str]) -> bool:
    """Whether a stream is a terminal on which a view can be redrawn."""
    from rich.console import Console

    console = Console(file=stream)
    return console.is_terminal and not console.is_dumb_terminal


def pace(sight: Sight, now: float) -> str:
    """How fast tasks end, and when all have; empty where that is not known."""
    if not sight.rate:
        return ""
    per_second = sight.rate
    rate = f"{per_second:.1f} tasks/s" if per_second >= 1 else f"{per_second * 60:.1f} tasks/min"
    if sight.left_s is None:
        return rate
    end = time.strftime("%H:%M" if sight.left_s < 72_000 else "%a %H:%M", time.localtime(now + sight.left_s))
    return f"{rate}, about {span(sight.left_s)} left (until {end})"


def reason_words(reason: str) -> str:
    """Why a job waits, in words."""
    if not reason or reason == "None":
        return ""
    if reason in _REASONS:
        return f"{_REASONS[reason]} ({reason})"
    if reason.startswith(("QOS", "Assoc", "MaxJobs", "Job")) and "Max" in reason:
        return f"a limit of the site ({reason})"
    return reason


def failure_lines(failure: Failure) -> list[str]:
    """A failure, and the last line of its log."""
    where = f" on {failure.host}" if failure.host else ""
    reason = one_line(failure.reason or failure.state, 200)
    lines = [f"task {failure.index} ({args_words(failure.args, 60)}): {reason}{where}"]
    last = next((line for line in reversed(failure.tail.splitlines()) if line.strip()), "")
    return [*lines, f"    {one_line(last, 200)}"] if last else lines


class Screen:
    """The other screen of a terminal, and the sentences that its own one gets when this is given back.

    Whatever a resize does to lines there, the own one stays clean. A terminal that is gone is no reason to leave a run
    alone, so nothing is raised then.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self.said: deque[str] = deque(maxlen=MOST_LINES)
        self._live = Live(
            console=self.console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._open = False

    def draw(self, frame: Callable[[int, int], RenderableType]) -> None:
        """Show what ``frame`` makes for a width and a height."""
        with contextlib.suppress(OSError, ValueError):
            if not self._open:
                self._live.start()
                self._open = True
            self._live.update(frame(*self.console.size), refresh=True)

    def close(self) -> None:
        """Give the screen back, and leave there what was said."""
        with contextlib.suppress(OSError, ValueError):
            if self._open:
                self._open = False
                self._live.stop()
            for sentence in self.said:
                self.console.file.write(f"{indented(sentence)}\n")
            self.console.file.flush()
        self.said.clear()


class LiveView:
    """Shows a run on a terminal until it is closed. What was said stays below it afterwards.

    Args:
        follower: Looks at the run.
        stream: The terminal.
        hint: What the last line says that the reader can do.
    """

    def __init__(self, follower: Follower, stream: IO[str], *, hint: str = "") -> None:
        self._follower = follower
        self._hint = hint
        self._lines: deque[tuple[str, str]] = deque(maxlen=MOST_LINES)  # kind, text
        self._screen = Screen(stream)
        self._done: dict[str, int] = {}  # by token: how many tasks of a job have ended
        self.sight: Sight | None = None
        # A driver waits for SLURM for seconds at a time. The clocks go on meanwhile, and a resize is heeded.
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="fractal-slurm view", daemon=True)

    def say(self, sentence: str) -> None:
        """A sentence for a person."""
        self._screen.said.append(sentence)
        self._lines.append(("said", one_line(sentence, 400)))
        self._draw()

    def show(self, _progress: object = None) -> None:
        """Look at the run, and show it."""
        sight = self._follower.look()
        self._done = self._follower.done_of(sight.jobs)
        self.sight = sight
        for sentence in sight.told:
            self._lines.append(("said", one_line(sentence, 400)))
        for failure in sight.failures:
            for number, line in enumerate(failure_lines(failure)):
                self._lines.append(("log" if number else "failed", line))
        self._draw()

    def _tick(self) -> None:
        while not self._over.wait(1.0):
            self._draw()

    def _draw(self) -> None:
        with self._lock:
            if self.sight is None or self._over.is_set():
                return
            if self._ticker.ident is None:
                self._ticker.start()
            self._screen.draw(partial(self.frame, self.sight))

    def close(self) -> None:
        """Give the screen back, and leave there what was said."""
        self._over.set()
        with self._lock:
            self._screen.close()

    # -- what is drawn

    def frame(self, sight: Sight, width: int, height: int) -> RenderableType:
        """The whole view, no larger than the screen."""
        from rich.console import Group
        from rich.text import Text

        now = time.time()
        follower = self._follower
        head = Text(overflow="ellipsis", no_wrap=True)
        head.append(plain(one_line(follower.task_name, 60)), style="bold")
        took = span((sight.ended or now) - follower.created)
        head.append(f"  run {follower.run_id}  as {plain(follower.user)}  {took}")
        parts: list[RenderableType] = [head, self._bar(sight), self._numbers(sight, now)]
        for wait in sight.waits:
            words = wait_words(wait.words)
            parts.append(
                Text(f"! {plain(words)}, since {self._clock(wait.since)} ({span(now - wait.since)})", style="yellow")
            )
        console = self._screen.console
        used = sum(len(console.render_lines(part, console.options.update(width=width))) for part in parts)
        foot = [Text(self._hint, style="dim", overflow="ellipsis", no_wrap=True)] if self._hint else []
        left = max(0, height - used - len(foot))
        lines = list(self._lines)
        for_lines = min(len(lines) + 1 if lines else 0, max(4, left // 3)) if left > 8 else 0
        jobs, rows = self._jobs(sight, max(1, left - for_lines - 3))
        parts.append(jobs)
        room = left - rows
        if lines and room > 1:
            shown = lines[-(room - 1) :]
            parts.append(Text(""))
            parts += [self._line(kind, line) for kind, line in shown]
            room -= len(shown) + 1
        parts += [Text("")] * max(0, room)
        return Group(*parts, *foot)

    @staticmethod
    def _clock(at: float) -> str:
        return time.strftime("%H:%M" if time.time() - at < 72_000 else "%a %H:%M", time.localtime(at))

    @staticmethod
    def _line(kind: str, line: str) -> Text:
        from rich.text import Text

        style = {"failed": "red", "log": "dim", "said": ""}[kind]
        return Text(plain(line), style=style, overflow="ellipsis", no_wrap=True)

    @staticmethod
    def _bar(sight: Sight) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        total, done = sight.total, sight.done
        bad = sight.counts[TaskState.FAILED] + sight.counts[TaskState.NOT_RUN]
        grid = Table.grid(expand=True, padding=(0, 1))
        grid.add_column(ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        style = "red" if bad else "green"
        gauge = ProgressBar(total=max(1, total), completed=done, complete_style=style, finished_style=style)
        share = 100 * done // total if total else 100
        grid.add_row(gauge, Text(f"{share:3} %  {done}/{total} tasks"))
        return grid

    @staticmethod
    def _numbers(sight: Sight, now: float) -> Text:
        from rich.text import Text

        line = Text(overflow="ellipsis", no_wrap=True)
        failed, not_run = sight.counts[TaskState.FAILED], sight.counts[TaskState.NOT_RUN]
        if failed:
            line.append(f"{failed} failed  ", style="bold red")
        if not_run:
            line.append(f"{not_run} did not run  ", style="red")
        words = pace(sight, now)
        if sight.state == RunState.INTERRUPTED:
            words = "nobody drives this run now: its jobs go on without a driver"
        elif sight.state == RunState.DRIVEN and sight.done == sight.total:
            words = "all tasks have ended; SLURM ends their jobs"
        elif sight.state == RunState.DRIVEN and not words:
            words = "no rate yet"
        line.append(words)
        return line

    def _jobs(self, sight: Sight, room: int) -> tuple[Table, int]:
        """The table of jobs, and the lines that it takes."""
        from rich.table import Table
        from rich.text import Text

        now = time.time()
        known = {job.token: job_state(job, sight.notes.get(job.token)) for job in sight.jobs}

        def rank(job: JobRow) -> tuple[int, int]:
            state = known[job.token][0]
            return (_ORDER.index(state), job.number) if state in _ORDER else (len(_ORDER), -job.number)

        ordered = sorted((job for job in sight.jobs if job.state != JobState.ABANDONED), key=rank)
        shown = ordered if len(ordered) <= room else ordered[: max(1, room - 1)]
        grid = Table(box=None, pad_edge=False, padding=(0, 1), expand=True, show_header=True, header_style="dim")
        for name in ("job", "SLURM id", "state", "tasks", "node", "for"):
            number = name in ("job", "tasks", "for")
            grid.add_column(name, justify="right" if number else "left", no_wrap=True, overflow="ellipsis")
        grid.add_column("reason", ratio=1, no_wrap=True, overflow="ellipsis")
        for job in shown:
            state, reason, node = known[job.token]
            since = job.began_at if state in ("RUNNING", "COMPLETING") else job.submitted_at
            long = span((job.ended_at or now) - since) if since else ""
            if job.nodes > 1 and node:
                node = f"{node} +{job.nodes - 1}"
            grid.add_row(
                str(job.number),
                job.slurm_job_id or "",
                Text(plain(state), style=_STYLES.get(state, "")),
                f"{self._done.get(job.token, 0)}/{job.tasks}",
                Text(plain(node), overflow="ellipsis", no_wrap=True),
                long,
                Text(plain(reason_words(reason) if state == "PENDING" else one_line(reason)), overflow="ellipsis"),
            )
        rows = len(shown) + 1
        if len(shown) < len(ordered):
            states = [known[job.token][0] for job in ordered[len(shown) :]]
            words = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
            grid.caption = Text(plain(f"and {len(states)} more jobs: {words}"), overflow="ellipsis", no_wrap=True)
            grid.caption_justify = "left"
            rows += 1
        return grid, rows
