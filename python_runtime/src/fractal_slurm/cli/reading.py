# SPDX-License-Identifier: BSD-3-Clause
"""The command that reads what tasks printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..errors import RunError
from .common import guarded, json_option, say

if TYPE_CHECKING:
    from ..driver.journal import Journal
    from ..sudo import Impersonator

# Seconds between two looks at a journal.
_PAUSE_S = 1.0
# Of each of several logs the end is shown; of one task's, all.
_MOST_BYTES = 1_000_000


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("task", type=click.IntRange(min=0), required=False)
@click.option("--failed", is_flag=True, help="Only of tasks that failed.")
@click.option("--follow", is_flag=True, help="Go on until the run ends: the log of each task, as it ends.")
@json_option
@guarded
def logs(run_id: str, task: int | None, failed: bool, follow: bool, as_json: bool) -> None:
    """Print what tasks printed: one TASK's log as it is, or those of all that have ended, each under a line of ours."""
    from ..driver.journal import Journal
    from ..driver.prepare import connect
    from ..report import json_text, plain, task_log
    from ..settings import load_settings

    settings = load_settings()
    sudo = connect(settings).sudo
    state_dir = settings.state_path()
    with Journal.open(state_dir, run_id, drive=False) as journal:
        if task is not None and not as_json:
            if follow:
                for _row in _ends(journal, state_dir, {task}, failed=False, follow=True):
                    pass
            for chunk in task_log(journal, sudo, task):
                if sys.stdout.isatty():
                    click.echo(plain(chunk.decode("utf-8", "replace")), nl=False)
                else:
                    sys.stdout.buffer.write(chunk)
            return
        comma = "["
        for row in _ends(journal, state_dir, None if task is None else {task}, failed=failed, follow=follow):
            text, words = _log(journal, sudo, row)
            if as_json:
                keys = ("index", "state", "reason", "args", "host")
                document = {key: row[key] for key in keys} | {"log": text, "missing": words}
                click.echo(f"{comma}\n  {json_text(document)}".encode(), nl=False)
                comma = ","
            else:
                _show(row, text, words)
        if as_json:
            click.echo("\n]" if comma == "," else "[]")
        for message in journal.damage:
            say(f"warning: {message}")


def _ends(
    journal: Journal, state_dir: Any, wanted: set[int] | None, *, failed: bool, follow: bool
) -> Iterator[dict[str, Any]]:
    """Tasks that have ended, each once; with ``follow`` until the run has."""
    from ..driver.lock import is_driven
    from ..driver.model import ENDED, TaskState
    from ..report import task_rows

    states = (TaskState.FAILED,) if failed else (TaskState.SUCCEEDED, TaskState.FAILED)
    if wanted is not None and any(journal.task(index) is None for index in wanted):
        raise RunError([f"run {journal.record.run_id} has no task {min(wanted)}", *journal.damage])
    seen: set[int] = set()
    while True:
        over = journal.record.state in ENDED or is_driven(state_dir, journal.folder.name) is None
        if sum(journal.counts()[state] for state in states) > len(seen):
            for row in task_rows(journal, *states):
                if row["index"] not in seen and (wanted is None or row["index"] in wanted):
                    yield row
                seen.add(row["index"])
        if over or not follow or (wanted is not None and wanted <= seen):
            return
        time.sleep(_PAUSE_S)


def _log(journal: Journal, sudo: Impersonator, row: dict[str, Any]) -> tuple[str, str]:
    """The end of a task's log, and why there is none. A short one is in the journal as a whole."""
    from ..report import task_log

    try:
        tail = row["log_tail"] or ""
        if row["log_bytes"] is not None and len(tail.encode("utf-8", "replace")) >= row["log_bytes"]:
            return tail, ""
        kept = bytearray()
        for chunk in task_log(journal, sudo, row["index"]):
            kept += chunk
            del kept[:-_MOST_BYTES]
        return kept.decode("utf-8", "replace"), ""
    except RunError as error:
        return row["log_tail"] or "", str(error)


def _show(row: dict[str, Any], text: str, words: str) -> None:
    """One task's log, further in than the line over it, so that nothing in it passes for such a line."""
    from ..errors import one_line
    from ..report import args_words, plain

    state = row["state"] if not row["reason"] else f"{row['state']}: {one_line(row['reason'], 200)}"
    click.echo(plain(f"task {row['index']} ({args_words(row['args'])}) {state}"))
    lines: Iterable[str] = text.splitlines() or ([] if words else ["(it printed nothing)"])
    for line in lines:
        click.echo(f"    {plain(line)}")
    if words:
        say(f"warning: {words}")
