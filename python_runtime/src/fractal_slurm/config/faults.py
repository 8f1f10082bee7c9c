# SPDX-License-Identifier: BSD-3-Clause
"""Turn the errors of pydantic into sentences for the person who wrote the document."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..errors import FractalSlurmError, shown

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_KEY = 80  # characters of a key in a message
# Type of a pydantic error -> what is allowed there.
_ALLOWED = {
    "string_type": "a string is allowed",
    "list_type": "a list is allowed",
    "dict_type": "an object is allowed",
    "mapping_type": "an object is allowed",
    "model_type": "an object is allowed",
    "model_attributes_type": "an object is allowed",
    "bool_type": "true or false are allowed",
    "bool_parsing": "true or false are allowed",
}


class Fault(NamedTuple):
    """One fault of a document.

    Attributes:
        location: The keys and list positions that lead to the fault.
        words: A sentence: what was found, and what is allowed.
    """

    location: tuple[int | str, ...]
    words: str


class FaultsBelow(FractalSlurmError):
    """Faults that one of our validators found at several places inside of the value that it checked.

    Args:
        faults: The faults. Each location starts at that value.
    """

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = list(faults)
        super().__init__(fault.words for fault in self.faults)


def faults_of(error: ValidationError, model: type[BaseModel], data: object, what: str = "key") -> list[Fault]:
    """Return all faults, in the order of the document. A missing key comes after the keys that the object has.

    Args:
        error: The error of pydantic.
        model: The model that checked the document.
        data: The document.
        what: The word for a key in messages.
    """
    found = [
        Fault(tuple(location), words)
        for entry in error.errors(include_url=False)
        for location, words in _describe(entry, model, what)
    ]
    return sorted(found, key=lambda fault: _position(data, fault.location))


def json_path(location: Iterable[int | str]) -> str:
    """Return a location as a JSON path, such as ``$.default_slurm_config.extra_lines[0]``."""
    path = "$"
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif len(part) > _MOST_KEY:
            path += f"[{json.dumps(f'{part[:_MOST_KEY]}...')}]"
        elif _PLAIN_KEY.fullmatch(part):
            path += f".{part}"
        else:
            path += f"[{json.dumps(part)}]"
    return path


def plain(name: str) -> str:
    """Return a name for a message: unchanged, or quoted if it is very long or has unprintable characters."""
    return name if name.isprintable() and len(name) <= _MOST_KEY else shown(name)


def unknown(name: str, known: Collection[str], what: str = "key") -> str:
    """Return the message for an unknown name. It suggests the most similar known name.

    Args:
        name: The name that was found.
        known: The known names.
        what: The word for such a name in messages.
    """
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known {what}s are {', '.join(known)}"
    return f"unknown {what}; {hint}"


def found(value: object) -> str:
    """Return the beginning of a sentence that says which value was found."""
    return "found nothing" if value is None else f"found {shown(value)}"


def _describe(entry: Any, model: type[BaseModel], what: str) -> list[tuple[Sequence[int | str], str]]:
    kind, value, location = entry["type"], entry["input"], entry["loc"]
    # pydantic adds "[key]" to the location if a key itself is wrong. But a model may also have a key of that name.
    if location[-1:] == ("[key]",) and kind != "extra_forbidden":
        location = location[:-1]
    if kind == "extra_forbidden":
        above = _model_at(model, location[:-1])
        return [(location, unknown(str(location[-1]), above.model_fields if above else (), what))]
    if kind == "missing":
        return [(location, "missing; it is required")]
    if kind == "invalid_key":
        return [(location, f"{shown(location[-1])} is no key: a string is allowed")]
    if kind == "value_error":
        error = entry["ctx"]["error"]
        if isinstance(error, FaultsBelow):
            return [((*location, *fault.location), fault.words) for fault in error.faults]
        return [(location, message) for message in getattr(error, "messages", [str(error)])]
    if kind == "literal_error":
        return [(location, f"{found(value)}; allowed are {_choices(model, location)}")]
    allowed = _ALLOWED.get(kind, f"{entry['msg'][:1].lower()}{entry['msg'][1:]}")
    if kind == "string_type" and isinstance(value, (int, float)):
        allowed += ": put it in quotes"
    return [(location, f"{found(value)}; {allowed}")]


def _model_at(model: type[BaseModel], location: Iterable[int | str]) -> type[BaseModel] | None:
    """Return the model of the object at a location, or None if no model describes it."""
    parts = iter(location)
    for part in parts:
        entry = model.model_fields.get(str(part))
        inner = [] if entry is None else [entry.annotation, *get_args(entry.annotation)]
        below = next((kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if below is None:
            return None
        if entry is not None and get_origin(entry.annotation) is dict and next(parts, None) is None:
            return None  # an object whose keys are free
        model = below
    return model


def _choices(model: type[BaseModel], location: Sequence[int | str]) -> str:
    above = _model_at(model, location[:-1])
    entry = above.model_fields.get(str(location[-1])) if above else None
    return ", ".join(str(choice) for choice in get_args(entry.annotation)) if entry else "others"


def _position(data: object, location: Iterable[int | str]) -> list[float]:
    """Return the place of a location in a document, for sorting. An object or list comes after its content."""
    numbers: list[float] = []
    for part in location:
        if isinstance(data, Mapping):
            keys = [str(key) for key in data]
            numbers.append(keys.index(str(part)) if str(part) in keys else len(keys))
            data = data.get(part)
        elif isinstance(part, int):
            numbers.append(part)
            data = data[part] if isinstance(data, Sequence) and part < len(data) else None
        else:
            break
    return [*numbers, math.inf]
