# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fractal_slurm_server``: whether the fractal-server of this Python is supported. Exits with 0 or 3."""

from __future__ import annotations

import os
import sys

from .check import faults, version

# What fractal-server can't even be imported without. Nothing is connected to here.
_PLACEHOLDERS = {"POSTGRES_DB": "none", "JWT_SECRET_KEY": "none"}


def main() -> int:
    """Print why it is not, a sentence a line; or that it is."""
    for name, value in _PLACEHOLDERS.items():
        os.environ.setdefault(name, value)
    found = faults()
    for sentence in found:
        print(sentence)
    if not found:
        print(f"fractal-server {version()} is supported")
    return 3 if found else 0


if __name__ == "__main__":
    sys.exit(main())
