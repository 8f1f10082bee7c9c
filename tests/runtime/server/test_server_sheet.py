# SPDX-License-Identifier: GPL-3.0-or-later
import importlib
import json
from itertools import pairwise

import pytest
from fractal_slurm.api import ClusterError, TaskEnd


@pytest.fixture
def sheet(server):
    return importlib.import_module("fractal_slurm_server.sheet")


class Handle:
    run_id = "RUN"

    def __init__(self, logs, error=None):
        self._logs, self._error = logs, error

    def logs(self, tasks):
        if self._error:
            raise self._error
        return {index: self._logs[index] for index in tasks if index in self._logs}


def end(index, state="succeeded", **values):
    return TaskEnd("RUN", index, state, **values)


def make(sheet, folder, *, task_type="parallel", multi=True, tasks=4):
    return sheet.Sheet(
        "me", 7, 3, 5, task_type, multi, 1, 22, "Measure", str(folder), [f"par-{n}" for n in range(tasks)],
        [100 + n for n in range(tasks)],
    )  # fmt: skip


class TestSheet:
    def test_comes_back_from_a_label(self, sheet, tmp_path):
        made = make(sheet, tmp_path)
        assert sheet.Sheet.of(json.loads(json.dumps(made.label()))) == made
        assert sheet.Sheet.of({}) is None
        assert sheet.Sheet.of({"fractal-server": {"other": 1}}) is None

    @pytest.mark.parametrize(
        ("task_type", "multi", "done", "failed"),
        [
            ("parallel", True, True, True),
            ("compound", True, False, False),
            ("converter_compound", True, False, False),
            ("non_parallel", False, True, True),
            ("converter_non_parallel", False, True, True),
            ("compound", False, False, True),
            ("converter_compound", False, False, True),
        ],
    )
    def test_leaves_statuses_of_compound_tasks_to_the_caller(self, sheet, tmp_path, task_type, multi, done, failed):
        made = make(sheet, tmp_path, task_type=task_type, multi=multi)
        assert (made.is_ours_to_set("done"), made.is_ours_to_set("failed")) == (done, failed)


class TestDesk:
    def test_writes_files_statuses_and_errors_as_fractal_server_does(self, sheet, server, tmp_path):
        desk = sheet.Desk(make(sheet, tmp_path))
        desk.take(end(0, out={"a": 1}))
        desk.take(end(1))
        desk.take(end(2, "failed", exit_code=3, reason="exit code 3"))
        desk.take(end(3, "failed", signal=9, reason="out of memory: it had 8000 MB"))
        desk.write_down(Handle({0: b"fine\n", 1: b"a Warning\n", 2: b"bad", 3: b""}), is_stopped=False)
        assert desk.results == {0: {"a": 1}, 1: None}
        assert str(desk.errors[2]) == "Task failed with returncode=3.\nSTDERR: bad"
        assert desk.errors[2].of == (22, 1, "Measure")
        assert str(desk.errors[3]) == ("out of memory: it had 8000 MB.\nTask failed with returncode=-9.\nSTDERR: ")
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "par-0-log.txt", "par-0-metadiff.json", "par-1-log.txt", "par-2-log.txt", "par-3-log.txt",
        ]  # fmt: skip
        assert json.loads((tmp_path / "par-0-metadiff.json").read_text()) == {"a": 1}
        assert server.statuses == [
            ([100], {"status": "done", "has_warnings": False}),
            ([101], {"status": "done", "has_warnings": True}),
            ([102, 103], {"status": "failed", "has_warnings": False}),
        ]

    def test_says_that_a_job_was_stopped_in_fractal_servers_words(self, sheet, tmp_path):
        desk = sheet.Desk(make(sheet, tmp_path))
        desk.take(end(0, "not_run", reason="cancelled"))
        desk.take(end(1, "failed", exit_code=2, reason="exit code 2"))
        desk.write_down(Handle({}), is_stopped=True)
        assert str(desk.errors[0]) == "Failed due to job-execution shutdown."
        assert str(desk.errors[1]).startswith("Task failed with returncode=2.")

    def test_says_what_can_not_be_started_in_fractal_servers_words(self, sheet, tmp_path):
        desk = sheet.Desk(make(sheet, tmp_path))
        desk.take(end(0, "failed", reason="/opt/task.sh can't be started: Permission denied"))
        desk.write_down(Handle({}), is_stopped=False)
        assert str(desk.errors[0]) == (
            'Command "/opt/task.sh" is not valid. Hint: make sure that it is executable.\n'
            "/opt/task.sh can't be started: Permission denied"
        )

    def test_sets_all_statuses_where_no_workflow_waits(self, sheet, server, tmp_path):
        desk = sheet.Desk(make(sheet, tmp_path, task_type="compound"), is_alone=True)
        desk.take(end(0))
        desk.write_down(Handle({}), is_stopped=False)
        assert server.statuses == [([100], {"status": "done", "has_warnings": False})]

    def test_takes_the_ends_of_logs_that_can_not_be_read(self, sheet, tmp_path):
        desk = sheet.Desk(make(sheet, tmp_path))
        desk.take(end(0, log_tail="the end", log_bytes=9000))
        desk.write_down(Handle({}, ClusterError("away")), is_stopped=False)
        assert (tmp_path / "par-0-log.txt").read_text() == "the end"

    def test_shows_what_running_tasks_have_printed_so_far_some_of_them_at_a_time(self, sheet, tmp_path, monkeypatch):
        monkeypatch.setattr(sheet, "_MOST_RUNNING", 3)
        monkeypatch.setattr(sheet, "_MOST_SO_FAR", 6)
        monkeypatch.setattr(sheet, "_SHOW_S", 0)
        monkeypatch.setattr(sheet, "_PAUSES", 0)
        monkeypatch.setattr(sheet, "_STAYS_S", 0)
        monkeypatch.setattr(sheet, "_SHOW_PART", 0)
        desk = sheet.Desk(make(sheet, tmp_path, tasks=5))
        desk.take(end(1))
        handle = Handle({1: b"all of it"})
        desk.write_down(handle, is_stopped=False)
        so_far, asked = {0: b"zero", 1: b"part", 3: b"third one", 4: b"four"}, []

        def logs_so_far(tasks, most_bytes):
            asked.append(tasks)
            return {index: so_far[index][:most_bytes] for index in tasks[:2] if index in so_far}

        handle.running = lambda: [0, 1, 2, 3, 4]
        handle.logs_so_far = logs_so_far
        desk.show_running(handle)
        assert asked == []  # they may be short
        desk.show_running(handle)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
            "par-0-log.txt": "zero", "par-1-log.txt": "all of it",
        }  # fmt: skip
        desk.show_running(handle)
        third = (tmp_path / "par-3-log.txt").read_text()
        assert third == "third \n(The task runs, and its log is longer: the rest comes when it ends.)\n"
        desk.show_running(handle)
        assert asked == [[0, 2, 3], [2, 3, 4], [4, 0, 2]]  # it goes on after the last log that came

    def test_goes_on_where_logs_of_running_tasks_can_not_be_read(self, sheet, tmp_path, monkeypatch):
        monkeypatch.setattr(sheet, "_SHOW_S", 0)
        desk = sheet.Desk(make(sheet, tmp_path))
        monkeypatch.setattr(sheet, "_SHOW_S", 20)
        calls = []

        def running():
            assert not calls
            calls.append(1)
            raise ClusterError("away")

        handle = Handle({})
        handle.running = running
        desk.show_running(handle)
        desk.show_running(handle)  # not yet again

    def test_reads_no_log_of_a_task_that_is_short_and_waits_after_a_look_that_took_long(
        self, sheet, tmp_path, monkeypatch
    ):
        now, looks = [1000.0], []
        monkeypatch.setattr(sheet.time, "monotonic", lambda: now[0])
        desk = sheet.Desk(make(sheet, tmp_path))

        def logs_so_far(tasks, most_bytes):
            looks.append((now[0], tasks))
            now[0] += 5
            return {}

        handle = Handle({})
        handle.logs_so_far = logs_so_far
        for now[0], tasks in [
            (1001.0, [0, 1]), (1009.0, [1, 2]), (1012.0, [1, 2]), (1050.0, [2]), (1116.0, [3]), (1118.0, [4]),
            (1128.5, [4]),
        ]:  # fmt: skip
            handle.running = lambda tasks=tasks: tasks
            desk.show_running(handle)
        assert looks == [(1012.0, [1]), (1128.5, [4])]

    def test_believes_of_short_tasks_only_after_long_that_one_runs_still(self, sheet, tmp_path, monkeypatch):
        now, looks = [1000.0], []
        monkeypatch.setattr(sheet.time, "monotonic", lambda: now[0])
        desk = sheet.Desk(make(sheet, tmp_path))
        desk.take(end(0, seconds=0.2))
        desk.take(end(1, "failed", seconds=0.1))
        desk.take(end(2, "not_run"))
        handle = Handle({})
        desk.write_down(handle, is_stopped=False)
        handle.running = lambda: [3]
        handle.logs_so_far = lambda tasks, most_bytes: looks.append(now[0]) or {}
        for _second in range(100):
            now[0] += 1
            desk.show_running(handle)
        assert 1060 < looks[0] <= 1071

    def test_looks_less_often_at_a_run_that_lasts(self, sheet, tmp_path, monkeypatch):
        now, looks = [1000.0], []
        monkeypatch.setattr(sheet.time, "monotonic", lambda: now[0])
        desk = sheet.Desk(make(sheet, tmp_path))
        handle = Handle({})
        handle.running = lambda: [0]
        handle.logs_so_far = lambda tasks, most_bytes: looks.append(now[0] - 1000) or {}
        for _second in range(3 * 3600):
            now[0] += 1
            desk.show_running(handle)
        pauses = [after - before for before, after in pairwise(looks)]
        assert (looks[0], pauses[0], pauses[-1]) == (21.0, 20.0, 120.0)
        assert len(looks) < 110
        assert sorted(pauses) == pauses

    def test_changes_no_more_rows_at_once_than_fractal_server_does(self, sheet, server):
        sheet.set_statuses(list(range(4500)), "failed")
        assert [len(units) for units, _values in server.statuses] == [2000, 2000, 500]
