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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SUFFIX = ".owner"
# Words in a file beside the ids of jobs: when its process began; and that its process has ended.
_SINCE, _ENDED = "since=", "ended"
_TRIES, _PAUSE_S = 5, 0.05


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
        since: When this process began, before it took any job. In seconds since the epoch; None for now.
    """

    def __init__(self, folder: Path, since: float | None = None) -> None:
        self.pid = os.getpid()
        self.name = secrets.token_hex(8)
        self.folder = folder
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The file gets its name only after it is locked. So nobody finds it without a lock.
        draft = folder / f".{self.name}"
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.write(self._fd, f"{_SINCE}{time.time() if since is None else since:.3f}\n".encode())
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
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield None
        return
    try:
        if not _lock(fd):
            yield None
            return
        if not path.exists():  # another process has finished these jobs meanwhile
            yield None
            return
        words = _words(fd)
        if _ENDED not in words:  # whoever sees our lock must not think that it is the ended process's
            os.write(fd, f"{_ENDED}\n".encode())
        yield Left(path.name.removesuffix(_SUFFIX), _jobs(words), path)
    finally:
        os.close(fd)


def files(folder: Path) -> list[Path]:
    """Return the files of all processes, oldest first."""
    return sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime if path.exists() else 0.0)


def known(folder: Path) -> tuple[float, set[int]]:
    """Return what all processes say, those that live and those that ended.

    Args:
        folder: The folder of the files.

    Returns:
        When the oldest process began that lives, and the jobs that any process began. A submitted job that is older,
        and that no process began, was given to a process that has ended: nobody works on it. The time is 0 if a process
        does not say when it began.
    """
    since, jobs = time.time(), set[int]()
    for path in files(folder):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            words = _words(fd)
            jobs.update(_jobs(words))
            if _ENDED not in words and not _is_free(fd):
                said = [word.removeprefix(_SINCE) for word in words if word.startswith(_SINCE)]
                since = min(since, float(said[0]) if said else 0.0)
        finally:
            os.close(fd)
    return since, jobs


def _words(fd: int) -> list[str]:
    return os.pread(fd, 1 << 24, 0).decode("ascii", "replace").split()


def _jobs(words: list[str]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(int(word) for word in words if word.isdigit()))


def _lock(fd: int) -> bool:
    """Lock a file. Another process may only look at it for a moment (:func:`known`): so try more than once."""
    for attempt in range(_TRIES):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < _TRIES:
                time.sleep(_PAUSE_S)
        else:
            return True
    return False


def _is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True
