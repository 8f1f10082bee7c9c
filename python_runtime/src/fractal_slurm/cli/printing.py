# SPDX-License-Identifier: BSD-3-Clause
"""What the commands print: tables, the report of a run, failures by kind, the summary of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..driver.model import ENDED, TaskState
from ..errors import count_of, one_line
from ..report import (
    MOST_SAMPLES,
    STATE_WORDS,
    args_words,
    counts_words,
    failure_kinds,
    next_steps,
    ranges,
    without_out_words,
)
from ..terminal import plain

if TYPE_CHECKING:
    from rich.console import OverflowMethod
    from rich.table import Table

# Columns that are to be copied, or hold numbers.
_NEVER_FOLDED = ("run", "state", "tasks", "ok", "failed", "not run", "jobs", "job", "SLURM id", "nodes", "seconds")
# Columns that are cut where there is no room: what they name stands elsewhere, too.
_SHORTENED = ("user", "task")


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


def print_report(head: dict[str, Any], tasks: Iterable[dict[str, Any]], counts: dict[TaskState, int]) -> None:
    """The tables of one run.

    Args:
        head: See :func:`fractal_slurm.report.run_head`.
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


def print_kinds(kinds: Sequence[Mapping[str, Any]], *, samples: int = MOST_SAMPLES, lines: int = 5) -> None:
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
    counts = {state: summary[state.value] for state in STATE_WORDS}
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
