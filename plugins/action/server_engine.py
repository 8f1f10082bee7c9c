# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.server_engine: makes the wheels, and carries them to a host that lacks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..plugin_utils import wheelhouse
from ..plugin_utils.arguments import convert
from ..plugin_utils.wheels_action import CONTROLLER_ONLY, SPEC, WheelsActionBase


class ActionModule(WheelsActionBase):
    """One call of the module where the host has what is wanted; a second with the wheels where it has not."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """See the module's documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = self._task.args
        spec = {"state": {"type": "str", "default": "present"}, **SPEC}
        values, faults = convert({name: given[name] for name in spec if name in given}, spec)
        arguments = {key: value for key, value in given.items() if key not in CONTROLLER_ONLY}
        found: list[wheelhouse.Source] = []
        if values.get("state") == "present" and not faults:
            faults += self.fault_of(lambda: found.append(wheelhouse.read_source(lock=self.lock(values["lock"]))))
            for source in found:
                arguments.update({"version": source.folder_name, "digest": source.digest})
        arguments["known_faults"] = faults
        result.update(self.execute("fractal.slurm.server_engine", arguments, task_vars))
        result["differs"] = bool(result.get("changed"))
        target = result.pop("target", None)
        if result.get("failed") or not result.pop("wheels_needed", False) or not found:
            return result
        made: list[Path] = []
        faults = self.fault_of(lambda: made.extend(self.wheels(found[0], target, values)))
        if faults:
            return {**result, "failed": True, "changed": False, "msg": "\n".join(faults), "faults": faults}
        # In check mode, too: the engine is asked before anything is changed.
        arguments["wheels"] = self.carry(made[0])
        result.update(self.execute("fractal.slurm.server_engine", arguments, task_vars))
        return {**result, "differs": bool(result.get("changed"))}
