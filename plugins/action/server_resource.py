# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.server_resource: validates with the runtime's model before the server is touched."""

from __future__ import annotations

import json
from typing import Any

from ..plugin_utils import jobs_runner
from ..plugin_utils.config_action import ConfigActionBase
from ..plugin_utils.config_input import CheckedConfig


def _content_of(checked: CheckedConfig) -> str:
    return json.dumps(jobs_runner.to_jobs_runner_config(checked.config))


class ActionModule(ConfigActionBase):
    """Hands the validated ``jobs_runner_config`` to the module of the same name."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Validate, then run the module on the host; see its documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        return self.deploy("fractal.slurm.server_resource", _content_of, task_vars or {}, result)
