# SPDX-License-Identifier: BSD-3-Clause
"""The command that reads what tasks printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..errors import ClusterError, FractalSlurmError
from .common import (
    complete_runs,
    guarded,
    json_option,
    say,
    task_index,
)
from .usage import only_one_of

if TYPE_CHECKING:
    from ..driver.journal import Journal
    from ..sudo import Impersonator

# Seconds between two looks at a journal.
_PAUSE_S = 1.0
# Of each of several logs the end is shown; of one task's, all.
_MOST_BYTES = 1_000_000
# So many tasks, and so many bytes of their logs, are read together.
_MOST_AT_ONCE, _MOST_TOGETHER = 1000, 50_000_000
# Of a task that runs so many bytes are read in a second, taken over a longer time.
_BYTES_PER_S = 1_000_000


@click.command()
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.argument("task", metavar="[TASK]", required=False)
@click.option("--failed", is_flag=True, help="Only of tasks that failed.")
@click.option(
    "--follow",
    is_flag=True,
    help="Go on until the run ends: the log of each task, as it ends. Of one TASK: what it prints while it runs.",
)
@json_option
@guarded
def logs(run_id: str, task: str | None, failed: bool, follow: bool, as_json: bool) -> None:
    """Print what tasks printed: one TASK's log as it is, or those of all that have ended, each under a line of ours."""
    from ..driver.journal import Journal
    from ..driver.prepare import connect
    from ..report import task_log
    from ..settings import load_settings
    from ..terminal import json_text

    only_one_of({"TASK": task, "--failed": failed}, "name the task, or leave its number out")
    settings = load_settings()
    sudo = connect(settings).sudo
    state_dir = settings.state_path()
    with Journal.open(state_dir, run_id, drive=False) as journal:
        index = None if task is None else task_index(journal, task)
        if index is not None and not as_json:
            if follow:
                _read_along(journal, state_dir, sudo, index)
            else:
                _write(task_log(journal, sudo, index))
            return
        comma = "["
        ended = _ends(journal, state_dir, None if index is None else {index}, failed=failed, follow=follow)
        for row, text, words in _with_logs(journal, sudo, ended):
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
) -> Iterator[list[dict[str, Any]]]:
    """Tasks that have ended, each once, some at a time; with ``follow`` until the run has."""
    from ..driver.model import TaskState
    from ..report import task_rows
    from .following import Ends

    states = (TaskState.FAILED,) if failed else (TaskState.SUCCEEDED, TaskState.FAILED)
    ends = Ends(journal, states)
    seen: set[int] = set()
    while True:
        over = _is_over(journal, state_dir)
        new = [index for index in ends.new() if index not in seen and (wanted is None or index in wanted)]
        seen.update(new)
        for first in range(0, len(new), _MOST_AT_ONCE):
            yield list(task_rows(journal, indices=new[first : first + _MOST_AT_ONCE]))
        if over or not follow or (wanted is not None and wanted <= seen):
            return
        time.sleep(_PAUSE_S)


def _is_over(journal: Journal, state_dir: Any) -> bool:
    from ..driver.lock import is_driven
    from ..driver.model import ENDED

    return journal.record.state in ENDED or is_driven(state_dir, journal.folder.name) is None


def _with_logs(
    journal: Journal, sudo: Impersonator, ended: Iterable[list[dict[str, Any]]]
) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Each task with the end of its log, and why there is none. Many logs that are in one file are read at once."""
    from ..driver.logs import read_logs

    for rows in ended:
        for some in _batches(rows):
            try:
                found = read_logs(journal, sudo, [row["index"] for row in some], most_bytes=_MOST_BYTES)
            except ClusterError:
                found = {}  # one file that can't be read: what is wrong with it is said for each of its tasks
            for row in some:
                if row["index"] in found:
                    yield row, found[row["index"]].decode("utf-8", "replace"), ""
                else:
                    yield row, *_log(journal, sudo, row)


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Rows in groups, whose logs fit into memory."""
    some: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        more = min(row["log_bytes"] or 0, _MOST_BYTES)
        if some and size + more > _MOST_TOGETHER:
            yield some
            some, size = [], 0
        some.append(row)
        size += more
    if some:
        yield some


def _log(journal: Journal, sudo: Impersonator, row: dict[str, Any]) -> tuple[str, str]:
    """The end of a task's log, and why there is none."""
    from ..report import task_log

    try:
        kept = bytearray()
        for chunk in task_log(journal, sudo, row["index"]):
            kept += chunk
            del kept[:-_MOST_BYTES]
        return kept.decode("utf-8", "replace"), ""
    except FractalSlurmError as error:
        return row["log_tail"] or "", str(error)


def _read_along(journal: Journal, state_dir: Any, sudo: Impersonator, index: int) -> None:
    """What a task prints while it runs, and the rest when it ended."""
    from ..driver.journal import record_of
    from ..driver.logs import MOST_LOG_BYTES, RunningLog
    from ..driver.model import FINAL
    from ..report import task_log

    running = RunningLog(journal, sudo, index)
    told = shown = 0
    while True:
        task = journal.task(index)
        if task is None or task.state in FINAL or _is_over(journal, state_dir):
            break
        new = running.new()
        if running.shown - len(new) < shown:
            say(f"task {index} begins again")
        _write([new])
        shown = running.shown
        if running.full and not told:
            told = 1
            say(f"task {index} printed over {MOST_LOG_BYTES // 1_000_000} MB; the rest comes when it has ended")
        # Each look reads the log from its beginning: a long one is looked at less often.
        time.sleep(max(_PAUSE_S, shown / _BYTES_PER_S))
    attempt = record_of(task.record).get("attempt") if task else None
    _write(_without(task_log(journal, sudo, index), running.shown_of(attempt)))


def _without(chunks: Iterable[bytes], first: int) -> Iterator[bytes]:
    """Chunks without their first bytes."""
    for chunk in chunks:
        yield chunk[first:]
        first = max(0, first - len(chunk))


def _write(chunks: Iterable[bytes]) -> None:
    """A log as it is; on a terminal without what a terminal obeys."""
    from ..terminal import plain

    for chunk in chunks:
        if sys.stdout.isatty():
            click.echo(plain(chunk.decode("utf-8", "replace")), nl=False)
        else:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


def _show(row: dict[str, Any], text: str, words: str) -> None:
    """One task's log, further in than the line over it, so that nothing in it passes for such a line."""
    from ..errors import one_line
    from ..report import args_words
    from ..terminal import plain

    state = row["state"] if not row["reason"] else f"{row['state']}: {one_line(row['reason'], 200)}"
    click.echo(plain(f"task {row['index']} ({args_words(row['args'])}) {state}"))
    lines: Iterable[str] = text.splitlines() or ([] if words else ["(it printed nothing)"])
    for line in lines:
        click.echo(f"    {plain(line)}")
    if words:
        say(f"warning: {words}")
