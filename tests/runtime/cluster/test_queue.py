# SPDX-License-Identifier: BSD-3-Clause
"""One question to SLURM for all runs of a process."""

from __future__ import annotations

import threading

import pytest
from fractal_slurm.cluster.commands import Silence, SlurmJob
from fractal_slurm.cluster.queue import Queue


class Cluster:
    """Answers as SLURM does, and counts the questions."""

    squeue_s, squeue_calls = 0.01, 0

    def __init__(self, states: dict[str, str], accounted: dict[str, str] | None = None) -> None:
        self.states, self.accounted = states, accounted or {}
        self.asked: list[list[str]] = []
        self.sacct_asked: list[list[str]] = []
        self.silence: Silence | None = None

    def squeue(self, ids):
        self.asked.append(list(ids))
        if self.silence:
            raise self.silence
        return {each: SlurmJob(each, self.states[each], "") for each in ids if each in self.states}

    def sacct(self, ids):
        self.sacct_asked.append(list(ids))
        return {each: SlurmJob(each, self.accounted[each], "") for each in ids if each in self.accounted}


def told(found: dict[str, SlurmJob | None]) -> dict[str, str | None]:
    return {job_id: state and str(state.state) for job_id, state in found.items()}


class TestQueue:
    def test_a_run_alone_asks_each_time(self):
        cluster = Cluster({"1": "RUNNING"})
        queue = Queue(cluster)
        assert told(queue.states("a", ["1"])) == told(queue.states("a", ["1"])) == {"1": "RUNNING"}
        assert cluster.asked == [["1"], ["1"]]

    def test_one_asks_for_all_and_others_take_the_answer(self):
        cluster = Cluster({"1": "RUNNING", "2": "PENDING", "3": "RUNNING"})
        queue = Queue(cluster, fresh_s=60)
        for job in ("2", "3"):
            queue.add("b", job)
        queue.states("a", ["1"])
        assert told(queue.states("b", ["2", "3"])) == {"2": "PENDING", "3": "RUNNING"}
        assert told(queue.states("a", ["1"])) == {"1": "RUNNING"}
        assert told(queue.states("b", ["3"])) == {"3": "RUNNING"}
        assert cluster.asked == [["1", "2", "3"]]

    def test_of_a_job_that_is_newer_than_the_answer_nothing_is_said(self):
        cluster = Cluster({"1": "RUNNING", "2": "PENDING"})
        queue = Queue(cluster, fresh_s=60)
        queue.states("a", ["1"])
        assert queue.states("b", ["2"]) == {}
        assert cluster.asked == [["1"]]

    def test_what_a_run_left_is_not_asked_for(self):
        cluster = Cluster({"1": "RUNNING", "2": "PENDING"})
        queue = Queue(cluster)
        queue.states("a", ["1"])
        queue.states("b", ["2"])
        queue.leave("a")
        queue.states("b", ["2"])
        assert cluster.asked == [["1"], ["1", "2"], ["2"]]

    def test_a_job_that_was_told_of_is_asked_for_by_whoever_comes_first(self):
        cluster = Cluster({"1": "RUNNING", "2": "PENDING"})
        queue = Queue(cluster, fresh_s=60)
        queue.add("b", "2")
        queue.states("a", ["1"])
        assert told(queue.states("b", ["2"])) == {"2": "PENDING"}
        assert cluster.asked == [["1", "2"]]

    def test_an_answer_that_is_old_is_asked_for_anew(self):
        cluster = Cluster({"1": "RUNNING"})
        queue = Queue(cluster, fresh_s=0.0001)
        queue.states("a", ["1"])
        threading.Event().wait(0.01)
        queue.states("b", ["1"])
        assert len(cluster.asked) == 2

    def test_those_that_left_are_looked_for_in_the_accounting_together(self):
        cluster = Cluster({"1": "RUNNING"}, {"2": "COMPLETED", "3": "RUNNING"})
        queue = Queue(cluster)
        queue.states("a", ["1"])
        # What has not ended was not forgotten: it is as if nobody knew it.
        assert told(queue.states("b", ["2", "3", "4"])) == {"2": "COMPLETED", "3": None, "4": None}
        assert cluster.sacct_asked == [["2", "3", "4"]]

    def test_silence_is_told_to_all_and_ends_with_the_next_answer(self):
        cluster = Cluster({"1": "RUNNING"})
        cluster.silence = Silence("squeue: no answer")
        queue = Queue(cluster, fresh_s=0.2)
        for run in ("a", "b"):
            with pytest.raises(Silence, match="no answer"):
                queue.states(run, ["1"])
        assert len(cluster.asked) == 1
        cluster.silence = None
        threading.Event().wait(0.3)
        assert told(queue.states("a", ["1"])) == {"1": "RUNNING"}

    def test_many_threads_that_ask_at_once_share_an_answer(self):
        cluster = Cluster({str(number): "RUNNING" for number in range(20)})
        queue, barrier, answers = Queue(cluster, fresh_s=60), threading.Barrier(20), []

        def ask(number: int) -> None:
            barrier.wait()
            answers.append(told(queue.states(f"run-{number}", [str(number)])) == {str(number): "RUNNING"})

        queue.states("all", list(cluster.states))
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [True] * 20
        assert len(cluster.asked) == 1
