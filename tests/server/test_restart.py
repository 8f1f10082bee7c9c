# SPDX-License-Identifier: GPL-3.0-or-later
"""A fractal-server on the engine is killed while tasks run, and started again: what becomes of its jobs."""

import time
from pathlib import Path

import pytest
from golden_cases import MARKS, STAYS, Case, Step
from golden_picture import rows

MEASURE = Step("Measure", each={"set": {"measured": True}})
SLOW = {"mark": MARKS, "sleep": 6}


@pytest.fixture(scope="module")
def on_engine(real_server):
    """The server, on the engine."""
    real_server.start(engine=True)
    return real_server


class Crashed:
    """A job whose server was killed while some of its tasks ran, and the server that was started again.

    Attributes:
        workflow: Its workflow.
        ended: What the API says of the job at its end.
        units: For each history unit of it, its status.
        runs: For each history run of it, its status.
    """

    def __init__(self, on_engine, case, *, stop=False):
        workflow, marks = on_engine.prepare(case)
        self.workflow = workflow
        before = on_engine.server.query("select count(*) from accountingrecordslurm")
        job = workflow.submit()
        on_engine.wait_for_marks(workflow, job, marks, case.stop_when, case.units_done)
        jobs = on_engine.squeue()
        assert jobs
        on_engine.server.kill()
        time.sleep(1)
        assert set(on_engine.squeue()) == set(jobs)  # SLURM goes on
        on_engine.start(engine=True)
        if stop:
            workflow.stop(job)
        self.ended = workflow.wait(job, 120, interval=0.3)
        on_engine.wait_for_zip(self.ended)
        runs = rows(on_engine.server, f"historyrun where job_id = {job}")
        ids = ", ".join(str(run["id"]) for run in runs)
        self.runs = [run["status"] for run in runs]
        self.units = [unit["status"] for unit in rows(on_engine.server, f"historyunit where history_run_id in ({ids})")]
        self.accounts = int(on_engine.server.query("select count(*) from accountingrecordslurm")) - int(before)
        self.folder = Path(self.ended["working_dir"])
        self.left = on_engine.squeue()


def again_by_name(workflow):
    """For each image of a dataset its attribute ``again``, by the image's name."""
    path = f"/api/v2/project/{workflow.project}/dataset/{workflow.dataset}/images/query/"
    images = workflow.client.call("POST", path, {})["items"]
    return {image["zarr_url"].rpartition("/")[2]: image["attributes"].get("again") for image in images}


def test_results_come_home_and_the_workflow_goes_on_when_it_is_submitted_again(on_engine):
    step = Step("Measure", each={**SLOW, "only": ["W00002", "W00003"], "exit": 3, "set": {"again": True}})
    found = Crashed(on_engine, Case("", (MEASURE, step, MEASURE), images=4, stop_when=2, units_done=6))
    assert found.ended["status"] == "failed"
    assert found.ended["end_timestamp"]
    assert found.runs == ["done", "failed"]
    assert found.units == ["done"] * 6 + ["failed"] * 2
    assert found.accounts == 2
    logs = sorted(path.name for path in found.folder.glob("1_measure/*-log.txt"))
    assert len(logs) == 4
    assert len(list(found.folder.glob("1_measure/*-metadiff.json"))) == 2
    assert Path(f"{found.folder}.zip").exists()
    assert found.left == []
    log = found.ended["log"]
    assert "The server ended while this job ran, and was started again." in log
    assert "Task 'Measure' (task 1; the first is task 0): 2 of 4 succeeded, 2 failed" in log
    assert "not in the image list" in log
    assert "Run the workflow again from task 'Measure' (task 1) on, for all its images" in log
    # The log is right, and its advice works.
    workflow, names = found.workflow, [f"W{number:05d}" for number in range(4)]
    assert again_by_name(workflow) == dict.fromkeys(names)
    path = f"/api/v2/project/{workflow.project}/workflow/{workflow.workflow}/"
    second = workflow.client.call("GET", path)["task_list"][1]["id"]
    workflow.client.call("PATCH", f"{path}wftask/{second}/", {"args_parallel": {"set": {"again": True}}})
    job = workflow.submit({"first_task_index": 1})
    ended = workflow.wait(job, 120)
    assert ended["status"] == "done", ended["log"]
    runs = rows(on_engine.server, f"historyrun where job_id = {job}")
    assert [(run["workflowtask_dump"]["order"], run["status"]) for run in runs] == [(1, "done"), (2, "done")]
    assert again_by_name(workflow) == dict.fromkeys(names, True)


def test_a_compound_task_of_which_only_the_first_part_ran_is_not_done(on_engine):
    found = Crashed(on_engine, Case("", (Step("Register", {**SLOW, "list": 2}),), images=2, stop_when=1))
    assert (found.runs, found.units) == (["failed"], ["failed"])
    assert "its first part" in found.ended["log"]


def test_the_parts_of_a_compound_task_come_home(on_engine):
    found = Crashed(on_engine, Case("", (Step("Register", {"list": 2}, SLOW),), images=2, stop_when=2))
    assert (found.runs, found.units) == (["failed"], ["failed", "done", "done"])
    assert "2 of 2 succeeded" in found.ended["log"]


def test_a_job_can_be_stopped_after_that(on_engine):
    found = Crashed(on_engine, Case("", (Step("Measure", each=STAYS),), images=2, stop_when=2), stop=True)
    assert (found.runs, found.units) == (["failed"], ["failed", "failed"])
    assert "The job was stopped." in found.ended["log"]
    assert found.left == []


def test_jobs_of_which_the_dead_server_had_nothing_in_slurm_get_an_end_too(on_engine):
    jobs = {}
    for name in ("not begun", "outputs not written down"):
        workflow, _marks = on_engine.prepare(Case("", (MEASURE,), images=1))
        jobs[name] = workflow, workflow.submit()
    for workflow, job in jobs.values():
        assert workflow.wait(job, 60)["status"] == "done"
    on_engine.server.kill()
    on_engine.start(engine=True)
    on_engine.server.kill()  # no process lives that knows the jobs
    for _workflow, job in jobs.values():
        on_engine.server.query(f"update jobv2 set status = 'submitted', log = null where id = {job}")  # noqa: S608
    on_engine.server.query(f"update historyrun set status = 'submitted' where job_id = {job}")  # noqa: S608
    time.sleep(6)  # by so much clocks may differ
    on_engine.start(engine=True)
    ended = {name: workflow.wait(job, 30) for name, (workflow, job) in jobs.items()}
    assert {state["status"] for state in ended.values()} == {"failed"}
    assert all("No task of it was in SLURM at that time." in state["log"] for state in ended.values())
    assert {name: state["log"].splitlines()[-1] for name, state in ended.items()} == {
        "not begun": "What to do: Run the workflow again from the first task that is not done on.",
        "outputs not written down": "What to do: Run the workflow again from task 'Measure' (task 0) on, for all its "
        "images.",
    }
