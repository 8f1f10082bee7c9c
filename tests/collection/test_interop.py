# SPDX-License-Identifier: GPL-3.0-or-later
"""fractal-server itself reads what this collection writes: its own code judges, in environments of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv

import pytest
from ansible_collections.fractal.slurm.plugins.plugin_utils import config_input, jobs_runner
from ansible_collections.fractal.slurm.plugins.plugin_utils.runtime import runtime_module

from .conftest import ROOT

CONFIG = {
    "default_slurm_config": {
        "partition": "main",
        "cpus_per_task": 1,
        "mem": "4G",
        "time": "02:00:00",
        "constraint": "avx2",
        "extra_lines": ["#SBATCH --nice=100", "export A=1"],
    },
    "gpu_slurm_config": {"partition": "gpu", "gres": "gpu:1"},
    "batching_config": {
        "target_cpus_per_job": 8,
        "max_cpus_per_job": 16,
        "target_mem_per_job": "32G",
        "max_mem_per_job": "64G",
        "target_num_jobs": 4,
        "max_num_jobs": 10,
    },
    "user_local_exports": {"CELLPOSE_LOCAL_MODELS_PATH": "cellpose"},
}
# The model of FRACTAL_SLURM_CONFIG_FILE, and the one of a resource's jobs_runner_config.
READ_FILE = """
from fractal_server.runner.executors.slurm_common._slurm_config import SlurmConfigFile as Model
"""
READ_RESOURCE = """
from fractal_server.runner.config import JobRunnerConfigSLURM as Model
"""
DUMP = """
import json, sys
print(json.dumps(Model(**json.load(sys.stdin)).model_dump()))
"""
SETTINGS = {"POSTGRES_DB": "x", "JWT_SECRET_KEY": "x"}
BACKENDS = {"fractal-server<2.17": "slurm", "fractal-server>=2.17": "slurm_sudo"}


def fractal_server(requirement):
    """The Python of an environment with fractal-server, made once."""
    folder = ROOT / ".build" / "interop" / re.sub(r"[^a-z0-9.]+", "-", requirement.replace("<", "-below-"))
    python = folder / "bin" / "python"
    done = folder / "done"
    if not done.exists():
        venv.create(folder, clear=True, with_pip=True)
        result = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", requirement], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            pytest.skip(f"{requirement} can't be installed here: {result.stderr.strip().splitlines()[-1]}")
        done.touch()
    return python


def ask(requirement, program, data):
    """What fractal-server's own model makes of data."""
    result = subprocess.run(
        [fractal_server(requirement), "-c", program + DUMP],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        check=False,
        env={
            **SETTINGS,
            "FRACTAL_RUNNER_BACKEND": BACKENDS[requirement],
            "FRACTAL_TASKS_DIR": str(ROOT),
            "FRACTAL_RUNNER_WORKING_BASE_DIR": str(ROOT),
        },
        cwd="/",
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="fractal-server needs Python 3.11")
class TestFractalServer:
    def test_reads_the_file_before_2_17(self):
        written = config_input.check(CONFIG, "test").config
        read = ask("fractal-server<2.17", READ_FILE, written)
        assert read["default_slurm_config"]["mem"] == 4000
        assert read["batching_config"] == written["batching_config"]

    def test_takes_the_jobs_runner_config_from_2_17_on(self):
        written = jobs_runner.to_jobs_runner_config(CONFIG)
        read = ask("fractal-server>=2.17", READ_RESOURCE, written)
        assert read["default_slurm_config"]["mem"] == 4000
        assert read["user_local_exports"] == CONFIG["user_local_exports"]

    def test_what_it_dumps_comes_back(self):
        written = jobs_runner.to_jobs_runner_config(CONFIG)
        dumped = ask("fractal-server>=2.17", READ_RESOURCE, written)
        back = jobs_runner.from_jobs_runner_config(dumped)
        # its dump states the defaults, too
        assert {**back["default_slurm_config"], **written["default_slurm_config"]} == back["default_slurm_config"]
        assert back["batching_config"] == written["batching_config"]

    def test_agrees_on_memory(self):
        for text, expected in (("100M", 100), ("4G", 4000), ("1T", 1_000_000), ("250", 250)):
            data = jobs_runner.to_jobs_runner_config(CONFIG)
            data["default_slurm_config"]["mem"] = text
            read = ask("fractal-server>=2.17", READ_RESOURCE, data)
            ours = runtime_module("config.memory").parse_memory(text)
            assert read["default_slurm_config"]["mem"] == expected == ours
