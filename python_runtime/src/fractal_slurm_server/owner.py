# SPDX-License-Identifier: BSD-3-Clause
"""Which server process a job of fractal-server's belongs to, so that a later one takes up what a dead one left.

Each process keeps a lock, on a file that names the jobs that it began. A lock goes with its process, however that ends,
and a later process that gets hold of it knows that nobody works on these jobs any more.
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
    """What a process left that is gone.

    Attributes:
        owner: The process, by its own name.
        jobs: The jobs of fractal-server's that it began.
        path: Its file.
    """

    owner: str
    jobs: tuple[int, ...]
    path: Path


class Owner:
    """This process, as an owner of jobs.

    Args:
        folder: Where the files are; made, private, where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.pid = os.getpid()
        self.name = secrets.token_hex(8)
        self.folder = folder
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Locked under another name first: nobody may find it without its lock.
        draft = folder / f".{self.name}"
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        draft.rename(folder / f"{self.name}{_SUFFIX}")

    def note(self, job: int) -> None:
        """This process begins a job."""
        with self._lock:
            os.write(self._fd, f"{job}\n".encode())
            os.fdatasync(self._fd)


@contextmanager
def left(path: Path) -> Iterator[Left | None]:
    """What the process of a file left, for as long as nobody else takes it up; None while that process lives."""
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
        if not path.exists():  # somebody took it up meanwhile
            yield None
            return
        words = os.pread(fd, 1 << 24, 0).decode("ascii", "replace").split()
        jobs = dict.fromkeys(int(word) for word in words if word.isdigit())
        yield Left(path.name.removesuffix(_SUFFIX), tuple(jobs), path)
    finally:
        os.close(fd)


def files(folder: Path) -> list[Path]:
    """The files of all processes, oldest first."""
    return sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime if path.exists() else 0.0)
