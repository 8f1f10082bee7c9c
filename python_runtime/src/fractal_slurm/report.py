# SPDX-License-Identifier: BSD-3-Clause
"""For looking at: progress as it goes, tables at the end, one task's log. The same facts as with --json."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from .errors import RunError
from .impersonate import Impersonator
from .journal import Job, Journal
from .script import job_folder

if TYPE_CHECKING:
    from .runner import Progress

_BAR = 24


class ProgressLine:
    """One line that says how far a run is: rewritten in place on a terminal, a new line now and then elsewhere."""

    def __init__(self, stream: TextIO = sys.stderr, *, every_s: float = 2.0) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._every_s = 0.0 if self._terminal else every_s
        self._last = ""
        self._last_at = 0.0
        self._open = False

    def show(self, progress: Progress) -> None:
        """Show it, if it is news."""
        line = self.text(progress)
        now = time.monotonic()
        ended = progress.succeeded + progress.failed + progress.not_run == progress.tasks
        if self._terminal:
            self._write(f"\r{line}\x1b[K")
            self._open = True
        elif line.rpartition("  ")[0] != self._last and (ended or now - self._last_at >= self._every_s):
            self._write(f"{line}\n")
            self._last, self._last_at = line.rpartition("  ")[0], now

    @staticmethod
    def text(progress: Progress) -> str:
        """The line, without its end."""
        done = progress.succeeded + progress.failed + progress.not_run
        filled = _BAR * done // progress.tasks if progress.tasks else _BAR
        parts = [f"{done}/{progress.tasks} tasks"]
        if progress.failed:
            parts.append(f"{progress.failed} failed")
        if progress.not_run:
            parts.append(f"{progress.not_run} not run")
        jobs = [
            f"{number} {what}"
            for number, what in (
                (progress.jobs_planned, "planned"),
                (progress.jobs_waiting, "waiting"),
                (progress.jobs_running, "running"),
                (progress.jobs_ended, "ended"),
            )
            if number
        ]
        gauge = "#" * filled + "." * (_BAR - filled)
        return f"[{gauge}] {', '.join(parts)}; jobs: {', '.join(jobs) or 'none'}  {progress.elapsed_s:.0f} s"

    def say(self, sentence: str) -> None:
        """A sentence on a line of its own."""
        self.close()
        self._write(f"{plain(sentence)}\n")

    def _write(self, text: str) -> None:
        # A terminal that is gone is no reason to leave a run alone.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()

    def close(self) -> None:
        """End the line, so that something else can follow."""
        if self._open:
            self._write("\n")
            self._open = False


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table to standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*("" if cell is None else plain(cell) for cell in row))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    console.print(grid)


def plain(cell: object) -> str:
    """Text that a terminal does not obey: what tasks print may hold anything."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in str(cell))


def run_report(journal: Journal) -> dict[str, Any]:
    """All that the journal knows of a run: its jobs, and each task with its result."""
    jobs = journal.jobs()
    by_token = {job.token: job for job in jobs}
    tasks = []
    for index, attempt, token, state, reason, record_text, args in journal.tasks():
        record = json.loads(record_text) if record_text else {}
        job = by_token.get(token or "")
        tasks.append(
            {
                "index": index,
                "state": state,
                "reason": reason,
                "attempt": attempt,
                "args": json.loads(args),
                "job": record.get("job") or (job.slurm_job_id if job else None),
                "exit_code": record.get("exit"),
                "signal": record.get("signal"),
                "host": record.get("host"),
                "start": record.get("start"),
                "duration_s": record.get("seconds"),
                "peak_mb": record.get("peak_mb"),
                "cpu_s": record.get("cpu_s"),
                "result": record.get("out"),
                "log_tail": record.get("tail"),
            }
        )
    return {
        "run_id": journal.get("run_id"),
        "state": journal.get("state"),
        "user": journal.get("user"),
        "task_name": journal.get("task_name"),
        "created": journal.get("created"),
        "run_folder": journal.get("run_folder"),
        "jobs": [job_row(job) for job in jobs],
        "tasks": tasks,
    }


def job_row(job: Job) -> dict[str, Any]:
    """One job, for a report."""
    return {
        "number": job.number,
        "slurm_job_id": job.slurm_job_id,
        "state": job.slurm_state if job.state in ("submitted", "ended", "collected") and job.slurm_state else job.state,
        "reason": job.reason,
        "tasks": job.tasks,
        "nodes": job.nodes,
        "submitted": job.submitted_at,
        "began": job.began_at,
        "ended": job.ended_at,
    }


def print_report(report: dict[str, Any]) -> None:
    """The tables of one run."""
    table(
        f"run {report['run_id']} of {report['user']}: {report['task_name']} ({report['state']})",
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
            for job in report["jobs"]
        ],
    )
    bad = [task for task in report["tasks"] if task["state"] != "succeeded"]
    if bad:
        table(
            f"{len(bad)} of {len(report['tasks'])} tasks have not succeeded",
            ("task", "state", "host", "reason", "end of its log"),
            [
                (task["index"], task["state"], task["host"], task["reason"], (task["log_tail"] or "").strip()[-300:])
                for task in bad[:50]
            ],
        )


def print_summary(summary: dict[str, Any]) -> None:
    """What `run` and `resume` end with."""
    table(
        "",
        ("run", "user", "tasks", "succeeded", "failed", "not run", "jobs", "seconds", "sudo calls", "squeue calls"),
        [
            (
                summary["run_id"],
                summary["user"],
                summary["tasks"],
                summary["succeeded"],
                summary["failed"],
                summary["not_run"],
                summary["jobs"],
                f"{summary['wall_s']:.1f}",
                summary["sudo_calls"],
                summary["squeue_calls"],
            )
        ],
    )
    failures = summary["failures"]
    for failure in failures[:10]:
        print(plain(f"task {failure['index']}: {failure['reason']}"))
        for line in (failure.get("log_tail") or "").strip().splitlines()[-5:]:
            print(plain(f"    {line}"))
    if len(failures) > 10:
        print(f"… and {len(failures) - 10} more: fractal-slurm report {summary['run_id']}")


def task_log(journal: Journal, sudo: Impersonator, index: int) -> Iterator[bytes]:
    """The whole log of one task, in chunks: a user's record can name any length, of any file.

    Raises:
        RunError: There is no such task, or no log of it.
    """
    row = journal.task_row(index)
    if row is None:
        raise RunError(f"run {journal.get('run_id')} has no task {index}")
    record = json.loads(row[5]) if row[5] else {}
    if not record.get("log"):
        return
    folder = job_folder(journal.get("run_folder"), record["token"])
    name = f"log-{record['restart']}-{record['node']}"
    if journal.get("job_settings")["task_logs"] == "separate":
        name = f"task-{index}-{record['attempt']}.log"
    offset, size = record["log"]
    for chunk in sudo.read_files(journal.get("user"), [f"{folder}/{name}"], timeout=600, max_bytes=offset + size):
        part = chunk[offset : offset + size]
        offset = max(0, offset - len(chunk))
        size -= len(part)
        yield part
