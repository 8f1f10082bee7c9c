# SPDX-License-Identifier: BSD-3-Clause
"""Which limits decided a batching, and what it would be with one of them changed: pure arithmetic."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import BatchingError
from .batching import Batching, Branch, heuristics
from .resolve import SlurmConfig

_LIMITS = (
    "target_cpus_per_job",
    "max_cpus_per_job",
    "target_mem_per_job",
    "max_mem_per_job",
    "target_num_jobs",
    "max_num_jobs",
)
_GIVEN = ("tasks_per_job", "parallel_tasks_per_job")


class Change(NamedTuple):
    """What one change would do.

    Attributes:
        option: What is changed, by its name in the config file or in a meta.
        before: Its value now, in MB for memory.
        after: The value that was tried; None: left out.
        batching: The batching that would come of it.
        time_ratio: How long the run would take, of what it takes now, if all its jobs run at once and every task takes
            the same time.
    """

    option: str
    before: int
    after: int | None
    batching: Batching
    time_ratio: float


def bound_by(config: SlurmConfig, batching: Batching) -> list[str]:
    """The options that kept a batching from more tasks side by side, or from more jobs.

    Args:
        config: The merged config.
        batching: What the heuristics made of it.
    """
    if batching.branch is Branch.GIVEN:
        return list(_GIVEN)
    if batching.num_jobs == 1 and batching.branch is not Branch.QUEUE:
        return []
    which = "target" if batching.branch is Branch.TARGET else "max"
    cpus, mem = (getattr(config, f"{which}_{what}_per_job") for what in ("cpus", "mem"))
    fit = {"cpus": cpus // config.cpus_per_task, "mem": mem // config.mem_per_task_MB}
    least = min(fit.values())
    found = [f"{which}_{what}_per_job" for what, count in fit.items() if count == least]
    if config.needs_gpu:
        found.append("needs_gpu")
    return [*found, "max_num_jobs"] if batching.branch is Branch.QUEUE else found


def changes(config: SlurmConfig, batching: Batching, tot_tasks: int) -> list[Change]:
    """What the batching would be with one limit doubled, or with one need of a task halved.

    Args:
        config: The merged config.
        batching: What the heuristics made of it.
        tot_tasks: Number of tasks.

    Returns:
        The changes that make a difference: what saves most time comes first, then what saves jobs.
    """
    now: dict[str, Any] = {name: getattr(config, name) for name in _LIMITS}
    now |= {"cpus_per_task": config.cpus_per_task, "mem_per_task": config.mem_per_task_MB}
    now |= {"tot_tasks": tot_tasks, "needs_gpu": config.needs_gpu}
    if batching.branch is Branch.GIVEN:
        now |= {name: getattr(config, name) for name in _GIVEN}
    tried: list[tuple[str, int, int | None, dict[str, Any]]] = [
        (name, now[name], 2 * now[name], {name: 2 * now[name]}) for name in _LIMITS
    ]
    for option, name in (("cpus_per_task", "cpus_per_task"), ("mem", "mem_per_task")):
        if now[name] > 1:
            tried.append((option, now[name], now[name] // 2, {name: now[name] // 2}))
    if batching.branch is Branch.GIVEN:
        tried.append(("tasks_per_job", now["tasks_per_job"], None, dict.fromkeys(_GIVEN)))
    found = []
    for option, before, after, values in tried:
        try:
            other = heuristics(**{**now, **values})
        except BatchingError:  # a target over its maximum
            continue
        ratio = _rounds(other, tot_tasks) / _rounds(batching, tot_tasks)
        if other.num_jobs != batching.num_jobs or ratio != 1:
            found.append(Change(option, before, after, other, ratio))
    return sorted(found, key=lambda change: (change.time_ratio, change.batching.num_jobs))


def _rounds(batching: Batching, tot_tasks: int) -> int:
    """How many times in a row a slot of a full job runs a task."""
    return -(-min(batching.tasks_per_job, tot_tasks) // batching.parallel_tasks_per_job)
