# SPDX-License-Identifier: GPL-3.0-or-later
from dataclasses import replace

import pytest
from fractal_slurm.driver import so_far
from fractal_slurm.driver.so_far import LogsSoFar
from fractal_slurm.errors import ClusterError
from fractal_slurm.node.protocol import RUNNING_BYTES, running_head, running_line
from journals import RUN, TOKEN, make

FOLDER = f"/work/{RUN}/{TOKEN}"
UNUSED = bytes(RUNNING_BYTES)


class Files:
    """What the user has, read as the user; each call is kept."""

    def __init__(self, files):
        self.files, self.calls, self.before = files, [], {}

    def read_files(self, user, paths, *, timeout, max_bytes, closed):
        self.calls.append(("cat", len(paths)))
        data = b""
        for path in paths:
            self.before.get(path, lambda: None)()
            data += self.files.get(path, b"")
        yield from (data[:max_bytes][start : start + 7] for start in range(0, min(max_bytes, len(data)), 7))

    def list_folders(self, user, paths, *, timeout, wanted):
        self.calls.append(("ls", len(paths)))
        names = [path.rpartition("/") for path in self.files]
        return {folder: [name for above, _slash, name in names if above == folder and wanted(name)] for folder in paths}


def running(*tasks, name="running-0-0", mark="ab" * 8):
    """A worker's file: for each slot the task that runs there, or None."""
    slots = name.replace("running", "slot")
    lines = [
        running_line(f"{slots}-{slot}", task, 0) if task is not None else UNUSED for slot, task in enumerate(tasks)
    ]
    return running_head(TOKEN, name, len(tasks), mark) + b"".join(lines)


@pytest.fixture
def journal(tmp_path):
    journal = make(tmp_path, state="driven", tasks=9)
    journal._db.execute("UPDATE task SET state = 'waiting', record = NULL")
    return journal


@pytest.fixture
def files():
    return Files({
        f"{FOLDER}/running-0-0": running(2, None, 5), f"{FOLDER}/slot-0-0-0": b"of two\n",
        f"{FOLDER}/slot-0-0-1": b"", f"{FOLDER}/slot-0-0-2": b"of five\xff\n\0",
    })  # fmt: skip


class TestLogsSoFar:
    def test_come_in_one_call_once_the_workers_files_are_known(self, journal, files):
        logs = LogsSoFar()
        assert logs.read(journal, files, [5, 2]) == {5: b"of five\xff\n\0", 2: b"of two\n"}
        assert files.calls == [("ls", 1), ("cat", 1), ("cat", 4)]
        files.files[f"{FOLDER}/slot-0-0-0"] += b"more"
        assert logs.read(journal, files, [2, 5]) == {2: b"of two\nmore", 5: b"of five\xff\n\0"}
        assert files.calls[3:] == [("cat", 4)]

    def test_come_from_all_nodes_of_the_last_start(self, journal, files):
        files.files |= {
            f"{FOLDER}/running-1-0": running(2, name="running-1-0"), f"{FOLDER}/slot-1-0-0": b"new two",
            f"{FOLDER}/running-1-1": running(None, 5, name="running-1-1", mark="cd" * 8),
            f"{FOLDER}/slot-1-1-1": b"new",
        }  # fmt: skip
        assert LogsSoFar().read(journal, files, [2, 5]) == {2: b"new two", 5: b"new"}

    def test_come_from_files_of_their_own_where_tasks_have_them(self, journal, files):
        settings = replace(journal.record.job_settings, task_logs="separate")
        journal.write(replace(journal.record, job_settings=settings))
        files.files[f"{FOLDER}/task-2-0.log"] = b"its own"
        assert LogsSoFar().read(journal, files, [2]) == {2: b"its own"}

    def test_are_none_of_tasks_that_do_not_run(self, journal, files):
        assert LogsSoFar().read(journal, files, [3, 77]) == {}
        journal._db.execute("UPDATE task SET state = 'succeeded', token = NULL")
        assert LogsSoFar().read(journal, files, [2, 5]) == {}
        assert LogsSoFar().read(journal, Files({}), [2]) == {}

    def test_are_not_those_of_the_next_task_in_the_slot(self, journal, files):
        def next_task():
            files.files[f"{FOLDER}/running-0-0"] = running(7, None, 5)

        files.before[f"{FOLDER}/slot-0-0-0"] = next_task
        assert LogsSoFar().read(journal, files, [2, 5]) == {5: b"of five\xff\n\0"}

    def test_are_learned_anew_where_a_worker_ended_or_began_again_meanwhile(self, journal, files):
        logs = LogsSoFar()
        assert len(logs.read(journal, files, [2, 5])) == 2
        old = files.files.copy()
        files.files.clear()
        assert logs.read(journal, files, [2, 5]) == {}
        files.files |= old | {f"{FOLDER}/running-0-0": running(2, None, 5, mark="ef" * 8)}
        assert len(logs.read(journal, files, [2, 5])) == 2

    @pytest.mark.parametrize(
        "printed", [running(2, None, 5), running(2, None, 5)[:RUNNING_BYTES], running(2, None, 5) * 3]
    )
    def test_are_given_to_no_task_where_one_printed_the_workers_file(self, journal, files, printed):
        files.files[f"{FOLDER}/slot-0-0-0"] = b"see: " + printed + b"more"
        assert LogsSoFar().read(journal, files, [2, 5]) == {}

    def test_are_their_beginnings_and_the_last_are_left_out_where_they_are_too_long(self, journal, files):
        logs = LogsSoFar(most_together=300)
        files.files[f"{FOLDER}/slot-0-0-0"] = b"x" * 5000
        assert logs.read(journal, files, [2, 5], most_bytes=100) == {2: b"x" * 100}
        assert logs.read(journal, files, [5, 2], most_bytes=100) == {5: b"of five\xff\n\0", 2: b"x" * 100}
        assert logs.read(journal, files, [2, 5], most_bytes=4000) == {2: b"x" * 4000}
        for size in range(200, 400):  # wherever the end of what is read falls
            files.files[f"{FOLDER}/slot-0-0-2"] = b"y" * size
            found = logs.read(journal, files, [5, 2], most_bytes=250)
            assert found[5] == b"y" * min(size, 250)
            assert found.get(2, b"x" * 250) == b"x" * 250
        for size in range(550, 1000, 3):
            files.files[f"{FOLDER}/slot-0-0-2"] = b"y" * size
            assert logs.read(journal, files, [5, 2], most_bytes=250)[5] == b"y" * 250

    def test_are_proved_also_where_they_are_too_long(self, journal, files):
        logs = LogsSoFar(most_together=300)
        files.files[f"{FOLDER}/slot-0-0-0"] = b"x" * 5000
        files.before[f"{FOLDER}/slot-0-0-0"] = lambda: files.files.update({f"{FOLDER}/running-0-0": running(7)})
        assert logs.read(journal, files, [2], most_bytes=100) == {}
        files.files[f"{FOLDER}/running-0-0"] = running(2)
        files.before[f"{FOLDER}/slot-0-0-0"] = lambda: files.files.pop(f"{FOLDER}/running-0-0")
        assert logs.read(journal, files, [2], most_bytes=100) == {}

    def test_are_asked_for_in_a_bounded_number(self, journal, files, monkeypatch):
        monkeypatch.setattr(so_far, "_MOST_LOGS", 1)
        assert LogsSoFar().read(journal, files, [2, 5]) == {2: b"of two\n"}

    @pytest.mark.parametrize(
        "hostile",
        [
            b"",
            running_line("slot-0-0-0", 2, 0),  # of a worker of an earlier version
            running(2)[:-1],
            running(2).replace(b"slot-0-0-0", b"../../../x"),
            running(2, name="running-0-7"),
            running(2).replace(TOKEN.encode(), b"f" * 16),
            running(2).replace(b" 1 ", b" 9 "),
            b"\xff" * 900,
        ],
    )
    def test_believe_no_file_that_is_not_as_a_worker_writes_it(self, journal, hostile):
        files = Files({f"{FOLDER}/running-0-0": hostile, f"{FOLDER}/slot-0-0-0": b"of whom?", "/work/x": b"secret"})
        assert LogsSoFar().read(journal, files, [2]) == {}

    def test_are_an_error_where_files_can_not_be_read(self, journal, files):
        def away(*_args, **_others):
            raise ClusterError("away")

        files.read_files = away
        with pytest.raises(ClusterError, match="away"):
            LogsSoFar().read(journal, files, [2])

    def test_forget_what_is_long_known(self, journal, files, monkeypatch):
        logs = LogsSoFar()
        logs.read(journal, files, [2])
        monkeypatch.setattr(so_far, "_KNOWN_S", -1.0)
        logs.read(journal, files, [2])
        assert [what for what, _paths in files.calls].count("ls") == 2
