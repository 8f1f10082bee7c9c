# SPDX-License-Identifier: BSD-3-Clause
"""A node on which jobs die at once, and which is therefore always free for the next one."""

from __future__ import annotations

from collections import Counter

from conftest import ONE_JOB, Call, counted, starts

EIGHT_JOBS = {"target_num_jobs": 8, "max_num_jobs": 8, "target_cpus_per_job": 2, "max_cpus_per_job": 2}


def dies_on(*nodes: str, how: str = "exit 1") -> list[str]:
    """Lines of a script that fails on some nodes, as it does where the runtime's folder is not mounted."""
    return [f'case "$SLURMD_NODENAME" in {"|".join(nodes)}) echo "not mounted"; {how};; esac']


class TestBlackHole:
    def test_it_costs_no_task_and_is_left_out(self, call: Call) -> None:
        script, marks = counted(call, 0.3)
        call.config(batching=EIGHT_JOBS, extra_lines=dies_on("n1"))
        outcome = call.run(call.spec(script, 64))
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 64
        assert starts(marks) == Counter(range(64))
        assert "failed before its first task started (NonZeroExitCode, exit 1:0), on n1" in outcome.stderr
        assert "it printed: not mounted" in outcome.stderr
        assert "elsewhere than on n1" in outcome.stderr
        assert "n1" not in {task["host"] for task in call.report()["tasks"]}
        assert "node left out" in call.events()

    def test_two_of_them_beside_what_the_config_excludes(self, call: Call) -> None:
        call.config(batching=ONE_JOB, exclude="n4", extra_lines=["#SBATCH -x n4", *dies_on("n1", "n2")])
        outcome = call.run(call.spec("true", 8))
        assert outcome.code == 0, outcome.stderr
        assert (outcome["succeeded"], outcome["jobs"]) == (8, 3)
        assert {task["host"] for task in call.report()["tasks"]} == {"n3"}

    def test_a_job_that_ends_well_without_its_worker_is_no_better(self, call: Call) -> None:
        call.config(batching=ONE_JOB, extra_lines=dies_on("n1", how="exit 0"))
        outcome = call.run(call.spec("true", 4))
        assert outcome.code == 0, outcome.stderr
        assert (outcome["succeeded"], outcome["jobs"]) == (4, 2)

    def test_a_job_that_dies_everywhere_is_no_nodes_fault(self, call: Call) -> None:
        call.config(batching=ONE_JOB, extra_lines=["echo 'no such module'; exit 9"])
        outcome = call.run(call.spec("true", 4))
        assert outcome.code == 1
        assert (outcome["failed"], outcome["jobs"]) == (4, 3)
        reason = outcome["failures"][0]["reason"]
        assert "(NonZeroExitCode, exit 9:0); so did others, on 3 nodes (n1, n2, n3); it printed: no such" in reason

    def test_the_only_node_that_there_is_fails_the_tasks_after_some_tries(self, call: Call) -> None:
        call.config(batching=ONE_JOB, nodelist="n1", extra_lines=dies_on("n1"))
        outcome = call.run(call.spec("true", 4))
        assert outcome.code == 1
        assert (outcome["failed"], outcome["jobs"]) == (4, 3)
        assert "on n1; it printed: not mounted; it was tried 3 times" in outcome["failures"][0]["reason"]
