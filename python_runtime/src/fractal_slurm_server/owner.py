# SPDX-License-Identifier: BSD-3-Clause
"""Keep track of which server process a job of fractal-server belongs to.

So a later process can continue the jobs of an ended one. Each process has a file that lists the jobs that it began, and
holds a lock on this file. When the process ends for any reason, the kernel frees the lock. If a later process gets the
lock, nobody works on these jobs any more.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SUFFIX = ".owner"


@dataclass(frozen=True)
class Left:
    """The jobs that an ended process left.

    Attributes:
        owner: The name of the process.
        jobs: The ids of the jobs of fractal-server that it began.
        path: Its file.
    """

    owner: str
    jobs: tuple[int, ...]
    path: Path


class Owner:
    """This process as the owner of jobs.

    Args:
        folder: The folder of the files. If it is missing, a private folder is made.
    """

    def __init__(self, folder: Path) -> None:
        self.pid = os.getpid()
        self.name = secrets.token_hex(8)
        self.folder = folder
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The file gets its name only after it is locked. So nobody finds it without a lock.
        draft = folder / f".{self.name}"
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        draft.rename(folder / f"{self.name}{_SUFFIX}")

    def note(self, job: int) -> None:
        """Note that this process begins a job.

        Args:
            job: The id of the job of fractal-server.
        """
        with self._lock:
            os.write(self._fd, f"{job}\n".encode())
            os.fdatasync(self._fd)


@contextmanager
def left(path: Path) -> Iterator[Left | None]:
    """Lock the file of an ended process, and give the jobs that it left.

    Args:
        path: The file.

    Yields:
        The jobs. None if the process is alive, or if another process works on its jobs.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        if not path.exists():  # another process has finished these jobs meanwhile
            yield None
            return
        words = os.pread(fd, 1 << 24, 0).decode("ascii", "replace").split()
        jobs = dict.fromkeys(int(word) for word in words if word.isdigit())
        yield Left(path.name.removesuffix(_SUFFIX), tuple(jobs), path)
    finally:
        os.close(fd)


def files(folder: Path) -> list[Path]:
    """Return the files of all processes, oldest first."""
    return sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime if path.exists() else 0.0)
