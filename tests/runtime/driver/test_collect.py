# SPDX-License-Identifier: GPL-3.0-or-later
"""What the driver makes of result files, whatever their user wrote: no SLURM, and a sudo that is played."""

import contextlib
import json
import os
import time
from dataclasses import replace

import pytest
from fractal_slurm.cluster.commands import Slurm
from fractal_slurm.driver import collect as collecting
from fractal_slurm.driver.collect import Collector
from fractal_slurm.driver.context import Run
from fractal_slurm.driver.journal import Journal
from fractal_slurm.driver.model import JobState, RunState
from fractal_slurm.settings import Settings
from fractal_slurm.sudo import Impersonator, Interrupted
from journals import run_record
from samples import TOKEN

OTHER = "f" * 16


def task(index, token=TOKEN, **changes):
    record = {"task": index, "attempt": 0, "state": "succeeded", "token": token, "job": "7", "restart": 0, "node": 0}
    return json.dumps({**record, **changes})


def end(token=TOKEN, **changes):
    return json.dumps({"end": "the queue is empty", "token": token, "restart": 0, "node": 0, "steps": 0, **changes})


class Driver:
    """A run with two jobs that ended, of two tasks each."""

    def __init__(self, folder, tokens=(TOKEN, OTHER)):
        self.said = []
        self.files = folder / "files"
        for token in tokens:
            (self.files / token).mkdir(parents=True)
        sudo = folder / "sudo"
        # cat and ls of what the test wrote, for the paths in the run's folder.
        sudo.write_text(
            f"#!/bin/bash\nshift 5; command=$1; shift 2; cd {self.files}; set -o pipefail\n"
            '"$command" -- "${@#/w/r/}" | sed -E "s,^[0-9a-f]{16}:$,/w/r/&,"\n'
        )
        sudo.chmod(0o755)
        record = run_record(tasks=4, run_folder="/w/r", state=RunState.DRIVEN)
        batches = dict(zip(tokens, (range(2), range(2, 4)), strict=True))
        self.journal = Journal.create(folder / "state", record, ["{}"] * 4, batches, "")
        for number, token in enumerate(batches):
            self.journal.update_job(token, state=JobState.ENDED, slurm_job_id=str(number + 7))
        slurm = Slurm("/usr/bin", Impersonator(sudo=str(sudo)))
        self.run = Run(self.journal, Settings(command_timeout_s=2), slurm, say=self.said.append)
        self.collector = Collector(self.run)

    def write(self, token, *lines, name="results-0-0"):
        (self.files / token / name).write_text("\n".join(["", *lines, ""]))

    def collect(self, now=None):
        self.collector.collect(self.journal.jobs(JobState.ENDED), time.monotonic() if now is None else now)

    @property
    def states(self):
        return [task.state for task in self.journal.tasks()]


@pytest.fixture
def driver(tmp_path):
    with (found := Driver(tmp_path)).journal:
        yield found


class TestCollect:
    def test_brings_results_home(self, driver):
        driver.write(TOKEN, task(0), task(1, state="failed"), end())
        driver.write(OTHER, task(2, OTHER), end(OTHER))
        driver.collect()
        assert driver.states == ["succeeded", "failed", "succeeded", "waiting"]
        assert driver.run.readings[TOKEN].workers_ended(1)

    def test_one_file_that_is_a_pipe_hides_no_other(self, driver):
        pipe = driver.files / TOKEN / "results-0-0"
        os.mkfifo(pipe)
        driver.write(OTHER, task(2, OTHER))
        driver.collect()
        # A writer that opens and closes it lets every cat end that still waits for one.
        with contextlib.suppress(OSError):
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        assert driver.states[2] == "succeeded"
        assert "nothing came for 2 seconds" in driver.run.readings[TOKEN].closed
        assert driver.run.readings[OTHER].closed == ""

    def test_no_job_speaks_for_another(self, driver):
        driver.journal.update_job(OTHER, state=JobState.COLLECTED)
        driver.write(TOKEN, task(2, OTHER, state="failed"), end(OTHER), f'{{"beat":1,"token":"{OTHER}"}}')
        driver.collect()
        assert driver.states == ["waiting"] * 4
        assert set(driver.run.readings) == {TOKEN}

    def test_records_without_end_are_read_once_and_no_further(self, driver, monkeypatch):
        monkeypatch.setattr(collecting, "_FEW_RECORDS", 5_000)
        driver.write(TOKEN, *(end(node=number) for number in range(50_000)), task(0))
        driver.write(OTHER, task(2, OTHER))
        driver.collect()
        assert driver.states == ["waiting", "waiting", "succeeded", "waiting"]
        assert driver.run.readings[TOKEN].full
        assert sum("hold more records than a job writes" in words for words in driver.said) == 1
        calls = driver.run.sudo.calls
        driver.collect()
        assert driver.run.sudo.calls == calls + 1

    def test_signs_of_life_are_no_records(self, driver, monkeypatch):
        monkeypatch.setattr(collecting, "_FEW_RECORDS", 100)
        driver.write(TOKEN, *(f'{{"beat":{number},"token":"{TOKEN}"}}' for number in range(5_000)), task(0))
        driver.collect()
        assert driver.states[0] == "succeeded"
        assert driver.run.readings[TOKEN].lines == 5_001

    def test_numbers_of_a_user_make_no_names(self, driver):
        driver.journal.update_job(TOKEN, nodes=40_000_000)
        driver.write(
            TOKEN, json.dumps({"begin": 1.0, "token": TOKEN, "job": "7", "restart": 0, "node": 0, "nodes": 10**9})
        )
        driver.collect()
        driver.collect()
        assert driver.run.readings[TOKEN].nodes <= 4
        assert driver.run.most_nodes(driver.journal.jobs()[0]) <= 4

    def test_many_files_are_no_work(self, driver):
        for number in range(3_000):
            (driver.files / TOKEN / f"results-1-{number}").touch()
            (driver.files / TOKEN / f"{number}\nresults-2-{number}\n{OTHER}:\n").touch()
        driver.write(TOKEN, task(0))
        driver.run.readings.clear()
        driver.collect()
        for job in driver.journal.jobs(JobState.ENDED):
            driver.run.sightings[job.token].ended_at = 0.0
        driver.collect()
        assert driver.states[0] == "succeeded"
        assert len(driver.run.readings[TOKEN].files) < 300

    def test_what_workers_say_is_said_a_few_times(self, driver):
        driver.write(TOKEN, *(end(fresh_why=f"why {number}", forked=0) for number in range(500)))
        driver.collect()
        assert len(driver.said) < 10

    def test_late_records_are_named_a_number_of_times(self, driver, monkeypatch):
        monkeypatch.setattr(collecting, "_MOST_LATE", 3)
        driver.write(TOKEN, *(task(number % 4, attempt=1) for number in range(100)))
        driver.collect()
        assert sum(event[1] == "late record" for event in driver.journal.events()) <= 3

    def test_stops_between_two_handfuls(self, driver):
        driver.write(TOKEN, *(end(node=number) for number in range(5_000)))
        driver.run.cancel_at = 0.0
        with pytest.raises(Interrupted):
            driver.collect()
        driver.journal.write(replace(driver.journal.record, cancelled=True))
        driver.collect()
