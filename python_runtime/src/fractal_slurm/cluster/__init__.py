# SPDX-License-Identifier: BSD-3-Clause
"""What SLURM says: its commands, its facts, and whether options fit them."""
