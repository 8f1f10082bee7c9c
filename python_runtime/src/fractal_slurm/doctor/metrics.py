# SPDX-License-Identifier: BSD-3-Clause
"""What monitoring reads: a file for node_exporter's textfile collector, in Prometheus' text format.

It is for everybody to read, so nothing of others is in it but names of users that were given to doctor: no args, no
names of tasks, no words of SLURM.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..driver.journal import Journal, run_ids
from ..driver.lock import is_driven, state_now
from ..driver.model import ENDED, RunState, TaskState
from ..errors import RunError
from .findings import Finding, Level


def text_of(findings: Sequence[Finding], state_dir: Path) -> Iterator[str]:
    """The metrics, line by line.

    Args:
        findings: What doctor found.
        state_dir: Folder of all journals.
    """
    yield from _head("fractal_slurm_doctor_time_seconds", "When doctor looked, in seconds since the epoch.")
    yield f"fractal_slurm_doctor_time_seconds {time.time():.0f}\n"
    yield from _head("fractal_slurm_doctor_ok", "Whether no check failed.")
    yield f"fractal_slurm_doctor_ok {int(all(finding.ok for finding in findings))}\n"
    yield from _head("fractal_slurm_doctor_check", "A check by its code: 0 ok, 1 warning, 2 failed.")
    worst: dict[tuple[str, str], int] = {}
    for finding in findings:
        key = finding.code.value, finding.check
        worst[key] = max(worst.get(key, 0), list(Level).index(finding.level))
    for (code, check), value in worst.items():
        yield f'fractal_slurm_doctor_check{{code="{code}",check="{label(check)}"}} {value}\n'
    runs, tasks = _runs(state_dir)
    yield from _head("fractal_slurm_runs", "Number of runs by state.")
    for state in RunState:
        yield f'fractal_slurm_runs{{state="{state.value}"}} {runs[state]}\n'
    yield from _head("fractal_slurm_tasks", "Number of tasks by state, of runs that have not ended.")
    for task_state in TaskState:
        yield f'fractal_slurm_tasks{{state="{task_state.value}"}} {tasks[task_state]}\n'


def label(value: str) -> str:
    """A value as it stands in quotes, in Prometheus' text format."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _head(name: str, words: str) -> Iterator[str]:
    yield f"# HELP {name} {words}\n# TYPE {name} gauge\n"


def _runs(state_dir: Path) -> tuple[Counter[RunState], Counter[TaskState]]:
    runs: Counter[RunState] = Counter()
    tasks: Counter[TaskState] = Counter()
    try:
        ids = run_ids(state_dir)
    except RunError:  # a check says so
        return runs, tasks
    for run_id in ids:
        try:
            with Journal.open(state_dir, run_id, drive=False) as journal:
                state = state_now(journal.record.state, is_driven(state_dir, run_id))
                counts = journal.counts() if state not in ENDED else {}
                runs[RunState.DAMAGED if journal.damage else state] += 1
                tasks.update(counts)
        except RunError:
            runs[RunState.DAMAGED] += 1
    return runs, tasks
