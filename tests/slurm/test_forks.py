# SPDX-License-Identifier: BSD-3-Clause
"""Tasks in forks of a Python that has done their imports, as another user, in real jobs."""

from __future__ import annotations

from conftest import ANNA, ONE_JOB, Call

TASK = """
import argparse, email.mime.text, getpass, json, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--args-json")
parser.add_argument("--out-json")
arguments = parser.parse_args()
number = json.load(open(arguments.args_json))["number"]
in_a_fork = "nursery" in open("/proc/self/cmdline").read()
print("well", number)
if in_a_fork and number == {fails}:
    sys.exit(3)
out = {{"number": number, "fork": in_a_fork, "user": getpass.getuser(), "job": os.environ["SLURM_JOB_ID"]}}
json.dump(out, open(arguments.out_json, "w"))
"""


class TestForks:
    def command(self, call: Call, fails: int = -1) -> str:
        return f"/usr/bin/python3 {call.script(TASK.format(fails=fails), 'task.py')}"

    def test_tasks_of_a_run_share_their_imports(self, call: Call) -> None:
        spec = call.spec(self.command(call), 40)
        outcome = call(*call.run_arguments(spec), "--task-start", "fork")
        assert outcome.code == 0, outcome.stderr
        assert (outcome["succeeded"], outcome["forked"], outcome["jobs"]) == (40, 40, 4)
        report = call.report()
        assert [task["result"]["number"] for task in report["tasks"]] == list(range(40))
        assert all(task["result"]["fork"] and task["result"]["user"] == ANNA for task in report["tasks"])
        assert [task["log_tail"] for task in report["tasks"]] == [f"well {number}\n" for number in range(40)]

    def test_what_fails_in_a_fork_alone_ends_forks_for_the_run(self, call: Call) -> None:
        # One job after the other: the second is submitted when the first has told.
        call.env["FRACTAL_SLURM_TASK_START"] = "fork"
        call.env["FRACTAL_SLURM_MAX_JOBS_IN_FLIGHT"] = "1"
        call.config(batching={"target_num_jobs": 2, "max_num_jobs": 2})
        spec = call.spec(self.command(call, fails=2), 12)
        outcome = call.run(spec)
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 12
        assert "tasks of later jobs start in new processes: task 2 failed in a fork (exit code 3)" in outcome.stderr
        report = call.report()
        assert "task 2 failed in a fork" in report["fork_off"]
        first = report["tasks"][0]["result"]["job"]
        later = [task["result"] for task in report["tasks"] if task["result"]["job"] != first]
        assert later
        assert not any(result["fork"] for result in later)
        assert "no forks" in call.events()

    def test_slots_that_are_steps_start_their_tasks_as_ever(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_ISOLATION"] = "step"
        call.config(batching=ONE_JOB)
        spec = call.spec(self.command(call), 4)
        outcome = call(*call.run_arguments(spec), "--task-start", "fork")
        assert outcome.code == 0, outcome.stderr
        assert (outcome["succeeded"], outcome["forked"]) == (4, 0)
        assert "each slot is a step of its own" in outcome.stderr

    def test_a_report_tells_what_forks_would_bring(self, call: Call) -> None:
        slow = "import sys, time\ntime.sleep(0.6)\nopen(sys.argv[2]).read()\ntime.sleep(0.1)\n"
        call.config(batching=ONE_JOB)
        outcome = call.run(call.spec(f"/usr/bin/python3 {call.script(slow, 'slow.py')}", 2))
        assert outcome.code == 0, outcome.stderr
        assert 'with task_start = "fork" this run would be about' in call.report()["advice"]
