# SPDX-License-Identifier: GPL-3.0-or-later
import json
import random
from dataclasses import replace

import pytest
from fractal_slurm.config.resolve import resolve
from fractal_slurm.errors import ClusterError
from fractal_slurm.jobs.plan import fit_scripts, fit_walltime, make_plan, replan, without_nodes
from fractal_slurm.jobs.script import job_limit_s, render
from hypothesis import given
from hypothesis import strategies as st
from samples import config_file, job_settings, outcome, slurm_config


def resolution(tot_tasks, meta=None, **sections):
    """A resolved task of ten minutes."""
    file = config_file({"time": "10"}, **sections)
    return resolve(file, task_name="Measure", workflow_task_meta=meta, tot_tasks=tot_tasks)


class TestMakePlan:
    @given(st.integers(1, 3_000))
    def test_gives_every_task_to_exactly_one_job(self, tot_tasks):
        plan = make_plan(resolution(tot_tasks), job_settings(), tot_tasks)
        assert [task for batch in plan.batches for task in batch] == list(range(tot_tasks))
        assert len(plan.batches) <= plan.config.max_num_jobs
        assert all(len(batch) == plan.config.tasks_per_job for batch in plan.batches[:-1])

    def test_gives_the_limit_of_a_full_job_and_the_reason(self):
        plan = make_plan(resolution(81), job_settings(), 81)
        assert plan.config.tasks_per_job == 9
        assert plan.job_limit_s == 2 * 600 + 60
        assert "so 9 tasks queue inside of each job" in plan.reason

    def test_gives_the_limit_of_the_one_job_where_all_tasks_fit(self):
        assert make_plan(resolution(2), job_settings(), 2).job_limit_s == 660

    def test_puts_fewer_tasks_into_a_job_where_the_partition_allows_less(self):
        tasks = resolution(40, {"tasks_per_job": 40, "parallel_tasks_per_job": 4})
        plan = make_plan(tasks, job_settings(max_walltime_s=3_600), 40)
        assert plan.config.tasks_per_job == 24
        assert [len(batch) for batch in plan.batches] == [24, 16]
        assert plan.job_limit_s == 3_600
        assert "the partition 'main' allows 01:00:00 (MaxTime), so 24 tasks a job" in plan.reason


class TestFitWalltime:
    def fit(self, tasks, parallel, most, tot_tasks=None, time="10", **changes):
        config = slurm_config({"time": time}, meta={"tasks_per_job": tasks, "parallel_tasks_per_job": parallel})
        return fit_walltime(config, job_settings(max_walltime_s=most, **changes), tot_tasks or tasks, "as given")

    def test_leaves_alone_what_fits(self):
        for most in (None, 1_260, 100_000):
            config, reason = self.fit(8, 4, most)
            assert (config.tasks_per_job, reason) == (8, "as given")

    def test_leaves_alone_what_fits_without_the_slack(self):
        assert self.fit(8, 4, 1_200)[0].tasks_per_job == 8

    def test_judges_by_the_tasks_that_there_are(self):
        assert self.fit(1_000, 1, 600, tot_tasks=1)[0].tasks_per_job == 1_000

    def test_lowers_tasks_per_job_to_the_rounds_that_fit(self):
        assert self.fit(8, 4, 1_199)[0].tasks_per_job == 4
        assert self.fit(80, 2, 3_000, tot_tasks=80)[0].tasks_per_job == 10

    def test_refuses_where_one_task_alone_takes_too_long(self):
        with pytest.raises(
            ClusterError, match=r"time is 10; the partition 'main' allows 00:09:00 \(MaxTime\): lower time"
        ):
            self.fit(8, 4, 540)

    def test_refuses_where_time_limits_the_whole_job(self):
        with pytest.raises(ClusterError, match="lower time, or choose another partition"):
            self.fit(8, 4, 540, time_scope="job")
        assert self.fit(8, 1, 600, time_scope="job")[0].tasks_per_job == 8

    def test_refuses_where_smaller_jobs_would_be_too_many(self):
        with pytest.raises(ClusterError) as caught:
            self.fit(100, 1, 1_200, tot_tasks=100)
        assert str(caught.value) == (
            "a job of 100 tasks, 1 at a time, 10 each, needs 16:41:00; the partition 'main' allows 00:20:00 (MaxTime); "
            "smaller jobs would be 50, over max_num_jobs (10): lower time, raise max_num_jobs or the resources of a "
            "job, or choose another partition"
        )

    @given(
        st.integers(1, 300),
        st.integers(1, 8),
        st.integers(1, 120),
        st.integers(1, 60),
        st.sampled_from([0, 30, 60, 600]),
    )
    def test_a_plan_that_fits_has_no_job_over_the_limit(self, tot_tasks, parallel, most_min, time_min, slack):
        given_values = {"tasks_per_job": 300, "parallel_tasks_per_job": parallel}
        config = slurm_config({"time": str(time_min)}, meta=given_values, tot_tasks=tot_tasks)
        settings = job_settings(max_walltime_s=most_min * 60, start_slack_s=slack)
        fitted, messages = outcome(fit_walltime, config, settings, tot_tasks, "")
        if messages:
            assert time_min > most_min or "over max_num_jobs" in messages[0]
            return
        config = fitted[0]
        assert job_limit_s(config, settings, min(config.tasks_per_job, tot_tasks)) <= most_min * 60
        assert -(-tot_tasks // config.tasks_per_job) <= config.max_num_jobs
        assert config.parallel_tasks_per_job == parallel


class TestReplan:
    @given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200, unique=True), st.integers(1, 40))
    def test_gives_every_task_to_exactly_one_job(self, tasks, per_job):
        config = slurm_config(meta={"tasks_per_job": per_job, "parallel_tasks_per_job": min(per_job, 4)})
        batches = replan(config, job_settings(), tasks)
        assert [task for batch in batches for task in batch] == tasks
        assert all(len(batch) <= per_job for batch in batches)

    def test_spreads_few_tasks_as_the_heuristics_would(self):
        config = slurm_config(meta={"tasks_per_job": 100, "parallel_tasks_per_job": 4}, tot_tasks=100)
        assert [len(batch) for batch in replan(config, job_settings(), range(8))] == [4, 4]

    def test_heeds_the_partitions_limit(self):
        config = slurm_config({"time": "10"}, meta={"tasks_per_job": 100, "parallel_tasks_per_job": 1}, tot_tasks=100)
        config = replace(config, target_num_jobs=1, max_num_jobs=2)
        batches = replan(config, job_settings(max_walltime_s=600), range(2))
        assert all(len(batch) == 1 for batch in batches) or len(batches) == 1

    def test_goes_on_as_before_where_nothing_fits(self):
        config = slurm_config({"time": "10"}, meta={"tasks_per_job": 2, "parallel_tasks_per_job": 1}, tot_tasks=4)
        assert [len(batch) for batch in replan(config, job_settings(max_walltime_s=60), range(4))] == [2, 2]


class TestWithoutNodes:
    @pytest.mark.parametrize(
        ("exclude", "lines", "expected", "last"),
        [
            (None, [], "n1,n2", None),
            ("n[7-9]", ["module load x"], "n[7-9],n1,n2", None),
            (None, ["#SBATCH --qos=x -x n5"], "n5,n1,n2", "#SBATCH --exclude=n5,n1,n2"),
            ("n3", ["#SBATCH --exclude n4", "#SBATCH --exclude=n5"], "n3,n5,n1,n2", "#SBATCH --exclude=n3,n5,n1,n2"),
            ("n3", ["#SBATCH -xn5"], "n3,n5,n1,n2", "#SBATCH --exclude=n3,n5,n1,n2"),
            (None, ["# SBATCH -x n5"], "n1,n2", None),
        ],
    )
    def test_adds_to_what_is_excluded_already(self, exclude, lines, expected, last):
        found = without_nodes(replace(slurm_config(), exclude=exclude, extra_lines=lines), ["n1", "n2"])
        assert found.exclude == expected
        assert found.extra_lines == ([*lines, last] if last else lines)


class TestFitScripts:
    LIMIT = 200_000

    def noise(self):
        random_bytes = random.Random(1)  # noqa: S311 - what can't be compressed, the same each time
        return [json.dumps({"a": random_bytes.randbytes(10_000).hex()}) for _number in range(40)]

    def planned(self, lines, **batching):
        tasks = len(lines)
        found = resolve(
            config_file(batching_config=batching),
            task_name="a",
            workflow_task_meta={"tasks_per_job": tasks // 2, "parallel_tasks_per_job": 2},
            tot_tasks=tasks,
        )
        settings = job_settings(max_script_bytes=self.LIMIT)
        return fit_scripts(make_plan(found, settings, tasks), settings, lines), settings

    def test_leaves_what_fits_as_it_is(self):
        plan, _settings = self.planned(['{"a": 1}'] * 40)
        assert [len(batch) for batch in plan.batches] == [20, 20]
        assert "max_script_size" not in plan.reason
        compressed = "{" + '"a": 1, ' * 5_000 + '"b": 2}'
        assert len(self.planned([compressed] * 40)[0].batches) == 2

    def test_makes_smaller_jobs_whose_scripts_the_cluster_takes(self):
        lines = self.noise()
        plan, settings = self.planned(lines)
        assert [index for batch in plan.batches for index in batch] == list(range(40))
        assert len(plan.batches) > 2
        for batch in plan.batches:
            render(plan.config, settings, token="0" * 16, tasks=[(index, 0, lines[index]) for index in batch])
        assert f"so {len(plan.batches)} jobs" in plan.reason

    def test_refuses_more_jobs_than_are_allowed(self):
        with pytest.raises(ClusterError, match=r"over max_num_jobs \(2\): raise max_num_jobs"):
            self.planned(self.noise(), max_num_jobs=2, target_num_jobs=2)

    def test_leaves_one_task_to_itself(self):
        assert len(self.planned(["x" * 10**6] * 2)[0].batches) == 2
