# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a run, as the journal keeps it."""

import sqlite3
from dataclasses import fields, replace

import pytest
from fractal_slurm.driver.journal import Journal
from fractal_slurm.driver.model import JobState, RunRecord, RunState, TaskState
from fractal_slurm.driver.stored import read_record, written
from fractal_slurm.errors import RunError
from hypothesis import given
from hypothesis import strategies as st
from journals import RUN, make, run_record

NAMES = [field.name for field in fields(RunRecord)]
WORDS = st.text(st.characters(exclude_categories=["Cs"]))


def stored(record):
    return {name: written(name, getattr(record, name)).encode() for name in NAMES}


class TestRecord:
    @given(
        st.builds(
            run_record,
            state=st.sampled_from([RunState.PLANNED, RunState.DRIVEN, RunState.DONE]),
            user=WORDS, task_name=WORDS, refusal=st.none() | WORDS, refusals=st.lists(WORDS).map(tuple),
            bad_nodes=st.dictionaries(WORDS, WORDS), alone=st.lists(st.integers(0, 10**6)).map(tuple),
            ended=st.none() | st.floats(0, 10**10), folder_made=st.booleans(),
            startups=st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9))).map(tuple),
        )
    )  # fmt: skip
    def test_comes_back_as_it_was(self, record):
        assert read_record(stored(record)) == (record, [])

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("value", [b"", b"{", b"\xff", b'"x', b"1e999", b"[[[1]]]", b'{"a": {"b": []}}'])
    def test_a_value_that_can_not_be_hides_no_other(self, name, value):
        if name in ("settings", "labels") and value.startswith(b'{"a"'):
            return
        record, unread = read_record({**stored(run_record(refusal="why")), name: value})
        assert unread == [name]
        assert all(
            getattr(record, other) == getattr(run_record(refusal="why"), other) for other in NAMES if other != name
        )

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("user", b"3"), ("tasks", b"true"), ("tasks", b'"3"'), ("tasks", b"-1"), ("hides_jobs", b"1"),
            ("created", b'"2026"'), ("created", b"NaN"), ("created", b"1e300"), ("state", b'"doone"'),
            ("alone", b"[1.5]"), ("bad_nodes", b'{"a": 1}'), ("config", b"[]"), ("config", b"{}"),
        ],
    )  # fmt: skip
    def test_is_not_guessed(self, name, value):
        assert read_record({**stored(run_record()), name: value})[1] == [name]

    def test_words_that_no_file_can_hold_are_no_trouble(self):
        assert read_record(stored(run_record(refusal="a\ud800b")))[0].refusal == "a?b"

    def test_tells_what_lacks(self):
        whole = stored(run_record())
        del whole["user"], whole["ended"]
        assert read_record(whole)[1] == ["user"]


class TestWrite:
    def test_stores_what_changed(self, state_dir):
        with make(state_dir) as journal:
            journal.write(replace(journal.record, refusal="no", alone=(1, 2)))
            record = journal.record
        with Journal.open(state_dir, RUN, drive=False) as journal:
            assert journal.record == record
            assert (record.refusal, record.alone, journal.damage) == ("no", (1, 2), [])

    def test_is_taken_back_with_its_transaction(self, state_dir):
        with make(state_dir) as journal:
            before = journal.record

            def half_way():
                with journal.transaction():
                    journal.write(replace(journal.record, refusal="no"))
                    journal.finish_task(2, TaskState.NOT_RUN, "no", None)
                    raise InterruptedError

            with pytest.raises(InterruptedError):
                half_way()
            assert journal.record == before
            assert journal.counts()[TaskState.WAITING] == 1

    def test_words_are_stored_as_words(self, state_dir):
        make(state_dir).close()
        with sqlite3.connect(state_dir / "runs" / RUN / "journal.sqlite") as db:
            assert db.execute("SELECT value FROM run WHERE key = 'state'").fetchone() == ('"done"',)
            assert db.execute("SELECT state FROM job").fetchall() == [("collected",)]
            assert (
                '"state": "collected"' in db.execute("SELECT detail FROM event WHERE what = 'submitted'").fetchone()[0]
            )
        assert (str(JobState.ENDED), f"{JobState.ENDED}") == ("ended", "ended")

    def test_a_run_of_which_something_lacks_is_not_driven(self, state_dir):
        make(state_dir).close()
        with sqlite3.connect(state_dir / "runs" / RUN / "journal.sqlite") as db:
            db.execute("DELETE FROM run WHERE key = 'run_folder'")
        with pytest.raises(RunError, match="its run_folder can't be read"):
            Journal.open(state_dir, RUN, drive=True)
