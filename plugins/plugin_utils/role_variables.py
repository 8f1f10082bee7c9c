# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be said of the roles' variables without a host: their names, types and values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import BOOLEANS

from ..module_utils import sudo_rules, sudoers
from ..module_utils.managed_file import mode_fault
from . import settings_input
from .arguments import convert
from .runtime import preload, runtime_module

preload("sudo_rules")

PREFIX = "fractal_slurm_"
# The roles of the playbook site, and the tags that choose each.
ROLE_TAGS = {
    "sudoers": {"sudoers"},
    "slurm_config": {"slurm_config", "config", "service"},
    "runtime": {"runtime"},
    "server_engine": {"server_engine"},
}
_ROLES = Path(__file__).resolve().parents[2] / "roles"
# Names with our prefix that are no role's: of the playbooks, and what roles and playbooks keep for themselves.
_OTHERS = (
    "fractal_slurm_hosts",
    "fractal_slurm_verify_users",
    "fractal_slurm_verify_refused_users",
    "fractal_slurm_verify_accepted_commands",
    "fractal_slurm_verify_partitions",
    "fractal_slurm_verify_every_node",
    "fractal_slurm_verify_dir",
    "fractal_slurm_verify_server_url",
    "fractal_slurm_verify_server_tokens",
    "fractal_slurm_verify_server_validate_certs",
    "fractal_slurm_verify_server_ca_path",
    "fractal_slurm_verify_json",
)
_OWN = re.compile(
    r"fractal_slurm_(demo_\w+|\w+_result|\w+_checked|\w*faults|wrong|only_check|variables|version|verification|compute)"
)
_VERSION = re.compile(r"bundled|previous|[0-9][0-9A-Za-z.+]*-[0-9a-f]{8}")
_PATHS = {
    "sudoers": ("fractal_slurm_sudoers_directory", "fractal_slurm_sudoers_main_file"),
    "slurm_config": (
        "fractal_slurm_config_path",
        "fractal_slurm_config_environment_file",
        "fractal_slurm_config_api_ca_path",
        "fractal_slurm_config_fractalctl",
        "fractal_slurm_config_fractalctl_dir",
    ),
    "runtime": (
        "fractal_slurm_runtime_prefix",
        "fractal_slurm_runtime_command",
        "fractal_slurm_runtime_python",
        "fractal_slurm_runtime_settings_file",
    ),
    "server_engine": ("fractal_slurm_server_engine_venv",),
}
# Those whose ~ the modules take for a home on the host.
_HOME_PATHS = (
    "fractal_slurm_sudoers_directory",
    "fractal_slurm_sudoers_main_file",
    "fractal_slurm_config_path",
    "fractal_slurm_runtime_prefix",
)
# Text for which a number will do: a uid or gid.
_NUMBERS = frozenset(("fractal_slurm_config_owner", "fractal_slurm_config_group"))


def chosen_roles(roles: Iterable[str], run_tags: Iterable[str], skip_tags: Iterable[str]) -> list[str]:
    """Those of the roles that a run with these tags works on.

    Args:
        roles: Names of roles.
        run_tags: What ``--tags`` names.
        skip_tags: What ``--skip-tags`` names.
    """
    run, skip = set(run_tags), set(skip_tags)
    named = [role for role in roles if ROLE_TAGS[role] & run]
    return [role for role in named or roles if not ROLE_TAGS[role] & skip]


def options(role: str) -> dict[str, dict[str, Any]]:
    """The variables of a role, as its argument spec has them."""
    text = (_ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)["argument_specs"]["main"]["options"]
    return found


def check_names(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Look for variables with our prefix that nothing reads.

    Args:
        names: Names of variables.

    Returns:
        Faults, where a name is close to one of ours; warnings about the others.
    """
    known = [*(name for role in (*ROLE_TAGS, "testbed") for name in options(role)), *_OTHERS]
    faults, warnings = [], []
    for name in sorted(names):
        if not name.startswith(PREFIX) or name in known or _OWN.fullmatch(name):
            continue
        rest = [entry[len(PREFIX) :] for entry in known]  # what all begin with would make them all alike
        near = difflib.get_close_matches(name[len(PREFIX) :], rest, n=1, cutoff=0.8)
        if near and _is_misspelt(name[len(PREFIX) :], near[0]):
            faults.append(f"{name}: there is no such variable; did you mean {PREFIX}{near[0]}?")
        else:
            hint = f"; the nearest that is read: {PREFIX}{near[0]}" if near else ""
            warnings.append(f"{name}: no role of fractal.slurm reads this variable{hint}")
    return faults, warnings


def _is_misspelt(name: str, known: str) -> bool:
    """Whether a name is one of ours with letters wrong, and no name of the site's own with words that we don't have."""
    words, ours = name.split("_"), known.split("_")
    if len(words) != len(ours):
        return difflib.SequenceMatcher(None, "".join(words), "".join(ours)).ratio() > 0.95
    return all(difflib.SequenceMatcher(None, *pair).ratio() >= 0.7 for pair in zip(words, ours))


def check_values(role: str, variables: Iterable[str], value: Callable[[str], Any]) -> tuple[dict[str, Any], list[str]]:
    """Check the variables of a role.

    Args:
        role: Its name.
        variables: Names of the variables that are set.
        value: Gives the value of one, templates rendered; raises AnsibleError where that fails.

    Returns:
        The values, defaults included (those that can't be had are missing), and the faults.
    """
    faults = []
    given = {}
    specs = options(role)
    for name in specs:
        if name in variables:
            try:
                given[name] = value(name)
            except Exception as error:  # whatever a template's filters raise
                faults.append(f"{name}: {error}")
    values, found = convert(given, specs, _NUMBERS)
    values = {name: item for name, item in values.items() if name in given or name not in variables}
    faults += found
    incomplete = bool(faults)
    if "fractal_slurm_config_mode" in given and (fault := mode_fault(given["fractal_slurm_config_mode"])):
        faults = [other for other in faults if not other.startswith("fractal_slurm_config_mode:")]
        faults.append(f"fractal_slurm_config_mode: {fault}")
    against = str(given.get("fractal_slurm_config_against_cluster", "auto")).strip().lower()
    if against != "auto" and against not in BOOLEANS:
        faults.append(f"fractal_slurm_config_against_cluster: found {against!r}; auto, true and false are allowed")
    faults += [
        f"{name}: found {values[name]!r}; an absolute path is allowed"
        for name in _PATHS[role]
        if values.get(name) and not str(values[name]).startswith(("/", "~") if name in _HOME_PATHS else "/")
    ]
    faults += [
        f"{name}: found {values[name]!r}; {allowed}"
        for name in _PATHS[role]
        for allowed in [_path_fault(values.get(name), specs[name].get("default"))]
        if allowed
    ]
    if incomplete:
        return values, faults
    try:
        if role == "sudoers" and values["fractal_slurm_sudoers_state"] == "present":
            faults += _sudoers_faults(values)
        if role == "runtime" and values["fractal_slurm_runtime_state"] == "present":
            faults += _runtime_faults(values)
    except AnsibleError as error:  # what judges them is missing on the controller
        faults.append(str(error))
    return values, faults


def _path_fault(path: Any, default: Any) -> str:
    """What is allowed in the place of a path that is empty, or has a character in it that none should have."""
    if path == "" and default:
        return f"leave the variable out to get its default ({default!r})"
    if isinstance(path, str) and any(ord(char) < 32 or "\ud800" <= char <= "\udfff" for char in path):
        return "a path without control characters is allowed"
    return ""


def _sudoers_faults(values: Mapping[str, Any]) -> list[str]:
    privileged = values["fractal_slurm_sudoers_privileged_groups"]
    faults: list[str] = sudoers.list_faults(
        values["fractal_slurm_sudoers_impersonate_users"], values["fractal_slurm_service_user"], privileged
    )
    faults += [
        fault
        for name in privileged
        if (fault := sudo_rules.fault_of_account_name(name, "privileged group", is_group=True))
    ]
    file_fault = sudoers.fault_of_file_name(values["fractal_slurm_sudoers_file"])
    faults += [file_fault] if file_fault else []
    faults += sudoers.bin_dir_faults(values["fractal_slurm_bin_dirs"])
    if values["fractal_slurm_sudoers_mode"] == "hardened":
        faults += hardened_faults(values["fractal_slurm_sudoers_work_dirs"])
    return faults


def hardened_faults(work_dirs: Iterable[str]) -> list[str]:
    """Why the hardened mode can't be made for these work folders."""
    folders = list(work_dirs)
    if not folders:
        return [
            "hardened mode needs the folders that users' work lies below: set work_dirs "
            "(fractal_slurm_sudoers_work_dirs)"
        ]
    faults = []
    for folder in folders:
        try:
            runtime_module("sudo_rules").hardened_arguments([folder])
        except ValueError as error:
            faults.append(str(error))
    return faults


def _runtime_faults(values: Mapping[str, Any]) -> list[str]:
    faults = settings_input.faults(values["fractal_slurm_runtime_settings"])
    version = values["fractal_slurm_runtime_version"]
    if not _VERSION.fullmatch(version):
        faults.append(
            f"fractal_slurm_runtime_version: found {version!r}; bundled, previous or the name of a folder of a version "
            "(such as 0.1.0-1f2e3d4c) is allowed"
        )
    if values["fractal_slurm_runtime_keep"] < 1:
        faults.append(f"fractal_slurm_runtime_keep: found {values['fractal_slurm_runtime_keep']}; 1 or more is allowed")
    return faults
