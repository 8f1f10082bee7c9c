# Copyright (c) 2026, fractal.slurm contributors
# GNU General Public License v3.0 or later (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real SLURM of one's own on this machine: SLURM and munge from the distribution, everything else in one folder.

    python3 testbed.py start  [--settings JSON|@FILE]   install, make users, write the configuration, start
    python3 testbed.py stop   [--base DIR]              cancel the jobs and stop the daemons; keep everything else
    python3 testbed.py remove [--base DIR]              stop, then delete the folder and the users that start made
    python3 testbed.py status [--base DIR]              say what is running

With --check, each says what it would do and changes nothing. Each prints one JSON document on standard output. Exit
code 0: done; 1: it went wrong half-way; 2: refused before anything was changed. The settings are the fields of the
class Settings. Standard library only, Python 3.9 or newer.

A SLURM or munge that is already on the machine is left alone: the testbed has a munge key, sockets, ports and a
configuration of its own, and its commands (BASE/bin/sbatch and so on) name that configuration. Every process of the
testbed bears a mark: the control group of a unit of ours under systemd; elsewhere the variable
FRACTAL_SLURM_TESTBED=BASE in its environment, or the path BASE/sbin of the daemon itself, since root in a container
may not read the environment of others. What bears the mark is ours to stop, and nothing else is.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import grp
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

DEFAULT_BASE = "/var/lib/fractal-slurm-testbed"
MARK = "FRACTAL_SLURM_TESTBED"
USER_COMMENT = "fractal.slurm testbed"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNIT_FOLDER = Path("/etc/systemd/system")

# Package -> the program that it must have. mariadb-server-core of Debian has the server, but no service and no user.
PACKAGES = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurm-client": "sbatch",
    "munge": "munged",
    "sudo": "sudo",
}
ACCOUNTING_PACKAGES = {
    "slurmdbd": "slurmdbd",
    "mariadb-server-core": "mariadbd",
    "mariadb-client-core": "mariadb",
}
COMMANDS = (
    "sacct", "sacctmgr", "salloc", "sbatch", "scancel", "scontrol", "sdiag", "sinfo", "squeue", "srun", "sstat",
)  # fmt: skip

# Options for a cluster that reacts at once, and that works on a machine without cgroups.
SLURM_CONF = {
    "SlurmUser": "slurm",
    "SlurmdUser": "root",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "MailProg": "/bin/true",
    "MpiDefault": "none",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "task=1",
    "JobAcctGatherParams": "OverMemoryKill",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_CPU_Memory",
    "SlurmdParameters": "config_overrides",
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0,"
    "sched_max_job_start=0,default_queue_depth=500",
    "DefMemPerCPU": "100",
    "ReturnToService": "2",
    "MaxArraySize": "1001",
    "MaxJobCount": "10000",
    "MinJobAge": "60",
    "InactiveLimit": "0",
    "KillWait": "2",
    "Waittime": "0",
    "SlurmdTimeout": "10",
    "SlurmctldTimeout": "30",
    "MessageTimeout": "10",
    "BatchStartTimeout": "10",
    "TCPTimeout": "2",
    "UnkillableStepTimeout": "10",
    "SlurmctldDebug": "info",
    "SlurmdDebug": "info",
}
PARTITIONS = {
    "main": {"Nodes": "ALL", "Default": "YES", "MaxTime": "60", "DefaultTime": "10"},
    "short": {"Nodes": "ALL", "MaxTime": "1"},
}


class TestbedError(Exception):
    """The testbed can't do what was asked. `messages` has one sentence for each reason."""

    def __init__(self, *messages: str, exit_code: int = 1) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages
        self.exit_code = exit_code


@dataclass(frozen=True)
class Settings:
    """The settings of the testbed. They are saved in BASE/settings.json, so that later calls need only the folder."""

    base: str = DEFAULT_BASE
    """The folder for everything. It belongs to root, and all users can enter it."""
    name: str = "local"
    """SLURM's ClusterName, and part of the names of systemd units."""
    port: int = 26800
    """The first port. It is for slurmctld; port+1 is for slurmdbd, port+2 for MariaDB, port+11 and up for the nodes."""
    nodes: int = 4
    """Logical nodes n1, n2 ... on this machine, each with a slurmd."""
    cpus: int = 4
    """CPUs of each node, as SLURM counts them."""
    memory_mb: int = 8000
    """Memory of each node in MB, as SLURM counts it."""
    partitions: dict[str, dict[str, str]] = field(default_factory=lambda: PARTITIONS)
    """Partition -> its options, as in slurm.conf."""
    slurm_conf: dict[str, str] = field(default_factory=dict)
    """Options of slurm.conf to change or to add. The value null removes an option."""
    node_conf: dict[str, str] = field(default_factory=dict)
    """Options to add to the NodeName line of slurm.conf, for all nodes, such as Feature or Gres."""
    conf_files: dict[str, str] = field(default_factory=dict)
    """Further files beside slurm.conf, such as gres.conf -> their content."""
    accounting: bool = False
    """Run slurmdbd and a MariaDB as well."""
    accounts: dict[str, list[str]] = field(default_factory=dict)
    """Account -> the users that are associated with it. This needs accounting."""
    groups: list[str] = field(default_factory=list)
    """Groups to make on this machine."""
    users: dict[str, list[str]] = field(default_factory=dict)
    """Users to make on this machine -> the groups that they join. Their homes are in BASE/home."""
    install_packages: bool = True
    """Whether to install missing packages with apt-get. If not, a message says what is missing."""

    def __post_init__(self) -> None:
        faults = [f"{name}: {words}" for name, words in self._faults()]
        if faults:
            raise TestbedError(*faults, exit_code=2)

    def _faults(self) -> Iterator[tuple[str, str]]:
        for spec in fields(self):
            value = getattr(self, spec.name)
            kind = {"str": str, "int": int, "bool": bool, "list": list, "dict": dict}[str(spec.type).partition("[")[0]]
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                yield spec.name, f"is {value!r}; must be of type {spec.type}."
                return
        if not re.fullmatch(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*){2,}", self.base) or len(self.base) > 70:
            yield (
                "base",
                (
                    f"is {self.base!r}; must be an absolute path of at least two folders and at most 70 characters, of "
                    "letters, digits, '_', '.' and '-' only (sockets and slurm.conf bear no others)."
                ),
            )
        if not re.fullmatch(r"[a-z][a-z0-9]{0,15}", self.name):
            yield "name", f"is {self.name!r}; must be 1 to 16 small letters and digits and begin with a letter."
        for name, low, high in (("nodes", 1, 50), ("cpus", 1, 256), ("memory_mb", 100, 10**7), ("port", 1024, 65000)):
            if not low <= getattr(self, name) <= high:
                yield name, f"is {getattr(self, name)}; must be from {low} to {high}."
        if not self.partitions:
            yield "partitions", "is empty; a cluster needs at least one."
        for group in [*self.groups, *self.users]:
            if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", group):
                yield "users and groups", f"{group!r} must be 1 to 31 small letters, digits and '-'."
        for user, groups in self.users.items():
            for group in groups:
                if group not in self.groups:
                    yield "users", f"{user} shall join {group}, which is not one of the groups listed in `groups`."
        if self.accounts and not self.accounting:
            yield "accounts", "need accounting: true."

    @property
    def node_names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]


def read_settings(text: str | None, base: str | None) -> Settings:
    """Read the settings from JSON text or `@FILE`. Without these, read the settings of the last start in BASE.

    Raises TestbedError for unreadable JSON, unknown names and bad values.
    """
    given: dict[str, Any] = {}
    if text:
        try:
            given = json.loads(Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text)
        except (OSError, ValueError) as error:
            raise TestbedError(f"--settings: not readable as JSON: {error}", exit_code=2) from error
        if not isinstance(given, dict):
            raise TestbedError("--settings: must be a JSON object.", exit_code=2)
    if base:
        given["base"] = base
    if set(given) <= {"base"}:
        with contextlib.suppress(OSError, ValueError):
            given = json.loads((Path(str(given.get("base", DEFAULT_BASE))) / "settings.json").read_text("utf-8"))
    known = [spec.name for spec in fields(Settings)]
    if unknown := sorted(set(given) - set(known)):
        raise TestbedError(f"--settings: unknown: {', '.join(unknown)}; known: {', '.join(known)}.", exit_code=2)
    return Settings(**given)


# --- this machine ---------------------------------------------------------------------------------------------------


def find_program(name: str) -> str | None:
    return shutil.which(name, path=SYSTEM_PATH)


def run(
    argv: Sequence[str], *, timeout: float = 60, check: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command without a shell and capture its output. If it fails, raise a TestbedError with its message."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL, **options
        )
    except subprocess.TimeoutExpired as error:
        raise TestbedError(f"`{' '.join(argv)}` gave no answer in {timeout:.0f} s.") from error
    if check and done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise TestbedError(f"`{' '.join(argv)}` ended with exit code {done.returncode}: {said}")
    return done


def exists(lookup: Callable[[str], Any], name: str) -> bool:
    """Return whether this machine knows a user (pwd.getpwnam) or a group (grp.getgrnam)."""
    try:
        lookup(name)
    except KeyError:
        return False
    return True


def loopback_address() -> tuple[str, bool]:
    """Return a loopback address for SLURM, and whether SLURM can listen on this address only.

    SLURM's daemons listen either on all addresses, or on the address of the machine's own name.
    """
    with contextlib.suppress(OSError):
        own = socket.gethostbyname(socket.gethostname())
        if own.startswith("127."):
            return own, True
    return "127.0.0.1", False


def has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


@contextlib.contextmanager
def machine_lock() -> Iterator[None]:
    """Let only one testbed at a time change packages and users. This locks a folder, so that no lock file remains."""
    handle = os.open("/run/lock", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def wait_until(ready: Callable[[], bool], what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > deadline:
            raise TestbedError(f"{what} did not come about within {timeout:.0f} s.")
        time.sleep(0.02)


POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# Of the fractal.slurm testbed, while it installs: no daemon starts.\nexit 101\n"


def is_our_policy() -> bool:
    """Return whether a testbed wrote the policy file. It remains if a testbed was killed during an installation."""
    with contextlib.suppress(OSError):
        return POLICY.read_text("utf-8", errors="replace") == POLICY_TEXT
    return False


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Hold signals that would end us until the block is done. An incomplete installation would harm the machine."""
    came: list[int] = []
    asking = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, lambda number, _frame: came.append(number)) for number in asking}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in came[:1]:
            os.kill(os.getpid(), first)


@contextlib.contextmanager
def no_daemon_starts() -> Iterator[None]:
    """Prevent packages from starting their daemons, by a policy file. If there is one that is not ours, keep that."""
    theirs = os.path.lexists(POLICY) and not is_our_policy()
    if not theirs:
        write_file(POLICY, POLICY_TEXT, 0o755, "root")
    try:
        yield
    finally:
        if not theirs:
            POLICY.unlink(missing_ok=True)


def install_packages(packages: Sequence[str]) -> list[str]:
    """Install packages with apt-get, without a start of their daemons. Return the packages that are new."""
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=900", "-qq", "-y"]
    install = [*apt, "--no-install-recommends", "install", *packages]
    # apt-get runs in its own session, so Ctrl-C in a terminal does not stop it half-way
    options: dict[str, Any] = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "start_new_session": True}
    before = installed_packages()
    with signals_wait(), no_daemon_starts():
        if run(install, timeout=1200, check=False, **options).returncode != 0:
            run([*apt, "update"], timeout=600, **options)  # the lists of packages may be missing or old
            run(install, timeout=1200, **options)
    new = sorted(installed_packages() - before)
    if has_systemd():  # the daemons must not start at the next boot either
        for service in ("munge", "slurmctld", "slurmd", "slurmdbd"):
            if service in new:
                run(["systemctl", "disable", "--quiet", f"{service}.service"])
    return new


def installed_packages() -> set[str]:
    return set(run(["dpkg-query", "-W", "-f", "${Package}\n"]).stdout.split())


# --- the testbed ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Daemon:
    """One daemon of the testbed: its name, command, log file, user and port."""

    name: str
    argv: list[str]
    log: Path
    user: str = "root"
    port: int | None = None


class Testbed:
    """The folder BASE and the daemons that belong to it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.base = Path(settings.base)
        self.conf = self.base / "etc/slurm.conf"
        self.munge_socket = self.base / "munge/munge.socket"
        self.made_file = self.base / "made.json"
        self.environment = {
            "PATH": SYSTEM_PATH,
            "LANG": "C.UTF-8",
            "SLURM_CONF": str(self.conf),
            MARK: str(self.base),
        }

    # --- what it consists of

    @property
    def daemons(self) -> list[Daemon]:
        """Return all daemons, in the order in which they start."""
        base, port, log = self.base, self.settings.port, self.base / "log"
        munge = base / "munge"
        every = [
            Daemon(
                "munged",
                ["munged", "--foreground", f"--key-file={munge}/munge.key", f"--socket={self.munge_socket}",
                 f"--pid-file={munge}/munged.pid", f"--log-file={munge}/munged.log",
                 f"--seed-file={munge}/munged.seed"],
                munge / "munged.log",
                user="munge",
            ),
        ]  # fmt: skip
        if self.settings.accounting:
            every += [
                Daemon(
                    "mariadbd",
                    ["mariadbd", "--no-defaults", f"--datadir={base}/db", "--bind-address=127.0.0.1",
                     f"--port={port + 2}", f"--socket={base}/db/mariadb.sock", f"--pid-file={base}/db/mariadbd.pid",
                     "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=64M",
                     "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900", "--skip-name-resolve",
                     f"--log-error={log}/mariadbd.log"],
                    log / "mariadbd.log",
                    user="slurm",
                    port=port + 2,
                ),
                Daemon("slurmdbd", ["slurmdbd", "-D"], log / "slurmdbd.log", user="slurm", port=port + 1),
            ]  # fmt: skip
        every.append(
            Daemon("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)], log / "slurmctld.log", "slurm", port)
        )
        for number, node in enumerate(self.settings.node_names, start=11):
            every.append(
                Daemon(
                    f"slurmd-{node}",
                    ["slurmd", "-D", "-N", node, "-f", str(self.conf)],
                    log / f"slurmd-{node}.log",
                    port=port + number,
                )
            )
        return every

    def files(self) -> dict[Path, tuple[str, int, str]]:
        """Return the files to write, each with content, mode and owner."""
        base = self.base
        written = {
            base / "settings.json": (json.dumps(asdict(self.settings), indent=2) + "\n", 0o644, "root"),
            base / "etc/slurm.conf": (self._slurm_conf(), 0o644, "root"),
            base / "etc/cgroup.conf": (self._cgroup_conf(), 0o644, "root"),
            base / "bin/testbed": (
                f'#!/bin/sh\nexec /usr/bin/python3 {base}/lib/testbed.py "$@" --base {base}\n', 0o755, "root",
            ),
        }  # fmt: skip
        for command in COMMANDS:
            # sudo removes SLURM_CONF, so each command sets it itself
            real = find_program(command) or f"/usr/bin/{command}"
            text = f'#!/bin/sh\nSLURM_CONF={self.conf}\nexport SLURM_CONF\nexec {real} "$@"\n'
            written[base / "bin" / command] = (text, 0o755, "root")
        for name, text in self.settings.conf_files.items():
            written[base / "etc" / name] = (text, 0o644, "root")
        if self.settings.accounting:
            written[base / "etc/slurmdbd.conf"] = (self._slurmdbd_conf(), 0o600, "slurm")
        if has_systemd():
            for daemon in self.daemons:
                written[UNIT_FOLDER / self._unit(daemon)] = (self._unit_text(daemon), 0o644, "root")
        return written

    def _slurm_conf(self) -> str:
        base, settings = self.base, self.settings
        address, loopback_only = loopback_address()
        options: dict[str, Any] = {
            "ClusterName": settings.name,
            "SlurmctldHost": f"localhost({address})",
            "SlurmctldPort": settings.port,
            "AuthInfo": f"socket={self.munge_socket}",
            "StateSaveLocation": f"{base}/state",
            "SlurmdSpoolDir": f"{base}/spool/%n",
            "SlurmctldPidFile": f"{base}/run/slurmctld.pid",
            "SlurmdPidFile": f"{base}/run/slurmd-%n.pid",
            "SlurmctldLogFile": f"{base}/log/slurmctld.log",
            "SlurmdLogFile": f"{base}/log/slurmd-%n.log",
            **SLURM_CONF,
        }
        if loopback_only:
            # NoInAddrAny also binds srun to the address of the machine's name. A job step answers to the address from
            # which srun called. On loopback this is 127.0.0.1. So no step would start if the name has another address
            # (127.0.1.1 on Debian).
            options["CommunicationParameters"] = (
                "NoInAddrAny,NoCtldInAddrAny" if address == "127.0.0.1" else "NoCtldInAddrAny"
            )
        if settings.accounting:
            options |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": address,
                "AccountingStoragePort": settings.port + 1,
                "AccountingStoragePass": self.munge_socket,
                "AccountingStorageEnforce": "associations,limits,qos,safe",
            }
        options |= settings.slurm_conf
        lines = [f"{key}={value}" for key, value in options.items() if value is not None]
        node = {"CPUs": settings.cpus, "RealMemory": settings.memory_mb, **settings.node_conf, "State": "UNKNOWN"}
        last = settings.port + 10 + settings.nodes
        lines.append(
            f"NodeName=n[1-{settings.nodes}] NodeHostname=localhost NodeAddr={address} "
            f"Port=[{settings.port + 11}-{last}] " + " ".join(f"{key}={value}" for key, value in node.items())
        )
        for name, given in settings.partitions.items():
            lines.append(f"PartitionName={name} " + " ".join(f"{k}={v}" for k, v in ({"State": "UP"} | given).items()))
        return "\n".join(["# Written by the fractal.slurm testbed; changed by its next start.", *lines, ""])

    def _cgroup_conf(self) -> str:
        # slurmd always loads a cgroup plugin, although we need none. Before 23.11 it could not be disabled. The plugin
        # for v1 starts on every machine, even if no cgroup is mounted.
        return f"CgroupPlugin={'disabled' if slurm_version() >= (23, 11) else 'cgroup/v1'}\n"

    def _slurmdbd_conf(self) -> str:
        path = self.base / "etc/slurmdbd.conf"
        found = re.search(r"^StoragePass=(\w+)$", path.read_text("utf-8"), re.MULTILINE) if path.exists() else None
        address, loopback_only = loopback_address()
        options: dict[str, Any] = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self.munge_socket}",
            "DbdHost": "localhost",
            "DbdAddr": address,
            "DbdPort": self.settings.port + 1,
            "SlurmUser": "slurm",
            "DebugLevel": "info",
            "LogFile": f"{self.base}/log/slurmdbd.log",
            "PidFile": f"{self.base}/run/slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StoragePort": self.settings.port + 2,
            "StorageUser": "slurm",
            "StoragePass": found[1] if found else secrets.token_hex(16),
            "StorageLoc": "slurm_acct",
            "CommitDelay": 1,
        }
        if loopback_only:
            options["CommunicationParameters"] = "NoInAddrAny"
        return "".join(f"{key}={value}\n" for key, value in options.items())

    def _unit(self, daemon: Daemon) -> str:
        return f"fractal-slurm-testbed-{self.settings.name}-{daemon.name}.service"

    def _argv(self, daemon: Daemon) -> list[str]:
        """Return the command line of a daemon. It uses a link in BASE, so that we can recognize our processes."""
        return [str(self.base / "sbin" / daemon.argv[0]), *daemon.argv[1:]]

    def _unit_text(self, daemon: Daemon) -> str:
        argv = self._argv(daemon)
        environment = "".join(f"Environment={key}={value}\n" for key, value in self.environment.items())
        # KillMode=process, because jobs are cancelled first, and slurmstepd must end by itself.
        return (
            f"[Unit]\nDescription={daemon.name} of the fractal.slurm testbed in {self.base}\n\n"
            f"[Service]\n{environment}User={daemon.user}\nExecStart={' '.join(argv)}\n"
            "KillMode=process\nDelegate=yes\nLimitNOFILE=65536\n"
        )

    # --- what is there

    def made(self) -> dict[str, list[str]]:
        """Return what earlier starts made outside of BASE: packages, groups and users."""
        with contextlib.suppress(OSError, ValueError):
            made: dict[str, list[str]] = json.loads(self.made_file.read_text("utf-8"))
            return made
        return {"packages": [], "groups": [], "users": []}

    def remember(self, kind: str, names: Sequence[str]) -> None:
        """Write down what will be made, before it is made. So `remove` also works after an interrupted start."""
        made = self.made()
        made[kind] = sorted({*made[kind], *names})
        write_file(self.made_file, json.dumps(made, indent=2) + "\n", 0o644, "root")

    def processes(self) -> dict[int, str]:
        """Return the testbed's processes (pid -> name of the command), found by their mark. Zombies are left out."""
        mark = f"{MARK}={self.base}".encode()
        unit = f"/fractal-slurm-testbed-{self.settings.name}-".encode() if has_systemd() else None
        path = f"{self.base}/sbin/".encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isascii() and entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    called = (entry / "cmdline").read_bytes()
                    if unit:
                        ours = unit in (entry / "cgroup").read_bytes() and called != b""
                    else:
                        ours = called.startswith(path) or mark in (entry / "environ").read_bytes().split(b"\0")
                    if ours:
                        found[int(entry.name)] = (entry / "comm").read_text("utf-8").strip()
        return found

    def running(self) -> bool:
        """Return whether all daemons run."""
        names = list(self.processes().values())
        wanted = [daemon.argv[0] for daemon in self.daemons]
        return all(names.count(name) >= wanted.count(name) for name in set(wanted))

    def command(self, name: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return run([str(self.base / "bin" / name), *arguments], **options)

    def answers(self, name: str, *arguments: str) -> bool:
        with contextlib.suppress(TestbedError):
            return self.command(name, *arguments, check=False, timeout=20).returncode == 0
        return False

    def status(self) -> dict[str, Any]:
        processes = sorted(self.processes().values())
        state = "started" if self.running() else "stopped" if self.made_file.exists() else "absent"
        return {"state": state, "base": str(self.base), "bin": f"{self.base}/bin", "processes": processes}

    # --- start

    def problems(self) -> Iterator[str]:
        """Yield the reasons why the testbed can't start here. This is called before anything is changed."""
        if os.geteuid() != 0:
            yield "must run as root: it starts daemons and makes users."
        if self.missing_packages() and not find_program("apt-get"):
            yield (
                f"SLURM's programs are missing ({', '.join(self.missing_programs())}), and only Debian and Ubuntu are "
                "installed by themselves: please install slurmctld, slurmd, the SLURM client commands and munge."
            )
        elif self.missing_packages() and not self.settings.install_packages:
            yield f"packages are missing: {', '.join(self.missing_packages())}; install them, or allow it to be done."
        if self.base.exists() and any(self.base.iterdir()) and not self.made_file.exists():
            yield f"{self.base} has files that are not a testbed's; name another base folder or empty it."
        for folder in [self.base, *self.base.parents]:
            if folder.exists() and (folder.stat().st_uid != 0 or folder.stat().st_mode & 0o022):
                yield (
                    f"{folder} can be written by others than root, so the commands below it could not be allowed in "
                    "sudoers; name a base folder below /var/lib or /opt."
                )
        with contextlib.suppress(OSError, ValueError, KeyError):
            was = json.loads((self.base / "settings.json").read_text("utf-8"))["name"]
            if was != self.settings.name:
                yield f"the testbed in {self.base} is called {was}; remove it before you start one called otherwise."
        if has_systemd():
            for path in UNIT_FOLDER.glob(f"fractal-slurm-testbed-{self.settings.name}-*.service"):
                if f"Environment={MARK}={self.base}\n" not in path.read_text("utf-8"):
                    yield f"another testbed is called {self.settings.name} ({path}); set another `name`."
                    break
        made = self.made()
        for kind, lookup, names in (
            ("groups", grp.getgrnam, self.settings.groups),
            ("users", pwd.getpwnam, list(self.settings.users)),
        ):
            for name in names:
                if exists(lookup, name) and name not in made[kind]:
                    yield (
                        f"there is a {kind[:-1]} {name} already, which this testbed did not make; take it off the "
                        f"list of {kind} to use it as it is, or name another."
                    )
        ours = set(self.processes().values())
        for daemon in self.daemons:
            if daemon.port and daemon.argv[0] not in ours and not port_is_free(daemon.port):
                yield f"port {daemon.port} ({daemon.name}) is taken by another program; set another `port`."

    def missing_programs(self) -> list[str]:
        wanted = PACKAGES | (ACCOUNTING_PACKAGES if self.settings.accounting else {})
        return [program for program in wanted.values() if not find_program(program)]

    def missing_packages(self) -> list[str]:
        wanted = PACKAGES | (ACCOUNTING_PACKAGES if self.settings.accounting else {})
        return [package for package, program in wanted.items() if not find_program(program)]

    def plan(self) -> list[str]:
        """Return what start would do, in words. The list is empty if there is nothing to do."""
        if problems := list(self.problems()):
            raise TestbedError(*problems, exit_code=2)
        actions = []
        if packages := self.missing_packages():
            actions.append(f"install {', '.join(packages)}")
        actions += [f"make group {name}" for name in self.settings.groups if not exists(grp.getgrnam, name)]
        for user, groups in self.settings.users.items():
            if not exists(pwd.getpwnam, user):
                actions.append(f"make user {user}")
            else:
                absent = [name for name in groups if user not in grp.getgrnam(name).gr_mem]
                actions += [f"add user {user} to group {name}" for name in absent]
        # Before the packages are installed, the paths of programs are not known. So the files are not listed.
        changed = [str(path) for path in self._changed_files()] if not packages else [str(self.base)]
        actions += [f"write {path}" for path in changed]
        if changed or not self.running():
            actions.append("restart the daemons" if self.processes() else "start the daemons")
        return actions

    def _changed_files(self) -> list[Path]:
        return [
            path
            for path, (text, mode, _owner) in self.files().items()
            if not path.exists() or path.read_text("utf-8") != text or path.stat().st_mode & 0o777 != mode
        ]

    def start(self, *, check: bool = False) -> list[str]:
        """Do what :meth:`plan` says. Return what was done, or with `check` what would be done."""
        actions = self.plan()
        if check or not actions:
            return actions
        make_folder(self.base)
        self.remember("packages", [])
        with machine_lock():
            if packages := self.missing_packages():
                self.remember("packages", install_packages(packages))
            self._make_users()
        if self.processes():
            self.stop()
        self._write_files()
        self._start_daemons()
        return actions

    def _make_users(self) -> None:
        for name in self.settings.groups:
            if not exists(grp.getgrnam, name):
                self.remember("groups", [name])
                run(["groupadd", name])
        make_folder(self.base / "home")
        for name, groups in self.settings.users.items():
            if not exists(pwd.getpwnam, name):
                self.remember("users", [name])
                run(["useradd", "--create-home", "--home-dir", str(self.base / "home" / name), "--key",
                     "HOME_MODE=0700", "--shell", "/bin/bash", "--comment", USER_COMMENT, name])  # fmt: skip
            for group in groups:
                if name not in grp.getgrnam(group).gr_mem:
                    run(["usermod", "--append", "--groups", group, name])

    def _write_files(self) -> None:
        owners = {"log": "slurm", "run": "slurm", "state": "slurm", "munge": "munge"}
        for folder in ("bin", "etc", "lib", "sbin", "spool", *owners):
            make_folder(self.base / folder, owners.get(folder, "root"))
        for node in self.settings.node_names:
            make_folder(self.base / "spool" / node)
        for name in {daemon.argv[0] for daemon in self.daemons}:
            link = self.base / "sbin" / name
            link.unlink(missing_ok=True)
            link.symlink_to(find_program(name) or f"/usr/sbin/{name}")
        own = self.base / "lib/testbed.py"
        if Path(__file__).resolve() != own:
            write_file(own, Path(__file__).read_text("utf-8"), 0o644, "root")
        for path, (text, mode, owner) in self.files().items():
            write_file(path, text, mode, owner)
        key = self.base / "munge/munge.key"
        if not key.exists():
            write_file(key, secrets.token_hex(64), 0o400, "munge")
        if has_systemd():
            run(["systemctl", "daemon-reload"])

    def _start_daemons(self) -> None:
        daemons = {daemon.name: daemon for daemon in self.daemons}
        processes: list[tuple[Daemon, subprocess.Popen[bytes]]] = []

        def launch(daemon: Daemon) -> None:
            if has_systemd():
                run(["systemctl", "start", self._unit(daemon)])
                return
            account = pwd.getpwnam(daemon.user)
            processes.append((daemon, subprocess.Popen(
                self._argv(daemon),
                env=self.environment, cwd="/", start_new_session=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                user=account.pw_uid, group=account.pw_gid, extra_groups=[],
            )))  # fmt: skip

        def up(ready: Callable[[], bool], daemon: Daemon, timeout: float = 60) -> None:
            def ready_or_dead() -> bool:
                for started, process in processes:
                    if process.poll() is not None:
                        raise TestbedError(
                            f"{started.name} ended at once with exit code {process.returncode}; the end of "
                            f"{started.log}:\n{tail(started.log)}"
                        )
                return ready()

            try:
                wait_until(ready_or_dead, f"an answer of {daemon.name}", timeout)
            except TestbedError as error:
                raise TestbedError(*error.messages, f"The end of {daemon.log}:\n{tail(daemon.log)}") from error

        munge = find_program("munge") or "munge"
        launch(daemons["munged"])
        up(lambda: run([munge, "-S", str(self.munge_socket), "-n"], check=False).returncode == 0, daemons["munged"])
        if self.settings.accounting:
            self._create_database()
            launch(daemons["mariadbd"])
            up(lambda: self._sql("select 1"), daemons["mariadbd"])
            self._grant_database()
            launch(daemons["slurmdbd"])
            up(lambda: self.answers("sacctmgr", "-n", "list", "cluster"), daemons["slurmdbd"], 120)
            self._add_accounts()
        launch(daemons["slurmctld"])
        up(lambda: self.answers("scontrol", "ping"), daemons["slurmctld"])
        nodes = self.settings.node_names
        for node in nodes:
            launch(daemons[f"slurmd-{node}"])
        up(self._nodes_idle, daemons[f"slurmd-{nodes[0]}"])

    def _nodes_idle(self) -> bool:
        said = self.command("sinfo", "-h", "-N", "-o", "%N %T", check=False).stdout
        idle = {line.split()[0] for line in said.splitlines() if line.endswith(" idle")}
        return idle >= set(self.settings.node_names)

    # --- accounting

    def _create_database(self) -> None:
        folder = self.base / "db"
        if (folder / "mysql").is_dir():
            return
        make_folder(folder, "slurm", 0o700)
        # A new database gives the cluster an id. slurmctld stops if its state has another id. Since SLURM 24.05 it
        # makes an id by itself if there is no accounting.
        (self.base / "state/clustername").unlink(missing_ok=True)
        installer = find_program("mariadb-install-db") or "mariadb-install-db"
        run([installer, "--no-defaults", "--user=slurm", f"--datadir={folder}",
             "--auth-root-authentication-method=socket", "--skip-test-db"], timeout=300)  # fmt: skip

    def _sql(self, statement: str) -> bool:
        client = find_program("mariadb") or "mariadb"
        argv = [client, "--no-defaults", f"--socket={self.base}/db/mariadb.sock", "--user=root", "-e", statement]
        return run(argv, check=False).returncode == 0

    def _grant_database(self) -> None:
        password = re.search(r"^StoragePass=(\w+)$", (self.base / "etc/slurmdbd.conf").read_text("utf-8"), re.MULTILINE)
        granted = password and self._sql(
            "create database if not exists slurm_acct; "
            f"create or replace user slurm@127.0.0.1 identified by '{password[1]}'; "
            "grant all on slurm_acct.* to slurm@127.0.0.1;"
        )
        if not granted:
            raise TestbedError("MariaDB did not take the database and user for slurmdbd.")

    def _add_accounts(self) -> None:
        clusters = self.command("sacctmgr", "-nP", "list", "cluster", "format=cluster").stdout.split()
        if self.settings.name not in clusters:
            self.command("sacctmgr", "-i", "add", "cluster", self.settings.name)
        known = self.command("sacctmgr", "-nP", "list", "associations", "format=account,user").stdout.split()
        for account, users in self.settings.accounts.items():
            if f"{account}|" not in known:
                self.command("sacctmgr", "-i", "add", "account", account, f"Cluster={self.settings.name}")
            for user in users:
                if f"{account}|{user}" not in known:
                    self.command(
                        "sacctmgr", "-i", "add", "user", user, f"Account={account}", f"Cluster={self.settings.name}"
                    )

    # --- stop and remove

    def stop(self, *, check: bool = False) -> list[str]:
        """Cancel all jobs and end the daemons. Return what was done, or with `check` what would be done."""
        if not self.processes():
            return []
        actions = ["stop the daemons"]
        if check:
            return actions
        self._cancel_jobs()
        for names in (("slurmd", "slurmctld"), ("slurmdbd",), ("mariadbd",), ("munged",)):
            if has_systemd():
                units = [self._unit(daemon) for daemon in self.daemons if daemon.argv[0] in names]
                if units:
                    run(["systemctl", "stop", *units], timeout=120)
            self._end({pid for pid, name in self.processes().items() if name in names})
        self._end(set(self.processes()))  # the rest: slurmstepd
        return actions

    def _cancel_jobs(self) -> None:
        """Cancel all jobs. slurmstepd and the tasks would go on without slurmd, and slurmstepd ignores SIGTERM."""
        with contextlib.suppress(TestbedError):
            if jobs := self.command("squeue", "-h", "-o", "%A", timeout=20).stdout.split():
                self.command("scancel", *jobs, check=False, timeout=20)
                wait_until(lambda: not self.command("squeue", "-h", timeout=20).stdout, "the end of all jobs", 10)

    def _end(self, pids: set[int]) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in pids & set(self.processes()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(TestbedError):
                wait_until(lambda: not pids & set(self.processes()), "the end of the daemons", 10)

    def remove(self, *, check: bool = False) -> list[str]:
        """Stop, and remove all that start made, except packages. Return what was done, or with `check` would be."""
        if not self.base.exists():
            return []
        if not self.made_file.exists():
            raise TestbedError(f"{self.base} is no testbed (it has no made.json); nothing was removed.", exit_code=2)
        made = self.made()
        # Somebody may have deleted our user and made another one of the same name. Our users have a comment.
        users = [
            name for name in made["users"] if exists(pwd.getpwnam, name) and pwd.getpwnam(name).pw_gecos == USER_COMMENT
        ]
        groups = [name for name in made["groups"] if exists(grp.getgrnam, name)]
        actions = [
            *self.stop(check=check),
            *(f"delete user {name}" for name in users),
            *(f"delete group {name}" for name in groups),
            f"delete {self.base}",
        ]
        if check:
            return actions
        with machine_lock():
            if is_our_policy():
                POLICY.unlink()
            for name in users:
                self._end_processes_of(pwd.getpwnam(name).pw_uid)
                run(["userdel", name])
            for name in groups:
                run(["groupdel", name])
        if has_systemd():
            for unit in UNIT_FOLDER.glob(f"fractal-slurm-testbed-{self.settings.name}-*.service"):
                unit.unlink()
            run(["systemctl", "daemon-reload"])
        shutil.rmtree(self.base)
        return actions

    @staticmethod
    def _end_processes_of(uid: int) -> None:
        """End the processes of a user that we made. Without this, the account can't be deleted."""
        for entry in Path("/proc").iterdir():
            if entry.name.isascii() and entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if entry.stat().st_uid == uid:
                        os.kill(int(entry.name), signal.SIGKILL)


def slurm_version() -> tuple[int, int]:
    """Return the version of the installed SLURM as (year, month), or (0, 0) if there is none."""
    program = find_program("slurmctld")
    found = re.search(r"([0-9]+)\.([0-9]+)", run([program, "-V"]).stdout) if program else None
    return (int(found[1]), int(found[2])) if found else (0, 0)


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def make_folder(path: Path, owner: str = "root", mode: int = 0o755) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    shutil.chown(path, owner, pwd.getpwnam(owner).pw_gid)


def write_file(path: Path, text: str, mode: int, owner: str) -> None:
    """Write a file completely or not at all. At no time can others do more with it than `mode` allows."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as handle:
        handle.write(text)
    fresh.chmod(mode)
    shutil.chown(fresh, owner, pwd.getpwnam(owner).pw_gid)
    fresh.replace(path)


def tail(path: Path, lines: int = 15) -> str:
    try:
        return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"(not readable: {error.strerror})"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="testbed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["start", "stop", "remove", "status"])
    parser.add_argument("--settings", metavar="JSON|@FILE", help="the settings, as JSON text or in a file")
    parser.add_argument("--base", metavar="DIR", help=f"the folder (default: {DEFAULT_BASE})")
    parser.add_argument("--check", action="store_true", help="say what would be done, and change nothing")
    given = parser.parse_args(arguments)
    os.umask(0o022)  # others can't write in what we make, whatever the caller's umask is
    try:
        testbed = Testbed(read_settings(given.settings, given.base))
        if given.action == "status":
            result: Mapping[str, Any] = testbed.status()
        else:
            actions = getattr(testbed, given.action)(check=given.check)
            result = {"changed": bool(actions), "actions": actions}
    except TestbedError as error:
        for message in error.messages:
            print(f"testbed: {message}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
