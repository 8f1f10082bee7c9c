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
        return self.deploy("fractal.slurm.slurm_config", lambda checked: checked.text, task_vars or {}, result)
