# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says whether others could exchange what lies at a path, and whether they can reach it. Standard library only."""

from __future__ import annotations

import grp
import os
import pwd
import stat

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_PARTS = 256


def trusted_owners(*more: int) -> frozenset[int]:
    """The uids whose files may be used: root's, our own, and further ones."""
    return frozenset((0, os.geteuid()) + more)


def fault_of_path(
    path: str, owners: frozenset[int] | None = None, private_groups: bool = False, is_made: bool = False
) -> str | None:
    """Why a path can't be trusted: another account owns a part of it, or could write it.

    Links are followed step by step. So a folder that holds a link counts, too. With the sticky bit, as /tmp has it,
    only owners may rename and remove. A folder with this bit passes as the parent of something that is there already.

    Args:
        path: An absolute path. Its last parts may be missing. Then the folder that they would be made in counts.
        owners: Uids that may own a part; None for :func:`trusted_owners`.
        private_groups: Whether a group may write that has its owner's name and no other member.
        is_made: Whether the caller makes the missing parts next, and then asks again. If so, a folder with the sticky
            bit passes as their parent, too.

    Returns:
        A sentence that names the part and says what to do, or None.
    """
    return next(faults_of_path(path, owners, private_groups, is_made), None)


def faults_of_path(
    path: str,
    owners: frozenset[int] | None = None,
    private_groups: bool = False,
    is_made: bool = False,
    strict: bool = False,
) -> Iterator[str]:
    """All that :func:`fault_of_path` would say: a sentence for each part of the path.

    Args:
        path: As for :func:`fault_of_path`.
        owners: As there.
        private_groups: As there.
        is_made: As there.
        strict: Whether a missing part is a fault, too, and a sticky bit excuses nothing.
    """
    owners = trusted_owners() if owners is None else owners
    todo = [(os.path.abspath(path), False)]
    seen = set()
    while todo:
        current, has_child = todo.pop()
        if (current, has_child) in seen:
            continue
        seen.add((current, has_child))
        if len(seen) > _MOST_PARTS:
            yield "too many links on the way to %s" % path
            return
        try:
            info: os.stat_result | None = os.lstat(current)
        except (FileNotFoundError, NotADirectoryError) as error:
            info = None
            if strict:
                yield "%s: %s" % (current, error.strerror)
        if current != "/":
            todo.append((os.path.dirname(current), is_made or info is not None))
        if info is None:
            continue
        fault = _fault_of_part(current, info, owners, private_groups, has_child and not strict)
        if fault:
            yield fault
        if stat.S_ISLNK(info.st_mode):
            # normpath would take a/link/.. for a. So the folder is resolved first.
            folder = os.path.realpath(os.path.dirname(current))
            todo.append((os.path.normpath(os.path.join(folder, os.readlink(current))), has_child))


def unreachable_part(path: str, last: int = stat.S_IXOTH) -> str | None:
    """The first part of a path that other users can't pass, or None. Links are followed. A missing part does not count.

    Args:
        path: An absolute path.
        last: The bits of the mode that others need of a file at the end of the path. The default lets them run it.
    """
    for way in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        parts = [way]
        while parts[-1] != "/":
            parts.append(os.path.dirname(parts[-1]))
        for part in reversed(parts):
            try:
                mode = os.stat(part).st_mode
            except (FileNotFoundError, NotADirectoryError):
                break
            if not mode & stat.S_IXOTH if stat.S_ISDIR(mode) else mode & last != last:
                return part
    return None


def fault_of_tree(folder: str, owners: frozenset[int] | None = None) -> str | None:
    """Why something below a folder can't be trusted. Links that lead out of the folder are looked at, too.

    The way to the folder itself is not: see :func:`fault_of_path`.

    Returns:
        A sentence, or None.
    """
    owners = trusted_owners() if owners is None else owners
    inside = os.path.realpath(folder) + "/"
    todo = [folder]
    while todo:
        current = todo.pop()
        info = os.lstat(current)
        fault = _fault_of_part(current, info, owners, False, False)
        if fault:
            return fault
        if stat.S_ISDIR(info.st_mode):
            todo += [os.path.join(current, name) for name in os.listdir(current)]
        elif stat.S_ISLNK(info.st_mode):
            target = os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(current)), os.readlink(current)))
            fault = None if target.startswith(inside) else fault_of_path(target, owners)
            if fault:
                return fault
        elif not stat.S_ISREG(info.st_mode):
            return "%s is neither a file, nor a folder, nor a link" % current
    return None


def _fault_of_part(
    path: str, info: os.stat_result, owners: frozenset[int], private_groups: bool, has_child: bool
) -> str | None:
    if info.st_uid not in owners:
        return "%s belongs to %s, who could exchange what is in it: it must belong to %s" % (
            path,
            _name_of(info.st_uid),
            " or ".join(_name_of(uid) for uid in sorted(owners)),
        )
    if stat.S_ISLNK(info.st_mode):
        return None
    writers = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not writers or (has_child and info.st_mode & stat.S_ISVTX):
        return None
    if private_groups and writers == stat.S_IWGRP and _is_private(info):
        return None
    return (
        "%s can be written by others (mode %04o): see what is in it, then run chmod go-w %s, or use another place"
        % (
            path,
            stat.S_IMODE(info.st_mode),
            path,
        )
    )


def _is_private(info: os.stat_result) -> bool:
    """Whether the group of a file is the one that distributions make for the file's owner alone."""
    try:
        owner, group = pwd.getpwuid(info.st_uid), grp.getgrgid(info.st_gid)
    except KeyError:
        return False
    return info.st_uid != 0 and owner.pw_name == group.gr_name and set(group.gr_mem) <= {owner.pw_name}


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "uid %d" % uid
