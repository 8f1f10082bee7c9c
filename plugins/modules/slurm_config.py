#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the SLURM config file of fractal-server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_config
short_description: Write the SLURM config file of fractal-server
version_added: "0.1.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Writes the JSON file that FRACTAL_SLURM_CONFIG_FILE names, after it has been validated on the controller. All
    faults are reported at once, and a host is not touched as long as its configuration has one.
  - A task validates and writes one host after the other. Where no host may be written unless the configurations of
    all are valid, run it in check mode on all hosts first, with C(any_errors_fatal), as the role
    P(fractal.slurm.slurm_config#role) does.
extends_documentation_fragment:
  - ansible.builtin.files
  - fractal.slurm.attributes
  - fractal.slurm.attributes.runtime
  - fractal.slurm.config_source
  - fractal.slurm.config_source.against_cluster
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  state:
    description: Whether the file is there.
    type: str
    choices: [present, absent]
    default: present
  path:
    description: The file.
    type: path
    default: /etc/fractal/slurm_config.json
  mode:
    description: The file's mode. Users' jobs and the service need to read it. Text is quoted, as V("0644").
    type: raw
    default: "0644"
  backup:
    description: Keep a copy of the file that is replaced or removed, with the time in its name.
    type: bool
    default: false
  manage_directory:
    description: Make the file's folder (mode 0755) where it is missing, and remove it with the file once it is empty.
    type: bool
    default: false
seealso:
  - module: fractal.slurm.cluster_info
  - module: fractal.slurm.slurm_config_info
  - module: fractal.slurm.validate_slurm_config
"""

EXAMPLES = r"""
- name: Write the configuration from a variable
  fractal.slurm.slurm_config:
    manage_directory: true
    content:
      default_slurm_config:
        partition: main
        cpus_per_task: 1
        mem: 1G
        time: "01:00:00"
      batching_config:
        target_cpus_per_job: 8
        max_cpus_per_job: 16
        target_mem_per_job: 16G
        max_mem_per_job: 32G
        target_num_jobs: 4
        max_num_jobs: 10
      user_local_exports:
        CELLPOSE_LOCAL_MODELS_PATH: cellpose

- name: Remove it
  fractal.slurm.slurm_config:
    state: absent
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /etc/fractal/slurm_config.json
differs:
  description: Whether the host differed from what is wanted. The same as C(changed), which a task may override.
  returned: success
  type: bool
  sample: true
backup_file:
  description: The copy of the former file.
  returned: when a copy was made
  type: str
  sample: /etc/fractal/slurm_config.json.4242.2026-05-01@10:00:00~
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

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.faults import fail
from ..module_utils.managed_file import ManagedFile, mode_fault


def main() -> None:
    """Write or remove the file. The action plugin hands over the content as validated JSON text."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "path": {"type": "path", "default": "/etc/fractal/slurm_config.json"},
            "content": {"type": "raw"},
            "src": {"type": "str"},
            "template": {"type": "str"},
            "job_hook": {"type": "str"},
            "mode": {"type": "raw", "default": "0644"},
            "backup": {"type": "bool", "default": False},
            "manage_directory": {"type": "bool", "default": False},
            "against_cluster": {"type": "str", "default": "false"},
            "users": {"type": "list", "elements": "str", "default": []},
            "bin_dirs": {"type": "list", "elements": "str", "default": []},
            "known_faults": {"type": "list", "elements": "str", "default": []},
        },
        mutually_exclusive=[("content", "src", "template")],
        add_file_common_args=True,
        supports_check_mode=True,
    )
    params = module.params
    file = ManagedFile(
        module,
        params["path"],
        backup=params["backup"],
        manage_directory=params["manage_directory"],
        variable="fractal_slurm_config_path",
    )
    if params["state"] == "absent":
        module.exit_json(**file.remove())
    faults = list(params["known_faults"])
    fault = mode_fault(params["mode"]) if isinstance(params["mode"], str) else None
    if fault:
        faults.append("fractal_slurm_config_mode: %s" % fault)
    if faults:
        faults += file.faults()
        fail(module, faults, path=params["path"])
    if not isinstance(params["content"], str):
        module.fail_json(
            msg="content is not validated: run this module by its action plugin, as fractal.slurm.slurm_config"
        )
    module.exit_json(**file.write(params["content"]))


if __name__ == "__main__":
    main()
