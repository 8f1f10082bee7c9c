# SPDX-License-Identifier: BSD-3-Clause
"""What a job and the driver tell each other: the script's data, the names of files, records, exit codes.

The driver and the job scripts import this module of the folder, and :mod:`.folders`; no other.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAGIC = b"#FRACTAL-SLURM-DATA 1"
# A claim is a symlink to this and the job's id.
CLAIM_PREFIX = ".job-"
# Names in a run's folder: the token of a submission, and then one of these.
CLAIM, STOP, OUTPUT = ".claim", ".claim.stop", ".slurm.out"
# The hook's file, as a line of extra_lines ends that reads it.
HOOK = "/fractal-job.sh"
# A worker with nothing to tell says so now and then: where SLURM hides jobs, it is the only sign of life.
BEAT_S = 30.0
# Deeper JSON can't be read again by every Python, inside of a record and of whatever reads that.
MAX_OUT_DEPTH = 500
# More values take too much memory of whoever reads them: each has a comma, a bracket or a brace of its own, mostly.
MAX_OUT_VALUES = 8_000_000
# What the worker says itself on the job's output begins so.
OWN_WORDS = "fractal-slurm worker: "
# How a task ended; "cut" is no end of its own, it runs again.
SUCCEEDED, FAILED, TIMEOUT, MEMORY, CUT = "succeeded", "failed", "timeout", "memory", "cut"
NO_STEPS = "its steps can't be started"
# EX_CANTCREAT, EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG of sysexits.h: how the worker, or the script before it,
# ends where not its tasks are to blame.
NO_FILES_EXIT, NO_RESULTS_EXIT, NO_STEPS_EXIT, UNSAFE_EXIT, PRELOAD_EXIT = 73, 74, 75, 77, 78
EXITS = {
    NO_FILES_EXIT: "its files could not be made",
    NO_RESULTS_EXIT: "its results could not be written",
    NO_STEPS_EXIT: NO_STEPS,
    UNSAFE_EXIT: "its run folder is not, or not any more, a folder of the user's own and private",
    PRELOAD_EXIT: "sudo's noexec, intercept or log_subcmds came with it and lets it start no program",
}


def results_name(restart: int, node: int) -> str:
    """The file in a job's folder that has the records of one start of a job, on one of its nodes."""
    return f"results-{restart}-{node}"


def log_name(restart: int, node: int) -> str:
    """The file in a job's folder that has what the tasks printed, one after the other."""
    return f"log-{restart}-{node}"


def task_log_name(index: int, attempt: int) -> str:
    """The file in a job's folder that has what one task printed, where each has its own."""
    return f"task-{index}-{attempt}.log"


def read_work(data: bytes) -> tuple[dict[str, str], list[str], list[bytes]]:
    """Split a script into the header of its data part and its task lines.

    Args:
        data: The whole script, bytes.

    Returns:
        The header by name, the command's words, and the task lines: index, attempt and args-JSON, split by tabs.
    """
    data = data[data.index(b"\n" + MAGIC) + 1 :]
    head, _blank, body = data.partition(b"\n\n")
    header: dict[str, str] = {}
    command: list[str] = []
    for line in head.decode("utf-8", "surrogateescape").split("\n")[1:]:
        key, _tab, value = line.partition("\t")
        if key == "command":
            command.append(value)
        else:
            header[key] = value
    if header["encoding"] == "zlib":
        import binascii
        import zlib

        body = zlib.decompress(binascii.a2b_base64(body))
    lines = body.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if len(lines) != int(header["tasks"]):
        raise ValueError(f"the script holds {len(lines)} tasks, not {header['tasks']}: it was cut or changed")
    return header, command, lines


def has_too_many_values(data: bytes) -> bool:
    """Whether JSON may hold more than MAX_OUT_VALUES values; those in texts count, too."""
    return len(data) > MAX_OUT_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > MAX_OUT_VALUES


def is_deep(value: object) -> bool:
    """Whether lists and dicts are nested more than MAX_OUT_DEPTH levels deep."""
    level: list[Any] = [value]
    for _depth in range(MAX_OUT_DEPTH + 1):
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return False
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return True
