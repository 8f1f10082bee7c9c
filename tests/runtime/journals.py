# SPDX-License-Identifier: GPL-3.0-or-later
"""Journals as a driver leaves them."""

import json
from dataclasses import asdict
from pathlib import Path

from fractal_slurm.driver.journal import Journal
from fractal_slurm.driver.model import JobState, TaskState
from fractal_slurm.settings import Settings
from samples import TOKEN, job_settings, slurm_config

RUN = "20260101-000000-abcdef"
RECORD = {
    "task": 0, "attempt": 0, "token": TOKEN, "state": "succeeded", "job": "7", "restart": 0, "node": 0,
    "log": [0, 4], "tail": "log\n", "out": {"a": 1}, "seconds": 1.5,
}  # fmt: skip


def make(
    state_dir: Path, run_id: str = RUN, *, state: str = "done", ended: float | None = None, tasks: int = 3
) -> Journal:
    """The journal of a run, as a driver leaves it; still open and locked."""
    values = {
        "run_id": run_id, "created": 1_700_000_000.0, "user": "ann", "task_name": "Measure", "tasks": tasks,
        "run_folder": f"/work/{run_id}", "config": asdict(slurm_config()), "job_settings": asdict(job_settings()),
        "settings": Settings().model_dump(), "hides_jobs": False, "state": state,
    }  # fmt: skip
    journal = Journal.create(state_dir, run_id, values, ["{}"] * tasks, {TOKEN: range(tasks)}, "why")
    journal.update_job(TOKEN, "submitted", state=JobState.COLLECTED, slurm_job_id="7", slurm_state="COMPLETED")
    journal.finish_task(0, TaskState.SUCCEEDED, None, json.dumps(RECORD))
    failed = {**RECORD, "task": 1, "state": "failed", "exit": 1}
    journal.finish_task(1, TaskState.FAILED, "exit code 1", json.dumps(failed))
    if ended is not None:
        journal.put("ended", ended)
    return journal
