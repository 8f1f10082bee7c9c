# SPDX-License-Identifier: BSD-3-Clause
"""Use a config whose values another program chose. The values are checked. Nothing is merged or calculated."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from ..errors import SpecError
from .batching import Batching, Branch
from .faults import faults_of, json_path
from .options import check_text
from .resolve import Resolution, SlurmConfig
from .types import (
    Account,
    Command,
    Constraint,
    Count,
    Exclude,
    ExportName,
    ExportPath,
    ExtraLine,
    Gpus,
    Gres,
    NeedsGpu,
    Nodelist,
    Nodes,
    Partition,
    Shebang,
    Walltime,
)

GIVEN = "the config that was given"


class _Given(BaseModel):
    """The fields of :class:`~fractal_slurm.config.resolve.SlurmConfig`, with the types of the config file."""

    model_config = ConfigDict(extra="ignore")

    partition: Partition
    cpus_per_task: Count
    mem_per_task_MB: Count  # noqa: N815 - Fractal's name
    job_name: Annotated[str, AfterValidator(lambda value: check_text(value, "job_name"))]
    target_cpus_per_job: Count
    max_cpus_per_job: Count
    target_mem_per_job: Count
    max_mem_per_job: Count
    target_num_jobs: Count
    max_num_jobs: Count
    tasks_per_job: Count
    parallel_tasks_per_job: Count
    prefix: str
    shebang_line: Shebang
    use_mem_per_cpu: bool
    needs_gpu: NeedsGpu
    constraint: Constraint | None
    gres: Gres | None
    gpus: Gpus | None
    time: Walltime | None
    account: Account | None
    nodes: Nodes | None
    nodelist: Nodelist | None
    exclude: Exclude | None
    extra_lines: list[ExtraLine]
    user_local_exports: dict[ExportName, ExportPath]
    pre_submission_commands: list[Command]


def as_resolved(config: SlurmConfig, *, tot_tasks: int) -> Resolution:
    """Check a config and use its values unchanged.

    Args:
        config: The config.
        tot_tasks: Number of tasks to run, at least 1.

    Returns:
        The checked config with its batching.

    Raises:
        SpecError: Values are not valid. The error lists all faults.
    """
    values = asdict(config)
    try:
        checked = _Given.model_validate(values)
    except ValidationError as error:
        faults = faults_of(error, _Given, values)
        raise SpecError(f"{GIVEN}: {json_path(where)}: {words}" for where, words in faults) from None
    config = SlurmConfig(**checked.model_dump())
    jobs = -(-tot_tasks // config.tasks_per_job)
    reason = f"{config.tasks_per_job} tasks a job, {config.parallel_tasks_per_job} at a time, as given"
    batching = Batching(config.tasks_per_job, config.parallel_tasks_per_job, Branch.GIVEN, reason, jobs)
    return Resolution(config, {field.name: GIVEN for field in fields(config)}, batching, [])
