#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell the service where the SLURM configuration is, and restart it where it has to read it anew."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_environment
short_description: Tell fractal-server's service where the SLURM configuration is, and restart it
version_added: "0.2.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Keeps C(FRACTAL_SLURM_CONFIG_FILE) in an environment file, in a drop-in of a systemd unit, or in both.
  - Restarts a unit where one of these, or the configuration itself, is newer than its last start. So a restart that a
    failure kept from happening is made up for by the next run.
extends_documentation_fragment:
  - fractal.slurm.attributes
  - fractal.slurm.attributes.runtime
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Of an environment file the line of ours alone is shown, since others may be secrets.
  idempotent:
    support: full
options:
  state:
    description:
      - Whether the service is told.
      - With V(absent) the line and the drop-in are removed, and nothing is restarted, since the service would not come
        up without a configuration.
    type: str
    choices: [present, absent]
    default: present
  config_path:
    description: The config file on the host.
    type: path
    required: true
  environment_file:
    description:
      - An environment file of the service. Its other lines, owner and mode stay as they are. One that is made here has
        the mode 0644.
    type: path
  systemd_unit:
    description: The service's systemd unit, which gets the drop-in C(fractal-slurm.conf).
    type: str
  restart_unit:
    description: The systemd unit to restart. One that is stopped is started only if something changed in this run.
    type: str
  config_changed:
    description: Whether the configuration was changed in this run.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Tell the service, and restart it where that is due
  fractal.slurm.service_environment:
    config_path: /etc/fractal/slurm_config.json
    environment_file: /etc/fractal/server.env

- name: Take it away
  fractal.slurm.service_environment:
    state: absent
    config_path: /etc/fractal/slurm_config.json
    environment_file: /etc/fractal/server.env
"""

RETURN = r"""
restarted:
  description: Whether the unit was restarted, or would be in check mode.
  returned: success
  type: bool
  sample: true
faults:
  description: All that is wrong, one sentence each.
  returned: on failure
  type: list
  elements: str
  sample: ["fractal_slurm_config_restart_unit: systemd knows no unit fractal.service on this host"]
"""

import os
import re

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import systemd
from ..module_utils.faults import fail
from ..module_utils.managed_file import ManagedFile

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from typing import Any

_VARIABLE = "FRACTAL_SLURM_CONFIG_FILE"
_LINE = re.compile(r"^\s*(export\s+)?%s=" % _VARIABLE)


def with_line(text: str | None, config_path: str | None) -> str:
    """Put our line into the text of an environment file, or take it out.

    Only one such line stays. It takes the place of the last one.

    Args:
        text: The text that the file has now. None where there is no file.
        config_path: The value of the line. None where the line is to go.

    Returns:
        The new text.
    """
    lines = (text or "").splitlines()
    ours = [number for number, line in enumerate(lines) if _LINE.match(line)]
    kept = [line for number, line in enumerate(lines) if number not in ours]
    if config_path is not None:
        place = ours[-1] - len(ours) + 1 if ours else len(kept)
        kept.insert(place, "%s=%s" % (_VARIABLE, config_path))
    return "".join(line + "\n" for line in kept)


def drop_in(config_path: str) -> str:
    """Make the text of the drop-in."""
    return systemd.drop_in_text("slurm_config", {_VARIABLE: config_path})


class Service:
    """The service on this host.

    Args:
        module: The running module.
    """

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        params = module.params
        self._present = params["state"] == "present"
        self._config_path: str = params["config_path"]
        self._restart_unit: str | None = params["restart_unit"] or None
        self._unit: str | None = params["systemd_unit"] or None
        self._environment: ManagedFile | None = None
        self._drop_in: ManagedFile | None = None
        if params["environment_file"]:
            self._environment = ManagedFile(
                module, params["environment_file"], variable="fractal_slurm_config_environment_file"
            )
        if self._unit:
            self._drop_in = ManagedFile(
                module,
                systemd.drop_in_path(self._unit, "fractal-slurm.conf"),
                manage_directory=True,
                variable="fractal_slurm_config_systemd_unit",
            )

    def faults(self) -> list[str]:
        """Find all that would keep the service from being told or restarted, one sentence each."""
        found: list[str] = []
        if re.search(r"[\n\r]", self._config_path):
            found.append("fractal_slurm_config_path: found %r; a path in one line is allowed" % self._config_path)
        if not self._present:
            return found
        if self._environment is not None:
            found += self._environment.faults()
        if self._drop_in is not None and self._unit is not None:
            found += self._drop_in.faults()
            found += systemd.unit_faults("fractal_slurm_config_systemd_unit", self._unit, must_exist=False)
        if self._restart_unit is not None:
            found += systemd.unit_faults("fractal_slurm_config_restart_unit", self._restart_unit, must_exist=True)
            if os.geteuid() != 0:
                found.append("fractal_slurm_config_restart_unit: root restarts services: run with become")
        return found

    def apply(self) -> dict[str, Any]:
        """Bring the service to what is wanted. Returns the module's result."""
        outcomes = []
        if self._environment is not None:
            outcomes.append(self._keep_line(self._environment))
        if self._drop_in is not None:
            outcome = self._drop_in.write(drop_in(self._config_path)) if self._present else self._drop_in.remove()
            outcomes.append(outcome)
            if outcome["changed"] and not self._module.check_mode:
                systemd.act(self._module, "daemon-reload")
        changed = any(outcome["changed"] for outcome in outcomes)
        unit = systemd.unit_name(self._restart_unit) if self._restart_unit is not None else None
        restarts = self._present and unit is not None and self._is_due(unit, changed)
        if restarts and unit is not None and not self._module.check_mode:
            systemd.act(self._module, "restart", unit)
        return {
            "changed": changed or restarts,
            "differs": changed or restarts,
            "restarted": restarts,
            "diff": [outcome["diff"] for outcome in outcomes],
        }

    def _keep_line(self, file: ManagedFile) -> dict[str, Any]:
        """Keep our line in the environment file. Returns what changed, without the other lines."""
        before = file.read()
        if before is None and not self._present:
            return {"changed": False, "diff": {}}
        after = with_line(before, self._config_path if self._present else None)
        if before is not None and before.splitlines() == after.splitlines():
            after = before  # only the end of the last line differs
        outcome = file.write(after)
        shown = [
            "".join(line + "\n" for line in text.splitlines() if _LINE.match(line)) for text in (before or "", after)
        ]
        outcome["diff"].update({"before": shown[0], "after": shown[1]})
        return outcome

    def _is_due(self, unit: str, changed: bool) -> bool:
        """Whether a restart is due: something changed in this run, or the unit started before its files changed."""
        if changed or self._module.params["config_changed"]:
            return True
        files = [self._config_path] + [file.path for file in (self._drop_in,) if file is not None]
        moments = [os.stat(path).st_mtime for path in files if os.path.exists(path)]
        state = systemd.unit_state(unit)
        return bool(moments) and isinstance(state, dict) and systemd.started_before(state, max(moments))


def main() -> None:
    """Look, then act."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "config_path": {"type": "path", "required": True},
            "environment_file": {"type": "path"},
            "systemd_unit": {"type": "str"},
            "restart_unit": {"type": "str"},
            "config_changed": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    service = Service(module)
    faults = service.faults()
    if faults:
        fail(module, faults)
    try:
        result = service.apply()
    except OSError as error:
        fault = "%s: %s" % (error.filename or module.params["config_path"], error.strerror or error)
        fail(module, [fault])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
