# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.runtime: makes the wheels and carries them to the host, where they are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..plugin_utils import settings_input, wheelhouse
from ..plugin_utils.arguments import convert
from ..plugin_utils.wheels_action import CONTROLLER_ONLY, SPEC, WheelsActionBase

# What is needed here. All else is for the module, which checks it.
_SPEC: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "default": "present"},
    "version": {"type": "str", "default": "bundled"},
    "settings": {"type": "dict", "default": {}},
    "bin_dirs": {"type": "list", "elements": "str", "default": []},
    **SPEC,
}


class ActionModule(WheelsActionBase):
    """One call of the module where the host has what is wanted; a second with the wheels where it has not."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """See the module's documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = self._task.args
        values, faults = convert({name: given[name] for name in _SPEC if name in given}, _SPEC)
        arguments = {key: value for key, value in given.items() if key not in CONTROLLER_ONLY}
        source = None
        if values.get("state") == "present" and not faults:
            arguments["settings"] = {**_settings_of(values["bin_dirs"]), **values["settings"]}
            faults += self.fault_of(settings_input.faults, arguments["settings"])
            if values["version"] in ("bundled", "previous"):
                found: list[wheelhouse.Source] = []
                faults += self.fault_of(lambda: found.append(wheelhouse.read_source(lock=self.lock(values["lock"]))))
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
        faults = self.fault_of(lambda: made.extend(self.wheels(source, target, values)))
        if faults:
            return {**result, "failed": True, "changed": False, "msg": "\n".join(faults), "faults": faults}
        if self._task.check_mode:
            return result
        return {"differs": True, **self._call({**arguments, "wheels": self.carry(made[0])}, task_vars)}

    def _call(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        return self.execute("fractal.slurm.runtime", arguments, task_vars)


def _settings_of(bin_dirs: list[str]) -> dict[str, str]:
    return {"slurm_bin_dir": bin_dirs[0]} if bin_dirs else {}
