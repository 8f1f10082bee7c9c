# SPDX-License-Identifier: GPL-3.0-or-later
import importlib
import types
from pathlib import Path

import pytest
from fractal_slurm.api import RunError, StoredRun, TaskEnd
from fractal_slurm_server.owner import Left


@pytest.fixture
def recover(server, monkeypatch):
    """The module, without a wait; what it closes is collected in ``closed``."""
    module = importlib.import_module("fractal_slurm_server.recover")
    monkeypatch.setattr(module, "_TICK_S", 0)
    module.closed = []
    monkeypatch.setattr(module, "close_job", lambda job, homes: module.closed.append((job, list(homes))))
    return module


class Handle:
    def __init__(self, run_id, states, ends, on_task_end):
        self.run_id, self.states, self.cancelled = run_id, list(states), False
        for end in ends:
            on_task_end(end)

    @property
    def state(self):
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def logs(self, tasks):
        return dict.fromkeys(tasks, b"log")

    def job_ids(self):
        return (4,)

    def running(self):
        return []

    def cancel(self):
        self.cancelled = True


class Engine:
    """Has runs of an ended process: for each, its sheet, the states that it shows, and the ends of its tasks."""

    settings = types.SimpleNamespace(task_logs="joined")

    def __init__(self, **runs):
        self.runs, self.taken = runs, []

    def stored(self):
        return [StoredRun(name, "ann", sheet.label(), False, False) for name, (sheet, *_rest) in self.runs.items()]

    def resume(self, run_id, *, on_task_end):
        _sheet, states, ends = self.runs[run_id]
        if isinstance(states, Exception):
            raise states
        self.handle = Handle(run_id, states, ends, on_task_end)
        return self.handle

    def set_labels(self, run_id, labels):
        self.taken.append((run_id, labels))


def make(recover, tmp_path, job=7, *, task_type="parallel", multi=True, tasks=2):
    folder = tmp_path / f"job{job}" / "1_measure"
    folder.mkdir(parents=True, exist_ok=True)
    return recover.Sheet(
        "gone", job, 3, 5, task_type, multi, 1, 22, "Measure", str(folder), [f"par-{n}" for n in range(tasks)],
        [100 + n for n in range(tasks)],
    )  # fmt: skip


DONE = TaskEnd("R", 0, "succeeded", out={})
FAILED = TaskEnd("R", 1, "failed", exit_code=3, reason="exit code 3")


class TestBringHome:
    def test_closes_each_job_as_soon_as_its_runs_have_ended(self, recover, server, tmp_path):
        engine = Engine(
            slow=(make(recover, tmp_path, 7), ["running"] * 4 + ["done"], [DONE]),
            quick=(make(recover, tmp_path, 8), ["done"], [DONE, FAILED]),
        )
        recover.bring_home(Left("gone", (7, 8, 9), Path("x")), engine)
        assert [job for job, _homes in recover.closed] == [8, 9, 7]
        assert [run for run, _labels in engine.taken] == ["quick", "slow"]
        assert len(server.accounting) == 2

    @pytest.mark.parametrize("state", ["left", "broken"])
    def test_takes_nothing_of_a_run_that_has_no_end(self, recover, server, tmp_path, state):
        engine = Engine(a=(make(recover, tmp_path, 7), [state], [DONE]), b=(make(recover, tmp_path, 8), ["done"], []))
        with pytest.raises(RunError, match=f"run a is {state}"):
            recover.bring_home(Left("gone", (7, 8), Path("x")), engine)
        assert [job for job, _homes in recover.closed] == [8]
        assert engine.taken == [("b", {"taken": True})]

    def test_leaves_the_runs_of_others_alone(self, recover, tmp_path):
        recover.bring_home(Left("other", (7,), Path("x")), Engine(a=(make(recover, tmp_path), ["done"], [DONE])))
        assert recover.closed == [(7, [])]

    def test_cancels_a_run_whose_job_is_stopped(self, recover, server, tmp_path):
        engine = Engine(a=(make(recover, tmp_path), ["running", "cancelled"], [TaskEnd("R", 0, "not_run")]))
        (tmp_path / "job7" / "shutdown").touch()
        recover.bring_home(Left("gone", (7,), Path("x")), engine)
        ((_job, (home,)),) = recover.closed
        assert (engine.handle.cancelled, home.is_stopped) == (True, True)
        assert str(home.desk.errors[0]) == "Failed due to job-execution shutdown."
        assert "The job was stopped." in recover.job_log(7, [home])

    def test_a_compound_task_of_which_the_first_part_ran_is_not_done(self, recover, server, tmp_path):
        sheet = make(recover, tmp_path, task_type="compound", multi=False, tasks=1)
        recover.bring_home(Left("gone", (7,), Path("x")), Engine(a=(sheet, ["done"], [DONE])))
        assert server.statuses == []
        log = recover.job_log(7, recover.closed[0][1])
        assert "Task 'Measure' (task 1; the first is task 0), its first part: 1 of 1 succeeded, 0 failed." in log
        assert "The other parts of this task were not started." in log


class TestJobLog:
    def test_says_what_came_home_and_what_to_do(self, recover, server, tmp_path):
        recover.bring_home(Left("gone", (7,), Path("x")), Engine(a=(make(recover, tmp_path), ["done"], [DONE, FAILED])))
        assert recover.job_log(7, recover.closed[0][1]).splitlines() == [
            "JOB ERROR in Fractal job 7:",
            "The server ended while this job ran, and was started again. The workflow did not go on.",
            "Task 'Measure' (task 1; the first is task 0): 1 of 2 succeeded, 1 failed. Their logs and outputs are in "
            "the folder of this job. Their outputs are not in the image list.",
            "The first error:",
            "Task failed with returncode=3.",
            "STDERR: log",
            "What to do: Run the workflow again from task 'Measure' (task 1) on, for all its images.",
        ]

    def test_says_that_no_task_was_in_slurm(self, recover):
        assert recover.job_log(7, []).splitlines()[2:] == [
            "No task of it was in SLURM at that time.",
            "What to do: Run the workflow again from the first task that is not done on.",
        ]

    def test_names_a_task_whose_outputs_nobody_wrote_down(self, recover):
        assert recover.job_log(7, [], [("Measure", 1)]).splitlines()[2:] == [
            "No task of it was in SLURM at that time.",
            "Task 'Measure' (task 1; the first is task 0) had begun, and was not finished. Its outputs may be missing "
            "in the image list, also those of units that are done.",
            "What to do: Run the workflow again from task 'Measure' (task 1) on, for all its images.",
        ]

    def test_says_why_a_run_can_not_be_continued(self, recover, tmp_path):
        engine = Engine(a=(make(recover, tmp_path), RunError("its journal can't be read"), []))
        recover.bring_home(Left("gone", (7,), Path("x")), engine)
        assert "run a can't be continued: its journal can't be read" in recover.job_log(7, recover.closed[0][1])
