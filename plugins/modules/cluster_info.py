#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what a SLURM cluster is made of."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_info
short_description: Read partitions, nodes and limits of a SLURM cluster
version_added: "0.1.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Asks SLURM on a host, by C(scontrol show) and, where accounts are kept, C(sacctmgr show), and returns what it says
    as plain values. Nothing is changed, and any account may ask.
  - For SLURM 22.05 and newer.
extends_documentation_fragment:
  - fractal.slurm.attributes.info
  - fractal.slurm.attributes.runtime
options:
  users:
    description:
      - Users whose accounts and limits are wanted, and groups of users with a leading C(%).
      - None for those of all users.
    type: list
    elements: str
    default: []
  accounting:
    description: Whether accounts, QOS and their limits are asked for where the cluster keeps them.
    type: bool
    default: true
  bin_dirs:
    description: Folders in which SLURM's commands are looked for first.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds after which a command counts as unanswered.
    type: int
    default: 30
  commands:
    description: The commands to run, by name. Set by the action plugin, from the list that the runtime uses.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Look at the cluster, and at the limits of two users
  fractal.slurm.cluster_info:
    users: [alice, bob]
  register: slurm

- name: Name the partitions
  ansible.builtin.debug:
    msg: "{{ slurm.cluster.partitions.keys() | list }}"
"""

RETURN = r"""
users:
  description: The users of O(users), groups replaced by their members.
  returned: success
  type: list
  elements: str
  sample: [alice, bob]
cluster:
  description: The cluster.
  returned: success
  type: dict
  contains:
    name:
      description: ClusterName.
      type: str
      returned: success
      sample: physics
    version:
      description: SLURM's version.
      type: str
      returned: success
      sample: 22.05.8
    min_job_age_s:
      description: Seconds that a job stays known after its end.
      type: int
      returned: success
      sample: 300
    max_array_size:
      description: One more than the highest index of a job array.
      type: int
      returned: success
      sample: 1001
    max_job_count:
      description: Most jobs that slurmctld holds.
      type: int
      returned: success
      sample: 10000
    max_script_size:
      description: Largest batch script in bytes.
      type: int
      returned: success
      sample: 4194304
    private_data:
      description: What ordinary users can't see of others.
      type: list
      elements: str
      returned: success
      sample: [jobs]
    enforce_part_limits:
      description: Whether sbatch refuses jobs that can't run in their partition.
      type: str
      returned: success
      sample: ALL
    accounting_enforced:
      description: What AccountingStorageEnforce names.
      type: list
      elements: str
      returned: success
      sample: [associations, limits, qos]
    has_accounting:
      description: Whether accounts are kept.
      type: bool
      returned: success
      sample: true
    shows_partitions:
      description: Whether SLURM shows this account partitions. Where it does not (PrivateData), none is known.
      type: bool
      returned: success
      sample: true
    shows_nodes:
      description: Whether SLURM shows this account nodes.
      type: bool
      returned: success
      sample: true
    shows_accounts:
      description: Whether slurmdbd is known to show this account the associations of others.
      type: bool
      returned: success
      sample: true
    partitions:
      description: The partitions by name, with state, time limits, limits a node and accounts.
      type: dict
      returned: success
      sample: {main: {name: main, is_default: true, state: UP, max_time_s: 86400, total_nodes: 4}}
    nodes:
      description: The nodes by name, with state, CPUs, memory, generic resources, features and partitions.
      type: dict
      returned: success
      sample: {n1: {name: n1, state: IDLE, cpus: 32, memory_mb: 128000, gres: {gpu: 2}, features: [avx2]}}
    associations:
      description: Accounts and users in accounts with their limits; null where they are not known.
      type: list
      elements: dict
      returned: success
      sample: [{account: lab, user: alice, max_submit: 100}]
    qos:
      description: The QOS by name with their limits; null where they are not known.
      type: dict
      returned: success
      sample: {normal: {name: normal, max_submit_per_user: 200}}
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.commands import run
from ..module_utils.sudoers import HostAccounts
from ..module_utils.trusted_path import fault_of_path

# The module runs these commands and no others, whatever a task asks for.
_ALLOWED = ("scontrol", "sacctmgr")


class UnansweredError(Exception):
    """A command failed or did not answer; the message says which and why."""


def answer(argv: list[str], timeout: int) -> str:
    """Run a command and return its standard output.

    Args:
        argv: The command line.
        timeout: Seconds after which the command is ended.

    Raises:
        UnansweredError: The command is not there, it failed, or it did not end in time.
    """
    # A task's environment may name the configuration of a cluster. SLURM's commands get that variable.
    environment = {name: value for name, value in os.environ.items() if name == "SLURM_CONF"}
    result = run(argv, timeout=timeout, environment=environment)
    if result.status != 0:
        raise UnansweredError("%s: %s" % (argv[0], result.err or "exit code %d" % result.status))
    return result.out


def find(module: AnsibleModule, name: str) -> str:
    """Find one of SLURM's commands. Nobody but this account and root may be able to replace it.

    Args:
        module: The running module.
        name: Name of the command.

    Returns:
        The absolute path.

    Raises:
        UnansweredError: The command is not there, or it is not safe to run.
    """
    candidates = [os.path.join(folder, name) for folder in module.params["bin_dirs"]]
    path: str | None = next((path for path in candidates if os.access(path, os.X_OK)), None)
    path = path or module.get_bin_path(name)
    fault = fault_of_path(path) if path is not None and os.geteuid() == 0 else None
    if fault:
        raise UnansweredError("%s is not safe to run as root: %s" % (path, fault))
    if path is None:
        raise UnansweredError(
            "%s is not on this host: looked in %s: install SLURM's client commands, or name their folder in bin_dirs "
            "(fractal_slurm_bin_dirs)" % (name, ", ".join(module.params["bin_dirs"] + os.environ["PATH"].split(":")))
        )
    return path


def expand(users: list[str]) -> list[str]:
    """Replace groups by their members, as far as the host can list them.

    Args:
        users: Names of users, and of groups with a leading ``%``.
    """
    accounts = HostAccounts()
    found: list[str] = []
    for name in users:
        group = accounts.group(name[1:]) if name.startswith("%") else None
        found += group.members if group else [name]
    return [name for name in dict.fromkeys(found) if not name.startswith("%")]


def main() -> None:
    """Run the commands. The action plugin reads what they print."""
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "list", "elements": "str", "default": []},
            "accounting": {"type": "bool", "default": True},
            "bin_dirs": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 30},
            "commands": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    outputs: dict[str, str] = {}
    unanswered = []
    for name, argv in module.params["commands"].items():
        if argv[0] not in _ALLOWED:
            module.fail_json(msg="%s is none of %s: it is not run" % (argv[0], ", ".join(_ALLOWED)))
        accounting = argv[0] == "sacctmgr"
        if accounting and "accounting_storage/slurmdbd" not in outputs.get("config", ""):
            continue
        try:
            outputs[name] = answer([find(module, argv[0])] + argv[1:], module.params["timeout"])
        except UnansweredError as problem:
            if name == "config":
                module.fail_json(msg="SLURM can't be reached from this host: %s" % problem)
            # PrivateData hides nodes and partitions from ordinary accounts. What SLURM does not show is unknown.
            what = "accounts and their limits" if accounting else name
            unanswered.append("%s are not known: %s" % (what, problem))
    for warning in unanswered:
        module.warn(warning)
    module.exit_json(changed=False, outputs=outputs, users=expand(module.params["users"]))


if __name__ == "__main__":
    main()
