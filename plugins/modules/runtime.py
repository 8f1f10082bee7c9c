#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install the runtime fractal-slurm on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: runtime
short_description: Install the runtime fractal-slurm in a virtual environment that all users can run
version_added: "0.1.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Installs the runtime that comes with the collection. Each version has a folder of its own below O(prefix), a link
    C(current) is switched last, so that what runs from an older version goes on.
  - The wheels are made on the controller for the host's Python and platform, in check mode, too, so that what would
    keep them from being made is known before anything is changed. The host asks no index, and needs nothing but
    Python 3.10 or newer.
  - What lies below O(prefix) is run as root to test it. So nothing of it is read or run where another account owns a
    part of it, or of the way to it, or could write there.
  - A version counts as installed only if a marker, written last, fits the collection's runtime and an import test
    passes.
  - Keeps the settings file of the runtime, too.
extends_documentation_fragment:
  - fractal.slurm.attributes
  - fractal.slurm.attributes.runtime
attributes:
  check_mode:
    support: full
  diff_mode:
    support: partial
    details: For the settings file, the completions of shells and the systemd unit.
  idempotent:
    support: full
options:
  state:
    description:
      - Whether the runtime is there.
      - With V(absent), all versions, the links and the settings file are removed. This is refused while runs are driven
        on the host, or jobs of ours are in the queue. The journals of runs are left, and named.
    type: str
    choices: [present, absent]
    default: present
  version:
    description:
      - Which version is the current one.
      - V(bundled) is the one that comes with the collection; else the name of a folder below O(prefix).
      - V(previous) is the one that was current before the collection's own. On a host that has gone back already, or
        that the collection's version never reached, nothing is changed.
    type: str
    default: bundled
  prefix:
    description: The folder of all versions. On a cluster it may lie on a shared file system.
    type: path
    default: /opt/fractal-slurm
  command:
    description: Where a link to the command is set; an empty string for no link.
    type: str
    default: /usr/local/bin/fractal-slurm
  completions:
    description:
      - Whether shells complete the command. The completions of bash, zsh and fish are written where those shells have
        their folder on the host, if O(command) is C(bin/fractal-slurm) below C(/usr/local) or another folder.
    type: bool
    default: true
    version_added: "0.2.0"
  resume_at_boot:
    description:
      - Whether the systemd unit C(fractal-slurm-resume.service) runs C(fractal-slurm resume --all) at boot, as
        O(service_user). It is enabled, and not started.
      - With V(false) the unit is removed. What it runs at that moment goes on.
    type: bool
    default: false
    version_added: "0.2.0"
  python:
    description:
      - The Python to use, an absolute path, which all users must be able to run.
      - Where it is not given, the first of C(/usr/bin/python3) and the C(python3.x) in C(/usr/bin) and
        C(/usr/local/bin) that is 3.10 or newer.
    type: str
  python_package:
    description:
      - In check mode, the package that a later task installs where no Python serves, so that this is no failure.
        V(auto) is the distribution's own (C(python3.11) on RHEL 8 and 9 and the like), an empty string none.
      - Nothing is installed by this module.
    type: str
    default: ""
  install:
    description:
      - Whether this host may install. With V(false), another one does so, to a folder that both see, and what is not
        there is a failure.
    type: bool
    default: true
  keep:
    description:
      - Number of versions to keep, the current and the previous one among them. Older ones are removed unless a process
        on the host runs from them, or jobs of ours are in the queue.
    type: int
    default: 3
  force:
    description: With O(state=absent), remove what is in use, too. Runs and jobs that use it fail.
    type: bool
    default: false
  service_user:
    description: The account that runs fractal-server, whose runs continue at boot, and whose journals are named.
    type: str
  settings:
    description: The runtime's own settings. Checked on the controller.
    type: dict
    default: {}
  settings_file:
    description: The settings file; an empty string for none.
    type: str
    default: /etc/fractal/fractal-slurm.toml
  find_links:
    description: On the controller, folders with wheels, besides the index.
    type: list
    elements: str
    default: []
  no_index:
    description: Ask no index on the controller; all wheels are in O(find_links).
    type: bool
    default: false
  lock:
    description:
      - Which versions of the Python packages that the runtime needs are installed.
      - V(bundled) are those that the collection was tested with, with their checksums. Another lock is a file on the
        controller with the exact versions of all of them and of pip, in pip's format; checksums in it are checked.
      - V(none) are the newest that the runtime allows on the day when the wheels are made.
    type: str
    default: bundled
  cache:
    description: On the controller, the folder in which archives of wheels are kept (C(~/.cache/fractal-slurm)).
    type: str
  bin_dirs:
    description:
      - The site's own folders of SLURM's commands. The first is the setting C(slurm_bin_dir), unless O(settings) has
        it. With O(state=absent), where squeue is looked for first.
    type: list
    elements: str
    default: []
  bundled:
    description: Name of the version that comes with the collection. Set by the action plugin.
    type: str
  digest:
    description: Checksum of the collection's runtime. Set by the action plugin.
    type: str
  wheels:
    description: Archive of the wheels on the host. Set by the action plugin.
    type: path
  known_faults:
    description: What the action plugin found on the controller. The module adds its own faults and changes nothing.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Install the runtime
  fractal.slurm.runtime:
    settings:
      slurm_bin_dir: /opt/slurm/bin

- name: Go back to the version before
  fractal.slurm.runtime:
    version: previous

- name: Remove it
  fractal.slurm.runtime:
    state: absent
"""

RETURN = r"""
version:
  description: The current version.
  returned: when state is present
  type: str
  sample: 0.1.0-1f2e3d4c
differs:
  description: Whether the host differed from what is wanted. The same as C(changed), which a task may override.
  returned: success
  type: bool
  sample: true
replaced:
  description: The version that was current before; null where there was none.
  returned: when state is present
  type: str
  sample: 0.0.9-99aabbcc
python:
  description: The Python that a new version is installed with.
  returned: when a version is installed
  type: str
  sample: /usr/bin/python3
python_package:
  description: The package that would bring a Python, where none serves; else null.
  returned: in check mode, when a version would be installed
  type: str
  sample: python3.11
removed:
  description: What was removed, or would be.
  returned: always
  type: list
  elements: str
  sample: [/opt/fractal-slurm/0.0.7-00112233]
left:
  description: Folders with journals of runs that are left.
  returned: when state is absent
  type: list
  elements: str
  sample: [/home/fractal/.local/state/fractal-slurm]
faults:
  description: All that is wrong, one sentence each.
  returned: on failure
  type: list
  elements: str
  sample: ["no Python 3.10 or newer that all users can run: /usr/bin/python3 is cpython 3.6"]
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import completions, resume_unit, runtime_install
from ..module_utils.faults import fail
from ..module_utils.managed_file import ManagedFile
from ..module_utils.trusted_path import unreachable_part

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


def absent(module: AnsibleModule, prefix: runtime_install.Prefix, settings: ManagedFile | None) -> None:
    """Remove everything, and end the module.

    Args:
        module: The running module.
        prefix: The versions of the runtime.
        settings: The settings file. None where the module keeps none.
    """
    fault = prefix.trust_fault()
    if fault:
        fail(module, [fault])
    params = module.params
    helpers = completions.ours(params["command"])
    unit = resume_unit.ResumeUnit(module, prefix.path)
    removed = prefix.remnants() + helpers + ([unit.path] if unit.is_ours() else [])
    uses = prefix.uses() + runtime_install.queued_jobs(params["bin_dirs"]) if removed else []
    if uses and not params["force"]:
        fail(
            module,
            [
                "the runtime below %s is in use: %s: wait, or end the runs with `fractal-slurm cancel RUN`; or set "
                "fractal_slurm_runtime_force, and they fail" % (prefix.path, "; ".join(uses))
            ],
        )
    result: dict[str, Any] = {"changed": bool(removed), "removed": removed, "left": []}
    if removed:
        # The settings may name the folder of the journals. So they are read before they are removed.
        result["left"] = runtime_install.journals(params["settings_file"], params["service_user"])
    for path in result["left"]:
        module.warn("the journals of runs in %s are left: they hold arguments and results of users' tasks" % path)
    for use in uses:
        module.warn("the runtime is removed although it is in use: %s" % use)
    unit.remove()
    if not module.check_mode:
        prefix.remove_all()
        for path in helpers:
            os.unlink(path)
    if settings is not None:
        outcome = settings.remove()
        result.update({"changed": result["changed"] or outcome["changed"], "diff": outcome["diff"]})
    module.exit_json(**result)


def resolve_version(params: dict[str, Any], prefix: runtime_install.Prefix, faults: list[str]) -> str | None:
    """Find the name of the wanted version.

    Args:
        params: The module's parameters.
        prefix: The versions of the runtime.
        faults: Gets a sentence where there is no such version.

    Returns:
        The name. None where it is not known.
    """
    if params["version"] == "previous":
        version = prefix.previous(params["bundled"])
        if version is None:
            faults.append("there is no version to go back to below %s" % prefix.path)
        return version
    wanted: str = params["version"]
    if wanted == "bundled":
        return None  # the action plugin has said why it is not known
    if params["digest"] is None and prefix.marker(wanted) is None:
        faults.append(
            "the version %s is not installed below %s; there are: %s"
            % (wanted, prefix.path, ", ".join(prefix.versions()) or "none")
        )
    return wanted


def wanted_package(params: dict[str, Any]) -> str | None:
    """The package that brings a Python, or None.

    Where a Python was asked for by its path, no package is guessed.
    """
    package: str = params["python_package"]
    if package == "auto":
        return None if params["python"] else runtime_install.python_package(runtime_install.read_os_release())
    return package or None


def present(module: AnsibleModule, prefix: runtime_install.Prefix, settings: ManagedFile | None) -> None:
    """Install where needed, write the settings, switch the links, remove old versions. Ends the module.

    Args:
        module: The running module.
        prefix: The versions of the runtime.
        settings: The settings file. None where the module keeps none.
    """
    params = module.params
    faults: list[str] = list(params["known_faults"])
    untrusted = prefix.trust_fault()
    if untrusted:
        if settings is not None:
            faults.extend(settings.faults())
        fail(module, faults + [untrusted])  # nothing below the folder is read or run
    version = resolve_version(params, prefix, faults)
    blocked = unreachable_part(prefix.path)
    if blocked:
        faults.append("other users can't reach %s, since they can't pass %s" % (prefix.path, blocked))
    fault = prefix.link_fault()
    if fault:
        faults.append(fault)
    if settings is not None:
        faults.extend(settings.faults())
    unit = resume_unit.ResumeUnit(module, prefix.path)
    if params["resume_at_boot"]:
        faults.extend(unit.faults())
    python = package = None
    sound = version is not None and prefix.is_sound(version, params["digest"])
    installs = not sound and params["digest"] is not None
    if params["install"] and version is not None and (installs or prefix.links_differ(version)):
        faults.extend(prefix.place_faults(installs))
    if not sound and params["digest"] is not None:
        found = runtime_install.find_python(params["python"])
        if isinstance(found, dict):
            python = found
        else:
            package = wanted_package(params)
            if not (module.check_mode and package):
                faults.append(
                    "no Python 3.10 or newer that all users can run: %s: install one "
                    "(fractal_slurm_runtime_python_package), or name one (fractal_slurm_runtime_python)" % found
                )
    elif not sound and version is not None and prefix.marker(version) is not None:
        faults.append("the version %s below %s is broken: its import test fails" % (version, prefix.path))
    if not sound and not params["install"] and not module.check_mode:
        faults.append(
            "the version %s is not below %s: the host that installs it for all has not done so" % (version, prefix.path)
        )
    if faults or version is None:
        fail(module, faults or ["run this module by its action plugin, as fractal.slurm.runtime"])

    end: Callable[..., NoReturn] = module.exit_json
    result: dict[str, Any] = {"changed": False, "version": version, "replaced": prefix.current(), "removed": []}
    if not sound:
        result["changed"] = True
        if python is None:  # in check mode alone, where a package brings one
            target = runtime_install.target_of_package(package)
            end(wheels_needed=True, python_package=package, target=target, **result)
        result["python"] = python.pop("path")
        if params["wheels"] is None:
            end(wheels_needed=True, python_package=None, target=python, **result)
        if module.check_mode:
            end(**result)
        prefix.install(version, params["digest"], result["python"], params["wheels"])
    if settings is not None:
        outcome = settings.write(runtime_install.toml(params["settings"]))
        result.update({"changed": result["changed"] or outcome["changed"], "diff": outcome["diff"]})
    if prefix.links_differ(version):
        result["changed"] = True
        if not module.check_mode:
            prefix.switch(version, back=params["version"] == "previous")
    outcomes = complete(module, prefix, version)
    outcomes += unit.keep() if params["resume_at_boot"] else unit.remove()
    if outcomes:
        result["changed"] = True
        result["diff"] = [result["diff"]] if "diff" in result else []
        result["diff"] += [outcome["diff"] for outcome in outcomes]
    result["removed"] = []
    if params["install"]:
        result["removed"] = [prefix.folder(name) for name in prefix.superfluous(params["keep"]) if name != version]
    if result["removed"] and runtime_install.queued_jobs(params["bin_dirs"]):
        result["removed"] = []  # a job in the queue names the version that submitted it
    for path in result["removed"]:
        result["changed"] = True
        if not module.check_mode:
            prefix.delete(os.path.basename(path))
    end(**result)


def complete(module: AnsibleModule, prefix: runtime_install.Prefix, version: str) -> list[dict[str, Any]]:
    """Write the completions of shells, and remove ours where there are to be none.

    Args:
        module: The running module.
        prefix: The versions of the runtime.
        version: Name of the version that the completions ask.

    Returns:
        The result of each file that differed.
    """
    wanted: dict[str, str | None] = {}
    if module.params["completions"]:
        python = os.path.join(prefix.folder(version), "bin", "python")
        for shell, path in completions.places(module.params["command"]).items():
            wanted[path] = completions.text(python, shell)
    outcomes = [ManagedFile(module, path).write(text) for path, text in wanted.items() if text is not None]
    for path in completions.ours(module.params["command"]):
        if wanted.get(path) is None:
            outcomes.append(ManagedFile(module, path).remove())
    return [outcome for outcome in outcomes if outcome["changed"]]


def main() -> None:
    """Read the parameters and act."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "version": {"type": "str", "default": "bundled"},
            "prefix": {"type": "path", "default": "/opt/fractal-slurm"},
            "command": {"type": "str", "default": "/usr/local/bin/fractal-slurm"},
            "completions": {"type": "bool", "default": True},
            "resume_at_boot": {"type": "bool", "default": False},
            "python": {"type": "str"},
            "python_package": {"type": "str", "default": ""},
            "install": {"type": "bool", "default": True},
            "keep": {"type": "int", "default": 3},
            "force": {"type": "bool", "default": False},
            "service_user": {"type": "str"},
            "settings": {"type": "dict", "default": {}},
            "settings_file": {"type": "str", "default": "/etc/fractal/fractal-slurm.toml"},
            "find_links": {"type": "list", "elements": "str", "default": []},
            "no_index": {"type": "bool", "default": False},
            "lock": {"type": "str", "default": "bundled"},
            "cache": {"type": "str"},
            "bin_dirs": {"type": "list", "elements": "str", "default": []},
            "bundled": {"type": "str"},
            "digest": {"type": "str"},
            "wheels": {"type": "path"},
            "known_faults": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    params.update({"owner": "root", "group": "root", "mode": "0644"})
    prefix = runtime_install.Prefix(params["prefix"], params["command"] or None)
    settings = None
    if params["settings_file"]:
        settings = ManagedFile(
            module, params["settings_file"], manage_directory=True, variable="fractal_slurm_runtime_settings_file"
        )
    try:
        if params["state"] == "absent":
            absent(module, prefix, settings)
        present(module, prefix, settings)
    except runtime_install.InstallError as error:
        fail(module, [str(error)])
    except OSError as error:
        fail(module, ["%s: %s" % (error.filename or params["prefix"], error.strerror)])


if __name__ == "__main__":
    main()
