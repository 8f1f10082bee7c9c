# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and links that take their place in one step: nobody ever sees half of one. Standard library only."""

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
    """Write a file beside its place, and move it there.

    Args:
        path: Its place.
        content: Bytes.
        prepare: Called with the path of the new file before it is moved: for owner and mode, which are the caller's
            and 0600 without it.
        prefix: What the new file's name begins with until then.

    Raises:
        OSError: It can't be written; what was in the place is still there.
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
    """Make a symbolic link, in the place of what is there.

    Raises:
        OSError: It can't be made; what was in the place is still there.
    """
    temporary = "%s.new-%d" % (path, os.getpid())
    os.symlink(target, temporary)
    try:
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
