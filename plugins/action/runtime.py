# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.runtime: makes the wheels and carries them to the host, where they are missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..plugin_utils import settings_input, wheelhouse
from ..plugin_utils.arguments import convert
from ..plugin_utils.config_action import FractalActionBase

# What is needed here. All else is for the module, which checks it.
_SPEC: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "default": "present"},
    "version": {"type": "str", "default": "bundled"},
    "settings": {"type": "dict", "default": {}},
    "bin_dirs": {"type": "list", "elements": "str", "default": []},
    "find_links": {"type": "list", "elements": "str", "default": []},
    "no_index": {"type": "bool", "default": False},
    "lock": {"type": "str", "default": "bundled"},
    "cache": {"type": "str"},
}
_CONTROLLER_ONLY = ("find_links", "no_index", "cache", "lock")


class ActionModule(FractalActionBase):
    """One call of the module where the host has what is wanted; a second with the wheels where it has not."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """See the module's documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = self._task.args
        values, faults = convert({name: given[name] for name in _SPEC if name in given}, _SPEC)
        arguments = {key: value for key, value in given.items() if key not in _CONTROLLER_ONLY}
        source = None
        if values.get("state") == "present" and not faults:
            arguments["settings"] = {**_settings_of(values["bin_dirs"]), **values["settings"]}
            faults += self.fault_of(settings_input.faults, arguments["settings"])
            if values["version"] in ("bundled", "previous"):
                found: list[wheelhouse.Source] = []
                faults += self.fault_of(lambda: found.append(wheelhouse.read_source(lock=self._lock(values["lock"]))))
                source = found[0] if found else None
        elif faults:
            arguments["settings"] = {}
        if source is not None:
            arguments["bundled"] = source.folder_name
            if values["version"] == "bundled":
                arguments.update({"version": source.folder_name, "digest": source.digest})
        arguments["known_faults"] = faults
        result.update(self._call(arguments, task_vars))
        result["differs"] = bool(result.get("changed"))
        target = result.pop("target", None)
        if result.get("failed") or not result.pop("wheels_needed", False) or source is None:
            return result
        made: list[Path] = []
        faults = self.fault_of(lambda: made.extend(_wheels(source, target, values)))
        if faults:
            return {**result, "failed": True, "changed": False, "msg": "\n".join(faults), "faults": faults}
        if self._task.check_mode:
            return result
        # the folder of the first call, where it had one: Ansible takes away the last that was made, and no other
        folder = self._connection._shell.tmpdir or self._make_tmp_path()
        remote = self._connection._shell.join_path(folder, "wheels.tar")
        self._transfer_file(str(made[0]), remote)
        self._fixup_perms2((folder, remote))
        return {"differs": True, **self._call({**arguments, "wheels": remote}, task_vars)}

    def _lock(self, name: str) -> Path | None:
        """The lock that the task names."""
        if name == "bundled":
            return wheelhouse.LOCK
        return None if name == "none" else Path(self.find_file("files", name))

    def _call(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        return self.execute("fractal.slurm.runtime", arguments, task_vars)


def _settings_of(bin_dirs: list[str]) -> dict[str, str]:
    return {"slurm_bin_dir": bin_dirs[0]} if bin_dirs else {}


def _wheels(source: wheelhouse.Source, target: dict[str, str] | None, values: dict[str, Any]) -> list[Path]:
    """The archive of wheels for a host. None where its Python is not known yet: a later task installs it.

    Raises:
        AnsibleError: They can't be made.
    """
    wheelhouse.require_pip()
    if target is None:
        return []
    return [
        wheelhouse.make_archive(
            source,
            wheelhouse.Target(**target),
            cache=Path(os.path.expanduser(values.get("cache") or str(wheelhouse.default_cache()))),
            find_links=values["find_links"],
            no_index=values["no_index"],
        )
    ]
