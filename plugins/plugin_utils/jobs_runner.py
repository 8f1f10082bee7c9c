# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Between the config file and ``jobs_runner_config``, which holds the same in a resource of fractal-server >= 2.17."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import config_input

_SECTIONS = ("default_slurm_config", "gpu_slurm_config")


def to_jobs_runner_config(config: Any) -> dict[str, Any]:
    """The ``jobs_runner_config`` of a resource of type ``slurm_sudo``.

    Args:
        config: A configuration, as a mapping or as text in JSON or YAML.

    Raises:
        ValueError: It is not valid, or has something that such a resource can't hold; one line for each fault.
    """
    plain: dict[str, Any] = _without_nothing(config_input.check(config, "slurm_config").config)
    faults = []
    for section in _SECTIONS:
        options = plain.get(section, {})
        if options.pop("pre_submission_commands", None):
            faults.append(
                f"slurm_config: $.{section}.pre_submission_commands: jobs_runner_config does not have it: remove it"
            )
        nodes = options.pop("nodes", None)
        if nodes is not None:
            # fractal-server dropped the option, and passes extra_lines on.
            options["extra_lines"] = [*options.get("extra_lines", []), f"#SBATCH --nodes={nodes}"]
    if faults:
        raise ValueError("\n".join(faults))
    return plain


def from_jobs_runner_config(config: Any) -> dict[str, Any]:
    """The config file for the ``jobs_runner_config`` of a resource.

    Args:
        config: The ``jobs_runner_config``, as a mapping or as text in JSON or YAML.

    Raises:
        ValueError: It is not valid as a config file; one line for each fault.
    """
    if isinstance(config, str):
        config = config_input.parse_text(config, "jobs_runner_config")
    plain = _without_nothing(config) if isinstance(config, Mapping) else config
    return config_input.check(plain, "jobs_runner_config").config


def _without_nothing(value: Any) -> Any:
    """Leave out what is null or empty: there it stands for "not set"."""
    if not isinstance(value, Mapping):
        return value
    kept = {key: _without_nothing(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item is not None and item not in ([], {})}
