# SPDX-License-Identifier: BSD-3-Clause
"""Find which limits decided a batching, and calculate the batching with one of them changed."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import BatchingError
from .batching import Batching, Branch, heuristics
from .resolve import SlurmConfig

_GIVEN = ("tasks_per_job", "parallel_tasks_per_job")


class Change(NamedTuple):
    """The effect of one change.

    Attributes:
        option: The changed option, by its name in the config file or in a meta.
        before: The value now. Memory is in MB.
        after: The value that was tried. None: the option was left out.
        batching: The batching with the new value.
        time_ratio: The time of the run with the change, divided by the time without it. It assumes that all jobs run
            at once, and that every task takes the same time.
    """

    option: str
    before: int
    after: int | None
    batching: Batching
    time_ratio: float


def bound_by(config: SlurmConfig, batching: Batching) -> list[str]:
    """Return the options that prevented more tasks at the same time, or more jobs.

    Args:
        config: The merged config.
        batching: The batching that the heuristics chose for it.
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
    """Calculate the batching with one limit doubled, or with the CPUs or the memory of a task halved.

    Args:
        config: The merged config.
        batching: The batching that the heuristics chose for it.
        tot_tasks: Number of tasks.

    Returns:
        The changes that make a difference. The change that saves most time comes first. If two save the same time, the
        one with fewer jobs comes first.
    """
    now: dict[str, Any] = config.limits
    now |= {"cpus_per_task": config.cpus_per_task, "mem_per_task": config.mem_per_task_MB}
    now |= {"tot_tasks": tot_tasks, "needs_gpu": config.needs_gpu}
    if batching.branch is Branch.GIVEN:
        now |= {name: getattr(config, name) for name in _GIVEN}
    tried: list[tuple[str, int, int | None, dict[str, Any]]] = [
        (name, now[name], 2 * now[name], {name: 2 * now[name]}) for name in config.limits
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
        except BatchingError:  # a target is over its maximum
            continue
        ratio = _rounds(other, tot_tasks) / _rounds(batching, tot_tasks)
        if other.num_jobs != batching.num_jobs or ratio != 1:
            found.append(Change(option, before, after, other, ratio))
    return sorted(found, key=lambda change: (change.time_ratio, change.batching.num_jobs))


def _rounds(batching: Batching, tot_tasks: int) -> int:
    """Return how many tasks one slot of a full job runs, one after the other."""
    return -(-min(batching.tasks_per_job, tot_tasks) // batching.parallel_tasks_per_job)
