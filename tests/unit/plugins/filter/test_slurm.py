# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters, as templates call them."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.fractal.slurm.plugins.filter.slurm import FilterModule
from ansible_collections.fractal.slurm.tests.unit.plugins.plugin_utils.test_config_input import CONFIG

FILTERS = FilterModule().filters()


def test_memory():
    assert FILTERS["slurm_memory_mb"]("4G") == 4000


def test_walltime():
    assert FILTERS["slurm_walltime_seconds"]("1-12") == 129_600


@pytest.mark.parametrize(
    "name", ["slurm_memory_mb", "slurm_walltime_seconds", "slurm_config_merge", "jobs_runner_config"]
)
def test_refuses_nonsense_in_the_words_of_a_filter(name):
    with pytest.raises(AnsibleFilterError):
        FILTERS[name]("nonsense")


def test_an_integer_time_is_refused():
    with pytest.raises(AnsibleFilterError, match="quote it"):
        FILTERS["slurm_walltime_seconds"](36000)


def test_merge_says_where_values_come_from():
    merged = FILTERS["slurm_config_merge"](CONFIG, task_meta={"mem": "8G"}, tot_tasks=96)
    assert merged["config"]["mem_per_task_MB"] == 8000
    assert merged["sources"]["mem_per_task_MB"] == "task.meta"
    assert merged["config"]["parallel_tasks_per_job"] >= 1
