# SPDX-License-Identifier: BSD-3-Clause
"""Run calls through submitit's SLURM executor as a job array, in an environment that has submitit installed.

Reads one JSON document on standard input: {"calls", "seconds", "folder"}. Writes {"wall_s", "succeeded", "lost",
"jobs"}.
"""

from __future__ import annotations

import json
import sys
import time

import submitit


def main() -> None:
    """Run the calls and print the figures."""
    request = json.load(sys.stdin)
    start = time.monotonic()
    executor = submitit.SlurmExecutor(folder=request["folder"])
    executor.update_parameters(
        partition="main", ntasks_per_node=1, cpus_per_task=1, mem="100M", time=5, array_parallelism=1000
    )
    jobs = executor.map_array(time.sleep, [request["seconds"]] * request["calls"])
    succeeded = sum(job.exception() is None for job in jobs)
    figures = {
        "wall_s": time.monotonic() - start,
        "succeeded": succeeded,
        "lost": request["calls"] - succeeded,
        "jobs": request["calls"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
