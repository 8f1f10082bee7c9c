# SPDX-License-Identifier: BSD-3-Clause
"""Read the workers' result files: which lines are whole, which belong to us, and what they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

TASK_STATES = frozenset({"succeeded", "failed", "timeout", "memory", "cut"})


class Kind(Enum):
    """What a line of a result file is."""

    TASK = "task"  # a task ended
    BEGIN = "begin"  # a worker started
    END = "end"  # a worker ended by itself
    TORN = "torn"  # no record: cut, or overwritten
    FOREIGN = "foreign"  # a record of another run


def classify(line: bytes, tokens: frozenset[str] | set[str]) -> tuple[Kind, dict[str, Any]]:
    """Read one line.

    Args:
        line: The line, not blank.
        tokens: The tokens of this run.

    Returns:
        Its kind, and the record (empty if it is none).
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return Kind.TORN, {}
    if not isinstance(record, dict):
        return Kind.TORN, {}
    if record.get("token") not in tokens:
        return Kind.FOREIGN, record
    if "task" in record:
        numbered = type(record["task"]) is int and type(record.get("attempt")) is int
        whole = numbered and record.get("state") in TASK_STATES
        return (Kind.TASK if whole else Kind.TORN), record
    if "begin" in record:
        return Kind.BEGIN, record
    if "end" in record:
        return Kind.END, record
    return Kind.TORN, record


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that are not blank out of chunks of a stream, holding one chunk and one line at a time."""
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        yield from (line for line in lines if line)
    if rest:
        yield rest
