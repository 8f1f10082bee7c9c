# SPDX-License-Identifier: BSD-3-Clause
"""Write the sbatch script of one job with our runtime, in an environment that has it installed.

Reads one JSON document on standard input: {"command", "tasks", "slots", "folder", "script"}. Writes {"bytes"}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fractal_slurm
from fractal_slurm.config.file import parse_config
from fractal_slurm.config.resolve import resolve
from fractal_slurm.jobs.script import JobSettings, render


def main() -> None:
    """Write the script and print its size."""
    request = json.load(sys.stdin)
    config = parse_config(
        {
            "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": 100},
            "batching_config": {
                "target_cpus_per_job": request["slots"],
                "max_cpus_per_job": request["slots"],
                "target_mem_per_job": 8000,
                "max_mem_per_job": 8000,
                "target_num_jobs": 1,
                "max_num_jobs": 1,
            },
        },
        source="benchmark",
    )
    resolution = resolve(config, task_name="benchmark", task_meta={}, workflow_task_meta={}, tot_tasks=request["tasks"])
    settings = JobSettings(
        command=tuple(request["command"]),
        run_folder=request["folder"],
        cache_dir=request["folder"],
        worker_python="/usr/bin/python3",
        worker_folder=str(Path(fractal_slurm.__file__).parent),
    )
    tasks = [(index, 1, json.dumps({"zarr_url": f"/benchmark/{index}"})) for index in range(request["tasks"])]
    script = render(resolution.config, settings, token="0" * 16, tasks=tasks)
    Path(request["script"]).write_bytes(script)
    print(json.dumps({"bytes": len(script)}))


if __name__ == "__main__":
    main()
