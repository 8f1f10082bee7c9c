# SPDX-License-Identifier: BSD-3-Clause
"""What is measured: each row beside its peer, in the same run, on the same machine.

A row is a function that takes the Environment and gives one Result or several; ROWS names them in the order in which
they run.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from .environment import CPUS, NODES, SERVICE_USER, SYSTEM_PYTHON, USER, BenchmarkError, Environment, Finished
from .result import Result
from .run_rows import many_runs, several_processes, submitting, tiny_runs
from .server_rows import empty_wells, real_wells, set_up, small_memory, some_wells

SLOTS = NODES * CPUS


# --- running tasks through SLURM


def write_config(folder: Path, mem: str = "100M", **batching: int) -> Path:
    """Write a SlurmConfigFile of this cluster; most specs give tasks_per_job and parallel_tasks_per_job themselves."""
    config = {
        "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": mem},
        "batching_config": {
            "target_cpus_per_job": CPUS,
            "max_cpus_per_job": CPUS,
            "target_mem_per_job": 8000,
            "max_mem_per_job": 8000,
            "target_num_jobs": 1,
            "max_num_jobs": 1000,
            **batching,
        },
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def run_ours(
    environment: Environment,
    command: str,
    tasks: int,
    jobs: int,
    *,
    mem: str,
    slots: int = CPUS,
    parameters: list[dict[str, Any]] | None = None,
    task_start: str = "fresh",
) -> dict[str, Any]:
    """Run tasks with `fractal-slurm run`; returns what it reports, and its peak memory in MB as peak_mb."""
    local = environment.fresh_folder(SERVICE_USER, "ours-local")
    remote = environment.fresh_folder(USER, "ours-remote")
    config = write_config(local, mem)
    spec = {
        "task": {"name": "benchmark", "command": command},
        "meta": {"tasks_per_job": -(-tasks // jobs), "parallel_tasks_per_job": slots},
        "parameters": parameters or parameters_of(tasks),
    }
    finished = environment.run(
        [
            environment.runtime / "fractal-slurm",
            *("run", "-", "--user", USER, "--json", "--config", config, "--task-start", task_start),
            *("--cache-dir", remote / "cache", "--work-dir", remote / "work"),
        ],
        stdin=json.dumps(spec),
        environment=settings(environment, local),
        check=False,
    )
    if finished.returncode not in (0, 1):
        raise BenchmarkError(f"`fractal-slurm run` ended with {finished.returncode}:\n{finished.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(finished.stdout)
    return report | {"command_s": finished.wall_s, "peak_mb": finished.peak_mb, "state_folder": str(local)}


def parameters_of(tasks: int) -> list[dict[str, Any]]:
    """Parameters of so many tasks that do not read them."""
    return [{"zarr_url": f"/benchmark/{index}"} for index in range(tasks)]


def slurm_job_ids(environment: Environment, report: Mapping[str, Any]) -> list[int]:
    """Ask `fractal-slurm report` for the SLURM job ids of a run."""
    finished = environment.run(
        [environment.runtime / "fractal-slurm", "report", report["run_id"], "--json"],
        environment=settings(environment, Path(report["state_folder"])),
    )
    return [int(job["slurm_job_id"]) for job in json.loads(finished.stdout)["jobs"]]


def settings(environment: Environment, state: Path) -> dict[str, str]:
    """Give the settings of our runtime as environment variables."""
    return {
        "FRACTAL_SLURM_SLURM_BIN_DIR": str(environment.bin),
        "FRACTAL_SLURM_STATE_DIR": str(state / "state"),
        "FRACTAL_SLURM_WORKER_PYTHON": SYSTEM_PYTHON,
    }


def beside_fractal_server(
    environment: Environment, *, task: str, tasks: int, jobs: int, mem: str, goal_s: float, goal: str
) -> Iterator[Result]:
    """Run the same tasks with ours, and as a workflow's step by fractal-server: time, lost tasks, sudo calls."""
    what = f"{tasks:,} tasks of {task.removeprefix('sleep-')} s in {jobs} jobs, {mem}B a task"
    ours = run_ours(environment, environment.task(task), tasks, jobs, mem=mem)
    bench = set_up(environment)
    work = bench.scripts(Path(environment.task(task)), tasks, jobs, mem)
    peer = bench.beside(work, ["built-in"])["built-in"]
    details = {"ours": ours, "peer": peer}
    lost = ours["tasks"] - ours["succeeded"]
    # A time in which tasks were lost is no time for the work.
    peer_s = None if peer["lost"] else peer["task_s"]
    yield Result(what, "s", ours["wall_s"], peer_s, bench.peer, goal, ours["wall_s"] <= goal_s and not lost, details)
    yield Result("  of which lost", "tasks", lost, peer["lost"], bench.peer, "none", not lost)
    calls = ours["sudo_calls"]
    yield Result(
        "  sudo calls", "calls", calls, peer["sudo_calls"], bench.peer, "<= 3 a job", calls <= 3 * ours["jobs"]
    )


def many_tasks(environment: Environment, mem: str = "1000M") -> Iterator[Result]:
    """Run 1,536 tasks of 1 s in 8 jobs: 96 s on 16 slots at best."""
    ideal = 1536 / SLOTS
    goal = f"<= 1.05 x {ideal:g} s"
    yield from beside_fractal_server(
        environment, task="sleep-1", tasks=1536, jobs=8, mem=mem, goal_s=1.05 * ideal, goal=goal
    )


def many_small_tasks(environment: Environment) -> Iterator[Result]:
    """Run the same with 100 MB a task, less than the waiting srun processes of fractal-server need."""
    yield from many_tasks(environment, mem="100M")


def some_tasks(environment: Environment) -> Iterator[Result]:
    """Run 200 tasks of 1 s in 4 jobs: 13 rounds on 16 slots, 12.5 s if they could be cut finer."""
    yield from beside_fractal_server(
        environment, task="sleep-1", tasks=200, jobs=4, mem="1000M", goal_s=1.15 * 12.5, goal="<= 1.15 x 12.5 s"
    )


def empty_tasks(environment: Environment) -> Iterator[Result]:
    """Run 400 tasks that do nothing in 4 jobs: what running costs beside the work."""
    yield from beside_fractal_server(
        environment, task="sleep-0", tasks=400, jobs=4, mem="1000M", goal_s=3.0, goal="<= 3 s"
    )


# --- throughput of the worker

EMPTY_TASK = ["sh", "-c", "exec true"]


def slurm_span(environment: Environment, job_ids: set[int]) -> float:
    """Seconds from the start of the first of some jobs to the end of the last, by slurmctld's own log."""
    stamp = r"^\[([0-9T:.-]+)\] "
    start = re.compile(stamp + r"sched.*(?:Allocate|Started) JobId=([0-9]+) ", re.MULTILINE)
    end = re.compile(stamp + r"_job_complete: JobId=([0-9]+) done", re.MULTILINE)
    log = (environment.base / "log" / "slurmctld.log").read_text(encoding="utf-8", errors="replace")

    def times(pattern: re.Pattern[str]) -> list[datetime]:
        found = {int(job): datetime.fromisoformat(when) for when, job in pattern.findall(log)}
        missing = job_ids - set(found)
        if missing:
            raise BenchmarkError(f"slurmctld's log says nothing of the jobs {sorted(missing)}.")
        return [found[job] for job in job_ids]

    return (max(times(end)) - min(times(start))).total_seconds()


def throughput(environment: Environment, samples: int = 3) -> Iterator[Result]:
    """Run 10,000 empty tasks in 4 jobs of 4 slots, beside xargs in jobs of the same shape: the floor."""
    tasks, jobs = 10_000, 4
    ours, floor = [], []
    for _sample in range(samples):
        folder = environment.fresh_folder(USER, "xargs")
        script = (
            f"#!/bin/sh\n#SBATCH --ntasks={CPUS} --mem=400M --output=/dev/null --chdir={folder}\n"
            f"seq {tasks // jobs} | xargs -P{CPUS} -n1 sh -c 'exec true'\n"
        )
        submitted = [
            int(environment.run([environment.bin / "sbatch", "--parsable"], user=USER, stdin=script).stdout)
            for _job in range(jobs)
        ]
        environment.wait_for_jobs(submitted)
        floor.append(slurm_span(environment, set(submitted)))

        report = run_ours(environment, "sh -c 'exec true'", tasks, jobs, mem="100M")
        if report["succeeded"] != tasks:
            raise BenchmarkError(f"{tasks - report['succeeded']} of {tasks} empty tasks did not succeed.")
        ours.append(slurm_span(environment, set(slurm_job_ids(environment, report))))
    best, peer = statistics.median(ours), statistics.median(floor)
    yield Result(
        "10,000 empty tasks in 4 jobs of 4 slots",
        "s",
        best,
        peer,
        "xargs -P4 in the same jobs",
        "<= 1.25 x the floor",
        best <= 1.25 * peer,
        {"ours_s": ours, "peer_s": floor, "ours_tasks_per_s": tasks / best, "peer_tasks_per_s": tasks / peer},
    )


def worker_alone(environment: Environment, tasks: int, slots: int) -> tuple[Finished, list[dict[str, Any]]]:
    """Run a job's script, and so its worker, without SLURM.

    Returns the process, and all records of the worker's result file.
    """
    folder = environment.fresh_folder(USER, "worker")
    folder.chmod(0o700)  # the worker takes no other
    script = folder / "script"
    request = {
        "command": EMPTY_TASK,
        "tasks": tasks,
        "slots": slots,
        "folder": str(folder),
        "script": str(script),
    }
    environment.ask_ours("write_script.py", request, user=USER)
    finished = environment.run(
        ["/bin/sh", script], user=USER, environment={"SLURM_JOB_ID": "1", "SLURM_TASKS_PER_NODE": str(slots)}
    )
    lines = [line for file in folder.glob("*/results-*") for line in file.read_text(encoding="utf-8").splitlines()]
    records = [json.loads(line) for line in lines if line]
    return finished, records


def beside_hyperqueue(environment: Environment, samples: int = 3) -> Iterator[Result]:
    """Run 2,000 empty tasks in one worker of 4 slots, beside HyperQueue's local cluster with 4 cores."""
    tasks = 2000
    ours, peer = [], []
    for _sample in range(samples):
        finished, records = worker_alone(environment, tasks, CPUS)
        succeeded = sum(record.get("state") == "succeeded" for record in records)
        if succeeded != tasks:
            raise BenchmarkError(f"{tasks - succeeded} of {tasks} tasks did not succeed in the worker.")
        ours.append(tasks / finished.wall_s)
        folder = environment.fresh_folder(USER, "hyperqueue")
        request = {"argv": EMPTY_TASK, "tasks": tasks, "cores": CPUS, "folder": str(folder)}
        peer.append(tasks / environment.ask_peer("run_hyperqueue.py", request, user=USER)["wall_s"])
    best, other = statistics.median(ours), statistics.median(peer)
    yield Result(
        "2,000 empty tasks in one worker of 4 slots, no SLURM",
        "tasks/s",
        best,
        other,
        "HyperQueue 0.27 LocalCluster, 4 cores",
        ">= 2 x",
        best >= 2 * other,
        {"ours_tasks_per_s": ours, "peer_tasks_per_s": peer},
    )


def worker_start(environment: Environment, samples: int = 15) -> Iterator[Result]:
    """Measure from the exec of a job's script to its first task's spawn, beside a Python that does nothing."""
    ours, peer = [], []
    for _sample in range(samples):
        finished, records = worker_alone(environment, 1, 1)
        started = min(record["start"] for record in records if "task" in record)
        ours.append(1000 * (started - finished.began))
        empty = environment.run([SYSTEM_PYTHON, "-S", "-E", "-c", "pass"], user=USER)
        peer.append(1000 * empty.wall_s)
    best, other = statistics.median(ours), statistics.median(peer)
    yield Result(
        "worker, from exec to its first task's spawn",
        "ms",
        best,
        other,
        "python3 -S -E -c pass",
        "<= 40 ms",
        best <= 40,
        {"ours_ms": ours, "peer_ms": peer},
    )


# --- single calls, plans, collecting


def single_calls(environment: Environment) -> Iterator[Result]:
    """Run 200 calls of 0.1 s with our executor, beside submitit with a job array."""
    calls, seconds = 200, 0.1
    local, remote = environment.fresh_folder(SERVICE_USER, "executor"), environment.fresh_folder(USER, "executor")
    # the nodes; the calls wait in the jobs
    config = write_config(local, target_num_jobs=4, max_num_jobs=4)
    request = {
        "calls": calls,
        "command": environment.task("sleep-0.1"),
        "user": USER,
        "config": str(config),
        "cache_dir": str(remote / "cache"),
        "work_dir": str(remote / "work"),
    }
    ours = environment.ask_ours("run_executor.py", request, environment=settings(environment, local))
    folder = environment.fresh_folder(SERVICE_USER, "submitit")
    peer = environment.ask_peer("run_submitit.py", {"calls": calls, "seconds": seconds, "folder": str(folder)})
    for name, figures in (("ours", ours), ("submitit", peer)):
        if figures["lost"]:
            raise BenchmarkError(f"{figures['lost']} of {calls} calls were lost by {name}.")
    yield Result(
        "200 calls of 0.1 s",
        "s",
        ours["wall_s"],
        peer["wall_s"],
        "submitit 1.5.4, a job array",
        ">= 10 x",
        10 * ours["wall_s"] <= peer["wall_s"],
        {"ours": ours, "peer": peer},
    )


def write_spec(path: Path, command: str, tasks: int, jobs: int) -> None:
    """Write a unit of work with many parameter sets, one after the other."""
    meta = {"tasks_per_job": -(-tasks // jobs), "parallel_tasks_per_job": CPUS}
    task = {"name": "benchmark", "command": command}
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"task": {json.dumps(task)}, "meta": {json.dumps(meta)}, "parameters": [\n')
        file.writelines(
            f'{{"zarr_url": "/data/plate.zarr/{index}", "channel": "DAPI"}}{"," if index < tasks - 1 else ""}\n'
            for index in range(tasks)
        )
        file.write("]}\n")


def collecting(environment: Environment, tasks: int = 200_000, jobs: int = 20) -> Iterator[Result]:
    """Collect and store 200,000 results of 20 jobs that have ended, with `fractal-slurm resume`."""
    local, remote = environment.fresh_folder(SERVICE_USER, "collect"), environment.fresh_folder(USER, "collect")
    config, spec = write_config(local), local / "spec.json"
    write_spec(spec, environment.task("sleep-0"), tasks, jobs)
    request: dict[str, Any] = {
        "spec": str(spec),
        "config": str(config),
        "user": USER,
        "cache_dir": str(remote / "cache"),
        "work_dir": str(remote / "work"),
        "results": str(local / "results"),
    }
    _finished, request["records"] = worker_alone(environment, 1, 1)
    run = environment.ask_ours("write_results.py", request, environment=settings(environment, local))
    environment.give(local / "results", Path(run["run_folder"]), USER)
    finished = environment.run(
        [environment.runtime / "fractal-slurm", "resume", run["run_id"], "--json"],
        environment=settings(environment, local),
    )
    report = json.loads(finished.stdout)
    if report["succeeded"] != tasks:
        raise BenchmarkError(f"{tasks - report['succeeded']} of {tasks} results were not collected.")
    what = f"driver: {tasks:,} results collected and stored"
    journal = sum(path.stat().st_size for path in (local / "state").rglob("*") if path.is_file())
    details = {**run, "sudo_calls": report["sudo_calls"], "journal_bytes": journal}
    yield Result(what, "s", finished.wall_s, None, "", "<= 20 s", finished.wall_s <= 20, details)
    yield Result("  peak memory", "MB", finished.peak_mb, None, "", "<= 300 MB", finished.peak_mb <= 300)


def plan_a_million(environment: Environment) -> Iterator[Result]:
    """Plan 1,000,000 tasks and write the scripts of their 1,000 jobs."""
    tasks, jobs = 1_000_000, 1000
    local = environment.fresh_folder(SERVICE_USER, "plan")
    config, spec = write_config(local), local / "spec.json"
    write_spec(spec, environment.task("sleep-0"), tasks, jobs)
    request = {"spec": str(spec), "config": str(config), "folder": str(local)}
    figures = environment.ask_ours("plan_scripts.py", request)
    if figures["jobs"] != jobs:
        raise BenchmarkError(f"The plan has {figures['jobs']} jobs; {jobs} were asked for.")
    what = "plan and scripts for 1,000,000 tasks"
    yield Result(what, "s", figures["wall_s"], None, "", "<= 10 s", figures["wall_s"] <= 10, figures)
    yield Result("  peak memory", "MB", figures["peak_mb"], None, "", "<= 600 MB", figures["peak_mb"] <= 600)


def command_line(environment: Environment, samples: int = 9) -> Iterator[Result]:
    """Start `fractal-slurm --help` and `validate` from cold, beside a Python that does nothing."""
    local = environment.fresh_folder(SERVICE_USER, "validate")
    config = write_config(local)
    for arguments in (["--help"], ["validate", str(config)]):
        ours, peer = [], []
        for _sample in range(samples):
            ours.append(1000 * environment.run([environment.runtime / "fractal-slurm", *arguments]).wall_s)
            peer.append(1000 * environment.run([SYSTEM_PYTHON, "-c", "pass"]).wall_s)
        best, other = statistics.median(ours), statistics.median(peer)
        yield Result(
            f"fractal-slurm {arguments[0]}",
            "ms",
            best,
            other,
            "python3 -c pass",
            "<= 250 ms",
            best <= 250,
            {"ours_ms": ours, "peer_ms": peer},
        )


# --- tasks that start a Python


def real_tasks(environment: Environment, images: int = 96, jobs: int = 4) -> Iterator[Result]:
    """Project 96 images with fractal-tasks-core, forked beside fresh and submitit (fractal-server: server-real)."""
    python = environment.tasks_python()
    folder = environment.fresh_folder(USER, "images")
    make = environment.copy_script("ours/make_images.py")
    environment.run([python, make, folder, str(images)], user=USER)
    module = environment.run([python, "-c", "import fractal_tasks_core.projection as p; print(p.__file__)"], user=USER)
    command = f"{python} {module.stdout.strip()}"
    parameters = [{"zarr_url": f"{folder}/{index}.zarr", "overwrite": True} for index in range(images)]
    options: dict[str, Any] = {"mem": "500M", "parameters": parameters}
    figures = {
        "fork": run_ours(environment, command, images, jobs, task_start="fork", **options),
        "fresh": run_ours(environment, command, images, jobs, **options),
        "submitit": environment.ask_tasks("run_submitit_projection.py", {"urls": [p["zarr_url"] for p in parameters],
                                          "folder": str(environment.fresh_folder(USER, "submitit"))}),
    }  # fmt: skip
    rates = {name: figure["succeeded"] / figure["wall_s"] for name, figure in figures.items()}
    what = f"{images} images projected in {jobs} jobs of {CPUS} slots"
    reached = rates["fork"] >= 3 * rates["fresh"] and figures["fork"]["succeeded"] == images
    yield Result(what, "tasks/s", rates["fork"], rates["fresh"], "ours, task_start = fresh", ">= 3 x", reached, figures)
    yield Result(what, "tasks/s", rates["fork"], rates["submitit"], "submitit 1.5.4, a job array", "", True, {})


def tiny_tasks(environment: Environment, tasks: int = 800, jobs: int = 4) -> Iterator[Result]:
    """Run 800 tasks of a small Python script (argparse, json), forked beside fresh."""
    command = f"{SYSTEM_PYTHON} {environment.copy_script('ours/tiny_task.py')}"
    rates = {}
    for task_start in ("fresh", "fork"):
        report = run_ours(environment, command, tasks, jobs, mem="100M", task_start=task_start)
        if report["succeeded"] != tasks:
            raise BenchmarkError(f"{tasks - report['succeeded']} of {tasks} tasks did not succeed.")
        rates[task_start] = tasks / report["wall_s"]
    yield Result(
        f"{tasks} tasks of a small Python script in {jobs} jobs",
        "tasks/s",
        rates["fork"],
        rates["fresh"],
        "ours, task_start = fresh",
        ">= 2 x",
        rates["fork"] >= 2 * rates["fresh"],
        rates,
    )


def growth(environment: Environment) -> Iterator[Result]:
    """See how the cost of a run of empty tasks grows with the number of tasks and of jobs."""
    for tasks, jobs in ((100, 4), (1000, 4), (10_000, 4), (50_000, 4), (100, 1), (100, 10), (100, 100)):
        report = run_ours(environment, "sh -c 'exec true'", tasks, jobs, mem="100M")
        if report["succeeded"] != tasks:
            raise BenchmarkError(f"{tasks - report['succeeded']} of {tasks} empty tasks did not succeed.")
        calls = f"{report['sudo_calls']} sudo and {report['squeue_calls']} squeue calls, {report['peak_mb']:.0f} MB"
        yield Result(f"{tasks:,} empty tasks in {jobs} jobs", "s", report["wall_s"], None, calls, "", True, report)


ROWS: Mapping[str, Callable[[Environment], Iterator[Result]]] = {
    "cli": command_line,
    "worker-start": worker_start,
    "worker": beside_hyperqueue,
    "plan": plan_a_million,
    "collect": collecting,
    "throughput": throughput,
    "empty": empty_tasks,
    "some": some_tasks,
    "calls": single_calls,
    "tiny": tiny_tasks,
    "real": real_tasks,
    "many": many_tasks,
    "many-small": many_small_tasks,
    "growth": growth,
    "submit": submitting,
    "runs": many_runs,
    "runs-tiny": tiny_runs,
    "sdiag": several_processes,
    "server-empty": empty_wells,
    "server-some": some_wells,
    "server-memory": small_memory,
    "server-real": real_wells,
}
