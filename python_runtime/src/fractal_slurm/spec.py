# SPDX-License-Identifier: BSD-3-Clause
"""The unit of work: a task, its meta, and one parameter set for each time it is to run.

A document of a million parameter sets is read one set at a time; each is kept as one line of JSON, which is
what the worker writes to the task's args file.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidationError

from .config.documents import parse_yaml, read_text, stands_twice, unique_keys
from .config.faults import Fault, FaultsBelow, faults_of, found, json_path
from .errors import FractalSlurmError, SpecError, shown
from .jobs.script import split_command
from .node.protocol import MAX_OUT_DEPTH, is_deep

# How many parameter sets a message names; of a million wrong ones the first few tell enough.
_MOST_FAULTS = 20
# A million parameter sets take a tenth of it.
_MOST_BYTES = 1 << 30
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TOO_DEEP = f"is nested too deeply: at most {MAX_OUT_DEPTH} levels are allowed"
_BLANK = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Spec:
    """A unit of work, checked.

    Attributes:
        task_name: The task's name.
        command: The task's command, split into words.
        task_meta: task.meta.
        meta: WorkflowTask.meta.
        parameters: One line of JSON for each task: its args.
    """

    task_name: str
    command: tuple[str, ...]
    parameters: Sequence[str]
    task_meta: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


def load_spec(path: str) -> Spec:
    """Read a unit of work.

    Args:
        path: A JSON or YAML file; ``-`` for standard input.

    Raises:
        SpecError: It can't be read or is not valid; one line for each fault: file, JSON path, what is allowed.
    """
    source = "standard input" if path == "-" else path
    text = read_text(sys.stdin.buffer if path == "-" else path, source=source, most=_MOST_BYTES, error=SpecError)
    return parse_spec(text or "", source=source)


def parse_spec(text: str, *, source: str) -> Spec:
    """Check the text of a unit of work, JSON or YAML; see :func:`load_spec`."""
    start = _skip(text, 0)
    if text[start : start + 1] == "{":
        try:
            document = _read_json(text, start + 1)
        except json.JSONDecodeError as error:
            if not _looks_like_yaml(text):
                raise SpecError(f"{source}:{error.lineno}:{error.colno}: no JSON: {error.msg}") from None
            document = _read_yaml(text, source)
        except RecursionError:
            raise SpecError(f"{source}: nested too deeply") from None
        except FractalSlurmError as error:
            raise SpecError(f"{source}: {message}" for message in error.messages) from None
        except ValueError as error:  # an integer of more than 4300 digits
            raise SpecError(f"{source}: can't be read: {error}") from None
    else:
        document = _read_yaml(text, source)
    return build_spec(document, source=source)


def _read_yaml(text: str, source: str) -> Any:
    return parse_yaml(text, source=source, error=SpecError, otherwise="neither JSON nor YAML")


def _looks_like_yaml(text: str) -> bool:
    # A flow mapping ({task: …}) is YAML and no JSON; JSON with a fault in it begins with a quote.
    return re.match(r"\s*\{\s*[A-Za-z]", text) is not None


def _read_json(text: str, position: int) -> dict[str, Any]:
    """Read a JSON object; its parameters become a list of lines, without ever being in memory all at once.

    Args:
        text: The text.
        position: Where the object goes on, behind its brace.
    """
    decoder = json.JSONDecoder(object_pairs_hook=unique_keys)
    document: dict[str, Any] = {}
    first = True
    while True:
        position = _skip(text, position)
        if text[position : position + 1] == "}":
            break
        if not first:
            position = _expect(text, position, ",")
        first = False
        if text[position : position + 1] != '"':
            raise json.JSONDecodeError("a key in double quotes is expected", text, position)
        key, position = decoder.raw_decode(text, position)
        position = _expect(text, position, ":")
        if key in document:
            raise SpecError(stands_twice(key))
        if key == "parameters" and text[position : position + 1] == "[":
            document[key], position = _read_parameters(text, position + 1, decoder)
        else:
            document[key], position = decoder.raw_decode(text, position)
    end = _skip(text, position + 1)
    if end != len(text):
        raise json.JSONDecodeError("nothing may follow the object", text, end)
    return document


def _skip(text: str, position: int) -> int:
    return _BLANK.match(text, position).end()  # type: ignore[union-attr]


def _expect(text: str, position: int, character: str) -> int:
    position = _skip(text, position)
    if text[position : position + 1] != character:
        raise json.JSONDecodeError(f"{character!r} is expected", text, position)
    return _skip(text, position + 1)


class _Lines(list[str]):
    """Parameter sets that are lines of JSON already; ``faults`` are (number, what was found)."""

    faults: list[tuple[int, object]]


def _read_parameters(text: str, position: int, decoder: json.JSONDecoder) -> tuple[_Lines, int]:
    lines = _Lines()
    lines.faults = []
    position = _skip(text, position)
    if text[position : position + 1] == "]":
        return lines, position + 1
    while True:
        value, end = decoder.raw_decode(text, position)
        if isinstance(value, dict):
            line = text[position:end]
            if line.count("[") + line.count("{") > MAX_OUT_DEPTH and is_deep(value):
                raise SpecError(f"$.parameters[{len(lines) + len(lines.faults)}]: {_TOO_DEEP}")
            lines.append(line if "\n" not in line and "\r" not in line else to_line(value))
        else:
            lines.faults.append((len(lines) + len(lines.faults), value))
        position = _skip(text, end)
        if text[position : position + 1] == "]":
            return lines, position + 1
        position = _expect(text, position, ",")


def to_line(parameters: Mapping[str, Any]) -> str:
    """One parameter set as one line of JSON."""
    line = json.dumps(parameters, ensure_ascii=False, separators=(",", ":"))
    # A lone surrogate can't be written in UTF-8, but spelled as JSON does ("\\ud800").
    return line if _SURROGATE.search(line) is None else json.dumps(parameters, separators=(",", ":"))


def _check_name(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise FractalSlurmError(f"{found(value)}; a string that is not empty is required")
    if not value.isprintable():
        raise FractalSlurmError(f"{found(value)}; control characters are not allowed")
    return value


def _check_command(value: object) -> tuple[str, ...]:
    if not isinstance(value, str) or not value.strip():
        raise FractalSlurmError(f"{found(value)}; a string that is not empty is required")
    return split_command(value)


def _check_meta(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise FractalSlurmError(f"{found(value)}; an object is allowed")
    if is_deep(value):
        raise FractalSlurmError(_TOO_DEEP)
    return value


def _check_parameters(value: object) -> Sequence[str]:
    """The parameter sets, one line of JSON for each."""
    lines: list[str]
    if isinstance(value, _Lines):
        lines = value
        faults = [Fault((number,), f"{found(item)}; an object is allowed") for number, item in value.faults]
    elif isinstance(value, list):
        lines, faults = [], []
        for number, item in enumerate(value):
            try:
                lines.append(_line_of(item))
            except FractalSlurmError as error:
                faults.append(Fault((number,), str(error)))
    else:
        raise FractalSlurmError(f"{found(value)}; a list of objects is allowed")
    if len(faults) > _MOST_FAULTS:
        more = f"{len(faults) - _MOST_FAULTS} more that are no objects, or no JSON"
        raise FaultsBelow([*faults[:_MOST_FAULTS], Fault((), more)])
    if faults:
        raise FaultsBelow(faults)
    if not lines:
        raise FractalSlurmError("is empty: give one parameter set for each task")
    return lines


def _line_of(item: object) -> str:
    if not isinstance(item, Mapping):
        raise FractalSlurmError(f"{found(item)}; an object is allowed")
    try:
        line = to_line(item)
    except RecursionError:
        raise FractalSlurmError(_TOO_DEEP) from None
    except (TypeError, ValueError) as error:
        raise FractalSlurmError(f"can't be written as JSON: {error}") from None
    if line.count("[") + line.count("{") > MAX_OUT_DEPTH and is_deep(item):
        raise FractalSlurmError(_TOO_DEEP)
    return line


Meta = Annotated[Mapping[str, Any], PlainValidator(_check_meta)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Task(_Model):
    name: Annotated[str, PlainValidator(_check_name)]
    command: Annotated[tuple[str, ...], PlainValidator(_check_command)]
    meta: Meta = {}


class _Document(_Model):
    task: _Task
    meta: Meta = {}
    parameters: Annotated[Sequence[str], PlainValidator(_check_parameters)]


def build_spec(document: object, *, source: str) -> Spec:
    """Check a unit of work that is in memory already.

    Args:
        document: ``{"task": {"name", "command", "meta"}, "meta", "parameters"}``.
        source: Where it came from, for the messages.

    Raises:
        SpecError: It is not valid; every fault at once.
    """
    if not isinstance(document, Mapping):
        raise SpecError(f"{source}: $: {found(document)}; an object is allowed")
    data = _named(document)
    if isinstance(data.get("task"), Mapping):
        data["task"] = _named(data["task"])
    try:
        checked = _Document.model_validate(data)
    except ValidationError as error:
        faults = faults_of(error, _Document, data)
        raise SpecError(f"{source}: {json_path(where)}: {words}" for where, words in faults) from None
    return Spec(
        task_name=checked.task.name,
        command=checked.task.command,
        task_meta=checked.task.meta,
        meta=checked.meta,
        parameters=checked.parameters,
    )


def build_parameters(parameters: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Check parameter sets that are in memory already; returns one line of JSON for each.

    Raises:
        SpecError: Some are not valid, or there are none.
    """
    try:
        return _check_parameters(list(parameters))
    except FaultsBelow as error:
        faults = error.faults
    except FractalSlurmError as error:
        faults = [Fault((), message) for message in error.messages]
    raise SpecError(f"{json_path(('parameters', *where))}: {words}" for where, words in faults)


def _named(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping whose keys are strings: YAML has others."""
    return {key if isinstance(key, str) else shown(key): value for key, value in mapping.items()}
