# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.server_resource_info: validates with the runtime's model what a server has."""

from __future__ import annotations

from typing import Any

from ..plugin_utils import jobs_runner
from ..plugin_utils.config_action import FractalActionBase


class ActionModule(FractalActionBase):
    """The module reads the resources; what they mean is found out here."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Read the resources and validate them; see the module's documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(self.execute("fractal.slurm.server_resource_info", self._task.args, task_vars))
        if not result.get("failed"):
            result["resources"] = [{**entry, **_judged(entry)} for entry in result.get("resources", [])]
        return result


def _judged(resource: dict[str, Any]) -> dict[str, Any]:
    """What there is to say of a resource's configuration."""
    if not str(resource.get("type")).startswith("slurm"):
        return {"valid": True, "config": None, "faults": []}
    try:
        config = jobs_runner.from_jobs_runner_config(resource.get("jobs_runner_config"))
    except ValueError as error:
        faults = list(getattr(error, "messages", None) or str(error).splitlines())
        return {
            "valid": False,
            "config": None,
            "faults": [f"resource {resource.get('name')}: {each}" for each in faults],
        }
    return {"valid": True, "config": config, "faults": []}
