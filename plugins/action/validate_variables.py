# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks the roles' variables on the controller; see the module of the same name."""

from __future__ import annotations

from typing import Any

from ..plugin_utils import jobs_runner, role_variables
from ..plugin_utils.config_action import ConfigActionBase

# Where the role puts the hook, whichever folder is the runtime's: it is the form that is looked at.
_HOOK = "/opt/fractal-slurm/current/share/fractal-slurm/node/fractal-job.sh"


class ActionModule(ConfigActionBase):
    """Needs no connection and no rights on any host."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("roles",))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check the variables of one host."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "roles": {
                    "type": "list",
                    "elements": "str",
                    "choices": list(role_variables.ROLE_TAGS),
                    "default": list(role_variables.ROLE_TAGS),
                }
            }
        )
        faults, warnings = role_variables.check_names(variables)
        for role in role_variables.chosen_roles(
            arguments["roles"], variables.get("ansible_run_tags", ()), variables.get("ansible_skip_tags", ())
        ):
            values, found = role_variables.check_values(
                role, variables, lambda name: self._templar.template(variables[name])
            )
            faults += found
            if role == "slurm_config" and values.get("fractal_slurm_config_state") == "present":
                names = {kind: f"fractal_slurm_config_{kind}" for kind in ("content", "src", "template")}
                if any(name in variables and name not in values for name in names.values()):
                    continue  # it could not be rendered: said already
                try:
                    source = {kind: values.get(name) for kind, name in names.items()}
                    if values.get("fractal_slurm_config_job_hook"):
                        source["job_hook"] = values.get("fractal_slurm_config_job_hook_path") or _HOOK
                    checked = self.load_config(variables, source)
                    warnings += checked.warnings
                    if values.get("fractal_slurm_config_resource"):
                        jobs_runner.to_jobs_runner_config(checked.config)
                except ValueError as error:
                    faults += self.refusal(error)["faults"]
        faults = list(dict.fromkeys(faults))
        result.update({"changed": False, "faults": faults, "warnings": warnings})
        if faults:
            result.update({"failed": True, "msg": "\n".join(faults)})
        return result
