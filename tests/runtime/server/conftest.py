# SPDX-License-Identifier: GPL-3.0-or-later
"""A fractal-server of the tests' own: no more of it than the adapter touches, and every row that it writes is seen.

The real one is what `make test-fractal-server` and the demo are for.
"""

import sys
import types
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Database:
    """What was written."""

    statuses: list[Any] = field(default_factory=list)
    accounting: list[Any] = field(default_factory=list)


class _Column:
    def in_(self, values):
        return values


class HistoryUnit:
    id, status, history_run_id, logfile, has_warnings = (_Column() for _number in range(5))


class TaskExecutionError(RuntimeError):
    def __init__(self, *words, workflow_task_id=None, workflow_task_order=None, task_name=None):
        super().__init__(*words)
        self.of = (workflow_task_id, workflow_task_order, task_name)


class JobExecutionError(RuntimeError):
    pass


class SlurmSudoRunner:
    """As the real one, as far as the adapter calls it."""

    def __init__(self, *, root_dir_local, root_dir_remote, profile, resource, user_cache_dir, **_):
        self.root_dir_local, self.root_dir_remote = root_dir_local, root_dir_remote
        self.slurm_user, self.user_cache_dir = profile.username, user_cache_dir
        self.python_worker_interpreter = resource.jobs_slurm_python_worker
        self.account = None

    def is_shutdown(self):
        return (self.root_dir_local / "shutdown").exists()

    def validate_submit_parameters(self, *, parameters, task_type):
        if not isinstance(parameters, dict):
            raise ValueError("`parameters` must be a dictionary.")

    def validate_multisubmit_parameters(self, *, task_type, list_parameters, list_task_files, history_unit_ids):
        if len(list_parameters) != len(history_unit_ids):
            raise ValueError("lengths differ")

    def _enrich_slurm_config(self, slurm_config):
        return slurm_config

    def _mkdir_local_folder(self, folder):
        Path(folder).mkdir(parents=True)


@pytest.fixture
def server(monkeypatch):
    """Its modules, in place of fractal_server and SQLAlchemy; returns what was written to its database."""
    database = Database()

    class Update:
        def where(self, units):
            self.units = units
            return self

        def values(self, **values):
            self.changes = values
            return self

    @contextmanager
    def session():
        db = types.SimpleNamespace()
        db.execute = lambda statement: database.statuses.append((statement.units, statement.changes))
        db.commit = lambda: None
        yield db

    def account(*, user_id, slurm_job_ids, fractal_job_id, resource_id):
        database.accounting.append((user_id, slurm_job_ids, fractal_job_id, resource_id))

    def validate_cmd(command):
        if "$" in command:
            raise ValueError("Command must not contain any of this characters")

    contents = {
        "fractal_server.app.db": {"get_sync_db": lambda: iter([session()])},
        "fractal_server.app.models.v2": {
            "HistoryUnit": HistoryUnit, "HistoryRun": None, "JobV2": None, "ProjectV2": None, "Resource": None,
        },
        "fractal_server.runner.exceptions": {
            "JobExecutionError": JobExecutionError, "TaskExecutionError": TaskExecutionError,
        },
        "fractal_server.runner.executors.slurm_common.base_slurm_runner": {"create_accounting_record_slurm": account},
        "fractal_server.runner.executors.slurm_sudo.runner": {"SlurmSudoRunner": SlurmSudoRunner},
        "fractal_server.runner.filenames": {"SHUTDOWN_FILENAME": "shutdown"},
        "fractal_server.string_tools": {"validate_cmd": validate_cmd},
        "fractal_server.utils": {"get_timestamp": lambda: "now"},
        "fractal_server.zip_tools": {"_zip_folder_to_file_and_remove": None},
        "sqlalchemy": {"select": None, "update": lambda _model: Update()},
    }  # fmt: skip
    for name, things in contents.items():
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            path = ".".join(parts[:depth])
            if path not in sys.modules or depth == len(parts):
                monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
        vars(sys.modules[name]).update(things)
    for name in ("sheet", "runner", "process", "recover"):
        monkeypatch.delitem(sys.modules, f"fractal_slurm_server.{name}", raising=False)
    yield database
    for name in ("sheet", "runner", "process", "recover"):
        sys.modules.pop(f"fractal_slurm_server.{name}", None)
