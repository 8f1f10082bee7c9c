# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.slurm_config: validates with the runtime's model before the host is touched."""

from __future__ import annotations

from typing import Any

from ..plugin_utils.arguments import convert
from ..plugin_utils.config_action import ConfigActionBase

_HERE_ONLY = ("src", "template", "job_hook", "against_cluster", "users", "bin_dirs")
_SPEC: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "default": "present"},
    "against_cluster": {"type": "raw", "default": False},
    "users": {"type": "list", "elements": "str", "default": []},
    "bin_dirs": {"type": "list", "elements": "str", "default": []},
    "known_faults": {"type": "list", "elements": "raw", "default": []},
}


class ActionModule(ConfigActionBase):
    """Hands the validated JSON text to the module of the same name."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Validate, then run the module on the host; see its documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        given = self._task.args
        values, faults = convert({name: given[name] for name in _SPEC if name in given}, _SPEC)
        arguments = {key: value for key, value in given.items() if key not in _HERE_ONLY}
        warnings: list[str] = []
        if values.get("state") == "present":
            try:
                checked = self.load_config(task_vars)
                arguments["content"] = checked.text
                warnings += checked.warnings
                if not faults:
                    faults += self.against_cluster(values, checked.model, task_vars, warnings, result)
            except ValueError as error:
                faults += self.refusal(error)["faults"]
        known = list(dict.fromkeys([*values.get("known_faults", []), *faults]))
        if known:  # the module adds what it finds on the host, and fails
            arguments = {**arguments, "content": None, "known_faults": known}
        outcome = self.execute("fractal.slurm.slurm_config", arguments, task_vars)
        result.update(outcome)
        result["differs"] = bool(result.get("changed"))
        if warnings:
            result["warnings"] = [*result.get("warnings", []), *warnings]
        return result
