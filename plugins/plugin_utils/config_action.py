# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins for SLURM configurations have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

from . import config_input
from .runtime import preload

preload("config_file")


class ConfigActionBase(ActionBase):
    """An action that takes a configuration as ``content``, ``src`` or ``template``."""

    def load_config(
        self, task_vars: dict[str, Any], arguments: Mapping[str, Any] | None = None
    ) -> config_input.CheckedConfig:
        """The task's configuration, validated.

        Args:
            task_vars: The task's variables.
            arguments: What names the configuration; None for the task's arguments.

        Raises:
            AnsibleActionFail: The arguments name none, or several, or a file that can't be found.
            ValueError: It is not valid; one line for each fault.
        """

        def render(name: str) -> Any:
            lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
            return lookup.run([name], variables=task_vars)[0]

        return config_input.load(
            self._task.args if arguments is None else arguments,
            task_vars.get("inventory_hostname", "this host"),
            self._find_needle,
            self._loader.get_real_file,
            render,
        )

    @staticmethod
    def refusal(error: ValueError) -> dict[str, Any]:
        """The task's result for a configuration that is not valid."""
        faults = list(getattr(error, "messages", None) or [str(error)])
        return {"failed": True, "changed": False, "msg": "\n".join(faults), "faults": faults}
