# SPDX-License-Identifier: BSD-3-Clause
"""Decide how many tasks one SLURM job runs, and how many of them at the same time.

The heuristics give the same results as those of fractal-server, because the config files of its users are tuned to
them. Each step only calculates with a few integers, so the time does not depend on the number of tasks.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ..errors import BatchingError


class Branch(str, Enum):
    """Which rule decided the batching."""

    GIVEN = "given values"
    TARGET = "target resources"
    MAXIMUM = "maximum resources"
    QUEUE = "in-job queues"


class Batching(NamedTuple):
    """The result of :func:`heuristics`.

    Attributes:
        tasks_per_job: Number of tasks that one SLURM job runs in total.
        parallel_tasks_per_job: Number of tasks that one SLURM job runs at the same time.
        branch: The rule that decided.
        reason: A sentence that explains the rule, with the numbers.
        num_jobs: Number of SLURM jobs.
    """

    tasks_per_job: int
    parallel_tasks_per_job: int
    branch: Branch
    reason: str
    num_jobs: int


def _jobs_are(count: int) -> str:
    return "1 job is" if count == 1 else f"{count} jobs are"


def _tasks_fit(count: int) -> str:
    return "1 task fits" if count == 1 else f"{count} tasks fit"


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _parallel_within(cpus_per_task: int, mem_per_task: int, cpus: int, mem: int) -> int:
    """Return how many tasks fit at the same time into so many CPUs and MB; at least one."""
    return max(1, min(cpus // cpus_per_task, mem // mem_per_task))


def heuristics(
    *,
    tot_tasks: int,
    cpus_per_task: int,
    mem_per_task: int,
    target_cpus_per_job: int,
    max_cpus_per_job: int,
    target_mem_per_job: int,
    max_mem_per_job: int,
    target_num_jobs: int,
    max_num_jobs: int,
    tasks_per_job: int | None = None,
    parallel_tasks_per_job: int | None = None,
    needs_gpu: bool = False,
) -> Batching:
    """Choose the batching. The first of these four rules that fits decides.

    1. If ``tasks_per_job`` and ``parallel_tasks_per_job`` are given, they are checked and used.
    2. A job runs as many tasks at once as its target resources allow, if this needs at most ``target_num_jobs`` jobs.
    3. A job runs as many tasks at once as its maximum resources allow, if this needs at most ``max_num_jobs`` jobs.
    4. A job runs as many tasks at once as by rule 3. There are ``max_num_jobs`` jobs at most, and the other tasks wait
       in a queue inside of the jobs.

    If the tasks need a GPU, a job runs one task at a time, because the tasks of a job share its GPUs. The number of
    tasks in a job does not change. fractal-server does so since 2.24.3, even if ``parallel_tasks_per_job`` is given.

    Args:
        tot_tasks: Number of tasks, at least 1.
        cpus_per_task: CPUs of one task.
        mem_per_task: Memory of one task, in MB.
        target_cpus_per_job: Most CPUs that a job should have.
        max_cpus_per_job: Most CPUs that a job may have.
        target_mem_per_job: Most memory that a job should have, in MB.
        max_mem_per_job: Most memory that a job may have, in MB.
        target_num_jobs: Most jobs that there should be.
        max_num_jobs: Most jobs that there may be.
        tasks_per_job: The user's value. It must be given together with ``parallel_tasks_per_job``.
        parallel_tasks_per_job: The user's value. See ``tasks_per_job``.
        needs_gpu: Whether the tasks need a GPU.

    Returns:
        The batching. It is a tuple that starts with ``(tasks_per_job, parallel_tasks_per_job)``.

    Raises:
        BatchingError: One task is over the maximum of a job, only one of the two values is given, the given values
            are over a maximum, or a value is of another type or not above zero. The error lists several faults
            together.
    """
    numbers = {
        "tot_tasks": tot_tasks,
        "cpus_per_task": cpus_per_task,
        "mem_per_task": mem_per_task,
        "target_cpus_per_job": target_cpus_per_job,
        "max_cpus_per_job": max_cpus_per_job,
        "target_mem_per_job": target_mem_per_job,
        "max_mem_per_job": max_mem_per_job,
        "target_num_jobs": target_num_jobs,
        "max_num_jobs": max_num_jobs,
        "tasks_per_job": tasks_per_job,
        "parallel_tasks_per_job": parallel_tasks_per_job,
    }
    optional = ("tasks_per_job", "parallel_tasks_per_job")
    faults = [
        f"{name} is {value!r}: it must be an integer of at least 1"
        for name, value in numbers.items()
        if not (value is None and name in optional)
        and (isinstance(value, bool) or not isinstance(value, int) or value < 1)
    ]
    if not isinstance(needs_gpu, bool):  # the text "false" would count as true
        faults.append(f"needs_gpu is {needs_gpu!r}: it must be True or False")
    if faults:
        raise BatchingError(faults)
    for what in ("cpus_per_job", "mem_per_job", "num_jobs"):
        target, most = numbers[f"target_{what}"], numbers[f"max_{what}"]
        if target > most:  # type: ignore[operator]
            faults.append(f"target_{what} ({target}) is over max_{what} ({most})")
    if cpus_per_task > max_cpus_per_job:
        faults.append(f"cpus_per_task ({cpus_per_task}) is over max_cpus_per_job ({max_cpus_per_job})")
    if mem_per_task > max_mem_per_job:
        faults.append(f"the memory of a task ({mem_per_task} MB) is over max_mem_per_job ({max_mem_per_job} MB)")
    if (tasks_per_job is None) != (parallel_tasks_per_job is None):
        faults.append("tasks_per_job and parallel_tasks_per_job must be given together or not at all")
    if faults:
        raise BatchingError(faults)

    if tasks_per_job is not None and parallel_tasks_per_job is not None:
        batching = _check_given(
            tot_tasks=tot_tasks,
            tasks_per_job=tasks_per_job,
            parallel=parallel_tasks_per_job,
            cpus=(cpus_per_task, max_cpus_per_job),
            mem=(mem_per_task, max_mem_per_job),
            max_num_jobs=max_num_jobs,
        )
    else:
        batching = _choose(
            tot_tasks=tot_tasks,
            task=(cpus_per_task, mem_per_task),
            target=(target_cpus_per_job, target_mem_per_job, target_num_jobs),
            most=(max_cpus_per_job, max_mem_per_job, max_num_jobs),
        )
    if needs_gpu and batching.parallel_tasks_per_job > 1:
        reason = f"{batching.reason}; they run one at a time, since they share the GPUs of the job (needs_gpu)"
        batching = batching._replace(parallel_tasks_per_job=1, reason=reason)
    return batching


def _choose(
    *, tot_tasks: int, task: tuple[int, int], target: tuple[int, int, int], most: tuple[int, int, int]
) -> Batching:
    """Apply the rules 2 to 4 of :func:`heuristics`.

    Args:
        tot_tasks: Number of tasks.
        task: CPUs and MB of one task.
        target: Most CPUs and MB that one job should have, and most jobs that there should be.
        most: Most CPUs and MB that one job may have, and most jobs that there may be.
    """
    cpus, mem, target_num_jobs = target
    parallel = _parallel_within(*task, cpus, mem)
    num_jobs = _ceil_div(tot_tasks, parallel)
    if num_jobs <= target_num_jobs:
        reason = (
            f"{_tasks_fit(parallel)} into the target resources of a job ({cpus} CPUs, {mem} MB), "
            f"and {_jobs_are(num_jobs)} within target_num_jobs ({target_num_jobs})"
        )
        return Batching(parallel, parallel, Branch.TARGET, reason, num_jobs)

    cpus, mem, max_num_jobs = most
    parallel = _parallel_within(*task, cpus, mem)
    num_jobs = _ceil_div(tot_tasks, parallel)
    fits = f"{_tasks_fit(parallel)} into the maximum resources of a job ({cpus} CPUs, {mem} MB)"
    if num_jobs <= max_num_jobs:
        reason = (
            f"the target resources need more than target_num_jobs ({target_num_jobs}); {fits}, "
            f"and {_jobs_are(num_jobs)} within max_num_jobs ({max_num_jobs})"
        )
        return Batching(parallel, parallel, Branch.MAXIMUM, reason, num_jobs)

    tasks_per_job = _ceil_div(tot_tasks, max_num_jobs)
    reason = (
        f"{fits}, which would need {num_jobs} jobs, over max_num_jobs ({max_num_jobs}): "
        f"so {tasks_per_job} tasks queue inside of each job"
    )
    return Batching(tasks_per_job, parallel, Branch.QUEUE, reason, _ceil_div(tot_tasks, tasks_per_job))


def _check_given(
    *,
    tot_tasks: int,
    tasks_per_job: int,
    parallel: int,
    cpus: tuple[int, int],
    mem: tuple[int, int],
    max_num_jobs: int,
) -> Batching:
    faults = []
    reason = f"tasks_per_job ({tasks_per_job}) and parallel_tasks_per_job ({parallel}) were given"
    if parallel > tasks_per_job:
        reason += f"; no more than {tasks_per_job} can run at the same time"
        parallel = tasks_per_job
    if parallel * cpus[0] > cpus[1]:
        faults.append(f"parallel_tasks_per_job ({parallel}) x {cpus[0]} CPUs is over max_cpus_per_job ({cpus[1]})")
    if parallel * mem[0] > mem[1]:
        faults.append(f"parallel_tasks_per_job ({parallel}) x {mem[0]} MB is over max_mem_per_job ({mem[1]} MB)")
    num_jobs = _ceil_div(tot_tasks, tasks_per_job)
    if num_jobs > max_num_jobs:
        faults.append(f"tasks_per_job ({tasks_per_job}) makes {num_jobs} jobs, over max_num_jobs ({max_num_jobs})")
    if faults:
        raise BatchingError(faults)
    return Batching(tasks_per_job, parallel, Branch.GIVEN, reason, num_jobs)
