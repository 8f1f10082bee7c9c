# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-ins for sudo, sbatch, squeue, sacct, scancel and scontrol, on a folder of files.

With them the driver is tested without root and SLURM.

A test uses them in one of two ways. Inside its own process it calls :meth:`Standins.call` (see ``played.py``). Or it
lets the driver start them as programs, out of the folder ``bin`` that :meth:`Standins.install` makes. Then a job that
is submitted starts at once: bash runs its script, and so the real worker.

They say what SLURM 22.05 and sudo 1.9.13 say. What those do in truth is tried in ``tests/slurm``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PROGRAMS = ("sudo", "sbatch", "squeue", "sacct", "scancel", "scontrol")
SILENCE = "error: Unable to contact slurm controller (connect failure)"
NO_ANSWER = "error: Batch job submission failed: Socket timed out on send/recv operation"
# What a fault of sbatch's makes it say. Its last three leave a job behind, at once or later, or none.
SBATCH_FAULTS = {
    "wrong": "error: Batch job submission failed: Invalid partition name specified",
    "not now": "error: Batch job submission failed: Required partition not available (inactive or drain)",
    "full": "error: Batch job submission failed: Job violates accounting/QOS policy (QOSMaxSubmitJobPerUserLimit)",
    "no answer, a job": NO_ANSWER,
    "no answer, a job later": NO_ANSWER,
    "no answer, no job": NO_ANSWER,
}
CONFIG = """\
AccountingStorageType   = accounting_storage/{storage}
ClusterName             = standin
EnforcePartLimits       = NO
KillWait                = 1 sec
MinJobAge               = 300 sec
PrivateData             = {private}
SLURM_VERSION           = 22.05.8
"""
PARTITION = (
    "PartitionName=main AllowAccounts=ALL AllowQos=ALL Default=YES QoS=N/A DefaultTime=NONE MaxNodes=UNLIMITED "
    "MaxTime=UNLIMITED Nodes=n[1-4] State=UP TotalCPUs=16 TotalNodes=4 MaxMemPerNode=UNLIMITED\n"
)
NODE = "NodeName=n{} CPUTot=4 CPUEfctv=4 Gres=(null) NodeHostName=n{} RealMemory=8000 State=IDLE Partitions=main\n"
_SQUEUE_FIELDS = {
    "%i": "id", "%T": "state", "%D": "nodes", "%l": "limit", "%M": "elapsed", "%P": "partition", "%r": "reason",
    "%j": "name", "%k": "comment", "%u": "user",
}  # fmt: skip


class Said(NamedTuple):
    """What a program came to."""

    code: int
    out: bytes = b""
    err: bytes = b""


def _refused(program: str, words: str, code: int = 1) -> Said:
    return Said(code, b"", f"{program}: {words}\n".encode())


class Standins:
    """A cluster that is a folder.

    Args:
        folder: Where it is. What is missing in it is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.jobs_folder = folder / "jobs"
        self.jobs_folder.mkdir(parents=True, exist_ok=True)

    def install(self) -> None:
        """Make the programs, for a driver that starts them."""
        self.bin.mkdir(exist_ok=True)
        for name in PROGRAMS:
            path = self.bin / name
            path.write_text(
                f"#!{sys.executable} -IS\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
                f"from standins import main\nsys.exit(main({str(self.folder)!r}, sys.argv))\n"
            )
            path.chmod(0o755)

    # -- what a test makes of it ---------------------------------------------------------------------------

    def faults(self) -> dict[str, str]:
        """What is at fault: a program's name, and what it does about it. Of sbatch, see :data:`SBATCH_FAULTS`."""
        return self._read(self.folder / "faults.json") or {}

    def fault(self, program: str, words: str = "") -> None:
        """Let a program be at fault from now on, or not any more."""
        faults = self.faults()
        faults.pop(program, None)
        self._write(self.folder / "faults.json", {**faults, program: words} if words else faults)

    def hide(self, what: str = "jobs") -> None:
        """Hide things from all but their owners, as PrivateData does."""
        self._write(self.folder / "private.json", what)

    def account(self) -> None:
        """Keep accounts of jobs: what SLURM forgets, sacct still knows."""
        self._write(self.folder / "accounting.json", "slurmdbd")

    def jobs(self) -> dict[str, dict[str, Any]]:
        """All jobs that ever were, by id."""
        found = {path.name: self._read(path / "job.json") for path in self.jobs_folder.iterdir()}
        return {key: found[key] for key in sorted(found, key=int) if found[key] is not None}

    def job(self, job_id: str) -> dict[str, Any]:
        """One job."""
        job: dict[str, Any] = self._read(self.jobs_folder / job_id / "job.json")
        return job

    def change(self, job_id: str, **values: Any) -> None:
        """Change what SLURM knows of a job: its state, reason, exit, whether it is ``forgotten``: ``old`` for one that
        ended long ago, ``lost`` for one that slurmctld lost."""
        with self._locked():
            self._write(self.jobs_folder / job_id / "job.json", {**self.job(job_id), **values})

    def script(self, job_id: str) -> bytes:
        return (self.jobs_folder / job_id / "script").read_bytes()

    # -- the programs ----------------------------------------------------------------------------------------

    def call(self, argv: Sequence[str], stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Said:
        """Do what a program does."""
        name = argv[0].rpartition("/")[2]
        arguments = list(argv[1:])
        if name == "sudo":
            return self._sudo(arguments, stdin, env or {})
        if name == "sbatch":
            return self._sbatch(arguments, stdin)
        if name in ("cat", "ls", "mkdir"):
            return CORE[name](arguments)
        if self.faults().get("slurmctld"):
            return _refused(name, SILENCE)
        return {"squeue": self._squeue, "sacct": self._sacct, "scancel": self._scancel, "scontrol": self._scontrol}[
            name
        ](arguments, env or {})

    def _sudo(self, arguments: list[str], stdin: bytes, env: Mapping[str, str]) -> Said:
        """sudo, with a rule for the five commands in their forms, as anybody."""
        head, command = arguments[:5], arguments[5:]
        if head[:3] != ["--non-interactive", "--set-home", "-u"] or head[4:] != ["--"]:
            return _refused("sudo", f"a form that is not allowed: {arguments}")
        if words := self.faults().get("sudo"):
            return _refused("sudo", words)
        forms = {
            "sbatch": r"--parsable",
            "scancel": r"[0-9]+( [0-9]+)*",
            "cat": r"--( /\S+)+",
            "ls": r"--( /\S+)+",
            "mkdir": r"((-p )?-m 700 )?--( /\S+)+",
        }
        name = command[0].rpartition("/")[2]
        if name not in forms or not re.fullmatch(forms[name], " ".join(command[1:])):
            return _refused("sudo", f"a password is required ({command})")
        if name == "sbatch":
            return self._sbatch(command[1:], stdin, user=head[3])
        return self.call(command, stdin, env)

    def _sbatch(self, _arguments: list[str], script: bytes, *, user: str = "") -> Said:
        faults = self.faults()
        fault = faults.get("sbatch", "")
        if faults.get("slurmctld"):
            return _refused("sbatch", SILENCE)
        if fault and "no answer, a job" not in fault:
            return _refused("sbatch", SBATCH_FAULTS[fault])
        options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", script.partition(b"\n\n")[0].decode(), re.MULTILINE))
        with self._locked():
            job_id = str(1 + max((int(entry.name) for entry in self.jobs_folder.iterdir()), default=0))
            # Whole or not at all, for those who look meanwhile.
            draft = Path(tempfile.mkdtemp(dir=self.folder))
            (draft / "script").write_bytes(script)
            name = "site" if faults.get("plugin") == "renames" else options["job-name"]
            job = {
                "id": job_id, "name": name, "comment": options["comment"], "user": user,
                "state": "PENDING", "reason": "None", "exit": "0:0",
                "partition": options["partition"], "limit": options.get("time", "UNLIMITED"), "nodes": 1, "host": "n1",
                "slots": int(options["ntasks"]), "output": options["output"], "chdir": options["chdir"], "restart": 0,
                "elapsed": "0:00", "forgotten": "", "unborn": fault.endswith("later"),
            }  # fmt: skip
            self._write(draft / "job.json", job)
            draft.rename(self.jobs_folder / job_id)
        if self.bin.exists() and not job["unborn"]:
            self._start(job_id)
        return _refused("sbatch", NO_ANSWER) if fault else Said(0, f"{job_id}\n".encode())

    def _known(self, *, accounting: bool = False) -> dict[str, dict[str, Any]]:
        """The jobs that SLURM, or the accounting, knows at the moment."""
        jobs = {key: job for key, job in self.jobs().items() if not job["unborn"]}
        return {
            key: job for key, job in jobs.items() if not job["forgotten"] or (accounting and job["forgotten"] != "lost")
        }

    def _squeue(self, arguments: list[str], env: Mapping[str, str]) -> Said:
        options = dict(re.findall(r"--([a-z]+)=(.*)", "\n".join(arguments)))
        jobs = {} if self._read(self.folder / "private.json") else self._known()
        wanted = options.get("jobs", "").split(",") if "jobs" in options else None
        if wanted is not None and len(wanted) == 1 and wanted[0] not in jobs:
            return _refused("slurm_load_jobs", "error: Invalid job id specified")
        if wanted is not None:
            jobs = {key: job for key, job in jobs.items() if key in wanted}
        if "name" in options:
            names = options["name"].split(",")
            jobs = {key: job for key, job in jobs.items() if job["name"] in names}
        lines = []
        for job in jobs.values():
            if "SQUEUE_FORMAT2" in env:
                code, number = map(int, job["exit"].split(":"))
                lines.append(f"{job['id']:20}{code << 8 | number:<20}{job['host']:256}")
            else:
                line = env["SQUEUE_FORMAT"]
                for field, name in _SQUEUE_FIELDS.items():
                    line = line.replace(field, str(job[name]))
                lines.append(line)
        return Said(0, "".join(f"{line}\n" for line in lines).encode())

    def _sacct(self, arguments: list[str], _env: Mapping[str, str]) -> Said:
        if not self._read(self.folder / "accounting.json"):
            return Said(1, b"", b"Slurm accounting storage is disabled\n")
        options = dict(re.findall(r"--([a-z]+)=(.*)", "\n".join(arguments)))
        jobs = self._known(accounting=True)
        lines = [
            options["delimiter"].join(
                (job["id"], job["state"], job["exit"], str(job["nodes"]), job["name"], job["host"])
            )
            for job_id in options["jobs"].split(",")
            if (job := jobs.get(job_id))
        ]
        return Said(0, "".join(f"{line}\n" for line in lines).encode())

    def _scancel(self, arguments: list[str], _env: Mapping[str, str]) -> Said:
        for job_id in arguments:
            job = self._known().get(job_id)
            if job is None:
                continue
            if job["state"] in ("PENDING", "RUNNING"):
                self.change(job_id, state="CANCELLED", reason="None")
                if "pid" in job:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(job["pid"], signal.SIGTERM)
        return Said(0)

    def _scontrol(self, arguments: list[str], _env: Mapping[str, str]) -> Said:
        if arguments[:2] == ["write", "batch_script"]:
            known = arguments[2] in self._known()
            return _refused("batch script retrieval failed", "Invalid user id" if known else "Invalid job id specified")
        private = self._read(self.folder / "private.json") or "none"
        storage = self._read(self.folder / "accounting.json") and "none"  # limits of accounts are not played
        return Said(
            0,
            {
                "config": CONFIG.format(private=private, storage=storage or "none"),
                "partition": PARTITION,
                "node": "".join(NODE.format(number, number) for number in range(1, 5)),
            }[arguments[-1]].encode(),
        )

    # -- jobs that run -----------------------------------------------------------------------------------------

    def _start(self, job_id: str) -> None:
        """Run a job's script, as slurmd and slurmstepd do: in a process that outlives whoever submitted it."""
        sys.stdout.flush()
        if os.fork():
            return
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        code = 1
        try:
            code = self._run(job_id)
        finally:
            os._exit(code)

    def _run(self, job_id: str) -> int:
        job = self.job(job_id)
        env = {
            "PATH": "/usr/bin:/bin", "HOME": "/", "TMPDIR": str(self.folder), "SLURM_JOB_ID": job_id,
            "SLURM_TASKS_PER_NODE": str(job["slots"]), "SLURM_JOB_NUM_NODES": "1", "SLURMD_NODENAME": "n1",
        }  # fmt: skip
        with open(job["output"], "ab") as output:
            script = str(self.jobs_folder / job_id / "script")
            process = subprocess.Popen(
                ["/bin/bash", script],
                cwd=job["chdir"],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        with self._locked():
            if self.job(job_id)["state"] == "PENDING":
                self._write(
                    self.jobs_folder / job_id / "job.json", {**self.job(job_id), "state": "RUNNING", "pid": process.pid}
                )
            else:
                os.killpg(process.pid, signal.SIGTERM)
        status = process.wait()
        with self._locked():
            job = self.job(job_id)
            if job["state"] == "RUNNING":
                job["state"] = "FAILED" if status else "COMPLETED"
            job["exit"] = f"0:{-status}" if status < 0 else f"{status}:0"
            job["reason"] = "NonZeroExitCode" if status else "None"
            self._write(self.jobs_folder / job_id / "job.json", job)
        return 0

    # -- files -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time changes something."""
        with open(self.folder / "lock", "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _read(path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    @staticmethod
    def _write(path: Path, value: object) -> None:
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(value), encoding="utf-8")
        draft.replace(path)


# -- cat, ls and mkdir, in the words of GNU coreutils: a process each would make a played run fifty times as slow


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def cat(arguments: list[str]) -> Said:
    """cat(1)."""
    out, err = b"", ""
    for path in _split(arguments)[1]:
        try:
            out += Path(path).read_bytes()
        except OSError as error:
            err += f"cat: {path}: {error.strerror}\n"
    return Said(1 if err else 0, out, err.encode())


def ls(arguments: list[str]) -> Said:
    """ls(1), when it does not print to a terminal."""
    paths = _split(arguments)[1]
    files: list[str] = []
    folders: list[str] = []
    err = ""
    for path in paths:
        try:
            os.stat(path)
        except OSError as error:
            if not os.path.islink(path):
                err += f"ls: cannot access '{path}': {error.strerror}\n"
                continue
        (folders if os.path.isdir(path) and not os.path.islink(path) else files).append(path)
    parts = ["".join(f"{path}\n" for path in sorted(files))] if files else []
    for folder in sorted(folders):
        names = "".join(f"{name}\n" for name in sorted(os.listdir(folder)) if not name.startswith("."))
        parts.append((f"{folder}:\n" if len(paths) > 1 else "") + names)
    return Said(2 if err else 0, "\n".join(parts).encode(), err.encode())


def mkdir(arguments: list[str]) -> Said:
    """mkdir(1)."""
    options, paths = _split(arguments)
    err = ""
    for path in paths:
        try:
            if "-p" in options:
                os.makedirs(path, 0o700, exist_ok=True)
            else:
                os.mkdir(path, 0o700 if "-m" in options else 0o777)
        except OSError as error:
            err += f"mkdir: cannot create directory \u2018{path}\u2019: {error.strerror}\n"
    return Said(1 if err else 0, b"", err.encode())


CORE = {"cat": cat, "ls": ls, "mkdir": mkdir}


def main(folder: str, argv: list[str]) -> int:
    """One of the programs, as a process. sudo becomes cat, ls or mkdir itself."""
    standins = Standins(Path(folder))
    command = argv[6:]
    if argv[0].endswith("/sudo") and command and command[0].rpartition("/")[2] in CORE:
        if not (words := standins.faults().get("sudo")):
            os.execv(command[0], command)  # noqa: S606
        said = _refused("sudo", words)
    else:
        stdin = b"" if not argv[0].endswith(("/sudo", "/sbatch")) else sys.stdin.buffer.read()
        said = standins.call(argv, stdin, os.environ)
    sys.stdout.buffer.write(said.out)
    sys.stderr.buffer.write(said.err)
    sys.stdout.flush()
    return said.code
