# SPDX-License-Identifier: BSD-3-Clause
"""Read a unit of work, plan its jobs and write all their scripts, in an environment that has our runtime.

Reads one JSON document on standard input: {"spec", "config", "folder"}. Writes {"wall_s", "jobs", "bytes"}. The
scripts are rendered one after the other and not kept, as a run does that hands each to sbatch.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import fractal_slurm
from fractal_slurm.config.file import load_config_file
from fractal_slurm.config.resolve import resolve
from fractal_slurm.jobs.plan import make_plan
from fractal_slurm.jobs.script import JobSettings, render
from fractal_slurm.spec import load_spec


def main() -> None:
    """Do it and print the figures."""
    request = json.load(sys.stdin)
    start = time.monotonic()
    spec = load_spec(request["spec"])
    resolution = resolve(
        load_config_file(request["config"]),
        task_name=spec.task_name,
        task_meta=spec.task_meta,
        workflow_task_meta=spec.meta,
        tot_tasks=len(spec.parameters),
    )
    settings = JobSettings(
        command=spec.command,
        run_folder=request["folder"],
        cache_dir=request["folder"],
        worker_python="/usr/bin/python3",
        worker_folder=str(Path(fractal_slurm.__file__).parent),
    )
    plan = make_plan(resolution, settings, len(spec.parameters))
    written = 0
    for number, batch in enumerate(plan.batches):
        tasks = [(index, 1, spec.parameters[index]) for index in batch]
        written += len(render(plan.config, settings, token=f"{number:016x}", tasks=tasks))
    print(json.dumps({"wall_s": time.monotonic() - start, "jobs": len(plan.batches), "bytes": written}))


if __name__ == "__main__":
    main()
