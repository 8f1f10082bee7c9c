# SPDX-License-Identifier: GPL-3.0-or-later
"""Between config files and the jobs_runner_config of fractal-server."""

from __future__ import annotations

import copy

import pytest
from ansible_collections.fractal.slurm.plugins.plugin_utils import jobs_runner

from .test_config_input import CONFIG


def config(**options):
    data = copy.deepcopy(CONFIG)
    data["default_slurm_config"].update(options)
    return data


class TestToJobsRunnerConfig:
    def test_keeps_what_both_have(self):
        found = jobs_runner.to_jobs_runner_config(config())
        assert found["default_slurm_config"] == {
            "partition": "main",
            "cpus_per_task": 2,
            "mem": 1000,
            "time": "01:00:00",
        }

    def test_turns_nodes_into_an_extra_line(self):
        found = jobs_runner.to_jobs_runner_config(config(nodes=1, extra_lines=["#SBATCH --nice"]))
        assert found["default_slurm_config"]["extra_lines"] == ["#SBATCH --nice", "#SBATCH --nodes=1"]
        assert "nodes" not in found["default_slurm_config"]

    def test_refuses_pre_submission_commands(self):
        with pytest.raises(ValueError, match=r"\$\.default_slurm_config\.pre_submission_commands"):
            jobs_runner.to_jobs_runner_config(config(pre_submission_commands=["module load x"]))


class TestFromJobsRunnerConfig:
    def test_takes_what_a_resource_holds(self):
        resource = {
            "default_slurm_config": {
                "partition": "main",
                "cpus_per_task": 1,
                "mem": 100,
                "constraint": None,
                "extra_lines": [],
                "shebang_line": "#!/bin/sh",
                "use_mem_per_cpu": False,
            },
            "gpu_slurm_config": None,
            "batching_config": CONFIG["batching_config"],
            "user_local_exports": {},
        }
        found = jobs_runner.from_jobs_runner_config(resource)
        assert found["default_slurm_config"]["shebang_line"] == "#!/bin/sh"
        assert "gpu_slurm_config" not in found
        assert "user_local_exports" not in found

    def test_there_and_back(self):
        once = jobs_runner.to_jobs_runner_config(config(nodes="1-2"))
        assert jobs_runner.to_jobs_runner_config(jobs_runner.from_jobs_runner_config(once)) == once

    def test_says_what_is_missing(self):
        with pytest.raises(ValueError, match=r"\$\.batching_config: missing"):
            jobs_runner.from_jobs_runner_config({"default_slurm_config": {"partition": "a"}})
