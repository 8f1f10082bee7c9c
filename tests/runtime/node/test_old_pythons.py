# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on a node, started by the old Pythons that it promises to work with, where this machine has them.

Its grammar is asked for everywhere: see TestOldPythons in ``test_worker_process.py``.
"""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from fractal_slurm import settings
from fractal_slurm.jobs.script import render
from samples import TOKEN, job_settings, slurm_config

TASK = 'import json, sys\nargs = json.load(open(sys.argv[2]))\njson.dump(args["n"] * 2, open(sys.argv[4], "w"))\n'


@cache
def find_python(minor: int) -> str:
    """A Python 3 of this minor version that works: on the PATH, or among pyenv's; empty where there is none."""
    name = f"python3.{minor}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [shutil.which(name), *(str(path) for path in pyenv.glob(f"versions/3.{minor}.*/bin/{name}"))]
    for path in filter(None, found):
        ended = subprocess.run([path, "-I", "-S", "-c", "import json"], capture_output=True, check=False)
        if ended.returncode == 0:
            return path
    return ""


@pytest.mark.parametrize("start", ["fresh", "fork"])
@pytest.mark.parametrize("minor", [8, 9, 10])
def test_a_job_runs_on_a_node_with_an_old_python(tmp_path, minor, start):
    python = find_python(minor)
    if not python:
        pytest.skip(f"there is no Python 3.{minor} on this machine")
    program = tmp_path / "task.py"
    program.write_text(TASK)
    common = job_settings(
        command=(python, str(program)),
        run_folder=str(tmp_path),
        worker_python=python,
        worker_folder=settings.Settings().folder(),
        task_start=start,
        fork_fallback=False,
    )
    script = tmp_path / "script"
    script.write_bytes(
        render(slurm_config(), common, token=TOKEN, tasks=[(n, 0, json.dumps({"n": n})) for n in range(3)])
    )
    env = {
        "PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_TASKS_PER_NODE": "2",
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    ended = subprocess.run(["/bin/bash", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = (tmp_path / TOKEN / "results-0-0").read_text().split("\n")
    records = [json.loads(line) for line in lines if line]
    outs = {record["task"]: record.get("out") for record in records if "task" in record}
    assert outs == {0: 0, 1: 2, 2: 4}, records
    assert records[-1].get("forked", 0) == (3 if start == "fork" else 0)
