# SPDX-License-Identifier: BSD-3-Clause
"""Drive many runs of many users in one engine; standard input has the request, the last line of output the figures."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fractal_slurm.api import Engine, RunRequest, SlurmConfig


def memory_mb() -> float:
    """Give the memory that this process holds now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


def request_of(request: dict[str, Any], number: int) -> RunRequest:
    """Give one of the runs; the users have one after the other."""
    user, folder = request["places"][number % len(request["places"])]
    jobs = request["jobs_per_run"]
    config = SlurmConfig(
        partition="main",
        cpus_per_task=1,
        mem_per_task_MB=100,
        job_name="many",
        target_cpus_per_job=1,
        max_cpus_per_job=1,
        target_mem_per_job=100,
        max_mem_per_job=100,
        target_num_jobs=jobs,
        max_num_jobs=jobs,
        tasks_per_job=1,
        parallel_tasks_per_job=1,
        extra_lines=["#SBATCH --hold"] if request["held"] else [],
    )
    return RunRequest(
        user=user,
        task_name="many",
        command=request["command"],
        parameters=[{"n": n} for n in range(jobs)],
        config=config,
        cache_dir=folder,
        work_dir=folder,
    )


def main() -> None:
    """Start all runs, see how they do for a while or to their end, and print the figures."""
    request = json.load(sys.stdin)
    before = memory_mb()
    made = time.monotonic()
    draft = Engine()
    draft.max_runs = 0  # begins none: what is measured is the driving, not the checks before
    for number in range(request["runs"]):
        draft.start(request_of(request, number))
    draft.shutdown("leave")
    made_s = time.monotonic() - made
    engine = Engine()
    ids = [run.run_id for run in engine.stored()]
    made = time.monotonic()
    runs = [engine.resume(run_id) for run_id in ids]
    wanted, stamps, threads = request["runs"] * request["jobs_per_run"], [], 0
    if request["held"]:
        left, out = set(runs), 0
        while left:
            time.sleep(0.2)
            left = {run for run in left if len(run.job_ids()) < request["jobs_per_run"] and not run.has_ended()}
            threads = max(threads, threading.active_count())
        out = sum(len(run.job_ids()) for run in runs)
        submitted_s = time.monotonic() - made
        time.sleep(request["settle_s"])
        cpu, calls, began = time.process_time(), engine.squeue_calls(), time.monotonic()
        while time.monotonic() - began < request["watch_s"]:
            time.sleep(0.5)
            threads = max(threads, threading.active_count())
        took = time.monotonic() - began
        figures = {
            "cpu_share": (time.process_time() - cpu) / took,
            "squeue_calls": engine.squeue_calls() - calls,
            "memory_mb": memory_mb(),
            "out": out,
            "submitted_s": submitted_s,
        }
        for run in runs:
            with engine.open(run.run_id) as journal:
                stamps += [job.submitted_at for job in journal.jobs() if job.submitted_at]
        engine.shutdown("cancel", timeout=240)
    else:
        while not all(run.has_ended() for run in runs):
            time.sleep(0.2)
            threads = max(threads, threading.active_count())
        took = time.monotonic() - made
        ends = [run.wait(0) for run in runs]
        figures = {
            "succeeded": sum(end.succeeded for end in ends),
            "sudo_calls": sum(end.sudo_calls for end in ends),
            "squeue_calls": engine.squeue_calls(),
            "cpu_share": time.process_time() / took,
            "memory_mb": memory_mb(),
        }
    print(
        json.dumps(
            {
                **figures,
                "wanted": wanted,
                "wall_s": took,
                "made_s": made_s,
                "before_mb": before,
                "threads": threads,
                "span_s": max(stamps) - min(stamps) if stamps else None,
                "pid": os.getpid(),
            }
        )
    )


if __name__ == "__main__":
    main()
