# SPDX-License-Identifier: BSD-3-Clause
"""Run tasks through fractal-server's SlurmSudoRunner, in an environment that has fractal-server installed.

Its calls to the database are replaced by nothing, since there is none here; all else is its own code. The sudo calls
are counted from outside, by Python's audit events.

Reads one JSON document on standard input: {"command", "parameters", "tasks_per_job", "parallel_tasks_per_job", "mem",
"user", "local_dir", "remote_dir", "cache_dir", "poll_interval"}. Writes {"wall_s", "succeeded", "lost", "jobs",
"sudo_calls", "first_error"}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# fractal-server wants settings of a whole deployment before it lets itself be imported; none of them is used here.
for setting in ("POSTGRES_DB", "JWT_SECRET_KEY"):
    os.environ[setting] = "unused"
os.environ["FRACTAL_RUNNER_BACKEND"] = "slurm_sudo"

from fractal_server.app.models import Profile, Resource
from fractal_server.runner.executors.slurm_common import base_slurm_runner
from fractal_server.runner.executors.slurm_common.get_slurm_config import get_slurm_config
from fractal_server.runner.executors.slurm_sudo.runner import SlurmSudoRunner
from fractal_server.runner.task_files import TaskFiles, enrich_task_files_multisubmit


def no_database() -> Iterator[SessionOfNothing]:
    """Stand in for the generator of database sessions."""
    yield SessionOfNothing()


class SessionOfNothing:
    """A context manager in place of a database session."""

    def __enter__(self) -> SessionOfNothing:
        return self

    def __exit__(self, *_exception: object) -> None:
        return None


def leave_out_the_database() -> None:
    """Replace what the runner calls of the database, all of it bookkeeping, by nothing."""
    base_slurm_runner.get_sync_db = no_database
    for name in (
        "create_accounting_record_slurm",
        "update_status_of_history_unit",
        "bulk_update_status_of_history_unit",
    ):
        getattr(base_slurm_runner, name)  # fails in words where another fractal-server has no such function
        setattr(base_slurm_runner, name, lambda **_arguments: None)


def main() -> None:
    """Run the tasks and print the figures."""
    request: dict[str, Any] = json.load(sys.stdin)
    tasks = len(request["parameters"])
    sudo_calls = 0

    def count_sudo(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal sudo_calls
        if event == "subprocess.Popen" and Path(str(arguments[0])).name == "sudo":
            sudo_calls += 1

    leave_out_the_database()
    sys.addaudithook(count_sudo)
    start = time.monotonic()
    resource = Resource(
        type="slurm_sudo",
        name="benchmark",
        jobs_local_dir=request["local_dir"],
        jobs_runner_config={
            "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": request["mem"]},
            "batching_config": {
                "target_num_jobs": 1,
                "max_num_jobs": 1000,
                "target_cpus_per_job": 4,
                "max_cpus_per_job": 4,
                "target_mem_per_job": 8000,
                "max_mem_per_job": 8000,
            },
        },
        jobs_slurm_python_worker=sys.executable,
        jobs_poll_interval=request["poll_interval"],
        tasks_local_dir=request["local_dir"],
    )
    profile = Profile(resource_id=1, resource_type="slurm_sudo", name="benchmark", username=request["user"])
    work = Path(request["local_dir"]), Path(request["remote_dir"])
    runner = SlurmSudoRunner(
        root_dir_local=work[0],
        root_dir_remote=work[1],
        resource=resource,
        profile=profile,
        user_cache_dir=request["cache_dir"],
    )
    workflow_task = SimpleNamespace(
        meta_parallel={key: request[key] for key in ("tasks_per_job", "parallel_tasks_per_job")},
        task=SimpleNamespace(name="benchmark"),
    )
    config = get_slurm_config(
        shared_config=runner.shared_config,
        wftask=workflow_task,
        which_type="parallel",
        tot_tasks=tasks,
    )
    files = TaskFiles(root_dir_local=work[0], root_dir_remote=work[1], task_name="benchmark", task_order=0)
    results, exceptions = runner.multisubmit(
        base_command=request["command"],
        workflow_task_order=0,
        workflow_task_id=1,
        task_name="benchmark",
        list_parameters=request["parameters"],
        history_unit_ids=list(range(tasks)),
        list_task_files=enrich_task_files_multisubmit(
            tot_tasks=tasks, batch_size=config.batch_size, base_task_files=files
        ),
        task_type="parallel",
        config=config,
        user_id=1,
    )
    figures = {
        "wall_s": time.monotonic() - start,
        "succeeded": len(results),
        "lost": tasks - len(results),
        "jobs": -(-tasks // config.tasks_per_job),
        "sudo_calls": sudo_calls,
        "first_error": str(next(iter(exceptions.values()), ""))[:500],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
