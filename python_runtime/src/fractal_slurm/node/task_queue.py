# SPDX-License-Identifier: BSD-3-Clause
"""The queue of a job's tasks. Several nodes take from it in chunks, by marks in a folder that all of them see."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def chunk_bounds(tasks: int, slots: int) -> list[int]:
    """Cut the queue into chunks that shrink towards its end, for several nodes to take from.

    Large at first, so that few are taken (a file operation each, on a network file system); single tasks at
    the end, so that all nodes finish together.

    Returns:
        The start of each chunk, and the number of tasks as the last value.
    """
    bounds = [0]
    while bounds[-1] < tasks:
        bounds.append(bounds[-1] + max(1, (tasks - bounds[-1]) // (2 * slots)))
    return bounds


class Queue:
    """The tasks of a job that this node may still take.

    Args:
        lines: All tasks of the job, in their order.
        nodes: Nodes of the job.
        slots: Slots of all of them.
        node: This one's number.

    Attributes:
        marks: The folder of the marks, on several nodes.
        again: Tasks that did not start, and keep their turn.
        is_done: Tells of a task whether an earlier start of the job finished it; None if none did.
    """

    def __init__(self, lines: Sequence[bytes], nodes: int, slots: int, node: int) -> None:
        self.lines = lines
        self.node = node
        self.bounds = chunk_bounds(len(lines), slots) if nodes > 1 else None
        self.marks = ""
        self.next_line = self.chunk = self.chunk_end = 0
        self.again: list[bytes] = []
        self.is_done: Callable[[bytes], bool] | None = None

    def has_tasks(self) -> bool:
        """Whether tasks may be left for this node; :meth:`take` knows."""
        if self.bounds is None:
            return bool(self.again) or self.next_line < len(self.lines)
        return bool(self.again) or self.next_line < self.chunk_end or self.chunk < len(self.bounds) - 1

    def left(self) -> int:
        """How many tasks were not taken; on several nodes by no other node either, as far as is known."""
        return len(self.lines) - self.next_line + len(self.again)

    def take(self) -> bytes | None:
        """The next task's line, or None when there is none left for this node.

        Raises:
            OSError: There is no room for a mark.
        """
        if self.again:
            return self.again.pop()
        while True:
            if self.bounds is None:
                if self.next_line >= len(self.lines):
                    return None
            elif self.next_line >= self.chunk_end and not self._take_chunk(self.bounds):
                return None
            line = self.lines[self.next_line]
            self.next_line += 1
            if self.is_done is not None and self.is_done(line):
                continue
            return line

    def _take_chunk(self, bounds: list[int]) -> bool:
        """Take the next chunk that no node has. Returns whether there was one."""
        while self.chunk < len(bounds) - 1:
            mark = f"{self.marks}/{self.chunk}"
            try:
                os.symlink(str(self.node), mark)
                taken = True
            except FileExistsError:
                # It may be ours: an answer of a file server got lost on its way, and the call was made again.
                taken = os.readlink(mark) == str(self.node)
            self.chunk += 1
            if taken:
                self.next_line, self.chunk_end = bounds[self.chunk - 1], bounds[self.chunk]
                return True
        return False
