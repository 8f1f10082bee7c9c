# SPDX-License-Identifier: BSD-3-Clause
"""Merge the sources of SLURM options into one config for a task. Keep for each value where it came from.

The priority is that of Fractal, highest first: WorkflowTask.meta, task.meta, gpu_slurm_config (for tasks with
needs_gpu), default_slurm_config.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BatchingError, FractalSlurmError, SpecError, shown
from .batching import Batching, heuristics
from .file import BatchingConfig, SlurmConfigFile
from .meta import REQUIRED, read_meta
from .options import check_option_value, check_text
from .walltime import parse_walltime

WORKFLOW_TASK_META = "WorkflowTask.meta"
TASK_META = "task.meta"
GPU_SLURM_CONFIG = "gpu_slurm_config"
DEFAULT_SLURM_CONFIG = "default_slurm_config"
BATCHING_CONFIG = "batching_config"
USER_SETTINGS = "the user's settings"
HEURISTICS = "the batching heuristics"
BUILT_IN = "built in"

_LIMITS = tuple(BatchingConfig.model_fields)


@dataclass(frozen=True)
class SlurmConfig:
    """The merged SLURM options of one task. The names are those of Fractal.

    Attributes:
        mem_per_task_MB: Memory of one task, in MB.
        job_name: The task's name with blanks replaced.
        needs_gpu: Whether the tasks need a GPU. If so, a job runs one task at a time.
        time: Time of one task, in one of SLURM's formats.
        target_mem_per_job: Most memory that a job should have, in MB.
        max_mem_per_job: Most memory that a job may have, in MB.
    """

    partition: str
    cpus_per_task: int
    mem_per_task_MB: int  # noqa: N815 - Fractal's name
    job_name: str
    target_cpus_per_job: int
    max_cpus_per_job: int
    target_mem_per_job: int
    max_mem_per_job: int
    target_num_jobs: int
    max_num_jobs: int
    tasks_per_job: int
    parallel_tasks_per_job: int
    prefix: str = "#SBATCH"
    shebang_line: str = "#!/bin/sh"
    use_mem_per_cpu: bool = False
    needs_gpu: bool = False
    constraint: str | None = None
    gres: str | None = None
    gpus: str | None = None
    time: str | None = None
    account: str | None = None
    nodes: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    extra_lines: list[str] = field(default_factory=list)
    user_local_exports: dict[str, str] = field(default_factory=dict)
    pre_submission_commands: list[str] = field(default_factory=list)

    @property
    def time_s(self) -> int | None:
        """Time of one task in seconds, or None for no limit."""
        return None if self.time is None else parse_walltime(self.time)

    @property
    def memory_mb(self) -> int:
        """Memory of one task, in MB. All other modules use this name."""
        return self.mem_per_task_MB

    @property
    def limits(self) -> dict[str, Any]:
        """The limits of ``batching_config``, by name, as the heuristics take them."""
        return {name: getattr(self, name) for name in _LIMITS}


@dataclass(frozen=True)
class Resolution:
    """The result of :func:`resolve`.

    Attributes:
        config: The merged config.
        sources: Name of an option (as in ``config``) -> where its value came from.
        batching: The decision of the heuristics, with the reason.
        warnings: Sentences on values that are valid, but look like a mistake.
        overridden: Name of an option -> the replaced values, each with its source, highest priority first.
    """

    config: SlurmConfig
    sources: dict[str, str]
    batching: Batching
    warnings: list[str]
    overridden: dict[str, list[tuple[str, Any]]] = field(default_factory=dict)


def _merge_extra_lines(layers: list[tuple[str, dict[str, Any]]]) -> tuple[list[str], str, list[tuple[str, Any]]]:
    """Join the extra_lines of the config file with those of the metas. The lines of the file come first.

    If two sections of the file have extra_lines, those of higher priority are used. The same holds for the two metas.

    Args:
        layers: Source and options, lowest priority first.

    Returns:
        The lines (each only once, where it occurs first), their sources, and the replaced lines with their source.
    """
    replaced: list[tuple[str, Any]] = []
    in_file: tuple[str, list[str]] = ("", [])
    in_metas = in_file
    for source, layer in layers:
        if layer.get("extra_lines") is None:
            continue
        if source in (TASK_META, WORKFLOW_TASK_META):
            before, in_metas = in_metas, (source, layer["extra_lines"])
        else:
            before, in_file = in_file, (source, layer["extra_lines"])
        if before[1]:
            replaced.insert(0, before)
    origin = ", ".join(source for source, lines in (in_file, in_metas) if lines)
    return list(dict.fromkeys([*in_file[1], *in_metas[1]])), origin or BUILT_IN, replaced


def _batch(values: Mapping[str, Any], limits: Mapping[str, int], tot_tasks: int) -> Batching:
    return heuristics(
        tot_tasks=tot_tasks,
        cpus_per_task=values["cpus_per_task"],
        mem_per_task=values["mem_per_task_MB"],
        tasks_per_job=values.get("tasks_per_job"),
        parallel_tasks_per_job=values.get("parallel_tasks_per_job"),
        needs_gpu=values["needs_gpu"],
        **limits,
    )


def _with_sources(message: str, sources: Mapping[str, str]) -> str:
    """Add to a message of the heuristics the sources of the values that it names."""
    words = set(re.findall(r"\w+", message))
    named = [f"{name}: {source}" for name, source in sources.items() if name in words]
    if "memory of a task" in message:
        named.insert(0, f"mem: {sources['mem_per_task_MB']}")
    return f"{message} [{', '.join(named)}]" if named else message


def resolve(
    config_file: SlurmConfigFile,
    *,
    task_name: str,
    task_meta: Mapping[str, Any] | None = None,
    workflow_task_meta: Mapping[str, Any] | None = None,
    tot_tasks: int,
    account: str | None = None,
) -> Resolution:
    """Merge all sources for one task, and choose its batching.

    Args:
        config_file: The config file.
        task_name: The task's name. It becomes the job's name.
        task_meta: task.meta.
        workflow_task_meta: WorkflowTask.meta. It has the highest priority.
        tot_tasks: Number of tasks to run, at least 1.
        account: The account from the settings of the user who runs the task, if there is one.

    Returns:
        The merged config, and the source of each value.

    Raises:
        SpecError: A meta is not valid. The error lists all faults of both metas.
        BatchingError: See :func:`fractal_slurm.config.batching.heuristics`.
    """
    if not isinstance(config_file, SlurmConfigFile):
        raise SpecError(f"config_file: found {shown(config_file)}; what parse_config() returned is allowed")
    warnings: list[str] = []
    faults: list[str] = []
    metas: dict[str, dict[str, Any]] = {}
    for source, meta in ((TASK_META, task_meta), (WORKFLOW_TASK_META, workflow_task_meta)):
        try:
            metas[source] = read_meta(meta, source, warnings)
        except FractalSlurmError as error:
            faults += error.messages
    try:
        if isinstance(task_name, str) and not task_name.strip():
            faults.append("task: $.name: is empty: give the task a name")
        check_text(task_name, "task: $.name:")
        if account is not None:
            check_option_value(account, "account")
    except FractalSlurmError as error:
        faults += error.messages
    if faults:
        raise SpecError(faults)

    layers: list[tuple[str, dict[str, Any]]] = [
        (DEFAULT_SLURM_CONFIG, config_file.default_slurm_config.model_dump(exclude_unset=True)),
        (TASK_META, metas[TASK_META]),
        (WORKFLOW_TASK_META, metas[WORKFLOW_TASK_META]),
    ]
    if metas[WORKFLOW_TASK_META].get("needs_gpu", metas[TASK_META].get("needs_gpu")):
        if config_file.gpu_slurm_config is None:
            warnings.append("needs_gpu is set, but the config file has no gpu_slurm_config: the default one is used")
        else:
            gpu = config_file.gpu_slurm_config.model_dump(exclude_unset=True)
            # null unsets an optional value; options that each job needs keep the default value
            gpu = {key: value for key, value in gpu.items() if value is not None or key not in REQUIRED}
            layers.insert(1, (GPU_SLURM_CONFIG, gpu))

    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    overridden: dict[str, list[tuple[str, Any]]] = {}

    def put(key: str, value: Any, source: str) -> None:
        if key in values:
            overridden[key] = [(sources[key], values[key]), *overridden.get(key, [])]
        values[key], sources[key] = value, source

    for source, layer in layers:
        for key, value in layer.items():
            if key != "extra_lines":
                put(key, value, source)
    values["needs_gpu"] = bool(values.get("needs_gpu"))
    values["extra_lines"], sources["extra_lines"], overridden["extra_lines"] = _merge_extra_lines(layers)
    if account is not None:
        put("account", account, USER_SETTINGS)
    if config_file.user_local_exports:
        values["user_local_exports"] = dict(config_file.user_local_exports)
        sources["user_local_exports"] = "user_local_exports"
    limits = config_file.batching_config.model_dump()
    values |= limits
    sources |= dict.fromkeys(limits, BATCHING_CONFIG)
    values["mem_per_task_MB"], sources["mem_per_task_MB"] = values.pop("mem"), sources.pop("mem")
    overridden["mem_per_task_MB"] = overridden.pop("mem", [])
    values["job_name"], sources["job_name"] = task_name.replace(" ", "_"), "task.name"

    try:
        batching = _batch(values, limits, tot_tasks)
    except BatchingError as error:
        raise BatchingError(_with_sources(message, sources) for message in error.messages) from None
    given = values.get("parallel_tasks_per_job")
    if values["needs_gpu"] and given is not None and given > 1:
        warnings.append(
            f"parallel_tasks_per_job ({given}, {sources['parallel_tasks_per_job']}) has no effect: with needs_gpu a "
            "job runs one task at a time"
        )
    for key in ("tasks_per_job", "parallel_tasks_per_job"):
        if values.get(key) != getattr(batching, key):
            put(key, getattr(batching, key), HEURISTICS)
    if values.get("gres") is not None and values.get("gpus") is not None and "gpu" in values["gres"]:
        both = f"both gres ({values['gres']!r}) and gpus ({values['gpus']!r}) ask for GPUs"
        warnings.append(f"{both}: SLURM adds them up")
    config = SlurmConfig(**{key: value for key, value in values.items() if value is not None})
    for key in config.__dataclass_fields__:
        sources.setdefault(key, BUILT_IN)
    return Resolution(
        config=config,
        sources=sources,
        batching=batching,
        warnings=warnings,
        overridden={key: lost for key, lost in overridden.items() if lost},
    )
