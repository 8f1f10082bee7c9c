# SPDX-License-Identifier: BSD-3-Clause
"""Run empty tasks through HyperQueue's LocalCluster, in an environment that has hyperqueue installed.

Reads one JSON document on standard input: {"argv", "tasks", "cores", "folder"}. Writes {"wall_s", "succeeded",
"lost"}: the time from submitting the job to the news that it has ended. The tasks' output goes nowhere.
"""

from __future__ import annotations

import json
import sys
import time

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig


def main() -> None:
    """Run the tasks and print the figures."""
    request = json.load(sys.stdin)
    with LocalCluster(worker_config=WorkerConfig(cores=request["cores"])) as cluster:
        client = cluster.client()
        job = Job(default_workdir=request["folder"], max_fails=None)
        for _task in range(request["tasks"]):
            job.program(request["argv"], stdout=None, stderr=None)
        start = time.monotonic()
        submitted = client.submit(job)
        all_succeeded = client.wait_for_jobs([submitted], raise_on_error=False)
        wall = time.monotonic() - start
        lost = 0 if all_succeeded else len(client.get_failed_tasks(submitted))
    # HyperQueue writes a banner to standard output; the figures are the last line.
    print(json.dumps({"wall_s": wall, "succeeded": request["tasks"] - lost, "lost": lost}))


if __name__ == "__main__":
    main()
