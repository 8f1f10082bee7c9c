# SPDX-License-Identifier: BSD-3-Clause
"""All paths and names in a user's work folder. The names of files that a job makes are in the protocol of the node.

WORK_DIR/RUN/                 the run's folder, private to the user
  TOKEN.claim                 says which job may work on the tasks of a submission
  TOKEN.claim.stop/           says that the job must end
  TOKEN.slurm.out             the output of the job, without that of its tasks
  TOKEN/                      the job's folder
    results-RESTART-NODE      records
    log-RESTART-NODE          the output of the tasks
    running-RESTART-NODE      which task runs in which slot
    slot-RESTART-NODE-SLOT    the output of the task that runs in a slot
    task-INDEX-ATTEMPT.log    the output of one task, if each task has its own file
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..node.protocol import CLAIM, OUTPUT, RUNNING_BYTES, STOP, log_name, results_name, task_log_name

_RESULTS = re.compile(r"results-[0-9]{1,9}-[0-9]{1,9}", re.ASCII)
_RUNNING = re.compile(r"running-[0-9]{1,9}-[0-9]{1,9}", re.ASCII)
_RUNNING_LINE = re.compile(rb"(slot-[0-9]{1,9}-[0-9]{1,9}-[0-9]{1,9}) ([0-9]{1,18}) ([0-9]{1,18}) *", re.ASCII)

_RUNNING_HEAD = re.compile(rb"([0-9a-f]{16}) (running-[0-9]{1,9}-[0-9]{1,9}) ([0-9]{1,6}) [0-9a-f]{16} *\n", re.ASCII)


@dataclass(frozen=True)
class RunningFile:
    """A file that says which task runs in which slot, as it was at one moment.

    Attributes:
        head: Its first line, with a random word. The worker does not change it.
        token: The token of the job.
        name: The name of the file.
        size: Its bytes. They stay the same.
        slots: (index of a task, attempt) -> the name of the file with its output, if tasks share a log.
    """

    head: bytes
    token: str
    name: str
    size: int
    slots: dict[tuple[int, int], str]


def run_folder(work_dir: str, run_id: str) -> str:
    """Return the path of a run's folder. If it exists already, the driver makes one with a longer name beside it."""
    return f"{work_dir}/{run_id}"


def work_dir_of(folder: str) -> str:
    """Return the user's work folder, which is the parent of a run's folder."""
    return folder.rpartition("/")[0]


def claim_path(folder: str, token: str) -> str:
    """Return the path of a job's claim. The job makes it (a symlink), or the driver, so that the job does no work."""
    return f"{folder}/{token}{CLAIM}"


def stop_path(folder: str, token: str) -> str:
    """Return the path of the mark that the driver makes if a job must end."""
    return f"{folder}/{token}{STOP}"


def output_path(folder: str, token: str) -> str:
    """Return the path of the file for the output of a job, without that of its tasks."""
    return f"{folder}/{token}{OUTPUT}"


def token_of_output(name: str) -> str:
    """Return the token of the job whose output file has this name. Empty if it is not such a name."""
    return name[: -len(OUTPUT)] if name.endswith(OUTPUT) else ""


def job_folder(folder: str, token: str) -> str:
    """Return the folder in which the worker of a job keeps results and logs."""
    return f"{folder}/{token}"


def results_path(folder: str, token: str, *, restart: int = 0, node: int = 0) -> str:
    """Return the path of the file with the records of one start of a job on one node."""
    return f"{job_folder(folder, token)}/{results_name(restart, node)}"


def is_results_name(name: str) -> bool:
    """Return whether a name in a job's folder is that of a file with records."""
    return _RESULTS.fullmatch(name) is not None


def log_path(folder: str, token: str, *, restart: int, node: int) -> str:
    """Return the path of the file with the output of the tasks, of one start of a job on one node."""
    return f"{job_folder(folder, token)}/{log_name(restart, node)}"


def task_log_path(folder: str, token: str, *, index: int, attempt: int) -> str:
    """Return the path of the file with the output of one attempt of a task, if each task has its own file."""
    return f"{job_folder(folder, token)}/{task_log_name(index, attempt)}"


def is_running_name(name: str) -> bool:
    """Return whether a name in a job's folder is that of a file which says which task runs in which slot."""
    return _RUNNING.fullmatch(name) is not None


def slot_of(running: bytes, index: int, attempt: int) -> str | None:
    """Return the name of the file with the output of a task that runs; None if it does not.

    Args:
        running: The files of the job's running tasks, one after the other.
        index: The task.
        attempt: Its attempt.
    """
    return _slots_in(running).get((index, attempt))


def running_files(data: bytes) -> list[RunningFile]:
    """Return what is in files that say which task runs in which slot, where these follow one another.

    Args:
        data: The files. Workers of earlier versions wrote no head. Such a file is left out.
    """
    found, position = [], 0
    while head := _RUNNING_HEAD.search(data, position):
        size = RUNNING_BYTES * (1 + int(head[3]))
        position = head.end()
        if len(head[0]) == RUNNING_BYTES and head.start() + size <= len(data):
            slots = _slots_in(data[position : head.start() + size])
            found.append(RunningFile(head[0], head[1].decode(), head[2].decode(), size, slots))
            position = head.start() + size
    return found


def _slots_in(running: bytes) -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    for line in running.split(b"\n"):
        match = _RUNNING_LINE.fullmatch(line.lstrip(b"\0"))  # of slots that were not used yet
        if match is not None:
            found.setdefault((int(match[2]), int(match[3])), match[1].decode())
    return found
