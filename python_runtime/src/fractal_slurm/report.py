# SPDX-License-Identifier: BSD-3-Clause
"""What people see of a run: its facts, failures by kind, sentences, the log of a task. `cli/printing` shows them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .driver.journal import Journal, record_of
from .driver.logs import place_of
from .driver.model import ENDED, JobRow, JobState, RunState, TaskState
from .errors import RunError, count_of, one_line
from .sudo import Impersonator
from .terminal import json_text

# In these states, the word of SLURM says more than ours.
_KNOWN_TO_SLURM = (JobState.SUBMITTED, JobState.ENDED, JobState.COLLECTED)
# Why there is no log of a task in these states.
_NO_LOG = {
    TaskState.WAITING: "it has not run yet, or its log is not there yet",
    TaskState.NOT_RUN: "it did not run",
}
# Of failures: kinds that are told apart, and tasks of each that are shown.
_MOST_KINDS, MOST_SAMPLES = 50, 5
STATE_WORDS = {
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
    TaskState.NOT_RUN: "did not run",
}
# Seconds: a start that is long enough to mention, and the start of a task in a fork.
_MUCH_STARTUP_S, _FORK_S = 0.3, 0.05


def span(seconds: float) -> str:
    """A length of time for people: ``42 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def wait_words(words: str) -> str:
    """What a driver waits for, as a sentence."""
    return f"waits {words}" if words.startswith("for ") else words


def run_head(journal: Journal) -> dict[str, Any]:
    """What the journal knows of a run, without its tasks."""
    record = journal.record
    return {
        "run_id": record.run_id or None,  # as all of these, None where it can't be read
        "state": record.state,
        "user": record.user or None,
        "task_name": record.task_name or None,
        "created": record.created or None,
        "run_folder": record.run_folder or None,
        "retry_of": record.retry_of,
        "without_out": journal.without_out(),
        "forked": record.forked,
        "fork_off": record.fork_off,
        "advice": startup_advice(record.startups),
        "jobs": [job_row(job) for job in journal.jobs()],
    }


def task_rows(journal: Journal, *states: TaskState, indices: Iterable[int] | None = None) -> Iterator[dict[str, Any]]:
    """Each task in any of these states, or all, with its result: one at a time, since a result may be large.

    Args:
        journal: The run's journal.
        states: The states.
        indices: Only these tasks, in whatever state.
    """
    by_token = {job.token: job for job in journal.jobs()}
    tasks = journal.tasks(*states) if indices is None else filter(None, map(journal.task, indices))
    for task in tasks:
        record = record_of(task.record)
        job = by_token.get(task.token or "")
        yield {
            "index": task.index,
            "state": task.state,
            "reason": task.reason,
            "attempt": task.attempt,
            "args": _json_of(task.args),
            "job": record.get("job") or (job.slurm_job_id if job else None),
            "exit_code": record.get("exit"),
            "signal": record.get("signal"),
            "host": record.get("host"),
            "start": record.get("start"),
            "duration_s": record.get("seconds"),
            "fork_failed": record.get("fork_failed"),
            "peak_mb": record.get("peak_mb"),
            "cpu_s": record.get("cpu_s"),
            "result": record.get("out"),
            "log_tail": record.get("tail"),
            "log_bytes": record["log"][1] if record.get("log") else None,
        }


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def report_json(head: dict[str, Any], tasks: Iterable[dict[str, Any]], damage: Sequence[str]) -> Iterator[str]:
    """One JSON document of a whole run, in pieces: a line a task, since results may be many, large and deep.

    Args:
        head: See :func:`run_head`.
        tasks: See :func:`task_rows`.
        damage: Sentences on what can't be read; looked at when the tasks have been.
    """
    yield json_text(head, indent=2).removesuffix("\n}") + ',\n  "tasks": ['
    comma = ""
    for task in tasks:
        yield f"{comma}\n    {json_text(task)}"
        comma = ","
    yield f'\n  ],\n  "damage": {json_text(list(damage))}\n}}\n'


def startup_advice(measured: Sequence[Sequence[float]]) -> str | None:
    """What it would bring to fork the tasks of a run, by what the workers measured on the first task of each job.

    Args:
        measured: For each of these tasks the seconds until it read its args, and those that it took in all.

    Returns:
        A sentence; None where nothing is known, or little would be gained.
    """
    if not measured:
        return None
    startup, seconds = sorted((startup, seconds) for startup, seconds in measured)[len(measured) // 2]
    if startup < _MUCH_STARTUP_S or not startup < seconds < 2 * startup:
        return None
    faster = seconds / (seconds - startup + _FORK_S)
    return (
        f"the start of Python and its imports took {startup:.1f} s of {seconds:.1f} s a task: with task_start = "
        f'"fork" this run would be about {faster:.1f} times as fast'
    )


def job_row(job: JobRow) -> dict[str, Any]:
    """One job, for a report."""
    return {
        "number": job.number,
        "slurm_job_id": job.slurm_job_id,
        "state": (job.state in _KNOWN_TO_SLURM and job.slurm_state) or job.state,
        "reason": job.reason,
        "tasks": job.tasks,
        "nodes": job.nodes,
        "submitted": job.submitted_at,
        "began": job.began_at,
        "ended": job.ended_at,
    }


def counts_words(counts: Mapping[TaskState, int], *, ended: bool) -> str:
    """Return in words how many tasks of a run have ended, and how."""
    total = sum(counts.values())
    parts = [f"{counts[state]} {words}" for state, words in STATE_WORDS.items() if counts.get(state)]
    left = counts.get(TaskState.WAITING, 0) + counts.get(TaskState.CUT, 0)
    if left:
        parts.append(f"{left} without an end" if ended else f"{left} still to end")
    return f"{count_of(total, 'task')}: {', '.join(parts) or 'none'}"


def without_out_words(number: int) -> str:
    """Return the sentence that tasks without an out-JSON count as successes."""
    which = "1 task that succeeded" if number == 1 else f"{number} of the tasks that succeeded"
    return f"{which} wrote no out-JSON: exit code 0 alone counts as success"


def next_steps(run_id: str, state: str | None, *, failed: int, not_run: int) -> list[str]:
    """Return what to type next, a line each; nothing if a run went well."""
    if state == RunState.INTERRUPTED:
        return [f"go on with it:            fractal-slurm resume {run_id}"]
    if state not in ENDED:
        return [f"look at it as it goes:    fractal-slurm attach {run_id}"]
    bad = failed + not_run
    if not bad:
        return []
    logs = [f"read the logs:            fractal-slurm logs {run_id} --failed"] if failed else []
    which = "that task" if bad == 1 else f"those {bad} tasks"
    return [*logs, f"run {which} again:".ljust(26) + f"fractal-slurm retry {run_id}"]


def args_words(args: object, most: int = 100) -> str:
    """The args of a task on one line, so that a person knows which task it is."""
    if isinstance(args, dict):
        words = ", ".join(
            f"{key}={value if isinstance(value, str) else json_text(value)}" for key, value in args.items()
        )
    else:
        words = json_text(args)
    return one_line(words, most)


def kind_of(failure: Mapping[str, Any]) -> str:
    """Return the kind of a failure: its reason without the parts that differ from task to task."""
    reason = str(failure.get("reason") or failure.get("state"))
    reason = reason.partition("; before, the script of its job printed")[0]
    if re.fullmatch(r"exit code [0-9]+", reason):
        return reason
    reason = re.sub(r"(?<![A-Za-z])/\S+", "PATH", reason)
    return one_line(re.sub(r"[0-9]+([.:][0-9]+)*", "N", reason), 300)


def failure_kinds(failures: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Failures grouped by their kind, the most frequent first.

    Args:
        failures: Rows with ``index``, ``state``, ``reason``, ``args``, ``host`` and ``log_tail``.

    Returns:
        For each kind its ``kind``, number of ``tasks``, their ``indices``, the number of each host's under ``hosts``,
        and the first failures as ``samples``.
    """
    kinds: dict[str, dict[str, Any]] = {}
    for failure in failures:
        name = kind_of(failure)
        # What others say may differ each time without end.
        if name not in kinds and len(kinds) >= _MOST_KINDS:
            name = "other reasons"
        kind = kinds.setdefault(name, {"kind": name, "tasks": 0, "indices": [], "hosts": {}, "samples": []})
        kind["tasks"] += 1
        kind["indices"].append(failure["index"])
        host = failure.get("host")
        if host:
            kind["hosts"][host] = kind["hosts"].get(host, 0) + 1
        if len(kind["samples"]) < MOST_SAMPLES:
            kind["samples"].append(failure)
    return sorted(kinds.values(), key=lambda kind: -kind["tasks"])


def ranges(indices: Sequence[int], most: int = 12) -> str:
    """Numbers in order, in short: ``0-3, 7, 9-12``."""
    parts: list[list[int]] = []
    for index in indices:
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    words = [f"{first}" if first == last else f"{first}-{last}" for first, last in parts[:most]]
    return ", ".join([*words, "..."] if len(parts) > most else words)


def no_such_task(journal: Journal, wanted: object) -> RunError:
    """What is said to somebody who asks for a task that a run does not have."""
    run = journal.record
    there_are = f"its tasks are 0 to {run.tasks - 1}" if run.tasks > 1 else "its only task is 0"
    return RunError([f"run {run.run_id} has no task {wanted}: {there_are}", *journal.damage])


def task_log(journal: Journal, sudo: Impersonator, index: int) -> Iterator[bytes]:
    """The whole log of one task, in chunks: a user's record can name any length, of any file.

    It is empty if the task printed nothing.

    Raises:
        RunError: There is no such task, or no log of it.
    """
    run = journal.record
    task = journal.task(index)
    if task is None:
        raise no_such_task(journal, index)
    place = place_of(journal, task)
    if place is None or place.size is None:
        record = record_of(task.record)
        fault = record.get("log_fault")
        if record and not record.get("log") and not fault:
            return  # its worker saw its end, and it printed nothing
        words = one_line(fault[:300]) if isinstance(fault, str) else _NO_LOG.get(task.state, "")
        raise RunError(f"there is no log of task {index} of run {run.run_id}{words and f': {words}'}")
    path, offset, size = place.path, place.offset, place.size
    came = not size
    for chunk in sudo.read_files(run.user, [path], timeout=600, max_bytes=offset + size):
        part = chunk[offset : offset + size]
        offset = max(0, offset - len(chunk))
        size -= len(part)
        came = came or bool(part)
        yield part
    if not came:
        raise RunError(f"the log of task {index} of run {run.run_id} is not there any more: {path} of {run.user}")
