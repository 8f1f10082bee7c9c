# SPDX-License-Identifier: BSD-3-Clause
"""The public names of this package, for programs that build on it.

Everything here stays compatible within a major version. ``fractal_slurm.executor`` (a
:class:`concurrent.futures.Executor`) and ``fractal_slurm.testing`` (helpers for tests of a cluster) are public, too.
All other modules may change at any time.

Example::

    from fractal_slurm.api import load_config_file, resolve

    config_file = load_config_file("/etc/fractal/slurm_config.json")
    resolution = resolve(config_file, task_name="Measure", workflow_task_meta={"mem": "8G"}, tot_tasks=96)
    print(resolution.config.mem_per_task_MB, resolution.sources["mem_per_task_MB"], resolution.batching.reason)

A program that runs tasks itself makes an :class:`Engine`::

    from fractal_slurm.api import Engine, RunRequest

    request = RunRequest(
        user="anna", task_name="Measure", command="python3 /opt/tasks/measure.py", config=resolution,
        parameters=[{"well": well} for well in wells], cache_dir="/cache/anna", work_dir="/work/anna",
    )
    with Engine() as engine:
        run = engine.start(request, on_task_end=lambda end: print(end.index, end.state, end.out))
        print(run.wait())
"""

from __future__ import annotations

from .config.batching import Batching, Branch, heuristics
from .config.file import SlurmConfigFile, json_schema, load_config_file, parse_config
from .config.memory import parse_memory
from .config.resolve import Resolution, SlurmConfig, resolve
from .config.walltime import format_walltime, parse_walltime
from .driver.asked import RunRequest
from .driver.engine import Engine, RunHandle
from .driver.told import RunEnd, StoredRun, TaskEnd
from .errors import (
    BatchingError,
    ClusterError,
    ConfigFileError,
    FractalSlurmError,
    ImpersonationError,
    RunError,
    SettingsError,
    SpecError,
)
from .settings import Settings, load_settings

__all__ = [
    "Batching",
    "BatchingError",
    "Branch",
    "ClusterError",
    "ConfigFileError",
    "Engine",
    "FractalSlurmError",
    "ImpersonationError",
    "Resolution",
    "RunEnd",
    "RunError",
    "RunHandle",
    "RunRequest",
    "Settings",
    "SettingsError",
    "SlurmConfig",
    "SlurmConfigFile",
    "SpecError",
    "StoredRun",
    "TaskEnd",
    "format_walltime",
    "heuristics",
    "json_schema",
    "load_config_file",
    "load_settings",
    "parse_config",
    "parse_memory",
    "parse_walltime",
    "resolve",
]
