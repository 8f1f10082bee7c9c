# SPDX-License-Identifier: BSD-3-Clause
"""The options with which tasks of a run are run again that was begun without a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config.batching import heuristics
from ..config.given import GIVEN, as_resolved
from ..config.meta import read_meta
from ..config.resolve import HEURISTICS, TASK_META, WORKFLOW_TASK_META, Resolution
from .model import RunRecord


def knows_metas(run: RunRecord) -> bool:
    """Whether a journal has the metas that a run was begun with.

    Older versions wrote empty ones for programs that had options of their own.
    """
    if run.metas is None:
        return False
    if run.metas.task_meta or run.metas.meta:
        return True
    return not {TASK_META, WORKFLOW_TASK_META, GIVEN} & set(run.sources.values()) and bool(run.sources)


def options_again(run: RunRecord, changes: Mapping[str, Any], *, tasks: int) -> Resolution:
    """The options of a run, for some of its tasks. The config file has no part in them.

    Args:
        run: The run that was.
        changes: Other values of ``mem`` and ``time``.
        tasks: How many tasks there are now.

    Raises:
        FractalSlurmError: A value is not valid, or a task does not fit into a job any more.
    """
    given = read_meta(changes, "retry", [])
    config = run.config
    if "mem" in given:
        config = replace(config, mem_per_task_MB=given["mem"])
    if "time" in given:
        config = replace(config, time=given["time"])
    decided = run.sources.get("tasks_per_job") == HEURISTICS
    batching = heuristics(
        tot_tasks=tasks,
        cpus_per_task=config.cpus_per_task,
        mem_per_task=config.mem_per_task_MB,
        tasks_per_job=None if decided else config.tasks_per_job,
        parallel_tasks_per_job=None if decided else config.parallel_tasks_per_job,
        needs_gpu=config.needs_gpu,
        **config.limits,
    )
    config = replace(
        config, tasks_per_job=batching.tasks_per_job, parallel_tasks_per_job=batching.parallel_tasks_per_job
    )
    resolution = as_resolved(config, tot_tasks=tasks)
    sources = dict.fromkeys(resolution.sources, f"run {run.run_id}")
    sources |= {key: "retry" for key, name in (("mem_per_task_MB", "mem"), ("time", "time")) if name in given}
    if decided:
        sources |= dict.fromkeys(("tasks_per_job", "parallel_tasks_per_job"), HEURISTICS)
    return replace(resolution, batching=batching, sources=sources)
