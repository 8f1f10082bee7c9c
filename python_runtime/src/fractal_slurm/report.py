# SPDX-License-Identifier: BSD-3-Clause
"""What people see of a run: tables, failures by kind, the log of a task. The same facts as with --json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .driver.journal import Journal, record_of
from .driver.logs import place_of
from .driver.model import ENDED, JobRow, JobState, RunState, TaskState
from .errors import RunError, count_of, one_line
from .sudo import Impersonator

if TYPE_CHECKING:
    from rich.console import OverflowMethod
    from rich.table import Table

# In these states, the word of SLURM says more than ours.
_KNOWN_TO_SLURM = (JobState.SUBMITTED, JobState.ENDED, JobState.COLLECTED)
# Why there is no log of a task in these states.
_NO_LOG = {
    TaskState.WAITING: "it has not run yet, or its log is not there yet",
    TaskState.NOT_RUN: "it did not run",
}
# Columns that are to be copied, or hold numbers.
_NEVER_FOLDED = ("run", "state", "tasks", "ok", "failed", "not run", "jobs", "job", "SLURM id", "nodes", "seconds")
# Columns that are cut where there is no room: what they name stands elsewhere, too.
_SHORTENED = ("user", "task")
# Of failures: kinds that are told apart, and tasks of each that are shown.
_MOST_KINDS, _MOST_SAMPLES = 50, 5
_STATE_WORDS = {
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
    TaskState.NOT_RUN: "did not run",
}
# Seconds: a start that is long enough to mention, and the start of a task in a fork.
_MUCH_STARTUP_S, _FORK_S = 0.3, 0.05


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to standard output."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    if title:
        console.print(plain(title), soft_wrap=True)
    console.print(table_of(columns, rows))


def table_of(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # As Text, which is shown to the letter: in a str rich finds markup and the names of little pictures.
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for number, name in enumerate(columns):
        short = name in _SHORTENED
        overflow: OverflowMethod = "ellipsis" if short else "fold"
        # rich would cut a column that is not folded: so it has to know how wide it is.
        whole = max((len(plain(row[number])) for row in rows if row[number] is not None), default=0)
        least = max(whole, len(name)) if name in _NEVER_FOLDED else None
        grid.add_column(Text(name), overflow=overflow, no_wrap=short, min_width=least)
    for row in rows:
        grid.add_row(*(Text("" if cell is None else plain(cell)) for cell in row))
    return grid


def plain(cell: object) -> str:
    """Return a text without characters that control a terminal; tasks may print anything."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in str(cell))


def indented(text: object, by: int = 4) -> str:
    """Indent all lines of a text but the first, so that no line of others passes for one of ours."""
    return plain(text).replace("\n", "\n" + " " * by)


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


def task_rows(journal: Journal, *states: TaskState) -> Iterator[dict[str, Any]]:
    """Each task in any of these states, or all, with its result: one at a time, since a result may be large."""
    by_token = {job.token: job for job in journal.jobs()}
    for task in journal.tasks(*states):
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


def json_text(value: object, *, indent: int | None = None) -> str:
    """JSON in which nothing is left that a terminal obeys.

    NaN and infinity, which Python writes and reads though they are no JSON, become null.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        value = json.loads(json.dumps(value), parse_constant=lambda _name: None)
        text = json.dumps(value, indent=indent, ensure_ascii=False)
    # Lone surrogates, which a task's out-JSON may hold, are written as JSON spells them, too.
    return re.sub("[^\n -~]", _spelled, text)


def _spelled(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]


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


def print_report(head: dict[str, Any], tasks: Iterable[dict[str, Any]], counts: dict[TaskState, int]) -> None:
    """The tables of one run.

    Args:
        head: See :func:`run_head`.
        tasks: Those that failed or did not run.
        counts: Number of tasks by state.
    """
    again = f", a retry of {head['retry_of']}" if head["retry_of"] else ""
    table(
        f"run {head['run_id']} of {head['user']}: {head['task_name']} ({head['state']}{again})",
        ("job", "SLURM id", "state", "tasks", "nodes", "seconds", "reason"),
        [
            (
                job["number"],
                job["slurm_job_id"],
                job["state"],
                job["tasks"],
                job["nodes"],
                f"{job['ended'] - job['began']:.1f}" if job["ended"] and job["began"] else "",
                job["reason"] if job["reason"] not in (None, "None") else "",
            )
            for job in head["jobs"]
        ],
    )
    if head["fork_off"]:
        print(plain(f"some tasks started in new processes: {head['fork_off']}"))
    elif head["forked"]:
        print(f"{count_of(head['forked'], 'task')} ran in forks of a Python that had done their imports")
    if head["advice"]:
        print(head["advice"])
    print(counts_words(counts, ended=head["state"] in ENDED))
    if head["without_out"]:
        print(without_out_words(head["without_out"]))
    kinds = failure_kinds(tasks)
    print_kinds(kinds)
    for sentence in next_steps(
        head["run_id"], head["state"], failed=counts[TaskState.FAILED], not_run=counts[TaskState.NOT_RUN]
    ):
        print(sentence)


def counts_words(counts: Mapping[TaskState, int], *, ended: bool) -> str:
    """Return in words how many tasks of a run have ended, and how."""
    total = sum(counts.values())
    parts = [f"{counts[state]} {words}" for state, words in _STATE_WORDS.items() if counts.get(state)]
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
        if len(kind["samples"]) < _MOST_SAMPLES:
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


def print_kinds(kinds: Sequence[Mapping[str, Any]], *, samples: int = _MOST_SAMPLES, lines: int = 5) -> None:
    """Failures by kind: how many, which tasks with which args, where, and the last lines of their logs."""
    for kind in kinds:
        hosts = sorted(kind["hosts"].items(), key=lambda item: -item[1])
        where = f", on {', '.join(f'{host} ({number})' for host, number in hosts[:4])}" if hosts else ""
        more = f" and {len(hosts) - 4} more nodes" if len(hosts) > 4 else ""
        print()
        print(plain(f"{count_of(kind['tasks'], 'task')}: {one_line(kind['samples'][0]['reason'] or '', 300)}"))
        print(plain(f"    {'task' if kind['tasks'] == 1 else 'tasks'} {ranges(kind['indices'])}{where}{more}"))
        for failure in kind["samples"][:samples]:
            print(plain(f"    task {failure['index']}: {args_words(failure.get('args'))}"))
            if one_line(failure["reason"] or "", 300) != one_line(kind["samples"][0]["reason"] or "", 300):
                print(plain(f"        {one_line(failure['reason'] or '', 300)}"))
            for line in (failure.get("log_tail") or "").strip().splitlines()[-lines:]:
                print(plain(f"        | {one_line(line, 300)}"))
        if kind["tasks"] > samples:
            print(f"    ... and {kind['tasks'] - samples} more of this kind")
    if kinds:
        print()


def print_summary(summary: dict[str, Any]) -> None:
    """What `run` and `resume` end with."""
    counts = {state: summary[state.value] for state in _STATE_WORDS}
    counts[TaskState.WAITING] = summary["tasks"] - sum(counts.values())
    print(plain(f"run {summary['run_id']} as {summary['user']}: {summary['state']}"))
    print(counts_words(counts, ended=True))
    calls = f"{count_of(summary['sudo_calls'], 'sudo call')}, {count_of(summary['squeue_calls'], 'squeue call')}"
    print(f"{count_of(summary['jobs'], 'job')}, {summary['wall_s']:.1f} s, {calls}")
    if summary["without_out"]:
        print(without_out_words(summary["without_out"]))
    print_kinds(failure_kinds(summary["failures"]), samples=2)
    for sentence in next_steps(
        summary["run_id"], summary["state"], failed=summary["failed"], not_run=summary["not_run"]
    ):
        print(sentence)


def task_log(journal: Journal, sudo: Impersonator, index: int) -> Iterator[bytes]:
    """The whole log of one task, in chunks: a user's record can name any length, of any file.

    Raises:
        RunError: There is no such task, or no log of it.
    """
    run = journal.record
    task = journal.task(index)
    if task is None:
        raise RunError([f"run {run.run_id} has no task {index}", *journal.damage])
    place = place_of(journal, task)
    if place is None or place.size is None:
        words = _NO_LOG.get(task.state, "")
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
