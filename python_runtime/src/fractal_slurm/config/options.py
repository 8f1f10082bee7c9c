# SPDX-License-Identifier: BSD-3-Clause
"""The options of sbatch: which values they may have, and which of them ``extra_lines`` may set."""

from __future__ import annotations

import re
import shlex

from ..errors import FractalSlurmError, shown

# Lone surrogates are not characters: JSON can write them ("\ud800"), but UTF-8 can't.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# What the value of an #SBATCH option may have. sbatch splits such lines at blanks, interprets quotes and backslashes,
# and takes everything after a "#" as a comment.
_OPTION_VALUE = re.compile(r"[^\s\"'\\#\x00-\x1f\x7f-\x9f-][^\s\"'\\#\x00-\x1f\x7f-\x9f]*")

# Options that the engine sets and needs, so extra_lines can't set them: long name -> what to do instead, or why.
RESERVED_OPTIONS = {
    "job-name": "the engine names its jobs",
    "comment": "the engine marks its jobs with it",
    "array": "the engine makes the jobs",
    "output": "the engine keeps the logs",
    "error": "the engine keeps the logs",
    "open-mode": "the engine keeps the logs",
    "input": "the engine feeds the jobs",
    "chdir": "the engine chooses the folder",
    "clusters": "the engine watches one cluster",
    "export": "the engine chooses the environment; write an export line instead",
    "export-file": "the engine chooses the environment; write an export line instead",
    "get-user-env": "the engine chooses the environment",
    "propagate": "the engine chooses the limits",
    "wrap": "the engine writes the script",
    "wait": "the engine waits by itself",
    "parsable": "the engine reads the job's id",
    "test-only": "nothing would be submitted",
    "uid": "the engine submits as the user",
    "gid": "the engine submits as the user",
    "ntasks": "set batching_config, tasks_per_job and parallel_tasks_per_job instead",
    "tasks": "set batching_config, tasks_per_job and parallel_tasks_per_job instead",
    "cpus-per-task": 'set "cpus_per_task" instead',
    "mem": 'set "mem" instead',
    "mem-per-cpu": 'set "mem" and "use_mem_per_cpu" instead',
    "time": 'set "time" instead',
    "partition": 'set "partition" instead',
    "account": 'set "account" instead',
}
_SHORT_OPTIONS = {
    "J": "job-name",
    "a": "array",
    "o": "output",
    "e": "error",
    "i": "input",
    "D": "chdir",
    "M": "clusters",
    "W": "wait",
    "n": "ntasks",
    "c": "cpus-per-task",
    "t": "time",
    "p": "partition",
    "A": "account",
}
# Short options of sbatch without a value. Another option may follow them in the same word (-Hn4).
_SHORT_FLAGS = frozenset("hHIkOQRsuvV")
SBATCH_PREFIX = "#SBATCH"
# The beginning of the engine's own data in a script; see MAGIC in node/protocol.py.
_DATA_PREFIX = "#FRACTAL-SLURM-DATA"


def check_text(value: str, what: str) -> str:
    """Refuse control characters, such as line breaks. No string with a control character may get into a script.

    Raises:
        FractalSlurmError: ``value`` has a control character, or is no text.
    """
    if not isinstance(value, str):
        raise FractalSlurmError(f"{what} found {shown(value)}; a text is allowed")
    found = _CONTROL.search(value)
    if found:
        raise FractalSlurmError(f"{what} {value!r} has the control character {found[0]!r}: remove it")
    return value


def check_option_value(value: str, what: str) -> str:
    """Accept a string that can be written unchanged after ``--option=`` on an #SBATCH line.

    Raises:
        FractalSlurmError: The string is empty, begins with a dash, or has blanks, quotes, a backslash or a ``#``.
    """
    check_text(value, what)
    if not _OPTION_VALUE.fullmatch(value):
        raise FractalSlurmError(
            f"{what} {value!r} is not allowed: it must not be empty, not begin with a dash, "
            "and have no blanks, quotes, backslashes or #"
        )
    return value


def _reserved(word: str) -> str | None:
    """Return the long name of the reserved option that a word of an #SBATCH line sets, or None."""
    if word.startswith("--"):
        name = word[2:].partition("=")[0]
        if not name or name in RESERVED_OPTIONS:
            return name or None
        # sbatch uses getopt_long(3). It accepts each unambiguous beginning of a name (--ar for --array). An ambiguous
        # beginning does no harm: no other option of sbatch has the name that it spells.
        return next((full for full in RESERVED_OPTIONS if full.startswith(name)), None)
    if word.startswith("-"):
        for letter in word[1:]:
            if letter in _SHORT_OPTIONS:
                return _SHORT_OPTIONS[letter]
            if letter not in _SHORT_FLAGS:
                return None  # the rest is this option's value
    return None


def _directive_words(line: str) -> list[str]:
    """Return the words of an #SBATCH line, as sbatch reads them. Quotes keep blanks; a # outside quotes ends the line.

    Raises:
        FractalSlurmError: The line has a backslash (sbatch drops it, also in quotes), or a quote that is not closed.
    """
    rest = line[len(SBATCH_PREFIX) :]
    if "\\" in rest:
        raise FractalSlurmError(f"extra_lines {line!r} is not allowed: remove the backslash")
    lexer = shlex.shlex(rest, posix=True, punctuation_chars=False)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, "#"
    try:
        return list(lexer)
    except ValueError:
        raise FractalSlurmError(f"extra_lines {line!r} is not allowed: it has a quote that is not closed") from None


def check_extra_line(line: str) -> str:
    """Accept one of ``extra_lines``, if it changes nothing that the engine needs.

    Raises:
        FractalSlurmError: The line has a control character, has a directive of another name (sbatch also obeys
            ``#PBS`` and ``#BSUB``, on any line of a script, and ``#SLURM``), asks for a heterogeneous job, sets one of
            :data:`RESERVED_OPTIONS`, or is an #SBATCH line that sbatch can't read.
    """
    check_text(line.replace("\t", " "), "extra_lines")
    if re.match(r"\s*#(PBS|BSUB|SLURM)", line, re.IGNORECASE):
        raise FractalSlurmError(
            f"extra_lines {line!r} is not allowed: sbatch honours #PBS, #BSUB and #SLURM, too; use #SBATCH"
        )
    if line.startswith(_DATA_PREFIX):
        raise FractalSlurmError(f"extra_lines {line!r} is not allowed: the engine marks its own data so")
    # sbatch recognizes its lines by the first seven characters: in capitals, with no blank before them.
    if not line.startswith(SBATCH_PREFIX):
        return line
    if line[len(SBATCH_PREFIX) :].strip().lower().startswith(("hetjob", "packjob")):
        raise FractalSlurmError(f"extra_lines {line!r} is not allowed: heterogeneous jobs are not supported")
    words = _directive_words(line)
    if words and not words[0].startswith("-"):
        raise FractalSlurmError(f"extra_lines {line!r} is not allowed: {words[0]!r} is no option of sbatch")
    for word in words:
        name = _reserved(word)
        if name is not None:
            raise FractalSlurmError(f"extra_lines {line!r} is not allowed: --{name}: {RESERVED_OPTIONS[name]}")
    return line


def directive_words(line: str) -> list[str]:
    """Return the words of one of ``extra_lines`` if it is an #SBATCH line that :func:`check_extra_line` accepts."""
    return _directive_words(line) if line.startswith(SBATCH_PREFIX) else []


def directive_values(line: str, name: str, short: str = "") -> list[str]:
    """Return the values that one of ``extra_lines`` gives to an option of sbatch. Other lines give no values.

    Args:
        line: A line that :func:`check_extra_line` accepts.
        name: The option's long name, without dashes.
        short: The option's letter, if it has one.
    """
    words = directive_words(line)
    if not words:
        return []
    found = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in (f"--{name}", f"-{short}"):
            found.append(following)
        elif word.startswith(f"--{name}="):
            found.append(word.partition("=")[2])
        elif short and word.startswith(f"-{short}"):
            found.append(word[2:])
    return found


def extra_line_warning(line: str) -> str | None:
    """Return a warning for a line that looks like an #SBATCH line, but is only a comment for sbatch; else None."""
    if line.startswith(SBATCH_PREFIX) or not line.strip().upper().startswith(SBATCH_PREFIX):
        return None
    return f"{line!r} has no effect: sbatch honours {SBATCH_PREFIX} in capitals, at the start of a line"


def check_nodes(value: str) -> str:
    """Accept a number of nodes, or two numbers with a dash between them.

    Raises:
        FractalSlurmError: The text is neither.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,8}(-[1-9][0-9]{0,8})?", value):
        raise FractalSlurmError(f'nodes {shown(value)} is not allowed: give a number of nodes such as "1" or "1-2"')
    return value
