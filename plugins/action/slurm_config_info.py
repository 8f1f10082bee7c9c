# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of fractal.slurm.slurm_config_info: validates with the runtime's model what a host has."""

from __future__ import annotations

import base64
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ..plugin_utils import config_input
from ..plugin_utils.runtime import runtime_module


class ActionModule(ActionBase):
    """The module reads the file; what it means is found out here."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Read the file on the host and validate it; see the module's documentation."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        fail_on_invalid = boolean(self._task.args.get("fail_on_invalid", False))
        result.update(
            self._execute_module(
                module_name="fractal.slurm.slurm_config_info",
                module_args=dict(self._task.args),
                task_vars=task_vars,
                wrap_async=False,
            )
        )
        if result.get("failed"):
            return result
        raw = result.pop("raw", None)
        result.update({"valid": False, "config": None, "faults": []})
        unreadable = result.pop("unreadable", None)
        if unreadable is not None:
            result["faults"] = [f"{result['path']}: can't be read: {unreadable}"]
        elif raw is None:
            result["faults"] = [f"{result['path']}: no such file"]
        else:
            try:
                # What fractal-server reads is JSON, whatever the file is called.
                text = base64.b64decode(raw).decode("utf-8")
                data = runtime_module("config.documents").parse_json(text, source=result["path"])
                checked = config_input.check(data, result["path"])
                result.update({"valid": True, "config": checked.config, "warnings": checked.warnings})
            except UnicodeDecodeError:
                result["faults"] = [f"{result['path']}: it is not UTF-8"]
            except ValueError as error:
                result["faults"] = list(getattr(error, "messages", None) or [str(error)])
        if fail_on_invalid and not result["valid"]:
            result.update({"failed": True, "msg": "\n".join(result["faults"])})
        return result
