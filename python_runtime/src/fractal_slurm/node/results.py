# SPDX-License-Identifier: BSD-3-Clause
"""What a job leaves: records of its tasks, what they printed, and what they wrote for the server."""

from __future__ import annotations

import os
import time

from .protocol import BEAT_S, MAX_OUT_DEPTH, MAX_OUT_VALUES, has_too_many_values, is_deep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SYNC_S = 5.0
# A record is an out-JSON, the end of a log, and little more.
RECORD_BYTES = 64_000


class TooLong(Exception):
    """A record takes more bytes than whoever reads it allows."""


class Results:
    """The result file of a job on one node: lines that are begun and ended with a newline, written whole or later.

    Args:
        fd: The file, open for appending.
        token: The token that each line has.
        max_out_bytes: Bytes of the largest out-JSON, as it stands in a record.
        complain: Says what is wrong.

    Attributes:
        pending: What could not be written yet: no further task starts meanwhile.
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
            RecursionError: It is nested more deeply than this Python can write.
            TooLong: It takes too many bytes.
        """
        import json  # once the first tasks are running: see worker.py

        text = json.dumps(record, separators=(",", ":"))
        if len(text) > self.most_bytes:
            raise TooLong(f"the out-JSON takes {len(text)} bytes in a record; allowed are {self.most_bytes}")
        self.append(text)
        self.next_beat = time.monotonic() + BEAT_S

    def append(self, text: str) -> None:
        """Add a record that is written as JSON."""
        self.pending += f"\n{text}\n".encode("ascii")
        self.flush()

    def flush(self) -> None:
        """Write what is pending. On a full or absent file system it stays so."""
        try:
            while self.pending:
                written = os.write(self.fd, self.pending)
                self.pending = self.pending[written:]
                self.unsynced = True
        except OSError as error:
            self.complain(f"results can't be written: {error.strerror}; waiting for room")

    def sync(self) -> None:
        """Have the file system keep what was written, whatever happens to the node."""
        if self.unsynced:
            try:
                os.fdatasync(self.fd)
                self.unsynced = False
            except OSError as error:
                self.complain(f"results can't be written: {error.strerror}")

    def look(self, now: float) -> None:
        """Do what is due: write what is pending, give a sign of life, sync."""
        if self.pending:
            self.flush()
        if now >= self.next_beat and not self.pending:
            self.next_beat = now + BEAT_S
            self.append(f'{{"beat":{time.time():.0f},"token":"{self.token}"}}')
        if now >= self.next_sync:
            self.next_sync = now + SYNC_S
            self.sync()


class Logs:
    """What tasks printed: moved to one file of the job, or left where each has its own.

    Args:
        fd: The file of the job, open for appending; -1 where each task has its own.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.separate = fd < 0
        self.offset = 0 if self.separate else os.fstat(fd).st_size

    def keep(self, fd: int, record: dict[str, Any], tail_bytes: int) -> None:
        """Keep what a task printed; its record says where it is, and holds the last of it.

        Args:
            fd: What the task printed. It is empty afterwards, or closed where each task has its own.
            record: The task's record.
            tail_bytes: So much of it goes into the record, at the most.
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
                        # Kept or not: the next task's log begins here.
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
    """The out-JSON of a task, and what is wrong with it.

    Args:
        path: The file. That it is not there is no fault.
        max_bytes: The largest that is taken.
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
