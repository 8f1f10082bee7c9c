# SPDX-License-Identifier: BSD-3-Clause
"""Commands that look at runs, and remove what is over."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from ..errors import RunError
from .common import (
    complete_files,
    complete_runs,
    guarded,
    json_option,
    print_json,
    say,
    task_index,
)
from .usage import only_one_of

# Seconds between two looks at all runs.
_PAUSE_S = 2.0


@click.command()
@click.option("--watch", is_flag=True, help="Show them again every few seconds, until Ctrl-C.")
@json_option
@guarded
def status(watch: bool, as_json: bool) -> None:
    """List the runs."""
    from ..driver.model import RunState
    from ..settings import load_settings
    from .printing import table

    state_dir = load_settings().state_path()
    if watch and as_json:
        raise click.UsageError("--watch is for a terminal; for programs: attach RUN --json-lines")
    if watch:
        _watch(state_dir)
        return
    rows = _status(state_dir)
    if as_json:
        print_json(rows)
        return
    table(*_cells(state_dir, rows))
    for sentence in _waits(rows):
        click.echo(sentence)
    if any(row["state"] == RunState.INTERRUPTED for row in rows):
        click.echo("interrupted runs go on with: fractal-slurm resume RUN")


def _watch(state_dir: Path) -> None:
    """The list of runs on a terminal, as long as somebody looks: the newest first, as many as there is room for."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from ..terminal import plain
    from .live import can_live
    from .printing import table_of

    if not can_live(sys.stdout):
        raise RunError("--watch is for a terminal")
    console = Console(highlight=False, markup=False, emoji=False)
    live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    known: dict[str, tuple[object, dict[str, Any]]] = {}
    with contextlib.suppress(KeyboardInterrupt), live:
        while True:
            rows = _status(state_dir, warn=False, known=known)
            title, columns, cells = _cells(state_dir, rows)
            room = max(1, console.height - 5)
            waits = [Text(sentence, overflow="ellipsis", no_wrap=True) for sentence in _waits(rows)[: room // 2]]
            room -= len(waits)
            view = Group(Text(plain(title)), table_of(columns, cells[-room:][::-1]), *waits)
            live.update(view, refresh=True)
            time.sleep(_PAUSE_S)


def _waits(rows: list[dict[str, Any]]) -> list[str]:
    """What the driven runs wait for, a sentence each."""
    from ..report import span, wait_words
    from ..terminal import plain

    return [
        plain(f"run {row['run_id']}: {wait_words(wait['words'])}, for {span(time.time() - wait['since'])}")
        for row in rows
        for wait in row.get("waits", ())
    ]


def _cells(state_dir: Path, rows: list[dict[str, Any]]) -> tuple[str, tuple[str, ...], list[tuple[Any, ...]]]:
    """Title, columns and rows of the list of runs."""
    columns = ("run", "state", "user", "ok", "failed", "not run", "jobs", "task")
    cells = [
        (
            row["run_id"],
            row["state"],
            row.get("user"),
            f"{row['succeeded']}/{row['tasks']}" if "tasks" in row else "",
            *(row.get(key) for key in ("failed", "not_run", "jobs", "task_name")),
        )
        for row in rows
    ]
    return f"runs in {state_dir}", columns, cells


def _status(
    state_dir: Path, *, warn: bool = True, known: dict[str, tuple[object, dict[str, Any]]] | None = None
) -> list[dict[str, Any]]:
    """What is known of each run.

    Args:
        state_dir: Folder of all journals.
        warn: Whether to say what can't be read.
        known: What this found out before, by run: journals that did not change are not read again.
    """
    from ..driver.journal import Journal, run_ids
    from ..driver.lock import is_driven, state_now
    from ..driver.model import RunState, TaskState
    from ..driver.notes import waits

    rows = []
    known = {} if known is None else known
    for run_id in run_ids(state_dir):
        row: dict[str, Any] = {"run_id": run_id, "state": RunState.DAMAGED}
        before, stamp = known.get(run_id), _stamp(state_dir / "runs" / run_id)
        try:
            driver = is_driven(state_dir, run_id)
            if before is not None and stamp is not None and before[0] == stamp:
                row = dict(before[1])
            else:
                with Journal.open(state_dir, run_id, drive=False) as journal:
                    counts, record = journal.counts(), journal.record
                    row |= {
                        "state": record.state,
                        "user": record.user or None,
                        "task_name": record.task_name or None,
                        "created": record.created or None,
                        "tasks": sum(counts.values()),
                        "succeeded": counts[TaskState.SUCCEEDED],
                        "failed": counts[TaskState.FAILED],
                        "not_run": counts[TaskState.NOT_RUN],
                        "jobs": sum(job.slurm_job_id is not None for job in journal.jobs()),
                        "waits": [wait._asdict() for wait in waits(journal)],
                        "driver": None,
                    }
                    if journal.damage:
                        row["state"] = RunState.DAMAGED
                        raise RunError(journal.damage)
                if stamp is not None:
                    known[run_id] = stamp, dict(row)
            row["state"] = state_now(row["state"], driver)
            if row["state"] != RunState.DRIVEN:
                row["waits"] = []
            row["driver"] = None if driver is None else {"host": driver.host, "pid": driver.pid}
        except RunError as error:
            for message in error.messages if warn else []:
                say(f"warning: {message}")
        rows.append(row)
    return rows


def _stamp(folder: Path) -> object:
    """Another value after each change of a run's journal; None while the clock of its files could hide a change."""
    stamps = []
    for name in ("journal.sqlite", "journal.sqlite-wal"):
        with contextlib.suppress(OSError):
            found = (folder / name).stat()
            if not found.st_size:
                continue  # who reads a journal may make an empty one
            if abs(time.time() - found.st_mtime) < _PAUSE_S:
                return None
            stamps.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return stamps


@click.command()
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.option("--log", "log_of", metavar="TASK", help="Print the whole log of one task.")
@click.option("--events", is_flag=True, help="Print what happened, in order.")
@click.option(
    "--html",
    "html_path",
    metavar="FILE",
    shell_complete=complete_files,
    help="Write a page that needs no network: timeline, use, failures.",
)
@json_option
@guarded
def report(run_id: str, log_of: str | None, events: bool, html_path: str | None, as_json: bool) -> None:
    """Show the jobs and failures of a run."""
    from ..driver.journal import Journal
    from ..driver.lock import is_driven, state_now
    from ..driver.model import TaskState
    from ..driver.prepare import connect
    from ..report import report_json, run_head, task_log, task_rows
    from ..settings import load_settings
    from ..terminal import indented, plain
    from .printing import print_report

    def warn(journal: Journal) -> None:
        for message in journal.damage:
            say(f"warning: {message}")

    only_one_of({"--log": log_of, "--events": events, "--html": html_path})
    only_one_of({"--log": log_of, "--json": as_json or None}, "fractal-slurm logs RUN TASK --json prints a log as JSON")
    settings = load_settings()
    with Journal.open(settings.state_path(), run_id, drive=False) as journal:
        if log_of is not None:
            for chunk in task_log(journal, connect(settings).sudo, task_index(journal, log_of)):
                if sys.stdout.isatty():
                    click.echo(plain(chunk.decode("utf-8", "replace")), nl=False)
                else:
                    sys.stdout.buffer.write(chunk)
            return
        if events:
            rows = journal.events()
            if as_json:
                print_json([row._asdict() for row in rows])
                warn(journal)
                return
            for at, what, subject, detail in rows:
                when = time.strftime("%H:%M:%S", time.localtime(at))
                click.echo(indented(f"{when}  {what}  {subject}  {detail}", by=10))
            warn(journal)
            return
        head = run_head(journal)
        head["state"] = state_now(head["state"], is_driven(settings.state_path(), run_id))
        if html_path is not None:
            from ..page import write_page

            write_page(journal, head["state"], html_path)
            if as_json:
                print_json({"run_id": run_id, "file": html_path})
            else:
                click.echo(f"{html_path}: written")
            warn(journal)
            return
        if as_json:
            for piece in report_json(head, task_rows(journal), journal.damage):
                click.echo(piece.encode(), nl=False)
        else:
            print_report(head, task_rows(journal, TaskState.FAILED, TaskState.NOT_RUN), journal.counts())
        warn(journal)


@click.command()
@click.option("--clean", is_flag=True, help="Remove the journals of old runs: prune.")
@click.option("--older-than", metavar="AGE", help="With --clean: of runs that ended so long ago.")
@click.option("--dry-run", is_flag=True, help="With --clean: only show which ones.")
@json_option
@click.pass_context
def runs(context: click.Context, clean: bool, older_than: str | None, dry_run: bool, as_json: bool) -> None:
    """Another name for status; with --clean for prune."""
    if not clean and (older_than is not None or dry_run):
        raise click.UsageError("--older-than and --dry-run need --clean: which runs to remove")
    if not clean:
        context.invoke(status, watch=False, as_json=as_json)
    elif older_than is None:
        raise click.UsageError("--clean needs --older-than, such as --older-than 30d")
    else:
        context.invoke(prune, older_than=older_than, dry_run=dry_run, as_json=as_json)


@click.command()
@click.option(
    "--older-than", required=True, metavar="AGE", help="Of runs that ended so long ago: 30d (days), or 12h (hours)."
)
@click.option("--dry-run", is_flag=True, help="Only show which ones.")
@json_option
@guarded
def prune(older_than: str, dry_run: bool, as_json: bool) -> None:
    """Remove the journals of runs that have ended: args, results and the ends of logs are in them."""
    from ..driver.journal import prune as prune_journals
    from ..settings import load_settings

    match = re.fullmatch(r"([0-9]{1,5})([dh])", older_than)
    if match is None:
        raise RunError(f"--older-than {older_than!r} is not allowed: give days or hours such as 30d or 12h")
    age_s = int(match[1]) * {"d": 86_400, "h": 3_600}[match[2]]
    removed, kept = prune_journals(load_settings().state_path(), time.time() - age_s, dry_run=dry_run)
    for sentence in kept:
        say(f"warning: {sentence}")
    if as_json:
        print_json({"removed": removed, "kept": kept, "dry_run": dry_run})
        return
    for run_id in removed:
        click.echo(f"{run_id}: {'would be removed' if dry_run else 'removed'}")
