#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let a fractal-server run its jobs on the engine of fractal-slurm."""

from __future__ import annotations

DOCUMENTATION = r"""
module: server_engine
short_description: Let a fractal-server run its jobs on the engine of fractal-slurm
version_added: "0.2.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Adds the engine that comes with the collection to the virtual environment of a fractal-server that is there already,
    and a drop-in to its systemd unit. The server's own packages stay as they are.
  - All that is added to the environment lies in one folder of it, C(fractal-slurm-engine). One file,
    C(fractal-slurm-engine.pth), tells Python of it. Python looks there last, so that a package of the server's is never
    replaced.
  - Asks the engine first whether it supports this version of fractal-server, in check mode, too, in a folder that is
    removed again. Where it does not, nothing is changed, and the engine's words are the faults.
  - What is in the environment is run and written with the rights of the environment's owner alone.
  - The wheels are made on the controller for the environment's Python. The host asks no index.
extends_documentation_fragment:
  - fractal.slurm.attributes
  - fractal.slurm.attributes.runtime
attributes:
  check_mode:
    support: full
  diff_mode:
    support: partial
    details: For the drop-in.
  idempotent:
    support: full
options:
  state:
    description:
      - Whether the server runs its jobs on the engine.
      - With V(absent), the drop-in, the folder and the C(.pth) file are removed, and the server starts with its own
        runner. This is refused while jobs of ours are in the queue.
    type: str
    choices: [present, absent]
    default: present
  venv:
    description: The virtual environment that fractal-server runs from.
    type: path
    required: true
  unit:
    description:
      - The systemd unit of fractal-server, which gets the drop-in C(fractal-slurm-engine.conf). It has to start
        C(gunicorn), without a config file of its own and without C(GUNICORN_CMD_ARGS).
      - An empty string for none. Then start gunicorn with C(--config python:fractal_slurm_server.gunicorn_conf), or
        name C(fractal_slurm_server.app:app) as its app.
    type: str
    default: fractal-server
  environment:
    description:
      - Further environment variables of the unit, as text, such as C(FRACTAL_SLURM_ENGINE) with the value V(off). That
        starts the server with its own runner.
    type: dict
    default: {}
  restart:
    description: Whether the unit is restarted where that is due. One that is stopped stays so.
    type: bool
    default: true
  force:
    description: With O(state=absent), remove the engine while jobs of ours are in the queue, too.
    type: bool
    default: false
  bin_dirs:
    description: Folders in which C(squeue) is looked for first.
    type: list
    elements: str
    default: []
  find_links:
    description: On the controller, folders with wheels, besides the index.
    type: list
    elements: str
    default: []
  no_index:
    description: Ask no index on the controller. All wheels are in O(find_links).
    type: bool
    default: false
  lock:
    description:
      - Which versions of Python packages are installed, where the environment lacks them. The choices are those of
        M(fractal.slurm.runtime).
    type: str
    default: bundled
  cache:
    description: On the controller, the folder in which archives of wheels are kept (C(~/.cache/fractal-slurm)).
    type: str
  version:
    description: Name of the version that comes with the collection. Set by the action plugin.
    type: str
  digest:
    description: Checksum of the collection's runtime. Set by the action plugin.
    type: str
  wheels:
    description: Archive of the wheels on the host. Set by the action plugin.
    type: path
  known_faults:
    description: What the action plugin found on the controller. The module adds its own faults and changes nothing.
    type: list
    elements: str
    default: []
seealso:
  - module: fractal.slurm.server_resource
"""

EXAMPLES = r"""
- name: Run the jobs of a fractal-server on the engine
  fractal.slurm.server_engine:
    venv: /opt/fractal-server
    unit: fractal-server

- name: Take it away
  fractal.slurm.server_engine:
    state: absent
    venv: /opt/fractal-server
"""

RETURN = r"""
version:
  description: The version of the engine.
  returned: when state is present
  type: str
  sample: 0.1.0-1f2e3d4c
server_version:
  description: The version of fractal-server in the environment.
  returned: when state is present
  type: str
  sample: 2.26.0
differs:
  description: Whether the host differed from what is wanted. The same as C(changed), which a task may override.
  returned: success
  type: bool
  sample: true
restarted:
  description: Whether the unit was restarted, or would be in check mode.
  returned: success
  type: bool
  sample: true
removed:
  description: What was removed, or would be.
  returned: success
  type: list
  elements: str
  sample: [/opt/fractal-server/fractal-slurm-engine]
faults:
  description: All that is wrong, one sentence each.
  returned: on failure
  type: list
  elements: str
  sample: ["there is no fractal-server in /opt/fractal-server: give the environment that it runs from"]
"""

import os
import re

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import runtime_install, systemd
from ..module_utils.engine_install import MARKER, EngineError, Venv
from ..module_utils.faults import fail
from ..module_utils.managed_file import ManagedFile

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

DROP_IN = "fractal-slurm-engine.conf"
_GUNICORN = "GUNICORN_CMD_ARGS"
_OPTIONS = "--config python:fractal_slurm_server.gunicorn_conf"
_BY_HAND = "add `%s` to it yourself, and leave fractal_slurm_server_engine_unit empty" % _OPTIONS
# The variable that switches the engine on and off, with its values; see switch.py of fractal_slurm_server.
_SWITCH = "FRACTAL_SLURM_ENGINE"
_MODES = ("on", "if-supported", "off")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def environment_faults(environment: dict[str, Any]) -> list[str]:
    """What of the unit's further variables is not allowed, one sentence each.

    Args:
        environment: The variables' values by name, as the task gives them.
    """
    found = []
    for name, value in sorted(environment.items()):
        what = "fractal_slurm_server_engine_environment: %s" % name
        if not _NAME.fullmatch(name):
            found.append("%s: the name of an environment variable is allowed" % what)
        elif name == _GUNICORN:
            found.append("%s: the role sets it" % what)
        if not isinstance(value, str):
            found.append("%s: found %r; text in quotes is allowed: quote it" % (what, value))
        elif re.search(r"[\x00-\x1f]", value):
            found.append("%s: text in one line is allowed" % what)
        elif name == _SWITCH and value.strip().lower() not in ("", *_MODES):  # with another value it does not start
            found.append("%s: found %r; allowed are %s" % (what, value, ", ".join(_MODES)))
    return found


def start_faults(unit: str, state: dict[str, str], ours: bool) -> list[str]:
    """Why a drop-in of ours would not reach the server, one sentence each.

    Args:
        unit: Name of the unit.
        state: What systemd says of the unit: ExecStart, Environment and EnvironmentFiles.
        ours: Whether the unit has our drop-in already.
    """
    start = state.get("ExecStart", "")
    commands = re.findall(r"argv\[\]=(.*?) ;", start)
    words = (commands[0] if commands else start).split()
    if not words:
        return []
    if not any(os.path.basename(word) == "gunicorn" for word in words):
        return [
            "the unit %s does not start gunicorn, but `%s`: start fractal-server by gunicorn, or name "
            "fractal_slurm_server.app:app as the app and leave fractal_slurm_server_engine_unit empty"
            % (unit, " ".join(words[:8]))
        ]
    if any(word in ("-c", "--config") or word.startswith(("-c=", "--config=")) for word in words):
        return ["the unit %s starts gunicorn with a configuration of its own: %s" % (unit, _BY_HAND)]
    if not ours and _GUNICORN in state.get("Environment", ""):
        return ["the unit %s has %s already: %s" % (unit, _GUNICORN, _BY_HAND)]
    for path in re.findall(r"(/\S+) \(", state.get("EnvironmentFiles", "")):
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                text = stream.read(1 << 20)
        except OSError:
            continue  # a file that can't be read is unknown, and unknown is no fault
        if re.search(r"^\s*%s=" % _GUNICORN, text, re.MULTILINE):
            return ["%s sets %s for the unit %s: %s" % (path, _GUNICORN, unit, _BY_HAND)]
    return []


class Service:
    """The server's unit, with our drop-in or without.

    Args:
        module: The running module.
    """

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._name: str | None = module.params["unit"] or None
        self._drop_in: ManagedFile | None = None
        if self._name:
            path = systemd.drop_in_path(self._name, DROP_IN)
            self._drop_in = ManagedFile(
                module, path, manage_directory=True, variable="fractal_slurm_server_engine_unit"
            )

    def faults(self) -> list[str]:
        """Why the unit can't be changed, one sentence each."""
        if self._name is None or self._drop_in is None:
            return []
        found = systemd.unit_faults("fractal_slurm_server_engine_unit", self._name, must_exist=True)
        if os.geteuid() != 0:
            found.append("fractal_slurm_server_engine_unit: root changes units: run with become")
        if found:
            return found
        unit = systemd.unit_name(self._name)
        state = systemd.unit_state(unit, ("ExecStart", "Environment", "EnvironmentFiles"))
        if not isinstance(state, dict):
            return ["fractal_slurm_server_engine_unit: systemd on this host can't be asked for %s: %s" % (unit, state)]
        return start_faults(unit, state, self._drop_in.read() is not None) + self._drop_in.faults()

    def tell(self) -> dict[str, Any]:
        """Write the drop-in. Returns whether it changed, and the difference."""
        if self._drop_in is None:
            return {"changed": False}
        variables = dict(self._module.params["environment"], **{_GUNICORN: _OPTIONS})
        return self._reload(self._drop_in.write(systemd.drop_in_text("server_engine", variables)))

    def forget(self) -> dict[str, Any]:
        """Remove the drop-in. Returns whether it changed, and the difference."""
        if self._drop_in is None:
            return {"changed": False}
        return self._reload(self._drop_in.remove())

    def _reload(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Let systemd read its units anew where the drop-in changed. Returns the same outcome."""
        if outcome["changed"] and not self._module.check_mode:
            systemd.act(self._module, "daemon-reload")
        return outcome

    def restart(self, changed: bool, moments: Sequence[float] = ()) -> bool:
        """Restart the unit where that is due.

        Args:
            changed: Whether something changed in this run.
            moments: When the files that the unit reads were written, in seconds since 1970.

        Returns:
            Whether the unit was restarted, or would be in check mode.
        """
        if self._name is None or not self._module.params["restart"]:
            return False
        unit = systemd.unit_name(self._name)
        state = systemd.unit_state(unit)
        if not isinstance(state, dict) or state.get("ActiveState") not in ("active", "activating", "failed"):
            return False
        if not changed and not (moments and systemd.started_before(state, max(moments))):
            return False
        if not self._module.check_mode:
            systemd.act(self._module, "restart", unit)
        return True

    def moments(self, marker: str) -> list[float]:
        """When the drop-in and a marker were written, in seconds since 1970. A file that is not there has none."""
        paths = [marker] + ([self._drop_in.path] if self._drop_in is not None else [])
        return [os.stat(path).st_mtime for path in paths if os.path.exists(path)]


def present(module: AnsibleModule, service: Service) -> None:
    """Install where needed, tell the unit, restart it. Ends the module."""
    params = module.params
    faults: list[str] = list(params["known_faults"]) + environment_faults(params["environment"]) + service.faults()
    try:
        venv = Venv(params["venv"])
        faults += venv.faults()
    except EngineError as error:
        fail(module, faults + [str(error)])
    version, digest, wheels = params["version"], params["digest"], params["wheels"]
    if faults or version is None:
        fail(module, faults or ["run this module by its action plugin, as fractal.slurm.server_engine"])
    result: dict[str, Any] = {
        "changed": False,
        "version": version,
        "server_version": venv.found["distributions"].get("fractal-server"),
        "removed": [],
    }
    sound = venv.is_sound(version, digest)
    broken = venv.check(venv.folder(version)) if sound else []
    if not sound or broken:
        if wheels is None:
            module.exit_json(wheels_needed=True, target=venv.target(), **result)
        result["changed"] = True
        wrong = venv.try_out(wheels) if module.check_mode else venv.install(version, digest, wheels)
        if wrong:
            fail(module, wrong)
    outcome = service.tell()
    result["changed"] = result["changed"] or outcome["changed"]
    result["diff"] = outcome.get("diff", {})
    result["restarted"] = service.restart(
        result["changed"], service.moments(os.path.join(venv.folder(version), MARKER))
    )
    if not module.check_mode:
        result["removed"] = venv.superfluous()
        venv.remove(result["removed"])
    result["changed"] = result["changed"] or result["restarted"] or bool(result["removed"])
    module.exit_json(**result)


def absent(module: AnsibleModule, service: Service) -> None:
    """Remove all that is ours, and let the server start with its own runner. Ends the module."""
    params = module.params
    # Where the environment is gone, all that was ours in it is gone, too.
    venv = Venv(params["venv"]) if os.path.isdir(params["venv"]) else None
    removed = venv.remnants() if venv is not None else []
    uses = runtime_install.queued_jobs(params["bin_dirs"]) if removed else []
    if uses and not params["force"]:
        fail(
            module,
            [
                "the engine in %s is in use: %s: wait, or set fractal_slurm_server_engine_force, and what they belong "
                "to fails" % (params["venv"], "; ".join(uses))
            ],
        )
    outcome = service.forget()
    changed = outcome["changed"] or bool(removed)
    result = {"changed": changed, "removed": removed, "diff": outcome.get("diff", {})}
    result["restarted"] = service.restart(outcome["changed"])  # before the code that it runs is removed
    if venv is not None and not module.check_mode:
        venv.remove(removed)
    module.exit_json(**result)


def main() -> None:
    """Read the parameters and act."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "venv": {"type": "path", "required": True},
            "unit": {"type": "str", "default": "fractal-server"},
            "environment": {"type": "dict", "default": {}},
            "restart": {"type": "bool", "default": True},
            "force": {"type": "bool", "default": False},
            "bin_dirs": {"type": "list", "elements": "str", "default": []},
            "find_links": {"type": "list", "elements": "str", "default": []},
            "no_index": {"type": "bool", "default": False},
            "lock": {"type": "str", "default": "bundled"},
            "cache": {"type": "str"},
            "version": {"type": "str"},
            "digest": {"type": "str"},
            "wheels": {"type": "path"},
            "known_faults": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    service = Service(module)
    try:
        (present if module.params["state"] == "present" else absent)(module, service)
    except EngineError as error:
        fail(module, list(module.params["known_faults"]) + [str(error)])
    except OSError as error:
        fail(module, ["%s: %s" % (error.filename or module.params["venv"], error.strerror or error)])


if __name__ == "__main__":
    main()
