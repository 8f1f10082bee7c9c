#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the resources of fractal-server, and validate their SLURM configurations."""

from __future__ import annotations

DOCUMENTATION = r"""
module: server_resource_info
short_description: Read and validate the SLURM configurations in the resources of fractal-server
version_added: "0.2.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Reads the resources of a fractal-server of version 2.17 or newer, and says of each whether its SLURM configuration
    is valid.
  - A configuration that is not valid is a result and no failure.
extends_documentation_fragment:
  - fractal.slurm.attributes.info
  - fractal.slurm.attributes.runtime
  - fractal.slurm.server_connection
options:
  name:
    description: The name of one resource. Without it, all are read.
    type: str
seealso:
  - module: fractal.slurm.server_resource
"""

EXAMPLES = r"""
- name: See what the server has
  fractal.slurm.server_resource_info:
    token: "{{ vault_fractal_admin_token }}"
  register: server

- name: Say what is wrong with it
  ansible.builtin.debug:
    msg: "{{ server.resources | map(attribute='faults') | flatten }}"
"""

RETURN = r"""
resources:
  description:
    - The resources as fractal-server tells them, each with C(valid), C(faults) and C(config) beside its own values.
    - C(config) is its SLURM configuration in the form of the file, with memory in MB. It is null where it is not valid,
      and for a resource without SLURM.
  returned: success
  type: list
  elements: dict
  sample: [{id: 1, name: cluster, type: slurm_sudo, valid: true, faults: []}]
faults:
  description: Why the server can't be asked.
  returned: on failure
  type: list
  elements: str
  sample: ["GET http://127.0.0.1:8000/admin/v2/resource/: status 401: Unauthorized"]
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.fractal_server import CONNECTION_RULES, CONNECTION_SPEC, ServerError, connect


def main() -> None:
    """Hand over the resources as they are. The action plugin says what they mean."""
    module = AnsibleModule(
        argument_spec=dict({"name": {"type": "str"}}, **CONNECTION_SPEC), supports_check_mode=True, **CONNECTION_RULES
    )
    name = module.params["name"]
    try:
        resources = connect(module.params).resources()
    except ServerError as error:
        module.fail_json(msg=str(error), faults=[str(error)])
    module.exit_json(changed=False, resources=[entry for entry in resources if name in (None, entry["name"])])


if __name__ == "__main__":
    main()
