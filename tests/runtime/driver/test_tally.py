# SPDX-License-Identifier: GPL-3.0-or-later
"""What is counted by what changed is what a count of all tasks gives."""

import os
import sqlite3

import pytest
from fractal_slurm.cli import looking
from fractal_slurm.cli.following import Ends
from fractal_slurm.driver.journal import Journal
from fractal_slurm.driver.model import FINAL, JobState, TaskState
from fractal_slurm.driver.tally import Tally
from hypothesis import given, settings
from hypothesis import strategies as st
from journals import RUN, run_record
from samples import TOKEN

TASKS = 12
OTHER = "f" * 16
ACTS = st.one_of(
    st.tuples(st.just("finish"), st.integers(0, TASKS - 1), st.sampled_from(sorted(TaskState))),
    st.tuples(st.just("again"), st.integers(0, TASKS - 1), st.booleans()),
    st.tuples(st.just("release"), st.integers(0, TASKS - 1), st.integers(0, TASKS)),
    st.tuples(st.sampled_from(["take up", "undo", "job", "look"])),
)


def begin(state_dir, tasks=TASKS):
    half = tasks // 2
    return Journal.create(
        state_dir, run_record(tasks=tasks), ["{}"] * tasks, {TOKEN: range(half), OTHER: range(half, tasks)}, "why"
    )


def act(journal, name, *values):
    if name == "finish":
        journal.finish_task(values[0], values[1], "why", None)
    elif name == "again":
        journal.try_again(values[0], own_fault=values[1])
    elif name == "release":
        journal.release(range(values[0], min(TASKS, sum(values))))
    elif name == "take up":
        journal.take_up_again(["why", "another"])
    elif name == "job":
        journal.add_job(f"{len(journal.jobs()):016x}", journal.unassigned())
    elif name == "undo":
        with pytest.raises(ZeroDivisionError):
            undo(journal)


def undo(journal):
    with journal.transaction():
        journal.finish_task(0, TaskState.FAILED, "not so", None)
        raise ZeroDivisionError


def everything(journal):
    tokens = [job.token for job in journal.jobs()]
    full = journal.ended_of(tokens)
    return journal.counts(), {token: full.get(token, 0) for token in tokens}


def counted(tally, journal):
    return tally.counts(), tally.ended_of([job.token for job in journal.jobs()])


class TestTally:
    @settings(max_examples=60)
    @given(st.lists(ACTS, max_size=25))
    def test_is_the_count_of_all_tasks_for_the_driver_and_for_others(self, tmp_path_factory, acts):
        state_dir = tmp_path_factory.mktemp("tally") / "state"
        with begin(state_dir) as journal, Journal.open(state_dir, RUN, drive=False) as seen:
            own, other = Tally(journal), Tally(seen)
            counted(own, journal)
            counted(other, seen)
            for one in acts:
                act(journal, *one)
                if one == ("look",):
                    assert counted(other, seen) == everything(seen)
                    own.counts()
            assert counted(own, journal) == everything(journal)
            assert counted(other, seen) == everything(seen)
            assert journal.tells_moves()

    def test_reads_no_task_again_that_did_not_change(self, tmp_path):
        with begin(tmp_path) as journal:
            tally = Tally(journal)
            counted(tally, journal)
            journal.finish_task(3, TaskState.FAILED, "x", None)
            read = []
            journal._db.set_trace_callback(read.append)
            assert counted(tally, journal)[1] == {TOKEN: 1, OTHER: 0}
            assert not [sql for sql in read if "count(*)" in sql]


class TestEnds:
    @settings(max_examples=40)
    @given(st.lists(ACTS, max_size=25), st.booleans())
    def test_tell_each_task_that_ended(self, tmp_path_factory, acts, old):
        state_dir = tmp_path_factory.mktemp("ends") / "state"
        with begin(state_dir) as journal, Journal.open(state_dir, RUN, drive=False) as seen:
            journal.finish_task(0, TaskState.FAILED, "before", None)
            ends, told = Ends(seen, FINAL, old=old), set()
            before = set(seen.indices(*FINAL))
            for one in acts:
                act(journal, *one)
                new = ends.new()
                assert len(set(new)) == len(new)
                told.update(new)
            told.update(ends.new())
            assert set(seen.indices(*FINAL)) <= told | (set() if old else before)

    def test_of_a_journal_that_does_not_tell_what_changed(self, tmp_path):
        with begin(tmp_path) as journal:
            journal.update_job(TOKEN, state=JobState.SUBMITTED)
            journal.finish_task(1, TaskState.FAILED, "x", None)
            file = journal.folder / "journal.sqlite"
        with sqlite3.connect(file) as db:
            db.execute("DROP TABLE moved")
            db.execute("PRAGMA user_version = 2")
        with Journal.open(tmp_path, RUN, drive=False) as seen:
            ends, tally = Ends(seen, FINAL), Tally(seen)
            assert (ends.new(), ends.new()) == ([1], [])
            assert counted(tally, seen) == everything(seen)
            with sqlite3.connect(file) as db:
                db.execute("UPDATE task SET state = 'succeeded' WHERE idx = 2")
            assert counted(tally, seen) == everything(seen)
            # Its next driver brings it up to date while somebody looks.
            with Journal.open(tmp_path, RUN, drive=True) as journal:
                journal.finish_task(3, TaskState.SUCCEEDED, None, None)
                assert ends.new() == [2, 3]
                journal.finish_task(4, TaskState.SUCCEEDED, None, None)
                assert ends.new() == [4]
            assert counted(tally, seen) == everything(seen)


class TestListOfRuns:
    def test_reads_a_journal_again_only_if_it_changed(self, tmp_path, monkeypatch):
        with begin(tmp_path) as journal:
            journal.finish_task(0, TaskState.FAILED, "x", None)
        file = tmp_path / "runs" / RUN / "journal.sqlite"
        os.utime(file, (1_000_000, 1_000_000))
        known = {}
        first = looking._status(tmp_path, known=known)
        assert (first[0]["failed"], first[0]["state"]) == (1, "interrupted")
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "counts", None)
            assert looking._status(tmp_path, known=known) == first
        with Journal.open(tmp_path, RUN, drive=True) as journal:
            journal.finish_task(1, TaskState.FAILED, "x", None)
            (row,) = looking._status(tmp_path, known=known)
            assert (row["failed"], row["driver"]["pid"]) == (2, os.getpid())
