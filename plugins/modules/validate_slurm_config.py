#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin of the same name, which does all of the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validate_slurm_config
short_description: Validate a SLURM configuration on the controller
version_added: "0.1.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Validates a configuration for fractal-server, as M(fractal.slurm.slurm_config) does before it writes one.
  - No host is connected to, and no rights are needed. It serves in a site's own checks of its inventory.
extends_documentation_fragment:
  - fractal.slurm.attributes.info
  - fractal.slurm.attributes.runtime
  - fractal.slurm.config_source
seealso:
  - module: fractal.slurm.slurm_config
"""

EXAMPLES = r"""
- name: Validate each host's configuration
  fractal.slurm.validate_slurm_config:
    content:
      default_slurm_config:
        partition: main
        cpus_per_task: 1
        mem: 1G
      batching_config:
        target_cpus_per_job: 8
        max_cpus_per_job: 16
        target_mem_per_job: 16G
        max_mem_per_job: 32G
        target_num_jobs: 4
        max_num_jobs: 10
"""

RETURN = r"""
config:
  description: The configuration as it would be written, with memory in MB.
  returned: success
  type: dict
  sample: {default_slurm_config: {partition: main, cpus_per_task: 1, mem: 1000}}
faults:
  description: All that is wrong, one sentence each, with the JSON path.
  returned: on failure
  type: list
  elements: str
  sample: ["slurm.yml: $.default_slurm_config.mem: missing; it is required"]
"""
