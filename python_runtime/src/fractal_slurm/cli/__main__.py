# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fractal_slurm.cli`` is the command ``fractal-slurm``."""

from . import main

main()
