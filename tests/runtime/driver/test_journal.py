# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: its lock, what is shown of a damaged one, and its end."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fractal_slurm.driver.journal import Journal, prune, run_ids
from fractal_slurm.driver.lock import Driver, is_driven
from fractal_slurm.errors import RunError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from journals import RUN, make
from samples import run


class TestCreate:
    def test_lets_go_of_its_lock_where_the_run_can_not_be_made(self, state_dir):
        make(state_dir).close()
        before = os.listdir("/proc/self/fd")
        with pytest.raises(RunError):
            make(state_dir)  # there is a run of that name
        assert os.listdir("/proc/self/fd") == before

    def test_makes_folders_that_nobody_else_can_enter(self, state_dir):
        umask = os.umask(0)
        try:
            make(state_dir / "deep" / "er").close()
        finally:
            os.umask(umask)
        run_folder = state_dir / "deep" / "er" / "runs" / RUN
        for folder in (state_dir, *list(run_folder.relative_to(state_dir).parents)[:-1], run_folder):
            assert (state_dir / folder).stat().st_mode & 0o777 == 0o700
        assert (run_folder / "journal.sqlite").stat().st_mode & 0o777 == 0o600


class TestLock:
    def test_a_driven_run_names_its_driver(self, state_dir):
        with make(state_dir) as journal:
            assert is_driven(state_dir, RUN) == Driver(os.uname().nodename, os.getpid())
            journal.heeds_signals()
            assert is_driven(state_dir, RUN) == Driver(os.uname().nodename, os.getpid(), heeds=True)
            with pytest.raises(RunError, match=f"is driven by another process .pid {os.getpid()} on "):
                Journal.open(state_dir, RUN, drive=True)
        assert is_driven(state_dir, RUN) is None

    def test_those_who_only_look_keep_nobody_from_driving(self, state_dir):
        make(state_dir).close()
        stop = threading.Event()

        def look():
            while not stop.is_set():
                is_driven(state_dir, RUN)

        lookers = [threading.Thread(target=look) for _number in range(3)]
        for looker in lookers:
            looker.start()
        try:
            for _time in range(300):
                Journal.open(state_dir, RUN, drive=True).close()
        finally:
            stop.set()
            for looker in lookers:
                looker.join()

    @pytest.mark.parametrize(
        "text",
        [
            "0 HOST",
            "1 HOST",
            "-1 HOST",
            "² HOST",
            "",
            "\0" * 300,
            "HOST",
            "9" * 300,
            "PARENT HOST",
            "PARENT HOST heeds",
        ],
    )
    def test_no_process_is_taken_for_the_driver_that_does_not_hold_the_lock(self, state_dir, text):
        with make(state_dir):
            text = text.replace("HOST", os.uname().nodename).replace("PARENT", str(os.getppid()))
            (state_dir / "runs" / RUN / "lock").write_text(text)
            driver = is_driven(state_dir, RUN)
            assert driver is not None
            assert driver.pid == 0
            code, _out, err = run("cancel", RUN)
            assert code == 2
            assert f"error: run {RUN} is driven by another process" in err

    def test_cancel_ends_no_program_that_would_not_survive_it(self, state_dir):
        with make(state_dir):
            code, _out, err = run("cancel", RUN)
        assert code == 2
        assert "does not say that it cancels when it is told to" in err

    def test_cancel_signals_the_driver(self, state_dir):
        caught = []
        before = signal.signal(signal.SIGTERM, lambda *_: caught.append(1))
        try:
            with make(state_dir) as journal:
                journal.heeds_signals()
                assert run("cancel", RUN)[0] == 0
        finally:
            signal.signal(signal.SIGTERM, before)
        assert caught


def flip(file, place, bit):
    data = bytearray(file.read_bytes())
    data[place % len(data)] ^= 1 << bit
    file.write_bytes(bytes(data))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A journal that is whole, closed by all."""
    state_dir = tmp_path_factory.mktemp("good")
    make(state_dir, tasks=40).close()
    return state_dir / "runs" / RUN


class TestDamage:
    """Whatever is in a journal: sentences, and never a traceback, which run() would let through."""

    def look(self):
        codes = []
        for command in (
            ["status"], ["status", "--json"], ["report", RUN], ["report", RUN, "--json"], ["report", RUN, "--events"],
            ["report", RUN, "--events", "--json"], ["report", RUN, "--log", "2"],
            ["prune", "--older-than", "1h", "--dry-run"],
        ):  # fmt: skip
            code, out, err = run(*command)
            assert code in (0, 2), err
            assert all(line.startswith(("error: ", "warning: ", "    ")) for line in err.splitlines())
            if "--json" in command:
                json.loads(out)
            codes.append(code)
        return codes

    @given(st.integers(0, 1 << 20), st.integers(0, 7))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
    def test_one_flipped_bit(self, state_dir, good, place, bit):
        folder = state_dir / "runs" / RUN
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        flip(folder / "journal.sqlite", place, bit)
        before = (folder / "journal.sqlite").read_bytes()
        self.look()
        try:
            Journal.open(state_dir, RUN, drive=True).close()
        except RunError:
            if folder.exists():
                assert (folder / "journal.sqlite").read_bytes() == before

    @pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"no database at all\n" * 500, os.urandom(9_000)])
    def test_no_journal_at_all(self, state_dir, good, content):
        shutil.copytree(good, state_dir / "runs" / RUN)
        (state_dir / "runs" / RUN / "journal.sqlite").write_bytes(content)
        assert set(self.look()) <= {0, 2}
        with pytest.raises(RunError, match=f"the journal of run {RUN} "):
            Journal.open(state_dir, RUN, drive=True)
        assert (state_dir / "runs" / RUN / "journal.sqlite").read_bytes() == content

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE run SET value = '{' WHERE key = 'user'",
            "UPDATE run SET value = '3' WHERE key = 'user'",
            "UPDATE run SET value = '\"x\"' WHERE key = 'created'",
            "UPDATE run SET value = '1e300' WHERE key = 'created'",
            "UPDATE run SET value = '[]' WHERE key = 'config'",
            "UPDATE run SET value = x'ff' WHERE key = 'state'",
            "UPDATE run SET value = '\"driven \"' WHERE key = 'state'",
            "UPDATE run SET value = '[\"driven\"]' WHERE key = 'state'",
            "UPDATE job SET state = 'submited'",
            "UPDATE job SET ended_at = 'x'",
            "UPDATE job SET nodes = 1.5",
            "UPDATE task SET state = 'done' WHERE idx = 2",
            "UPDATE task SET attempt = 'x' WHERE idx = 2",
            "UPDATE task SET args = x'00ff' WHERE idx = 2",
            "UPDATE event SET at = 'x'",
            "DROP TABLE event",
            "ALTER TABLE task DROP COLUMN reason",
        ],
    )
    def test_a_value_that_can_not_be(self, state_dir, change):
        make(state_dir).close()
        other = "20260101-000000-abcde0"
        make(state_dir, other).close()
        connection = sqlite3.connect(state_dir / "runs" / RUN / "journal.sqlite")
        connection.execute(change)
        connection.commit()
        connection.close()
        self.look()
        code, out, err = run("status", "--json")
        rows = {row["run_id"]: row for row in json.loads(out)}
        assert (code, rows[other]["state"]) == (0, "done")
        if "UPDATE event" not in change:
            if not {"idx", "config", "reason"} & set(re.findall("[a-z]+", change)):  # status reads these
                assert rows[RUN]["state"] == "damaged"
                assert f"warning: the journal of run {RUN} is damaged: " in err
            with pytest.raises(RunError, match="is damaged"):
                Journal.open(state_dir, RUN, drive=True)

    def test_a_file_system_without_locks_is_no_place_for_it(self, state_dir, monkeypatch):
        make(state_dir).close()

        def refused(*_arguments):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refused)
        words = r"No locks available, which the file system of state_dir must have \(some NFS has none\)"
        with pytest.raises(RunError, match=words):
            Journal.open(state_dir, RUN, drive=True)
        with pytest.raises(RunError, match=words):
            make(state_dir, "20260101-000000-abcde0")

    def test_a_folder_that_can_not_be_entered_hides_no_other_run(self, state_dir, monkeypatch):
        for run_id in (RUN, "20260101-000000-abcde0"):
            make(state_dir, run_id).close()
        look = Path.stat

        def refused(path, **how):  # root may enter all
            if path.parent.name == RUN:
                raise PermissionError(13, "Permission denied", str(path))
            return look(path, **how)

        monkeypatch.setattr(Path, "stat", refused)
        code, out, err = run("status", "--json")
        states = {row["run_id"]: row["state"] for row in json.loads(out)}
        assert (code, states) == (0, {"20260101-000000-abcde0": "done", RUN: "damaged"})
        assert f"warning: the journal of run {RUN} can't be read: [Errno 13] Permission denied" in err

    def test_what_can_be_read_is_shown(self, state_dir):
        make(state_dir).close()
        connection = sqlite3.connect(state_dir / "runs" / RUN / "journal.sqlite")
        connection.execute("UPDATE task SET state = 'x' WHERE idx = 1")
        connection.execute("UPDATE task SET record = '{' WHERE idx = 0")
        connection.commit()
        connection.close()
        code, out, _err = run("report", RUN, "--json")
        document = json.loads(out)
        assert code == 0
        assert (document["user"], [task["index"] for task in document["tasks"]]) == ("ann", [0, 2])
        assert len(document["damage"]) == 1

    def test_looking_changes_nothing(self, state_dir):
        make(state_dir).close()
        folder = state_dir / "runs" / RUN
        before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
        run("status")
        run("report", RUN)
        assert {name: (folder / name).read_bytes() for name in before} == before

    def test_a_journal_that_is_driven_can_be_looked_at(self, state_dir):
        with make(state_dir, state="driven") as journal:
            journal.event("now")
            assert json.loads(run("status", "--json")[1])[0]["state"] == "driven"
            assert "now" in run("report", RUN, "--events")[1]


class TestJobs:
    def test_are_as_they_are_now(self, state_dir):
        with make(state_dir, state="driven") as journal:
            reader = Journal.open(state_dir, RUN, drive=False)
            before = journal.jobs()
            assert reader.jobs() == journal.jobs() == before
            with journal.transaction():
                journal.update_job(before[0].token, reason="Priority")
                assert journal.jobs()[0].reason == "Priority"
            assert reader.jobs()[0].reason == journal.jobs()[0].reason == "Priority"
            seen = []
            with contextlib.suppress(ZeroDivisionError), journal.transaction():
                journal.update_job(before[0].token, reason="Resources")
                seen += journal.jobs()
                raise ZeroDivisionError
            assert seen[0].reason == "Resources"
            assert reader.jobs()[0].reason == journal.jobs()[0].reason == "Priority"

    def test_who_asks_may_change_the_list(self, state_dir):
        with make(state_dir, state="driven") as journal:
            journal.jobs().clear()
            assert journal.jobs()


class TestPrune:
    def test_removes_what_ended_long_ago(self, state_dir):
        ids = [f"20260101-000000-abcde{number}" for number in range(6)]
        now = time.time()
        for run_id, state, ended in zip(
            ids, ("done", "cancelled", "refused", "done", "driven", "done"), (1.0, 1.0, 1.0, now, 1.0, 1.0), strict=True
        ):
            make(state_dir, run_id, state=state, ended=ended).close()
        connection = sqlite3.connect(state_dir / "runs" / ids[5] / "journal.sqlite")
        connection.execute("UPDATE job SET state = 'x'")
        connection.commit()
        connection.close()
        code, out, _err = run("prune", "--older-than", "1d", "--dry-run", "--json")
        assert (code, json.loads(out)["removed"]) == (0, ids[:3])
        assert run_ids(state_dir) == ids
        code, out, err = run("prune", "--older-than", "1d")
        assert (code, out.splitlines()) == (0, [f"{run_id}: removed" for run_id in ids[:3]])
        assert run_ids(state_dir) == ids[3:]
        assert f"warning: run {ids[4]} has not ended: " in err
        assert f"warning: the journal of run {ids[5]} is damaged: " in err
        assert run("prune", "--older-than", "1d")[:2] == (0, "")

    def test_keeps_what_is_driven(self, state_dir):
        with make(state_dir, ended=1.0):
            assert prune(state_dir, time.time())[0] == []
        assert prune(state_dir, time.time())[0] == [RUN]

    @pytest.mark.parametrize("age", ["", "x", "-1d", "1", "1w", "²d", "99999999d"])
    def test_refuses_what_is_no_age(self, state_dir, age):
        code, _out, err = run("prune", "--older-than", age)
        assert code == 2
        assert "give days or hours such as 30d or 12h" in err


class TestSignals:
    def test_a_terminal_that_is_gone_ends_no_driver(self, state_dir):
        code = (
            "import os, signal\nfrom fractal_slurm.cli.one import heed_signals\n"
            "heed_signals(None)\nos.kill(os.getpid(), signal.SIGHUP)\nprint('alive', flush=True)\n"
            "os.execvp('sh', ['sh', '-c', 'kill -HUP $$; echo ignored'])\n"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (found.stdout, found.returncode) == ("alive\n", -signal.SIGHUP)  # our commands do not inherit it


class TestOwner:
    def test_says_that_a_folder_can_not_be_read(self, tmp_path):
        assert run_ids(tmp_path) == []
        (tmp_path / "runs").write_text("no folder")
        with pytest.raises(RunError, match="can't be read: Not a directory"):
            run_ids(tmp_path)
        deep = tmp_path / ("x" * 300)
        with pytest.raises(RunError, match="can't be read"):
            Journal.open(deep, "20261127-041608-5faa1d", drive=True)

    def test_takes_no_run_that_another_account_may_have_written(self, state_dir, monkeypatch):
        make(state_dir).close()
        run_id, folder = RUN, state_dir / "runs" / RUN
        Journal.open(state_dir, run_id, drive=True).close()
        folder.chmod(0o770)
        with pytest.raises(RunError, match=r"not safe: uid .*, mode 0770; a folder that belongs to this account"):
            Journal.open(state_dir, run_id, drive=True)
        folder.chmod(0o750)
        Journal.open(state_dir, run_id, drive=False).close()
        monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
        for drive in (True, False):
            with pytest.raises(RunError, match="not safe"):
                Journal.open(state_dir, run_id, drive=drive)
        monkeypatch.undo()
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to(folder.with_name("elsewhere"))
        with pytest.raises(RunError, match="not safe"):
            Journal.open(state_dir, run_id, drive=True)
