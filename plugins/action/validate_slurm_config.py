# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validates a SLURM configuration on the controller; see the module of the same name."""

from __future__ import annotations

from typing import Any

from ..plugin_utils.config_action import ConfigActionBase


class ActionModule(ConfigActionBase):
    """Needs no connection and no rights on any host."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("content", "src", "template", "job_hook"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Validate the configuration of one host."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            checked = self.load_config(task_vars or {})
        except ValueError as error:
            return {**result, **self.refusal(error)}
        return {**result, "changed": False, "config": checked.config, "warnings": checked.warnings}
