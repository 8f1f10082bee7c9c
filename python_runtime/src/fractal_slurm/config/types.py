# SPDX-License-Identifier: BSD-3-Clause
"""The types of Fractal's options. An option has the same type in the config file and in a meta.

A number may be given as a string (``"2"`` CPUs), because templates often pass numbers as strings.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from ..errors import FractalSlurmError
from .faults import found
from .memory import parse_memory
from .options import check_extra_line, check_nodes, check_option_value, check_text
from .walltime import parse_walltime

# Larger than any counter of SLURM, and short enough to print.
MAX_COUNT = 10**12
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COUNT = re.compile(r"[ \t]*[0-9]{1,18}[ \t]*")


def check_export_name(name: str) -> str:
    """Accept the name of an environment variable.

    Raises:
        FractalSlurmError: The text is not a valid name.
    """
    if not _VARIABLE_NAME.fullmatch(name):
        raise FractalSlurmError(
            f"{name!r} is no name of an environment variable: letters, digits and _ are allowed, no digit first"
        )
    return name


def check_export_path(value: str) -> str:
    """Accept a path of ``user_local_exports``. It must stay below the user's cache_dir.

    Raises:
        FractalSlurmError: The path is empty or absolute, or has ``..`` or a control character in it.
    """
    check_text(value, "the path")
    if not value.strip():
        raise FractalSlurmError("the path is empty: give one that is relative to the user's cache_dir")
    path = PurePosixPath(value)
    if path.is_absolute():
        raise FractalSlurmError(f"the path {value!r} is absolute: it must be relative to the user's cache_dir")
    if ".." in path.parts:
        raise FractalSlurmError(f"the path {value!r} has '..' in it: it must stay below the user's cache_dir")
    return value


def _as_count(value: object) -> int:
    number = value
    if (isinstance(value, str) and _COUNT.fullmatch(value)) or (isinstance(value, float) and value.is_integer()):
        number = int(value)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_COUNT:
        raise FractalSlurmError(f"{found(value)}; an integer from 1 to {MAX_COUNT} is allowed")
    return int(number)


def _number_to_text(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_COUNT:
        return str(value)
    return value


def _as_nodes(value: object) -> object:
    value = _number_to_text(value)
    return check_nodes(value) if isinstance(value, str) else value


def _as_walltime(value: object) -> str:
    parse_walltime(value)
    return str(value).strip()


def _as_needs_gpu(value: object) -> bool:
    """Accept true or false. The strings "true" and "false" are allowed, too, because fractal-server accepts them."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise FractalSlurmError(f"{found(value)}; true or false are allowed")
    return value


def _check_shebang(value: str) -> str:
    if not re.match(r"#! ?/", check_text(value, "shebang_line")):
        raise FractalSlurmError(f"shebang_line {value!r} is not allowed: it must begin with #!/, as #!/bin/sh does")
    return value


def _word(name: str) -> BeforeValidator:
    """Return the check for a value that is written after ``--name=`` on an #SBATCH line."""
    return BeforeValidator(lambda value: check_option_value(value, name) if isinstance(value, str) else value)


_TRUTHS = "|".join(
    "".join(f"[{letter}{letter.upper()}]" for letter in word)
    for word in ("true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "1", "0")
)
_FLAG_SCHEMA = {
    "anyOf": [
        {"type": "boolean"},
        {"enum": [0, 1]},
        {"type": "string", "pattern": f"^({_TRUTHS})$"},
    ],
}
_MEMORY_SCHEMA = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\s*[0-9]+[MGT]?\s*$"}],
}
_COUNT_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MAX_COUNT},
        {"type": "string", "pattern": r"^[ \t]*[0-9]{1,18}[ \t]*$"},
    ],
}
_WALLTIME_SCHEMA = {"type": "string", "pattern": r"^\s*([0-9]+(:[0-9]+){0,2}|[0-9]+-[0-9]+(:[0-9]+){0,2})\s*$"}
# The value is often a number, and templates often pass it as a number, not as a string.
_NUMBER_OR_TEXT_SCHEMA = {"type": ["integer", "string"]}

Partition = Annotated[str, _word("partition")]
Constraint = Annotated[str, _word("constraint")]
Gres = Annotated[str, _word("gres")]
Gpus = Annotated[str, BeforeValidator(_number_to_text), _word("gpus"), WithJsonSchema(_NUMBER_OR_TEXT_SCHEMA)]
Account = Annotated[str, _word("account")]
Nodelist = Annotated[str, _word("nodelist")]
Exclude = Annotated[str, _word("exclude")]
Nodes = Annotated[str, BeforeValidator(_as_nodes), WithJsonSchema(_NUMBER_OR_TEXT_SCHEMA)]
Memory = Annotated[int, BeforeValidator(parse_memory), WithJsonSchema(_MEMORY_SCHEMA)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT), BeforeValidator(_as_count), WithJsonSchema(_COUNT_SCHEMA)]
Walltime = Annotated[str, BeforeValidator(_as_walltime), WithJsonSchema(_WALLTIME_SCHEMA)]
Flag = Annotated[bool, WithJsonSchema(_FLAG_SCHEMA)]
NeedsGpu = Annotated[bool, BeforeValidator(_as_needs_gpu)]
ExtraLine = Annotated[str, BeforeValidator(lambda value: check_extra_line(value) if isinstance(value, str) else value)]
Shebang = Annotated[str, AfterValidator(_check_shebang)]
Command = Annotated[str, AfterValidator(lambda value: check_text(value, "pre_submission_commands"))]
ExportName = Annotated[str, AfterValidator(check_export_name)]
ExportPath = Annotated[str, AfterValidator(check_export_path)]
