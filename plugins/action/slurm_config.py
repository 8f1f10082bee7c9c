# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.slurm_config: validates with the runtime's model before the host is touched."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import BOOLEANS, boolean

from ..plugin_utils.arguments import convert
from ..plugin_utils.cluster import look
from ..plugin_utils.config_action import ConfigActionBase
from ..plugin_utils.runtime import runtime_module

_HERE_ONLY = ("src", "template", "against_cluster", "users", "bin_dirs")
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
                    faults += self._against_cluster(values, checked.model, task_vars, warnings, result)
            except ValueError as error:
                faults += self.refusal(error)["faults"]
        known = [*values.get("known_faults", []), *faults]
        if known:  # the module adds what it finds on the host, and fails
            arguments = {**arguments, "content": None, "known_faults": known}
        outcome = self.execute("fractal.slurm.slurm_config", arguments, task_vars)
        result.update(outcome)
        result["differs"] = bool(result.get("changed"))
        if warnings:
            result["warnings"] = [*result.get("warnings", []), *warnings]
        return result

    def _against_cluster(
        self,
        values: dict[str, Any],
        config: Any,
        task_vars: dict[str, Any],
        warnings: list[str],
        result: dict[str, Any],
    ) -> list[str]:
        """Compare the configuration with the host's cluster, if that is asked for.

        Args:
            values: The task's arguments.
            config: The runtime's model of the configuration.
            task_vars: The task's variables.
            warnings: Gets the comparison's warnings.
            result: Gets its advice.

        Returns:
            The faults: what does not fit.
        """
        wanted = values["against_cluster"]
        wanted = wanted.strip().lower() if isinstance(wanted, str) else wanted
        if wanted != "auto" and wanted not in BOOLEANS:
            return [f"against_cluster: found {wanted!r}; auto, true and false are allowed"]
        if wanted != "auto" and not boolean(wanted):
            return []
        outcome, cluster = look(
            self._execute_module,
            users=values["users"],
            bin_dirs=values["bin_dirs"],
            accounting=True,
            timeout=30,
            task_vars=task_vars,
        )
        if cluster is None:
            why = list(outcome.get("faults") or [outcome.get("msg") or "it can't be asked"])
            if wanted != "auto":
                return why
            warnings.append(
                "the configuration is not compared with the cluster (fractal_slurm_config_against_cluster), which does "
                f"not answer: {' '.join('; '.join(map(str, why)).split())}"
            )
            return []
        fit = runtime_module("cluster.fit")
        findings = fit.check(config, cluster, users=outcome["users"])
        by_severity = {
            severity: [str(finding) for finding in findings if finding.severity is severity]
            for severity in fit.Severity
        }
        warnings += [*outcome.get("warnings", []), *by_severity[fit.Severity.WARNING]]
        result["advice"] = by_severity[fit.Severity.ADVICE]
        return by_severity[fit.Severity.ERROR]
