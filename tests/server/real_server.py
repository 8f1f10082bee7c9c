# SPDX-License-Identifier: GPL-3.0-or-later
"""A real fractal-server with its PostgreSQL, and a SLURM of its own, for the tests of this folder."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY / "examples" / "server"))

import golden_cases  # noqa: E402 - and these are beside it
import golden_picture  # noqa: E402
from fractal_api import Client, Workflow  # noqa: E402
from local_server import LocalServer, must  # noqa: E402

LANE = int(os.environ.get("FRACTAL_TEST_FIRST_LANE", "0"))
NAME = f"fsg{LANE}"
BASE = Path(f"/var/lib/fractal-slurm-golden-{LANE}")
SERVICE, USER = f"{NAME}-svc", f"{NAME}-anna"
SUDOERS = Path(f"/etc/sudoers.d/fractal-slurm-golden-{LANE}")
PORT = 20000 + 100 * (LANE % 50)  # of SLURM; the server's is one of the next. Below those that the kernel gives away
TESTBED = REPOSITORY / "roles" / "testbed" / "files" / "testbed.py"
PYTHON = os.environ.get("PYTHON", "/usr/bin/python3")
VERSION = os.environ.get("SERVER_VERSION")
NODES, CPUS = 2, 4
CONFIG: dict[str, Any] = {
    "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": "1000M"},
    "batching_config": {
        "target_cpus_per_job": CPUS,
        "max_cpus_per_job": CPUS,
        "target_mem_per_job": 4000,
        "max_mem_per_job": 4000,
        "target_num_jobs": 4,
        "max_num_jobs": 200,
    },
    "user_local_exports": {"EXPORTED": "my/cache"},
}
_LARGE_ZIP = 1 << 20  # of a smaller one, fractal-server keeps the folder
ACCOUNTING = ("accountingrecord", "accountingrecordslurm")


@dataclass
class RealServer:
    """The server, and what the tests do with it.

    Attributes:
        server: The server.
        version: Of fractal-server.
        client: The user.
        tasks: The tasks by name.
    """

    server: LocalServer
    version: str = ""
    client: Client = field(default=None)  # type: ignore[assignment]
    tasks: dict[str, int] = field(default_factory=dict)
    _number: int = 0

    @classmethod
    def set_up(cls) -> RealServer:
        """Bring all of it up."""
        settings = {
            "base": str(BASE), "name": NAME, "port": PORT, "nodes": NODES, "cpus": CPUS, "memory_mb": 8000,
            "users": {SERVICE: [], USER: []}, "slurm_conf": {"KillWait": "3"},
        }  # fmt: skip
        must(["/usr/bin/python3", str(TESTBED), "start", "--settings", json.dumps(settings)])
        binaries = BASE / "bin"
        commands = [binaries / "sbatch", binaries / "scancel", "/usr/bin/cat", "/usr/bin/ls", "/usr/bin/mkdir"]
        draft = BASE / "sudoers"
        draft.write_text(
            f'Defaults:{SERVICE} !requiretty, secure_path="{binaries}:/usr/bin:/bin"\n'
            f"{SERVICE} ALL = ({USER}) NOPASSWD: {', '.join(map(str, commands))}\n",
            encoding="ascii",
        )
        must(["/usr/sbin/visudo", "-cqf", str(draft)])
        must(["install", "-m", "440", str(draft), str(SUDOERS)])
        self = cls(LocalServer(BASE / f"server-{VERSION or 'newest'}", binaries, SERVICE, PORT + 90, PYTHON, VERSION))
        self.version = self.server.set_up()
        pip = [str(self.server.venv / "bin" / "python"), "-m", "pip", "install", "--quiet",
               "--disable-pip-version-check", str(REPOSITORY / "python_runtime")]  # fmt: skip
        must(pip)
        must([*pip, "--no-deps", "--force-reinstall"])
        folder = BASE / "tasks"
        folder.mkdir(mode=0o755, exist_ok=True)
        shutil.copyfile(HERE / golden_cases.SCRIPT, folder / golden_cases.SCRIPT)
        (folder / golden_cases.SCRIPT).chmod(0o644)
        self.start(engine=False)
        self.server.give_resource(CONFIG, poll_interval=1)
        self.client = self.server.user(USER, Path(pwd.getpwnam(USER).pw_dir))
        self.tasks = self.client.collect("golden", "/usr/bin/python3", str(folder), golden_cases.TASKS)
        gone = folder / "gone"
        if not self.client.tasks("gone"):
            gone.symlink_to("/usr/bin/python3")
        self.tasks |= self.client.collect("gone", str(gone), str(folder), golden_cases.GONE)
        gone.unlink(missing_ok=True)
        return self

    def start(self, *, engine: bool, more: Mapping[str, str] | None = None) -> None:
        """Start the server on its own runner or on the engine; ``more`` are further variables."""
        environment = {
            "FRACTAL_SLURM_SLURM_BIN_DIR": str(BASE / "bin"),
            "FRACTAL_SLURM_STATE_DIR": str(self.server.base / "state" / "engine"),
            "FRACTAL_SLURM_RESULTS_WAIT_S": "4",
            "FRACTAL_SLURM_CANCEL_GRACE_S": "3",
            **(more or {}),
        }
        self.server.start(engine=engine, environment=environment)

    def take_down(self, *, remove: bool) -> None:
        """Stop all of it; with ``remove``, leave nothing."""
        self.server.stop()
        SUDOERS.unlink(missing_ok=True)
        action = "remove" if remove else "stop"
        must(["/usr/bin/python3", str(TESTBED), action, "--base", str(BASE)])
        if remove:
            shutil.rmtree(BASE, ignore_errors=True)

    # --- workflows

    def prepare(self, case: golden_cases.Case) -> tuple[Workflow, Path]:
        """Make the workflow of a case, with its dataset; returns it and the folder of its marks."""
        self._number += 1
        marks = BASE / "marks" / f"{os.getpid()}-{self._number:03d}"
        marks.mkdir(parents=True)
        account = pwd.getpwnam(USER)
        os.chown(marks, account.pw_uid, account.pw_gid)

        def arguments(given: Any) -> dict[str, Any]:
            return {key: str(marks) if value == golden_cases.MARKS else value for key, value in given.items()}

        steps = []
        for step in case.steps:
            body: dict[str, Any] = {}
            kind = next(each for each in (*golden_cases.TASKS, *golden_cases.GONE) if each["name"] == step.task)
            if "executable_non_parallel" in kind:
                body["args_non_parallel"] = arguments(step.all)
            if "executable_parallel" in kind:
                body["args_parallel"] = arguments(step.each)
            if step.meta:
                body["meta_parallel" if "executable_parallel" in kind else "meta_non_parallel"] = dict(step.meta)
            steps.append((self.tasks[step.task], body))
        workflow = self.client.workflow(f"golden {os.getpid()} {time.time():.0f} {self._number:03d}", steps)
        path = f"/api/v2/project/{workflow.project}/dataset/{workflow.dataset}/"
        zarr_dir = self.client.call("GET", path)["zarr_dir"]
        for number in range(case.images):
            image = {"zarr_url": f"{zarr_dir}/plate/W{number:05d}", "attributes": {"well": f"W{number:05d}"}}
            self.client.call("POST", f"{path}images/", image)
        return workflow, marks

    def run(self, case: golden_cases.Case) -> golden_picture.Picture:
        """Run a workflow to its end, and return what it left."""
        workflow, marks = self.prepare(case)
        before = {name: self._last(name) for name in ACCOUNTING}
        job = workflow.submit(case.body)
        try:
            if case.stop_when:
                self.wait_for_marks(workflow, job, marks, case.stop_when, case.units_done)
                workflow.stop(job)
            ended = workflow.wait(job, case.limit_s, interval=0.3)
        except BaseException:
            workflow.stop(job)
            raise
        self.wait_for_zip(ended)
        return golden_picture.of_job(self.server, workflow, ended, before, str(marks))

    def _last(self, table: str) -> int:
        return int(self.server.query(f"select coalesce(max(id), 0) from {table}"))  # noqa: S608 - one of ours

    @staticmethod
    def wait_for_marks(workflow: Workflow, job: int, marks: Path, number: int, done: int = 0) -> None:
        """Wait until tasks have left their marks, and others are done."""
        deadline = time.monotonic() + 120
        while len(os.listdir(marks)) < number or workflow.units()["done"] < done:
            state = workflow.job(job)
            assert state["status"] == "submitted", f"it ended too early: {state}"
            assert time.monotonic() < deadline, f"only {os.listdir(marks)} began; units: {workflow.units()}"
            time.sleep(0.2)

    @staticmethod
    def wait_for_zip(job: dict[str, Any], limit_s: float = 60) -> None:
        """Wait until the job's folder is zipped, and removed if it is large. That comes after the job's status."""
        folder = Path(job["working_dir"])
        zipped = Path(f"{folder}.zip")
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if zipped.exists() and (not folder.exists() or zipped.stat().st_size < _LARGE_ZIP):
                return
            time.sleep(0.1)

    def squeue(self) -> list[str]:
        """The ids of the SLURM jobs that have not ended."""
        asked = [str(BASE / "bin" / "squeue"), "--noheader", "--format=%i"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
