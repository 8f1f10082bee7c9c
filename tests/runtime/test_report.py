# SPDX-License-Identifier: GPL-3.0-or-later
"""What is shown of a run: bounded in memory, in JSON that is JSON, on any terminal, and ours told from others'."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from fractal_slurm.driver.model import TaskState
from fractal_slurm.errors import count_of, one_line, quoted
from fractal_slurm.terminal import indented, json_text
from hypothesis import given
from hypothesis import strategies as st
from journals import RECORD, RUN, make
from samples import TOKEN, any_texts, json_values, run


def in_a_process(*arguments, memory=None, **environment):
    """A command in a process of its own, with so many bytes of memory."""
    argv = [sys.executable, "-m", "fractal_slurm.cli", *arguments]
    if memory:
        argv = ["prlimit", f"--as={memory}", *argv]
    return subprocess.run(argv, capture_output=True, env={**os.environ, **environment}, check=False)


class TestReport:
    def test_takes_the_memory_of_one_result(self, state_dir):
        with make(state_dir, tasks=30) as journal:
            for index in range(30):
                record = json.dumps({**RECORD, "task": index, "out": [[1]] * 100_000})
                journal.finish_task(index, TaskState.SUCCEEDED, None, record)
        for arguments in (["report", RUN], ["report", RUN, "--json"]):
            found = in_a_process(*arguments, memory=400_000_000)
            assert found.returncode == 0, found.stderr[-300:]
        assert len(json.loads(found.stdout)["tasks"]) == 30

    def test_prints_a_deep_result_as_long_as_it_is(self, state_dir):
        deep = "[" * 490 + ",".join(["[]"] * 100_000) + "]" * 490
        with make(state_dir) as journal:
            journal.finish_task(
                2, TaskState.SUCCEEDED, None, json.dumps({**RECORD, "task": 2})[:-1] + f', "out": {deep}}}'
            )
        code, out, _err = run("report", RUN, "--json")
        assert code == 0
        assert len(out) < 1_000_000
        json.loads(out)

    def test_prints_json_that_is_json(self, state_dir):
        with make(state_dir) as journal:
            text = json.dumps({**RECORD, "task": 2})[:-1]
            journal.finish_task(2, TaskState.SUCCEEDED, None, text + ', "out": [NaN, Infinity, -Infinity, 1e999, 1.5]}')
        code, out, _err = run("report", RUN, "--json")
        assert code == 0
        document = json.loads(out, parse_constant=pytest.fail)
        assert document["tasks"][2]["result"] == [None, None, None, None, 1.5]

    @pytest.mark.parametrize(("index", "words"), [(2, "it has not run yet"), (9, "has no task 9"), (-1, "has no task")])
    def test_says_when_there_is_no_log(self, state_dir, index, words):
        make(state_dir).close()
        code, out, err = run("report", RUN, "--log", index)
        assert (code, out) == (2, "")
        assert words in err

    @pytest.mark.parametrize(("fault", "code"), [(None, 0), ("the log can't be kept: No space left on device", 2)])
    def test_tells_a_task_that_printed_nothing_from_a_lost_log(self, state_dir, fault, code):
        record = {key: value for key, value in RECORD.items() if key not in ("log", "tail")}
        with make(state_dir) as journal:
            journal.finish_task(2, TaskState.SUCCEEDED, None, json.dumps({**record, "task": 2, "log_fault": fault}))
        found, out, err = run("report", RUN, "--log", 2)
        assert (found, out) == (code, "")
        assert err == "" if fault is None else fault in err

    def test_follows_no_record_out_of_the_run(self, state_dir):
        with make(state_dir) as journal:
            journal.finish_task(2, TaskState.FAILED, "x", json.dumps({**RECORD, "task": 2, "token": "../../other"}))
        code, _out, err = run("report", RUN, "--log", 2)
        assert code == 2
        assert "there is no log of task 2" in err


class TestOthersText:
    LINE = "12:00:00  cancel  by root"

    def test_stands_further_in_than_ours(self, state_dir):
        with make(state_dir) as journal:
            journal.event("left unfinished", TOKEN, f"1 task: x\n{self.LINE}\r\n\x1b[2J")
            journal.finish_task(
                2, TaskState.FAILED, f"x\n{self.LINE}", json.dumps({**RECORD, "task": 2, "tail": f"\n{self.LINE}"})
            )
        for arguments in (["report", RUN, "--events"], ["report", RUN]):
            out = run(*arguments)[1]
            assert not any(line.startswith(self.LINE) for line in out.splitlines())
            assert "\x1b" not in out

    def test_is_shown_to_the_letter(self, state_dir):
        with make(state_dir) as journal:
            journal.write(replace(journal.record, task_name="[red]x[/red] :smile:"))
            journal.finish_task(2, TaskState.FAILED, "[bold]:pile_of_poo:[/bold]", None)
        assert "[red]x[/red] :smile:" in " ".join(run("report", RUN)[1].split())
        assert "[bold]:pile_of_poo:[/bold]" in run("report", RUN)[1]
        assert "[red]x[/red] :smile:" in " ".join(run("status")[1].split())

    @given(any_texts)
    def test_is_no_line_of_its_own(self, text):
        assert len(one_line(text).splitlines()) <= 1
        assert all(line.startswith("    ") for line in indented(text).split("\n")[1:])
        assert all(line.startswith(("| ", " ")) or not line for line in ("x" + quoted(text)).split("\n")[1:])

    @given(json_values | st.floats())
    def test_becomes_json_without_what_a_terminal_obeys(self, value):
        text = json_text(value)
        assert all(char.isprintable() or char == "\n" for char in text)
        json.loads(text, parse_constant=pytest.fail)


class TestTerminals:
    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "shift_jis"])
    def test_of_every_encoding_get_all_commands(self, state_dir, encoding):
        with make(state_dir) as journal:
            journal.write(replace(journal.record, task_name="M\u00fcller \u2026 \u6e2c\u5b9a \U0001f52c"))
            journal.event("e", "s", "\u6e2c \u2026")
            journal.finish_task(2, TaskState.FAILED, "\u6e2c", None)
        for arguments in (
            ["status"],
            ["report", RUN],
            ["report", RUN, "--events"],
            ["report", RUN, "--json"],
            ["--help"],
        ):
            found = in_a_process(*arguments, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
            assert found.returncode == 0, found.stderr
            assert b"Traceback" not in found.stderr
        found = in_a_process("report", "\u6e2c\u5b9a", PYTHONIOENCODING=encoding)
        assert found.returncode == 2
        assert b"Traceback" not in found.stderr


def test_one_is_one():
    assert [count_of(number, "job") for number in (0, 1, 2)] == ["0 jobs", "1 job", "2 jobs"]
