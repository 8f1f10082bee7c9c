# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters for SLURM's units and Fractal's configuration; each has its documentation in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ..plugin_utils import config_input, jobs_runner
from ..plugin_utils.runtime import runtime_module


def _for_users(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the runtime's errors into those of a filter."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            raise AnsibleFilterError(str(error)) from error

    return wrapped


def slurm_memory_mb(value: object) -> int:
    """Memory in MB from a number or a string with M, G or T."""
    memory_mb: int = runtime_module("config.memory").parse_memory(value)
    return memory_mb


def slurm_walltime_seconds(value: object) -> int:
    """Seconds from one of SLURM's six formats of a time limit."""
    seconds: int = runtime_module("config.walltime").parse_walltime(value)
    return seconds


def slurm_config_merge(
    config: Any,
    task_meta: Mapping[str, Any] | None = None,
    workflow_task_meta: Mapping[str, Any] | None = None,
    task_name: str = "task",
    tot_tasks: int = 1,
    account: str | None = None,
) -> dict[str, Any]:
    """What a task gets from a configuration and its metas, and where each value came from."""
    from dataclasses import asdict

    resolution = runtime_module("config.resolve").resolve(
        config_input.check(config, "slurm_config").model,
        task_name=task_name,
        task_meta=task_meta,
        workflow_task_meta=workflow_task_meta,
        tot_tasks=tot_tasks,
        account=account,
    )
    return {
        "config": asdict(resolution.config),
        "sources": dict(resolution.sources),
        "warnings": list(resolution.warnings),
    }


class FilterModule:
    """The filters, by the names that templates use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name to function."""
        return {
            "slurm_memory_mb": _for_users(slurm_memory_mb),
            "slurm_walltime_seconds": _for_users(slurm_walltime_seconds),
            "slurm_config_merge": _for_users(slurm_config_merge),
            "jobs_runner_config": _for_users(jobs_runner.to_jobs_runner_config),
            "slurm_config_from_jobs_runner": _for_users(jobs_runner.from_jobs_runner_config),
        }
