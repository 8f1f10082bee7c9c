# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that take a SLURM configuration."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of ``plugin_utils/config_input.py``."""

    DOCUMENTATION = r"""
options:
  content:
    description:
      - The configuration, as a mapping or as text in JSON or YAML.
      - Where a configuration is needed, exactly one of O(content), O(src) and O(template) is.
    type: raw
  src:
    description: A file on the controller, JSON or YAML.
    type: str
  template:
    description: A template on the controller that gives JSON or YAML.
    type: str
  job_hook:
    description:
      - The path on the nodes of the job hook for fractal-server, as C(fractal-slurm hook-path) prints it.
      - A line that reads it, where it is there, becomes the first of C(extra_lines), so that fractal-server's own jobs
        run their tasks without an srun a task. Without it, C(extra_lines) stays as it is.
    type: str
"""

    AGAINST_CLUSTER = r"""
options:
  against_cluster:
    description:
      - Whether to compare the configuration with the cluster that the host belongs to. What can never work is a
        failure, what may have to wait a warning, and what the batching comes to is returned as advice.
      - With V(auto) it is compared where the cluster answers, and a warning says where it does not.
    type: str
    default: "false"
  users:
    description:
      - Where it is compared (O(against_cluster)), the users and groups (with a leading C(%)) whose accounts and limits
        are looked at.
    type: list
    elements: str
    default: []
  bin_dirs:
    description: Where it is compared (O(against_cluster)), folders in which SLURM's commands are looked for first.
    type: list
    elements: str
    default: []
  known_faults:
    description: What was found before. The module adds its own faults and changes nothing.
    type: list
    elements: str
    default: []
"""
