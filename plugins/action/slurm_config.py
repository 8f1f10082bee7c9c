# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.slurm_config: validates with the runtime's model before the host is touched."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

from ..plugin_utils.cluster import look
from ..plugin_utils.config_action import ConfigActionBase
from ..plugin_utils.runtime import runtime_module

_HERE_ONLY = ("src", "template", "against_cluster", "users", "bin_dirs")


class ActionModule(ConfigActionBase):
    """Hands the validated JSON text to the module of the same name."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Validate, then run the module on the host; see its documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        arguments = {key: value for key, value in self._task.args.items() if key not in _HERE_ONLY}
        warnings: list[str] = []
        if arguments.get("state", "present") == "present":
            try:
                checked = self.load_config(task_vars)
            except ValueError as error:
                return {**result, **self.refusal(error)}
            arguments["content"] = checked.text
            warnings += checked.warnings
            if boolean(self._task.args.get("against_cluster", False)):
                misfit = self._against_cluster(checked.model, task_vars, warnings, result)
                if misfit is not None:
                    return {**result, **misfit}
        outcome = self._execute_module(
            module_name="fractal.slurm.slurm_config", module_args=arguments, task_vars=task_vars, wrap_async=False
        )
        result.update(outcome)
        result["differs"] = bool(result.get("changed"))
        if warnings:
            result["warnings"] = [*result.get("warnings", []), *warnings]
        return result

    def _against_cluster(
        self, config: Any, task_vars: dict[str, Any], warnings: list[str], result: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Compare the configuration with the host's cluster.

        Args:
            config: The runtime's model of the configuration.
            task_vars: The task's variables.
            warnings: Gets the comparison's warnings.
            result: Gets its advice.

        Returns:
            The task's result where it does not fit; else None.
        """
        outcome, cluster = look(
            self._execute_module,
            users=list(self._task.args.get("users") or []),
            bin_dirs=list(self._task.args.get("bin_dirs") or []),
            accounting=True,
            timeout=30,
            task_vars=task_vars,
        )
        if cluster is None:
            return outcome
        fit = runtime_module("fit")
        findings = fit.check(config, cluster, users=outcome["users"])
        by_severity = {
            severity: [str(finding) for finding in findings if finding.severity is severity]
            for severity in fit.Severity
        }
        warnings += [*outcome.get("warnings", []), *by_severity[fit.Severity.WARNING]]
        result["advice"] = by_severity[fit.Severity.ADVICE]
        faults = by_severity[fit.Severity.ERROR]
        if not faults:
            return None
        return {"failed": True, "changed": False, "msg": "\n".join(faults), "faults": faults, "warnings": warnings}
