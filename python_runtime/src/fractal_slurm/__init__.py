# SPDX-License-Identifier: BSD-3-Clause
"""Run other people's tasks on a SLURM cluster, as those people, in as few jobs as possible.

The package imports nothing at the top level, so that the command line starts quickly:
import what you need from :mod:`fractal_slurm.api`, e.g. ``from fractal_slurm.api import resolve``.
"""

__version__ = "0.1.0"
