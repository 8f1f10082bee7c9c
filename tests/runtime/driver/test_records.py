# SPDX-License-Identifier: GPL-3.0-or-later
import json

import pytest
from fractal_slurm.driver.records import Ending, Kind, classify
from fractal_slurm.process import slices, split_lines
from hypothesis import given
from hypothesis import strategies as st
from samples import TOKEN, json_values

TOKENS = frozenset({TOKEN})
TASK = {"task": 3, "attempt": 0, "state": "succeeded", "token": TOKEN, "job": "7", "restart": 0, "node": 0}


def kind_of(record):
    """What a record is taken for."""
    return classify(json.dumps(record).encode(), TOKENS)[0]


class TestClassify:
    @pytest.mark.parametrize("state", list(Ending))
    def test_knows_a_task_that_ended(self, state):
        kind, record = classify(json.dumps({**TASK, "state": state}).encode(), TOKENS)
        assert (kind, record["task"]) == (Kind.TASK, 3)

    def test_knows_begin_and_end_of_a_worker(self):
        frame = {"token": TOKEN, "job": "7", "restart": 0, "node": 0, "nodes": 1, "steps": 0}
        assert kind_of({"begin": 1.5, **frame}) is Kind.BEGIN
        assert kind_of({"end": "the queue is empty", **frame}) is Kind.END
        assert kind_of({"beat": 1795553402, "token": TOKEN}) is Kind.BEAT

    def test_reads_no_more_values_than_a_worker_takes(self, monkeypatch):
        monkeypatch.setattr("fractal_slurm.node.protocol.MAX_OUT_VALUES", 100)
        assert kind_of({**TASK, "out": [0] * 50}) is Kind.TASK
        assert kind_of({**TASK, "out": [0] * 110}) is Kind.TORN

    def test_believes_no_job_id_that_is_none(self):
        frame = {"begin": 1.5, "token": TOKEN, "restart": 0, "node": 0, "nodes": 1}
        assert kind_of({**frame, "job": "7"}) is Kind.BEGIN
        for job in ("7;8", "7,8", "--user=ann", "", 7, None, "12345678901", "٣"):
            assert kind_of({**frame, "job": job}) is Kind.TORN

    def test_knows_what_belongs_to_another_run(self):
        assert kind_of({**TASK, "token": "f" * 16}) is Kind.FOREIGN
        assert kind_of({"task": 1}) is Kind.FOREIGN

    @pytest.mark.parametrize("token", [None, 3, [], {}, [TOKEN]])
    def test_takes_a_token_that_is_none_for_foreign(self, token):
        assert kind_of({**TASK, "token": token}) is Kind.FOREIGN

    @pytest.mark.parametrize(
        "line",
        [
            b"{",
            b"",
            b"[]",
            b"3",
            b"null",
            b'"x"',
            b"\xff\xfe",
            b"{}}",
            b'{"task": 3',
            b"\0\0",
            b"9" * 5_000,
            b"[" * 100_000,
        ],
    )
    def test_takes_what_is_no_record_for_torn(self, line):
        assert classify(line, TOKENS) == (Kind.TORN, {})

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
    def test_takes_a_record_in_another_encoding_for_torn(self, encoding):
        assert classify(json.dumps(TASK).encode(encoding), TOKENS) == (Kind.TORN, {})

    @pytest.mark.parametrize(
        "change",
        [
            {"task": "3"},
            {"task": True},
            {"task": 1.5},
            {"task": -1},
            {"task": 2**63},  # more than the journal can look for
            {"attempt": None},
            {"attempt": True},
            {"state": "fine"},
            {"state": None},
            {"state": []},
            {"state": {}},
            {"job": 7},
            {"job": ""},
            {"job": "7 --user=ann"},
            {"job": "-u"},
            {"restart": "../.."},
            {"node": None},
            {"reason": "\ud800"},
            {"reason": 3},
            {"tail": "\udfff"},
            {"host": []},
            {"log": "x"},
            {"log": [0]},
            {"log": [-1, 5]},
            {"exit": {"code": 1}},
            {"signal": "KILL"},
            {"seconds": float("nan")},
            {"start": float("inf")},
            {"peak_mb": "1"},
            {"restart": 10**6},  # no job is requeued so often, and each start is remembered
            {"reason": "x" * 20_000},
        ],
    )
    def test_takes_a_record_with_a_wrong_value_for_torn(self, change):
        assert kind_of({**TASK, **change}) is Kind.TORN

    @pytest.mark.parametrize("name", ["out", "another"])
    def test_takes_a_record_that_some_python_could_not_print_for_torn(self, name):
        deep = json.dumps(TASK)[:-1] + f', "{name}": {"[" * 900}{"]" * 900}}}'
        assert classify(deep.encode(), TOKENS)[0] is Kind.TORN
        wide = json.dumps({**TASK, name: [[]] * 2000})
        assert classify(wide.encode(), TOKENS)[0] is Kind.TASK

    @given(
        st.dictionaries(st.sampled_from([*TASK, "begin", "end", "reason", "tail", "out"]), json_values), st.booleans()
    )
    def test_survives_any_record(self, changes, ours):
        record = {**TASK, **changes, **({"token": TOKEN} if ours else {})}
        assert kind_of(record) in Kind

    @given(st.binary(max_size=40))
    def test_survives_any_bytes(self, line):
        assert classify(line, TOKENS)[0] in (Kind.TORN, Kind.FOREIGN)


class TestSplitLines:
    @given(st.binary(max_size=60), st.lists(st.integers(1, 10)))
    def test_gives_the_same_lines_wherever_the_stream_is_cut(self, data, sizes):
        chunks, rest = [], data
        for size in sizes:
            chunks.append(rest[:size])
            rest = rest[size:]
        assert list(split_lines([*chunks, rest])) == [line for line in data.split(b"\n") if line]


class TestSlices:
    @given(st.lists(st.binary(min_size=1, max_size=9)), st.integers(1, 5), st.integers(1, 20))
    def test_keeps_every_line_in_handfuls(self, lines, most, most_bytes):
        found = list(slices(lines, most=most, most_bytes=most_bytes))
        assert [line for some in found for line in some] == lines
        assert all(0 < len(some) <= most for some in found)
        assert all(sum(map(len, some[:-1])) < most_bytes for some in found)
