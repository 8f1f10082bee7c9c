# SPDX-License-Identifier: GPL-3.0-or-later
"""Journals of other versions: a real one of 0.1.0, and one of a version to come."""

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from fractal_slurm.cluster.commands import Slurm
from fractal_slurm.driver import schema
from fractal_slurm.driver.context import Run
from fractal_slurm.driver.journal import Journal
from fractal_slurm.driver.model import IN_FLIGHT, JobState, RunState, TaskState
from fractal_slurm.errors import RunError
from fractal_slurm.jobs.script import JobSettings
from fractal_slurm.settings import Settings
from fractal_slurm.sudo import Impersonator
from journals import make
from samples import run

RECORDED = Path(__file__).parents[1] / "recorded/journal-0.1.0"
OLD = "20261126-205335-5bc6ec"


@pytest.fixture
def old(state_dir):
    """The file of a journal of version 0.1.0."""
    folder = state_dir / "runs" / OLD
    folder.parent.mkdir(parents=True)
    shutil.copytree(RECORDED, folder)
    return folder / "journal.sqlite"


def version(file):
    with sqlite3.connect(file) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


class TestOld:
    def test_can_be_looked_at_and_stays_as_it_is(self, state_dir, old):
        before = old.read_bytes()
        with Journal.open(state_dir, OLD, drive=False) as journal:
            record, counts = journal.record, journal.counts()
            assert (record.user, record.state, record.tasks) == ("anna", RunState.DRIVEN, 9)
            assert (counts[TaskState.SUCCEEDED], counts[TaskState.FAILED], counts[TaskState.WAITING]) == (2, 1, 6)
            assert journal.damage == []
        for command in (["status", "--json"], ["report", OLD, "--json"], ["report", OLD, "--events"], ["logs", OLD]):
            code, _out, err = run(*command)
            assert (code, err) == (0, "")
        assert json.loads(run("status", "--json")[1])[0]["state"] == "interrupted"
        assert old.read_bytes() == before

    def test_is_brought_up_to_date_by_whoever_drives_it(self, state_dir, old):
        for _time in range(2):
            with Journal.open(state_dir, OLD, drive=True) as journal:
                assert [job.slurm_job_id for job in journal.jobs(*IN_FLIGHT)] == ["2", "3"]
                assert journal.record.folder_made
                assert sum(event.what == "journal brought up to date" for event in journal.events()) == 1
        assert version(old) == schema.VERSION

    @pytest.mark.parametrize("state", [None, "planned"])
    def test_knows_whether_its_folder_was_made(self, state_dir, old, state):
        with sqlite3.connect(old) as db:
            if state is not None:
                db.execute("UPDATE job SET state = ?", (state,))
        with Journal.open(state_dir, OLD, drive=True) as journal:
            assert journal.record.folder_made is (state is None)

    def test_submits_with_the_worker_of_today(self, state_dir, old):
        settings = Settings()
        with Journal.open(state_dir, OLD, drive=True) as journal:
            assert journal.record.job_settings.worker_folder.startswith("/opt/fractal-slurm/0.1.0/")
            found = Run(journal, settings, Slurm("/usr/bin", Impersonator()), say=print).job_settings
            assert (found.worker_folder, found.worker_python) == (settings.folder(), settings.python())
            assert found.command == ("/shared/tasks/task.sh",)
            assert replace(found, worker_folder="", worker_python="", slurm_output=True) == JobSettings(
                command=found.command, run_folder=f"/shared/anna/{OLD}", cache_dir="/shared/anna/cache dir",
                worker_python="", worker_folder="", srun="/usr/bin/srun", kill_wait_s=3, max_walltime_s=3600,
                max_out_bytes=1_000_000,
            )  # fmt: skip

    def test_is_brought_up_to_date_whole_or_not_at_all(self, state_dir, old, monkeypatch):
        def fails(connection):
            connection.execute("INSERT INTO run VALUES ('folder_made', 'true')")
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(schema, "_STEPS", {1: fails})
        with pytest.raises(RunError, match="disk I/O error"):
            Journal.open(state_dir, OLD, drive=True)
        monkeypatch.undo()
        assert version(old) == 1
        with Journal.open(state_dir, OLD, drive=True) as journal:
            assert len(journal.jobs(JobState.SUBMITTED)) == 2

    def test_stays_as_it_is_if_it_is_damaged(self, state_dir, old):
        with sqlite3.connect(old) as db:
            db.execute("UPDATE task SET state = 'x' WHERE idx = 1")
        before = old.read_bytes()
        with pytest.raises(RunError, match="is damaged"):
            Journal.open(state_dir, OLD, drive=True)
        assert old.read_bytes() == before


class TestOther:
    @pytest.mark.parametrize(
        ("number", "advice"),
        [(schema.VERSION + 1, "install that version or a newer one"), (0, "use the version that began the run")],
    )
    def test_is_refused_in_words(self, state_dir, old, number, advice):
        with sqlite3.connect(old) as db:
            db.execute(f"PRAGMA user_version = {number}")
        before = old.read_bytes()
        for drive in (False, True):
            with pytest.raises(
                RunError, match=f"has format {number}, .* reads formats 1 to {schema.VERSION}: {advice}"
            ):
                Journal.open(state_dir, OLD, drive=drive)
        code, out, err = run("status", "--json")
        assert (code, json.loads(out)[0]["run_id"]) == (0, OLD)
        assert "warning: " in err
        assert run("prune", "--older-than", "0h")[2].endswith("kept\n")
        assert old.read_bytes() == before

    def test_new_journals_have_the_schema_of_today(self, state_dir):
        with make(state_dir) as journal:
            assert version(journal.folder / "journal.sqlite") == schema.VERSION
