# SPDX-License-Identifier: BSD-3-Clause
"""A real fractal-server with its PostgreSQL on one machine, below one folder: for the demo, the benchmarks and tests.

It runs as the service account of a SLURM that is there already (the role testbed starts one). Nothing of it is a
system service, and the database listens on a socket in a folder of the service account alone. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fractal_api import ApiError, Client

ADMIN = "admin@example.org"
RESOURCE = "local"
APP = "fractal_server.main:app"
_STOP_S = 40


class ServerError(Exception):
    """The server can't be brought up; one sentence for whoever started it."""


@dataclass(frozen=True)
class LocalServer:
    """A fractal-server below a folder.

    Attributes:
        base: The folder. Other users must be able to reach it.
        slurm_bin: The folder of sbatch and the like.
        service_user: The account that it runs as.
        port: Of its API, on 127.0.0.1.
        python: The interpreter of its virtual environment.
        version: The version of fractal-server; None for the newest that this Python can install.
    """

    base: Path
    slurm_bin: Path
    service_user: str
    port: int
    python: str = "/usr/bin/python3"
    version: str | None = None

    @property
    def url(self) -> str:
        """The address of its API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def venv(self) -> Path:
        """Its virtual environment."""
        return self.base / "venv"

    @property
    def jobs(self) -> Path:
        """The folder of jobs."""
        return self.base / "jobs"

    @property
    def _state(self) -> Path:
        return self.base / "state"

    @property
    def _pid_file(self) -> Path:
        return self._state / "gunicorn.pid"

    # --- setting up

    def set_up(self) -> str:
        """Install all that is missing, and start the database.

        Returns:
            The version of fractal-server.

        Raises:
            ServerError: A step failed.
        """
        account = self._account()
        self.base.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, mode in (("state", 0o700), ("pg", 0o700), ("jobs", 0o755), ("taskenvs", 0o755)):
            folder = self.base / name
            folder.mkdir(mode=mode, exist_ok=True)
            folder.chmod(mode)
            os.chown(folder, account.pw_uid, account.pw_gid)
        self._install_postgresql()
        version = self._install_server()
        self._start_postgresql()
        if not (self._state / "admin.json").exists():
            self._fill_database()
        return version

    def _account(self) -> pwd.struct_passwd:
        try:
            return pwd.getpwnam(self.service_user)
        except KeyError:
            raise ServerError(f"There is no user {self.service_user} on this host.") from None

    @staticmethod
    def _postgresql() -> Path | None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
        return found[-1].parent if found else None

    def _install_postgresql(self) -> None:
        if self._postgresql() is not None:
            return
        if shutil.which("apt-get") is None:
            raise ServerError("PostgreSQL is missing: install it (its server, with initdb below /usr/lib/postgresql).")
        # The package would make a cluster and start it: this is told not to.
        settings = Path("/etc/postgresql-common/createcluster.d")
        line = settings / "fractal-slurm-demo.conf"
        made = not settings.exists()
        settings.mkdir(parents=True, exist_ok=True)
        line.write_text("create_main_cluster = false\n", encoding="ascii")
        try:
            quietly = ["apt-get", "-o", "DPkg::Lock::Timeout=900", "-qq", "-y", "--no-install-recommends"]
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            must([*quietly, "update"], environment)
            must([*quietly, "install", "postgresql"], environment)
        finally:
            line.unlink()
            if made and not os.listdir(settings):
                settings.rmdir()

    def _install_server(self) -> str:
        python = self.venv / "bin" / "python"
        code = "import fractal_server as f; print(f.__VERSION__)"
        if not (self.venv / "complete").exists():
            must([self.python, "-m", "venv", str(self.venv)])
            wanted = "fractal-server" + (f"=={self.version}" if self.version else "")
            must([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wanted])
            (self.venv / "complete").touch()
        return must([str(python), "-c", code]).strip()

    def _environment(self) -> dict[str, str]:
        secret = self._state / "secret"
        if not secret.exists():
            self._write(secret, secrets.token_hex(32))
        return {
            "HOME": str(self._state),
            "USER": self.service_user,
            "LOGNAME": self.service_user,
            "LANG": "C.UTF-8",
            "PATH": f"{self.slurm_bin}:/usr/bin:/bin",
            "POSTGRES_USER": "fractal",
            "POSTGRES_HOST": str(self.base / "pg"),
            "POSTGRES_DB": "fractal",
            "JWT_SECRET_KEY": secret.read_text(encoding="ascii"),
            "JWT_EXPIRE_SECONDS": "86400",
            "FRACTAL_RUNNER_BACKEND": "slurm_sudo",
            "FRACTAL_LOGGING_LEVEL": "20",
            "FRACTAL_DEFAULT_GROUP_NAME": "All",
        }

    def _write(self, path: Path, text: str) -> None:
        """Write a file that the service account alone can read."""
        account = self._account()
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(handle, "w", encoding="utf-8") as stream:
            os.fchown(handle, account.pw_uid, account.pw_gid)
            stream.write(text)

    def _as_service(self, argv: Sequence[str | Path], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        account = self._account()
        done = subprocess.run(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=self._state,
            env=self._environment(),
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
            umask=0o022,
        )
        if check and done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip())[-2000:]
            raise ServerError(f"`{' '.join(map(str, argv))}` ended with exit code {done.returncode}:\n{said}")
        return done

    def _start_postgresql(self) -> None:
        tools, folder = self._postgresql(), self.base / "pg"
        if tools is None:
            raise ServerError("PostgreSQL has no initdb below /usr/lib/postgresql: install its server.")
        data = folder / "data"
        if not (data / "PG_VERSION").exists():
            # Whoever can enter the folder of its socket is the service account.
            self._as_service([tools / "initdb", "-D", data, "-A", "trust", "-U", "fractal", "-E", "UTF8"])
        if self._as_service([tools / "pg_ctl", "-D", data, "status"], check=False).returncode != 0:
            options = f"-k {folder} -c listen_addresses= -c unix_socket_permissions=0700"
            self._as_service([tools / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", options, "start"])
        asked: list[str | Path] = [tools / "psql", "-h", folder, "-U", "fractal", "-d", "postgres", "-Atc"]
        if self._as_service([*asked, "select 1 from pg_database where datname = 'fractal'"]).stdout.strip() != "1":
            self._as_service([*asked, "create database fractal"])

    def _fill_database(self) -> None:
        password = secrets.token_hex(12)
        fractalctl = self.venv / "bin" / "fractalctl"
        self._as_service([fractalctl, "set-db"])
        words: list[str | Path] = ["--admin-email", ADMIN, "--admin-pwd", password, "--admin-project-dir", self.jobs]
        self._as_service([fractalctl, "init-db-data", *words])
        self._write(self._state / "admin.json", json.dumps({"email": ADMIN, "password": password}))

    # --- running

    def start(self, *, engine: bool = False, environment: Mapping[str, str] | None = None, workers: int = 1) -> None:
        """Start the server, on its own runner or on the engine, and wait until it answers.

        Args:
            engine: Run jobs on the engine.
            environment: Further variables.
            workers: Number of gunicorn's workers.

        Raises:
            ServerError: It does not come up.
        """
        self.stop_server()
        account = self._account()
        variables = self._environment() | dict(environment or {})
        if engine:
            variables["GUNICORN_CMD_ARGS"] = "--config python:fractal_slurm_server.gunicorn_conf"
        argv = self.command(workers)
        log = self._state / "server.log"
        self._write(log, "")
        with log.open("ab") as stream:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=self._state,
                env=variables,
                user=account.pw_uid,
                group=account.pw_gid,
                extra_groups=os.getgrouplist(account.pw_name, account.pw_gid),
                umask=0o022,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while not self.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
                raise ServerError(f"fractal-server does not come up:\n{last}")
            time.sleep(0.2)

    def command(self, workers: int = 1) -> list[str]:
        """How gunicorn starts the server."""
        worker = "fractal_server.gunicorn_fractal"
        argv = [self.venv / "bin" / "gunicorn", APP, "--bind", f"127.0.0.1:{self.port}", "--workers", str(workers)]
        argv += ["--worker-class", f"{worker}.FractalWorker", "--logger-class", f"{worker}.FractalGunicornLogger"]
        argv += ["--timeout", "600", "--graceful-timeout", "20", "--pid", self._pid_file]
        return [str(word) for word in argv]

    def unit(self) -> str:
        """A systemd unit that starts the server; its settings are written to .fractal_server.env."""
        settings = self._state / ".fractal_server.env"
        variables = {name: value for name, value in self._environment().items() if name != "LANG"}
        self._write(settings, "".join(f"{name}={value}\n" for name, value in variables.items()))
        return (
            "[Unit]\nDescription=fractal-server\n[Service]\n"
            f"User={self.service_user}\nWorkingDirectory={self._state}\nEnvironmentFile={settings}\nUMask=0022\n"
            f"ExecStart={' '.join(self.command())}\nKillMode=mixed\nTimeoutStopSec=60\n"
        )

    def answers(self) -> bool:
        """Whether the server answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/alive/", timeout=5) as answer:  # noqa: S310 - of this host
                return bool(answer.status == 200)
        except OSError:
            return False

    def pid(self) -> int | None:
        """The process id of gunicorn, or None where it does not run."""
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self.venv).encode() in command else None

    def processes(self) -> list[int]:
        """The process ids of gunicorn and its workers."""
        master = self.pid()
        found = [] if master is None else [master]
        for name in os.listdir("/proc"):
            try:
                fields = Path(f"/proc/{name}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
            except OSError:
                continue
            if name.isdigit() and master is not None and int(fields.split()[1]) == master:
                found.append(int(name))
        return found

    def kill(self) -> None:
        """End the server and its workers at once, as a crash would."""
        pids = self.processes()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for_end(pids, 10)

    def stop_server(self) -> None:
        """Stop the server; the database goes on."""
        pids = self.processes()
        if not pids:
            return
        os.kill(pids[0], signal.SIGTERM)
        for pid in wait_for_end(pids, _STOP_S):
            os.kill(pid, signal.SIGKILL)
        wait_for_end(pids, 10)

    def stop(self) -> None:
        """Stop the server and the database."""
        self.stop_server()
        tools, data = self._postgresql(), self.base / "pg" / "data"
        if tools is not None and (data / "postmaster.pid").exists():
            self._as_service([tools / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop"], check=False)

    def remove(self) -> None:
        """Stop it, and remove all of it but packages."""
        if not self.base.exists():
            return
        with contextlib.suppress(ServerError):  # its account may be gone, and with it all that it ran
            self.stop()
        shutil.rmtree(self.base)

    # --- what is in it

    def query(self, statement: str) -> str:
        """Ask the database; returns a line for each row.

        Raises:
            ServerError: It refused.
        """
        tools = self._postgresql()
        if tools is None:
            raise ServerError("PostgreSQL is missing.")
        asked: list[str | Path] = [tools / "psql", "-h", self.base / "pg", "-U", "fractal", "-d", "fractal"]
        asked += ["-Atc", statement]
        return self._as_service(asked).stdout

    def admin(self) -> Client:
        """The administrator."""
        found = json.loads((self._state / "admin.json").read_text(encoding="utf-8"))
        return Client(self.url, found["email"], found["password"])

    def give_resource(self, config: Mapping[str, Any], poll_interval: int = 1) -> None:
        """Make the resource, or give it another SLURM configuration.

        Args:
            config: Its ``jobs_runner_config``.
            poll_interval: Seconds between two looks of the server's own runner at its jobs.
        """
        python = "/usr/bin/python3"
        number = must([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
        body = {
            "name": RESOURCE,
            "type": "slurm_sudo",
            "jobs_local_dir": str(self.jobs),
            "tasks_local_dir": str(self.base / "taskenvs"),
            "tasks_python_config": {"default_version": number, "versions": {number: python}},
            "tasks_pixi_config": {},
            "jobs_slurm_python_worker": str(self.venv / "bin" / "python"),
            "jobs_poll_interval": poll_interval,
            "jobs_runner_config": dict(config),
        }
        admin = self.admin()
        found = [entry for entry in admin.call("GET", "/admin/v2/resource/") if entry["name"] == RESOURCE]
        if found:
            admin.call("PUT", f"/admin/v2/resource/{found[0]['id']}/", body)
        else:
            admin.call("POST", "/admin/v2/resource/", body)

    def user(self, name: str, folder: Path) -> Client:
        """A user of the server who acts as an account of this host; made where there is none yet.

        Args:
            name: The account.
            folder: Where their projects are.
        """
        admin = self.admin()
        email, password = f"{name}@example.org", f"{name}-{self._environment()['JWT_SECRET_KEY'][:12]}"
        if not [entry for entry in admin.call("GET", "/auth/users/") if entry["email"] == email]:
            resource = next(entry for entry in admin.call("GET", "/admin/v2/resource/") if entry["name"] == RESOURCE)
            profile = {"resource_type": "slurm_sudo", "name": name, "username": name}
            made = admin.call("POST", f"/admin/v2/resource/{resource['id']}/profile/", profile)
            body = {"email": email, "password": password, "project_dirs": [str(folder)], "profile_id": made["id"]}
            number = admin.call("POST", "/auth/register/", body)["id"]
            admin.call("PATCH", f"/auth/users/{number}/", {"is_verified": True, "profile_id": made["id"]})
        return Client(self.url, email, password)


@dataclass(frozen=True)
class SudoLog:
    """Lets sudo find SLURM's commands for a service account, as fractal-server needs it, and counts what sudo runs.

    Attributes:
        sudoers: The file below /etc/sudoers.d that says so, beside the rules that grant it.
        service_user: The account.
        slurm_bin: The folder of sbatch and the like.
        path: The log, which root alone can read.
    """

    sudoers: Path
    service_user: str
    slurm_bin: Path
    path: Path

    def set_up(self) -> None:
        """Write the file.

        Raises:
            ServerError: visudo refuses it.
        """
        text = (
            "# For a fractal-server of examples/server, beside the rules that grant it something.\n"
            f'Defaults:{self.service_user} secure_path="{self.slurm_bin}:/usr/bin:/bin", '
            f'logfile="{self.path}", loglinelen=0\n'
        )
        candidate = self.path.with_name("sudoers")
        candidate.write_text(text, encoding="ascii")
        candidate.chmod(0o440)
        must(["/usr/sbin/visudo", "-cqf", str(candidate)])
        temporary = self.sudoers.with_name(f"{self.sudoers.name}.new")  # sudo reads no name with a dot
        shutil.copy2(candidate, temporary)
        temporary.replace(self.sudoers)

    def count(self, command: str = "") -> int:
        """The number of commands so far: all, or those of one name."""
        try:
            with self.path.open("rb") as stream:
                return sum(
                    b" COMMAND=" in line and f"/{command}".encode() in line.partition(b" COMMAND=")[2]
                    for line in stream
                )
        except OSError:
            return 0

    def remove(self) -> None:
        """Take the file away."""
        self.sudoers.unlink(missing_ok=True)


def wait_for_end(pids: Sequence[int], timeout: float) -> list[int]:
    """Wait until processes have ended; returns those that have not in time. A zombie has ended."""
    deadline = time.monotonic() + timeout
    while True:
        left = []
        for pid in pids:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
            except OSError:
                continue
            if fields.split()[0] not in ("Z", "X"):
                left.append(pid)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)


def must(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run a command as ourselves; returns what it printed.

    Raises:
        ServerError: It failed.
    """
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        umask=0o022,
        env=environment,
    )
    if done.returncode != 0:
        raise ServerError(f"`{' '.join(argv)}` ended with exit code {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    return done.stdout


__all__ = ["ApiError", "LocalServer", "ServerError", "SudoLog"]
