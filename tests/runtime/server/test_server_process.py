# SPDX-License-Identifier: GPL-3.0-or-later
import os

import pytest
from fractal_slurm_server import process


@pytest.fixture(autouse=True)
def nothing_made_yet(state_dir, monkeypatch):
    monkeypatch.setattr(process, "_pid", 0)
    yield
    monkeypatch.setattr(process, "_pid", 0)
    process._forget_after_fork()


class TestProcess:
    def test_has_settings_as_fractal_servers_jobs_need_them(self, monkeypatch):
        found = process.settings("/opt/python3")
        assert (found.time_scope, found.worker_python) == ("job", "/opt/python3")
        monkeypatch.setenv("FRACTAL_SLURM_WORKER_PYTHON", "/usr/bin/python3")
        assert process.settings("/opt/python3").worker_python == "/usr/bin/python3"

    def test_has_one_engine_for_each_python_and_one_name(self):
        assert process.engine("/a") is process.engine("/a")
        assert process.engine("/a") is not process.engine("/b")
        assert process.owner() is process.owner()

    def test_begins_anew_after_a_fork(self):
        engine, owner = process.engine(), process.owner()
        pid = os.fork()
        if not pid:
            same = process.engine() is engine or process.owner() is owner
            os._exit(7 if same else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
