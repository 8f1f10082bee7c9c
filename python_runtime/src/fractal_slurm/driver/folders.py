# SPDX-License-Identifier: BSD-3-Clause
"""Work folders, seen from the driver's host: who but the user may put something else in the place of a run's folder.

The driver's account looks by itself; what it can't look at is unknown. The worker looks again, on the node.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from ..errors import RunError
from ..jobs import layout
from ..node.folders import CLOSED, EVERYBODY, GROUP, NOBODY, look_above

_ACCESS_LIST = "system.posix_acl_access"


def check_work_dir(work_dir: str, user: str) -> str | None:
    """Accept a work folder, or the place where one is to be made.

    Args:
        work_dir: The folder, absolute.
        user: Whose runs are to work in it.

    Returns:
        What to know about it, in words; None if nothing.

    Raises:
        RunError: Everybody could put their own in the place of a run's folder.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return None  # sudo has the words for it
    who, words = look_above(layout.run_folder(work_dir, "RUN"), account.pw_uid, _own_group(account, work_dir))
    if who == EVERYBODY:
        raise RunError(
            f"--work-dir {work_dir}: not safe for jobs of {user}: {words}, so anybody on the host could take over a "
            "run's folder. Take that right away (chmod o-w), or give that folder the sticky bit (chmod +t)"
        )
    if who == GROUP:
        return (
            f"--work-dir {work_dir}: {words}. A job whose run folder was renamed ends without running anything; to "
            "prevent that, give the folder the sticky bit (chmod +t); in place of a link, name where it leads"
        )
    return None


def slurm_may_write(run_folder: str, user: str) -> bool:
    """Whether SLURM may open the file for a job's output in the run's folder by its path.

    It opens what it finds there as the user, links and all.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return False
    who, _words = look_above(run_folder, account.pw_uid, _own_group(account, run_folder))
    if who == CLOSED:
        return True
    try:
        status = os.lstat(run_folder)
    except OSError:
        return False
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == account.pw_uid and not status.st_mode & 0o077
    return own and who == NOBODY


def _own_group(account: pwd.struct_passwd, path: str) -> int | None:
    """The group of a user's that has no other member, if there is one, and no access list says otherwise."""
    try:
        group = grp.getgrgid(account.pw_gid)
    except KeyError:
        return None
    if group.gr_name != account.pw_name or set(group.gr_mem) - {account.pw_name}:
        return None
    while path not in ("", "/"):
        try:
            if _ACCESS_LIST in os.listxattr(path):
                return None
        except OSError:
            pass  # not there, closed, or on a file system without any
        path = os.path.dirname(path)
    return account.pw_gid


def unreachable_part(path: str | Path, last: int = stat.S_IXOTH) -> Path | None:
    """The first part of a path that other users can't pass, or that is not there; None if all can reach it.

    The modules for hosts have the same in ``plugins/module_utils/trusted_path.py``.

    Args:
        path: Absolute path. Links are followed.
        last: The bits of its mode that others need of a file at its end: to run it, by default.
    """
    for way in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        for part in reversed([Path(way), *Path(way).parents]):
            try:
                mode = part.stat().st_mode
            except OSError:
                return part
            if not mode & stat.S_IXOTH if stat.S_ISDIR(mode) else mode & last != last:
                return part
    return None


def write_whole(target: Path, pieces: Iterable[str], *, mode: int) -> None:
    """Write a file whole or not at all: beside its place, and moved there.

    Args:
        target: Its place; what is there is replaced.
        pieces: Its text.
        mode: Its mode, whatever the umask.

    Raises:
        RunError: It can't be written; what was in the place is still there.
    """
    draft = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}")
    try:
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as file:
                for piece in pieces:
                    file.write(piece)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            draft.rename(target)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
    except OSError as error:
        raise RunError(f"{target}: it can't be written: {error.strerror}") from None
