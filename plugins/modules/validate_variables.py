#!/usr/bin/python
# -*- coding: utf-8 -*-
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin of the same name, which does all of the work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validate_variables
short_description: Check the variables of this collection's roles on the controller
version_added: "0.1.0"
author:
  - The fractal.slurm authors (@fractal-analytics-platform)
description:
  - Checks what can be known of a host's C(fractal_slurm_) variables without the host, and reports all faults at once.
    These are their types, the list of users (syntax, root, privileged groups, entries that stand twice), the SLURM
    configuration, the runtime's settings, paths, and names of variables that are close to one of ours.
  - No host is connected to, and no rights are needed. It serves in a site's own checks of its inventory.
extends_documentation_fragment:
  - fractal.slurm.attributes.info
  - fractal.slurm.attributes.runtime
options:
  roles:
    description:
      - The roles whose variables are checked. In a run with tags that name some of them (C(sudoers), C(slurm_config) or
        C(config), C(runtime), C(server_engine)), those alone.
    type: list
    elements: str
    choices: [sudoers, slurm_config, runtime, server_engine]
    default: [sudoers, slurm_config, runtime, server_engine]
seealso:
  - module: fractal.slurm.validate_slurm_config
"""

EXAMPLES = r"""
- name: Check the variables that a node needs
  fractal.slurm.validate_variables:
    roles: [runtime]
"""

RETURN = r"""
faults:
  description: All that is wrong, one sentence each.
  returned: always
  type: list
  elements: str
  sample: ["fractal_slurm_sudoer_mode: there is no such variable; did you mean fractal_slurm_sudoers_mode?"]
"""
