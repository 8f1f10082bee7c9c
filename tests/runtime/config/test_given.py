# SPDX-License-Identifier: GPL-3.0-or-later
from dataclasses import replace

import pytest
from fractal_slurm.config.given import as_resolved
from fractal_slurm.errors import SpecError
from samples import slurm_config


class TestAsResolved:
    def test_takes_every_value_as_it_is(self):
        config = replace(
            slurm_config(), tasks_per_job=7, parallel_tasks_per_job=3, time="1:00", extra_lines=["#SBATCH -q x"]
        )
        resolution = as_resolved(config, tot_tasks=15)
        assert resolution.config == config
        assert resolution.batching.num_jobs == 3
        assert resolution.batching.reason == "7 tasks a job, 3 at a time, as given"
        assert resolution.warnings == []

    def test_takes_nodes_as_fractal_server_has_them(self):
        assert as_resolved(replace(slurm_config(), nodes=2), tot_tasks=1).config.nodes == "2"

    def test_names_every_value_that_is_not_valid(self):
        config = replace(
            slurm_config(),
            mem_per_task_MB=0,
            tasks_per_job=None,
            time="soon",
            nodes="x",
            account="a b",
            job_name="a\nb",
            extra_lines=["#PBS x"],
            user_local_exports={"1A": "/abs"},
        )
        with pytest.raises(SpecError) as error:
            as_resolved(config, tot_tasks=1)
        named = [message.split(": ")[1] for message in error.value.messages]
        assert sorted(named) == sorted(
            [
                "$.mem_per_task_MB",
                "$.tasks_per_job",
                "$.time",
                "$.nodes",
                "$.account",
                "$.job_name",
                "$.extra_lines[0]",
                '$.user_local_exports["1A"]',
                '$.user_local_exports["1A"]',
            ]
        )
