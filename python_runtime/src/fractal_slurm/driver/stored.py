# SPDX-License-Identifier: BSD-3-Clause
"""How a run's record and rows are written in the journal, and read again: what can't be is found, not believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import NoneType
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from ..config.resolve import SlurmConfig
from ..jobs.script import JobSettings
from .model import EventRow, JobRow, JobState, RunRecord, RunState, TaskRow, TaskState

_JOB_STATES, _TASK_STATES = frozenset(JobState), frozenset(TaskState)
_FIELDS = {field.name: field for field in fields(RunRecord)}
# The columns of a job, a task and an event, in the order of the fields of their rows.
JOB_COLUMNS = ", ".join(field.name for field in fields(JobRow))
TASK_COLUMNS = ", ".join({"index": "idx"}.get(field.name, field.name) for field in fields(TaskRow))
EVENT_COLUMNS = ", ".join(EventRow._fields)


# -- the record: a row for each value, in JSON


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(RunRecord, include_extras=True)[name])


def written(name: str, value: Any) -> str:
    """A field of a record, as the journal has it."""
    text = json.dumps(_adapter(name).dump_python(value, mode="json"), ensure_ascii=False)
    return text.encode("utf-8", "replace").decode()  # SQLite takes no lone surrogates


def read_record(stored: Mapping[str, bytes]) -> tuple[RunRecord, list[str]]:
    """A run's record, and the names of what could not be read of it.

    Args:
        stored: What the journal has, by name. Names that a record does not have are passed over.
    """
    values: dict[str, Any] = {}
    unread = []
    for name, field in _FIELDS.items():
        try:
            if name in stored:
                values[name] = _adapter(name).validate_json(stored[name], strict=True)
                continue
        except (ValueError, TypeError):
            unread.append(name)
        else:
            if field.default is MISSING and field.default_factory is MISSING:
                unread.append(name)
    return RunRecord(**{**_BLANK, **values}), unread


# What stands in the place of what can't be read, so that the rest can be shown. Nobody drives such a run.
_BLANK: dict[str, Any] = {
    "run_id": "",
    "created": 0.0,
    "user": "",
    "task_name": "",
    "tasks": 0,
    "run_folder": "",
    "config": SlurmConfig("", 1, 1, "", 1, 1, 1, 1, 1, 1, 1, 1),
    "job_settings": JobSettings((), "", "", "", ""),
    "settings": {},
    "hides_jobs": False,
    "state": RunState.UNKNOWN,
}


# -- rows


def job_of(row: tuple[Any, ...]) -> JobRow:
    """A job, from its columns, which are sound."""
    token, number, state, *rest = row
    return JobRow(token, number, JobState(state), *rest)


def task_of(row: tuple[Any, ...]) -> TaskRow:
    """A task, from its columns, which are sound."""
    index, attempt, token, state, *rest = row
    return TaskRow(index, attempt, token, TaskState(state), *rest)


def _is(*types: type) -> Callable[[object], bool]:
    # A bool is an int to Python.
    return lambda value: isinstance(value, types) and (not isinstance(value, bool) or bool in types)


_is_text, _is_maybe_text, _is_count = _is(str), _is(str, NoneType), _is(int)


def _is_time(value: object) -> bool:
    # What the clock's functions take, too.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 10**11


def _is_maybe_time(value: object) -> bool:
    return value is None or _is_time(value)


def _fits(*checks: Callable[[object], bool]) -> Callable[[tuple[Any, ...]], bool]:
    def fits(row: tuple[Any, ...]) -> bool:
        for check, value in zip(checks, row, strict=True):  # noqa: SIM110 - for every row, and all() is slower
            if not check(value):
                return False
        return True

    return fits


is_event = _fits(_is_time, _is_text, _is_text, _is_text)
is_job = _fits(
    _is_text, _is_count, _JOB_STATES.__contains__, _is_maybe_text, _is_maybe_text, _is_maybe_text, _is_count,
    _is(int, NoneType), _is_count, _is_maybe_time, _is_maybe_time, _is_maybe_time,
)  # fmt: skip
is_task = _fits(
    _is_count, _is_count, _is_maybe_text, _TASK_STATES.__contains__, _is_count, _is_count, _is_maybe_text,
    _is_maybe_text, _is_text,
)  # fmt: skip


def is_count_of_tasks(row: tuple[Any, ...]) -> bool:
    """Whether a row is a state of tasks and a number."""
    return row[0] in _TASK_STATES and _is_count(row[1])


# Of a task that moved: the change's number, the task's index, state and token.
is_move = _fits(_is_count, _is_count, _TASK_STATES.__contains__, _is_maybe_text)
