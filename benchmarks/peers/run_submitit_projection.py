# SPDX-License-Identifier: BSD-3-Clause
"""Project images through submitit's SLURM executor as a job array: one call an image, in a Python of its own.

Reads one JSON document on standard input: {"urls", "folder"}. Writes {"wall_s", "succeeded", "lost", "jobs"}. In an
environment that has submitit and fractal-tasks-core.
"""

from __future__ import annotations

import json
import sys
import time

import submitit


def project(url: str) -> None:
    """Project one image, as the task does."""
    from fractal_tasks_core.projection import projection

    projection(zarr_url=url, overwrite=True)


def main() -> None:
    """Run the calls and print the figures."""
    request = json.load(sys.stdin)
    start = time.monotonic()
    executor = submitit.SlurmExecutor(folder=request["folder"])
    executor.update_parameters(
        partition="main", ntasks_per_node=1, cpus_per_task=1, mem="500M", time=30, array_parallelism=1000
    )
    jobs = executor.map_array(project, request["urls"])
    succeeded = sum(job.exception() is None for job in jobs)
    figures = {
        "wall_s": time.monotonic() - start,
        "succeeded": succeeded,
        "lost": len(jobs) - succeeded,
        "jobs": len(jobs),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
