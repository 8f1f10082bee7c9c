# SPDX-License-Identifier: GPL-3.0-or-later
"""What people do with runs on a real cluster: find one from squeue, read logs, run what failed again."""

from __future__ import annotations

from conftest import Call, finish, slurm, wait_for

MIXED = """#!/bin/sh
n=$(sed "s/[^0-9]//g" "$2")
head -c 5000 /dev/zero | tr '\\0' x; echo " end of $n"
[ -e {flag} ] || [ "$n" -lt 6 ] || exit 3
echo "{{}}" > "$4"
"""


class TestAfterFailures:
    def test_the_failed_tasks_alone_run_again_as_a_new_run(self, call: Call) -> None:
        flag = call.folder / "mended"
        run = finish(call.begin(call.spec(call.script(MIXED.format(flag=flag)), 8, meta={"mem": "50M"})), code=1)
        assert run["failed"] == 2
        assert [failure["args"] for failure in run["failures"]] == [{"number": 6}, {"number": 7}]
        logs = call("logs", run["run_id"], "--failed", "--json").document
        assert [(row["index"], row["log"][-9:], len(row["log"])) for row in logs] == [
            (index, f"end of {index}\n", 5010) for index in (6, 7)
        ]
        flag.touch()
        retry = call("retry", run["run_id"], "--mem", "60M", "--json")
        assert (retry.code, retry["tasks"], retry["succeeded"]) == (0, 2, 2)
        report = call("report", retry["run_id"], "--json").document
        assert report["retry_of"] == run["run_id"]
        assert [task["args"] for task in report["tasks"]] == [{"number": 6}, {"number": 7}]
        assert call("retry", retry["run_id"]).code == 2  # nothing is left

    def test_squeue_leads_back_to_a_run(self, call: Call) -> None:
        process = call.begin(call.spec(call.script("#!/bin/sh\nsleep 3\n"), 1))
        comments = wait_for(lambda: slurm("squeue", "-h", "-o", "%k").split(), what="the job")
        assert [comment.split(":")[1] for comment in comments] == [call.run_id()]
        assert finish(process)["without_out"] == 1
