# SPDX-License-Identifier: BSD-3-Clause
"""The unit of work: a task, its meta, and one parameter set for each time it is to run.

A document of a million parameter sets is read one set at a time; each is kept as one line of JSON, which is
what the worker writes to the task's args file.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config.faults import json_path
from .errors import FractalSlurmError, SpecError, shown
from .jobs.script import split_command
from .node.protocol import MAX_OUT_DEPTH, is_deep

_TOP = ("task", "meta", "parameters")
_TASK = ("name", "command", "meta")
# How many parameter sets a message names; of a million wrong ones the first few tell enough.
_MOST_FAULTS = 20
# A million parameter sets take a tenth of it.
_MOST_BYTES = 1 << 30
# YAML takes a hundred times its size of memory; and what its aliases and merge keys stand for is bounded, too.
_MOST_YAML, _MOST_EXPANDED, _MOST_MERGED = 1 << 25, 50_000_000, 1_000_000
# Digits of an integer: JSON can't be written with more than 4300, and hexadecimal ones become longer.
_MOST_DIGITS = 1_000
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
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise SpecError(f"{source}: is too large: at most {_MOST_BYTES} bytes are allowed")
        text = data.decode("utf-8-sig")
    except SpecError:
        raise
    except OSError as error:
        raise SpecError(f"{source}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SpecError(f"{source}: can't be read: it is not UTF-8") from None
    except ValueError as error:  # a NUL in the path
        raise SpecError(f"{source!r}: can't be read: {error}") from None
    del data
    return parse_spec(text, source=source)


def parse_spec(text: str, *, source: str) -> Spec:
    """Check the text of a unit of work, JSON or YAML; see :func:`load_spec`."""
    if _BLANK.match(text).end() < len(text) and text[_BLANK.match(text).end()] == "{":  # type: ignore[union-attr]
        try:
            document = _read_json(text)
        except SpecError as error:
            raise SpecError(f"{source}: {message}" for message in error.messages) from None
        except json.JSONDecodeError as error:
            if not _looks_like_yaml(text):
                raise SpecError(f"{source}:{error.lineno}:{error.colno}: no JSON: {error.msg}") from None
            document = _read_yaml(text, source)
        except RecursionError:
            raise SpecError(f"{source}: nested too deeply") from None
        except ValueError as error:  # an integer of more than 4300 digits
            raise SpecError(f"{source}: can't be read: {error}") from None
    else:
        document = _read_yaml(text, source)
    return build_spec(document, source=source)


def _looks_like_yaml(text: str) -> bool:
    # A flow mapping ({task: …}) is YAML and no JSON; JSON with a fault in it begins with a quote.
    return re.match(r"\s*\{\s*[A-Za-z]", text) is not None


def _read_json(text: str) -> dict[str, Any]:
    """Read a JSON object; its parameters become a list of lines, without ever being in memory all at once."""
    decoder = json.JSONDecoder()
    strict_decoder = json.JSONDecoder(object_pairs_hook=_no_duplicates)
    position = _BLANK.match(text).end() + 1  # type: ignore[union-attr]
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
            raise SpecError(f"the key {shown(key)} stands twice in one object: keep one")
        if key == "parameters" and text[position : position + 1] == "[":
            document[key], position = _read_parameters(text, position + 1, decoder)
        else:
            document[key], position = strict_decoder.raw_decode(text, position)
    end = _skip(text, position + 1)
    if end != len(text):
        raise json.JSONDecodeError("nothing may follow the object", text, end)
    return document


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, as long as no key stands twice: of two, one would be lost without a word."""
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _value in pairs).items() if count > 1)
        raise SpecError(f"the key {shown(twice)} stands twice in one object: keep one")
    return result


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


def _read_yaml(text: str, source: str) -> Any:
    import yaml

    if len(text) > _MOST_YAML:
        raise SpecError(
            f"{source}: is too large for YAML: at most {_MOST_YAML} characters are allowed; give it as JSON"
        )
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        try:
            node = loader.get_single_node()
            _check_nodes(node, source, len(text))
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except SpecError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise SpecError(f"{source}{where}: neither JSON nor YAML: {problem}") from None
    except RecursionError:
        raise SpecError(f"{source}: nested too deeply") from None
    except (ValueError, OverflowError) as error:
        # YAML takes 2001-99-99 for a date, 0x_ for a number, and a long row of digits for an integer.
        raise SpecError(f"{source}: can't be read as YAML: {error}; quote it if it is a string") from None
    except (LookupError, AttributeError, TypeError):
        # PyYAML reads the values of explicit tags (!!bool x, !!int, !!timestamp x) without looking at them first.
        raise SpecError(
            f"{source}: can't be read as YAML: a value does not fit its tag (!!bool and the like)"
        ) from None


def _check_nodes(root: Any, source: str, length: int) -> None:
    """Refuse a YAML document that is not what it seems.

    That is a key that stands twice in a mapping (one of the two would be lost without a word), a number that JSON can't
    hold, a node that contains itself, and aliases or merge keys that make gigabytes of a few lines.

    Args:
        root: The document's node.
        source: Where it came from.
        length: The characters of its text.

    Raises:
        SpecError: It is refused.
    """
    import yaml

    def place(node: Any) -> str:
        return f"{source}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    sizes: dict[int, int] = {}  # characters of each node, with all that it refers to; -1 while that is being counted
    merged: dict[int, int] = {}  # pairs of each mapping, with those that it merges
    pairs = 0
    left = [(root, False)]
    while left:
        node, is_done = left.pop()
        if not isinstance(node, yaml.CollectionNode):
            if isinstance(node, yaml.ScalarNode) and id(node) not in sizes:
                sizes[id(node)] = len(node.value) + 1
                if node.tag == "tag:yaml.org,2002:int" and len(node.value) > _MOST_DIGITS:
                    raise SpecError(
                        f"{place(node)}: can't be read as YAML: a number of more than {_MOST_DIGITS} digits; "
                        "quote it if it is a string"
                    )
            continue
        is_mapping = isinstance(node, yaml.MappingNode)
        children = [child for pair in node.value for child in pair] if is_mapping else node.value
        if is_done:
            size = 2 + sum(sizes[id(child)] for child in children)
            if size > _MOST_EXPANDED + 2 * length:
                raise SpecError(f"{place(node)}: aliases (*name) make more than {_MOST_EXPANDED} characters of it")
            sizes[id(node)] = size
            if is_mapping:
                merged[id(node)] = sum(_merged(key, value, merged) for key, value in node.value)
                pairs += merged[id(node)]
                if pairs > _MOST_MERGED + length:
                    raise SpecError(f"{place(node)}: merge keys (<<) make more than {_MOST_MERGED} keys of it")
            continue
        if id(node) in sizes:
            if sizes[id(node)] < 0:
                raise SpecError(f"{place(node)}: it contains itself, by an alias (*name)")
            continue
        sizes[id(node)] = -1
        left.append((node, True))
        left += ((child, False) for child in children)
        if is_mapping:
            keys = set()
            for key, _value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if (key.tag, key.value) in keys:
                        raise SpecError(
                            f"{place(key)}: the key {shown(key.value)} stands twice in one object: keep one"
                        )
                    keys.add((key.tag, key.value))


def _merged(key: Any, value: Any, merged: Mapping[int, int]) -> int:
    """The pairs that one pair of a mapping stands for."""
    if key.tag != "tag:yaml.org,2002:merge":
        return 1
    sources = value.value if value.id == "sequence" else [value]
    return sum(merged.get(id(node), 1) for node in sources)


def build_spec(document: object, *, source: str) -> Spec:
    """Check a unit of work that is in memory already.

    Args:
        document: ``{"task": {"name", "command", "meta"}, "meta", "parameters"}``.
        source: Where it came from, for the messages.

    Raises:
        SpecError: It is not valid; every fault at once.
    """
    faults: list[str] = []

    def fault(path: str, message: str) -> None:
        faults.append(f"{source}: {path}: {message}")

    def section(value: object, path: str, known: Iterable[str] | None) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            fault(path, f"found {_shown(value)}; an object is allowed")
            return {}
        if known is None and is_deep(value):
            fault(path, _TOO_DEEP)
            return {}
        for key in value:
            if known is not None and key not in known:
                name = key if isinstance(key, str) else shown(key)
                near = difflib.get_close_matches(name, list(known), n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
                fault(path + json_path((shown(name)[1:-1] if len(name) > 80 else name,))[1:], f"unknown key; {hint}")
        return value

    top = section(document, "$", _TOP)
    if isinstance(document, Mapping):
        for key in ("task", "parameters"):
            if key not in top:
                fault(f"$.{key}", "missing; it is required")
    task = section(top.get("task", {}), "$.task", _TASK)
    name, command = task.get("name"), task.get("command")
    words: tuple[str, ...] = ()
    if "task" in top:
        for key, value in (("name", name), ("command", command)):
            if not isinstance(value, str) or not value.strip():
                fault(f"$.task.{key}", f"found {_shown(value)}; a string that is not empty is required")
            elif key == "name" and not value.isprintable():
                fault("$.task.name", f"found {value!r}; control characters are not allowed")
        if isinstance(command, str) and command.strip():
            try:
                words = split_command(command)
            except FractalSlurmError as error:
                faults += [f"{source}: {message.replace('task: $.', '$.task.')}" for message in error.messages]
    task_meta, meta = (
        {} if value is None else section(value, path, None)
        for value, path in ((task.get("meta"), "$.task.meta"), (top.get("meta"), "$.meta"))
    )
    parameters = _check_parameters(top.get("parameters", ()), fault) if "parameters" in top else []
    if faults:
        raise SpecError(faults)
    return Spec(task_name=str(name), command=words, task_meta=task_meta, meta=meta, parameters=parameters)


def build_parameters(parameters: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """Check parameter sets that are in memory already; returns one line of JSON for each.

    Raises:
        SpecError: Some are not valid, or there are none.
    """
    faults: list[str] = []
    lines = _check_parameters(list(parameters), lambda path, message: faults.append(f"{path}: {message}"))
    if faults:
        raise SpecError(faults)
    return lines


def _check_parameters(value: object, fault: Any) -> Sequence[str]:
    if isinstance(value, _Lines):
        for number, found in value.faults[:_MOST_FAULTS]:
            fault(f"$.parameters[{number}]", f"found {_shown(found)}; an object is allowed")
        if len(value.faults) > _MOST_FAULTS:
            fault("$.parameters", f"{len(value.faults) - _MOST_FAULTS} more that are no objects")
        if not value and not value.faults:
            fault("$.parameters", "is empty: give one parameter set for each task")
        return value
    if not isinstance(value, list):
        fault("$.parameters", f"found {_shown(value)}; a list of objects is allowed")
        return []
    if not value:
        fault("$.parameters", "is empty: give one parameter set for each task")
    lines, faulty = [], 0
    for number, item in enumerate(value):
        try:
            if isinstance(item, Mapping):
                line = to_line(item)
                if line.count("[") + line.count("{") <= MAX_OUT_DEPTH or not is_deep(item):
                    lines.append(line)
                    continue
                message = _TOO_DEEP
            else:
                message = f"found {_shown(item)}; an object is allowed"
        except RecursionError:
            message = _TOO_DEEP
        except (TypeError, ValueError) as error:
            message = f"can't be written as JSON: {error}"
        faulty += 1
        if faulty <= _MOST_FAULTS:
            fault(f"$.parameters[{number}]", message)
    if faulty > _MOST_FAULTS:
        fault("$.parameters", f"{faulty - _MOST_FAULTS} more that are no objects, or none of JSON")
    return lines


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    return shown(value, 60)
