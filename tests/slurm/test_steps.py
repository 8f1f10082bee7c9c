# SPDX-License-Identifier: BSD-3-Clause
"""Slots in steps of their own, which SLURM may let wait."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from conftest import BASE, ONE_JOB, Call, finish, wait_for


class TestStepsThatWait:
    def test_are_told_to_end_with_their_job_and_their_tasks_never_began(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_ISOLATION"] = "step"
        call.env["FRACTAL_SLURM_CANCEL_GRACE_S"] = "20"
        # All CPUs of the job are taken by a step of the script's own.
        busy = f"{BASE}/bin/srun --exact --ntasks=4 --mem=0 --input=none sleep 300 > /dev/null 2>&1 &"
        call.config(batching=ONE_JOB, extra_lines=[busy, "sleep 2"])
        process = call.begin(call.spec("true", 4))
        wait_for(lambda: call.runs() and list(Path(call.report()["run_folder"]).glob("*/results-*")))
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        outcome = finish(process, code=130)
        assert outcome["not_run"] == 4
        assert time.monotonic() - began < 15  # long before the steps' own limit, or the grace of the cancel
        (results,) = Path(outcome["run_folder"]).glob("*/results-*")
        text = results.read_text()
        assert '"state":"cut"' not in text
        assert '"end":"the run was cancelled"' in text
        assert '"left":4' in text
