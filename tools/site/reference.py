# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists out of the code: keys of the config file, our settings, variables of roles and playbooks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from fractal_slurm.config.file import SlurmConfigFile
from fractal_slurm.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


class Entry(NamedTuple):
    """One name that a person may set.

    Attributes:
        name: The name.
        text: What it does, in Markdown.
        kind: Its type in words.
        default: Its default, as YAML or TOML has it; empty if there is none.
        example: A value.
    """

    name: str
    text: str
    kind: str
    default: str
    example: Any


@cache
def examples() -> dict[str, dict[str, Any]]:
    """Return the examples, by list and name."""
    document: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "examples.yml").read_text("utf-8"))
    return document


def inline(value: object) -> str:
    """Return a value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of the config file."""
    return SlurmConfigFile.model_json_schema()


def config_sections() -> list[Entry]:
    """Return the sections of the config file."""
    schema = config_schema()
    return [
        Entry(name, value["description"], _json_type(value), _needed(name, schema), examples()["config"].get(name))
        for name, value in schema["properties"].items()
    ]


def config_options() -> list[Entry]:
    """Return the options of a task, which ``default_slurm_config`` and ``gpu_slurm_config`` hold."""
    model = config_schema()["$defs"]["DefaultSlurmConfig"]
    return [
        Entry(name, value["description"], _json_type(value), _needed(name, model), examples()["options"].get(name))
        for name, value in model["properties"].items()
    ]


def batching_keys() -> list[Entry]:
    """Return the keys of ``batching_config``."""
    model, values = config_schema()["$defs"]["BatchingConfig"], examples()["config"]["batching_config"]
    return [
        Entry(name, value["description"], _json_type(value), _needed(name, model), values.get(name))
        for name, value in model["properties"].items()
    ]


def _needed(name: str, model: dict[str, Any]) -> str:
    return "needed" if name in model.get("required", ()) else ""


def _json_type(value: dict[str, Any]) -> str:
    kinds = [value, *value.get("anyOf", ())]
    words = {"object": "mapping", "array": "list", "boolean": "true or false"}
    found = []
    for kind in kinds:
        types = "object" if "$ref" in kind else kind.get("type", [])
        found += [types] if isinstance(types, str) else types
    return " or ".join(dict.fromkeys(words.get(name, name) for name in found if name != "null"))


def settings() -> list[Entry]:
    """Return our own settings."""
    found = []
    for name, default, text, kind in _fields():
        found.append(Entry(name, text, kind, toml(default), examples()["settings"].get(name)))
    return found


def _fields() -> Iterator[tuple[str, Any, str, str]]:
    """Read the model of our settings, be it a dataclass or a model of pydantic."""
    models: dict[str, Any] | None = getattr(Settings, "model_fields", None) or getattr(
        Settings, "__pydantic_fields__", None
    )
    if models is not None:
        for name, field in models.items():
            default = field.get_default(call_default_factory=True)
            is_plain = isinstance(default, (bool, int, float, str))
            yield (
                name,
                default if is_plain else {},
                str(field.description),
                type(default).__name__ if is_plain else "table",
            )
        return
    for entry in dataclasses.fields(Settings):  # type: ignore[arg-type]
        yield entry.name, entry.default, entry.metadata["description"], type(entry.default).__name__


def toml(value: object) -> str:
    """Return a plain value, or a table of such, as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml(entry)}" for name, entry in value.items()) + " }" if value else "{}"
    return f'"{value}"' if isinstance(value, str) else str(value)


def roles() -> dict[str, list[Entry]]:
    """Return the variables of each role, from its argument specs."""
    found = {}
    for path in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        options = yaml.safe_load(path.read_text("utf-8"))["argument_specs"]["main"]["options"]
        found[path.parts[-3]] = [_variable(name, option) for name, option in options.items()]
    return found


def _variable(name: str, option: dict[str, Any]) -> Entry:
    text = option.get("description", "")
    words = " ".join(text) if isinstance(text, list) else text
    kind = option.get("type", "str")
    if "elements" in option:
        kind += f" of {option['elements']}"
    if "choices" in option:
        kind = " or ".join(f"`{choice}`" for choice in option["choices"])
    default = option.get("default")
    shown = "" if default in (None, "", [], {}) and not isinstance(default, bool) else inline(default)
    example = examples()["variables"].get(name, default)
    return Entry(name, markdown(words), kind, shown, example)


def markdown(text: str) -> str:
    """Turn Ansible's markup into Markdown."""
    text = re.sub(r"[OVCM]\(([^)]*)\)", r"`\1`", text)
    return re.sub(r"[IBP]\(([^)]*)\)", r"*\1*", text)


def playbook_variables() -> list[Entry]:
    """Return the variables of the playbook verify, which its first lines list."""
    lines = (ROOT / "playbooks" / "verify.yml").read_text("utf-8").splitlines()
    head = "\n".join(line[2:] for line in lines[: lines.index("---")] if line.startswith("#"))
    found = re.findall(r"^  (fractal_slurm_\w+): (.*(?:\n    .*)*)", head, re.MULTILINE)
    return [
        Entry(name, " ".join(text.split()), "", "", examples()["variables"].get(name))
        for name, text in [
            (
                "fractal_slurm_hosts",
                "a pattern of hosts for any of the playbooks (default: the group fractal_slurm)",
            ),
            *found,
        ]
    ]
