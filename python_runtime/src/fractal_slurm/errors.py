# SPDX-License-Identifier: BSD-3-Clause
"""The errors of this package, each with the exit code of the command that it ends."""

from __future__ import annotations

from collections.abc import Iterable


def shown(value: object, most: int = 80) -> str:
    """Return a value as messages show it: on one line, cut if it is long.

    Args:
        value: What was found.
        most: The most characters.
    """
    try:
        text = repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        text = "an integer with too many digits"
    except RecursionError:
        text = "a value that is nested too deeply to be shown"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def one_line(text: str, most: int = 500) -> str:
    """Return the words of another program as a part of a sentence: one line, no control characters, cut if it is long.

    Args:
        text: What the program printed.
        most: The most characters.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def quoted(text: str) -> str:
    """Return the output of another program to put after a sentence; of several lines, each gets a mark."""
    lines = text.splitlines()
    return f" {text}" if len(lines) < 2 else "".join(f"\n| {line}" for line in lines)


def count_of(number: int, what: str) -> str:
    """Return a number with its noun: ``1 task``, ``2 tasks``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


class FractalSlurmError(ValueError):
    """Base of every error that this package raises on purpose.

    Args:
        messages: One sentence, or one for each fault. Each says what is wrong, where, what is allowed and what to do.

    Attributes:
        messages: The sentences, in the order given.
        exit_code: The exit code of ``fractal-slurm`` if this error ends it.
    """

    exit_code = 2

    def __init__(self, messages: str | Iterable[str]) -> None:
        self.messages: list[str] = [messages] if isinstance(messages, str) else list(messages)
        super().__init__("\n".join(self.messages))


class ConfigFileError(FractalSlurmError):
    """FRACTAL_SLURM_CONFIG_FILE can't be read, or is not valid."""


class SpecError(FractalSlurmError):
    """A unit of work (task, meta, parameters) is not valid."""


class BatchingError(FractalSlurmError):
    """Tasks can't be batched into jobs within the limits given."""


class SettingsError(FractalSlurmError):
    """Our own settings (fractal-slurm.toml or FRACTAL_SLURM_<NAME>) are not valid."""


class ClusterError(FractalSlurmError):
    """SLURM refused, or can't be reached."""

    exit_code = 3


class ImpersonationError(ClusterError):
    """sudo does not allow the service account to run a command as this user."""


class RunError(FractalSlurmError):
    """A run does not exist, another process drives it, or it can't go on."""
