# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands that the pages show: tests hold them against what there is, and run those that can be run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "*.md", "docs/**/*.md", "roles/*/README.md", "examples/*/README.md", "molecule/README.md", "benchmarks/README.md",
    "python_runtime/README.md",
)  # fmt: skip
# What a command begins with. A block that is marked as a shell's has commands alone.
PROGRAMS = {
    *("ansible-doc", "ansible-galaxy", "ansible-inventory", "ansible-playbook", "ansible-test", "molecule"),
    *("fractal-slurm", "fractalctl", "sbatch", "scancel", "scontrol", "squeue", "sudo", "visudo", "tools/molecule"),
    *("apt", "cat", "chmod", "curl", "env", "export", "getent", "git", "id", "make", "pip", "podman", "systemctl"),
    *("pytest", "python", "python3"),
}
_SHELLS = ("console", "sh", "bash")
_FENCE = re.compile(r" *```(?:\{?(\w*)\}?)")
_SPAN = re.compile(r"`([^`]+)`")


class Command(NamedTuple):
    """A command on a page.

    Attributes:
        page: The file, below the repository.
        line: Its line, from 1.
        text: The command, without its prompt and comment.
    """

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def commands() -> list[Command]:
    """All commands of all pages: in blocks, and in lines of text where they have more than one word."""
    pages = dict.fromkeys(path for pattern in PAGES for path in sorted(ROOT.glob(pattern)))
    return [
        Command(str(path.relative_to(ROOT)), number, text)
        for path in pages
        if path.name != "CHANGELOG.md"
        for number, text in _of_page(path.read_text(encoding="utf-8"))
    ]


def _of_page(page: str) -> Iterator[tuple[int, str]]:
    fence: str | None = None
    begun = ""  # of a command on several lines
    for number, line in enumerate(page.splitlines(), start=1):
        if found := _FENCE.match(line):
            fence = None if fence is not None else found[1]
            continue
        if fence is None and not re.match(r" {4,}\S", line) and not begun:
            for span in _SPAN.findall(line):
                if " " in span and _is_command(span):
                    yield number, _plain(span)
            continue
        if fence is not None and fence not in _SHELLS:
            continue
        text = begun + _plain(line)
        begun = ""
        if text.endswith("\\") and _is_command(text):
            begun = f"{text[:-1].rstrip()} "
        elif text and (_is_command(text) or (fence in _SHELLS and re.match(r"\s*[$#] ", line))):
            yield number, text


def _is_command(text: str) -> bool:
    return _plain(text).partition(" ")[0] in PROGRAMS


def _plain(line: str) -> str:
    """A line without its prompt, and without a comment at its end."""
    return re.sub(r"(^|\s{2,})#\s.*$", "", re.sub(r"^[$#] ", "", line.strip())).strip()
