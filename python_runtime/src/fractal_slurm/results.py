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
    token = record.get("token")
    if not isinstance(token, str) or token not in tokens:
        return Kind.FOREIGN, record
    for kind in (Kind.TASK, Kind.BEGIN, Kind.END):
        if kind.value in record:
            return (kind if _is_whole(kind, record) else Kind.TORN), record
    return Kind.TORN, record


# What a record of each kind must have. The files are the user's: whatever is in one, it can't stop the driver.
_FIELDS: dict[Kind, dict[str, type | tuple[type, ...]]] = {
    Kind.TASK: {
        "task": int,
        "attempt": int,
        "job": str,
        "restart": int,
        "node": int,
        "reason": (str, type(None)),
        "tail": (str, type(None)),
    },
    Kind.BEGIN: {"job": str, "restart": int, "node": int},
    Kind.END: {"end": str, "restart": int, "node": int},
}


def _is_whole(kind: Kind, record: dict[str, Any]) -> bool:
    if kind is Kind.TASK and record.get("state") not in TASK_STATES:
        return False
    return all(
        isinstance(record.get(name), types) and not isinstance(record.get(name), bool)
        for name, types in _FIELDS[kind].items()
    )


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that are not blank out of chunks of a stream, holding one chunk and one line at a time."""
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        yield from (line for line in lines if line)
    if rest:
        yield rest
