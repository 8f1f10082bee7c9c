# SPDX-License-Identifier: BSD-3-Clause
"""Rows of many runs and many users in one process, and of several processes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .environment import SERVICE_USER, SYSTEM_PYTHON, USER, USERS, BenchmarkError, Environment
from .result import Result

# Seconds before the watch begins, so that the first quick polls are over, and seconds of the watch.
SETTLE_S, WATCH_S = 15, 30


def drive(environment: Environment, *, runs: int, jobs_per_run: int, users: int, held: bool) -> dict[str, Any]:
    """Drive runs in one engine; returns its figures."""
    local = environment.fresh_folder(SERVICE_USER, "many")
    places = [(user, str(environment.fresh_folder(user, "many"))) for user in USERS[:users]]
    request = {
        "runs": runs,
        "jobs_per_run": jobs_per_run,
        "places": places,
        "held": held,
        "command": environment.task("sleep-0"),
        "settle_s": SETTLE_S,
        "watch_s": WATCH_S,
    }
    figures: dict[str, Any] = environment.ask_ours("many_runs.py", request, environment=_settings(environment, local))
    return figures


def _settings(environment: Environment, local: Path) -> dict[str, str]:
    """Give the settings of our runtime as environment variables."""
    return {
        "FRACTAL_SLURM_SLURM_BIN_DIR": str(environment.bin),
        "FRACTAL_SLURM_STATE_DIR": str(local / "state"),
        "FRACTAL_SLURM_WORKER_PYTHON": SYSTEM_PYTHON,
        "FRACTAL_SLURM_CANCEL_GRACE_S": "2",
    }


def many_runs(environment: Environment, runs: int = 200, jobs: int = 1000, users: int = 20) -> Iterator[Result]:
    """Drive 200 runs of 20 users with 1,000 jobs that wait, in one process, beside a single run."""
    one = drive(environment, runs=1, jobs_per_run=jobs // runs, users=1, held=True)
    many = drive(environment, runs=runs, jobs_per_run=jobs // runs, users=users, held=True)
    details = {"one": one, "many": many}
    what = f"{runs} runs, {users} users, {jobs:,} jobs waiting, {WATCH_S} s"
    calls, own = many["squeue_calls"], one["squeue_calls"]
    is_whole = many["out"] == jobs
    yield Result(what, "calls", calls, own, "one run", "<= one run's + 2", is_whole and calls <= own + 2, details)
    share = 100 * many["cpu_share"]
    yield Result("  CPU of the driver", "%", share, 100 * one["cpu_share"], "one run", "<= 10 %", share <= 10)
    per_run = (many["memory_mb"] - one["memory_mb"]) / (runs - 1)
    yield Result("  memory of a run more", "MB", per_run, None, "", "<= 2 MB", per_run <= 2)
    yield Result("  threads", "", many["threads"], one["threads"], "one run", "<= 17", many["threads"] <= 17)


def tiny_runs(environment: Environment, runs: int = 200, jobs: int = 1000, users: int = 20) -> Iterator[Result]:
    """Drive 200 runs of 20 users with 1,000 jobs of one empty task to their end."""
    figures = drive(environment, runs=runs, jobs_per_run=jobs // runs, users=users, held=False)
    what = f"{runs} runs of {users} users, {jobs:,} jobs of an empty task, to the end"
    whole = figures["succeeded"] == jobs
    yield Result(what, "s", figures["wall_s"], None, "", "all succeed", whole, figures)
    calls, most = figures["squeue_calls"], figures["wall_s"] + 3
    yield Result("  squeue", "calls", calls, None, "", "<= 1 a second", calls <= most)


def submitting(environment: Environment, users: int = 20, jobs: int = 100) -> Iterator[Result]:
    """Submit 100 jobs of 20 users, beside as many of one user, one after the other."""
    one = drive(environment, runs=users, jobs_per_run=jobs // users, users=1, held=True)
    many = drive(environment, runs=users, jobs_per_run=jobs // users, users=users, held=True)
    what = f"{jobs} jobs of {users} users submitted, at most 4 at once"
    span, is_whole = many["span_s"], many["out"] == jobs
    details = {"one": one, "many": many}
    yield Result(what, "s", span, one["span_s"], "one user", "<= 2 s", is_whole and span <= 2, details)


def several_processes(environment: Environment, processes: int = 12) -> Iterator[Result]:
    """Count the requests that slurmctld had of 12 `fractal-slurm run` processes at once, beside a single one."""
    one, many = (requests_of(environment, number) for number in (1, processes))
    what = f"{processes} processes, slurmctld's own count (sdiag), {WATCH_S} s"
    yield Result(
        what, "requests", many, one, "one process", "<= 1.5 x one's", many <= 1.5 * one, {"one": one, "many": many}
    )


def requests_of(environment: Environment, processes: int) -> int:
    """Start processes with one job each, and count the service account's requests from when all jobs run."""
    local = environment.fresh_folder(SERVICE_USER, "processes")
    flag = local / "go-on"
    config = {
        "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": "100M"},
        "batching_config": {
            "target_cpus_per_job": 1, "max_cpus_per_job": 1, "target_mem_per_job": 100, "max_mem_per_job": 100,
            "target_num_jobs": 1, "max_num_jobs": 1,
        },
    }  # fmt: skip
    (local / "config.json").write_text(json.dumps(config), encoding="utf-8")
    task = f"sh -c 'while [ ! -e {flag} ]; do sleep 0.2; done'"
    spec = json.dumps({"task": {"name": "benchmark", "command": task}, "parameters": [{}]})

    def drive_one(number: int) -> int:
        user = USERS[number % 4]
        folder = environment.fresh_folder(user, f"process-{number}")
        finished = environment.run(
            [
                *(environment.runtime / "fractal-slurm", "run", "-", "--user", user, "--json"),
                *("--config", local / "config.json", "--cache-dir", folder, "--work-dir", folder),
            ],
            stdin=spec,
            environment=_settings(environment, local),
        )
        return int(json.loads(finished.stdout)["succeeded"])

    with ThreadPoolExecutor(processes) as pool:
        outcomes = [pool.submit(drive_one, number) for number in range(processes)]
        try:
            running, until = 0, time.monotonic() + 120
            while running < processes:
                if time.monotonic() > until:
                    raise BenchmarkError(f"only {running} of {processes} processes have a job that runs.")
                time.sleep(0.2)
                argv = [environment.bin / "squeue", "--noheader", "--states=RUNNING", "--format=%i"]
                running = len(environment.run(argv, user=USER).stdout.split())
            time.sleep(1)
            before = _requests(environment)
            time.sleep(WATCH_S)
            requests = _requests(environment) - before
        finally:
            flag.touch()
    if sum(outcome.result() for outcome in outcomes) != processes:
        raise BenchmarkError("not all tasks of the processes succeeded.")
    return requests


def _requests(environment: Environment) -> int:
    """How many requests slurmctld had of the service account, by its own count."""
    text = environment.run([environment.bin / "sdiag"], user=USER).stdout.partition("statistics by user")[2]
    found = re.search(rf"^\s*{SERVICE_USER}\s.*?count:([0-9]+)", text, re.MULTILINE)
    return int(found[1]) if found else 0
