# SPDX-License-Identifier: BSD-3-Clause
"""Check whether the engine supports the fractal-server of this Python: its version, and the code that we use.

The version alone is not enough, because a server may be patched. So we also check each function and class that the
adapter calls, replaces or inherits.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from typing import Any

# The first version that is supported, and the first version after these that is not known yet.
SUPPORTED = ((2, 18), (2, 27))

_RUNNER = "fractal_server.runner.executors.slurm_common.base_slurm_runner"
_SUBMIT = (
    "base_command", "workflow_task_order", "workflow_task_id", "task_name", "parameters", "history_unit_id",
    "task_files", "config", "task_type", "user_id",
)  # fmt: skip
_MULTISUBMIT = (
    "base_command", "workflow_task_order", "workflow_task_id", "task_name", "list_parameters", "history_unit_ids",
    "list_task_files", "task_type", "config", "user_id",
)  # fmt: skip
# Functions and classes that we call or override, with the arguments that they must have.
_CALLED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("fractal_server.runner.v2._slurm_sudo", "process_workflow", ("job_id", "resource", "profile")),
    ("fractal_server.runner.executors.slurm_sudo.runner", "SlurmSudoRunner.submit", _SUBMIT),
    ("fractal_server.runner.executors.slurm_sudo.runner", "SlurmSudoRunner.multisubmit", _MULTISUBMIT),
    (
        "fractal_server.runner.executors.slurm_sudo.runner",
        "SlurmSudoRunner.__init__",
        ("root_dir_local", "root_dir_remote", "common_script_lines", "resource", "profile", "user_cache_dir",
         "slurm_account"),
    ),
    (_RUNNER, "BaseSlurmRunner.check_fractal_server_versions", ()),
    (_RUNNER, "BaseSlurmRunner._mkdir_remote_folder", ("folder",)),
    (_RUNNER, "BaseSlurmRunner._mkdir_local_folder", ("folder",)),
    (_RUNNER, "BaseSlurmRunner._enrich_slurm_config", ("slurm_config",)),
    (_RUNNER, "BaseSlurmRunner.is_shutdown", ()),
    (_RUNNER, "BaseSlurmRunner.validate_submit_parameters", ("parameters", "task_type")),
    (
        _RUNNER,
        "BaseSlurmRunner.validate_multisubmit_parameters",
        ("task_type", "list_parameters", "list_task_files", "history_unit_ids"),
    ),
    (_RUNNER, "create_accounting_record_slurm", ("user_id", "slurm_job_ids")),
    ("fractal_server.app.db", "get_sync_db", ()),
    ("fractal_server.string_tools", "validate_cmd", ("command",)),
    ("fractal_server.zip_tools", "_zip_folder_to_file_and_remove", ("folder",)),
)  # fmt: skip
# The arguments of accounting records that we know. We would have no value for any other one.
_ACCOUNTING = {"user_id", "slurm_job_ids", "fractal_job_id", "resource_id"}
# Models, with the attributes that we read or set.
_FIELDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("fractal_server.app.models.v2", "HistoryUnit", ("id", "status", "history_run_id", "logfile")),
    ("fractal_server.app.models.v2", "HistoryRun", ("id", "status", "job_id", "workflowtask_dump")),
    (
        "fractal_server.app.models.v2",
        "JobV2",
        ("id", "status", "log", "start_timestamp", "end_timestamp", "working_dir", "project_id"),
    ),
    ("fractal_server.app.models.v2", "ProjectV2", ("id", "resource_id")),
    ("fractal_server.app.models.v2", "Resource", ("id", "type", "jobs_local_dir")),
)
_CONFIG = (
    "partition", "cpus_per_task", "mem_per_task_MB", "job_name", "prefix", "shebang_line", "use_mem_per_cpu",
    "constraint", "gres", "gpus", "time", "account", "nodelist", "exclude", "extra_lines", "user_local_exports",
    "tasks_per_job", "parallel_tasks_per_job", "target_cpus_per_job", "max_cpus_per_job", "target_mem_per_job",
    "max_mem_per_job", "target_num_jobs", "max_num_jobs",
)  # fmt: skip
# Further fields that only newer versions have.
_NEWER = ("nodes", "needs_gpu", "pre_submission_commands")
_FILES = ("wftask_subfolder_local", "wftask_subfolder_remote", "log_file_local", "metadiff_file_local",
          "args_file_local", "prefix_component")  # fmt: skip


def version() -> str | None:
    """Return the version of fractal-server in this Python, or None if it is not installed."""
    try:
        return importlib.metadata.version("fractal-server")
    except importlib.metadata.PackageNotFoundError:
        return None


def version_faults() -> list[str]:
    """Return sentences that say why the version of fractal-server is not supported. This imports nothing of it."""
    found = version()
    allowed = f"{_words(SUPPORTED[0])} to {SUPPORTED[1][0]}.{SUPPORTED[1][1] - 1} are supported"
    if found is None:
        return [f"fractal-server is not installed in this Python: install it, or use the Python that has it; {allowed}"]
    match = re.match(r"([0-9]+)\.([0-9]+)(?![0-9])", found)
    if match is None or not SUPPORTED[0] <= (int(match[1]), int(match[2])) < SUPPORTED[1]:
        return [f"fractal-server {found} is not known to this version of fractal-slurm: {allowed}"]
    return []


def faults() -> list[str]:
    """Return sentences that say why this fractal-server can't run its jobs on the engine. Empty if it can."""
    found = version_faults()
    return found or shape_faults()


def shape_faults() -> list[str]:
    """Return sentences on each difference between fractal-server's code and what the adapter knows.

    This imports modules of fractal-server. It makes no connection.
    """
    found: list[str] = []
    for module, name, arguments in _CALLED:
        thing = _find(module, name, found)
        if thing is not None:
            missing = [argument for argument in arguments if not _takes(thing, argument)]
            found += [f"{module}.{name} of fractal-server takes no argument {argument!r}" for argument in missing]
    accounting = _find(_RUNNER, "create_accounting_record_slurm", [])
    if accounting is not None:
        unknown = set(inspect.signature(accounting).parameters) - _ACCOUNTING
        found += [f"accounting records of fractal-server have {name!r}: what to put there is not known"
                  for name in sorted(unknown)]  # fmt: skip
    for module, name, fields in _FIELDS:
        model = _find(module, name, found)
        if model is not None:
            found += [f"{name} of fractal-server has no {field!r}" for field in fields if not hasattr(model, field)]
    config = _find("fractal_server.runner.executors.slurm_common.slurm_config", "SlurmConfig", found)
    if config is not None:
        names = set(config.model_fields)
        found += [f"SlurmConfig of fractal-server has no {name!r}" for name in _CONFIG if name not in names]
        found += [f"SlurmConfig of fractal-server has {name!r}: what it means for a job is not known"
                  for name in sorted(names - {*_CONFIG, *_NEWER})]  # fmt: skip
    files = _find("fractal_server.runner.task_files", "TaskFiles", found)
    if files is not None:
        found += [f"TaskFiles of fractal-server has no {name!r}" for name in _FILES if not hasattr(files, name)]
    sudo = _find("fractal_server.runner.v2._slurm_sudo", "SlurmSudoRunner", found)
    if sudo is not None and not inspect.isclass(sudo):
        found.append("SlurmSudoRunner of fractal-server is no class")
    return found


def _find(module: str, name: str, found: list[str]) -> Any:
    try:
        thing: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # for instance, its settings are wrong: show its own message
        words = " ".join(str(error).split())
        sentence = f"fractal-server can't be imported: {type(error).__name__}: {words}"
        if sentence not in found:
            found.append(sentence)
        return None
    for part in name.split("."):
        thing = getattr(thing, part, None)
    if thing is None:
        found.append(f"fractal-server has no {module}.{name}")
    return thing


def _takes(thing: Any, argument: str) -> bool:
    parameters = inspect.signature(thing).parameters
    return argument in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _words(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
