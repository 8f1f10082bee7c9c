# SPDX-License-Identifier: BSD-3-Clause
"""Runs that an older version of the runtime began, and that go on with the one of today."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from pathlib import Path

from conftest import ANNA, SERVICE, Call, counted, starts

RECORDED = Path(__file__).parents[1] / "runtime/recorded/journal-0.1.0/journal.sqlite"


class TestUpgrade:
    def test_a_run_of_version_0_1_0_goes_on(self, call: Call) -> None:
        """Its jobs are gone from SLURM, with the worker that they had: what was not done runs in new ones."""
        script, marks = counted(call, 0)
        folder = call.folder / "state/runs/20261126-205335-5bc6ec"
        folder.mkdir(parents=True)
        file = folder / "journal.sqlite"
        shutil.copyfile(RECORDED, file)
        with sqlite3.connect(file) as db:
            db.execute("UPDATE run SET value = ? WHERE key = 'user'", (f'"{ANNA}"',))
            for old, new in (("/shared/tasks/task.sh", script), ("/shared/anna", str(call.work(ANNA)))):
                db.execute("UPDATE run SET value = replace(value, ?, ?)", (old, new))
        for path in (folder.parent, folder, file):
            shutil.chown(path, SERVICE, SERVICE)
        outcome = call("resume", call.run_id(), "--json")
        assert outcome.code == 1, outcome.stderr
        assert (outcome["succeeded"], outcome["failed"], outcome["not_run"]) == (8, 1, 0)
        assert [failure["index"] for failure in outcome["failures"]] == [2]
        assert starts(marks) == Counter(range(3, 9))
