# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the actions have in common that make wheels on the controller and carry them to a host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import wheelhouse
from .config_action import FractalActionBase

# Which of a task's arguments say how wheels are made.
SPEC: dict[str, dict[str, Any]] = {
    "find_links": {"type": "list", "elements": "str", "default": []},
    "no_index": {"type": "bool", "default": False},
    "lock": {"type": "str", "default": "bundled"},
    "cache": {"type": "str"},
}
CONTROLLER_ONLY = tuple(SPEC)


class WheelsActionBase(FractalActionBase):
    """An action that installs on a host what was made on the controller."""

    def lock(self, name: str) -> Path | None:
        """The lock that the task names."""
        if name == "bundled":
            return wheelhouse.LOCK
        return None if name == "none" else Path(self.find_file("files", name))

    @staticmethod
    def wheels(source: wheelhouse.Source, target: dict[str, str] | None, values: dict[str, Any]) -> list[Path]:
        """The archive of wheels for a host. None where its Python is not known yet: a later task installs it.

        Args:
            source: What is installed.
            target: What the wheels have to fit.
            values: The task's values of ``SPEC``.

        Raises:
            AnsibleError: They can't be made.
        """
        wheelhouse.require_pip()
        if target is None:
            return []
        return [
            wheelhouse.make_archive(
                source,
                wheelhouse.Target(**target),
                cache=Path(os.path.expanduser(values.get("cache") or str(wheelhouse.default_cache()))),
                find_links=values["find_links"],
                no_index=values["no_index"],
            )
        ]

    def carry(self, archive: Path) -> str:
        """Bring an archive to the host; returns its path there."""
        # the folder of the first call, where it had one: Ansible takes away the last that was made, and no other
        folder = self._connection._shell.tmpdir or self._make_tmp_path()
        remote: str = self._connection._shell.join_path(folder, "wheels.tar")
        self._transfer_file(str(archive), remote)
        self._fixup_perms2((folder, remote))
        return remote
