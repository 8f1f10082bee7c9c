# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins have in common: files of the site's own, SLURM configurations, and causes told in words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import BOOLEANS, boolean
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader

from . import config_input
from .arguments import convert
from .cluster import look
from .runtime import preload, runtime_module

preload("config.file")

_COLLECTION = Path(__file__).resolve().parents[2]


def words_of(error: Exception) -> str:
    """What an exception says, with the file where the system names one."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def why_no_module(result: Mapping[str, Any], module: str, task_vars: Mapping[str, Any]) -> str | None:
    """Why a module did not run on a host at all, or None where it did.

    Args:
        result: What came back.
        module: Its name.
        task_vars: The task's variables.
    """
    if not result.get("failed") or "module_stderr" not in result:
        return None
    said = str(result["module_stderr"] or result.get("module_stdout") or "").strip().splitlines()
    python = task_vars.get("ansible_python_interpreter") or (task_vars.get("ansible_facts") or {}).get(
        "discovered_interpreter_python", "that Ansible found"
    )
    host = task_vars.get("inventory_hostname", "the host")
    return (
        f"the module {module} does not run on {host}, with the Python {python}: "
        f"{said[-1] if said else result.get('msg', 'it said nothing')}: name a Python there that this Ansible can use "
        "(ansible_python_interpreter)"
    )


class FractalActionBase(ActionBase):
    """An action whose failures are faults: sentences with their cause, all that there are."""

    def execute(self, module: str, arguments: Mapping[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run a module on the host; one that does not run there gives a fault as well."""
        result: dict[str, Any] = self._execute_module(
            module_name=module, module_args=dict(arguments), task_vars=task_vars, wrap_async=False
        )
        why = why_no_module(result, module, task_vars or {})
        if why is not None:
            faults = [*arguments.get("known_faults", []), why]
            result.update({"msg": "\n".join(faults), "faults": faults})
        return result

    @staticmethod
    def fault_of(call: Callable[..., Iterable[str] | None], *arguments: Any) -> list[str]:
        """The faults that a call returns; where it raises, what that says."""
        try:
            return list(call(*arguments) or [])
        except (AnsibleError, OSError) as error:
            return [words_of(error)]

    def find_file(self, kind: str, name: str, task_vars: Mapping[str, Any] | None = None) -> str:
        """Find a file of the site: beside its playbooks, its inventories, where Ansible was started, in its roles.

        Args:
            kind: Name of the folder that such files are in: ``files`` or ``templates``.
            name: The file, relative or absolute.
            task_vars: The task's variables.

        Raises:
            AnsibleError: It is nowhere; with the folders that were looked in.
        """
        variables = task_vars or {}
        path = os.path.expanduser(name)
        if os.path.isabs(path):
            candidates = [path]
        else:
            places = _places(variables)
            candidates = [os.path.join(place, *parts) for place in places for parts in ((kind, path), (path,))]
        for candidate in candidates:
            if os.path.exists(candidate):
                return candidate
        try:
            return str(self._find_needle(kind, name))  # in the folders of the role that runs
        except AnsibleError:
            looked = list(dict.fromkeys(os.path.dirname(candidate) for candidate in candidates))
            raise AnsibleError(f"the file {name} is not there: looked in {', '.join(looked)}") from None


def _places(variables: Mapping[str, Any]) -> list[str]:
    """Where a site keeps its files, first come first: never the collection's own folders."""
    playbooks = [os.path.dirname(os.path.abspath(name)) for name in context.CLIARGS.get("args", ()) if _is_file(name)]
    sources = [source for source in variables.get("ansible_inventory_sources") or () if os.path.exists(str(source))]
    inventories = [
        str(variables.get("inventory_dir") or ""),
        *(str(source) if os.path.isdir(source) else os.path.dirname(os.path.abspath(source)) for source in sources),
    ]
    found = [*playbooks, str(variables.get("playbook_dir") or ""), *inventories, os.getcwd()]
    return [
        place
        for place in dict.fromkeys(os.path.abspath(place) for place in found if place)
        if Path(place).resolve() != _COLLECTION / "playbooks"
    ]


def _is_file(name: Any) -> bool:
    return isinstance(name, str) and os.path.isfile(name)


# Arguments of deploy() that the module on the host does not take, and what is needed of all on the controller.
_HERE_ONLY = ("src", "template", "job_hook", "against_cluster", "users", "bin_dirs")
_DEPLOY_SPEC: dict[str, dict[str, Any]] = {
    "state": {"type": "str", "default": "present"},
    "against_cluster": {"type": "raw", "default": False},
    "users": {"type": "list", "elements": "str", "default": []},
    "bin_dirs": {"type": "list", "elements": "str", "default": []},
    "known_faults": {"type": "list", "elements": "raw", "default": []},
}


class ConfigActionBase(FractalActionBase):
    """An action that takes a configuration as ``content``, ``src`` or ``template``."""

    def deploy(
        self,
        module: str,
        content_of: Callable[[config_input.CheckedConfig], str],
        task_vars: dict[str, Any],
        result: dict[str, Any],
    ) -> dict[str, Any]:
        """Validate the task's configuration, compare it with the cluster, and hand it to the module on the host.

        Args:
            module: The module's name. It takes the configuration as ``content``, and adds its own faults to
                ``known_faults``.
            content_of: Makes the content from the validated configuration. It may raise ValueError.
            task_vars: The task's variables.
            result: What the base class returned.

        Returns:
            The task's result.
        """
        given = self._task.args
        values, faults = convert({name: given[name] for name in _DEPLOY_SPEC if name in given}, _DEPLOY_SPEC)
        arguments = {key: value for key, value in given.items() if key not in _HERE_ONLY}
        warnings: list[str] = []
        if values.get("state") == "present":
            try:
                checked = self.load_config(task_vars)
                arguments["content"] = content_of(checked)
                warnings += checked.warnings
                if not faults:
                    faults += self.against_cluster(values, checked.model, task_vars, warnings, result)
            except ValueError as error:
                faults += self.refusal(error)["faults"]
        known = list(dict.fromkeys([*values.get("known_faults", []), *faults]))
        if known:  # the module adds what it finds on the host, and fails
            arguments = {**arguments, "content": None, "known_faults": known}
        result.update(self.execute(module, arguments, task_vars))
        result["differs"] = bool(result.get("changed"))
        if warnings:
            result["warnings"] = [*result.get("warnings", []), *warnings]
        return result

    def load_config(
        self, task_vars: dict[str, Any], arguments: Mapping[str, Any] | None = None
    ) -> config_input.CheckedConfig:
        """The task's configuration, validated.

        Args:
            task_vars: The task's variables.
            arguments: What names the configuration; None for the task's arguments.

        Raises:
            ValueError: There is none, or several, or it can't be read, or is not valid; one line for each fault.
        """

        def render(name: str) -> Any:
            lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
            return lookup.run([self.find_file("templates", name, task_vars)], variables=task_vars)[0]

        try:
            return config_input.load(
                self._task.args if arguments is None else arguments,
                task_vars.get("inventory_hostname", "this host"),
                lambda kind, name: self.find_file(kind, name, task_vars),
                self._loader.get_real_file,
                render,
            )
        except AnsibleError as error:  # what validates is missing on the controller
            raise ValueError(words_of(error)) from error

    def against_cluster(
        self,
        values: dict[str, Any],
        config: Any,
        task_vars: dict[str, Any],
        warnings: list[str],
        result: dict[str, Any],
    ) -> list[str]:
        """Compare the configuration with the host's cluster, if that is asked for.

        Args:
            values: The task's arguments.
            config: The runtime's model of the configuration.
            task_vars: The task's variables.
            warnings: Gets the comparison's warnings.
            result: Gets its advice.

        Returns:
            The faults: what does not fit.
        """
        wanted = values["against_cluster"]
        wanted = wanted.strip().lower() if isinstance(wanted, str) else wanted
        if wanted != "auto" and wanted not in BOOLEANS:
            return [f"against_cluster: found {wanted!r}; auto, true and false are allowed"]
        if wanted != "auto" and not boolean(wanted):
            return []
        outcome, cluster = look(
            self._execute_module,
            users=values["users"],
            bin_dirs=values["bin_dirs"],
            accounting=True,
            timeout=30,
            task_vars=task_vars,
        )
        if cluster is None:
            why = list(outcome.get("faults") or [outcome.get("msg") or "it can't be asked"])
            if wanted != "auto":
                return why
            warnings.append(
                "the configuration is not compared with the cluster (fractal_slurm_config_against_cluster), which does "
                f"not answer: {' '.join('; '.join(map(str, why)).split())}"
            )
            return []
        fit = runtime_module("cluster.fit")
        findings = fit.check(config, cluster, users=outcome["users"])
        by_severity = {
            severity: [str(finding) for finding in findings if finding.severity is severity]
            for severity in fit.Severity
        }
        warnings += [*outcome.get("warnings", []), *by_severity[fit.Severity.WARNING]]
        result["advice"] = by_severity[fit.Severity.ADVICE]
        return by_severity[fit.Severity.ERROR]

    @staticmethod
    def refusal(error: ValueError) -> dict[str, Any]:
        """The task's result for a configuration that is not valid."""
        faults = list(getattr(error, "messages", None) or [str(error)])
        return {"failed": True, "changed": False, "msg": "\n".join(faults), "faults": faults}
