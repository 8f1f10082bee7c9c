# SPDX-License-Identifier: GPL-3.0-or-later
import json
from dataclasses import replace

import pytest
from fractal_slurm.driver.logs import RunningLog, read_logs, running
from fractal_slurm.driver.model import JobState, RunState, TaskState
from fractal_slurm.errors import ClusterError
from fractal_slurm.node.protocol import RUNNING_BYTES, running_line
from journals import RECORD, RUN, TOKEN, make


class Files:
    """What the user has, read as the user; each call is kept."""

    def __init__(self, files, words=""):
        self.files, self.words, self.calls = files, words, []

    def read_files(self, user, paths, *, timeout, max_bytes, closed):
        self.calls.append(paths)
        for path in paths:
            if self.words:
                closed[path] = self.words
            data = self.files.get(path, b"")[:max_bytes]
            yield from (data[start : start + 3] for start in range(0, len(data), 3))

    def list_folders(self, user, paths, *, wanted):
        self.calls.append(paths)
        names = [path.rpartition("/") for path in self.files]
        return {folder: [name for above, _slash, name in names if above == folder and wanted(name)] for folder in paths}


def journal_with(tmp_path, records, **settings):
    journal = make(tmp_path, state="driven", tasks=len(records))
    if settings:
        journal.write(replace(journal.record, job_settings=replace(journal.record.job_settings, **settings)))
    for index, record in enumerate(records):
        if record is not None:
            text = json.dumps({**RECORD, "task": index, **record})
            journal.finish_task(index, TaskState.SUCCEEDED, None, text)
    return journal


JOINED = f"/work/{RUN}/{TOKEN}/log-0-0"


class TestReadLogs:
    def test_reads_a_file_once_for_all_logs_in_it_and_short_ones_not_at_all(self, tmp_path):
        records = [{"log": [0, 5], "tail": "lo"}, {"log": [5, 7], "tail": "ng"}, {"log": [12, 4], "tail": "end\n"}]
        files = Files({JOINED: b"first" + b"second." + b"end\n" + b"more"})
        logs = read_logs(journal_with(tmp_path, records), files, [0, 1, 2, 9])
        assert logs == {0: b"first", 1: b"second.", 2: b"end\n"}
        assert files.calls == [[JOINED]]

    def test_reads_what_a_record_can_not_hold(self, tmp_path):
        files = Files({JOINED: b"a\xff\xfe"})
        logs = read_logs(journal_with(tmp_path, [{"log": [0, 3], "tail": "\ufffd"}]), files, [0])
        assert logs == {0: b"a\xff\xfe"}

    def test_keeps_the_last_bytes_of_a_log_that_is_too_long(self, tmp_path):
        files = Files({JOINED: b"0123456789"})
        assert read_logs(journal_with(tmp_path, [{"log": [0, 10]}]), files, [0], most_bytes=4) == {0: b"6789"}

    def test_reads_logs_of_tasks_that_run_where_each_has_a_file(self, tmp_path):
        journal = journal_with(tmp_path, [None, {"log": [0, 9], "tail": "x"}], task_logs="separate")
        journal.write(replace(journal.record, state=RunState.DRIVEN))
        journal._db.execute("UPDATE task SET state = 'waiting', record = NULL WHERE idx = 0")
        folder = f"/work/{RUN}/{TOKEN}"
        files = Files({f"{folder}/task-0-0.log": b"so far", f"{folder}/task-1-0.log": b"123456789"})
        assert read_logs(journal, files, [0, 1]) == {0: b"so far", 1: b"123456789"}

    def test_leaves_out_what_is_gone_and_says_what_is_closed(self, tmp_path):
        journal = journal_with(tmp_path, [{"log": [0, 9], "tail": ""}])
        assert read_logs(journal, Files({}), [0]) == {}
        with pytest.raises(ClusterError, match="can't be read: Permission denied"):
            read_logs(journal, Files({}, "Permission denied"), [0])

    def test_believes_no_record_about_where_its_log_is(self, tmp_path):
        journal = journal_with(tmp_path, [{"log": [0, 2**62], "tail": ""}])
        assert read_logs(journal, Files({JOINED: b"all"}), [0]) == {0: b"all"}


class TestRunning:
    def test_are_the_first_without_an_end_of_each_job_that_has_begun(self, tmp_path):
        journal = make(tmp_path, state="driven", tasks=9)  # tasks 0 and 1 have ended
        assert running(journal) == []
        journal.update_job(TOKEN, "running", state=JobState.SUBMITTED, began_at=1.0)
        slots = journal.record.config.parallel_tasks_per_job
        assert running(journal) == list(range(2, min(9, 2 + slots)))
        journal._db.execute("UPDATE job SET slots = 3")
        assert running(journal) == [2, 3, 4]


FOLDER = f"/work/{RUN}/{TOKEN}"
UNUSED = bytes(RUNNING_BYTES)


class TestRunningLog:
    def running(self, tmp_path, files, **settings):
        journal = journal_with(tmp_path, [None, None, None], **settings)
        return journal, RunningLog(journal, Files(files), 2, most_bytes=400)

    def test_tells_what_is_new(self, tmp_path):
        files = {f"{FOLDER}/running-0-0": UNUSED + running_line("slot-0-0-1", 2, 0), f"{FOLDER}/slot-0-0-1": b"one"}
        _journal, log = self.running(tmp_path, files)
        assert log.new() == b"one"
        files[f"{FOLDER}/slot-0-0-1"] += b" two"
        assert (log.new(), log.new()) == (b" two", b"")
        assert log.shown_of(0) == 7
        assert log.shown_of(1) == 0

    def test_reads_no_more_than_it_may(self, tmp_path):
        files = {f"{FOLDER}/running-0-0": running_line("slot-0-0-0", 2, 0), f"{FOLDER}/slot-0-0-0": b"x" * 5000}
        _journal, log = self.running(tmp_path, files)
        assert log.new() == b"x" * 400
        calls = len(log._sudo.calls)
        assert (log.full, log.new(), len(log._sudo.calls)) == (True, b"", calls)

    def test_takes_the_last_start_of_a_job_and_any_of_its_nodes(self, tmp_path):
        files = {
            f"{FOLDER}/running-0-0": running_line("slot-0-0-0", 2, 0), f"{FOLDER}/slot-0-0-0": b"old",
            f"{FOLDER}/running-1-0": running_line("slot-1-0-0", 1, 0), f"{FOLDER}/slot-1-0-0": b"another",
            f"{FOLDER}/running-1-1": running_line("slot-1-1-0", 2, 0), f"{FOLDER}/slot-1-1-0": b"new",
        }  # fmt: skip
        assert self.running(tmp_path, files)[1].new() == b"new"

    @pytest.mark.parametrize(
        "running",
        [b"", UNUSED, b"\n\n", running_line("slot-0-0-0", 1, 0), running_line("slot-0-0-0", 2, 1),
         running_line("../../secret", 2, 0), b"slot-0-0-0 2 0 x\n", b"\xff" * 200],
    )  # fmt: skip
    def test_tells_nothing_of_other_tasks(self, tmp_path, running):
        files = {f"{FOLDER}/running-0-0": running, f"{FOLDER}/slot-0-0-0": b"of another", "/secret": b"x"}
        assert self.running(tmp_path, files)[1].new() == b""

    def test_tells_nothing_of_the_task_that_came_after_it(self, tmp_path):
        files = {f"{FOLDER}/running-0-0": running_line("slot-0-0-0", 2, 0), f"{FOLDER}/slot-0-0-0": b"of the next"}
        log = self.running(tmp_path, files)[1]
        read = log._sudo.read_files

        def then_another(user, paths, **others):
            yield from read(user, paths, **others)
            files[f"{FOLDER}/running-0-0"] = running_line("slot-0-0-0", 7, 0)

        log._sudo.read_files = then_another
        assert log.new() == b""

    def test_begins_anew_with_each_attempt(self, tmp_path):
        files = {f"{FOLDER}/task-2-0.log": b"first", f"{FOLDER}/task-2-1.log": b"second"}
        journal, log = self.running(tmp_path, files, task_logs="separate")
        assert log.new() == b"first"
        journal.try_again(2, own_fault=True)
        assert log.new() == b""
        journal._db.execute("UPDATE task SET token = ? WHERE idx = 2", (TOKEN,))
        assert log.new() == b"second"
        assert log.shown_of(1) == 6
