# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes and removes the folders in which the probe jobs of verify work. What is not ours is never touched.

Call these functions as the user who owns the folders. Standard library only.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import time

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

# Folders of such a name may lie beside ours: a probe of another host works there, or a probe was killed.
_NAME = re.compile(r"verify-[0-9a-f]{16}")


def expand(template: str, user: str, home: str) -> str:
    """The probe folder of a user.

    Args:
        template: A path. Each part that is just USER or HOME is replaced.
        user: The user's name.
        home: The user's home folder.

    Raises:
        ValueError: The result is not absolute, or has ``..`` in it.
    """
    known = {"USER": user, "HOME": home.strip("/")}
    parts = template.split("/")
    path = "/".join(known.get(part, part) for part in parts)
    if parts[0] == "HOME":
        path = "/" + path
    if not path.startswith("/") or ".." in parts:
        raise ValueError(
            "the probe folder %r is not allowed: it must be absolute, or begin with HOME/, and be without '..'"
            % template
        )
    return os.path.normpath(path)


def make(folder: str) -> list[tuple[str, int, int]]:
    """Make a new folder below ``folder``, and the folders that are missing on the way.

    Args:
        folder: An absolute path. If the folder exists, it must hold nothing but folders of other probes.

    Returns:
        All folders that were made, from the outermost to the new one: a list of (path, device, inode).

    Raises:
        OSError: The new folder can't be made, or ``folder`` holds something else.
    """
    made = []
    try:
        missing = []
        parent = folder
        while not os.path.lexists(parent):
            missing.append(parent)
            parent = os.path.dirname(parent)
        for path in reversed(missing):
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:  # another host's probe was faster
                continue
            made.append(_identity(path))
        foreign = sorted(name for name in os.listdir(folder) if not _NAME.fullmatch(name))
        if foreign:
            raise OSError(
                "the probe folder %s is not empty (%r is in it): nothing is tried in it, and nothing removed; name a "
                "folder that is not there yet (fractal_slurm_verify_dir)" % (folder, foreign[0])
            )
        path = os.path.join(folder, "verify-" + secrets.token_hex(8))
        os.mkdir(path, 0o700)
        made.append(_identity(path))
    except OSError:
        for path, device, inode in reversed(made):
            _remove_empty(path, device, inode)
        raise
    return made


def _identity(path: str) -> tuple[str, int, int]:
    info = os.lstat(path)
    return path, info.st_dev, info.st_ino


def remove(made: Sequence[tuple[str, int, int]]) -> None:
    """Remove what :func:`make` made: the new folder with all that is in it, and the others if they are empty.

    A folder that was exchanged meanwhile is left alone. Links are not followed.

    Raises:
        OSError: The new folder can't be removed.
    """
    path, device, inode = made[-1]
    for attempt in range(3):  # a job may still write its last files
        try:
            _clear(path, device, inode)
            _remove_empty(path, device, inode)
        except FileNotFoundError:
            break
        if not os.path.lexists(path) or _identity(path)[1:] != (device, inode):
            break
        time.sleep(attempt)
    else:
        raise OSError("the probe's folder %s can't be removed: something is still writing in it" % path)
    for path, device, inode in reversed(made[:-1]):
        _remove_empty(path, device, inode)


def _clear(path: str, device: int, inode: int) -> None:
    """Remove all that is in a folder. Its descriptor is used, so that nobody can exchange it meanwhile."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        info = os.fstat(handle)
        if (info.st_dev, info.st_ino) != (device, inode):
            return
        for _folder, folders, names, parent in os.fwalk(".", topdown=False, dir_fd=handle):
            for name in names:
                os.unlink(name, dir_fd=parent)
            for name in folders:
                if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    os.unlink(name, dir_fd=parent)
                else:
                    _quietly(os.rmdir, name, dir_fd=parent)
    finally:
        os.close(handle)


def _remove_empty(path: str, device: int, inode: int) -> None:
    try:
        if _identity(path)[1:] != (device, inode):
            return
    except OSError:
        return
    _quietly(os.rmdir, path)


def _quietly(function: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Call a function that removes a folder. The folder may stay, as when it is not empty."""
    try:
        function(*arguments, **options)
    except OSError:
        pass
