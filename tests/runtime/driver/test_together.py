# SPDX-License-Identifier: GPL-3.0-or-later
"""Results of several runs of one user, read in one call: no SLURM, and a sudo that is played."""

import time

import pytest
from fractal_slurm.cluster.commands import SlurmJob
from fractal_slurm.cluster.queue import Answer
from fractal_slurm.driver import collect as collecting
from fractal_slurm.driver.model import JobState
from fractal_slurm.driver.together import Together
from samples import TOKEN
from test_collect import OTHER, Driver, end, task

THIRD, FOURTH = "a" * 16, "b" * 16
SHARED = """\
#!/bin/bash
shift 5; command=$1; shift 2; echo "${{command##*/}} $#" >> {folder}/calls; cd {folder}/all
"$command" -- "${{@#/w/r/}}" | sed -E "s,^[0-9a-f]{{16}}:$,/w/r/&,"; exit "${{PIPESTATUS[0]}}"
"""


class Runs:
    """Two runs of one user: a job of the first was seen to have ended, and SLURM says so of a job of the second."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "all").mkdir()
        self.together = Together()
        self.hurried = []
        self.drivers = []
        for number, tokens in enumerate(((TOKEN, OTHER), (THIRD, FOURTH))):
            (folder / f"run{number}").mkdir()
            driver = Driver(folder / f"run{number}", tokens)
            for token in tokens:
                (folder / "all" / token).symlink_to(driver.files / token)
            (folder / f"run{number}/sudo").write_text(SHARED.format(folder=folder))
            driver.run.queue._wanted[driver.run.id] = frozenset({"7", "8"})
            self.drivers.append(driver)
            self.together.join(driver.collector, lambda number=number: self.hurried.append(number))
        self.first, self.second = self.drivers
        self.first.journal.update_job(OTHER, state=JobState.COLLECTED)
        for token in (THIRD, FOURTH):
            self.second.journal.update_job(token, state=JobState.SUBMITTED)
        self.says(THIRD)
        self.first.write(TOKEN, task(0), task(1), end())
        self.second.write(THIRD, task(0, THIRD), task(1, THIRD, state="failed"), end(THIRD))
        self.second.write(FOURTH, task(2, FOURTH))

    def says(self, *over):
        """Let SLURM say which jobs of the second run are over."""
        states = {
            job_id: SlurmJob(job_id, "COMPLETED" if token in over else "RUNNING")
            for job_id, token in (("7", THIRD), ("8", FOURTH))
        }
        self.second.run.queue._answer = Answer(time.monotonic(), frozenset({"7", "8"}), states)

    def turn(self, driver):
        """One reading of a run, of its jobs that ended."""
        self.together.collect(driver.collector, driver.journal.jobs(JobState.ENDED), time.monotonic())

    def turn_of_second(self):
        self.second.journal.update_job(THIRD, state=JobState.ENDED)
        self.turn(self.second)

    @property
    def calls(self):
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def runs(tmp_path):
    found = Runs(tmp_path)
    with found.first.journal, found.second.journal:
        yield found


class TestTogether:
    def test_reads_what_ended_in_one_call_and_the_other_run_need_not(self, runs):
        runs.turn(runs.first)
        assert runs.calls == ["cat 2"]
        assert runs.first.states == ["succeeded", "succeeded", "waiting", "waiting"]
        assert runs.second.states == ["succeeded", "failed", "waiting", "waiting"]
        assert runs.hurried == [1]
        runs.turn_of_second()
        assert runs.calls == ["cat 2"]
        assert runs.second.run.readings[THIRD].workers_ended(1)
        runs.turn(runs.second)  # something was missing
        assert runs.calls == ["cat 2", "cat 1"]

    def test_reads_no_job_that_runs_and_none_again_that_was_read(self, runs):
        runs.turn(runs.first)
        runs.says(THIRD, FOURTH)
        runs.turn(runs.first)
        assert runs.second.states == ["succeeded", "failed", "succeeded", "waiting"]
        runs.turn(runs.first)
        assert runs.calls == ["cat 2", "cat 2", "cat 1"]

    @pytest.mark.parametrize("line", ["{", task(0), '{"beat":1,"token":"' + "9" * 16 + '"}'])
    def test_leaves_each_run_to_itself_after_an_odd_line(self, runs, line):
        runs.second.write(THIRD, task(0, THIRD), line, task(1, THIRD))
        if TOKEN in line:  # the first run's own line, in a file of the second
            runs.first.write(TOKEN, task(0), '{"task":', end())
        runs.turn(runs.first)
        assert runs.calls == ["cat 2", "cat 1"]
        assert runs.first.states[0] == "succeeded"
        assert runs.hurried == []
        runs.turn_of_second()
        assert runs.second.states == ["succeeded", "succeeded", "waiting", "waiting"]
        assert any("1 torn and 0 foreign" in words or "0 torn and 1 foreign" in words for words in runs.second.said)
        runs.turn(runs.first)
        assert runs.calls == ["cat 2", "cat 1", "cat 1", "cat 1"]

    def test_leaves_each_run_to_itself_after_a_file_that_never_ends(self, runs):
        runs.second.write(THIRD, *(end(THIRD, node=number) for number in range(5_000)), task(0, THIRD))
        collecting._FEW_RECORDS, few = 1_000, collecting._FEW_RECORDS
        try:
            runs.turn(runs.first)
        finally:
            collecting._FEW_RECORDS = few
        assert runs.calls == ["cat 2", "cat 1"]
        assert runs.first.states[:2] == ["succeeded", "succeeded"]
        assert runs.hurried == []

    def test_goes_on_where_the_other_run_can_write_nothing(self, runs):
        runs.second.journal.close()
        runs.turn(runs.first)
        assert runs.first.states[:2] == ["succeeded", "succeeded"]
        assert runs.hurried == []

    def test_knows_no_run_that_left(self, runs):
        runs.together.leave(runs.second.collector)
        runs.turn(runs.first)
        assert runs.calls == ["cat 1"]
        runs.together.leave(runs.second.collector)
        runs.together.leave(runs.first.collector)
        assert not runs.together._members
