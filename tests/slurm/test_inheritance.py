# SPDX-License-Identifier: BSD-3-Clause
"""What tasks inherit from the script, in a real job.

All of it is compared in tests/runtime/node/test_worker_process.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ONE_JOB, Call


@pytest.mark.parametrize("options", [{}, {"nodes": 2}, {"isolation": "step"}])
@pytest.mark.parametrize("lines", [[], ["umask 007", "cd /usr"]])
def test_tasks_see_what_the_script_left(call: Call, options: dict[str, Any], lines: list[str]) -> None:
    options = dict(options)
    call.env["FRACTAL_SLURM_ISOLATION"] = options.pop("isolation", "none")
    look = "umask; pwd; grep SigIgn /proc/self/status | cut -c 17-"
    call.config(batching=ONE_JOB, extra_lines=[*lines, f"echo script: $({look})"], **options)
    outcome = call.run(call.spec(call.script(f'#!/bin/sh\necho task: $({look})\necho "{{}}" > "$4"\n'), 4))
    assert (outcome["succeeded"], outcome["jobs"]) == (4, 1), outcome.stderr
    folder = Path(outcome["run_folder"])
    (printed,) = (path.read_text() for path in folder.glob("*.slurm.out"))
    (script,) = (line for line in printed.splitlines() if line.startswith("script: "))
    tasks = "".join(path.read_text() for path in folder.glob("*/log-*")).splitlines()
    # glibc's posix_spawn() ignores two signals over 31 that it keeps for its threads: the lower ones are compared.
    assert {line.removeprefix("task: ")[:-8] + line[-7:] for line in tasks} == {
        script.removeprefix("script: ")[:-8] + script[-7:]
    }
    assert len(tasks) == 4
    if lines:
        assert script.startswith("script: 0007 /usr ")
    results = next(folder.glob("*/results-*"))
    assert oct(results.stat().st_mode & 0o777) == "0o600"
