# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task has printed so far is read by the API while it runs."""

import time

from golden_cases import STAYS, Case, Step


def test_logs_of_running_tasks_are_read_by_the_api(real_server):
    real_server.start(engine=True)
    case = Case("", (Step("Measure", each={**STAYS, "say": "so far"}),), images=2, stop_when=2)
    workflow, marks = real_server.prepare(case)
    job = workflow.submit()
    try:
        real_server.wait_for_marks(workflow, job, marks, case.stop_when)
        (run,) = workflow.runs()
        deadline = time.monotonic() + 60
        while True:
            logs = [workflow.log(run, unit["id"]) for unit in workflow.units_of(run)]
            if all("so far" in log for log in logs):
                break
            assert time.monotonic() < deadline, logs
            time.sleep(1)
        assert workflow.job(job)["status"] == "submitted"
    finally:
        workflow.stop(job)
    ended = workflow.wait(job, 60)
    assert "so far" in workflow.log(run, workflow.units_of(run)[0]["id"]), ended["log"]
