# SPDX-License-Identifier: BSD-3-Clause
"""The options that task.meta and WorkflowTask.meta may set. They have the same types as in the config file.

A meta belongs to Fractal. So keys that are not options are ignored, as fractal-server does.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator

from ..errors import FractalSlurmError, SpecError
from .faults import faults_of, found, json_path
from .file import BatchingConfig
from .options import extra_line_warning
from .types import (
    Constraint,
    Count,
    Exclude,
    ExtraLine,
    Gpus,
    Gres,
    Memory,
    NeedsGpu,
    Nodelist,
    Nodes,
    Partition,
    Walltime,
)

# Options that each task needs: a meta can replace their value, but can't unset them.
REQUIRED = ("partition", "cpus_per_task", "mem")
_ONLY_IN_FILE = (
    "shebang_line",
    "use_mem_per_cpu",
    "pre_submission_commands",
    "user_local_exports",
    *BatchingConfig.model_fields,
)


def _refuse_account(value: object) -> None:
    if value is not None:
        raise FractalSlurmError(
            "account is not allowed in a meta: the account comes from the user's settings or from the config file"
        )


class Meta(BaseModel):
    """The options that a meta may set. The value null unsets an option, unless a task needs it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    partition: Partition | None = None
    cpus_per_task: Count | None = None
    mem: Memory | None = None
    constraint: Constraint | None = None
    gres: Gres | None = None
    gpus: Gpus | None = None
    time: Walltime | None = None
    account: Annotated[None, BeforeValidator(_refuse_account)] = None
    nodes: Nodes | None = None
    nodelist: Nodelist | None = None
    exclude: Exclude | None = None
    extra_lines: list[ExtraLine] | None = None
    needs_gpu: NeedsGpu | None = None
    tasks_per_job: Count | None = None
    parallel_tasks_per_job: Count | None = None

    @field_validator(*REQUIRED, mode="before")
    @classmethod
    def _check_required(cls, value: object) -> object:
        if value is None:
            raise FractalSlurmError("found null; it is required: leave it out to keep the config file's")
        return value


OPTIONS = tuple(name for name in Meta.model_fields if name != "account")


def read_meta(meta: object, source: str, warnings: list[str]) -> dict[str, Any]:
    """Check a meta, and return the options that it sets.

    Args:
        meta: The meta, or None.
        source: The name of the meta in messages.
        warnings: Receives a sentence for each key that looks like a mistake.

    Raises:
        SpecError: The meta is not valid. The error lists all faults.
    """
    if meta is None:
        return {}
    if not isinstance(meta, Mapping):
        raise SpecError(f"{source}: $: {found(meta)}; an object is allowed")
    for key in meta:
        where = f"{source}: {json_path((str(key),))}"
        if key in _ONLY_IN_FILE:
            warnings.append(f"{where}: has no effect: it is read from the config file only")
        elif key not in Meta.model_fields:
            near = difflib.get_close_matches(str(key), OPTIONS, n=1, cutoff=0.8)
            if near:
                warnings.append(f"{where}: unknown key, ignored; did you mean {near[0]!r}?")
    given = {key: meta[key] for key in meta if key in Meta.model_fields}
    try:
        options = Meta.model_validate(given).model_dump(exclude_unset=True, exclude={"account"})
    except ValidationError as error:
        faults = faults_of(error, Meta, given)
        raise SpecError(f"{source}: {json_path(where)}: {words}" for where, words in faults) from None
    for line in options.get("extra_lines") or ():
        warning = extra_line_warning(line)
        if warning:
            warnings.append(f"{source}: $.extra_lines: {warning}")
    return options
