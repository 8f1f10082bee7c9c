# SPDX-License-Identifier: BSD-3-Clause
"""Who drives a run: whoever holds the lock in its folder, and has written there who it is."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from ..errors import RunError
from .model import RunState

# How long a lock is tried for that somebody holds who does not drive the run, in seconds.
_LOCK_WAIT_S = 2.0
# What a driver writes into its lock: its pid, its host, and how it is told to cancel the run.
_LOCK_TEXT = re.compile(r"([0-9]{1,9}) ([A-Za-z0-9._-]{1,255})( heeds| looks)?")

_CANCEL = "cancel"
# What a file system without locks says: some NFS, Lustre as it may be mounted, a few that are no file systems at all.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


class DrivenElsewhere(RunError):
    """Another process drives a run."""


class Driver(NamedTuple):
    """The process that drives a run.

    Attributes:
        host: Its host; empty where that is not known.
        pid: Its number there, above 1; on this host it was seen to hold the lock, on another it is what the lock's
            file says. 0 where it is not known.
        heeds: Whether it cancels the run on SIGTERM.
        looks: Whether it cancels the run when :func:`ask_to_cancel` was called: it drives others, too.
    """

    host: str
    pid: int
    heeds: bool = False
    looks: bool = False

    def __str__(self) -> str:
        return f"pid {self.pid or 'unknown'} on {self.host or 'an unknown host'}"


def driven_elsewhere(run_id: str, driver: Driver) -> DrivenElsewhere:
    """The error for a run that another process drives."""
    return DrivenElsewhere(f"run {run_id} is driven by another process ({driver}): let it go on, or end it first")


def lock(folder: Path) -> int:
    """Lock a run. Whoever only asks whether it is driven holds the lock for an instant: that is waited for.

    Raises:
        DrivenElsewhere: Another process drives it.
    """
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        check_locks(fd)
        deadline = time.monotonic() + _LOCK_WAIT_S
        while not _is_taken(fd):
            driver = _driver(fd)
            if driver.pid or time.monotonic() >= deadline:
                raise driven_elsewhere(folder.name, driver)
            time.sleep(0.01)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {os.uname().nodename}\n".encode(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_taken(fd: int) -> bool:
    """Take a lock that lets nobody else in, unless somebody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _in_words(error) from None
    return True


def check_locks(fd: int) -> None:
    """Refuse a file system without the locks that SQLite takes.

    SQLite would wait for them for half a minute, and say then that somebody else has them.

    Args:
        fd: A file, open for reading. This process loses what other locks of this kind it has on it.

    Raises:
        OSError: There are no such locks.
    """
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.lockf(fd, fcntl.LOCK_UN)
    except OSError as error:  # or somebody has it, so that there are locks
        if error.errno in _NO_LOCKS:
            raise _in_words(error) from None


def check_locks_of(run: Path) -> None:
    """Refuse to read a run where :func:`check_locks` does.

    Args:
        run: The run's folder, with the journal in it.

    Raises:
        OSError: There are no such locks.
    """
    try:
        fd = os.open(run / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        check_locks(fd)
    finally:
        os.close(fd)


def check_locks_in(folder: Path) -> None:
    """Refuse a folder where files can't be locked.

    Raises:
        OSError: They can't, or no file can be made there.
    """
    with TemporaryFile(dir=folder) as file:
        check_locks(file.fileno())
        _is_taken(file.fileno())


def _in_words(error: OSError) -> OSError:
    """An error of locking; of a file system that has no locks, with what it must have."""
    if error.errno not in _NO_LOCKS:
        return error
    said = "" if error.errno == errno.ENOLCK else f" ({error.strerror})"
    none = os.strerror(errno.ENOLCK)
    return OSError(errno.ENOLCK, f"{none}{said}, which the file system of state_dir must have (some NFS has none)")


def _driver(fd: int) -> Driver:
    """Who holds a lock that is held, by what its file says. Of this host's processes only one that has it is named."""
    try:
        text = os.pread(fd, 300, 0).decode("ascii", "replace")
    except OSError:
        text = ""
    match = _LOCK_TEXT.fullmatch(text.strip())
    if match is None:
        return Driver("", 0)
    pid, host = int(match[1]), match[2]
    if pid < 2 or (host == os.uname().nodename and not _has_lock(pid, os.fstat(fd))):
        pid = 0
    return Driver(host, pid, heeds=match[3] == " heeds", looks=match[3] == " looks")


def _has_lock(pid: int, lock: os.stat_result) -> bool:
    """Whether a process has a file open, with a lock on it that lets nobody else in."""
    folder = Path(f"/proc/{pid}")
    try:
        for entry in (folder / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(entry.stat(), lock):
                    info = (folder / "fdinfo" / entry.name).read_text(encoding="ascii", errors="replace")
                    if re.search(r"^lock:.* WRITE ", info, re.MULTILINE):
                        return True
    except OSError:  # it is gone, or somebody else's
        pass
    return False


def heeds_signals(fd: int, *, of_many: bool = False) -> None:
    """Let others know how this process, which holds a lock, is told to cancel its run.

    Args:
        fd: The lock.
        of_many: Whether it drives several runs, and looks for what :func:`ask_to_cancel` leaves; else SIGTERM is it.
    """
    os.pwrite(fd, f"{os.getpid()} {os.uname().nodename} {'looks' if of_many else 'heeds'}\n".encode(), 0)


def ask_to_cancel(folder: Path) -> None:
    """Leave word for the driver of a run, which drives others, too, that the run is to be cancelled.

    Args:
        folder: The run's folder, with the journal in it.
    """
    os.close(os.open(folder / _CANCEL, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def is_asked_to_cancel(folder: Path) -> bool:
    """Whether such word was left; it is taken away."""
    try:
        (folder / _CANCEL).unlink()
    except OSError:
        return False
    return True


def state_now(state: RunState, driver: Driver | None) -> RunState:
    """What the journal's word for a run's state means, given who drives it."""
    open_ended = state in (RunState.PLANNED, RunState.DRIVEN)
    return RunState.INTERRUPTED if open_ended and driver is None else state


def is_driven(state_dir: Path, run_id: str) -> Driver | None:
    """The process that drives a run, if there is one."""
    try:
        fd = os.open(state_dir / "runs" / run_id / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _driver(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return None
