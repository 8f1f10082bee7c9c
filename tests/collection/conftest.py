# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles and playbooks run for real on this machine, as two hosts that keep to folders of their own.

Everything lies below one folder of root's, sudoers files included: sudo itself reads none of it, visudo checks it.
"""

from __future__ import annotations

import grp
import importlib.util
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Under pytest-xdist each worker has a folder and users of its own. FRACTAL_TEST_FIRST_LANE keeps two checkouts on one
# machine apart.
LANE = int(os.environ.get("FRACTAL_TEST_FIRST_LANE", "0")) + int(
    os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
)
BASE = Path(f"/var/lib/fractal-slurm-collection-test-{LANE}")
SERVICE, USER, MEMBER, GROUP = (f"fsct{LANE}-{name}" for name in ("service", "anna", "ben", "lab"))
# The uid of an account of the system that every Debian and Ubuntu has, and that runs nothing.
SYSTEM_UID = str(pwd.getpwnam("games").pw_uid)
if importlib.util.find_spec("ansible_collections") is None:
    sys.path.insert(0, str(ROOT / ".build" / "collections"))
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")

CONFIG = {
    "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": "100M", "time": "00:10:00"},
    "batching_config": {
        "target_cpus_per_job": 2,
        "max_cpus_per_job": 4,
        "target_mem_per_job": "1G",
        "max_mem_per_job": "4G",
        "target_num_jobs": 2,
        "max_num_jobs": 3,
    },
}


class Outcome(NamedTuple):
    """What a playbook came to.

    Attributes:
        status: Its exit code.
        output: All that it printed.
        changed: Changed tasks by host.
        tasks: Number of tasks by host that were done and not skipped.
    """

    status: int
    output: str
    changed: dict[str, int]
    tasks: dict[str, int]


class Site:
    """Two hosts, which are this machine, and the variables of the roles for each."""

    def __init__(self, folder: Path, collections: Path, hosts: tuple[str, ...] = ("one", "two")) -> None:
        self.folder = folder
        self.collections = collections
        self.remote_tmp = folder.parent / "remote-tmp"
        self.hosts: dict[str, dict[str, Any]] = {name: self._variables(name) for name in hosts}

    def path(self, host: str, *parts: str) -> Path:
        """A path of a host's."""
        return self.folder.joinpath(host, *parts)

    def _variables(self, host: str) -> dict[str, Any]:
        for name in ("sudoers.d", "bin", "opt", "etc"):
            self.path(host, name).mkdir(parents=True)
        self.path(host, "sudoers").write_text("root ALL=(ALL:ALL) ALL\n@includedir sudoers.d\n")
        return {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_remote_tmp": str(self.remote_tmp),
            "fractal_slurm_service_user": SERVICE,
            "fractal_slurm_sudoers_impersonate_users": [USER, f"%{GROUP}"],
            "fractal_slurm_sudoers_main_file": str(self.path(host, "sudoers")),
            "fractal_slurm_sudoers_directory": str(self.path(host, "sudoers.d")),
            "fractal_slurm_config_content": CONFIG,
            "fractal_slurm_config_path": str(self.path(host, "etc", "fractal", "slurm_config.json")),
            "fractal_slurm_runtime_prefix": str(self.path(host, "opt", "fractal-slurm")),
            "fractal_slurm_runtime_command": str(self.path(host, "bin", "fractal-slurm")),
            "fractal_slurm_runtime_settings_file": str(self.path(host, "etc", "fractal", "fractal-slurm.toml")),
            "fractal_slurm_runtime_cache": str(ROOT / ".build" / "wheelhouse"),
        }

    def sudoers_file(self, host: str) -> Path:
        """The file that the role keeps."""
        return self.path(host, "sudoers.d", "fractal-slurm")

    def files(self) -> set[str]:
        """All paths below the hosts' folders, but those inside of virtual environments."""
        found = set()
        for parent, folders, names in os.walk(self.folder):
            if Path(parent, "pyvenv.cfg").exists():
                folders.clear()
            found |= {os.path.join(parent, name) for name in (*folders, *names)}
        return found

    def play(
        self,
        playbook: str,
        *options: str,
        hosts: tuple[str, ...] = ("one",),
        umask: int = 0o022,
        within: tuple[str, ...] = (),
        cwd: Path | None = None,
    ) -> Outcome:
        """Run a playbook of the collection.

        Args:
            playbook: Its name, or the path of another.
            options: More options of ansible-playbook.
            hosts: On which of the hosts.
            umask: The umask that it runs with.
            within: A command that runs it, such as one that mounts something for it alone.
            cwd: The folder that it is started in.
        """
        inventory = self.folder.parent / "inventory.json"
        chosen = {name: self.hosts[name] for name in hosts}
        inventory.write_text(json.dumps({"fractal_slurm": {"hosts": chosen}}))
        environment = {
            **without_ansible_settings(),
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_NOCOLOR": "1",
        }
        result = subprocess.run(
            [*within, PLAYBOOK, "-i", inventory, playbook, *options],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=cwd or self.folder,
            umask=umask,
        )
        recap = re.findall(r"^(\w+) +: ok=(\d+) +changed=(\d+)", result.stdout, re.MULTILINE)
        return Outcome(
            result.returncode,
            result.stdout + result.stderr,
            changed={name: int(number) for name, _tasks, number in recap},
            tasks={name: int(number) for name, number, _changed in recap},
        )


def without_ansible_settings() -> dict[str, str]:
    """This process's environment without what the caller set for an Ansible of theirs (make does)."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture(scope="session")
def machine() -> Any:
    """Users, a group and SLURM's client commands, on a machine where we are root."""
    if os.geteuid() != 0:
        pytest.skip("root's rights are needed")
    if shutil.which("sbatch") is None or shutil.which("sudo") is None:
        quietly = ["apt-get", "-o", "DPkg::Lock::Timeout=900", "-qq", "-y"]
        _run(*quietly, "update")
        _run(*quietly, "--no-install-recommends", "install", "slurm-client", "sudo")
    existing = {entry.pw_name for entry in pwd.getpwall()} | {entry.gr_name for entry in grp.getgrall()}
    if GROUP not in existing:
        _run("groupadd", GROUP)
    for name in (SERVICE, USER, MEMBER):
        if name not in existing:
            _run("useradd", "--no-create-home", *(["--gid", GROUP] if name == MEMBER else []), name)
    yield
    for name in (SERVICE, USER, MEMBER):
        _run("userdel", name)
    subprocess.run(["groupdel", GROUP], check=False, capture_output=True)
    shutil.rmtree(BASE, ignore_errors=True)


def copy_collection(target: Path) -> None:
    """Copy what a run of the collection needs, below ``target``."""
    for name in ("meta", "plugins", "roles", "playbooks", "python_runtime"):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
        shutil.copytree(ROOT / name, target / "ansible_collections" / "fractal" / "slurm" / name, ignore=ignore)


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the collection, so that one and the same is tried even while the checkout is worked on."""
    folder = tmp_path_factory.mktemp("collections")
    copy_collection(folder)
    return folder


@pytest.fixture
def site(machine: None, collections: Path) -> Site:
    """Two hosts on which nothing is installed yet."""
    shutil.rmtree(BASE, ignore_errors=True)
    BASE.mkdir(mode=0o755)
    return Site(BASE / "hosts", collections)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first installation is kept, for the tests that begin with one."""
    return tmp_path_factory.mktemp("installation") / "one"


@pytest.fixture
def installed(site: Site, installation: Path) -> Site:
    """Two hosts; the first has the runtime. It is installed once and then copied, to the same place."""
    host = site.path("one")
    if installation.exists():
        shutil.rmtree(host)
        shutil.copytree(installation, host, symlinks=True)
    else:
        outcome = site.play("fractal.slurm.site", "--tags", "runtime")
        assert outcome.status == 0, outcome.output
        shutil.copytree(host, installation, symlinks=True)
    return site
