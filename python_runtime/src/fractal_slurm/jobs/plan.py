# SPDX-License-Identifier: BSD-3-Clause
"""Decide which tasks go into which job. This only calculates with a resolved config and the cluster's limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..config.batching import heuristics
from ..config.options import directive_values
from ..config.resolve import Resolution, SlurmConfig
from ..config.walltime import format_walltime
from ..errors import BatchingError, ClusterError
from .script import JobSettings, ScriptTooLarge, job_limit_s, render


@dataclass(frozen=True)
class Plan:
    """The jobs of a run, with the tasks of each job.

    Attributes:
        config: The config, with the batching that is used.
        batches: For each job, the indices of its tasks.
        job_limit_s: Time limit of a full job in seconds. None: the partition's default is used.
        reason: A sentence that explains the batching.
    """

    config: SlurmConfig
    batches: list[range]
    job_limit_s: int | None
    reason: str


def make_plan(resolution: Resolution, settings: JobSettings, tot_tasks: int) -> Plan:
    """Spread the tasks of a run over jobs.

    Args:
        resolution: The merged config and its batching.
        settings: The values that all scripts of the run share.
        tot_tasks: Number of tasks.

    Raises:
        ClusterError: With any batching, a job would need more time than it may have.
    """
    config, reason = fit_walltime(resolution.config, settings, tot_tasks, resolution.batching.reason)
    size = config.tasks_per_job
    batches = [range(first, min(first + size, tot_tasks)) for first in range(0, tot_tasks, size)]
    return Plan(config, batches, job_limit_s(config, settings, min(size, tot_tasks)), reason)


def fit_scripts(plan: Plan, settings: JobSettings, parameters: Sequence[str]) -> Plan:
    """Split jobs whose scripts would be too large for the cluster. A script has the args of its tasks in it.

    Args:
        plan: The plan.
        settings: The values that all scripts of the run share.
        parameters: The args-JSON of each task, on one line.

    Raises:
        ClusterError: This would need more jobs than max_num_jobs.
    """
    batches: list[range] = []
    left = list(reversed(plan.batches))
    while left:
        batch = left.pop()
        if len(batch) > 1 and not _fits_script(plan.config, settings, batch, parameters):
            half = batch.start + len(batch) // 2
            left += (range(half, batch.stop), range(batch.start, half))
        else:
            batches.append(batch)
    if len(batches) == len(plan.batches):
        return plan
    most = plan.config.max_num_jobs
    words = f"a script, which holds its tasks' args, has at most {settings.max_script_bytes} bytes (max_script_size)"
    if len(batches) > most:
        raise ClusterError(
            f"{words}: {len(batches)} jobs would be needed, over max_num_jobs ({most}): raise max_num_jobs, or give "
            "the tasks shorter parameters, such as the path of a file"
        )
    return replace(plan, batches=batches, reason=f"{plan.reason}; but {words}, so {len(batches)} jobs")


def _fits_script(config: SlurmConfig, settings: JobSettings, batch: range, parameters: Sequence[str]) -> bool:
    # A character needs up to four bytes, and each line has two numbers. The rest of a script is small.
    size = sum(len(parameters[index]) for index in batch)
    if 4 * size + 40 * len(batch) < settings.max_script_bytes // 2:
        return True
    try:
        render(config, settings, token="0" * 16, tasks=[(index, 0, parameters[index]) for index in batch])
    except ScriptTooLarge:
        return False
    return True


def fit_walltime(config: SlurmConfig, settings: JobSettings, tot_tasks: int, reason: str) -> tuple[SlurmConfig, str]:
    """Put fewer tasks into a job if it would need more time than a job may have.

    Args:
        config: The merged config.
        settings: The values that all scripts of the run share.
        tot_tasks: Number of tasks.
        reason: The sentence that explains the batching up to now.

    Returns:
        The config with the new batching, and the sentence that explains it.

    Raises:
        ClusterError: One task alone needs too much time, or smaller jobs would be more than max_num_jobs.
    """
    most, time_s = settings.max_walltime_s, config.time_s
    limit = job_limit_s(config, settings, min(config.tasks_per_job, tot_tasks))
    if most is None or limit is None or time_s is None or limit <= most:
        return config, reason
    words = settings.max_walltime_of or f"the partition {config.partition!r} allows {format_walltime(most)} (MaxTime)"
    other = "partition" if words.endswith("(MaxTime)") else "QOS or account"
    rounds = most // time_s
    if settings.time_scope == "job" or rounds < 1:
        raise ClusterError(f"time is {config.time}; {words}: lower time, or choose another {other}")
    tasks_per_job = rounds * config.parallel_tasks_per_job
    jobs = -(-tot_tasks // tasks_per_job)
    if jobs > config.max_num_jobs:
        raise ClusterError(
            f"a job of {config.tasks_per_job} tasks, {config.parallel_tasks_per_job} at a time, {config.time} each, "
            f"needs {format_walltime(limit)}; {words}; smaller jobs would be {jobs}, over max_num_jobs "
            f"({config.max_num_jobs}): lower time, raise max_num_jobs or the resources of a job, or choose another "
            f"{other}"
        )
    return (
        replace(config, tasks_per_job=tasks_per_job),
        f"{reason}; but {words}, so {tasks_per_job} tasks a job",
    )


def replan(config: SlurmConfig, settings: JobSettings, tasks: Sequence[int]) -> list[Sequence[int]]:
    """Spread tasks that must run again over new jobs. The heuristics decide, as for a run with only these tasks.

    Args:
        config: The config of the run.
        settings: The values that all scripts of the run share.
        tasks: The indices of the tasks.

    Returns:
        For each job, the indices of its tasks.
    """
    try:
        batching = heuristics(
            tot_tasks=len(tasks),
            cpus_per_task=config.cpus_per_task,
            mem_per_task=config.memory_mb,
            **config.limits,
        )
        size = max(1, min(batching.tasks_per_job, config.tasks_per_job))
        fitted, _reason = fit_walltime(replace(config, tasks_per_job=size), settings, len(tasks), "")
        size = fitted.tasks_per_job
    except (BatchingError, ClusterError):
        size = config.tasks_per_job
    return [tasks[first : first + size] for first in range(0, len(tasks), size)]


def without_nodes(config: SlurmConfig, nodes: Sequence[str]) -> SlurmConfig:
    """Return the config with some more nodes excluded.

    If sbatch gets an option twice, the last one counts. ``extra_lines`` come after our options. So if they exclude
    nodes, we add a line that excludes those and ours.

    Args:
        config: The config.
        nodes: Names of the nodes to exclude.
    """
    excluded = [config.exclude] if config.exclude else []
    said = [value for line in config.extra_lines for value in directive_values(line, "exclude", "x")]
    exclude = ",".join([*excluded, *said[-1:], *nodes])
    lines = [*config.extra_lines, f"#SBATCH --exclude={exclude}"] if said else config.extra_lines
    return replace(config, exclude=exclude, extra_lines=lines)
