# SPDX-License-Identifier: BSD-3-Clause
"""Read and write time limits in SLURM's formats (sbatch(1), ``--time``)."""

from __future__ import annotations

import re

from ..errors import FractalSlurmError, shown

_PATTERNS = (
    # minutes | minutes:seconds | hours:minutes:seconds
    re.compile(r"(?:(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)|(?P<only_minutes>\d+))", re.ASCII),
    # days-hours | days-hours:minutes | days-hours:minutes:seconds
    re.compile(r"(?P<days>\d+)-(?P<hours>\d+)(?::(?P<minutes>\d+)(?::(?P<seconds>\d+))?)?", re.ASCII),
)
ALLOWED = (
    '"minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours", "days-hours:minutes" '
    'or "days-hours:minutes:seconds"'
)
# SLURM stores minutes in 32 bits. A hundred years is less than that, and more than the limit of any site.
MAX_SECONDS = 100 * 366 * 86_400


def parse_walltime(value: object) -> int:
    """Read a time limit in one of SLURM's six formats.

    Args:
        value: A string, e.g. ``"90"`` (minutes), ``"01:30:00"``, ``"1-12"``. An integer is refused, because its unit
            is not clear: YAML reads ``10:00:00`` as the integer 36000.

    Returns:
        The limit in seconds.

    Raises:
        FractalSlurmError: The value is not a string, has another format, is zero, or is over a hundred years.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        raise FractalSlurmError(f"time {shown(value)} is an integer: quote it, YAML reads 10:00:00 as 36000")
    if not isinstance(value, str):
        raise FractalSlurmError(f"time {shown(value)} is not allowed: give {ALLOWED}")
    text = value.strip()
    match = next((found for pattern in _PATTERNS if (found := pattern.fullmatch(text))), None)
    if match is None or len(text) > 32:
        raise FractalSlurmError(f"time {shown(value)} is not allowed: give {ALLOWED}")
    part = {name: int(digits) for name, digits in match.groupdict().items() if digits is not None}
    seconds = (
        part.get("days", 0) * 86_400
        + part.get("hours", 0) * 3_600
        + part.get("minutes", part.get("only_minutes", 0)) * 60
        + part.get("seconds", 0)
    )
    if not 0 < seconds <= MAX_SECONDS:
        raise FractalSlurmError(f"time {shown(value)} is not allowed: it must be above zero and below a hundred years")
    return seconds


def format_walltime(seconds: int) -> str:
    """Return a time limit for sbatch, rounded up to whole minutes.

    SLURM itself rounds limits up to whole minutes. If we do the same, the planned limit is the enforced limit.

    Args:
        seconds: The limit in seconds.

    Returns:
        ``days-hours:minutes:00``, or ``hours:minutes:00`` below a day.

    Raises:
        FractalSlurmError: It is no whole number, or negative.
    """
    if not isinstance(seconds, int) or isinstance(seconds, bool) or seconds < 0:
        raise FractalSlurmError(f"seconds: found {shown(seconds)}; a whole number that is not negative is allowed")
    minutes = -(-seconds // 60)
    days, rest = divmod(minutes, 1440)
    clock = f"{rest // 60:02d}:{rest % 60:02d}:00"
    return f"{days}-{clock}" if days else clock
