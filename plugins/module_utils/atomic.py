# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes files and links that take their place in one step. Nobody ever sees half of one. Standard library only."""

from __future__ import annotations

import contextlib
import os
import tempfile

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable


def write_whole(
    path: str, content: bytes, prepare: Callable[[str], object] | None = None, prefix: str = ".fractal-slurm-"
) -> None:
    """Write a file beside its place, then move it there.

    Args:
        path: The file's place.
        content: What the file holds.
        prepare: Called with the path of the new file before it is moved, to set its owner and mode. Without it, the
            file belongs to the caller and has the mode 0600.
        prefix: What the new file's name begins with until it is moved.

    Raises:
        OSError: The file can't be written. What was in the place is still there.
    """
    handle, temporary = tempfile.mkstemp(prefix=prefix, dir=os.path.dirname(path) or ".")  # 0600
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if prepare is not None:
            prepare(temporary)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def replace_link(path: str, target: str) -> None:
    """Make a symbolic link. It replaces what is in its place.

    Raises:
        OSError: The link can't be made. What was in the place is still there.
    """
    temporary = "%s.new-%d" % (path, os.getpid())
    os.symlink(target, temporary)
    try:
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
