# SPDX-License-Identifier: BSD-3-Clause
"""Read the job scripts of fractal-server, and the input files of their tasks.

These are pure functions: they get text and return values. If a script has an unknown form, they raise
:class:`Unknown`, and the script runs unchanged.
"""

from __future__ import annotations

from .protocol import HOOK, asks_for_gpus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# The first and the last version of fractal-server whose scripts and input files are known.
FIRST_VERSION, LAST_VERSION = (2, 18), (2, 26)
MODULE = "fractal_server.runner.executors.slurm_common.remote"
SHELLS = ("#!/bin/sh", "#!/bin/bash", "#!/usr/bin/sh", "#!/usr/bin/bash", "#!/usr/bin/env bash", "#!/usr/bin/env sh")
# Characters with a special meaning for a shell, in a word without quotes.
SPECIAL = frozenset("\"'`$\\|&;<>()*?[]{}!#~")
# Characters that fractal-server itself refuses in a task's command.
REFUSED = frozenset("`#$&*()\\|[]{};<>?!")
# The hook waits for a line that begins so. It is the last output before the tasks.
START = "Start time: "
# The lines before the tasks, and the line after them.
BEFORE = (
    "",
    'echo "Hostname: $(uname -n)"',
    'echo "Current directory: $(pwd)"',
    f'echo "{START}$(date +"%Y-%m-%dT%H:%M:%S%z")"',
    "",
    "",
)
LAST = 'echo "End time:   $(date +"%Y-%m-%dT%H:%M:%S%z")"'
KEYS = {"python_version", "fractal_server_version", "full_command", "metadiff_file_remote", "log_file_remote"}
CACHE_KEY = "user_cache_dir"


class Unknown(Exception):
    """A script or an input file has an unknown form. The message says what is unknown."""


class Script:
    """A job script.

    Attributes:
        tasks: The lines that run the tasks.
        first: The number of the first of these lines. The first line of a script has number 1.
        after: The number of the line after ``wait``, which waits for the tasks.
        time_s: The job's time limit in seconds. 0 if the script has none.
        has_gpus: Whether the script asks for GPUs. SLURM may give some to a job that did not ask (--exclusive).
    """

    def __init__(self, tasks: list[bytes], first: int, after: int, time_s: float, has_gpus: bool) -> None:
        self.tasks, self.first, self.after, self.time_s, self.has_gpus = tasks, first, after, time_s, has_gpus


def read_script(data: bytes) -> Script:
    """Read a job script.

    Raises:
        Unknown: The script has an unknown form.
    """
    try:
        lines = data.decode("utf-8").split("\n")
    except ValueError:
        raise Unknown("it is not in UTF-8") from None
    if " ".join(lines[0].split()) not in SHELLS:
        raise Unknown(f"it begins with {lines[0][:80]!r}")
    first = next((number for number, line in enumerate(lines) if line.startswith("srun ") and MODULE in line), 0)
    end = first
    while end < len(lines) and lines[end].startswith("srun "):
        end += 1
    if not first:
        raise Unknown("it has no task")
    head, tasks = lines[:first], lines[first:end]
    if tuple(head[-len(BEFORE) :]) != BEFORE:
        raise Unknown("what stands before its tasks is not known")
    if [line for line in lines[end:] if line] != ["wait", LAST]:
        raise Unknown("what stands after its tasks is not known")
    hooks = [line for line in head if HOOK in line]
    if len(hooks) != 1 or hooks[0].split()[-2:-1] != ["."]:
        raise Unknown("it does not read this hook once, by a line of its own")
    for line in head[: -len(BEFORE)]:
        # The hook replaces the shell, so a trap would be lost. Only one line may print START: there the hook begins.
        words = "".join(" " if char in SPECIAL else char for char in line).split()
        if not line.startswith("#SBATCH") and ("trap" in words or START in line):
            raise Unknown(f"a line before its tasks has what the hook can't keep: {line[:80]!r}")
    shared = {tuple(read_task(line)[:-2]) for line in tasks}
    if len(shared) != 1:
        raise Unknown("its tasks differ in more than their files")
    after = lines.index("wait", end) + 2
    words = [word for line in head if line.startswith("#SBATCH") for word in line.split()[1:]]
    for name in (word.partition("=")[0] for word in words):
        # An srun hands such a signal on to its task. sbatch accepts the beginning of an option's name.
        if len(name) > 3 and "--signal".startswith(name):
            raise Unknown("it asks SLURM for a signal (--signal), which the hook can't hand on")
    return Script([line.encode() for line in tasks], first + 1, after, time_limit_s(head), asks_for_gpus(words))


def read_task(line: str) -> list[str]:
    """Read the line of a task. Return its memory, interpreter, input file and output file.

    Raises:
        Unknown: The line has an unknown form.
    """
    words = line.split(" ")
    if len(words) != 12:
        raise Unknown("a task has more or fewer words than is known")
    srun, ntasks, cpus, memory, python, option, module, input_word, input_file, output_word, output_file, last = words
    cpus_expected = "--cpus-per-task=$SLURM_CPUS_PER_TASK"
    if (srun, ntasks, cpus, last) != ("srun", "--ntasks=1", cpus_expected, "&") or (
        (option, module, input_word, output_word) != ("-m", MODULE, "--input-file", "--output-file")
    ):
        raise Unknown("a task's line has other words than is known")
    name, _equals, amount = memory.partition("=")
    if name not in ("--mem", "--mem-per-cpu") or not amount.endswith("MB") or not amount[:-2].isdigit():
        raise Unknown(f"a task asks for memory by {memory[:40]!r}")
    for path in (python, input_file, output_file):
        if not path.startswith("/") or SPECIAL & set(path) or not path.isprintable():
            raise Unknown(f"a path in a task's line is not plain: {path[:80]!r}")
    return [memory, python, input_file, output_file]


def plain_words(line: str) -> list[str]:
    """Return the command line of a task as fractal-server writes it, without srun."""
    return line.split(" ")[4:-1]


def read_input(document: Any) -> dict[str, Any]:
    """Accept the content of a task's input file.

    Raises:
        Unknown: The content has unknown keys, or is from an unknown version.
    """
    if not isinstance(document, dict) or set(document) - {CACHE_KEY} != KEYS:
        raise Unknown("a task's input file has other keys than is known")
    texts = [document[key] for key in document if key != "python_version"]
    if not all(isinstance(text, str) and text.isprintable() and text for text in texts):
        raise Unknown("a task's input file has a value that is no plain text")
    version = document["fractal_server_version"]
    numbers = version.split(".")[:2]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        _not_known(version)
    if not FIRST_VERSION <= tuple(map(int, numbers)) <= LAST_VERSION:
        _not_known(version)
    return document


def _not_known(version: str) -> NoReturn:
    first, last = (".".join(map(str, numbers)) for numbers in (FIRST_VERSION, LAST_VERSION))
    raise Unknown(f"fractal-server {version[:40]} is not known to it: {first} to {last} are")


def split_command(command: str) -> list[str]:
    """Split a task's command as fractal-server does.

    Raises:
        Unknown: The command has a character that fractal-server refuses, or a quote that is not closed.
    """
    if REFUSED & set(command):
        raise Unknown("the task's command has a character that fractal-server refuses")
    if '"' in command or "'" in command:
        import shlex

        try:
            words = shlex.split(command)
        except ValueError as error:
            raise Unknown(f"the task's command can't be split: {error}") from None
    else:
        words = command.split()
    if not words:
        raise Unknown("the task's command is empty")
    return words


def time_limit_s(head: list[str]) -> float:
    """Return the time limit of the #SBATCH lines, in seconds. 0 if there is none, or if it can't be read."""
    limit = 0.0
    for line in head:
        option, _equals, value = line.partition("=")
        if option in ("#SBATCH --time", "#SBATCH -t"):
            limit = _seconds(value.strip())
    return limit


def _seconds(text: str) -> float:
    """Read a time in one of sbatch's formats: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S. Return seconds."""
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(part.isascii() and part.isdigit() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        return 0.0
    numbers = [float(part) for part in parts]
    if dash:
        hours, minutes, seconds = [*numbers, 0.0, 0.0][:3]
        return ((float(days) * 24 + hours) * 60 + minutes) * 60 + seconds
    hours, minutes, seconds = {1: [0.0, *numbers, 0.0], 2: [0.0, *numbers], 3: numbers}[len(numbers)]
    return (hours * 60 + minutes) * 60 + seconds
