# SPDX-License-Identifier: GPL-3.0-or-later
"""What is shown of a run as it goes: on terminals of any size, as lines, and as events for programs."""

import contextlib
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from fractal_slurm.cli.crowd import CrowdLines, CrowdLive
from fractal_slurm.cli.following import Follower, is_over
from fractal_slurm.cli.live import LiveView, can_live, failure_lines, pace, reason_words, span
from fractal_slurm.cli.views import Events, Lines, line_of, view_of
from fractal_slurm.driver.model import TaskState
from fractal_slurm.driver.notes import Notes, is_watched, watch
from hypothesis import given
from hypothesis import strategies as st
from journals import RECORD, RUN, make
from rich.console import Console
from samples import TOKEN, run

HOSTILE = "[red]x[/red] :smile: \x1b[2J\x1b]0;title\x07\r\nline"


@pytest.fixture
def state_dir(tmp_path, monkeypatch):
    """A folder for journals, which the command line takes for its own."""
    (tmp_path / "settings.toml").touch()
    monkeypatch.setenv("FRACTAL_SLURM_SETTINGS_FILE", str(tmp_path / "settings.toml"))
    monkeypatch.setenv("FRACTAL_SLURM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def drawn(view, sight, width, height):
    """The lines of a view on a screen of this size."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=height, force_terminal=False, markup=False, emoji=False)
    console.print(view.frame(sight, width, height))
    return stream.getvalue().removesuffix("\n").split("\n")


class Terminal(io.StringIO):
    """A terminal, as far as rich asks."""

    def isatty(self):
        return True


class TestFollower:
    def test_tells_each_failure_once_with_the_end_of_its_log(self, state_dir):
        with make(state_dir, state="driven", tasks=6) as journal:
            follower = Follower(journal, None)
            assert follower.look().failures == []  # it failed before
            record = {**RECORD, "task": 3, "state": "failed", "host": "n1", "tail": "a\nb\n"}
            journal.finish_task(3, TaskState.FAILED, "exit code 3", json.dumps(record))
            (failure,) = follower.look().failures
            assert failure_lines(failure) == ["task 3 (): exit code 3 on n1", "    b"]
            assert follower.look().failures == []
            assert [failure.index for failure in Follower(journal, None, old=True).look().failures] == [1, 3]

    def test_knows_rate_and_end_after_some_looks_only(self, state_dir, monkeypatch):
        with make(state_dir, state="driven", tasks=10) as journal:
            follower = Follower(journal, None)
            now = time.monotonic()
            sights = []
            for index in range(2, 6):
                monkeypatch.setattr(time, "monotonic", lambda at=now + 2 * index: at)
                sights.append(follower.look())
                journal.finish_task(index, TaskState.SUCCEEDED, None, None)
            assert [sight.rate for sight in sights] == [None, None, 0.5, 0.5]
            assert sights[-1].left_s == 10
            assert pace(sights[-1], 0.0).startswith("30.0 tasks/min, about 10 s left (until ")

    def test_lets_the_driver_know_that_somebody_looks(self, state_dir):
        with make(state_dir, state="driven") as journal:
            assert not is_watched(journal.folder)
            Follower(journal, None).look()
            assert is_watched(journal.folder)
            os.utime(journal.folder / "watched", (0, 0))
            assert not is_watched(journal.folder)
            (journal.folder / "watched").unlink()
            (journal.folder / "watched").symlink_to(state_dir / "elsewhere")
            watch(journal.folder)
            assert not (state_dir / "elsewhere").exists()

    def test_sees_what_the_driver_waits_for(self, state_dir):
        with make(state_dir, state="driven") as journal:
            notes = Notes(journal)
            notes.wait("room", "for room: 1")
            notes.wait("outage", "SLURM does not answer")
            notes.wait("room", "for room: 2")
            waits = Follower(journal, None).look().waits
            assert sorted(wait.words for wait in waits) == ["SLURM does not answer", "for room: 2"]
            assert all(abs(wait.since - time.time()) < 60 for wait in waits)
            notes.wait("room", "")
            notes.wait("outage", "")
            assert Follower(journal, None).look().waits == []

    def test_list_of_runs_says_what_drivers_wait_for(self, state_dir):
        with make(state_dir, state="driven") as journal:
            Notes(journal).wait("limit", "for our limit of 3 jobs\x1b[2J")
            out = run("status")[1]
            assert f"run {RUN}: waits for our limit of 3 jobs" in out
            assert "\x1b" not in out
            (row,) = json.loads(run("status", "--json")[1])
            assert row["waits"][0]["words"].startswith("for our limit of 3 jobs")
        assert json.loads(run("status", "--json")[1])[0]["waits"] == []  # nobody drives it now

    @pytest.mark.parametrize(("key", "value"), [("waits", {"x": 3}), ("job_notes", {"x": [1]}), ("waits", [])])
    def test_takes_damaged_notes_for_none(self, state_dir, key, value):
        with make(state_dir, state="driven") as journal:
            journal._lock_fd, lock = None, journal._lock_fd
            journal._db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))
            sight = Follower(journal, None).look()
            assert (sight.waits, sight.notes) == ([], {})
            journal._lock_fd = lock


class TestLiveView:
    @pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40), (40, 10), (20, 5), (250, 80)])
    @pytest.mark.parametrize("jobs", [1, 40])
    def test_fits_any_screen(self, state_dir, width, height, jobs):
        with make(state_dir, state="driven", tasks=100) as journal:
            for number in range(jobs):
                token = f"{number:016x}"
                journal.add_job(token, [number + 10])
                journal.update_job(
                    token, "submitted", state="submitted", slurm_job_id=str(number), submitted_at=time.time()
                )
            notes = Notes(journal)
            notes.job(f"{0:016x}", "PENDING", "QOSMaxJobsPerUserLimit", "")
            notes.wait("outage", "SLURM does not answer " * 3)
            view = LiveView(Follower(journal, None, old=True), io.StringIO(), hint="Ctrl-C cancels")
            view.show()
            for number in range(60):
                view.say(f"sentence {number}")
            lines = drawn(view, view.sight, width, height)
            assert len(lines) <= height or height < 10  # what is over is cut off
            assert all(len(line) <= width for line in lines)
            if width >= 80:
                text = "\n".join(lines)
                for words in ("2/100 tasks", "1 failed", "SLURM does not answer", "sentence 59", "Ctrl-C cancels"):
                    assert words in text, text
                assert "a limit of the site (QOSMaxJobs" in text

    def test_goes_on_while_the_driver_waits(self, state_dir, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        with make(state_dir, state="driven", tasks=9) as journal:
            stream = Terminal()
            view = LiveView(Follower(journal, None, old=True), stream, hint="Ctrl-C cancels")
            view.show()
            drawn_once = len(stream.getvalue())
            end = time.monotonic() + 20
            while len(stream.getvalue()) == drawn_once and time.monotonic() < end:
                time.sleep(0.05)
            assert len(stream.getvalue()) > drawn_once
            view.close()
            view._ticker.join(5)
            assert not view._ticker.is_alive()
            left = stream.getvalue()
            view.show()
            assert stream.getvalue() == left

    def test_says_what_it_waits_for_at_the_end(self, state_dir):
        with make(state_dir, state="driven", tasks=2) as journal:
            view = LiveView(Follower(journal, None, old=True), io.StringIO())
            view.show()
            assert "all tasks have ended; SLURM ends their jobs" in "\n".join(drawn(view, view.sight, 80, 24))
            view.close()

    def test_shows_others_words_to_the_letter_and_obeys_none(self, state_dir):
        with make(state_dir, state="driven", tasks=5) as journal:
            journal.write(replace(journal.record, task_name=HOSTILE))
            record = {**RECORD, "task": 3, "state": "failed", "host": HOSTILE, "tail": HOSTILE}
            journal.finish_task(3, TaskState.FAILED, HOSTILE, json.dumps(record))
            journal._db.execute("UPDATE task SET args = ? WHERE idx = 3", (json.dumps({"well": HOSTILE}),))
            Notes(journal).wait("outage", HOSTILE)
            Notes(journal).job(TOKEN, "PENDING", HOSTILE, HOSTILE)
            journal.update_job(TOKEN, "submitted", state="submitted", reason=HOSTILE)
            view = LiveView(Follower(journal, None, old=True), io.StringIO())
            view.show()
            view.say(HOSTILE)
            text = "\n".join(drawn(view, view.sight, 200, 40))
            assert "[red]x[/red] :smile:" in text
            assert all(char.isprintable() or char == "\n" for char in text)

    @given(st.floats(0, 10**9))
    def test_spans_are_short(self, seconds):
        assert 0 < len(span(seconds)) < 20

    def test_reasons_are_words(self):
        assert reason_words("Priority") == "other jobs go first (Priority)"
        assert reason_words("AssocGrpCpuLimit") == "AssocGrpCpuLimit"
        assert reason_words("None") == ""

    def test_leaves_dumb_terminals_and_files_alone(self, monkeypatch):
        master, slave = pty.openpty()
        with os.fdopen(master, "wb", buffering=0), os.fdopen(slave, "w") as terminal:
            monkeypatch.setenv("TERM", "xterm")
            assert can_live(terminal)
            monkeypatch.setenv("TERM", "dumb")
            assert not can_live(terminal)
        assert not can_live(io.StringIO())


class TestLines:
    def test_say_how_far_a_run_is(self, state_dir):
        with make(state_dir, state="driven", tasks=5) as journal:
            Notes(journal).wait("room", "for room")
            sight = Follower(journal, None).look()
            assert line_of(sight) == "2/5 tasks, 1 failed; jobs: 1 completed; waits"

    def test_repeat_nothing(self, state_dir, capsys):
        with make(state_dir, state="driven", tasks=5) as journal:
            lines = Lines(Follower(journal, None))
            for _number in range(3):
                lines.show()
            lines.close()
            assert len(capsys.readouterr().err.splitlines()) == 1


class TestEvents:
    @pytest.mark.parametrize("own", [True, False])
    def test_tell_each_change_once(self, state_dir, capsysbinary, own):
        with make(state_dir, state="driven", tasks=5) as journal:
            events = Events(Follower(journal, None), own=own)
            events.show()
            journal.finish_task(3, TaskState.FAILED, HOSTILE, None)
            events.show()
            events.show()
            events.say(HOSTILE)
            events.close()
        text = capsysbinary.readouterr().out.decode()
        assert all(char.isprintable() or char == "\n" for char in text)
        documents = [json.loads(line) for line in text.splitlines()]
        kinds = [document["event"] for document in documents]
        assert kinds[0] == "run"
        assert (kinds.count("job"), kinds.count("said"), kinds.count("progress")) == (1, 1, 2)
        ended = {document["index"] for document in documents if document["event"] == "task"}
        assert ended == ({3} if own else {0, 1, 3})
        assert kinds.count("task") == len(ended)

    def test_quiet_is_quiet(self, state_dir, capsys):
        with make(state_dir, state="driven") as journal:
            view = view_of(journal, quiet=True, json_lines=False)
            view.say("x")
            view.show()
            view.close()
        assert capsys.readouterr() == ("", "")


class TestAttach:
    def test_ends_with_the_run(self, state_dir):
        make(state_dir).close()
        code, out, _err = run("attach", RUN)
        assert code == 1
        assert "1 task: exit code 1" in out

    def test_says_how_long_a_run_took_that_has_ended(self, state_dir):
        make(state_dir, ended=1_700_000_012.0).close()
        assert run("attach", RUN)[2].endswith("  12 s\n")

    def test_a_run_that_nobody_drives_is_over(self, state_dir):
        make(state_dir, state="driven").close()
        code, out, _err = run("attach", RUN)
        assert code == 1
        assert f"fractal-slurm resume {RUN}" in out

    def test_ctrl_c_leaves_the_run_alone(self, state_dir):
        with make(state_dir, state="driven") as journal:
            argv = [sys.executable, "-m", "fractal_slurm.cli", "attach", RUN]
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert "tasks" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _out, err = process.communicate(timeout=60)
            assert process.returncode == 0
            assert "goes on" in err
            assert journal.record.state == "driven"

    def test_states_that_are_over(self):
        assert [is_over(state) for state in ("driven", "planned", "done", "interrupted")] == [False, False, True, True]


def test_lines_of_the_driver_itself_ask_for_no_more_looks(state_dir):
    for others, expected in ((None, False), (state_dir, True)):
        with make(state_dir, state="driven") as journal:
            view_of(journal, quiet=False, json_lines=False, state_dir=others).show()
            assert is_watched(journal.folder) is expected
            shutil.rmtree(journal.folder)


def test_status_watch_wants_a_terminal(state_dir):
    make(state_dir).close()
    assert run("status", "--watch")[0] == 2
    assert run("status", "--watch", "--json")[0] == 2


class TestManyRuns:
    @pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40), (40, 10)])
    def test_fit_any_screen_and_obey_no_words(self, state_dir, width, height):
        crowd = CrowdLive("Ctrl-C cancels all runs")
        with contextlib.ExitStack() as stack:
            for number in range(30):
                run_id = f"20260101-0000{number:02}-abcdef"
                journal = stack.enter_context(make(state_dir, run_id, state="driven"))
                journal.write(replace(journal.record, task_name=HOSTILE))
                view = crowd.view_of(journal)
                if number:
                    view.show()
                Notes(journal).wait("room", f"for room: {HOSTILE}")
                view.say(f"{HOSTILE} {number}")
            crowd.members["20260101-000003-abcdef"].ended = "done: 2 of 2 tasks succeeded"
            stream = io.StringIO()
            console = Console(file=stream, width=width, height=height, force_terminal=False, markup=False, emoji=False)
            console.print(crowd.frame(width, height))
        text = stream.getvalue()
        lines = text.removesuffix("\n").split("\n")
        assert len(lines) <= height
        assert all(len(line) <= width for line in lines)
        assert "\x1b" not in text
        for words in ("30 runs, 1 ended", "more runs", "Ctrl-C cancels all"):
            assert words in text, text

    def test_have_a_line_each_if_something_changed(self, state_dir, capsys, monkeypatch):
        crowd = CrowdLines()
        with make(state_dir, state="driven") as journal:
            journal.write(replace(journal.record, task_name="Segment"))
            view = crowd.view_of(journal)
            crowd.tick()
            view.show()
            monkeypatch.setattr(crowd, "_began", -1000.0)
            crowd.tick()
            crowd.tick()
            crowd.ended(RUN, "done")
            crowd.tick()
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2
        assert lines[0].startswith(f"run {RUN} (Segment): ")
        assert "tasks" in lines[0]
        assert lines[1] == f"run {RUN} (Segment): done"
