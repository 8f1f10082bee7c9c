#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prove on a host what a deployment can do, and what it can't."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verify_deployment
short_description: Prove what fractal-server's account can do on a host, and what it can't
version_added: "0.1.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Asks sudo about every user and command, tries for real what must be refused, asks the runtime whether the host is
    ready, and runs a probe job as every user and one in every partition that the configuration names; on every node,
    too, where O(every_node) asks for it.
  - The probe jobs' task writes down who ran it, and that is compared.
  - Run it after the roles of this collection, with become.
extends_documentation_fragment:
  - fractal.slurm.attributes
  - fractal.slurm.impersonation
attributes:
  check_mode:
    support: partial
    details: In check mode, nothing is tried and no job is submitted; sudo and the runtime are only asked.
  diff_mode:
    support: none
  idempotent:
    support: full
    details: What the probe jobs leave is removed.
options:
  probe_dir:
    description:
      - A folder for the probe jobs, which each user can make and the nodes see. C(USER) in it is replaced by the user's
        name, C(HOME) by the user's home folder.
    type: str
    default: HOME/fractal-slurm-verify
  partitions:
    description: Partitions to probe besides those that the configuration names.
    type: list
    elements: str
    default: []
  every_node:
    description:
      - Run a probe job on each node, too, which shows that each sees the same version of the runtime. One after the
        other, some seconds each. Nodes that can't take a job now are named and not probed.
    type: bool
    default: false
  command:
    description: The runtime's command.
    type: path
    default: /usr/local/bin/fractal-slurm
  config_path:
    description: The SLURM configuration file.
    type: path
    default: /etc/fractal/slurm_config.json
  settings_file:
    description: The runtime's settings file.
    type: path
    default: /etc/fractal/fractal-slurm.toml
  timeout:
    description: Seconds that a probe job may take, its wait in the queue included.
    type: int
    default: 120
seealso:
  - module: fractal.slurm.impersonation_info
"""

EXAMPLES = r"""
- name: Prove that the deployment works
  fractal.slurm.verify_deployment:
    service_user: fractal
    users:
      - alice
      - "%microscopy"
  register: proof

- name: Show it
  ansible.builtin.debug:
    msg: "{{ proof.table }}"
"""

RETURN = r"""
checks:
  description: Everything that was looked at, in order.
  returned: always
  type: list
  elements: dict
  contains:
    check:
      description: What kind of check.
      type: str
      returned: always
      sample: probe job
    what:
      description: What was checked.
      type: str
      returned: always
      sample: alice in main
    ok:
      description: Whether it is as it must be.
      type: bool
      returned: always
      sample: true
    words:
      description: What was found.
      type: str
      returned: always
      sample: ran as alice on n1 in 1.3 s, 3 sudo calls
table:
  description: The same as lines of text.
  returned: always
  type: list
  elements: str
  sample: ["ok    probe job   alice in main   ran as alice on n1 in 1.3 s, 3 sudo calls"]
faults:
  description: What is not as it must be, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["probe job: bob in main: sbatch: error: invalid partition specified: main"]
"""

import json
import os
import pwd
import re

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import impersonation
from ..module_utils.commands import run

# The task says in its out-JSON (the fourth argument that it gets) who ran it, and where.
PROBE = '/bin/sh -c \'printf "{\\"user\\": \\"%s\\", \\"host\\": \\"%s\\"}" "$(id -un)" "$(hostname)" > "$4"\' probe'


class Verification:
    """The checks of a host, one after the other.

    Args:
        params: The module's parameters.
        sudo: Path of sudo, or None.
        only_ask: Nothing is tried, and no job is submitted.

    Attributes:
        checks: What was found.
    """

    def __init__(self, params, sudo, only_ask):
        self._params = params
        self._sudo = sudo
        self._only_ask = only_ask
        self.rights = impersonation.Rights(params, sudo)
        self.checks = []

    def add(self, check, what, ok, words):
        """Keep the outcome of a check."""
        self.checks.append({"check": check, "what": what, "ok": bool(ok), "words": words})

    def run(self):
        """Make all checks."""
        self.rights.ask()
        for entry in self.rights.matrix:
            what = "%s as %s" % (" ".join(entry["command"]), entry["user"])
            words = "allowed" if entry["allowed"] else "refused"
            self.add("sudo says", what, entry["allowed"] == entry["expected"], words)
        if not self._only_ask:
            for entry in self.rights.matrix:
                if not entry["expected"]:
                    self._try_refused(entry["user"], entry["command"])
        if self._doctor() and not self._only_ask:
            for user, partition in self._probes():
                self._probe(user, partition)
            if self._params["every_node"] and self.rights.users:
                self._probe_nodes(self.rights.users[0])

    def _as_service(self, argv, **options):
        return run(argv, user=self._params["service_user"], **options)

    def _try_refused(self, user, line):
        answer = self._as_service([self._sudo, "-n", "-u", user, "--"] + line)
        refused = answer.status != 0 and answer.err.startswith("sudo:")
        words = answer.err.splitlines()[-1] if refused else "it ran"
        self.add("refused", "%s as %s" % (" ".join(line), user), refused, words)

    def _runtime(self, *arguments, **options):
        environment = {
            "FRACTAL_SLURM_SETTINGS_FILE": self._params["settings_file"],
            "FRACTAL_SLURM_CONFIG_FILE": self._params["config_path"],
        }
        return self._as_service([self._params["command"]] + list(arguments), environment=environment, **options)

    def _doctor(self):
        answer = self._runtime("doctor", "--json")
        try:
            findings = json.loads(answer.out)
        except ValueError:
            words = answer.err.splitlines()[-1] if answer.err else "exit code %d" % answer.status
            self.add("runtime", self._params["command"], False, words)
            return False
        for finding in findings:
            self.add("runtime", finding["check"], finding["ok"], finding["words"])
        return True

    def _probes(self):
        """Users and partitions: every user in the default partition, and the first user in the others."""
        try:
            with open(self._params["config_path"], encoding="utf-8") as stream:
                config = json.load(stream)
        except (OSError, ValueError):
            return []  # the runtime has said so
        named = [config.get(name, {}).get("partition") for name in ("default_slurm_config", "gpu_slurm_config")]
        partitions = [name for name in dict.fromkeys(named + self._params["partitions"]) if name]
        users = self.rights.users
        return [(user, partitions[0]) for user in users] + [(users[0], name) for name in partitions[1:] if users]

    def _probe_nodes(self, user):
        """A probe on each node, in the first partition that has it."""
        for folder in self._params["bin_dirs"] + ["/usr/bin", "/usr/local/bin"]:
            if os.access(os.path.join(folder, "sinfo"), os.X_OK):
                break
        answer = self._as_service([os.path.join(folder, "sinfo"), "-h", "-N", "-o", "%N|%R|%T"])
        if answer.status != 0:
            self.add("probe job", "every node", False, answer.err)
        nodes = {}
        for line in answer.out.split():
            node, partition, state = line.split("|")
            nodes.setdefault(node, (partition, state))
        for node in sorted(nodes):
            partition, state = nodes[node]
            if state in ("idle", "mixed", "allocated", "completing"):
                self._probe(user, partition, node)
            else:
                self.add("probe job", "%s on %s" % (user, node), True, "not tried: the node is %s" % state)

    def _probe(self, user, partition, node=None):
        folder = self._params["probe_dir"].replace("USER", user).replace("HOME", pwd.getpwnam(user).pw_dir)
        # As little as a job can be: the configuration's own time may be more than this partition allows.
        meta = {"partition": partition, "time": "00:00:30"}
        if node:
            meta["nodelist"] = node
        spec = {"task": {"name": "verify", "command": PROBE}, "meta": meta, "parameters": [{}]}
        what = "%s on %s" % (user, node) if node else "%s in %s" % (user, partition)
        answer = self._runtime(
            "run",
            "-",
            "--json",
            "--user",
            user,
            "--cache-dir",
            folder,
            "--work-dir",
            folder,
            stdin=json.dumps(spec).encode("utf-8"),
            timeout=self._params["timeout"],
        )
        try:
            summary = json.loads(answer.out)
            report = json.loads(self._runtime("report", summary["run_id"], "--json").out)
            result = report["tasks"][0]["result"] or {}
        except (ValueError, KeyError, IndexError):
            begun = re.search(r"^run (\S+):", answer.err, re.MULTILINE)
            if answer.status == 124 and begun:
                self._runtime("cancel", begun.group(1), "--json")
            self.add("probe job", what, False, answer.err.splitlines()[-1] if answer.err else "no answer")
        else:
            ok = summary["succeeded"] == 1 and result.get("user") == user
            numbers = (result.get("user"), result.get("host"), summary["wall_s"], summary["sudo_calls"])
            self.add("probe job", what, ok, "ran as %s on %s in %.1f s, %d sudo calls" % numbers)
        run(["/bin/rm", "-rf", "--", folder], user=user)


def table(checks):
    """The checks as lines of text, those of one kind and outcome that say no more than that in one."""
    rows = []
    for kind in ("sudo says", "refused"):
        chosen = [check for check in checks if check["check"] == kind and check["ok"]]
        if chosen:
            words = ("%d answers as they must be" if kind == "sudo says" else "%d attempts refused") % len(chosen)
            rows.append(("ok", kind, words, ""))
    rows += [
        ("ok" if check["ok"] else "FAULT", check["check"], check["what"], check["words"])
        for check in checks
        if not (check["ok"] and check["check"] in ("sudo says", "refused"))
    ]
    widths = [max([len(row[column]) for row in rows] or [0]) for column in range(3)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths + [0])).rstrip() for row in rows]


def main():
    """Make the checks; a fault is a result, and the playbook decides."""
    module = AnsibleModule(
        argument_spec=dict(
            impersonation.ARGUMENT_SPEC,
            probe_dir={"type": "str", "default": "HOME/fractal-slurm-verify"},
            partitions={"type": "list", "elements": "str", "default": []},
            every_node={"type": "bool", "default": False},
            command={"type": "path", "default": "/usr/local/bin/fractal-slurm"},
            config_path={"type": "path", "default": "/etc/fractal/slurm_config.json"},
            settings_file={"type": "path", "default": "/etc/fractal/fractal-slurm.toml"},
            timeout={"type": "int", "default": 120},
        ),
        supports_check_mode=True,
    )
    verification = Verification(module.params, module.get_bin_path("sudo"), module.check_mode)
    if verification.rights.faults:
        module.fail_json(msg="\n".join(verification.rights.faults), faults=verification.rights.faults)
    if os.path.isabs(module.params["command"]) and not os.path.exists(module.params["command"]):
        module.fail_json(msg="the runtime is not installed: there is no %s" % module.params["command"])
    verification.run()
    checks = verification.checks
    module.exit_json(
        changed=False,
        checks=checks,
        table=table(checks),
        faults=["%s: %s: %s" % (check["check"], check["what"], check["words"]) for check in checks if not check["ok"]],
    )


if __name__ == "__main__":
    main()
