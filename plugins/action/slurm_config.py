# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.slurm_config: validates with the runtime's model before the host is touched."""

from __future__ import annotations

from typing import Any

from ..plugin_utils.config_action import ConfigActionBase


class ActionModule(ConfigActionBase):
    """Hands the validated JSON text to the module of the same name."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Validate, then run the module on the host; see its documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = {key: value for key, value in self._task.args.items() if key not in ("src", "template")}
        warnings: list[str] = []
        if arguments.get("state", "present") == "present":
            try:
                checked = self.load_config(task_vars)
            except ValueError as error:
                return {**result, **self.refusal(error)}
            arguments["content"] = checked.text
            warnings += checked.warnings
        outcome = self._execute_module(
            module_name="fractal.slurm.slurm_config", module_args=arguments, task_vars=task_vars, wrap_async=False
        )
        result.update(outcome)
        if warnings:
            result["warnings"] = [*result.get("warnings", []), *warnings]
        return result
