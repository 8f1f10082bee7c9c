# SPDX-License-Identifier: GPL-3.0-or-later
"""Journals as a driver leaves them."""

import json
from pathlib import Path
from typing import Any

from fractal_slurm.driver.journal import Journal
from fractal_slurm.driver.model import JobState, RunRecord, RunState, TaskState
from fractal_slurm.settings import Settings
from samples import TOKEN, job_settings, slurm_config

RUN = "20260101-000000-abcdef"
RECORD = {
    "task": 0, "attempt": 0, "token": TOKEN, "state": "succeeded", "job": "7", "restart": 0, "node": 0,
    "log": [0, 4], "tail": "log\n", "out": {"a": 1}, "seconds": 1.5,
}  # fmt: skip


def run_record(run_id: str = RUN, **changes: Any) -> RunRecord:
    """What a run is."""
    values: dict[str, Any] = {
        "run_id": run_id, "created": 1_700_000_000.0, "user": "ann", "task_name": "Measure", "tasks": 3,
        "run_folder": f"/work/{run_id}", "config": slurm_config(), "job_settings": job_settings(),
        "settings": Settings().model_dump(), "hides_jobs": False,
    }  # fmt: skip
    return RunRecord(**{**values, **changes})


def make(
    state_dir: Path, run_id: str = RUN, *, state: str = "done", ended: float | None = None, tasks: int = 3
) -> Journal:
    """The journal of a run, as a driver leaves it; still open and locked."""
    record = run_record(run_id, tasks=tasks, state=RunState(state), ended=ended)
    journal = Journal.create(state_dir, record, ["{}"] * tasks, {TOKEN: range(tasks)}, "why")
    journal.update_job(TOKEN, "submitted", state=JobState.COLLECTED, slurm_job_id="7", slurm_state="COMPLETED")
    journal.finish_task(0, TaskState.SUCCEEDED, None, json.dumps(RECORD))
    failed = {**RECORD, "task": 1, "state": "failed", "exit": 1}
    journal.finish_task(1, TaskState.FAILED, "exit code 1", json.dumps(failed))
    return journal
