#!/usr/bin/python
# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask sudo what the service user may do as whom."""

from __future__ import annotations

DOCUMENTATION = r"""
module: impersonation_info
short_description: Ask sudo what the service user may run as whom
version_added: "0.1.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Asks sudo itself, on the host, what the account of fractal-server may run as other users. Nothing is run as anybody.
  - What must be allowed is the form in which the runtime uses each command, as each of O(users). What must be refused is
    any of them as root and as each of O(refused_users), and shells and the like as anybody.
  - Needs root's rights, since sudo tells nobody else about another user's.
extends_documentation_fragment:
  - fractal.slurm.attributes.info
options:
  service_user:
    description: The account that runs fractal-server.
    type: str
    required: true
  users:
    description: Whom it should be able to act as. Names of users, and of groups with a leading C(%).
    type: list
    elements: str
    required: true
  refused_users:
    description: Whom it must not be able to act as, besides root.
    type: list
    elements: str
    default: []
  work_dirs:
    description: Folders that users' work lies below; C(cat), C(ls) and C(mkdir) are asked for with paths below the first.
    type: list
    elements: str
    default: [/data]
  bin_dirs:
    description: Folders in which C(sbatch) and C(scancel) are looked for first.
    type: list
    elements: str
    default: []
  refused_commands:
    description: Command lines that must be refused as anybody.
    type: list
    elements: list
    default:
      - [/bin/sh, -c, id]
      - [/usr/bin/env]
      - [/usr/bin/python3]
      - [/usr/bin/tee, /etc/passwd]
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
    expected:
      description: What the answer must be.
      type: bool
      returned: always
      sample: true
    rule:
      description: The rule that names the command, as far as this sudo tells; null where there is none.
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

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import sudoers
from ..module_utils.sudo_listing import deciding_rule, parse_listing


def forms(commands, work_dir):
    """The command lines that the runtime uses, one a command.

    Args:
        commands: Command to absolute path.
        work_dir: A folder that users' work lies below.
    """
    path = "%s/fractal/run" % work_dir.rstrip("/")
    arguments = {
        "sbatch": ["--parsable"],
        "scancel": ["1"],
        "cat": ["--", path],
        "ls": ["--", path],
        "mkdir": ["-p", "-m", "700", "--", path],
    }
    return [[commands[name]] + arguments[name] for name in arguments]


def expand(entries, accounts, faults):
    """The users of a list, groups replaced by their members; what is unknown is a fault."""
    found = []
    for entry in entries:
        if not entry.startswith("%"):
            found.append(entry)
            continue
        group = accounts.group(entry[1:])
        if group is None:
            faults.append("group %s: unknown on this host" % entry[1:])
        else:
            found += group.members
    for name in found:
        if accounts.user(name) is None:
            faults.append("user %s: unknown on this host" % name)
    return list(dict.fromkeys(found))


def main():
    """Ask sudo about each user and command line."""
    module = AnsibleModule(
        argument_spec={
            "service_user": {"type": "str", "required": True},
            "users": {"type": "list", "elements": "str", "required": True},
            "refused_users": {"type": "list", "elements": "str", "default": []},
            "work_dirs": {"type": "list", "elements": "str", "default": ["/data"]},
            "bin_dirs": {"type": "list", "elements": "str", "default": []},
            "refused_commands": {
                "type": "list",
                "elements": "list",
                "default": [["/bin/sh", "-c", "id"], ["/usr/bin/env"], ["/usr/bin/python3"], ["/usr/bin/tee", "/etc/passwd"]],
            },
            "fail_on_surprise": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    faults = []
    sudo = module.get_bin_path("sudo")
    if sudo is None:
        faults.append("sudo is not installed on this host")
    if os.geteuid() != 0:
        faults.append("root's rights are needed to ask sudo about another user: run with become")
    accounts = sudoers.HostAccounts()
    if accounts.user(params["service_user"]) is None:
        faults.append("the service user %s is unknown on this host" % params["service_user"])
    users = expand(params["users"], accounts, faults)
    if not params["work_dirs"]:
        faults.append("work_dirs is empty: name a folder that users' work lies below")
    commands, more = sudoers.find_commands(["sbatch", "scancel", "cat", "ls", "mkdir"], params["bin_dirs"])
    faults += more if len(commands) < 5 else []
    if faults:
        module.fail_json(msg="\n".join(faults), faults=faults)

    service = params["service_user"]
    language = {"LC_ALL": "C", "LANGUAGE": "C"}
    rules = parse_listing(module.run_command([sudo, "-n", "-ll", "-U", service], environ_update=language)[1])
    used = forms(commands, params["work_dirs"][0])
    questions = [(user, line, True) for user in users for line in used]
    questions += [(user, line, False) for user in ["root"] + params["refused_users"] for line in used]
    questions += [(user, line, False) for user in ["root"] + users for line in params["refused_commands"]]
    matrix = []
    surprises = []
    for user, line, expected in questions:
        status = module.run_command([sudo, "-n", "-l", "-U", service, "-u", user, "--"] + line, environ_update=language)[0]
        allowed = status == 0
        rule = deciding_rule(rules, line[0])
        matrix.append({"user": user, "command": line, "allowed": allowed, "expected": expected, "rule": rule})
        if allowed != expected:
            words = "may run %s as %s, and must not" if allowed else "may not run %s as %s, and must"
            surprises.append(("%s " + words) % (service, " ".join(line), user))
    result = {
        "matrix": matrix,
        "surprises": surprises,
        "allowed": sum(1 for entry in matrix if entry["allowed"]),
        "refused": sum(1 for entry in matrix if not entry["allowed"]),
        "users": users,
    }
    if surprises and params["fail_on_surprise"]:
        module.fail_json(msg="\n".join(surprises), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
