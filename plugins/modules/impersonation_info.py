#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask sudo what the service account may do as whom."""

from __future__ import annotations

DOCUMENTATION = r"""
module: impersonation_info
short_description: Ask sudo what the service account may run as whom
version_added: "0.1.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Asks sudo itself, on the host, what the account of fractal-server may run as other users. Nothing is run as anybody.
  - What must be allowed is the form in which the runtime uses each command, as each of O(users). What must be refused
    is any of them as root and as each of O(refused_users), and shells and the like as anybody.
  - Needs root's rights, since sudo tells nobody else about another user's.
extends_documentation_fragment:
  - fractal.slurm.attributes.info
  - fractal.slurm.impersonation
options:
  fail_on_surprise:
    description: Fail where something is not as it must be.
    type: bool
    default: false
seealso:
  - module: fractal.slurm.sudoers
"""

EXAMPLES = r"""
- name: Prove what fractal may and may not do
  fractal.slurm.impersonation_info:
    service_user: fractal
    users:
      - alice
      - "%microscopy"
    refused_users: [admin1]
    fail_on_surprise: true
"""

RETURN = r"""
matrix:
  description: One entry for each user and command line that sudo was asked about.
  returned: success
  type: list
  elements: dict
  contains:
    user:
      description: As whom.
      type: str
      returned: always
      sample: alice
    command:
      description: The command line.
      type: list
      elements: str
      returned: always
      sample: [/usr/bin/sbatch, --parsable]
    allowed:
      description: Sudo's answer.
      type: bool
      returned: always
      sample: true
    answered:
      description: Whether sudo answered at all; where it did not, C(allowed) is false.
      type: bool
      returned: always
      sample: true
    expected:
      description: What the answer must be.
      type: bool
      returned: always
      sample: true
    rule:
      description: The rule that allows it, with its file where this sudo names it; null where there is none.
      type: str
      returned: always
      sample: (alice, %microscopy, !root) /usr/bin/sbatch in /etc/sudoers.d/fractal-slurm
surprises:
  description: What is not as it must be, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["fractal may run /bin/sh -c id as alice, and must not"]
allowed:
  description: Number of answers that are yes.
  returned: success
  type: int
  sample: 10
refused:
  description: Number of answers that are no.
  returned: success
  type: int
  sample: 13
users:
  description: The users of O(users), groups replaced by their members.
  returned: success
  type: list
  elements: str
  sample: [alice, bob]
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.faults import fail
from ..module_utils.impersonation import ARGUMENT_SPEC, Rights


def main() -> None:
    """Ask sudo about each user and command line."""
    module = AnsibleModule(
        argument_spec=dict(ARGUMENT_SPEC, fail_on_surprise={"type": "bool", "default": False}),
        supports_check_mode=True,
    )
    rights = Rights(module.params, module.get_bin_path("sudo"))
    if rights.faults:
        fail(module, rights.faults)
    rights.ask()
    allowed = sum(1 for entry in rights.matrix if entry["allowed"])
    result = {
        "matrix": rights.matrix,
        "surprises": rights.surprises,
        "allowed": allowed,
        "refused": len(rights.matrix) - allowed,
        "users": rights.users,
    }
    if rights.surprises and module.params["fail_on_surprise"]:
        module.fail_json(msg="\n".join(rights.surprises), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
