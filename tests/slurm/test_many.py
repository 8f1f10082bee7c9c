# SPDX-License-Identifier: GPL-3.0-or-later
"""Many runs in one process: several specs, and all runs again after a crash."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from conftest import ANNA, BEN, Call, kill, live_jobs, starts, wait_for

TASK = '#!/bin/sh\nn=$(sed "s/[^0-9]//g" "$2")\necho "$n" >> {marks}\nsleep {sleep}\necho "{{}}" > "$4"\n'


def specs(call: Call, command: str, number: int, tasks: int) -> list[str]:
    """Units of work whose tasks are all different."""
    paths = []
    for index in range(number):
        path = call.folder / f"spec-{index}.json"
        parameters = [{"number": 100 * index + n} for n in range(tasks)]
        path.write_text(json.dumps({"task": {"name": f"task {index}", "command": command}, "parameters": parameters}))
        paths.append(str(path))
    return paths


def arguments(call: Call, paths: list[str], user: str) -> list[str]:
    _run, _spec, *rest = call.run_arguments("unused", user)
    return ["run", *paths, *rest]


class TestManyRuns:
    def test_go_on_after_a_crash_all_in_one_process_and_no_task_twice(self, call: Call) -> None:
        marks: dict[str, Path] = {user: call.work(user) / "marks" for user in (ANNA, BEN)}
        drivers = []
        for user in (ANNA, BEN):
            task = call.script(TASK.format(marks=marks[user], sleep=1), name=f"{user}.sh")
            paths = specs(call, task, 25, 2)
            drivers.append(call.start(*arguments(call, paths, user)))
            wait_for(lambda user=user: starts(marks[user]).total() >= 1, what="tasks that run")
        for driver in drivers:
            kill(driver)
        jobs = Counter(live_jobs())
        assert set(jobs.values()) == {1}
        again = call("resume", "--all", "--json")
        assert again.code == 0, again.stderr
        # Of 50 runs some had ended; in the others jobs ran, waited, or were never submitted.
        assert len(again["runs"]) >= 20
        assert {(run["state"], run["succeeded"], run["jobs"]) for run in again["runs"]} == {("done", 2, 1)}
        for user in (ANNA, BEN):
            assert starts(marks[user]) == Counter({100 * index + n: 1 for index in range(25) for n in range(2)})
        # All runs share what squeue said.
        assert max(run["squeue_calls"] for run in again["runs"]) <= max(run["wall_s"] for run in again["runs"]) + 3
        assert not live_jobs()
        assert call("resume", "--all", "--json")["runs"] == []
