# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.cluster_info: understands what SLURM printed on the host."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from ..plugin_utils.cluster import look, of_users


class ActionModule(ActionBase):
    """The module runs the commands, the runtime's parser reads their output."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Look at the cluster; see the module's documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "users": {"type": "list", "elements": "str", "default": []},
                "accounting": {"type": "bool", "default": True},
                "bin_dirs": {"type": "list", "elements": "str", "default": []},
                "timeout": {"type": "int", "default": 30},
            }
        )
        outcome, cluster = look(self._execute_module, task_vars=task_vars, **arguments)
        result.update(outcome)
        if cluster is not None:
            result["cluster"] = of_users(cluster.as_dict(), outcome["users"])
        return result
