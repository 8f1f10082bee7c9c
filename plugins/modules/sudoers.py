#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let a service account run a few commands as other users, by a sudoers file of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sudoers
short_description: Let a service account run SLURM commands as other users
version_added: "0.1.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Keeps one file in C(/etc/sudoers.d) that lets the account of fractal-server run C(sbatch), C(scancel), C(cat),
    C(ls) and C(mkdir) as the given users, without a password and never as a privileged user.
  - Before anything is changed, the accounts, the commands and the complete set of sudoers files with the new file in
    place are checked, and all faults are reported at once.
  - The file is replaced in one step, so that there is a valid one at any moment.
notes:
  - C(sbatch) is arbitrary code as the user that it runs as, whatever else is restricted.
  - Rules that sudo gets from LDAP or SSSD are not seen by this module.
extends_documentation_fragment:
  - fractal.slurm.attributes
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
  service_user:
    description:
      - The account that runs fractal-server.
      - Needed with O(state=present).
    type: str
  impersonate_users:
    description:
      - Whom the service account may act as. Names of users, and of groups with a leading C(%).
      - Root, accounts below UID_MIN, local accounts above UID_MAX, the accounts that SLURM's daemons run as, privileged
        groups and their members are refused.
    type: list
    elements: str
    default: []
  mode:
    description:
      - With V(standard), the commands may be given any arguments.
      - With V(hardened), they are narrowed to the forms that the runtime uses, and to paths below O(work_dirs).
        It needs sudo 1.9.10 or newer, and is refused elsewhere.
    type: str
    choices: [standard, hardened]
    default: standard
  work_dirs:
    description: Folders that the users' work lies below. Needed with O(mode=hardened).
    type: list
    elements: str
    default: []
  bin_dirs:
    description:
      - Folders in which C(sbatch) and C(scancel) are looked for, instead of C(/usr/bin), C(/bin) and C(/usr/local/bin).
      - Commands that someone but root can change, or that lie below a folder which someone but root can write, are
        refused.
    type: list
    elements: str
    default: []
  privileged_groups:
    description: Groups whose members are as good as root. They are never impersonated, whoever joins them later.
    type: list
    elements: str
    default:
      - root
      - sudo
      - wheel
      - admin
      - adm
      - staff
      - docker
      - lxd
      - incus
      - incus-admin
      - libvirt
      - disk
      - kmem
      - shadow
      - slurm
      - munge
  accept_system_users:
    description: Accounts below UID_MIN or above UID_MAX that may be impersonated all the same.
    type: list
    elements: str
    default: []
  accept_unlistable_groups:
    description:
      - Accept groups whose members can't all be listed, which is so where accounts come from a directory service.
    type: bool
    default: false
  directory:
    description: The folder of the file, which the main file must include.
    type: path
    default: /etc/sudoers.d
  file:
    description:
      - The file's name. A second service account needs a file of its own; its aliases get names of their own, too.
      - A file that is not this module's is overwritten only where it holds the same kind of rights of the same account
        and nothing else.
      - Sudo ignores names with a dot or a trailing tilde, so those are refused.
    type: str
    default: fractal-slurm
  main_file:
    description: The main sudoers file.
    type: path
    default: /etc/sudoers
  replaces:
    description:
      - Files of the sudoers set, the main file among them, in which the same rights stand in another way, written by
        hand or by an older playbook. They are taken over, so that the rights are there at any moment. Rules that let
        O(service_user) alone run our commands, and definitions of our aliases, go from these files; the rest stays. A
        file in which nothing stays is removed, but for the main file.
      - A copy of each file that is changed stays beside it, under a name that sudo ignores.
      - Files that are not there, or have no such rights any more, change nothing.
    type: list
    elements: path
    default: []
  commands:
    description: The commands to grant. Set by the action plugin, from the list that the runtime uses.
    type: list
    elements: str
    default: [sbatch, scancel, cat, ls, mkdir]
  arguments:
    description: The forms that each command is narrowed to. Set by the action plugin with O(mode=hardened).
    type: dict
  known_faults:
    description: What the action plugin found on the controller. The module adds its own faults and changes nothing.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Let fractal work as alice, and as all members of the group microscopy
  fractal.slurm.sudoers:
    service_user: fractal
    impersonate_users:
      - alice
      - "%microscopy"

- name: The same, narrowed to work below /data, with a SLURM in a folder of its own
  fractal.slurm.sudoers:
    service_user: fractal
    impersonate_users:
      - alice
      - "%microscopy"
    mode: hardened
    work_dirs:
      - /data
    bin_dirs:
      - /opt/slurm/bin

- name: Take the rights away
  fractal.slurm.sudoers:
    state: absent
"""

RETURN = r"""
path:
  description: The sudoers file.
  returned: always
  type: str
  sample: /etc/sudoers.d/fractal-slurm
commands:
  description: The granted commands and where they lie on the host.
  returned: when state is present
  type: dict
  sample: {sbatch: /usr/bin/sbatch, cat: /usr/bin/cat}
backup_files:
  description: Copies of the files whose rights were taken over.
  returned: when some were
  type: list
  elements: str
  sample: ["/etc/sudoers.d/fractal.12345.2026-01-01@12:00:00~"]
differs:
  description: Whether the host differed from what is wanted. The same as C(changed), which a task may override.
  returned: success
  type: bool
  sample: true
sudo_version:
  description: The version of sudo on the host; null for another program than the original sudo.
  returned: always
  type: str
  sample: 1.9.13
warnings:
  description: Settings of the host that the administrator should know of, such as I/O logging of sudo.
  returned: when there are some
  type: list
  elements: str
  sample: ["/etc/sudoers:12: sudo records standard input here: every submitted script lands in sudo's I/O log"]
faults:
  description: All that is wrong, one sentence each.
  returned: on failure
  type: list
  elements: str
  sample: ["user bob: unknown on this host: create it, or take it off the list"]
"""

import os
import re
import shutil
import socket
import stat
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import sudo_rules, sudoers, sudoers_reader, sudoers_rights
from ..module_utils.atomic import write_whole
from ..module_utils.commands import run
from ..module_utils.faults import fail

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

PRIVILEGED_GROUPS = [
    *("root", "sudo", "wheel", "admin", "adm", "staff", "docker", "lxd", "incus", "incus-admin", "libvirt"),
    *("disk", "kmem", "shadow", "slurm", "munge"),
]
_SLURM_CONF = ["/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf"]
# Sudo lists the folder first, and opens each file later. Who listed it before a change is done after so many seconds.
_READING_S = 2.0
_SBIN = ["/usr/sbin", "/sbin", "/usr/local/sbin"]


class Host:
    """What the module reads from the host and runs there.

    Args:
        module: The running module.
    """

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self.sudo: str | None = module.get_bin_path("sudo")
        self._visudo: str | None = module.get_bin_path("visudo", opt_dirs=_SBIN)
        self._cvtsudoers: str | None = module.get_bin_path("cvtsudoers", opt_dirs=_SBIN)

    def faults(self) -> list[str]:
        """What is missing on the host, one sentence each."""
        if self.sudo is None:
            return [sudoers.not_found("sudo", _SBIN)]
        if self._visudo is None:
            return [sudoers.not_found("visudo", _SBIN) + ": nothing is changed without its check"]
        return []

    def sudo_version(self) -> str:
        """The output of ``sudo -V``. Empty where there is no sudo."""
        out: str = self._module.run_command([self.sudo, "-V"])[1] if self.sudo else ""
        return out

    def read_set(self, overrides: Mapping[str, str | None]) -> sudoers.SudoersSet:
        """The complete set of sudoers files, as it would be after a change.

        Args:
            overrides: The changed files: path to text. None stands for a file that is removed.
        """
        return sudoers.SudoersSet(self._module.params["main_file"], socket.gethostname(), overrides)

    def check_set(self, files: sudoers.SudoersSet) -> str | None:
        """What visudo says of a whole set. None where the set is fine, or where there is no visudo.

        Args:
            files: The :class:`sudoers.SudoersSet` to check.
        """
        if self._visudo is None:
            return None
        folder = tempfile.mkdtemp(prefix="fractal-slurm-sudoers-", dir=self._module.tmpdir)
        try:
            copy, originals = files.write_copy(folder)
            status, out, err = self._run([self._visudo, "-c", "-f", copy])
            if status == 0:
                return sudoers.read_otherwise(out, copy, originals)
            lines = (line.strip() for line in (err + out).splitlines())
            return sudoers.name_originals("; ".join(line for line in lines if line), originals)
        finally:
            shutil.rmtree(folder)

    def aliases(self, files: sudoers.SudoersSet) -> set[str]:
        """The names of all aliases of a set, as sudo's own parser reads them. Empty where it can't be asked.

        Args:
            files: The :class:`sudoers.SudoersSet`.
        """
        if self._cvtsudoers is None:
            return set()
        folder = tempfile.mkdtemp(prefix="fractal-slurm-sudoers-", dir=self._module.tmpdir)
        try:
            copy, _originals = files.write_copy(folder)
            # The site's settings for cvtsudoers may leave things out. So it reads none.
            status, out, _err = self._run([self._cvtsudoers, "-c", "/dev/null", "-f", "json", copy])
            return sudoers_reader.aliases_of_json(out) if status == 0 else set()
        finally:
            shutil.rmtree(folder)

    def _run(self, argv: list[str]) -> tuple[int, str, str]:
        """Run a command. Returns its exit status, its output and its error output."""
        status, out, err = self._module.run_command(argv, environ_update={"LC_ALL": "C"}, errors="surrogate_or_replace")
        return status, out, err


def place(path: str, text: str, mode: int = 0o440, uid: int = 0, gid: int = 0) -> None:
    """Put a file in place in one step: whole, and with its final mode and owner.

    Args:
        path: Its place.
        text: Its text.
        mode: The bits of its mode.
        uid: Its owner.
        gid: Its group.
    """

    def prepare(temporary: str) -> None:
        os.chown(temporary, uid, gid)
        os.chmod(temporary, mode)

    # Sudo reads no file with a dot in its name. So it does not read this one before it is complete.
    write_whole(path, text.encode("utf-8", "surrogateescape"), prepare, prefix=".%s." % os.path.basename(path))


def has_final_mode(path: str) -> bool:
    """Whether a file belongs to root:root and has the mode 0440."""
    info = os.lstat(path)
    return (info.st_mode, info.st_uid, info.st_gid) == (0o100440, 0, 0)


def slurm_uids(params: dict[str, Any]) -> dict[int, str]:
    """The uids that SLURM's daemons run as.

    SLURM is asked as the service account. Nothing of SLURM's runs as root here.

    Args:
        params: The module's parameters.

    Returns:
        Uid to the setting that names it. Empty where SLURM does not say.
    """
    accounts = sudoers.HostAccounts()
    texts = []
    folders = params["bin_dirs"] or [*sudoers.SYSTEM_DIRS, "/usr/local/bin"]
    paths = [path for path in (os.path.join(folder, "scontrol") for folder in folders) if os.path.exists(path)]
    if paths and os.geteuid() == 0 and accounts.user(params["service_user"]) is not None:
        answer = run([paths[0], "show", "config"], timeout=30, user=params["service_user"])
        texts.append(answer.out if answer.status == 0 else "")
    if not any(texts):  # slurmctld does not answer, or there is none yet
        files = [os.path.join(folder, "../etc/slurm.conf") for folder in params["bin_dirs"]] + _SLURM_CONF
        texts = [sudoers.read_file(path) or "" for path in files]
    found: dict[int, str] = {}
    for name, uid, setting in sudoers.parse_slurm_users("\n".join(texts)):
        user = accounts.user(name)
        found.update({known: setting for known in (uid, user.uid if user else None) if known is not None})
    return found


def read_set(params: dict[str, Any], faults: list[str]) -> tuple[sudoers.SudoersSet | None, str | None]:
    """Read the set of sudoers files without ours.

    Args:
        params: The module's parameters.
        faults: Gets a sentence for each thing that is wrong with the set.

    Returns:
        Two values: the set, and the path of our file. Both are None where sudo would not read our file.
    """
    present = sudoers.SudoersSet(params["main_file"], socket.gethostname())
    wanted = os.path.realpath(params["directory"])
    folder = next((path for path in present.folders if os.path.realpath(path) == wanted), None)
    if params["main_file"] not in present.files:
        faults.append("the main file %s can't be read" % params["main_file"])
    elif folder is None:
        faults.append(
            "%s does not include %s, so sudo would not read our file" % (params["main_file"], params["directory"])
        )
    if folder is None:
        return None, None
    faults.extend(sudoers.path_faults(folder, "the folder"))
    own = os.path.join(folder, params["file"])
    return sudoers.SudoersSet(params["main_file"], socket.gethostname(), {own: None}), own


def rights_to_replace(
    params: dict[str, Any], files: dict[str, str], own: str, faults: list[str]
) -> dict[str, str | None]:
    """What becomes of the files whose rights the role takes over.

    Args:
        params: The module's parameters.
        files: Path to text of the set without our file.
        own: Path of our file.
        faults: Gets a sentence for each thing that is in the way.

    Returns:
        Path to new text, for the files that change. None stands for a file of which nothing is left.
    """
    found: dict[str, str | None] = {}
    for path in dict.fromkeys(map(os.path.normpath, params["replaces"])):
        if not os.path.isabs(path):
            faults.append("%s: its rights can't be taken over: name the file by its absolute path" % path)
        if path == own or not os.path.lexists(path):
            continue
        if path not in files or os.path.islink(path):
            faults.append("%s: its rights can't be taken over: sudo does not read it, or it is a link" % path)
            continue
        rest, kept, mixed = sudoers.without_our_rights(
            files[path], params["service_user"], params["commands"], uses_of_others(files, path)
        )
        faults.extend("%s:%d: %s" % (path, line, words) for line, words in mixed)
        if rest != files[path]:
            found[path] = rest if kept or path == params["main_file"] else None
    return found


def uses_of_others(files: dict[str, str], path: str) -> set[str]:
    """The names of the aliases that all other files use.

    Args:
        files: Path to text of all files.
        path: The file that does not count.
    """
    return {
        name
        for other, text in files.items()
        if other != path
        for name in sudoers_rights.alias_uses(sudoers_reader.read(text))
    }


def fault_of_overwriting(params: dict[str, Any], files: dict[str, str], path: str) -> str | None:
    """Why the file in the place of ours can't be overwritten. None where it can.

    Args:
        params: The module's parameters.
        files: Path to text of the other files.
        path: Where our file is to be.
    """
    before = sudoers.read_file(path)
    if before is None:
        return "%s is no plain file, and is left alone" % path if os.path.lexists(path) else None
    if before.startswith(sudoers.HEADER):
        return sudoers.fault_of_foreign_file(path, before, params["service_user"])
    _rest, kept, mixed = sudoers.without_our_rights(
        before, params["service_user"], params["commands"], uses_of_others(files, path)
    )
    if not kept and not mixed:
        return None
    return (
        "%s:%d: the file was not made by this role, and has more in it than %s's rights to SLURM: it is left alone; "
        "name another file (fractal_slurm_sudoers_file), and this one in fractal_slurm_sudoers_replaces, so that its "
        "rights are taken over" % (path, kept[0].line if kept else mixed[0][0], params["service_user"])
    )


def wanted_text(
    params: dict[str, Any],
    host: Host,
    base: sudoers.SudoersSet | None,
    slurm_users: Mapping[int, str] | None = None,
    names: tuple[str, ...] | None = None,
) -> tuple[str | None, dict[str, str], list[str]]:
    """Make the text of our file, and find everything that is wrong.

    Args:
        params: The module's parameters.
        host: The host.
        base: The set of sudoers files without ours. None where it could not be read.
        slurm_users: The uids that SLURM's daemons run as, to the setting that names them.
        names: Names of the two aliases. None for the usual ones.

    Returns:
        Three values: the text, command to path, and the faults. The text is None where it can't be made.
    """
    accounts = sudoers.HostAccounts()
    known: dict[str, Any] = {
        "privileged_groups": params["privileged_groups"],
        "accept_system_users": params["accept_system_users"],
        "slurm_users": slurm_users,
    }
    faults = sudoers.account_faults(
        params["impersonate_users"],
        accounts,
        params["service_user"],
        accept_unlistable_groups=params["accept_unlistable_groups"],
        **known,
    )
    for name in params["privileged_groups"]:
        fault = sudo_rules.fault_of_account_name(name, "privileged group", is_group=True)
        if fault:
            faults.append(fault)
    commands, command_faults = sudoers.find_commands(params["commands"], params["bin_dirs"])
    faults.extend(command_faults)
    if params["mode"] == "hardened":
        version = sudoers.parse_sudo_version(host.sudo_version())
        if version is None or version < sudoers.HARDENED_SUDO_VERSION:
            faults.append(
                "hardened mode needs sudo %s or newer, which has argument patterns; this host has %s: "
                "use mode standard, or another sudo"
                % (
                    ".".join(map(str, sudoers.HARDENED_SUDO_VERSION)),
                    ".".join(map(str, version)) if version else "another program",
                )
            )
        elif not params["arguments"] and not params["known_faults"]:
            faults.append("hardened mode needs argument patterns: run this module by its action plugin")
    names = names or (sudo_rules.RUNAS_ALIAS, sudo_rules.CMND_ALIAS)
    if base is not None:
        faults.extend(
            sudoers.alias_clashes(base.files, None, names)
            or sudoers.hidden_clashes(base.main, host.aliases(base), names)
        )
    if faults:
        return None, commands, faults
    text = sudoers.render(
        params["service_user"],
        params["impersonate_users"],
        commands,
        arguments=params["arguments"] if params["mode"] == "hardened" else None,
        privileged_groups=params["privileged_groups"],
        closing=sudoers.closing_entries(params["impersonate_users"], accounts, params["service_user"], **known),
        names=names,
    )
    return text, commands, faults


def main() -> None:
    """Read the parameters, check everything, then change the file."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "service_user": {"type": "str"},
            "impersonate_users": {"type": "list", "elements": "str", "default": []},
            "mode": {"type": "str", "choices": ["standard", "hardened"], "default": "standard"},
            "work_dirs": {"type": "list", "elements": "str", "default": []},
            "bin_dirs": {"type": "list", "elements": "str", "default": []},
            "privileged_groups": {
                "type": "list",
                "elements": "str",
                "default": PRIVILEGED_GROUPS,
            },
            "accept_system_users": {"type": "list", "elements": "str", "default": []},
            "accept_unlistable_groups": {"type": "bool", "default": False},
            "directory": {"type": "path", "default": "/etc/sudoers.d"},
            "file": {"type": "str", "default": "fractal-slurm"},
            "main_file": {"type": "path", "default": "/etc/sudoers"},
            "replaces": {"type": "list", "elements": "path", "default": []},
            "commands": {"type": "list", "elements": "str", "default": ["sbatch", "scancel", "cat", "ls", "mkdir"]},
            "arguments": {"type": "dict"},
            "known_faults": {"type": "list", "elements": "str", "default": []},
        },
        required_if=[("state", "present", ["service_user"])],
        supports_check_mode=True,
    )
    params = module.params
    host = Host(module)
    result: dict[str, Any] = {"path": os.path.join(params["directory"], params["file"])}

    fault = sudoers.fault_of_file_name(params["file"])
    if params["state"] == "absent":
        if fault:
            fail(module, [fault], **result)
        before = sudoers.read_file(result["path"])
        if before is not None:
            fault = sudoers.fault_of_foreign_file(result["path"], before, params["service_user"])
        elif os.path.lexists(result["path"]):
            fault = "%s is no plain file, and is left alone" % result["path"]
        if fault:
            fail(module, [fault], **result)
        result["changed"] = before is not None
        if before is not None and not module.check_mode:
            os.unlink(result["path"])
        module.exit_json(diff=diff_of(result["path"], before, None), sudo_version=_text(host), **result)

    faults: list[str] = params["known_faults"] + host.faults() + ([fault] if fault else [])
    base: sudoers.SudoersSet | None = None
    own: str | None = None
    replaced: dict[str, str | None] = {}
    names: tuple[str, ...] | None = None
    if os.geteuid() != 0:
        faults.append("root's rights are needed to read and write sudoers files: run with become")
    else:
        base, own = read_set(params, faults)
    broken = host.check_set(base) if base is not None else None
    if broken:
        faults.append("the sudoers files of this host are broken without ours: repair them first: %s" % broken)
    if base is not None and own is not None:
        fault = fault_of_overwriting(params, base.files, own)
        faults.extend([fault] if fault else [])
        replaced = rights_to_replace(params, base.files, own, faults)
        base = host.read_set({own: None, **replaced})
        names = sudoers.alias_names(base.files, own, params["service_user"])
    text, result["commands"], more = wanted_text(params, host, base, slurm_uids(params), names)
    faults.extend(more)
    # For a moment, an old file and ours are both there. Then each needs aliases of its own.
    interim = re.sub(r"\b(%s|%s)\b" % names, r"\1_NEW", text) if text and names and replaced else None
    if not faults and own is not None:
        steps: list[dict[str, str | None]] = [{own: text, **replaced}, {own: interim}] if interim else [{own: text}]
        for overrides in steps:
            refused = host.check_set(host.read_set(overrides))
            if refused:
                faults.append("visudo refuses the complete set with our file in place: %s" % refused)
                break
    if faults or base is None or own is None or text is None:
        fail(module, faults, **result)

    before = sudoers.read_file(own)
    result["changed"] = before != text or not has_final_mode(own) or bool(replaced)
    olds = {path: sudoers.read_file(path) for path in replaced}
    if result["changed"] and not module.check_mode:
        if interim:
            result["backup_files"] = [module.backup_local(path) for path in replaced]
            place(own, interim)
            time.sleep(_READING_S)
            for path, rest in replaced.items():
                replace(path, rest)
            time.sleep(_READING_S)
        place(own, text)
    accounts = sudoers.HostAccounts()
    subject = accounts.subject(params["service_user"], socket.gethostname())
    rules = sudoers_rights.Rules(base.files)
    warnings = sudoers.set_warnings(base.files, subject) + sudoers_rights.foreign_warnings(rules, subject, own)
    for warning in warnings + sudoers.empty_groups(params["impersonate_users"], accounts):
        module.warn(warning)
    diff = [diff_of(own, before, text)] + [diff_of(path, olds[path], rest) for path, rest in replaced.items()]
    module.exit_json(diff=diff if replaced else diff[0], sudo_version=_text(host), **result)


def replace(path: str, text: str | None) -> None:
    """Give a file another text. Its mode and owner stay.

    Args:
        path: The file.
        text: Its new text. None removes the file.
    """
    if text is None:
        os.unlink(path)
        return
    info = os.stat(path)
    place(path, text, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)


def diff_of(path: str, before: str | None, after: str | None) -> dict[str, str]:
    """A difference as Ansible shows it. None stands for no file."""
    shown = [(text or "").encode("utf-8", "replace").decode("utf-8") for text in (before, after)]
    return {
        "before_header": path,
        "before": shown[0],
        "after_header": path if after is not None else "(absent)",
        "after": shown[1],
    }


def _text(host: Host) -> str | None:
    """The version of sudo as text, or None."""
    version = sudoers.parse_sudo_version(host.sudo_version())
    return ".".join(map(str, version)) if version else None


if __name__ == "__main__":
    main()
