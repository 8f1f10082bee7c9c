# SPDX-License-Identifier: BSD-3-Clause
"""The protocol between a job and the driver: the data in the script, names of files, records, exit codes.

Code outside of this folder imports only this module and :mod:`.folders`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAGIC = b"#FRACTAL-SLURM-DATA 1"
# A claim is a symlink. Its target is this prefix and the job's id.
CLAIM_PREFIX = ".job-"
# File names in a run's folder: the token of a submission, followed by one of these.
CLAIM, STOP, OUTPUT = ".claim", ".claim.stop", ".slurm.out"
# A line of extra_lines that reads the hook's file ends so.
HOOK = "/fractal-job.sh"
# A worker without news writes a beat after so many seconds. If SLURM hides jobs, this is the only sign of life.
BEAT_S = 30.0
# The most levels of an out-JSON. Some versions of Python can't read deeper JSON, once it is inside of a record.
MAX_OUT_DEPTH = 500
# The most values of an out-JSON. More would need too much memory to read. We count commas, brackets and braces.
MAX_OUT_VALUES = 8_000_000
# The worker's own messages on the job's output begin so.
OWN_WORDS = "fractal-slurm worker: "
# The bytes of a line in the file that says which task runs in which slot. All of its lines have the same length.
RUNNING_BYTES = 80
# How a task ended. A task that was "cut" has no result and runs again.
SUCCEEDED, FAILED, TIMEOUT, MEMORY, CUT = "succeeded", "failed", "timeout", "memory", "cut"
NO_STEPS = "its steps can't be started"
# EX_CANTCREAT, EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG of sysexits.h: exit codes of the worker, or of the script
# before it, for errors that are not errors of the tasks.
NO_FILES_EXIT, NO_RESULTS_EXIT, NO_STEPS_EXIT, UNSAFE_EXIT, PRELOAD_EXIT = 73, 74, 75, 77, 78
EXITS = {
    NO_FILES_EXIT: "its files could not be made",
    NO_RESULTS_EXIT: "its results could not be written",
    NO_STEPS_EXIT: NO_STEPS,
    UNSAFE_EXIT: "its run folder is not, or not any more, a folder of the user's own and private",
    PRELOAD_EXIT: "sudo's noexec, intercept or log_subcmds came with it and lets it start no program",
}


def results_name(restart: int, node: int) -> str:
    """Return the name of the file with the records of one start of a job on one node. It is in the job's folder."""
    return f"results-{restart}-{node}"


def log_name(restart: int, node: int) -> str:
    """Return the name of the file with the output of all tasks, one after the other. It is in the job's folder."""
    return f"log-{restart}-{node}"


def task_log_name(index: int, attempt: int) -> str:
    """Return the name of the file with the output of one task, if each has its own. It is in the job's folder."""
    return f"task-{index}-{attempt}.log"


def running_name(restart: int, node: int) -> str:
    """Return the name of the file that says which task runs in which slot. It is in the job's folder."""
    return f"running-{restart}-{node}"


def running_head(token: str, name: str, slots: int, mark: str) -> bytes:
    """Return the first line of such a file. It tells the file from any output, because ``mark`` is random."""
    return f"{token} {name} {slots} {mark}".ljust(RUNNING_BYTES - 1).encode() + b"\n"


def slot_log_name(restart: int, node: int, slot: int) -> str:
    """Return the name of the file with the output of the task that runs in a slot. It is in the job's folder."""
    return f"slot-{restart}-{node}-{slot}"


def running_line(slot_log: str, index: int, attempt: int) -> bytes:
    """Return the line of a slot in the file of running tasks."""
    return f"{slot_log} {index} {attempt}".ljust(RUNNING_BYTES - 1).encode() + b"\n"


def read_work(data: bytes) -> tuple[dict[str, str], list[str], list[bytes]]:
    """Split a script into the header of its data part and its task lines.

    Args:
        data: The whole script, in bytes.

    Returns:
        The header by name, the words of the command, and the task lines. A task line has index, attempt and args-JSON,
        with tabs between them.

    Raises:
        ValueError: The script has another number of tasks than its header says, or no data part.
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


def asks_for_gpus(words: list[str]) -> bool:
    """Return whether the words of #SBATCH lines ask for GPUs, as ``--gres=gpu:1``, ``--gpus=2`` and ``-G 1`` do.

    SLURM may also give GPUs to a job that did not ask, by --exclusive. Then its steps get none, and wait for none.
    """
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.startswith(("-G", "--gpu", "--ntasks-per-gpu")):
            return True
        if name.startswith(("--gre", "--tres")) and "gpu" in (value if equals else "".join(words[number + 1 :][:1])):
            return True
    return False


def has_too_many_values(data: bytes) -> bool:
    """Return whether JSON may have more than MAX_OUT_VALUES values. Commas and brackets in strings count, too."""
    return len(data) > MAX_OUT_VALUES and sum(map(data.count, (b",", b"[", b"{"))) > MAX_OUT_VALUES


def is_deep(value: object) -> bool:
    """Return whether lists and dicts are nested more than MAX_OUT_DEPTH levels deep."""
    level: list[Any] = [value]
    for _depth in range(MAX_OUT_DEPTH + 1):
        level = [item for item in level if isinstance(item, (dict, list))]
        if not level:
            return False
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return True
