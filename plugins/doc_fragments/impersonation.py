# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that look at what a service account may do as others."""

from __future__ import annotations


class ModuleDocFragment:
    """The options of ``module_utils/impersonation.py``."""

    DOCUMENTATION = r"""
options:
  service_user:
    description: The account that runs fractal-server.
    type: str
    required: true
  users:
    description: Whom it should be able to act as. Names of users, and of groups with a leading C(%).
    type: list
    elements: str
    required: true
  refused_users:
    description: Whom it must not be able to act as, besides root.
    type: list
    elements: str
    default: []
  work_dirs:
    description:
      - Folders that users' work lies below. C(cat), C(ls) and C(mkdir) are asked for with paths below the first.
    type: list
    elements: str
    default: [/data]
  bin_dirs:
    description: Folders in which C(sbatch) and C(scancel) are looked for, instead of the system's own.
    type: list
    elements: str
    default: []
  refused_commands:
    description: Command lines that must be refused as anybody.
    type: list
    elements: list
    default:
      - [/bin/sh, -c, id]
      - [/usr/bin/env]
      - [/usr/bin/python3]
      - [/usr/bin/tee, /etc/passwd]
"""
