# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps a text file for a module. The file is written in one step, with check mode, diff and backup."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import re
import stat
import time

from .atomic import write_whole
from .faults import fail

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

_MAX_BYTES = 10 * 1024 * 1024
_MODE = re.compile(r"0[0-7]{3}|[67][0-7]{2}|4[04]0|444|[ugoa,]*[=+-][ugoarwx,=+-]*")


def mode_fault(mode: object) -> str | None:
    """Why nobody can mean this mode of a file, or None.

    YAML reads 0644 without quotes as the number 420. As text, 420 is another mode.
    """
    if isinstance(mode, str) and (
        re.fullmatch(r"0[0-7]{3}|[67][0-7]{2}|4[04]0|444", mode) or re.search(r"[=+-]", mode)
    ):
        return None
    return 'found %s; a mode in quotes is allowed, such as "0644" (YAML reads 0644 without quotes as 420)' % (
        repr(mode) if isinstance(mode, str) else "the number %s" % mode
    )


class ManagedFile:
    """One file on the host.

    Args:
        module: The running module, with the common file arguments.
        path: The file.
        backup: Whether to keep a copy of a file that is replaced or removed.
        manage_directory: Whether to make the file's folder where it is missing, and to remove it once it is empty.
        variable: The role's variable that names the file, for messages.
    """

    def __init__(
        self,
        module: Any,
        path: str,
        backup: bool = False,
        manage_directory: bool = False,
        variable: str | None = None,
    ) -> None:
        self._module = module
        self.path = path
        self._directory = os.path.dirname(path) or "/"
        self._backup = backup
        self._manage_directory = manage_directory
        self._hint = " (%s)" % variable if variable else ""

    def faults(self) -> list[str]:
        """Why the file can't be written, one sentence for each fault."""
        found = []
        missing = not os.path.isdir(self._directory)
        folder = os.path.dirname(self._directory) if missing and self._manage_directory else self._directory
        if not os.path.isdir(folder):
            found.append(
                "the folder %s is not there: make it first%s%s"
                % (folder, "" if self._manage_directory else ", or set manage_directory", self._hint)
            )
        else:
            fault = unwritable(folder)
            if fault:
                found.append(fault + self._hint)
        if os.path.isdir(self.path):
            found.append("%s is a folder: give the path of a file%s" % (self.path, self._hint))
        elif os.path.exists(self.path) and not os.path.isfile(self.path):
            found.append("%s is no plain file: move it away%s" % (self.path, self._hint))
        for name, known, what in (("owner", pwd.getpwnam, "user"), ("group", grp.getgrnam, "group")):
            value = self._module.params.get(name)
            if value is None or (str(value).isascii() and str(value).isdigit()):
                continue
            try:
                known(value)
            except KeyError:
                found.append("%s: the %s %s is unknown on this host" % (self.path, what, value))
        return found

    def read(self) -> str | None:
        """The file's text; None where there is no plain file.

        Raises:
            OSError: The file can't be read, or is too big.
        """
        try:
            # O_NONBLOCK: opening a pipe that lies there must not wait for its writer
            handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return None
            content = stream.read(_MAX_BYTES + 1)
            if len(content) > _MAX_BYTES:
                raise OSError(errno.EFBIG, "it has more than %d MB" % (_MAX_BYTES // 10**6), self.path)
            return content.decode("utf-8", "surrogateescape")

    def write(self, text: str) -> dict[str, Any]:
        """Give the file this text, and the owner and mode that the module's arguments name.

        Returns:
            The module's result. In check mode nothing is written.
        """
        faults = self.faults()
        if faults:
            fail(self._module, faults, path=self.path)
        try:
            return self._write(text)
        except OSError as error:
            self._fail("written", error)

    def _write(self, text: str) -> dict[str, Any]:
        before = self.read()
        result: dict[str, Any] = {"path": self.path, "changed": before != text, "diff": _diff(self.path, before, text)}
        attributes = self._module.load_file_common_arguments(self._module.params, path=self.path)
        if before != text and not self._module.check_mode:
            if not os.path.isdir(self._directory):
                os.mkdir(self._directory, 0o755)
                os.chmod(self._directory, 0o755)  # noqa: S103 - for all to read, whatever the umask
            if self._backup and before is not None:
                result["backup_file"] = self._keep_copy()
            self._put(text, attributes)
        if os.path.exists(self.path):
            result["changed"] = self._module.set_fs_attributes_if_different(attributes, result["changed"])
        return result

    def _put(self, text: str, attributes: Mapping[str, Any]) -> None:
        """Give the file its text, owner and mode in one step. So nobody can open it with other rights."""

        def prepare(temporary: str) -> None:
            # The file's time is compared with a service's start. So it comes from this host, not from a file server.
            now = time.time()
            os.utime(temporary, (now, now))
            if os.path.isfile(self.path):
                old = os.stat(self.path)
                os.chown(temporary, old.st_uid, old.st_gid)
                os.chmod(temporary, stat.S_IMODE(old.st_mode))
            elif attributes.get("mode") is None:
                os.chmod(temporary, 0o644)
            # The attributes of chattr could forbid to move the file. So they follow once it is in its place.
            at_once = dict(attributes, path=temporary, attributes=None)
            self._module.set_fs_attributes_if_different(at_once, False)

        write_whole(self.path, text.encode("utf-8", "surrogateescape"), prepare)

    def _keep_copy(self) -> str:
        """Keep the file as it is under a name with the time in it. Returns the name."""
        name = "%s.%d.%s~" % (self.path, os.getpid(), time.strftime("%Y-%m-%d@%H:%M:%S"))
        try:
            os.link(os.path.realpath(self.path), name)  # has the text, owner and mode at once
        except OSError:
            # There are no hard links here. A copy must never be more open than the file.
            os.umask(0o077)
            name = self._module.backup_local(self.path)
        return name

    def remove(self) -> dict[str, Any]:
        """Remove the file, and its folder where that is ours and empty.

        Returns:
            The module's result. In check mode nothing is removed.
        """
        try:
            return self._remove()
        except OSError as error:
            self._fail("removed", error)

    def _remove(self) -> dict[str, Any]:
        before = self.read()
        diff = _diff(self.path, before, None)
        result: dict[str, Any] = {"path": self.path, "changed": before is not None, "diff": diff}
        if before is not None and not self._module.check_mode:
            if self._backup:
                result["backup_file"] = self._keep_copy()
            os.unlink(self.path)
        if self._manage_directory and os.path.isdir(self._directory):
            left = [name for name in os.listdir(self._directory) if name != os.path.basename(self.path)]
            if not left:
                result["changed"] = True
                if not self._module.check_mode:
                    os.rmdir(self._directory)
        return result

    def _fail(self, done: str, error: OSError) -> NoReturn:
        fault = "%s can't be %s: %s%s%s" % (
            self.path,
            done,
            error.strerror or error,
            ": %s" % error.filename if error.filename and error.filename != self.path else "",
            self._hint,
        )
        fail(self._module, [fault], path=self.path)


def unwritable(folder: str) -> str | None:
    """Why nothing can be made in a folder, or None. The folder must be there."""
    if os.access(folder, os.W_OK | os.X_OK):
        return None
    try:
        read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
    except OSError:
        read_only = False
    if read_only:
        return (
            "the folder %s lies on a file system that is mounted read-only: mount it otherwise, or use another place"
            % (folder)
        )
    return "the folder %s can't be written by %s: run with become, or use another place" % (folder, _account())


def _account() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return "uid %d" % os.geteuid()


def _diff(path: str, before: str | None, after: str | None) -> dict[str, str]:
    return {
        "before_header": path if before is not None else "(absent)",
        "before": _printable(before),
        "after_header": path if after is not None else "(absent)",
        "after": _printable(after),
    }


def _printable(text: str | None) -> str:
    return (text or "").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
