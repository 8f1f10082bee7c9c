# SPDX-License-Identifier: BSD-3-Clause
"""A real SLURM of the tests' own, real sudo, real users; and the command line as a sysadmin's service runs it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
TESTBED = REPO / "roles/testbed/files/testbed.py"
# Under pytest-xdist each worker has a testbed, users and a sudoers file of its own. FRACTAL_TEST_FIRST_LANE keeps two
# checkouts on one machine apart.
LANE = int(os.environ.get("FRACTAL_TEST_FIRST_LANE", "0")) + int(
    os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
)
NAME = f"fst{LANE}"
BASE = Path(f"/var/lib/fractal-slurm-test-{LANE}")
WORK = Path(f"{BASE}-work")
RUNTIME = Path(f"{BASE}-runtime")
SUDOERS = Path(f"/etc/sudoers.d/fractal-slurm-test-{LANE}")
SERVICE = f"{NAME}-svc"
ANNA, BEN, EVE = f"{NAME}-anna", f"{NAME}-ben", f"{NAME}-eve"  # by name, through a group, not allowed
GROUP = f"{NAME}-users"
SETTINGS: dict[str, Any] = {
    "base": str(BASE),
    "name": NAME,
    "port": 27400 + 100 * LANE,
    "groups": [GROUP],
    "users": {SERVICE: [], ANNA: [], BEN: [GROUP], EVE: []},
    "slurm_conf": {"KillWait": "3", "MinJobAge": "5"},
}
# As the testbed starts its daemons.
DAEMON_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "SLURM_CONF": f"{BASE}/etc/slurm.conf",
    "FRACTAL_SLURM_TESTBED": str(BASE),
}
CONFIG: dict[str, Any] = {
    "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": "100M", "time": "00:01:00"},
    "batching_config": {
        "target_cpus_per_job": 4,
        "max_cpus_per_job": 4,
        "target_mem_per_job": "8G",
        "max_mem_per_job": "8G",
        "target_num_jobs": 4,
        "max_num_jobs": 4,
    },
}


ONE_JOB = {"target_num_jobs": 1, "max_num_jobs": 1}
# Every start of a task leaves a line, in a file of its own user's: so a test sees how often each really ran.
COUNTED = '#!/bin/sh\nn=$(sed "s/[^0-9]//g" "$2")\necho $n >> {marks}\nsleep {sleep}\necho "{{}}" > "$4"\n'


def operate(action: str, settings: dict[str, Any] | None = None) -> None:
    """Start, stop or remove the testbed."""
    argv = ["/usr/bin/python3", str(TESTBED), action]
    argv += ["--settings", json.dumps(settings)] if settings else ["--base", str(BASE)]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@dataclass
class Outcome:
    """What one call of the command line came to."""

    code: int
    stdout: str
    stderr: str
    document: Any = None

    def __getitem__(self, key: str) -> Any:
        return self.document[key]


@dataclass
class Call:
    """The command line, as the service account calls it, with a state folder and config of the test's own."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def argv(self, *arguments: str) -> list[str]:
        env = {
            "PATH": "/usr/bin:/bin",
            "HOME": pwd.getpwnam(SERVICE).pw_dir,
            "LANG": "C.UTF-8",
            "FRACTAL_SLURM_SLURM_BIN_DIR": str(BASE / "bin"),
            "FRACTAL_SLURM_CONFIG_FILE": str(self.folder / "config.json"),
            "FRACTAL_SLURM_STATE_DIR": str(self.folder / "state"),
            "FRACTAL_SLURM_RESULTS_WAIT_S": "4",
            "FRACTAL_SLURM_CANCEL_GRACE_S": "3",
            **self.env,
        }
        return [
            "setpriv", f"--reuid={SERVICE}", f"--regid={SERVICE}", "--init-groups",
            "env", "-i", *(f"{name}={value}" for name, value in env.items()),
            str(RUNTIME / "bin/fractal-slurm"), *arguments,
        ]  # fmt: skip

    def __call__(self, *arguments: str, timeout: float = 180) -> Outcome:
        result = subprocess.run(self.argv(*arguments), capture_output=True, text=True, timeout=timeout, check=False)
        outcome = Outcome(result.returncode, result.stdout, result.stderr)
        if "--json" in arguments:
            outcome.document = json.loads(result.stdout)
        return outcome

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.argv(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def config(self, *, batching: dict[str, Any] | None = None, **default: Any) -> None:
        """Write the config file: the usual one, with some options of its sections changed."""
        config = json.loads(json.dumps(CONFIG))
        config["default_slurm_config"].update(default)
        config["batching_config"].update(batching or {})
        (self.folder / "config.json").write_text(json.dumps(config))

    def spec(self, command: str, tasks: int, *, meta: dict[str, Any] | None = None, name: str = "a task") -> str:
        """Write a unit of work; returns its path."""
        path = self.folder / "spec.json"
        document = {
            "task": {"name": name, "command": command, "meta": meta or {}},
            "parameters": [{"number": number} for number in range(tasks)],
        }
        path.write_text(json.dumps(document))
        return str(path)

    def run_arguments(self, spec: str, user: str = ANNA) -> list[str]:
        return [
            "run", spec, "--user", user, "--cache-dir", str(self.work(user) / "cache dir"),
            "--work-dir", str(self.work(user)), "--json",
        ]  # fmt: skip

    def begin(self, spec: str, user: str = ANNA) -> subprocess.Popen[str]:
        """Start to run a unit of work; see :func:`finish`."""
        return self.start(*self.run_arguments(spec, user))

    def run(self, spec: str, user: str = ANNA, timeout: float = 180) -> Outcome:
        """Run a unit of work to its end."""
        return self(*self.run_arguments(spec, user), timeout=timeout)

    def work(self, user: str) -> Path:
        """A work folder of this test's, private to a user."""
        folder = WORK / self.folder.name / user
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
            shutil.chown(folder, user, user)
        return folder

    def script(self, text: str, name: str = "task.sh") -> str:
        """A task of this test's, executable by everybody; returns its path."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def run_id(self) -> str:
        """The newest run of this test."""
        return self.runs()[-1]

    def runs(self) -> list[str]:
        """All runs of this test, oldest first; what has a dot before it is not one yet."""
        folder = self.folder / "state/runs"
        if not folder.exists():
            return []
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))

    def report(self) -> Any:
        return self("report", self.run_id(), "--json").document

    def events(self) -> list[str]:
        return [event["what"] for event in self("report", self.run_id(), "--events", "--json").document]


def finish(process: subprocess.Popen[str], *, code: int = 0, seconds: float = 180) -> Outcome:
    """Wait for the end of a run that was begun, which has to have this exit code."""
    stdout, stderr = process.communicate(timeout=seconds)
    assert process.returncode == code, stderr
    return Outcome(code, stdout, stderr, json.loads(stdout) if stdout else None)


def kill(process: subprocess.Popen[str]) -> None:
    """The driver dies."""
    process.kill()
    process.wait()


def slurm(command: str, *arguments: str) -> str:
    """One of SLURM's commands, as root."""
    result = subprocess.run([BASE / "bin" / command, *arguments], capture_output=True, text=True, check=False)
    return result.stdout


def live_jobs() -> list[str]:
    return slurm("squeue", "--noheader", "--format=%i").split()


def daemon_pids(name: str, argument: str = "") -> list[int]:
    """The testbed's own processes of a name, and none of another SLURM's."""
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode().split("\0")
            if words[0] == f"{BASE}/sbin/{name}" and (not argument or argument in words):
                pids.append(int(entry.name))
    return pids


def wait_for(condition: Callable[[], Any], *, seconds: float = 60, what: str = "") -> Any:
    """Wait until a condition holds; returns what it said."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what or condition}"
        time.sleep(0.1)


def counted(call: Call, sleep: float) -> tuple[str, Path]:
    marks = call.work(ANNA) / "marks"
    return call.script(COUNTED.format(marks=marks, sleep=sleep)), marks


def starts(marks: Path) -> Counter[int]:
    return Counter(int(line) for line in marks.read_text().split()) if marks.exists() else Counter()


def running_jobs() -> list[str]:
    return slurm("squeue", "--noheader", "--states=RUNNING", "--format=%i").split()


def restart(**changes: object) -> None:
    """Start the testbed with other settings."""
    operate("start", {**SETTINGS, **changes})
    wait_for(lambda: "main" in slurm("sinfo", "-h", "-t", "idle,mixed,allocated", "-o", "%R"))


@contextlib.contextmanager
def frozen(name: str) -> Iterator[None]:
    """A daemon that hangs for a while."""
    pids = daemon_pids(name)
    assert pids, f"no {name} of the testbed is running"
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def away(name: str, number: signal.Signals, argument: str = "", *, by: Sequence[str] = ()) -> Iterator[None]:
    """A daemon that is ended, and comes back later as it was, or started by another command."""
    # slurmd forks before it starts a slurmstepd: for a moment there are two of it.
    (pid,) = wait_for(lambda: pids if len(pids := daemon_pids(name, argument)) == 1 else [], what=f"one {name}")
    process = Path(f"/proc/{pid}")
    words = [word.decode() for word in (process / "cmdline").read_bytes().split(b"\0")[:-1]]
    owner = process.stat()
    os.kill(pid, number)
    wait_for(lambda: not daemon_pids(name, argument), what=f"{name} to end")
    try:
        yield
    finally:
        options: dict[str, Any] = {"env": DAEMON_ENVIRONMENT, "cwd": "/", "stdin": subprocess.DEVNULL}
        options["start_new_session"] = True
        if owner.st_uid != 0:
            options |= {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        with (BASE / "log" / f"{name}-again.log").open("ab") as log:
            subprocess.Popen([*by, *words], stdout=log, stderr=log, **options)
        wait_for(lambda: "main" in slurm("sinfo", "-h", "-t", "idle,mixed,allocated,completing", "-o", "%R"))


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """The testbed, the users, the sudoers file and the runtime; all of it removed at the end."""
    if os.geteuid() != 0:
        pytest.exit("the tests on a real SLURM need root: run `make test-integration`", returncode=2)
    remove()
    operate("start", SETTINGS)
    RUNTIME.mkdir(mode=0o755)
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", RUNTIME], check=True)
    pip = [sys.executable, "-m", "pip", "--python", f"{RUNTIME}/bin/python", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", str(REPO / "python_runtime")], check=True, stdout=sys.stderr)
    WORK.mkdir(mode=0o755, exist_ok=True)
    grant(f"{ANNA}, %{GROUP}")
    yield
    remove()


def grant(users: str, *, commands: str = "", defaults: Sequence[str] = ()) -> None:
    """Write the sudoers file: the specification's two aliases."""
    slurm_commands = f"{BASE}/bin/sbatch, {BASE}/bin/scancel"
    text = (
        f"Runas_Alias FST{LANE}_IMPERSONATE_USERS = {users}\n"
        f"Cmnd_Alias FST{LANE}_CMD = {commands or slurm_commands}, /usr/bin/cat, /usr/bin/ls, /usr/bin/mkdir\n"
        f"{SERVICE} ALL = (FST{LANE}_IMPERSONATE_USERS) NOPASSWD: FST{LANE}_CMD\n"
    ) + "".join(f"Defaults:{SERVICE} {words}\n" for words in defaults)
    candidate = Path("/etc") / SUDOERS.name  # beside the folder: other tests check all that is in it
    candidate.write_text(text)
    candidate.chmod(0o440)
    subprocess.run(["visudo", "-cqf", candidate], check=True)
    candidate.rename(SUDOERS)


def remove() -> None:
    if TESTBED.exists() and BASE.exists():
        operate("remove")
    SUDOERS.unlink(missing_ok=True)
    for folder in (WORK, RUNTIME):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def call(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Call]:
    """The command line with the usual config; whatever a test left on the cluster is cancelled."""
    folder = WORK / "".join(char if char.isalnum() else "-" for char in request.node.name)[:60].strip("-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    (folder / "state").mkdir(mode=0o700)
    shutil.chown(folder / "state", SERVICE, SERVICE)
    fresh = Call(folder)
    fresh.config()
    yield fresh
    if slurm("sinfo", "-h", "-t", "down,drain", "-o", "%N").strip():
        slurm("scontrol", "update", "nodename=ALL", "state=resume")
    jobs = live_jobs()
    if jobs:
        slurm("scancel", "--signal=KILL", *jobs)
        slurm("scancel", *jobs)
        wait_for(lambda: not live_jobs(), what="the jobs of the test to end")
