# SPDX-License-Identifier: BSD-3-Clause
"""How tasks start: each in a new process, of the worker's own. :mod:`.forks` and :mod:`.steps` have other ways."""

from __future__ import annotations

import os

from .loop import PASSING, end_group
from .processes import signal_group, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .loop import Loop, Slot


class Starts:
    """Each task is a new process, in a process group of its own.

    Args:
        pins: Whether slots have CPU sets of their own.

    Attributes:
        whose: Whose limit of memory a task is under, in words.
    """

    whose = "job"

    def __init__(self, pins: bool) -> None:
        self.null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.all_cpus = os.sched_getaffinity(0) if pins else None

    def start(self, loop: Loop, slot: Slot, words: list[str]) -> None:
        """Start a task.

        Raises:
            OSError: The node has no room for it: it did not start.
        """
        try:
            if slot.cpus:
                os.sched_setaffinity(0, slot.cpus)
            slot.pid = self.new_process(loop, slot, words)
        except OSError as error:
            if error.errno in PASSING:
                loop.obstacle = "its tasks could not be started"
                raise
            loop.finish(slot, None, None, ("failed", f"{words[0]} can't be started: {error.strerror}"))
        else:
            loop.began(slot)
        finally:
            if self.all_cpus:
                os.sched_setaffinity(0, self.all_cpus)

    def new_process(self, loop: Loop, slot: Slot, words: list[str]) -> int:
        """Start a task's process. Returns its pid."""
        return spawn(words, slot.env, self.null_fd, slot.log_fd)

    def is_waiting(self, loop: Loop, now: float) -> bool:
        """Whether slots stay free for a moment, since the next tasks start better then."""
        return False

    def look(self, loop: Loop) -> None:
        """Take note of tasks that are reported as ended otherwise than by the end of a child."""

    def rest(self, loop: Loop, now: float) -> None:
        """Do what is due, once all tasks that ended are noted."""

    def ended(self, loop: Loop, pid: int, status: int, usage: tuple[float, float]) -> None:
        """A child ended: a task, or what the script left to us."""
        slot = loop.running.pop(pid, None)
        if slot is not None:
            end_group(pid)
            loop.ended_with(slot, status, usage)

    def group(self, slot: Slot) -> int:
        """The process group of the task in a slot; 0 if there is none."""
        return slot.pid

    def signal(self, slot: Slot, number: int) -> None:
        """Signal the process group of the task in a slot."""
        group = self.group(slot)
        if group:
            signal_group(group, number)

    def is_untaken(self, slot: Slot) -> bool:
        """Whether a task waits for its step to begin."""
        return False

    def is_overdue(self, loop: Loop, slot: Slot, now: float) -> bool:
        """Whether a step should have begun long ago: then it is ended."""
        return False

    def take_back(self, slot: Slot) -> bool:
        """Take a task back from its step, if the step did not take it yet: it never began. Returns whether so."""
        return False

    def close(self, loop: Loop) -> None:
        """End what waits for further tasks."""
