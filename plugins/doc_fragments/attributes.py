# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation that the collection's modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments are chosen as ``fractal.slurm.attributes`` and ``fractal.slurm.attributes.NAME``."""

    # What every module of the collection says about itself; each states its own support.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and say what it would change, without changing anything.
  diff_mode:
    description: Says in detail what changed, or would change, when in diff mode.
  idempotent:
    description: Run again with the same arguments, it changes nothing.
"""

    # Modules that only read.
    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and say what it would change, without changing anything.
    support: full
    details: It changes nothing at any time.
  diff_mode:
    description: Says in detail what changed, or would change, when in diff mode.
    support: N/A
    details: It changes nothing at any time.
  idempotent:
    description: Run again with the same arguments, it changes nothing.
    support: full
"""

    # Modules whose work begins on the controller, with the runtime's own code.
    RUNTIME = r"""
options: {}
requirements:
  - "pydantic >= 2.6 on the controller, for the Python that runs Ansible"
notes:
  - The work begins in an action plugin on the controller, which uses the runtime that comes with the collection.
    Nothing but Python is needed on the hosts.
"""
