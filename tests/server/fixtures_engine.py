# SPDX-License-Identifier: GPL-3.0-or-later
"""In a copy of fractal-server's tests: the engine in place of its runner, and a local SLURM in place of containers."""

import os
import subprocess
from pathlib import Path

import fractal_server.runner.executors.slurm_sudo.runner as own_runner
import fractal_server.runner.v2._slurm_sudo as own_workflow
import pytest
from fractal_slurm_server.runner import EngineRunner

own_runner.SlurmSudoRunner = own_workflow.SlurmSudoRunner = EngineRunner

CANNOT_HOLD = dict(
    line.split(" ", 1)
    for line in Path(os.environ["ENGINE_CANNOT_HOLD"]).read_text().splitlines()
    if line and not line.startswith("#")
)


@pytest.fixture(autouse=True)
def expected_to_fail(request):
    """What can't hold is run all the same: a test that holds after all is to be seen."""
    name = request.node.nodeid.split("::", 1)[-1]
    for each, reason in CANNOT_HOLD.items():
        if name == each or name.startswith(f"{each}["):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(autouse=True)
def clean_up_what_is_there(request, monkeypatch):
    """Its tests open folders of the user's at their ends. The engine makes none where nothing is submitted."""
    name = "_reset_permissions_for_user_folder"
    if own := getattr(request.module, name, None):
        monkeypatch.setattr(request.module, name, lambda folder: own(folder) if Path(folder).exists() else None)


@pytest.fixture
def tmp777_path(tmp_path):
    """As its own, with the sticky bit: where everybody may rename a folder, the engine runs nothing in it."""
    for folder in (tmp_path, *(parent for parent in tmp_path.parents if "pytest" in str(parent))):
        if folder.owner() == Path.home().owner():
            folder.chmod(0o1777)
    return tmp_path


@pytest.fixture(scope="session")
def slurmlogin_container():
    return "none"


@pytest.fixture(scope="session")
def slurmlogin_ip():
    return "127.0.0.1"


@pytest.fixture
def slurm_alive():
    subprocess.run(["scontrol", "ping"], check=True, capture_output=True)


@pytest.fixture
def run_in_container():
    def run(command):
        return subprocess.run(["/bin/sh", "-c", command], capture_output=True, encoding="utf-8", check=False)

    return run


@pytest.fixture
def monkey_slurm(slurm_alive):
    """Nothing is redirected: SLURM is here."""


@pytest.fixture
def relink_python_interpreter():
    """The Python of the tasks is here, and in no container."""
