# SPDX-License-Identifier: BSD-3-Clause
"""Where the benchmarks run: a SLURM of their own, its users, and a virtual environment each for ours and the peers.

Everything is below one folder, which root owns and everybody can read, since other users must run what is in it; a
checkout may lie where they can't. One sudoers file beside it lets the service account act as the others.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
TESTBED = REPOSITORY / "roles" / "testbed" / "files" / "testbed.py"
SYSTEM_PYTHON = "/usr/bin/python3"  # an interpreter that every user may execute

SERVICE_USER = "fsbench"
USER = "fsbench-user"
USERS = (USER, *(f"{USER}-{number}" for number in range(2, 21)))  # for the rows of many users
NODES, CPUS, MEMORY_MB = 4, 4, 8000
SUDOERS_FILE = Path("/etc/sudoers.d/fractal-slurm-bench")

# What the tasks do. They ignore the --args-json and --out-json that both systems append.
TASKS = {"sleep-1": "exec sleep 1", "sleep-0.1": "exec sleep 0.1", "sleep-0": "exec true"}


class BenchmarkError(Exception):
    """The benchmark can't go on; the message is a sentence for whoever started it."""


@dataclass(frozen=True)
class Finished:
    """A process that has ended.

    Attributes:
        stdout: What it wrote.
        stderr: What it wrote there.
        returncode: Its exit code, negative for a signal.
        began: When it was started, in seconds since the epoch.
        wall_s: How long it took.
        peak_mb: The most memory that it, or a process it waited for, held at once.
    """

    stdout: str
    stderr: str
    returncode: int
    began: float
    wall_s: float
    peak_mb: float


@dataclass(frozen=True)
class Environment:
    """A SLURM of 4 nodes with 4 CPUs each on this machine, and what runs on it."""

    base: Path
    port: int = 27100
    _fresh: list[int] = field(default_factory=list)

    @property
    def bin(self) -> Path:
        """The folder of sbatch, squeue and the like."""
        return self.base / "bin"

    @property
    def runtime(self) -> Path:
        """The bin folder of the virtual environment that has our runtime."""
        return self.base / "runtime" / "bin"

    @property
    def peers(self) -> Path:
        """The bin folder of the virtual environment that has the peers."""
        return self.base / "peers" / "bin"

    def tasks_python(self) -> Path:
        """Make the virtual environment that has real Fractal tasks, of 1 GB, where it is missing; give its Python."""
        lines = (REPOSITORY / "benchmarks" / "requirements.txt").read_text(encoding="utf-8").split()
        submitit = next(line for line in lines if line.startswith("submitit=="))
        self._make_venv("fractal-tasks", ["-r", str(REPOSITORY / "tools" / "requirements-tasks.txt"), submitit])
        return self.base / "fractal-tasks" / "bin" / "python"

    def task(self, name: str) -> str:
        """Give the absolute path of one of TASKS."""
        return str(self.base / "tasks" / name)

    def fresh_folder(self, user: str, name: str) -> Path:
        """Make an empty folder that belongs to a user, new with each call."""
        self._fresh.append(0)
        account = pwd.getpwnam(user)
        folder = self.base / "work" / f"{os.getpid()}-{len(self._fresh)}-{name}"
        folder.mkdir(mode=0o755, parents=True)
        os.chown(folder, account.pw_uid, account.pw_gid)
        return folder

    def wait_for_jobs(self, jobs: Sequence[int]) -> None:
        """Wait until squeue has none of the jobs left among the unfinished."""
        argv: list[str | Path] = [
            self.bin / "squeue",
            "--noheader",
            "--format=%i",
            f"--jobs={','.join(map(str, jobs))}",
        ]
        while self.run(argv).stdout.strip():
            time.sleep(0.5)

    def give(self, folder: Path, destination: Path, user: str) -> None:
        """Move a folder to where a user keeps it, and make all of it the user's."""
        account = pwd.getpwnam(user)
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, destination)
        for path in (destination.parent, destination, *destination.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid)

    # --- setting up and taking down

    def set_up(self) -> None:
        """Bring everything up, keeping what is there already.

        Raises:
            BenchmarkError: Not root, or a step failed.
        """
        if os.geteuid() != 0:
            raise BenchmarkError("The benchmarks start a SLURM and act as other users, so they must be run as root.")
        self._start_testbed()
        self._write_sudoers()
        tasks = self.base / "tasks"
        tasks.mkdir(exist_ok=True)
        for name, line in TASKS.items():
            path = tasks / name
            path.write_text(f"#!/bin/sh\n{line}\n", encoding="ascii")
            path.chmod(0o755)
        self._make_venv("runtime", [str(REPOSITORY / "python_runtime")], always=True)
        self._make_venv("peers", ["-r", str(REPOSITORY / "benchmarks" / "requirements.txt")])

    def stop(self) -> None:
        """Stop the daemons, and delete what the runs left; all else is kept for the next time."""
        if (self.base / "settings.json").exists():
            self._must([SYSTEM_PYTHON, str(TESTBED), "stop", "--base", str(self.base)])
        shutil.rmtree(self.base / "work", ignore_errors=True)

    def take_down(self) -> None:
        """Remove everything, the users too."""
        SUDOERS_FILE.unlink(missing_ok=True)
        self._must([SYSTEM_PYTHON, str(TESTBED), "remove", "--base", str(self.base)])
        shutil.rmtree(self.base, ignore_errors=True)

    def _start_testbed(self) -> None:
        settings = {
            "base": str(self.base),
            "name": "bench",
            "port": self.port,
            "nodes": NODES,
            "cpus": CPUS,
            "memory_mb": MEMORY_MB,
            "users": {SERVICE_USER: [], **{user: [] for user in USERS}},
        }
        self._must([SYSTEM_PYTHON, str(TESTBED), "start", "--settings", json.dumps(settings)])

    def _write_sudoers(self) -> None:
        """Grant what both systems need; fractal-server finds sbatch by secure_path, ours by its absolute path."""
        commands = [self.bin / "sbatch", self.bin / "scancel", "/usr/bin/cat", "/usr/bin/ls", "/usr/bin/mkdir"]
        text = (
            f'Defaults:{SERVICE_USER} !requiretty, secure_path="{self.bin}:/usr/bin:/bin"\n'
            f"{SERVICE_USER} ALL = ({', '.join(USERS)}) NOPASSWD: {', '.join(map(str, commands))}\n"
        )
        candidate = self.base / "sudoers"
        candidate.write_text(text, encoding="ascii")
        candidate.chmod(0o440)
        self._must(["visudo", "-cf", str(candidate)])
        os.replace(shutil.copy2(candidate, f"{SUDOERS_FILE}.partial"), SUDOERS_FILE)

    def _make_venv(self, name: str, requirements: Sequence[str], *, always: bool = False) -> None:
        """Make a virtual environment; one with a marker is complete and kept, unless it is to be renewed always."""
        folder = self.base / name
        marker = folder / "complete"
        if marker.exists() and not always:
            return
        if not folder.exists():
            self._must([SYSTEM_PYTHON, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        if always and marker.exists():
            pip += ["--no-deps", "--force-reinstall"]
        self._must([*pip, *requirements])
        marker.touch()

    @staticmethod
    def _must(argv: Sequence[str]) -> None:
        completed = subprocess.run(argv, capture_output=True, text=True, check=False, umask=0o022)
        if completed.returncode != 0:
            raise BenchmarkError(f"`{' '.join(argv)}` ended with {completed.returncode}:\n{completed.stderr.strip()}")

    # --- running

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        user: str = SERVICE_USER,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> Finished:
        """Run a command as a user, with a plain environment, and measure it.

        Raises:
            BenchmarkError: The command failed and ``check`` is set.
        """
        account = pwd.getpwnam(user)
        plain = {
            "HOME": account.pw_dir,
            "USER": user,
            "LOGNAME": user,
            "LANG": "C.UTF-8",
            "PATH": f"{self.bin}:{self.runtime}:/usr/local/bin:/usr/bin:/bin",
        }
        # A process of our own waits for the command, so that its children's memory is the command's alone.
        with subprocess.Popen(
            [sys.executable, "-c", _WAITER, *map(str, argv)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env=plain | dict(environment or {}) | {"BENCH_USER": f"{account.pw_uid}:{account.pw_gid}"},
        ) as process:
            stdout, stderr = process.communicate(stdin)
        stderr, _newline, last = stderr.rstrip("\n").rpartition("\n")
        returncode, began, wall_s, peak_kb = json.loads(last)
        if check and returncode != 0:
            raise BenchmarkError(f"`{' '.join(map(str, argv))}` ended with {returncode}:\n{stderr[-2000:]}")
        return Finished(stdout, stderr.rstrip("\n"), returncode, began, wall_s, peak_kb / 1000)

    def ask_peer(self, script: str, request: Mapping[str, Any], *, user: str = SERVICE_USER) -> dict[str, Any]:
        """Run one of the scripts in peers/ with a request and return its figures."""
        return self._ask(self.peers, f"peers/{script}", request, user, {})

    def ask_ours(
        self,
        script: str,
        request: Mapping[str, Any],
        *,
        user: str = SERVICE_USER,
        environment: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run one of the scripts in ours/ with a request and return its figures."""
        return self._ask(self.runtime, f"ours/{script}", request, user, environment or {})

    def ask_tasks(self, script: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run one of the scripts in peers/ as the user, with the Python that has real Fractal tasks."""
        return self._ask(self.tasks_python().parent, f"peers/{script}", request, USER, {})

    def copy_script(self, script: str) -> Path:
        """Copy a script to where every user can read it."""
        source = REPOSITORY / "benchmarks" / script
        copy = Path(shutil.copyfile(source, self.base / "tasks" / source.name))
        copy.chmod(0o644)
        return copy

    def _ask(
        self, venv: Path, script: str, request: Mapping[str, Any], user: str, environment: Mapping[str, str]
    ) -> dict[str, Any]:
        finished = self.run(
            [venv / "python", self.copy_script(script)], user=user, stdin=json.dumps(request), environment=environment
        )
        # The libraries may print as well; the figures are the last line.
        figures: dict[str, Any] = json.loads(finished.stdout.rstrip().rpartition("\n")[2])
        return figures | {"peak_mb": finished.peak_mb}


# Runs a command as BENCH_USER; appends a line with its exit code, start, wall time and peak memory in KB to stderr.
_WAITER = """
import json, os, resource, subprocess, sys, time
uid, gid = map(int, os.environ.pop("BENCH_USER").split(":"))
began, start = time.time(), time.monotonic()
code = subprocess.run(sys.argv[1:], user=uid, group=gid, extra_groups=[]).returncode
wall = time.monotonic() - start
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print("\\n" + json.dumps([code, began, wall, peak]), file=sys.stderr)
"""
