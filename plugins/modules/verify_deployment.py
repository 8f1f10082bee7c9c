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
  - Asks sudo about every user and command, asks the runtime whether the host is ready, and runs a probe job as every
    user, one in every partition that the configuration names, and one on each of O(hosts) that is a node; on every node
    of the cluster where O(every_node) asks for it.
  - What must be refused is tried for real only where sudo has said that it refuses it, and only in forms that print
    something and do nothing else. What sudo allows is never tried.
  - Names each rule of sudo that gives the account rights and is not the role's, with file and line. What is more than
    was asked for is a fault. Settings of sudo that reach the jobs are warned of.
  - The probe jobs' task writes down who ran it, and that is compared. The probes have a state folder of their own, so
    they are not in the lists of runs.
  - With O(server_url), it also proves that fractal-server runs work as its users. As each user of O(server_tokens), it
    makes a project with a dataset and a workflow of one tiny task, runs it, looks who ran it, and removes all of that
    again. The task is a private one of that user, the shell script C(task.sh) in the probe folder.
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
      - A folder for the probe jobs, which each user can make and the nodes see. A part of the path that is just C(USER)
        is replaced by the user's name, one that is just C(HOME) by the user's home folder.
      - Each probe works in a new folder in it, and removes that one alone. Where the folder is there already, it must
        hold nothing but other probes' folders. Else nothing is tried in it.
    type: str
    default: HOME/fractal-slurm-verify
  asked_users:
    description:
      - Whom the service account was meant to act as, where O(users) are only some of them. Names of users, and of
        groups with a leading C(%).
    type: list
    elements: str
    default: []
  accepted_commands:
    description:
      - Commands that the service account may run by other rules of sudo, as they stand in those rules, such as
        C(/usr/bin/systemctl restart fractal-server). Each other right that is more than was asked for is a fault.
    type: list
    elements: str
    default: []
  main_file:
    description: The main sudoers file, which sudo reads.
    type: path
    default: /etc/sudoers
  partitions:
    description: Partitions to probe besides those that the configuration names.
    type: list
    elements: str
    default: []
  every_node:
    description:
      - Run a probe job on each node of the cluster, in the first of its partitions. One after the other, some seconds
        each, and more where a probe has to wait for room. Nodes that can't take a job now are named and not probed.
    type: bool
    default: false
  hosts:
    description:
      - The hosts of the deployment. The name of each in the inventory leads to two texts, which are its own name
        (C(uname -n)) and the Python that its runtime has (C(readlink -e PREFIX/current/bin/python)).
      - A probe job runs on each that is a node with room for it now, in a partition that is probed anyway.
      - A host whose runtime has no Python is a fault. One with another Python than this host is named.
    type: dict
    default: {}
  python:
    description: The Python that the runtime of this host has, to compare with.
    type: str
  command:
    description: The runtime's command.
    type: path
    default: /usr/local/bin/fractal-slurm
  config_path:
    description: The SLURM config file.
    type: path
    default: /etc/fractal/slurm_config.json
  settings_file:
    description: The runtime's settings file.
    type: path
    default: /etc/fractal/fractal-slurm.toml
  timeout:
    description:
      - Seconds that a probe job may take, its wait in the queue included. The workflows by O(server_url) run side by
        side, and have this time together.
    type: int
    default: 120
  server_url:
    description: The address of fractal-server, as this host sees it. Without it, fractal-server is not asked.
    type: str
  server_tokens:
    description:
      - For each account that jobs of fractal-server are to run as, a token of the user of fractal-server whose profile
        names that account. That user must be verified. Keep the tokens in a vault. They are never shown or logged.
    type: dict
  server_validate_certs:
    description: Whether the certificate of O(server_url) is checked.
    type: bool
    default: true
  server_ca_path:
    description: A file with certificates of authorities that are trusted for O(server_url).
    type: path
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
import shutil
import socket
import tempfile

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import impersonation, probe_folder, server_proof, sudoers
from ..module_utils.commands import call_as, run
from ..module_utils.faults import fail
from ..module_utils.fractal_server import Client, ServerError

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from typing import Any

    from ..module_utils.commands import Answer

# The most characters that the table shows of one check's words.
_MOST_WORDS = 2000
# Seconds for each question to fractal-server.
_QUESTION_S = 30
# States of a run after which no job of it is left.
ENDED = ("done", "cancelled", "refused")
# The task's fourth argument is the path of its out-JSON. The probe writes there who ran it, and where. It writes the
# uid, since names may have signs that JSON reads specially.
PROBE = '/bin/sh -c \'printf "{\\"uid\\": \\"%s\\", \\"host\\": \\"%s\\"}" "$(id -u)" "$(hostname)" > "$4"\' probe'


class Verification:
    """The checks of a host, one after the other.

    Args:
        params: The module's parameters.
        sudo: Path of sudo, or None.
        only_ask: Whether to try nothing and submit no job.

    Attributes:
        rights: What sudo says of the service account.
        checks: The outcomes so far: mappings with check, what, ok and words.
        files: Path to text of the sudoers files, once they were read.
    """

    def __init__(self, params: dict[str, Any], sudo: str | None, only_ask: bool) -> None:
        self._params = params
        self._sudo = sudo
        self._only_ask = only_ask
        self.rights = impersonation.Rights(params, sudo)
        self.checks: list[dict[str, Any]] = []
        self.files: dict[str, str] = {}

    def add(self, check: str, what: object, ok: object, words: object) -> None:
        """Keep the outcome of a check.

        Args:
            check: What kind of check it is.
            what: What was checked.
            ok: Whether it is as it must be.
            words: What was found.
        """
        what, words = one_line(what), one_line(words)
        self.checks.append({"check": check, "what": what, "ok": bool(ok), "words": words})

    def run(self) -> None:
        """Make all checks."""
        self.rights.ask()
        for entry in self.rights.matrix:
            what = "%s as %s" % (" ".join(entry["command"]), entry["user"])
            words = "allowed" if entry["allowed"] else "refused" if entry["answered"] else "sudo gave no answer"
            if entry["allowed"] and entry["rule"]:
                words += " by %s" % entry["rule"]
            ok = entry["answered"] and entry["allowed"] == entry["expected"]
            self.add("sudo says", what, ok, words)
            tried = None if self._only_ask else self.rights.attempt(entry)
            if tried:
                self.add("refused", what, *tried)
        self._rights()
        for what, ok, words in judge_pythons(self._params["hosts"], self._params["python"]):
            self.add("python", what, ok, words)
        if self._doctor() and not self._only_ask:
            probes = self._probes()
            for user, partition in probes:
                self._probe(user, partition)
            if self.rights.users and (self._params["every_node"] or self._params["hosts"]):
                self._probe_nodes(self.rights.users[0], list(dict.fromkeys(partition for _user, partition in probes)))
        if self._params["server_url"]:
            self._server()

    def _rights(self) -> None:
        """Find rules of sudo that give the service account more than was asked for, or the same a second time."""
        host = socket.gethostname()
        self.files = sudoers.SudoersSet(self._params["main_file"], host).files
        if not self.files:
            self.add(
                "rights", self._params["main_file"], True, "can't be read: rules are known by sudo's answers alone"
            )
        asked = self._params["asked_users"]
        for where, words, covered in self.rights.check_rights(
            self.files, asked, self._params["accepted_commands"], host
        ):
            service = self._params["service_user"]
            if covered:
                words = "%s may, by a rule that is not the role's: %s; it stays when a user is taken off the list" % (
                    service,
                    words,
                )
            else:
                words = "%s may do more than was asked for: %s" % (service, words)
            self.add("rights", where, covered, words)

    def warnings(self) -> list[str]:
        """Settings of sudo that reach the jobs, one sentence each."""
        subject = sudoers.HostAccounts().subject(self._params["service_user"], socket.gethostname())
        return sudoers.set_warnings(self.files, subject)

    def _as_service(self, argv: list[str], **options: Any) -> Answer:
        """Run a command as the service account. The options are those of :func:`run`."""
        return run(argv, user=self._params["service_user"], **options)

    def _runtime(self, *arguments: str, **options: Any) -> Answer:
        """Run the runtime's command as the service account.

        Args:
            arguments: What follows the command.
            options: Those of :func:`run`; and ``state``, the state folder, where it is not the usual one.
        """
        environment = {
            "FRACTAL_SLURM_SETTINGS_FILE": self._params["settings_file"],
            "FRACTAL_SLURM_CONFIG_FILE": self._params["config_path"],
        }
        state = options.pop("state", None)
        if state:
            environment["FRACTAL_SLURM_STATE_DIR"] = state
        return self._as_service([self._params["command"]] + list(arguments), environment=environment, **options)

    def _doctor(self) -> bool:
        """Ask the runtime whether the host is ready. Returns whether it gave an answer."""
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

    def _probes(self) -> list[tuple[str, str]]:
        """Choose users and partitions: every user in the default partition, and the first user in the others."""
        try:
            with open(self._params["config_path"], encoding="utf-8") as stream:
                config = json.load(stream)
        except (OSError, ValueError):
            return []  # the runtime has named this fault already
        partitions = list(dict.fromkeys(config_partitions(config) + self._params["partitions"]))
        users = self.rights.users
        if not partitions:
            return []
        return [(user, partitions[0]) for user in users] + [(users[0], name) for name in partitions[1:] if users]

    def _probe_nodes(self, user: str, partitions: list[str]) -> None:
        """Run a probe on each node of the cluster, or on each of the hosts that is a node.

        Args:
            user: As whom.
            partitions: Those that are probed anyway, the preferred one first.
        """
        for folder in self._params["bin_dirs"] + ["/usr/bin", "/usr/local/bin"]:
            if os.access(os.path.join(folder, "sinfo"), os.X_OK):
                break
        answer = self._as_service([os.path.join(folder, "sinfo"), "-h", "-N", "-o", "%N|%R|%T|%n|%o"])
        if answer.status != 0:
            self.add("probe job", "every node", False, answer.err)
        hosts = None if self._params["every_node"] else self._params["hosts"]
        for node, partition, why_not in choose_nodes(answer.out, hosts, partitions):
            if why_not:
                self.add("probe job", "%s on %s" % (user, node), True, "not tried: " + why_not)
            else:
                self._probe(user, partition, node)

    def _probe(self, user: str, partition: str, node: str | None = None) -> None:
        """Run a probe job in folders of its own, and remove them once it has ended.

        Args:
            user: As whom.
            partition: Where.
            node: The node that it must run on. None for any.
        """
        what = "%s on %s" % (user, node) if node else "%s in %s" % (user, partition)
        try:
            folder = probe_folder.expand(self._params["probe_dir"], user, pwd.getpwnam(user).pw_dir)
            made = call_as(user, probe_folder.make, folder)
        except (OSError, ValueError) as error:
            words = "the probe folder of %s can't be made: %s" % (user, error)
            if isinstance(error, PermissionError):
                advice = ": let root make %s and give it to %s, or name another place (fractal_slurm_verify_dir)"
                words += advice % (error.filename or "it", user)
            self.add("probe job", what, False, words)
            return
        # A state folder of its own keeps the probes out of the lists of runs.
        outer = tempfile.mkdtemp(prefix="fractal-slurm-verify-")
        try:
            os.chmod(outer, 0o711)  # noqa: S103 - the service account has to get to its folder in it
            state = os.path.join(outer, "state")
            os.mkdir(state, 0o700)
            service = pwd.getpwnam(self._params["service_user"])
            os.chown(state, service.pw_uid, service.pw_gid)
            ended = self._probe_in(made[-1][0], state, user, partition, node, what)
        except BaseException:
            shutil.rmtree(outer, ignore_errors=True)
            raise
        if not ended:
            return  # the job may still work there
        shutil.rmtree(outer, ignore_errors=True)
        try:
            call_as(user, probe_folder.remove, made)
        except OSError as error:
            self.add("probe folder", what, False, str(error))

    def _probe_in(self, folder: str, state: str, user: str, partition: str, node: str | None, what: str) -> bool:
        """Run a probe job in a folder that is new.

        Args:
            folder: The folder in which the job works.
            state: The state folder of the run.
            user: As whom.
            partition: Where.
            node: The node that it must run on. None for any.
            what: How the table names it.

        Returns:
            Whether the job has ended, so that nobody works in the folder any more.
        """
        # The time limit is short, since this partition may not allow the time of the configuration.
        meta = {"partition": partition, "time": "00:00:30"}
        if node:
            meta["nodelist"] = node
        spec = {"task": {"name": "verify", "command": PROBE}, "meta": meta, "parameters": [{}]}
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
            state=state,
            stdin=json.dumps(spec).encode("utf-8"),
            timeout=self._params["timeout"],
        )
        ended, words = True, last_line(answer)
        for run_id in runs_in(state):
            report = self._report(run_id, state)
            if report.get("state") not in ENDED:
                self._runtime("cancel", run_id, "--json", state=state, timeout=self._params["timeout"])
                report = self._report(run_id, state)
            if report.get("state") not in ENDED:
                ended = False
                words += "; its job may still wait: FRACTAL_SLURM_STATE_DIR=%s fractal-slurm cancel %s" % (
                    state,
                    run_id,
                )
        report = report_of(answer, lambda run_id: self._report(run_id, state))
        ok, told = judge_probe(answer, report, user, pwd.getpwnam(user).pw_uid)
        self.add("probe job", what, ok, told or words)
        return ended

    def _server(self) -> None:
        """Run a workflow through fractal-server as each of its users."""
        params = self._params
        tokens = params["server_tokens"] or {}
        if self._only_ask:
            for account in sorted(tokens):
                self.add("fractal-server", account, True, "not tried: check mode")
            return
        proofs = []
        for account, token in sorted(tokens.items()):
            try:
                client = Client(
                    params["server_url"],
                    str(token),
                    timeout=_QUESTION_S,
                    validate_certs=params["server_validate_certs"],
                    ca_path=params["server_ca_path"],
                    hints=server_proof.HINTS,
                    option="server_url",
                )
            except ServerError as error:
                self.add("fractal-server", account, False, error)
                continue
            proofs.append(server_proof.Proof(client, account, params["service_user"], params["probe_dir"]))
        for row in server_proof.prove(proofs, params["timeout"]):
            self.add("fractal-server", *row)

    def _report(self, run_id: str, state: str) -> dict[str, Any]:
        """What the runtime knows of a run. Empty where it does not say."""
        answer = self._runtime("report", run_id, "--json", state=state)
        try:
            report = json.loads(answer.out)
        except ValueError:
            return {}
        return report if isinstance(report, dict) else {}


def config_partitions(config: Any) -> list[str]:
    """The partitions that a configuration names, whatever else is in it."""
    sections = [config.get(name) for name in ("default_slurm_config", "gpu_slurm_config")] if as_dict(config) else []
    named = [as_dict(section).get("partition") for section in sections]
    return [name for name in dict.fromkeys(name for name in named if isinstance(name, str)) if name]


def one_line(text: object) -> str:
    """Make one line of others' words, so that no line of theirs passes for one of ours.

    A user writes the result of their own probe. It could hold signs that a terminal obeys, and these are replaced.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)[: 4 * _MOST_WORDS]).split())
    return line if len(line) <= _MOST_WORDS else line[: _MOST_WORDS - 3] + "..."


def host_facts(value: object) -> list[str]:
    """What is known of a host of the deployment: its own name, and the Python of its runtime.

    A text is empty where it is unknown.
    """
    texts = [str(text or "") for text in value] if isinstance(value, (list, tuple)) else []
    return (texts + ["", ""])[:2]


def judge_pythons(hosts: dict[str, Any], own: str | None) -> list[tuple[str, bool, str]]:
    """Compare the Pythons of the hosts with this host's.

    Args:
        hosts: The module's parameter.
        own: Path of this host's Python, or None.

    Returns:
        Three values for each host: its name, whether all is as it must be, and a sentence.
    """
    found = []
    for host, value in sorted(hosts.items()):
        python = host_facts(value)[1]
        if not python:
            words = "the Python of its runtime is not there: run the playbook site, which installs the runtime anew"
        elif own and python != own:
            words = "%s, and this host has %s: on a node that lacks that, jobs run with the node's own" % (python, own)
        else:
            words = python
        found.append((host, bool(python), words))
    return found


def choose_nodes(told: str, hosts: dict[str, Any] | None, partitions: list[str]) -> list[tuple[str, str, str | None]]:
    """Choose the nodes to probe.

    Args:
        told: What ``sinfo -N`` prints: a node's name, partition, state, host name and address, in each line.
        hosts: The module's parameter. None for every node of the cluster.
        partitions: Those that are probed anyway, the preferred one first.

    Returns:
        Three values for each node: its name, a partition, and why it is not probed. The last is None where it is.
    """
    nodes: dict[str, Any] = {}
    for line in told.splitlines():
        words = line.strip().split("|")
        if len(words) == 5:
            node = nodes.setdefault(words[0], {"partitions": [], "state": words[2], "names": set()})
            node["partitions"].append(words[1])
            node["names"].update(name.lower() for name in (words[0], words[3], words[4]))
    names: set[str] = set()
    for host, value in (hosts or {}).items():
        for name in (host, host_facts(value)[0]):
            # A node's name is the first part of a host's name. An address has no such part.
            names.update((name.lower(), name.lower() if name[:1].isdigit() else name.lower().split(".")[0]))
    chosen = []
    for name, node in sorted(nodes.items()):
        if hosts is not None and not node["names"] & names - {""}:
            continue
        served = [partition for partition in partitions if partition in node["partitions"]]
        # Where nobody asked for every node, no probe waits for room. Nor does one run where no job of Fractal's runs.
        ready = ("idle", "mixed") if hosts is not None else ("idle", "mixed", "allocated", "completing")
        why_not = None
        if node["state"] not in ready:
            why_not = "the node is %s" % node["state"]
        elif hosts is not None and not served:
            why_not = "it is in none of the partitions that are probed"
        chosen.append((name, (served + node["partitions"])[0], why_not))
    return chosen


def as_dict(value: object) -> dict[str, Any]:
    """The value where it is a dict, else an empty dict."""
    return value if isinstance(value, dict) else {}


def runs_in(state: str) -> list[str]:
    """The ids of the runs in a state folder."""
    try:
        return sorted(name for name in os.listdir(os.path.join(state, "runs")) if not name.startswith("."))
    except OSError:
        return []


def last_line(answer: Answer) -> str:
    """The last line of a command's error output."""
    lines = answer.err.splitlines()
    return lines[-1] if lines else "no answer (exit status %d)" % answer.status


def report_of(answer: Answer, read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """The report of the run whose summary is a command's answer.

    Args:
        answer: The answer of ``fractal-slurm run --json``.
        read: Takes the id of a run, and returns its report.

    Returns:
        The report, with the summary in it. Empty where the answer names no run.
    """
    try:
        summary = json.loads(answer.out)
    except ValueError:
        return {}
    run_id = as_dict(summary).get("run_id")
    return dict(read(run_id), summary=summary) if isinstance(run_id, str) else {}


def judge_probe(answer: Answer, report: dict[str, Any], user: str, uid: int) -> tuple[bool, str | None]:
    """Whether a probe job ran as it must, and in which words.

    Args:
        answer: The answer of ``fractal-slurm run --json``.
        report: What :func:`report_of` made of it.
        user: The user that it must have run as.
        uid: That user's uid.

    Returns:
        Two values: whether it ran as it must, and a sentence. The sentence is None where the answer says all.
    """
    summary = as_dict(report.get("summary"))
    tasks = report.get("tasks")
    task = as_dict(tasks[0]) if isinstance(tasks, list) and tasks else {}
    result = as_dict(task.get("result"))
    if not result:
        reason = task.get("reason") or summary.get("refusal")
        return False, "the probe did not run: %s" % reason if reason else None
    right = result.get("uid") == str(uid)
    ok = summary.get("succeeded") == 1 and right
    words = "ran as %s on %s" % (user if right else "uid %s" % result.get("uid"), result.get("host"))
    if not ok and right:
        return False, "%s, and failed: %s" % (words, task.get("reason") or last_line(answer))
    if isinstance(summary.get("wall_s"), (int, float)):
        words += " in %.1f s, %s sudo calls" % (summary["wall_s"], summary.get("sudo_calls"))
    return ok, words


def table(checks: Collection[dict[str, Any]]) -> list[str]:
    """Show the checks as lines of text.

    Answers of sudo and attempts that are as they must be share one line of each kind.
    """
    rows: list[tuple[str, ...]] = []
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


def main() -> None:
    """Make the checks. A fault is a result, and the playbook decides what it means."""
    module = AnsibleModule(
        argument_spec=dict(
            impersonation.ARGUMENT_SPEC,
            probe_dir={"type": "str", "default": "HOME/fractal-slurm-verify"},
            asked_users={"type": "list", "elements": "str", "default": []},
            accepted_commands={"type": "list", "elements": "str", "default": []},
            main_file={"type": "path", "default": "/etc/sudoers"},
            partitions={"type": "list", "elements": "str", "default": []},
            every_node={"type": "bool", "default": False},
            hosts={"type": "dict", "default": {}},
            python={"type": "str"},
            command={"type": "path", "default": "/usr/local/bin/fractal-slurm"},
            config_path={"type": "path", "default": "/etc/fractal/slurm_config.json"},
            settings_file={"type": "path", "default": "/etc/fractal/fractal-slurm.toml"},
            timeout={"type": "int", "default": 120},
            server_url={"type": "str"},
            server_tokens={"type": "dict", "no_log": True},
            server_validate_certs={"type": "bool", "default": True},
            server_ca_path={"type": "path"},
        ),
        required_together=[("server_url", "server_tokens")],
        supports_check_mode=True,
    )
    verification = Verification(module.params, module.get_bin_path("sudo"), module.check_mode)
    if verification.rights.faults:
        fail(module, verification.rights.faults)
    if os.path.isabs(module.params["command"]) and not os.path.exists(module.params["command"]):
        module.fail_json(msg="the runtime is not installed: there is no %s" % module.params["command"])
    verification.run()
    checks = verification.checks
    for warning in verification.warnings():
        module.warn(warning)
    module.exit_json(
        changed=False,
        checks=checks,
        table=table(checks),
        faults=["%s: %s: %s" % (check["check"], check["what"], check["words"]) for check in checks if not check["ok"]],
    )


if __name__ == "__main__":
    main()
