# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.runtime: makes the wheels and carries them to the host, where they are missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ..plugin_utils import settings_input, wheelhouse

_CONTROLLER_ONLY = ("find_links", "no_index", "cache", "lock")


class ActionModule(ActionBase):
    """One call of the module where the host has what is wanted; a second with the wheels where it has not."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """See the module's documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {key: value for key, value in self._task.args.items() if key not in _CONTROLLER_ONLY}
        arguments["known_faults"] = settings_input.faults(arguments.get("settings") or {})
        bundled = arguments.get("state", "present") == "present" and arguments.get("version", "bundled") == "bundled"
        if bundled:
            source = wheelhouse.read_source(lock=self._lock())
            arguments.update({"version": source.folder_name, "digest": source.digest})
        result.update(self._call(arguments, task_vars))
        result["differs"] = bool(result.get("changed"))
        if result.get("failed") or not result.pop("wheels_needed", False):
            return result
        wheelhouse.require_pip()  # in the preflight, too: before anything is changed
        if self._task.check_mode:
            return result
        target = wheelhouse.Target(**result["target"])
        archive = wheelhouse.make_archive(
            source,
            target,
            cache=Path(os.path.expanduser(self._task.args.get("cache") or str(wheelhouse.default_cache()))),
            find_links=list(self._task.args.get("find_links") or []),
            no_index=boolean(self._task.args.get("no_index", False)),
        )
        # the folder of the first call, where it had one: Ansible takes away the last that was made, and no other
        folder = self._connection._shell.tmpdir or self._make_tmp_path()
        remote = self._connection._shell.join_path(folder, "wheels.tar")
        self._transfer_file(str(archive), remote)
        self._fixup_perms2((folder, remote))
        return {"differs": True, **self._call({**arguments, "wheels": remote}, task_vars)}

    def _lock(self) -> Path | None:
        """The lock that the task names."""
        name = str(self._task.args.get("lock") or "bundled")
        if name == "bundled":
            return wheelhouse.LOCK
        return None if name == "none" else Path(self._find_needle("files", name))

    def _call(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        outcome: dict[str, Any] = self._execute_module(
            module_name="fractal.slurm.runtime", module_args=arguments, task_vars=task_vars, wrap_async=False
        )
        return outcome
