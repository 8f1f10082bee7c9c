# SPDX-License-Identifier: BSD-3-Clause
"""Rows of many runs and many users in one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .environment import SERVICE_USER, SYSTEM_PYTHON, USERS, Environment
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
    own = {
        "FRACTAL_SLURM_SLURM_BIN_DIR": str(environment.bin),
        "FRACTAL_SLURM_STATE_DIR": str(local / "state"),
        "FRACTAL_SLURM_WORKER_PYTHON": SYSTEM_PYTHON,
        "FRACTAL_SLURM_CANCEL_GRACE_S": "2",
    }
    figures: dict[str, Any] = environment.ask_ours("many_runs.py", request, environment=own)
    return figures


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


def tiny_runs(environment: Environment, runs: int = 200, users: int = 20) -> Iterator[Result]:
    """Drive 200 runs of 20 users to their end, each with one empty task."""
    figures = drive(environment, runs=runs, jobs_per_run=1, users=users, held=False)
    what = f"{runs} runs of {users} users, an empty task each, to the end"
    whole = figures["succeeded"] == runs
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
