# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from fractal_slurm.config.batching import Branch
from fractal_slurm.config.resolve import resolve
from fractal_slurm.config.whatif import bound_by, changes
from hypothesis import given
from hypothesis import strategies as st
from samples import config_file, outcome

GIVEN = {"tasks_per_job": 2, "parallel_tasks_per_job": 1}


def resolved(tasks, meta=None, **limits):
    """A small task, by the limits 4 to 8 CPUs, 4 to 8 GB and 4 to 10 jobs unless others are given."""
    return resolve(config_file(batching_config=limits), task_name="a", workflow_task_meta=meta, tot_tasks=tasks)


class TestBoundBy:
    @pytest.mark.parametrize(
        ("tasks", "meta", "branch", "expected"),
        [
            (4, None, Branch.TARGET, []),
            (8, None, Branch.TARGET, ["target_cpus_per_job"]),
            (8, {"mem": "2G"}, Branch.TARGET, ["target_mem_per_job"]),
            (8, {"mem": "1G"}, Branch.TARGET, ["target_cpus_per_job", "target_mem_per_job"]),
            (40, None, Branch.MAXIMUM, ["max_cpus_per_job"]),
            (400, None, Branch.QUEUE, ["max_cpus_per_job", "max_num_jobs"]),
            (400, {"mem": "4G"}, Branch.QUEUE, ["max_mem_per_job", "max_num_jobs"]),
            (4, GIVEN, Branch.GIVEN, ["tasks_per_job", "parallel_tasks_per_job"]),
        ],
    )  # fmt: skip
    def test_names_what_held_it(self, tasks, meta, branch, expected):
        resolution = resolved(tasks, meta)
        assert resolution.batching.branch is branch
        assert bound_by(resolution.config, resolution.batching) == expected

    def test_a_gpu_that_tasks_share_is_a_bound(self):
        resolution = resolved(400, {"needs_gpu": True})
        assert "needs_gpu" in bound_by(resolution.config, resolution.batching)


class TestChanges:
    def found(self, tasks, meta=None, **limits):
        resolution = resolved(tasks, meta, **limits)
        return {change.option: change for change in changes(resolution.config, resolution.batching, tasks)}

    def test_one_more_job_for_each_that_there_was(self):
        change = self.found(1_536, {"cpus_per_task": 2}, max_cpus_per_job=14, max_num_jobs=50)["max_num_jobs"]
        assert (change.before, change.after) == (50, 100)
        assert (change.batching.num_jobs, change.batching.tasks_per_job) == (96, 16)
        assert change.time_ratio == 0.6

    def test_leaving_out_what_was_given(self):
        change = self.found(8, {"tasks_per_job": 8, "parallel_tasks_per_job": 1})["tasks_per_job"]
        assert change.after is None
        assert change.time_ratio == 1 / 8

    def test_says_nothing_where_one_job_runs_all_at_once(self):
        assert self.found(1) == {}

    @given(
        st.integers(1, 5_000),
        st.fixed_dictionaries({"cpus_per_task": st.integers(1, 8), "mem": st.integers(1, 8_000)}),
        st.booleans(),
    )
    def test_every_change_makes_a_difference_and_the_best_comes_first(self, tasks, meta, needs_gpu):
        resolution, _messages = outcome(resolved, tasks, {**meta, "needs_gpu": needs_gpu})
        found = changes(resolution.config, resolution.batching, tasks)
        assert [change.time_ratio for change in found] == sorted(change.time_ratio for change in found)
        for change in found:
            assert change.time_ratio > 0
            assert change.time_ratio != 1 or change.batching.num_jobs != resolution.batching.num_jobs
        options = {change.option for change in found}
        if resolution.batching.branch is Branch.QUEUE:
            assert options
