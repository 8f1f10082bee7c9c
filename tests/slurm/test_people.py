# SPDX-License-Identifier: GPL-3.0-or-later
"""What people do with runs on a real cluster: find one from squeue, read logs, run what failed again."""

from __future__ import annotations

import json
import time

from conftest import ANNA, Call, finish, slurm, wait_for

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


class TestOnItsOwn:
    def test_a_driver_outlives_who_started_it_and_can_be_looked_at(self, call: Call) -> None:
        arguments = call.run_arguments(call.spec(call.script('#!/bin/sh\nsleep 1\necho "{}" > "$4"\n'), 6))
        begun = call(*arguments, "--detach")
        assert begun.code == 0
        attached = call("attach", begun["run_id"], "--json-lines")
        assert attached.code == 0
        events = [json.loads(line) for line in attached.stdout.splitlines()]
        assert sorted(event["index"] for event in events if event["event"] == "task") == list(range(6))
        assert {event["node"] for event in events if event.get("state") == "RUNNING"} <= {"n1", "n2", "n3", "n4"}
        assert call.report()["state"] == "done"
        log = call.folder / "state/runs" / begun["run_id"] / "driver.log"
        assert log.stat().st_mode & 0o777 == 0o600
        assert "6 tasks: 6 succeeded" in log.read_text()


class TestWhileItRuns:
    def test_a_log_can_be_read_along(self, call: Call) -> None:
        script = call.script(
            '#!/bin/sh\necho begin; for i in 1 2 3; do sleep 1; echo "step $i"; done\necho "{}" > "$4"\n'
        )
        process = call.begin(call.spec(script, 3))
        run_id = wait_for(call.runs, what="the run")[0]
        seen: list[tuple[float, str]] = []
        with call.start("logs", run_id, "1", "--follow") as reader:
            for line in reader.stdout or ():
                seen.append((time.monotonic(), line))
        assert [line for _at, line in seen] == ["begin\n", "step 1\n", "step 2\n", "step 3\n"]
        assert seen[-1][0] - seen[0][0] > 0.8  # not all at once, when it had ended
        finish(process)


class TestDoctor:
    def test_a_probe_looks_at_clock_runtime_and_folders_of_a_node(self, call: Call) -> None:
        work = str(call.work(ANNA))
        metrics = call.folder / "state" / "x.prom"
        arguments = ["--user", ANNA, "--work-dir", work, "--cache-dir", work, "--cache-dir", "/nowhere"]
        found = call("doctor", *arguments, "--probe", "--textfile", str(metrics), "--json")
        assert found.code == 3
        by_code = {(row["code"], row["ok"]) for row in found.document}
        assert {("D31", True), ("D32", True), ("D33", True), ("D34", True), ("D34", False)} <= by_code
        assert ("D31", False) not in by_code
        assert call.runs() == []  # what it made of its own is gone
        assert 'fractal_slurm_doctor_check{code="D34"' in metrics.read_text()
