# SPDX-License-Identifier: BSD-3-Clause
"""The queue of a job's tasks. If a job has several nodes, each node takes chunks of tasks.

A node marks a chunk as taken by a symlink in a folder that all nodes see.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def chunk_bounds(tasks: int, slots: int) -> list[int]:
    """Cut the queue into chunks for several nodes. Chunks become smaller towards the end.

    The first chunks are large, so that nodes take few of them: each needs a file operation on a network file system.
    The last ones are single tasks, so that all nodes finish at about the same time.

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
        lines: The lines of all tasks of the job, in their order.
        nodes: Number of nodes of the job.
        slots: Number of slots of all nodes together.
        node: Number of this node.

    Attributes:
        marks: The folder of the marks, if the job has several nodes.
        again: Tasks that did not start, and are the next to start.
        is_done: Returns whether an earlier start of the job finished a task. None if there was no such start.
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
        """Return whether there may be tasks left for this node. Only :meth:`take` knows for sure."""
        if self.bounds is None:
            return bool(self.again) or self.next_line < len(self.lines)
        return bool(self.again) or self.next_line < self.chunk_end or self.chunk < len(self.bounds) - 1

    def left(self) -> int:
        """Return how many tasks nobody took yet, as far as this node knows."""
        return len(self.lines) - self.next_line + len(self.again)

    def take(self) -> bytes | None:
        """Return the line of the next task, or None if there is none left for this node.

        Raises:
            OSError: A mark can't be made, because the file system is full, for instance.
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
        """Take the next chunk that no node has. Return whether there was one."""
        while self.chunk < len(bounds) - 1:
            mark = f"{self.marks}/{self.chunk}"
            try:
                os.symlink(str(self.node), mark)
                taken = True
            except FileExistsError:
                # The mark may be our own: if the answer of the file server was lost, the system made the call again.
                taken = os.readlink(mark) == str(self.node)
            self.chunk += 1
            if taken:
                self.next_line, self.chunk_end = bounds[self.chunk - 1], bounds[self.chunk]
                return True
        return False
