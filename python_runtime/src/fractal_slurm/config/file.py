# SPDX-License-Identifier: BSD-3-Clause
"""The models of Fractal's config file (FRACTAL_SLURM_CONFIG_FILE), their validation and their JSON Schema.

The file belongs to Fractal. fractal-server must always be able to load it, so we add no options of our own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ConfigFileError, FractalSlurmError, shown
from .documents import parse_json, read_text
from .faults import faults_of, found, json_path
from .options import extra_line_warning
from .types import (
    Account,
    Command,
    Constraint,
    Count,
    Exclude,
    ExportName,
    ExportPath,
    ExtraLine,
    Flag,
    Gpus,
    Gres,
    Memory,
    Nodelist,
    Nodes,
    Partition,
    Shebang,
    Walltime,
)

DEFAULT_CONFIG_FILE = "/etc/fractal/slurm_config.json"
ENVIRONMENT_VARIABLE = "FRACTAL_SLURM_CONFIG_FILE"

# A file with thousands of extra_lines has a tenth of this size.
_MOST_BYTES = 1 << 24


def config_path(path: str | Path | None = None) -> str:
    """Return the path of the config file: ``path``, else the value of FRACTAL_SLURM_CONFIG_FILE, else the default."""
    return str(path or os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_CONFIG_FILE)


def named_config_file(path: str | Path | None = None, *, argument: str = "--config") -> tuple[str, SlurmConfigFile]:
    """Read and validate the config file that the caller names, else FRACTAL_SLURM_CONFIG_FILE, else the default one.

    Args:
        path: What the caller named, if anything.
        argument: How the caller names a file, for messages.

    Returns:
        The path, and the config.

    Raises:
        ConfigFileError: See :func:`load_config_file`. If the file can't be read, the message says who named it.
    """
    if path:
        hint = f"{argument} names it"
    elif os.environ.get(ENVIRONMENT_VARIABLE):
        hint = f"{ENVIRONMENT_VARIABLE} names it; another can be named with {argument}"
    else:
        hint = (
            "it is the default, which the role fractal.slurm.slurm_config writes; another can be named with "
            f"{argument} or {ENVIRONMENT_VARIABLE}"
        )
    return config_path(path), _load(config_path(path), hint)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SlurmConfigSet(_Model):
    """SLURM options of one task, as ``gpu_slurm_config`` holds them: all optional."""

    partition: Partition | None = Field(
        default=None, description="Partition that jobs are submitted to (sbatch --partition)."
    )
    cpus_per_task: Count | None = Field(default=None, description="CPUs of one task.")
    mem: Memory | None = Field(
        default=None,
        description="Memory of one task: MB as a number, or a string with M, G or T (powers of 1000).",
    )
    constraint: Constraint | None = Field(
        default=None, description="Features that nodes must have (sbatch --constraint)."
    )
    gres: Gres | None = Field(default=None, description="Generic resources of a job, on each node (sbatch --gres).")
    gpus: Gpus | None = Field(default=None, description="GPUs of a job (sbatch --gpus).")
    time: Walltime | None = Field(
        default=None,
        description='Time of one task, in one of SLURM\'s formats, as a string: "90" (minutes), "01:30:00", "1-12".',
    )
    account: Account | None = Field(
        default=None, description="Account to charge (sbatch --account), unless the user's settings name one."
    )
    nodes: Nodes | None = Field(
        default=None, description='Number of nodes of a job (sbatch --nodes), e.g. "1" or "1-2".'
    )
    nodelist: Nodelist | None = Field(default=None, description="Nodes that a job must include (sbatch --nodelist).")
    exclude: Exclude | None = Field(default=None, description="Nodes that a job must not use (sbatch --exclude).")
    extra_lines: list[ExtraLine] | None = Field(
        default=None, description="Lines for every sbatch script: #SBATCH options, exports, module loads."
    )
    pre_submission_commands: list[Command] | None = Field(
        default=None, description="Commands that fractal-server runs before sbatch over SSH. Not used here."
    )
    shebang_line: Shebang | None = Field(default=None, description="First line of every sbatch script.")
    use_mem_per_cpu: Flag | None = Field(
        default=None, description="Ask for --mem-per-cpu (mem / cpus_per_task) and not for --mem."
    )


class DefaultSlurmConfig(SlurmConfigSet):
    """SLURM options of every task, unless something of higher priority sets them."""

    partition: Partition = Field(description="Partition that jobs are submitted to (sbatch --partition).")
    cpus_per_task: Count = Field(description="CPUs of one task.")
    mem: Memory = Field(description="Memory of one task: MB as a number, or a string with M, G or T (powers of 1000).")


class BatchingConfig(_Model):
    """Limits of the batching heuristics: targets may be exceeded, maxima never."""

    target_cpus_per_job: Count = Field(description="CPUs that a job should have at most.")
    max_cpus_per_job: Count = Field(description="CPUs that a job must not exceed.")
    target_mem_per_job: Memory = Field(description="Memory that a job should have at most.")
    max_mem_per_job: Memory = Field(description="Memory that a job must not exceed.")
    target_num_jobs: Count = Field(description="Number of jobs, for all tasks of a run, that should not be exceeded.")
    max_num_jobs: Count = Field(description="Number of jobs, for all tasks of a run, that must not be exceeded.")

    @model_validator(mode="after")
    def _check_targets(self) -> BatchingConfig:
        faults = []
        for what in ("cpus_per_job", "mem_per_job", "num_jobs"):
            target, most = getattr(self, f"target_{what}"), getattr(self, f"max_{what}")
            if target > most:
                faults.append(f"target_{what} ({target}) is over max_{what} ({most}): lower the one or raise the other")
        if faults:
            raise FractalSlurmError(faults)
        return self


class SlurmConfigFile(_Model):
    """FRACTAL_SLURM_CONFIG_FILE, whole."""

    default_slurm_config: DefaultSlurmConfig = Field(description="SLURM options of every task.")
    gpu_slurm_config: SlurmConfigSet | None = Field(
        default=None, description="SLURM options that replace the default ones for tasks with needs_gpu."
    )
    batching_config: BatchingConfig = Field(description="Limits of the batching heuristics.")
    user_local_exports: dict[ExportName, ExportPath] | None = Field(
        default=None,
        description="Environment variables to export, with paths relative to the cache_dir of a task's user.",
    )


def parse_config(data: object, *, source: str) -> SlurmConfigFile:
    """Validate the content of a config file.

    Args:
        data: The content, as a JSON or YAML reader returns it.
        source: Where the content is from, for messages.

    Returns:
        The config.

    Raises:
        ConfigFileError: The content is not valid. There is a line for each fault, with the source, the JSON path, what
            was found, and what is allowed.
    """
    if not isinstance(data, Mapping):
        known = ", ".join(SlurmConfigFile.model_fields)
        raise ConfigFileError(f"{source}: $: {found(data)}; an object is allowed, with {known}")
    data = dict(data)
    try:
        return SlurmConfigFile.model_validate(data)
    except ValidationError as error:
        faults = faults_of(error, SlurmConfigFile, data)
        raise ConfigFileError(f"{source}: {json_path(where)}: {words}" for where, words in faults) from None


def load_config_file(path: str | Path) -> SlurmConfigFile:
    """Read and validate a config file.

    Args:
        path: The JSON file.

    Raises:
        ConfigFileError: The file can't be read, is not JSON, or is not valid.
    """
    return _load(path)


def _load(path: str | Path, hint: str = "") -> SlurmConfigFile:
    if not isinstance(path, str | Path):
        raise ConfigFileError(f"path: found {shown(path)}; the path of a file is allowed")
    source = str(path)
    text = read_text(path, source=source, most=_MOST_BYTES, error=ConfigFileError, hint=hint)
    return parse_config(parse_json(text or "", source=source), source=source)


def dump_config(config: SlurmConfigFile) -> dict[str, Any]:
    """Return the content to write to the file: only the keys that were set, with memory in MB."""
    return config.model_dump(mode="json", exclude_unset=True)


def config_warnings(config: SlurmConfigFile) -> list[str]:
    """Return warnings on values that are valid, but have no effect here, or look like a mistake.

    Each warning is one sentence, with the JSON path.
    """
    warnings = []
    for section in ("default_slurm_config", "gpu_slurm_config"):
        options: SlurmConfigSet | None = getattr(config, section)
        if options is not None and options.pre_submission_commands:
            warnings.append(
                f"$.{section}.pre_submission_commands: has no effect here: it belongs to submission over SSH"
            )
        if options is not None and options.extra_lines:
            path = f"$.{section}.extra_lines"
            for line, count in Counter(options.extra_lines).items():
                if count > 1:
                    warnings.append(f"{path}: {line!r} stands twice; the first is kept")
                warning = extra_line_warning(line)
                if warning:
                    warnings.append(f"{path}: {warning}")
    return warnings


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, with descriptions."""
    return SlurmConfigFile.model_json_schema()
