# SPDX-License-Identifier: BSD-3-Clause
"""Read amounts of memory as Fractal writes them: whole numbers with M, G or T, in powers of 1000.

SLURM itself counts in powers of 1024. Fractal's config file does not, and the files of its users rely on this:
``"10G"`` is 10,000 MB there.
"""

from __future__ import annotations

import re

from ..errors import FractalSlurmError, shown

_PATTERN = re.compile(r"([0-9]+)([MGT]?)")
_MB_PER_UNIT = {"": 1, "M": 1, "G": 1_000, "T": 1_000_000}
# 10^9 MB is a petabyte. A larger value is a typing error, and too large for SLURM to store.
MAX_MEMORY_MB = 1_000_000_000
ALLOWED = 'a whole number of MB (4000, "4000") or a number with a unit: "4000M", "4G", "1T"'


def parse_memory(value: object) -> int:
    """Read an amount of memory.

    Args:
        value: A positive integer (MB) or a string such as ``"250"``, ``"250M"``, ``"4G"``, ``"1T"``.
            Units are powers of 1000. Blanks around a string are ignored.

    Returns:
        The amount in MB.

    Raises:
        FractalSlurmError: The value is anything else: another unit, a fraction, zero, negative, or over a petabyte.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise FractalSlurmError(f"memory {shown(value)} is not allowed: give {ALLOWED}")
    if isinstance(value, int):
        amount = value
    else:
        match = _PATTERN.fullmatch(value.strip(" \t"))
        if match is None or len(match[1]) > 18:
            raise FractalSlurmError(f"memory {shown(value)} is not allowed: give {ALLOWED}")
        amount = int(match[1]) * _MB_PER_UNIT[match[2]]
    if not 1 <= amount <= MAX_MEMORY_MB:
        raise FractalSlurmError(f"memory {shown(value)} is not allowed: it must be from 1 MB to {MAX_MEMORY_MB} MB")
    return amount
