#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the SLURM config file of fractal-server on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slurm_config_info
short_description: Read and validate the SLURM config file on a host
version_added: "0.1.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Reads the file that FRACTAL_SLURM_CONFIG_FILE names and says whether it is valid.
  - A file that is missing, can't be read or is not valid is a result and no failure, unless O(fail_on_invalid) is set.
extends_documentation_fragment:
  - fractal.slurm.attributes.info
  - fractal.slurm.attributes.runtime
options:
  path:
    description: The file.
    type: path
    default: /etc/fractal/slurm_config.json
  fail_on_invalid:
    description: Fail where the file is missing or not valid.
    type: bool
    default: false
seealso:
  - module: fractal.slurm.slurm_config
"""

EXAMPLES = r"""
- name: See what the host has
  fractal.slurm.slurm_config_info:
  register: current

- name: Say what is wrong with it
  ansible.builtin.debug:
    var: current.faults
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /etc/fractal/slurm_config.json
exists:
  description: Whether there is such a file.
  returned: always
  type: bool
  sample: true
valid:
  description: Whether its content is valid.
  returned: always
  type: bool
  sample: true
config:
  description: The content, with memory in MB; null where it is not valid.
  returned: always
  type: dict
  sample: {default_slurm_config: {partition: main, cpus_per_task: 1, mem: 100}}
faults:
  description: All that is wrong with it, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["/etc/fractal/slurm_config.json: $.default_slurm_config.partition: missing; it is required"]
owner:
  description: The file's owner.
  returned: when the file can be read
  type: str
  sample: root
mode:
  description: The file's mode.
  returned: when the file can be read
  type: str
  sample: "0644"
sha256:
  description: Checksum of the file.
  returned: when the file can be read
  type: str
  sample: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
"""

import base64
import hashlib
import os
import pwd
import stat

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Hand over the file as it is. The action plugin says what it means."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/fractal/slurm_config.json"},
            "fail_on_invalid": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    path = module.params["path"]
    try:
        with open(path, "rb") as stream:
            content = stream.read()
            info = os.fstat(stream.fileno())
    except FileNotFoundError:
        module.exit_json(changed=False, path=path, exists=False)
    except OSError as error:
        module.exit_json(changed=False, path=path, exists=True, unreadable=error.strerror)
    try:
        owner = pwd.getpwuid(info.st_uid).pw_name
    except KeyError:
        owner = str(info.st_uid)
    module.exit_json(
        changed=False,
        path=path,
        exists=True,
        owner=owner,
        mode="%04o" % stat.S_IMODE(info.st_mode),
        sha256=hashlib.sha256(content).hexdigest(),
        raw=base64.b64encode(content).decode("ascii"),
    )


if __name__ == "__main__":
    main()
