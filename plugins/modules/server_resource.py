#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the SLURM configuration of a resource of fractal-server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: server_resource
short_description: Keep the SLURM configuration in a resource of fractal-server
version_added: "0.2.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Since version 2.17, fractal-server has its SLURM configuration in its database, as the C(jobs_runner_config) of a
    resource. This module writes it, after it has been validated on the controller. All faults are reported at once,
    and the server is not touched as long as there is one.
  - It takes the same JSON or YAML as M(fractal.slurm.slurm_config), which writes the file of older servers.
  - Other values of the resource stay as they are, unless O(resource) names them. fractal-server heeds the new
    configuration from the next job on. It needs no restart.
  - Two ways lead to the server. One is its API with the token or the password of an administrator, the other
    C(fractalctl) on the host.
extends_documentation_fragment:
  - fractal.slurm.attributes
  - fractal.slurm.attributes.runtime
  - fractal.slurm.config_source
  - fractal.slurm.config_source.against_cluster
  - fractal.slurm.server_connection
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: It shows C(jobs_runner_config), and the other values that O(resource) names.
  idempotent:
    support: full
options:
  name:
    description: The name of the resource.
    type: str
    required: true
  state:
    description:
      - Whether the resource is there. With V(absent) it is removed from the database.
      - fractal-server keeps a resource that profiles or task groups still use. Then the module fails and tells why.
    type: str
    choices: [present, absent]
    default: present
  resource:
    description:
      - Other values of the resource, by the names of fractal-server, such as C(jobs_poll_interval). A name that the
        server does not have is a fault.
      - A resource that is not there yet is made from them. It needs C(type) (V(slurm_sudo) or V(slurm_ssh)),
        C(jobs_local_dir), C(tasks_local_dir), C(jobs_slurm_python_worker), C(tasks_python_config) and
        C(tasks_pixi_config).
    type: dict
    default: {}
seealso:
  - module: fractal.slurm.server_resource_info
  - module: fractal.slurm.slurm_config
"""

EXAMPLES = r"""
- name: Write the configuration by the API
  fractal.slurm.server_resource:
    name: cluster
    token: "{{ vault_fractal_admin_token }}"
    src: slurm_config.yml
    against_cluster: auto

- name: Write it on the server's host, without a token
  fractal.slurm.server_resource:
    name: cluster
    fractalctl: /opt/fractal-server/bin/fractalctl
    fractalctl_dir: /var/lib/fractal
    fractalctl_user: fractal
    src: slurm_config.yml
"""

RETURN = r"""
name:
  description: The name of the resource.
  returned: success
  type: str
  sample: cluster
jobs_runner_config:
  description: The configuration of the resource, as it is or would be in check mode, without what is not set.
  returned: success, with O(state=present)
  type: dict
  sample: {default_slurm_config: {partition: main, cpus_per_task: 1, mem: 100}}
advice:
  description: What the batching comes to for 1, 96, 1,536 and 10,000 tasks, and more that is worth knowing.
  returned: where O(against_cluster) is asked for
  type: list
  elements: str
  sample: ["$.batching_config: 96 tasks: 6 jobs of up to 16 tasks, 16 at a time, by target resources"]
faults:
  description: All that is wrong, one sentence each, with the JSON path.
  returned: on failure
  type: list
  elements: str
  sample: ["the configuration of login1: $.default_slurm_config.mem: missing; it is required"]
"""

import json

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.faults import fail
from ..module_utils.fractal_server import (
    CONNECTION_RULES,
    CONNECTION_SPEC,
    SLURM_TYPES,
    ServerError,
    body_of,
    connect,
    settled,
    text_of,
)

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..module_utils.fractal_server import Api, Fractalctl

    Resource = dict[str, Any]

_OTHER_VALUES = ("name", "jobs_runner_config")


def find(resources: list[Resource], name: str) -> Resource | None:
    """The resource of this name, or None."""
    return next((entry for entry in resources if entry.get("name") == name), None)


def faults_of(current: Resource | None, resources: list[Resource], params: dict[str, Any]) -> list[str]:
    """Why the resource can't be what is wanted, one sentence each.

    Args:
        current: The resource as it is. None where there is none.
        resources: All resources of the server.
        params: The module's parameters.
    """
    name, others = params["name"], params["resource"]
    found = [
        "resource: found %s; this module's own options say what it is" % key for key in _OTHER_VALUES if key in others
    ]
    # The server drops what it does not know, without a word.
    unknown = sorted(set(others) - set(current)) if current is not None else []
    if current is not None and unknown:
        found.append(
            "resource: fractal-server has no %s in a resource; it has: %s"
            % (", ".join(unknown), ", ".join(sorted(set(current) - {"id", "timestamp_created", *_OTHER_VALUES})))
        )
    kind = others.get("type", (current or {}).get("type"))
    if current is None and not others:
        known = ", ".join(sorted(str(entry.get("name")) for entry in resources)) or "none"
        found.append(
            "name: fractal-server has no resource %s; it has: %s. Give its values as resource, to make it"
            % (name, known)
        )
    elif kind not in SLURM_TYPES:
        found.append(
            "name: the resource %s is of the type %s; a SLURM configuration belongs to %s"
            % (name, kind, " or ".join(SLURM_TYPES))
        )
    return found


def differences(current: Resource | None, wanted: Resource) -> list[str]:
    """Names of the values that are to be changed.

    Args:
        current: The resource as it is. None where there is none.
        wanted: The values that it is to have, by name.
    """
    return sorted(
        name for name, value in wanted.items() if current is None or settled(current.get(name)) != settled(value)
    )


def diff_of(name: str, current: Resource | None, wanted: Resource | None, changed: list[str]) -> dict[str, str]:
    """What changes, for people.

    Args:
        name: Name of the resource.
        current: The resource as it is. None where there is none.
        wanted: The values that it is to have, by name. None where it is to go.
        changed: Names of the values that differ.
    """
    shown = [entry for entry in changed if entry != "name"]
    texts = [
        text_of({entry: values[entry] for entry in shown if entry in values}) if values is not None and shown else ""
        for values in (current, wanted)
    ]
    title = "resource %s" % name
    return {
        "before_header": title if current is not None else "(absent)",
        "before": texts[0],
        "after_header": title if wanted is not None else "(absent)",
        "after": texts[1],
    }


def keep(module: AnsibleModule, server: Api | Fractalctl, resources: list[Resource]) -> dict[str, Any]:
    """Bring the resource to what is wanted. Returns the module's result."""
    params = module.params
    current = find(resources, params["name"])
    faults = list(params["known_faults"]) + faults_of(current, resources, params)
    if faults:
        fail(module, faults)
    if not isinstance(params["content"], str):
        module.fail_json(
            msg="content is not validated: run this module by its action plugin, as fractal.slurm.server_resource"
        )
    wanted = dict(params["resource"], name=params["name"], jobs_runner_config=json.loads(params["content"]))
    changed = differences(current, wanted)
    result = {
        "changed": bool(changed),
        "name": params["name"],
        "jobs_runner_config": settled(wanted["jobs_runner_config"]),
        "diff": diff_of(params["name"], current, wanted, changed),
    }
    if not changed or module.check_mode:
        return result
    body = body_of(dict(current or {}, **wanted))
    after = server.create(body) if current is None else server.update(current["id"], body)
    left = differences(after, wanted) if isinstance(after, dict) else []
    if left:
        module.warn(
            "fractal-server keeps %s of the resource %s in another way than it was written: the next run will find it "
            "changed" % (", ".join(left), params["name"])
        )
    return result


def remove(module: AnsibleModule, server: Api | Fractalctl, resources: list[Resource]) -> dict[str, Any]:
    """Remove the resource. Returns the module's result."""
    name = module.params["name"]
    current = find(resources, name)
    if current is not None and not module.check_mode:
        server.remove(current["id"])
    changed = ["jobs_runner_config", "type"] if current is not None else []
    return {"changed": current is not None, "name": name, "diff": diff_of(name, current, None, changed)}


def main() -> None:
    """Look, then act. The action plugin hands over ``jobs_runner_config`` as validated JSON text."""
    spec: dict[str, Any] = {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "resource": {"type": "dict", "default": {}},
        "content": {"type": "raw"},
        "src": {"type": "str"},
        "template": {"type": "str"},
        "job_hook": {"type": "str"},
        "against_cluster": {"type": "str", "default": "false"},
        "users": {"type": "list", "elements": "str", "default": []},
        "bin_dirs": {"type": "list", "elements": "str", "default": []},
        "known_faults": {"type": "list", "elements": "str", "default": []},
    }
    spec.update(CONNECTION_SPEC)
    rules: dict[str, Any] = dict(CONNECTION_RULES)
    rules["mutually_exclusive"] = rules["mutually_exclusive"] + [("content", "src", "template")]
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True, **rules)
    act: Callable[..., dict[str, Any]] = keep if module.params["state"] == "present" else remove
    try:
        server = connect(module.params)
        resources = server.resources()
        result = act(module, server, resources)
    except ServerError as error:
        faults = list(module.params["known_faults"]) + [str(error)]
        fail(module, faults)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
