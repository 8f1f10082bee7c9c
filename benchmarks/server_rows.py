# SPDX-License-Identifier: BSD-3-Clause
"""Whole workflows through the API of a real fractal-server with its database: its own runner, the hook, the engine.

The three run one after the other on one server, in the same run. FRACTAL_BENCH_SERVER_PYTHON names the server's Python:
3.13 or newer has fractal-server 2.26.0, an older one 2.18.5.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .environment import CPUS, NODES, REPOSITORY, SERVICE_USER, SYSTEM_PYTHON, USER, BenchmarkError, Environment
from .result import Result

sys.path.insert(0, str(REPOSITORY / "examples" / "server"))

import demo_server
from fractal_api import ApiError, Client
from local_server import LocalServer, ServerError, SudoLog

SLOTS = NODES * CPUS
PORT = 27190
PYTHON = os.environ.get("FRACTAL_BENCH_SERVER_PYTHON", SYSTEM_PYTHON)
SUDOERS = Path("/etc/sudoers.d/fractal-slurm-bench-server")
WAYS = ("built-in", "hook", "engine")
LIMIT_S = 1800.0


@dataclass(frozen=True)
class Work:
    """A workflow: what makes its images, and what is measured on each of them.

    Attributes:
        steps: Makes the workflow's steps for a user of the server.
        task: The name of the task that runs on each image.
        images: How many there are.
        config: The SLURM configuration of the server's resource.
        environment: Further variables of the server, by the way that it runs jobs.
    """

    steps: Callable[[Client], list[tuple[int, Mapping[str, Any]]]]
    task: str
    images: int
    config: dict[str, Any]
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass
class Bench:
    """A fractal-server in the benchmarks' environment.

    Attributes:
        environment: Where it runs.
        server: The server.
        sudo: What sudo runs for it.
        version: Of fractal-server.
    """

    environment: Environment
    server: LocalServer
    sudo: SudoLog
    version: str

    @property
    def peer(self) -> str:
        """What the peer is called."""
        return f"fractal-server {self.version}, its own runner"

    def run(self, way: str, work: Work) -> dict[str, Any]:
        """Run one workflow.

        Args:
            way: One of ``WAYS``.
            work: The workflow.

        Returns:
            wall_s, status, lost, jobs, sudo_calls, and cpu_s and peak_mb of the server's processes; of the step that
            runs on each image also its seconds, task_s.

        Raises:
            BenchmarkError: It could not be run.
        """
        try:
            self.server.start(engine=way == "engine", environment=work.environment.get(way))
            hook = demo_server.hook_of(self.environment.runtime / "fractal-slurm") if way == "hook" else None
            if way == "hook" and hook is None:
                raise BenchmarkError("the runtime has no hook")
            self.server.give_resource(demo_server.with_hook(work.config, hook))
            # The server remembers it from one time to the next: no folder that is deleted meanwhile.
            home = Path(pwd.getpwnam(USER).pw_dir)
            return self._measure(self.server.user(USER, home), way, work)
        except (ServerError, ApiError) as error:
            raise BenchmarkError(f"{way}: {error}") from error

    def _measure(self, client: Client, way: str, work: Work) -> dict[str, Any]:
        steps = work.steps(client)
        workflow = client.workflow(f"{way} {time.time():.0f}", steps)
        calls, jobs, began = self.sudo.count(), self.sudo.count("sbatch"), time.monotonic()
        before = usage(self.server.processes())
        seen: list[float] = []  # when the first look found images to work on

        def look(units: dict[str, int]) -> None:
            if not seen and sum(units.values()) > 1:
                seen.append(time.monotonic())

        ended = workflow.wait(workflow.submit(), LIMIT_S, look, interval=1.0)
        wall = time.monotonic() - began
        after = usage(self.server.processes())
        submitted, log = self.sudo.count("sbatch") - jobs, (ended.get("log") or "")[-500:]
        if submitted < len(steps):
            raise BenchmarkError(f"not every step of the workflow was submitted: {log}")
        done = sum(run["num_done_units"] for run in workflow.runs() if run["task"] == work.task)
        return {
            "wall_s": wall,
            "task_s": time.monotonic() - seen[0] if seen else wall,
            "status": ended["status"],
            "lost": work.images - done,
            "jobs": submitted,
            "sudo_calls": self.sudo.count() - calls,
            "server_cpu_s": after[0] - before[0],
            "server_peak_mb": after[1],
            "log": log if ended["status"] != "done" else "",
        }

    def wells(self, wells: int, sleep_s: float, mem: str = "1000M") -> Work:
        """A plate is made, and each of its wells is a task that sleeps.

        Args:
            wells: Number of wells.
            sleep_s: Seconds that each task sleeps.
            mem: Memory of a task.
        """

        def steps(client: Client) -> list[tuple[int, Mapping[str, Any]]]:
            folder = self.server.base / "tasks"
            tasks = client.collect(demo_server.LABEL, SYSTEM_PYTHON, str(folder), demo_server.TASKS)
            return [
                (tasks["Make plate"], {"args_non_parallel": {"wells": wells, "images": False}}),
                (tasks["Measure wells"], {"args_parallel": {"sleep": sleep_s}}),
            ]

        return Work(steps, "Measure wells", wells, config(mem))

    def scripts(self, script: Path, tasks: int, jobs: int, mem: str) -> Work:
        """The tasks of other rows: each is a script of sh, in as many jobs as ``fractal-slurm run`` makes of them.

        Args:
            script: The script.
            tasks: Number of tasks.
            jobs: Number of SLURM jobs.
            mem: Memory of a task.
        """

        def steps(client: Client) -> list[tuple[int, Mapping[str, Any]]]:
            (plate, arguments), _measure = self.wells(tasks, 0).steps(client)
            task = {"name": script.name, "executable_parallel": script.name, "type": "parallel"}
            made = client.collect(script.name, "/bin/sh", str(script.parent), [task])
            batches = {"tasks_per_job": -(-tasks // jobs), "parallel_tasks_per_job": CPUS}
            return [(plate, arguments), (made[script.name], {"meta_parallel": batches})]

        return Work(steps, script.name, tasks, config(mem, jobs))

    def beside(self, work: Work, ways: Sequence[str] = WAYS) -> dict[str, dict[str, Any]]:
        """Run the same workflow in several ways; one that can't be run is left out, and said."""
        found = {}
        for way in ways:
            try:
                found[way] = self.run(way, work)
            except BenchmarkError as error:
                if way == "built-in":
                    raise
                print(f"server: {way}: not measured: {error}", file=sys.stderr)
        self.server.stop()
        return found


def config(mem: str, jobs: int = NODES) -> dict[str, Any]:
    """The SLURM configuration of the server's resource: jobs of four slots."""
    return {
        "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": mem},
        "batching_config": {
            "target_cpus_per_job": CPUS,
            "max_cpus_per_job": CPUS,
            "target_mem_per_job": 4000,
            "max_mem_per_job": 4000,
            "target_num_jobs": jobs,
            "max_num_jobs": jobs,
        },
    }


def usage(pids: Sequence[int]) -> tuple[float, float]:
    """Seconds of CPU of some processes and of what they waited for; and the most memory of any of them, in MB."""
    seconds, peak = 0.0, 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        peak = max([peak, *(int(line.split()[1]) / 1000 for line in lines)])
    return seconds, peak


def set_up(environment: Environment) -> Bench:
    """Bring a fractal-server up, with the engine in its virtual environment.

    Raises:
        BenchmarkError: A step failed.
    """
    base = environment.base / "server"
    asked = subprocess.run(
        [PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True, check=True
    )
    newest = "2.26.0" if tuple(map(int, asked.stdout.split())) >= (3, 13) else "2.18.5"
    server = LocalServer(base, environment.bin, SERVICE_USER, PORT, PYTHON, newest)
    try:
        version = server.set_up()
        sudo = SudoLog(SUDOERS, SERVICE_USER, environment.bin, base / "sudo.log")
        sudo.set_up()
    except ServerError as error:
        raise BenchmarkError(str(error)) from error
    pip: list[str | Path] = [
        server.venv / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, REPOSITORY / "python_runtime"], check=True, capture_output=True, umask=0o022)
    again: list[str | Path] = ["--no-deps", "--force-reinstall", REPOSITORY / "python_runtime"]
    subprocess.run([*pip, *again], check=True, capture_output=True, umask=0o022)
    folder = base / "tasks"
    folder.mkdir(mode=0o755, exist_ok=True)
    for source in demo_server.TASK_FILES:
        copy = folder / source.name
        copy.write_bytes(source.read_bytes())
        copy.chmod(0o644)
    return Bench(environment, server, sudo, version)


def take_down(environment: Environment) -> None:
    """Stop the server and its database, and let sudo be as it was."""
    SUDOERS.unlink(missing_ok=True)
    LocalServer(environment.base / "server", environment.bin, SERVICE_USER, PORT, PYTHON).stop()


def empty_wells(environment: Environment, wells: int = 1536) -> Iterator[Result]:
    """Run 1,536 wells of 0 s through fractal-server's API: engine and hook beside its own runner."""
    bench = set_up(environment)
    figures = bench.beside(bench.wells(wells, 0))
    peer = figures["built-in"]
    for way, times in (("engine", 4.0), ("hook", 2.5)):
        if way not in figures:
            continue
        ours = figures[way]
        reached = ours["lost"] == 0 and peer["wall_s"] >= times * ours["wall_s"]
        what = f"{wells:,} wells of 0 s through the API, {way}"
        yield Result(what, "s", ours["wall_s"], peer["wall_s"], bench.peer, f">= {times:g} x", reached, figures)
        yield Result("  tasks lost", "tasks", ours["lost"], peer["lost"], bench.peer, "0", ours["lost"] == 0)
        yield Result("  sudo calls", "calls", ours["sudo_calls"], peer["sudo_calls"], bench.peer, "", True)
        if way == "engine":
            calls = ours["sudo_calls"] / max(ours["jobs"], 1)
            yield Result("  sudo calls a job", "calls", calls, None, "", "<= 3", calls <= 3)
            for name, unit in (("server_peak_mb", "MB"), ("server_cpu_s", "s")):
                yield Result(
                    f"  {name[: -len(unit) - 1]}".replace("_", " "), unit, ours[name], peer[name], bench.peer, "", True
                )


def some_wells(environment: Environment, wells: int = 200) -> Iterator[Result]:
    """Run 200 wells of 1 s through fractal-server's API, beside xargs in jobs of this shape and its own runner."""
    # The ideal of 13 s leaves out the starts of 200 Pythons: xargs has them, too.
    bench = set_up(environment)
    figures = bench.beside(bench.wells(wells, 1))
    floor = floor_of_wells(environment, bench.server.base / "tasks", wells)
    for way in WAYS[1:]:
        if way not in figures:
            continue
        ours, peer = figures[way], figures["built-in"]
        what = f"{wells} wells of 1 s through the API, {way}"
        if way == "engine":
            reached = ours["lost"] == 0 and ours["task_s"] <= 1.25 * floor
            goal, details = "<= 1.25 x the floor", {**figures, "ideal_s": -(-wells // SLOTS) * 1.0}
            yield Result(f"{what}: this step", "s", ours["task_s"], floor, "xargs -P4 in jobs", goal, reached, details)
        yield Result(what, "s", ours["wall_s"], peer["wall_s"], bench.peer, "", True, figures)


def floor_of_wells(environment: Environment, tasks: Path, wells: int) -> float:
    """Seconds from the first sbatch to the end of the last job, where xargs starts the tasks in jobs of this shape."""
    folder = environment.fresh_folder(USER, "xargs")
    arguments = folder / "args.json"
    arguments.write_text('{"zarr_url": "/none/plate.zarr/A-1", "sleep": 1}', encoding="ascii")
    arguments.chmod(0o644)
    task = f"{SYSTEM_PYTHON} {tasks / 'measure_plate.py'} --args-json {arguments} --out-json {folder}/$SLURM_JOB_ID-"
    script = (
        f"#!/bin/sh\n#SBATCH --ntasks={CPUS} --mem=4000M --output=/dev/null --chdir={folder}\n"
        f"seq {wells // NODES} | xargs -P{CPUS} -I NUMBER {task}NUMBER.json\n"
    )
    began = time.monotonic()
    jobs = [
        int(environment.run([environment.bin / "sbatch", "--parsable"], user=USER, stdin=script).stdout)
        for _node in range(NODES)
    ]
    environment.wait_for_jobs(jobs)
    seconds = time.monotonic() - began
    done = len(list(folder.glob("*-*.json")))
    if done != wells:
        raise BenchmarkError(f"{wells - done} of {wells} tasks that xargs started have no result")
    return seconds


def small_memory(environment: Environment, wells: int = 400) -> Iterator[Result]:
    """Run 400 wells at 100 MB a task through fractal-server's API: none lost."""
    bench = set_up(environment)
    figures = bench.beside(bench.wells(wells, 0, "100M"))
    for way in WAYS[1:]:
        if way in figures:
            lost = figures[way]["lost"]
            what = f"{wells} wells at 100 MB through the API, {way}: lost"
            yield Result(what, "tasks", lost, figures["built-in"]["lost"], bench.peer, "0", lost == 0, figures)


def real_wells(environment: Environment, images: int = 96) -> Iterator[Result]:
    """Project 96 images with fractal-tasks-core through fractal-server's API: forks beside its own runner."""
    python = environment.tasks_python()
    module = environment.run([python, "-c", "import fractal_tasks_core.projection as p; print(p.__file__)"], user=USER)
    package = Path(module.stdout.strip()).parent
    bench = set_up(environment)
    folder = bench.server.base / "tasks"
    for name in ("make_images.py", "convert_images.py"):
        copy = folder / name
        copy.write_bytes((REPOSITORY / "benchmarks" / "ours" / name).read_bytes())
        copy.chmod(0o644)
    making = {
        "name": "Make images", "executable_non_parallel": "convert_images.py", "type": "converter_non_parallel",
    }  # fmt: skip
    projecting = {"name": "Project image", "executable_parallel": "projection.py", "type": "parallel"}

    def steps(client: Client) -> list[tuple[int, Mapping[str, Any]]]:
        made = client.collect("images", str(python), str(folder), [making])
        projected = client.collect("core", str(python), str(package), [projecting])
        return [
            (made["Make images"], {"args_non_parallel": {"images": images}}),
            (projected["Project image"], {"args_parallel": {"overwrite": True}}),
        ]

    work = Work(steps, "Project image", images, config("500M"), {"engine": {"FRACTAL_SLURM_TASK_START": "fork"}})
    figures = bench.beside(work, ("built-in", "engine"))
    if "engine" in figures:
        ours, peer = figures["engine"], figures["built-in"]
        reached = ours["lost"] == 0 and peer["task_s"] >= 4 * ours["task_s"]
        what = f"{images} images projected through the API, engine with forks"
        yield Result(what, "s", ours["task_s"], peer["task_s"], bench.peer, ">= 4 x", reached, figures)
        yield Result("  the whole workflow", "s", ours["wall_s"], peer["wall_s"], bench.peer, "", True)
        yield Result("  tasks lost", "tasks", ours["lost"], peer["lost"], bench.peer, "0", ours["lost"] == 0)
