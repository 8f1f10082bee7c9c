# SPDX-License-Identifier: BSD-3-Clause
"""Read the workers' result files: which lines are whole, which belong to us, and what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container
from enum import Enum
from typing import Any

from ..node import protocol
from ..node.protocol import MAX_OUT_DEPTH, has_too_many_values, is_deep
from .model import Word

_JOB_ID = re.compile(r"[0-9]{1,10}", re.ASCII)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# The longest text that a worker writes is the end of a log, of 4000 bytes.
_MOST_TEXT = 10_000
# SLURM requeues a job a few times.
_MOST_STARTS = 10_000


class Ending(Word):
    """How a task ended, in the worker's words."""

    SUCCEEDED = protocol.SUCCEEDED
    FAILED = protocol.FAILED
    TIMEOUT = protocol.TIMEOUT  # its time limit ended it
    MEMORY = protocol.MEMORY  # its memory limit ended it
    CUT = protocol.CUT  # the worker ended it, since the worker had to end


_ENDINGS = frozenset(Ending)


class Kind(Enum):
    """What a line of a result file is."""

    TASK = "task"  # a task ended
    BEGIN = "begin"  # a worker started
    END = "end"  # a worker ended by itself
    BEAT = "beat"  # a worker is alive
    TORN = "torn"  # no record: cut, or overwritten
    FOREIGN = "foreign"  # a record of another run


def classify(line: bytes, tokens: Container[str]) -> tuple[Kind, dict[str, Any]]:
    """Read one line.

    Args:
        line: The line, not blank.
        tokens: The tokens of this run.

    Returns:
        Its kind, and the record (empty if it is none).
    """
    if has_too_many_values(line):
        return Kind.TORN, {}  # what they would take of the memory
    try:
        # By name: json would take UTF-16 and a byte order mark, too, and what is stored is UTF-8.
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return Kind.TORN, {}
    if not isinstance(record, dict):
        return Kind.TORN, {}
    if line.count(b"[") + line.count(b"{") > MAX_OUT_DEPTH and any(map(is_deep, record.values())):
        return Kind.TORN, {}  # what reads it later may have less room
    token = record.get("token")
    if not isinstance(token, str) or token not in tokens:
        return Kind.FOREIGN, record
    for kind in (Kind.TASK, Kind.BEGIN, Kind.END, Kind.BEAT):
        if kind.value in record:
            return (kind if _is_whole(kind, record) else Kind.TORN), record
    return Kind.TORN, record


def is_task_record(record: dict[str, Any]) -> bool:
    """Whether a record is that of a task's end, with a value for each name that can be relied on."""
    return _is_whole(Kind.TASK, record)


def _is_number(value: object) -> bool:
    # What SQLite and file offsets hold.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_text(value: object) -> bool:
    # JSON can spell lone surrogates ("\\ud800"); neither SQLite nor a terminal takes them.
    return isinstance(value, str) and len(value) <= _MOST_TEXT and _SURROGATE.search(value) is None


def _is_start(value: object) -> bool:
    return isinstance(value, int) and _is_number(value) and value < _MOST_STARTS


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**63


def _is_job_id(value: object) -> bool:
    return isinstance(value, str) and _JOB_ID.fullmatch(value) is not None


def _is_state(value: object) -> bool:
    return isinstance(value, str) and value in _ENDINGS


def _is_place(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _or_absent(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


_WORKER = {"restart": _is_start, "node": _is_number}
# What a record of each kind must have. The files are the user's: whatever is in one, it can't stop the driver.
_FIELDS: dict[Kind, dict[str, Callable[[object], bool]]] = {
    Kind.TASK: {
        "task": _is_number,
        "attempt": _is_number,
        "state": _is_state,
        "job": _is_job_id,
        **_WORKER,
        "reason": _or_absent(_is_text),
        "tail": _or_absent(_is_text),
        "host": _or_absent(_is_text),
        "log": _or_absent(_is_place),
        "exit": _or_absent(_is_number),
        "signal": _or_absent(_is_number),
        "fork_failed": _or_absent(_is_text),
        **dict.fromkeys(("start", "seconds", "peak_mb", "cpu_s", "startup_s"), _or_absent(_is_real)),
    },
    Kind.BEGIN: {"job": _is_job_id, "nodes": _is_number, **_WORKER, "printed": _or_absent(_is_text)},
    Kind.END: {
        "end": _is_text,
        "steps": _is_number,
        "forked": _or_absent(_is_number),
        "fresh_why": _or_absent(_is_text),
        "fork_off": _or_absent(_is_text),
        **_WORKER,
    },
    Kind.BEAT: {},
}


def _is_whole(kind: Kind, record: dict[str, Any]) -> bool:
    for name, check in _FIELDS[kind].items():  # noqa: SIM110 - for every line of every file, and all() is slower
        if not check(record.get(name)):
            return False
    return True
