# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.sudoers: the commands and their hardened forms, from the runtime's one list."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ..plugin_utils import role_variables
from ..plugin_utils.runtime import runtime_module


class ActionModule(ActionBase):
    """Hands the runtime's list of commands to the module of the same name."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module on the host; see its documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        rules = runtime_module("sudo_rules")
        arguments = dict(self._task.args)
        arguments["commands"] = list(rules.COMMANDS)
        if arguments.get("mode") == "hardened" and arguments.get("state", "present") == "present":
            work_dirs = arguments.get("work_dirs") or []
            if isinstance(work_dirs, str):
                work_dirs = [part.strip() for part in work_dirs.split(",")]
            arguments["known_faults"] = role_variables.hardened_faults([str(path) for path in work_dirs])
            if not arguments["known_faults"]:
                arguments["arguments"] = rules.hardened_arguments([str(path) for path in work_dirs])
        result.update(
            self._execute_module(
                module_name="fractal.slurm.sudoers", module_args=arguments, task_vars=task_vars, wrap_async=False
            )
        )
        result["differs"] = bool(result.get("changed"))
        return result
