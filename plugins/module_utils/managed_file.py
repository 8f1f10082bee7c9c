# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""A text file that a module keeps: written in one step, with check mode, diff and backup."""

from __future__ import annotations

import grp
import os
import pwd
import tempfile


class ManagedFile:
    """One file on the host.

    Args:
        module: The running module, with the common file arguments.
        path: The file.
        backup: Keep a copy of a file that is replaced or removed.
        manage_directory: Make the folder where it is missing, and remove it once it is empty.
    """

    def __init__(self, module, path, backup=False, manage_directory=False):
        self._module = module
        self.path = path
        self._directory = os.path.dirname(path) or "/"
        self._backup = backup
        self._manage_directory = manage_directory

    def faults(self):
        """Why the file could not be written, one sentence each."""
        found = []
        if not os.path.isdir(self._directory):
            if not self._manage_directory:
                found.append("the folder %s is not there: make it first, or set manage_directory" % self._directory)
            elif not os.path.isdir(os.path.dirname(self._directory)):
                found.append("the folder %s is not there: make it first" % os.path.dirname(self._directory))
        elif not os.access(self._directory, os.W_OK):
            found.append("the folder %s can't be written: run with become" % self._directory)
        if os.path.isdir(self.path):
            found.append("%s is a folder: give the path of a file" % self.path)
        for name, known, what in (("owner", pwd.getpwnam, "user"), ("group", grp.getgrnam, "group")):
            value = self._module.params.get(name)
            if value is None or str(value).isdigit():
                continue
            try:
                known(value)
            except KeyError:
                found.append("%s: the %s %s is unknown on this host" % (self.path, what, value))
        return found

    def read(self):
        """The file's text, or None where there is none."""
        try:
            with open(self.path, encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except (FileNotFoundError, IsADirectoryError):
            return None

    def write(self, text):
        """Bring the file to this text, and to the owner and mode that the module's arguments ask for.

        Returns:
            The module's result. In check mode nothing is written.
        """
        faults = self.faults()
        if faults:
            self._module.fail_json(msg="\n".join(faults), faults=faults, path=self.path)
        before = self.read()
        result = {"path": self.path, "changed": before != text, "diff": _diff(self.path, before, text)}
        if before != text and not self._module.check_mode:
            if not os.path.isdir(self._directory):
                os.mkdir(self._directory)
                os.chmod(self._directory, 0o755)  # noqa: S103 - for all to read, whatever the umask
            if self._backup and before is not None:
                result["backup_file"] = self._module.backup_local(self.path)
            handle, temporary = tempfile.mkstemp(dir=self._module.tmpdir)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            self._module.atomic_move(temporary, self.path)
        if os.path.exists(self.path):
            attributes = self._module.load_file_common_arguments(self._module.params, path=self.path)
            result["changed"] = self._module.set_fs_attributes_if_different(attributes, result["changed"])
        return result

    def remove(self):
        """Remove the file, and the folder where it is ours and empty.

        Returns:
            The module's result. In check mode nothing is removed.
        """
        before = self.read()
        result = {"path": self.path, "changed": before is not None, "diff": _diff(self.path, before, None)}
        if before is not None and not self._module.check_mode:
            if self._backup:
                result["backup_file"] = self._module.backup_local(self.path)
            os.unlink(self.path)
        if self._manage_directory and os.path.isdir(self._directory):
            left = [name for name in os.listdir(self._directory) if name != os.path.basename(self.path)]
            if not left:
                result["changed"] = True
                if not self._module.check_mode:
                    os.rmdir(self._directory)
        return result


def _diff(path, before, after):
    return {
        "before_header": path if before is not None else "(absent)",
        "before": before or "",
        "after_header": path if after is not None else "(absent)",
        "after": after or "",
    }
