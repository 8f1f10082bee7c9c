#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure a plate through a real fractal-server in three ways, and show what each took.

The ways: the server's own runner, the same with the hook in its jobs, and the engine in place of its runner. Run as
root on a host that the playbook fractal.slurm.demo has set up: `make demo-server` does both.

Exit code: 0 if nothing was lost where ours ran, 1 if something was, 2 if it can't be tried at all.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from fractal_api import ApiError, Client
from local_server import LocalServer, ServerError, SudoLog

PORT = 26880
LABEL = "plate"
TASK_FILES = (
    HERE / "convert_plate.py",
    HERE / "measure_plate.py",
    HERE.parent / "plate" / "make_plate.py",
    HERE.parent / "plate" / "measure_well.py",
)
TASKS: tuple[dict[str, Any], ...] = (
    {"name": "Make plate", "executable_non_parallel": "convert_plate.py", "type": "converter_non_parallel"},
    {"name": "Measure wells", "executable_parallel": "measure_plate.py", "type": "parallel"},
)
WAYS = {"built-in": "fractal-server's own runner", "hook": "the same, with the hook", "engine": "the engine"}
SUDOERS = Path("/etc/sudoers.d/fractal-slurm-demo-server")
LIMIT_S = 900.0
PLAIN_REFRESH_S = 5.0  # between two lines, where they are not redrawn


@dataclass(frozen=True)
class Outcome:
    """What one way came to.

    Attributes:
        way: One of ``WAYS``.
        status: What the server says of the job.
        wall_s: From submission to its end.
        wells: Wells that were measured.
        lost: Wells that were not.
        sudo_calls: Commands that sudo ran for the service account meanwhile.
        log: What the server says of the job.
    """

    way: str
    status: str
    wall_s: float
    wells: int
    lost: int
    sudo_calls: int
    log: str


# --- one workflow


class Line:
    """How far one way is: a bar that is redrawn on a terminal, and a line now and then elsewhere."""

    def __init__(self, title: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._title, self._total = title, total
        self._began = self._written = time.monotonic()
        self._progress = None
        if sys.stdout.isatty():
            counts = "{task.completed:>3} of {task.total} wells  {task.fields[seconds]:5.1f} s  {task.fields[end]}"
            name, words = (TextColumn(text, markup=False) for text in ("  {task.description:<28}", counts))
            self._progress = Progress(name, BarColumn(24), words, console=Console(file=sys.stdout))
            self._task = self._progress.add_task(title, total=total, seconds=0.0, end="")
            self._progress.start()

    def show(self, done: int, *, end: str = "") -> None:
        """Show how far it is, and with ``end`` how it ended."""
        now = time.monotonic()
        if self._progress is not None:
            self._progress.update(self._task, completed=done, seconds=now - self._began, end=end)
            if end:
                self._progress.stop()
        elif end or now - self._written >= PLAIN_REFRESH_S:
            self._written = now
            text = f"  {self._title}: {done} of {self._total} wells, {now - self._began:.1f} s  {end}"
            print(text.rstrip(), flush=True)


def measure(client: Client, way: str, tasks: dict[str, int], wells: int, sudo_log: SudoLog) -> Outcome:
    """Make a plate and measure it, by one workflow."""
    workflow = client.workflow(
        f"plate {way} {time.time():.0f}",
        [
            (tasks["Make plate"], {"args_non_parallel": {"wells": wells}}),
            (tasks["Measure wells"], {"args_parallel": {}}),
        ],
    )
    line = Line(WAYS[way], wells)
    before, began = sudo_log.count(), time.monotonic()
    job = workflow.submit()
    ended = workflow.wait(job, LIMIT_S, lambda units: line.show(max(units["done"] - 1, 0)), 0.5)
    wall = time.monotonic() - began
    measured = sum(run["num_done_units"] for run in workflow.runs() if run["task"] == "Measure wells")
    line.show(measured, end=ended["status"])
    return Outcome(
        way, ended["status"], wall, measured, wells - measured, sudo_log.count() - before, ended.get("log") or ""
    )


# --- the whole


def server_of(arguments: argparse.Namespace) -> LocalServer:
    """The demo's server."""
    return LocalServer(
        base=arguments.base / "server",
        slurm_bin=arguments.base / "bin",
        service_user=arguments.service_user,
        port=arguments.port,
        python=arguments.python,
        version=arguments.version,
    )


def sudo_log_of(server: LocalServer) -> SudoLog:
    """What sudo runs for the demo's service account."""
    return SudoLog(SUDOERS, server.service_user, server.slurm_bin, server.base / "sudo.log")


def hook_of(command: Path) -> str | None:
    """The path of the hook that the runtime has, or None where it has none."""
    asked = subprocess.run(
        [command, "hook-path"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    path = asked.stdout.strip()
    return path if asked.returncode == 0 and os.path.isfile(path) else None


def has_engine(server: LocalServer) -> bool:
    """Whether the engine is in the server's environment, and supports this version."""
    asked = subprocess.run(
        [server.venv / "bin" / "python", "-I", "-m", "fractal_slurm_server"],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return asked.returncode == 0


def with_hook(config: dict[str, Any], hook: str | None) -> dict[str, Any]:
    """A configuration whose jobs begin with the hook, or do not."""
    section = dict(config["default_slurm_config"])
    lines = [line for line in section.get("extra_lines", []) if not line.endswith("/fractal-job.sh")]
    section["extra_lines"] = [f"[ ! -r {hook} ] || . {hook}", *lines] if hook else lines
    return {**config, "default_slurm_config": section}


def prepare(server: LocalServer) -> None:
    """Install the server and its database."""
    print("Setting up PostgreSQL and fractal-server; the first time takes a minute or two.", flush=True)
    version = server.set_up()
    print(f"  fractal-server {version} in {server.venv}")


def run(server: LocalServer, arguments: argparse.Namespace) -> int:
    """Measure the plate in each way; returns the exit code."""
    account = pwd.getpwnam(arguments.user)
    config = json.loads(arguments.config.read_text(encoding="utf-8"))
    for section in ("default_slurm_config", "gpu_slurm_config"):
        config.get(section, {}).pop("pre_submission_commands", None)
    sudo_log = sudo_log_of(server)
    folder = server.base / "tasks"
    folder.mkdir(mode=0o755, exist_ok=True)
    for source in TASK_FILES:
        shutil.copyfile(source, folder / source.name)
        (folder / source.name).chmod(0o644)
    version = server.set_up()
    sudo_log.set_up()
    hook = hook_of(arguments.command)
    ways = ["built-in", *(["hook"] if hook else []), *(["engine"] if has_engine(server) else [])]
    print(
        f"\nfractal-server {version}, a plate of {arguments.wells} wells, measured as {arguments.user}:\n", flush=True
    )
    outcomes = []
    for way in ways:
        server.start(engine=way == "engine")
        server.give_resource(with_hook(config, hook if way == "hook" else None), poll_interval=1)
        client = server.user(arguments.user, Path(account.pw_dir))
        tasks = client.collect(LABEL, "/usr/bin/python3", str(folder), TASKS)
        outcomes.append(measure(client, way, tasks, arguments.wells, sudo_log))
    return tell(server, outcomes, [way for way in WAYS if way not in ways])


def tell(server: LocalServer, outcomes: Sequence[Outcome], missing: Sequence[str]) -> int:
    """Print the table, and where to look; returns the exit code."""
    rows = [("way", "status", "wall time", "sudo calls", "lost tasks")]
    rows += [
        (
            WAYS[each.way],
            each.status,
            f"{each.wall_s:.1f} s",
            str(each.sudo_calls),
            f"{each.lost} of {each.wells + each.lost}",
        )
        for each in outcomes
    ]
    print()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in (rows[0], tuple("-" * width for width in widths), *rows[1:]):
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    for way in missing:
        print(f"  {WAYS[way]}: not installed here")
    for each in outcomes:
        if each.status != "done":
            print(f"\n  {WAYS[each.way]}: {each.log.strip()[-600:]}")
    print(f"\n  The server goes on running: {server.url}/docs shows its API, {server.jobs} its jobs.")
    print(f"  Its administrator's password is in {server.base / 'state' / 'admin.json'}.")
    lost = [each for each in outcomes if each.way != "built-in" and (each.lost or each.status != "done")]
    return 1 if lost else 0


def remove(server: LocalServer) -> None:
    """Take the server, its database and its settings of sudo away."""
    sudo_log_of(server).remove()
    server.remove()


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure a plate through a real fractal-server in three ways.")
    parser.add_argument("do", choices=("prepare", "run", "remove"), help="prepare comes first")
    parser.add_argument("--base", type=Path, required=True, help="the demo's folder")
    parser.add_argument("--service-user", default="fractal-demo", help="who runs the server (default: %(default)s)")
    parser.add_argument("--user", default="plate-anna", help="who measures the wells (default: %(default)s)")
    parser.add_argument("--command", type=Path, help="fractal-slurm (default: bin/fractal-slurm in --base)")
    parser.add_argument("--config", type=Path, help="the SLURM config (default: fractal/slurm_config.json in --base)")
    parser.add_argument("--wells", type=int, default=96, help="number of wells (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="of the server's API (default: %(default)s)")
    parser.add_argument("--python", default="/usr/bin/python3", help="the server's Python, which all users can run")
    parser.add_argument("--version", help="of fractal-server (default: the newest that the Python can install)")
    arguments = parser.parse_args()
    arguments.command = arguments.command or arguments.base / "bin" / "fractal-slurm"
    arguments.config = arguments.config or arguments.base / "fractal" / "slurm_config.json"
    return arguments


def main() -> int:
    """Run from the command line; returns the exit code."""
    arguments = parse_arguments()
    if os.geteuid() != 0:
        print("demo-server: must be run as root.", file=sys.stderr)
        return 2
    server = server_of(arguments)
    try:
        if arguments.do == "remove":
            remove(server)
        elif arguments.do == "prepare":
            prepare(server)
        else:
            return run(server, arguments)
    except (ServerError, ApiError, OSError) as error:
        print(f"demo-server: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. `make demo-clean` takes all of it away.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
