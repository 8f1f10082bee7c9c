# SPDX-License-Identifier: BSD-3-Clause
"""Every path and name in a user's work folder, once. What the job itself makes is named in the protocol of the node.

WORK_DIR/RUN/                 the run's folder, private to the user
  TOKEN.claim                 who may work on the tasks of a submission
  TOKEN.claim.stop/           the job is to end
  TOKEN.slurm.out             what the job printed outside of its tasks
  TOKEN/                      the job's folder
    results-RESTART-NODE      records
    log-RESTART-NODE          what the tasks printed, or
    task-INDEX-ATTEMPT.log    the same, where each task has a file of its own
"""

from __future__ import annotations

import re

from ..node.protocol import CLAIM, OUTPUT, STOP, log_name, results_name, task_log_name

_RESULTS = re.compile(r"results-[0-9]{1,9}-[0-9]{1,9}", re.ASCII)


def run_folder(work_dir: str, run_id: str) -> str:
    """The folder of a run. Where it is taken already, the driver makes one of a longer name beside it."""
    return f"{work_dir}/{run_id}"


def work_dir_of(folder: str) -> str:
    """The user's work folder that a run's folder is in."""
    return folder.rpartition("/")[0]


def claim_path(folder: str, token: str) -> str:
    """Return the path of a job's claim: made by the job (a symlink), or by the driver to shut the job out."""
    return f"{folder}/{token}{CLAIM}"


def stop_path(folder: str, token: str) -> str:
    """Return the path of the mark that the driver makes if a job must end."""
    return f"{folder}/{token}{STOP}"


def output_path(folder: str, token: str) -> str:
    """Return the path of the file for what a job prints outside of its tasks."""
    return f"{folder}/{token}{OUTPUT}"


def token_of_output(name: str) -> str:
    """The token of the job whose output has this name in the run's folder; empty where it is no such name."""
    return name[: -len(OUTPUT)] if name.endswith(OUTPUT) else ""


def job_folder(folder: str, token: str) -> str:
    """Return the folder in which the worker of a job keeps results and logs."""
    return f"{folder}/{token}"


def results_path(folder: str, token: str, *, restart: int = 0, node: int = 0) -> str:
    """The records of one start of a job, on one of its nodes."""
    return f"{job_folder(folder, token)}/{results_name(restart, node)}"


def is_results_name(name: str) -> bool:
    """Whether a name in a job's folder is that of records."""
    return _RESULTS.fullmatch(name) is not None


def log_path(folder: str, token: str, *, restart: int, node: int) -> str:
    """What the tasks of one start of a job printed, on one of its nodes."""
    return f"{job_folder(folder, token)}/{log_name(restart, node)}"


def task_log_path(folder: str, token: str, *, index: int, attempt: int) -> str:
    """What one attempt of a task printed, where each has a file of its own."""
    return f"{job_folder(folder, token)}/{task_log_name(index, attempt)}"
