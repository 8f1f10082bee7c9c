# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""How plugins on the controller get at a SLURM configuration: from a variable, a file or a template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ansible.errors import AnsibleError

from .runtime import runtime_module

SOURCES = ("content", "src", "template")
_SECTIONS = ("default_slurm_config", "gpu_slurm_config")


class CheckedConfig(NamedTuple):
    """A configuration that has passed the runtime's validation.

    Attributes:
        model: The runtime's model of it.
        config: What is to be written, as plain values.
        text: The same as JSON text.
        warnings: What is valid, yet surely not meant; one sentence each.
    """

    model: Any
    config: dict[str, Any]
    text: str
    warnings: list[str]


def parse_text(text: str, source: str) -> Any:
    """Read JSON or YAML.

    Args:
        text: What was written.
        source: Where, for messages.

    Raises:
        ValueError: It is neither; the message says where.
    """
    documents = runtime_module("config.documents")
    return (documents.parse_json if source.endswith(".json") else documents.parse_yaml)(text, source=source)


def check(data: Any, source: str, hook: str = "") -> CheckedConfig:
    """Validate a configuration with the runtime's own model.

    Args:
        data: A mapping, or text in JSON or YAML.
        source: Where it came from, for messages.
        hook: The path of the job hook; empty where none is wanted.

    Raises:
        ValueError: It is not valid; one line for each fault.
    """
    config_file = runtime_module("config.file")
    if isinstance(data, str):
        data = parse_text(data, source)
    # ansible-core 2.19 and newer hand over tagged subclasses of str and dict; the model wants plain mappings.
    model = config_file.parse_config(with_hook(_plain(data), hook), source=source)
    config = config_file.dump_config(model)
    return CheckedConfig(model, config, json.dumps(config, indent=2) + "\n", config_file.config_warnings(model))


def with_hook(config: Any, hook: str) -> Any:
    """A configuration whose jobs read the job hook first.

    The extra_lines of the GPU section take the place of the default ones, so both have it.

    Args:
        config: Plain values, not validated yet.
        hook: The path of the job hook; empty where none is wanted.

    Raises:
        ValueError: The path can't stand in a line of a job's script.
    """
    if not hook or not isinstance(config, dict):
        return config
    if not re.fullmatch(r"(/[A-Za-z0-9_.+@-]+)+", hook):
        raise ValueError(
            f"fractal_slurm_config_job_hook_path: found {hook!r}; an absolute path of letters, digits and _.+@- is "
            "allowed"
        )
    # A shell ends where it can't read what it is to read: a node without the runtime goes on without the hook.
    line = f"[ ! -r {hook} ] || . {hook}"
    changed = dict(config)
    for section in _SECTIONS:
        options = config.get(section)
        if not isinstance(options, dict) or (section != _SECTIONS[0] and "extra_lines" not in options):
            continue
        lines = options.get("extra_lines") or []
        if isinstance(lines, list):
            others = [other for other in lines if other not in (line, f". {hook}")]
            changed[section] = {**options, "extra_lines": [line, *others]}
    return changed


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def load(
    arguments: Mapping[str, Any],
    host: str,
    find: Callable[[str, str], str],
    real_file: Callable[[str], str],
    render: Callable[[str], Any],
) -> CheckedConfig:
    """Get and validate the configuration that a task's arguments name.

    Args:
        arguments: The task's arguments: one of ``content``, ``src`` and ``template``, and ``job_hook``.
        host: Name of the host, for messages.
        find: Finds a file in the play's folders, by kind of folder and name.
        real_file: Gives the path of a file's plain content (of a decrypted copy where it is in a vault).
        render: Renders a template by its name.

    Raises:
        ValueError: None or several are given, it can't be found, read or rendered, or it is not valid.
    """
    # Where a template gives text alone, null becomes an empty one.
    given = [name for name in SOURCES if arguments.get(name) not in (None, "")]
    if len(given) != 1:
        raise ValueError(
            f"the configuration of {host}: give exactly one of {', '.join(SOURCES)}; found "
            f"{', '.join(given) if given else 'none of them'} (fractal_slurm_config_content, _src, _template)"
        )
    kind = given[0]
    hook = str(arguments.get("job_hook") or "")
    if kind == "content":
        return check(arguments["content"], f"the configuration of {host}", hook)
    name = str(arguments[kind])
    try:
        if kind == "src":
            path = find("files", name)
            return check(decode(Path(real_file(path)).read_bytes(), path), path, hook)
        text = render(name)
    except AnsibleError as error:
        raise ValueError(f"the configuration of {host}: {name}: {error}") from error
    except OSError as error:
        raise ValueError(f"the configuration of {host}: {error.filename or name}: {error.strerror}") from error
    return check(text, f"{name} for {host}", hook)


def decode(content: bytes, source: str) -> str:
    """The text of a file, without the mark that some editors write at its beginning.

    Raises:
        ValueError: It is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = " (UTF-16, it seems)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ValueError(f"{source}: is no UTF-8 text{kind}, at byte {error.start + 1}: save it as UTF-8") from None
