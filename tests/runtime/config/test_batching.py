# SPDX-License-Identifier: GPL-3.0-or-later
import re
import time

import pytest
from fractal_slurm.config.batching import Branch, heuristics
from fractal_slurm.errors import BatchingError
from hypothesis import assume, given
from hypothesis import strategies as st
from samples import outcome, vectors

LIMITS = {
    "target_cpus_per_job": 4,
    "max_cpus_per_job": 8,
    "target_mem_per_job": 4_000,
    "max_mem_per_job": 8_000,
    "target_num_jobs": 4,
    "max_num_jobs": 10,
}
TASK = {"cpus_per_task": 1, "mem_per_task": 1_000}


@st.composite
def limits(draw):
    values = {}
    for what, most in (("cpus_per_job", 200), ("mem_per_job", 500_000), ("num_jobs", 100)):
        target = draw(st.integers(1, most))
        values[f"target_{what}"] = target
        values[f"max_{what}"] = draw(st.integers(target, most * 2))
    return values


class TestHeuristics:
    @pytest.mark.parametrize("name", ["batching", "batching-2.26"])
    def test_agrees_with_the_vectors(self, name):
        wrong = []
        for row in vectors(name):
            batching, messages = outcome(heuristics, **row["input"])
            found = {"error": True} if messages else dict(zip(row["expected"], batching, strict=False))
            if found != row["expected"]:
                wrong.append((row, found))
        assert wrong == []

    @pytest.mark.parametrize(
        ("tasks", "given_values", "expected", "branch", "words"),
        [
            (10, {"tasks_per_job": 4, "parallel_tasks_per_job": 2}, (4, 2, 3), Branch.GIVEN, r"tasks_per_job \(4\)"),
            (16, {}, (4, 4, 4), Branch.TARGET, r"4 jobs are within target_num_jobs \(4\)"),
            (17, {}, (8, 8, 3), Branch.MAXIMUM, r"3 jobs are within max_num_jobs \(10\)"),
            (80, {}, (8, 8, 10), Branch.MAXIMUM, r"10 jobs are within max_num_jobs \(10\)"),
            (81, {}, (9, 8, 9), Branch.QUEUE, r"over max_num_jobs \(10\): so 9 tasks queue"),
        ],
    )
    def test_tells_the_rule_that_decided_and_why(self, tasks, given_values, expected, branch, words):
        batching = heuristics(tot_tasks=tasks, **TASK, **LIMITS, **given_values)
        assert (batching.tasks_per_job, batching.parallel_tasks_per_job, batching.num_jobs) == expected
        assert batching.branch is branch
        assert re.search(words, batching.reason)

    def test_runs_one_task_at_a_time_where_they_share_a_gpu(self):
        for tasks, given_values in (
            (10, {"tasks_per_job": 4, "parallel_tasks_per_job": 2}),
            (16, {}),
            (17, {}),
            (81, {}),
        ):
            usual = heuristics(tot_tasks=tasks, **TASK, **LIMITS, **given_values)
            batching = heuristics(tot_tasks=tasks, **TASK, **LIMITS, **given_values, needs_gpu=True)
            assert batching.parallel_tasks_per_job == 1
            assert (batching.tasks_per_job, batching.num_jobs) == (usual.tasks_per_job, usual.num_jobs)
            assert "one at a time" in batching.reason

    def test_answers_at_once_for_any_number_of_tasks(self):
        def duration(tasks):
            began = time.perf_counter()
            for _number in range(100):
                heuristics(tot_tasks=tasks, **TASK, **LIMITS)
            return time.perf_counter() - began

        duration(1)
        few, many = (min(duration(tasks) for _number in range(5)) for tasks in (1, 10**9))
        # A step a task would take minutes; the factor leaves room for a busy machine.
        assert many < few * 20 + 0.01

    @given(tasks=st.integers(1, 10_000), cpus=st.integers(1, 64), mem=st.integers(1, 100_000), bounds=limits())
    def test_never_exceeds_a_maximum_and_covers_all_tasks(self, tasks, cpus, mem, bounds):
        assume(cpus <= bounds["max_cpus_per_job"])
        assume(mem <= bounds["max_mem_per_job"])
        batching = heuristics(tot_tasks=tasks, cpus_per_task=cpus, mem_per_task=mem, **bounds)
        assert batching.parallel_tasks_per_job * cpus <= bounds["max_cpus_per_job"]
        assert batching.parallel_tasks_per_job * mem <= bounds["max_mem_per_job"]
        assert batching.num_jobs <= bounds["max_num_jobs"]
        assert (batching.num_jobs - 1) * batching.tasks_per_job < tasks <= batching.num_jobs * batching.tasks_per_job
        assert 1 <= batching.parallel_tasks_per_job <= batching.tasks_per_job
        if batching.branch is Branch.TARGET:
            assert batching.num_jobs <= bounds["target_num_jobs"]

    @given(
        tasks=st.integers(1, 1_000), per_job=st.integers(1, 100), parallel=st.integers(1, 100), cpus=st.integers(1, 16)
    )
    def test_keeps_given_values_or_says_which_maximum_they_exceed(self, tasks, per_job, parallel, cpus):
        batching, messages = outcome(
            heuristics,
            tot_tasks=tasks,
            cpus_per_task=cpus,
            mem_per_task=100,
            tasks_per_job=per_job,
            parallel_tasks_per_job=parallel,
            **{**LIMITS, "max_cpus_per_job": 32},
        )
        assert all("over max_" in message for message in messages)
        if batching:
            assert batching[:2] == (per_job, min(per_job, parallel))
            assert batching.num_jobs <= LIMITS["max_num_jobs"]
            assert batching.parallel_tasks_per_job * cpus <= 32

    def test_names_every_number_that_is_none(self):
        wrong = {"tot_tasks": 0, "cpus_per_task": -1, "mem_per_task": True, "max_num_jobs": 2.5, "target_num_jobs": "3"}
        with pytest.raises(BatchingError) as caught:
            heuristics(**{"tot_tasks": 1, **TASK, **LIMITS, **wrong})
        named = [message.split()[0] for message in caught.value.messages]
        assert named == ["tot_tasks", "cpus_per_task", "mem_per_task", "target_num_jobs", "max_num_jobs"]

    def test_names_every_limit_that_is_exceeded(self):
        with pytest.raises(BatchingError) as caught:
            heuristics(
                tot_tasks=1, cpus_per_task=9, mem_per_task=8_001, tasks_per_job=2, **{**LIMITS, "target_num_jobs": 11}
            )
        assert caught.value.messages == [
            "target_num_jobs (11) is over max_num_jobs (10)",
            "cpus_per_task (9) is over max_cpus_per_job (8)",
            "the memory of a task (8001 MB) is over max_mem_per_job (8000 MB)",
            "tasks_per_job and parallel_tasks_per_job must be given together or not at all",
        ]

    @pytest.mark.parametrize("alone", ["tasks_per_job", "parallel_tasks_per_job"])
    def test_refuses_one_given_value_without_the_other(self, alone):
        with pytest.raises(BatchingError, match="together or not at all"):
            heuristics(tot_tasks=1, **TASK, **LIMITS, **{alone: 1})

    def test_says_that_no_more_tasks_run_at_the_same_time_than_there_are(self):
        batching = heuristics(tot_tasks=4, **TASK, **LIMITS, tasks_per_job=2, parallel_tasks_per_job=5)
        assert batching[:2] == (2, 2)
        assert "no more than 2 can run at the same time" in batching.reason
