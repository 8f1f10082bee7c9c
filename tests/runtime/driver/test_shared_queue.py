# SPDX-License-Identifier: GPL-3.0-or-later
"""One squeue for the runs of several processes: each has a queue and a ledger object of its own here."""

from __future__ import annotations

import math
import threading
import time

import pytest
from fractal_slurm.cluster import queue as module
from fractal_slurm.cluster.commands import Silence, SlurmJob
from fractal_slurm.cluster.queue import Queue
from fractal_slurm.driver import ledger as ledger_module
from fractal_slurm.driver.ledger import Ledger


class Cluster:
    """Answers as SLURM does, and counts the questions of all processes."""

    squeue_s, squeue_calls = 0.01, 0

    def __init__(self):
        self.jobs: dict[str, SlurmJob] = {}
        self.asked: list[list[str]] = []
        self.owners: dict[str, str] = {}
        self.trouble = ""
        self.hangs: threading.Event | None = None

    def add(self, job_id, state="RUNNING", user="anna", name="x", comment=""):
        self.jobs[job_id], self.owners[job_id] = SlurmJob(job_id, state, name=name, comment=comment), user

    def squeue(self, ids):
        self.asked.append(list(ids))
        if self.hangs is not None:
            self.hangs.wait(30)
        if self.trouble:
            raise Silence(self.trouble)
        return {each: self.jobs[each] for each in ids if each in self.jobs}

    def squeue_of(self, users):
        self.asked.append(list(users))
        return [(self.owners[each], each, job) for each, job in self.jobs.items() if self.owners[each] in users]

    def sacct(self, _ids):
        return {}


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def process(tmp_path, cluster):
    """Makes the queue of another process."""

    def make(**options):
        return Queue(cluster, shared=Ledger(tmp_path / "shared/a.sqlite"), **options)

    return make


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "shared/a.sqlite")


def submit(ledger, cluster, job_id, user="anna", state="RUNNING"):
    token = job_id.rjust(16, "0")
    ledger.reserve(token, user, f"run of {job_id}", ())
    ledger.accepted(token, job_id, user)
    cluster.add(job_id, state, user, f"x.{token}")


def states(queue, *ids, fresh_s=60.0, run=""):
    found = queue.states(run or f"run of {ids[0]}", ids, fresh_s=fresh_s)
    return {job_id: job and job.state for job_id, job in found.items()}


class TestAnswers:
    def test_one_asks_for_the_jobs_of_all_and_the_others_read(self, process, cluster, ledger):
        for number in range(12):
            submit(ledger, cluster, str(number + 1))
        others = [process() for _turn in range(12)]
        for number, other in enumerate(others, 1):
            assert states(other, str(number)) == {str(number): "RUNNING"}
        assert len(cluster.asked) == 1

    def test_whoever_had_an_answer_asks_for_another(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        submit(ledger, cluster, "2")
        first, second = process(), process()
        for _turn in range(3):
            states(first, "1")
            states(second, "2")
        assert len(cluster.asked) == 3

    def test_an_answer_that_is_too_old_is_not_taken(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        states(process(), "1")
        time.sleep(0.05)
        states(process(), "1", fresh_s=0.01)
        assert len(cluster.asked) == 2

    def test_of_a_job_that_was_asked_for_before_an_answer_must_tell(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        cluster.add("2")  # its process could not write that it is there
        other = process()
        states(process(), "1")
        assert states(other, "2") == {}
        states(process(), "1", fresh_s=0)
        assert states(other, "2") == {"2": "RUNNING"}

    @pytest.mark.parametrize(
        ("marks", "found"),
        [
            ({"name": "x.00000000000000aa"}, {"1", "9"}),
            ({"name": "site.9", "comment": "fractal-slurm:run:00000000000000aa"}, {"1", "9"}),
            ({"comment": "fractal-slurm:run:00000000000000aa", "user": "ben"}, {"1"}),
            ({"comment": "fractal-slurm:run:00000000000000ab"}, {"1"}),
        ],
    )
    def test_a_job_whose_process_died_is_found_by_its_name_or_comment(
        self, process, cluster, ledger, monkeypatch, marks, found
    ):
        monkeypatch.setattr("fractal_slurm.driver.ledger._ASK_BY_NAME_S", -1.0)
        submit(ledger, cluster, "1")
        ledger.reserve("00000000000000aa", "anna", "run", ())
        cluster.add("9", **marks)
        states(process(), "1")
        assert ledger.claim(5, math.inf).job_ids == found

    def test_trouble_is_told_to_all(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        cluster.trouble = "squeue: no answer"
        for _turn in range(3):
            with pytest.raises(Silence, match="no answer"):
                states(process(), "1")
        assert len(cluster.asked) == 1

    def test_where_nothing_can_be_shared_each_asks(self, process, cluster, tmp_path):
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared/a.sqlite").write_bytes(b"damaged" * 1000)
        cluster.add("1")
        for _turn in range(2):
            assert states(process(), "1") == {"1": "RUNNING"}
        assert len(cluster.asked) == 2

    def test_an_answer_of_before_the_last_boot_is_none(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        states(process(), "1")
        with ledger._use() as db:
            db.execute("UPDATE answer SET boot = 'another'")
        states(process(), "1")
        with ledger._use() as db:
            db.execute("UPDATE answer SET asked = asked + 1000000")
            db.execute("UPDATE asking SET until = until + 1000000")
        states(process(), "1")
        assert len(cluster.asked) == 3


class TestWhoAsks:
    def test_others_wait_for_the_answer_of_the_one_who_asks(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        cluster.hangs = threading.Event()
        found = []
        threads = [threading.Thread(target=lambda: found.append(states(process(), "1"))) for _turn in range(5)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        cluster.hangs.set()
        for thread in threads:
            thread.join()
        assert found == [{"1": "RUNNING"}] * 5
        assert len(cluster.asked) == 1

    def test_an_answer_that_comes_just_before_the_turn_is_taken(self, process, cluster, ledger, monkeypatch):
        submit(ledger, cluster, "1")
        claim, faster = Ledger.claim, [process()]

        def late(*args):
            if faster:
                states(faster.pop(), "1")
            return claim(*args)

        monkeypatch.setattr(Ledger, "claim", late)
        assert states(process(), "1") == {"1": "RUNNING"}
        assert len(cluster.asked) == 1

    def test_an_answer_that_does_not_serve_keeps_nobody_from_asking(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        other = process()
        states(other, "1")
        states(other, "1")  # it had that answer
        assert len(cluster.asked) == 2

    def test_one_that_died_or_hangs_holds_nobody(self, process, cluster, ledger, monkeypatch):
        monkeypatch.setattr(module, "_HOLD_S", 0.4)
        submit(ledger, cluster, "1")
        assert ledger.claim(0.4, math.inf) is not None  # and never comes back
        began = time.monotonic()
        assert states(process(), "1") == {"1": "RUNNING"}
        assert 0.2 < time.monotonic() - began < 5
        assert len(cluster.asked) == 1

    def test_an_answer_that_came_late_replaces_no_newer_one(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        late = module.Answer(time.monotonic(), frozenset({"1"}), {"1": SlurmJob("1", "PENDING")})
        states(process(), "1")
        ledger.publish(late)
        assert states(process(), "1") == {"1": "RUNNING"}


class TestJobsInFlight:
    def test_those_of_runs_without_a_driver_count_until_they_are_over(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        submit(ledger, cluster, "2", state="PENDING")
        assert ledger.in_flight("anna") == 2
        cluster.add("1", "COMPLETED")
        states(process(), "9", fresh_s=0)
        assert ledger.in_flight("anna") == 1
        cluster.add("1", "PENDING")  # it was requeued
        states(process(), "9", fresh_s=0)
        assert ledger.in_flight("anna") == 2

    def test_one_that_is_gone_is_asked_for_until_its_driver_has_seen_it(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        del cluster.jobs["1"]
        states(process(), "9", fresh_s=0)
        assert ledger.in_flight() == 0
        assert states(process(), "1") == {"1": None}
        ledger.keep("anna", "run of 1", {})
        states(process(), "9", fresh_s=0)
        assert cluster.asked[-1] == ["9"]

    def test_jobs_of_others_are_counted_from_the_same_squeue(self, process, cluster, ledger):
        submit(ledger, cluster, "1")
        ledger.reserve("f" * 16, "anna", "another run", ())
        cluster.add("2", name="x." + "f" * 16)  # ours, of which sbatch has not told yet
        cluster.add("3")
        cluster.add("4_1", "PENDING")
        cluster.add("5", "COMPLETED")
        cluster.add("6", user="ben")
        one = process(foreign=True)
        one.states("run of 1", ["1"], user="anna")
        assert one.foreign == {"anna": 2}
        assert cluster.asked == [["anna"]]
        other = process(foreign=True)
        other.states("run", [], fresh_s=60, user="ben")  # of this user the answer does not tell
        assert other.foreign == {"anna": 2, "ben": 1}
        assert len(cluster.asked) == 2

    def test_a_place_of_a_process_that_died_becomes_the_job_that_has_its_name(
        self, process, cluster, ledger, monkeypatch
    ):
        monkeypatch.setattr(ledger_module, "_ASK_BY_NAME_S", 0.0)
        monkeypatch.setattr(ledger_module, "_NEVER_CAME_S", 0.0)
        for token in ("e" * 16, "f" * 16):
            ledger.reserve(token, "anna", "a run", ())
        cluster.add("2", name="x." + "f" * 16)
        cluster.add("3", name="x." + "e" * 16, user="eve")  # anybody can give this name to a job
        for _turn in range(2):
            states(process(), "1", fresh_s=0)
        assert cluster.asked == [["anna"], ["1"], ["1", "2"]]
        assert ledger.in_flight("anna") == 1
        cluster.add("2", "COMPLETED")
        states(process(), "1", fresh_s=0)
        assert ledger.in_flight("anna") == 0
