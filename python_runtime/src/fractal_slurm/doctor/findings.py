# SPDX-License-Identifier: BSD-3-Clause
"""What doctor finds: each with a code that leads to docs/doctor.md, and how much it matters."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple


class Code(str, Enum):
    """What was looked at. A code is never used for something else: monitoring goes by it."""

    SETTINGS = "D01"
    CONFIG = "D02"
    STATE_DIR = "D03"
    STATE_SPACE = "D04"
    WORKER = "D05"
    JOURNALS = "D06"
    LIMITS = "D07"
    SLURM = "D11"
    PRIVATE_DATA = "D12"
    FIT = "D13"
    SCRIPT_SIZE = "D15"
    SUDO_PRELOAD = "D21"
    SUDO_MORE = "D22"
    SUDO_USER = "D23"
    SBATCH_USER = "D24"
    WORK_DIR = "D25"
    PROBE = "D31"
    PROBE_CLOCK = "D32"
    PROBE_RUNTIME = "D33"
    PROBE_CACHE = "D34"


class Level(str, Enum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"  # runs work, for now or at a price
    FAILED = "failed"  # runs do not work, or not all of them


class Finding(NamedTuple):
    """The outcome of one check.

    Attributes:
        check: What was looked at, in words.
        words: What was found, and what to do where it is not as it should be.
        code: What was looked at, for programs.
        level: How much it matters.
    """

    check: str
    words: str
    code: Code
    level: Level = Level.OK

    @property
    def ok(self) -> bool:
        """Whether runs work as far as this check knows."""
        return self.level is not Level.FAILED

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "check": self.check,
            "ok": self.ok,
            "words": self.words,
            "code": self.code.value,
            "level": self.level.value,
            "docs": f"docs/doctor.md#{self.code.value.lower()}",
        }


def passed(code: Code, check: str, words: str) -> Finding:
    """All is as it should be."""
    return Finding(check, words, code)


def warned(code: Code, check: str, words: str) -> Finding:
    """Runs work, and somebody should know of this."""
    return Finding(check, words, code, Level.WARNING)


def failed(code: Code, check: str, words: str) -> Finding:
    """Runs do not work."""
    return Finding(check, words, code, Level.FAILED)
