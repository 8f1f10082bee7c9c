# SPDX-License-Identifier: BSD-3-Clause
"""Use folders and files safely, although other users may be able to change them.

The driver checks a work folder on its own host with the same function that the worker uses on the node. This module
uses only the standard library, as all modules of this folder.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Who else may replace a file or folder by another one: see look_above().
CLOSED, NOBODY, UNKNOWN, GROUP, EVERYBODY = range(5)
MAX_LINKS = 40


class Unsafe(Exception):
    """A folder must not be used, because other users can change it, or replace it."""


def private(path: str, flags: int) -> int:
    """Open a file, and return its descriptor. A new file is private, whatever the umask is. No link is followed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def open_own_folder(path: str, name: str) -> int:
    """Open a folder, and check by its descriptor that it is private, belongs to this user, and is not a link.

    Args:
        path: The folder.
        name: The name of the folder in messages.

    Returns:
        The descriptor.

    Raises:
        Unsafe: The check failed.
        OSError: The folder can't be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise Unsafe(f"{name} is a link, or no folder") from None
        error.filename = name
        raise
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        fault = f"it belongs to uid {status.st_uid}, and this job runs as uid {os.geteuid()}"
    elif status.st_mode & 0o077:
        fault = f"others have rights in it (mode {stat.S_IMODE(status.st_mode):04o}): chmod 700 it"
    else:
        return fd
    os.close(fd)
    raise Unsafe(f"{name} is not the user's own and private: {fault}")


def folders_above(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the folders and links that the kernel follows to find a path, starting with /.

    Args:
        path: An absolute path. Its last part is not included.

    Yields:
        The path of a folder or link, and its status.

    Raises:
        OSError: One of them does not exist, or can't be read.
    """
    current = "/"
    yield current, os.lstat(current)
    rest = path.split("/")[-2::-1]
    links = 0
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            current = os.path.dirname(current)
            continue
        target = f"{current.rstrip('/')}/{part}"
        status = os.lstat(target)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            yield target, status
            link = os.readlink(target)
            rest += link.split("/")[::-1]
            if link.startswith("/"):
                current = "/"
            continue
        current = target
        yield current, status


def look_above(path: str, uid: int, own_gid: int | None = None) -> tuple[int, str]:
    """Find who, except the user and root, may replace a file or folder by another one.

    This checks the folders above it, as StrictModes of sshd does. In a folder with the sticky bit, others can't rename
    what is not theirs. But the owner of a link can replace the link.

    Args:
        path: An absolute path. The folders above it are checked.
        uid: The user.
        own_gid: A group that has no other member.

    Returns:
        A level and the reason in words. The levels are CLOSED (it is below a folder that only the user can enter),
        NOBODY, UNKNOWN (a folder can't be read), GROUP (members of a group, users in an access list, or another user)
        and EVERYBODY.
    """
    worst, words = NOBODY, ""
    try:
        for folder, status in folders_above(path):
            mode, mine = stat.S_IMODE(status.st_mode), status.st_uid in (0, uid)
            if stat.S_ISLNK(status.st_mode):
                if not mine and worst < GROUP:
                    worst, words = GROUP, f"{folder} is a link that its owner (uid {status.st_uid}) may exchange"
                continue
            who, whose = NOBODY, ""
            if mode & 0o002 and not mode & stat.S_ISVTX:
                who, whose = EVERYBODY, "everybody"
            elif not mine:
                who, whose = GROUP, f"its owner (uid {status.st_uid})"
            elif mode & 0o020 and not mode & stat.S_ISVTX and status.st_gid != own_gid:
                # With an access list, the group's bits of the mode are the most that the list gives to anybody.
                who, whose = GROUP, f"its group (gid {status.st_gid}) or its access list"
            if who > worst:
                worst, words = who, f"{folder} (mode {mode:04o}) lets {whose} rename what is in it"
            if mine and not mode & 0o011:
                return (CLOSED if worst == NOBODY else worst), words
    except OSError as error:
        if worst == NOBODY:
            return UNKNOWN, f"{error.filename} can't be looked at: {error.strerror}"
    return worst, words


def remove(path: str) -> None:
    """Remove a file. It is no error if the file does not exist, or can't be removed."""
    try:
        os.unlink(path)
    except OSError:
        pass


def whole_lines(path: str, max_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a regular file, up to its present size. Lines over max_bytes are left out.

    A path that is not a regular file, or can't be opened, gives no lines.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        return
    rest = status.st_size
    with os.fdopen(fd, "rb") as file:
        whole = True  # whether the next bytes are the beginning of a line
        while rest > 0:
            try:
                line = file.readline(min(max_bytes, rest))
            except OSError:
                return
            if not line:
                return
            rest -= len(line)
            ends = line.endswith(b"\n")
            if whole and ends:
                yield line
            whole = ends
