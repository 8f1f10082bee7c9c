# SPDX-License-Identifier: BSD-3-Clause
"""Write the results of a job: the records of its tasks, their logs, and their out-JSON."""

from __future__ import annotations

import os
import time

from .protocol import BEAT_S, MAX_OUT_DEPTH, MAX_OUT_VALUES, has_too_many_values, is_deep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SYNC_S = 5.0
# A record has the out-JSON, and so many bytes for the end of the log and the rest.
RECORD_BYTES = 64_000


class TooLong(Exception):
    """A record has more bytes than the driver reads."""


class Results:
    """The result file of a job on one node. Each record begins and ends with a newline.

    Args:
        fd: The descriptor of the file, open for appending.
        token: The token in each record.
        max_out_bytes: Most bytes of an out-JSON inside of a record.
        complain: Prints a message.

    Attributes:
        pending: Bytes that could not be written yet. No further task starts as long as there are any.
    """

    def __init__(self, fd: int, token: str, max_out_bytes: int, complain: Callable[[str], None]) -> None:
        self.fd = fd
        self.token = token
        self.most_bytes = max_out_bytes + RECORD_BYTES
        self.complain = complain
        self.pending = b""
        self.unsynced = False
        now = time.monotonic()
        self.next_beat, self.next_sync = now + BEAT_S, now + SYNC_S

    def write(self, record: dict[str, Any]) -> None:
        """Add a record.

        Raises:
            RecursionError: The record is nested more deeply than this Python can write.
            TooLong: The record has too many bytes.
        """
        import json  # once the first tasks are running: see worker.py

        text = json.dumps(record, separators=(",", ":"))
        if len(text) > self.most_bytes:
            raise TooLong(f"the out-JSON takes {len(text)} bytes in a record; allowed are {self.most_bytes}")
        self.append(text)
        self.next_beat = time.monotonic() + BEAT_S

    def append(self, text: str) -> None:
        """Add a record that is JSON text already."""
        self.pending += f"\n{text}\n".encode("ascii")
        self.flush()

    def flush(self) -> None:
        """Write the pending bytes. If the file system is full or away, they stay pending."""
        try:
            while self.pending:
                written = os.write(self.fd, self.pending)
                self.pending = self.pending[written:]
                self.unsynced = True
        except OSError as error:
            self.complain(f"results can't be written: {error.strerror}; waiting for room")

    def sync(self) -> None:
        """Make sure that the written bytes survive a crash of the node (fdatasync)."""
        if self.unsynced:
            try:
                os.fdatasync(self.fd)
                self.unsynced = False
            except OSError as error:
                self.complain(f"results can't be written: {error.strerror}")

    def look(self, now: float) -> None:
        """Do what is due at the time ``now``: write pending bytes, write a beat, sync the file."""
        if self.pending:
            self.flush()
        if now >= self.next_beat and not self.pending:
            self.next_beat = now + BEAT_S
            self.append(f'{{"beat":{time.time():.0f},"token":"{self.token}"}}')
        if now >= self.next_sync:
            self.next_sync = now + SYNC_S
            self.sync()


class Logs:
    """The output of tasks. It is moved to one file of the job, or each task has its own file.

    Args:
        fd: The descriptor of the job's file, open for appending. -1 if each task has its own file.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.separate = fd < 0
        self.offset = 0 if self.separate else os.fstat(fd).st_size

    def keep(self, fd: int, record: dict[str, Any], tail_bytes: int) -> None:
        """Keep the output of a task. Write into its record where the output is, and how it ends.

        Args:
            fd: The descriptor of the task's output. If tasks share a file, it is empty afterwards.
            record: The task's record.
            tail_bytes: Most bytes of the end of the output that go into the record.
        """
        try:
            size = os.fstat(fd).st_size
            if self.separate:
                record["log"] = [0, size]
            if size:
                tail = os.pread(fd, tail_bytes, max(0, size - tail_bytes))
                record["tail"] = tail.decode("utf-8", "replace")
                if not self.separate:
                    start = self.offset
                    try:
                        self._append(fd, size)
                    finally:
                        # Also after an error: the next task begins with an empty file.
                        os.ftruncate(fd, 0)
                        record["log"] = [start, self.offset - start]
        except OSError as error:
            record["log_fault"] = f"the log can't be kept: {error.strerror}"

    def _append(self, fd: int, size: int) -> None:
        position = 0
        while position < size:
            data = os.pread(fd, min(1 << 20, size - position), position)
            if not data:
                break
            position += len(data)
            while data:
                written = os.write(self.fd, data)
                self.offset += written
                data = data[written:]


def read_out(path: str, max_bytes: int) -> tuple[Any, str | None]:
    """Read the out-JSON of a task.

    Args:
        path: The file. A missing file is no fault.
        max_bytes: Most bytes of the file.

    Returns:
        The content, or None; and a sentence on what is wrong with it, or None.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"the out-JSON can't be read: {error.strerror}"
    try:
        size = os.fstat(fd).st_size
        if size > max_bytes:
            return None, f"the out-JSON has {size} bytes; allowed are {max_bytes}"
        data = b""
        while len(data) <= max_bytes:
            part = os.read(fd, max(1, size + 1 - len(data)))
            if not part:
                break
            data += part
    except OSError as error:
        return None, f"the out-JSON can't be read: {error.strerror}"
    finally:
        os.close(fd)
    if not data:
        return None, None
    if has_too_many_values(data):
        return None, f"the out-JSON has too many values: allowed are {MAX_OUT_VALUES}"
    import json

    try:
        out = json.loads(data)
    except RecursionError:
        return None, "the out-JSON is nested too deeply"
    except ValueError as error:
        return None, f"the out-JSON is no JSON: {error}"
    if data.count(b"[") + data.count(b"{") > MAX_OUT_DEPTH and is_deep(out):
        return None, f"the out-JSON is nested too deeply: allowed are {MAX_OUT_DEPTH} levels"
    return out, None
