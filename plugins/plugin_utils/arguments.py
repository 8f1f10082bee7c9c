# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values as inventories give them: what of them is taken, in which type, and what is not."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

_KEYS = ("type", "elements", "choices", "default", "required")
_NAMES = {bool: "truth value", int: "number", float: "number", datetime.date: "date", dict: "mapping", list: "list"}


def convert(
    given: Mapping[str, Any], spec: Mapping[str, Mapping[str, Any]], numbers: frozenset[str] = frozenset()
) -> tuple[dict[str, Any], list[str]]:
    """Bring values to the types that a spec states.

    A string for a list is split at its commas, as Ansible's modules do it (``-e NAME=a,b`` and INI files give no
    lists).

    Args:
        given: Names to values. Null stands for a default where the spec has none.
        spec: Names to options, as in an argument spec.
        numbers: Names of strings for which a number will do.

    Returns:
        The values, defaults included, and one sentence for each that is not allowed (which then is missing).
    """
    faults = []
    taken = {}
    for name, value in given.items():
        found = _faults(name, value, spec[name], numbers)
        faults += found
        if not found and value is not None:
            taken[name] = value
    checked = ArgumentSpecValidator(
        {name: {key: option[key] for key in _KEYS if key in option} for name, option in spec.items()}
    ).validate(taken)
    faults += checked.error_messages
    values: dict[str, Any] = checked.validated_parameters
    return {name: value for name, value in values.items() if name in taken or name not in given}, faults


def _faults(name: str, value: Any, option: Mapping[str, Any], numbers: frozenset[str]) -> list[str]:
    kind = option.get("type", "str")
    if value is None:
        if option.get("default") is None:
            return []
        return [f"{name}: found nothing (null): leave the variable out to get its default ({option['default']!r})"]
    if kind in ("str", "path"):
        return [] if _is_text(value) or (name in numbers and _is_number(value)) else [_unquoted(name, value)]
    if kind == "int" and isinstance(value, (bool, float)):
        return [f"{name}: found {value!r}; a whole number is allowed"]
    if kind == "list" and not isinstance(value, (str, list, tuple)):
        return [_unquoted(name, value)] if _is_scalar(value) else []
    if kind == "list" and isinstance(value, str):
        parts = value.split(",")
        if value.strip()[:1] in ("[", "{"):
            return [
                f"{name}: found the string {value!r}; a list is allowed. On the command line, give it as JSON: "
                f'-e \'{{"{name}": ["..."]}}\''
            ]
        if not value or any(part != part.strip() or not part for part in parts):
            return [f"{name}: found the string {value!r}; a list is allowed, such as {_as_list(parts)}"]
    if kind == "list" and isinstance(value, (list, tuple)) and option.get("elements", "str") in ("str", "path"):
        return [fault for entry in value if (fault := _fault_of_entry(name, entry))]
    return []


def _fault_of_entry(name: str, entry: Any) -> str | None:
    if not _is_text(entry):
        return _unquoted(f"{name}: an entry", entry)
    parts = entry.split(",")
    if not entry:
        return f"{name}: an entry is empty: take it out, or write what it stands for"
    if len(parts) > 1 or entry != entry.strip():
        return f"{name}: the entry {entry!r} is one string; give each an entry of its own: {_as_list(parts)}"
    return None


def _as_list(parts: list[str]) -> str:
    return "[" + ", ".join(part.strip() for part in parts if part.strip()) + "]"


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (bytes, bool, int, float, datetime.date))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _unquoted(what: str, value: Any) -> str:
    if value is None:
        return f"{what}: found nothing (null); text in quotes is allowed"
    kind = next((word for of, word in _NAMES.items() if isinstance(value, of)), type(value).__name__)
    why = " (YAML reads what has no quotes so)" if kind in ("truth value", "number", "date") else ""
    return f"{what}: found the {kind} {value!s}{why}; text in quotes is allowed: quote it"
