# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fractal_slurm_server`` says whether the fractal-server of this Python is supported: exit code 0 or 3."""

from __future__ import annotations

import os
import sys

from .check import faults, version

# Variables that fractal-server needs for an import. This program connects to nothing.
_PLACEHOLDERS = {"POSTGRES_DB": "none", "JWT_SECRET_KEY": "none"}


def main() -> int:
    """Print the reasons why it is not supported, one sentence per line, or print that it is supported.

    Returns:
        The exit code: 0 if it is supported, else 3.
    """
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
