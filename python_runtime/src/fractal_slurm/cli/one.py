# SPDX-License-Identifier: BSD-3-Clause
"""Drive one run in this process, or start a driver for it that goes on alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import click

from ..errors import ClusterError, FractalSlurmError, RunError
from .common import EXIT_INTERRUPTED, EXIT_TASKS_FAILED, print_json
from .usage import only_one_of

if TYPE_CHECKING:
    from ..cluster.commands import Slurm
    from ..driver.journal import Journal
    from ..driver.runner import Runner
    from ..settings import Settings

# Time to think again, after Ctrl-C.
CANCEL_DELAY_S = 2
# So long a driver that was started on its own may take to its first act, in seconds.
_START_S = 20.0
_HINT = "Ctrl-C cancels; twice leaves the jobs running"


@dataclass(frozen=True)
class Shown:
    """What a command that drives a run shows of it."""

    as_json: bool = False
    quiet: bool = False
    json_lines: bool = False

    @classmethod
    def wanted(cls, *, as_json: bool, quiet: bool, json_lines: bool, detach: bool) -> Shown:
        """What the options say.

        Raises:
            click.UsageError: They contradict each other.
        """
        lines = {"--json-lines": json_lines}
        only_one_of({"--json": as_json, **lines}, "--json prints the summary alone, --json-lines as the last event")
        only_one_of({"--quiet": quiet, **lines}, "--quiet shows no events; --quiet --json prints the summary alone")
        only_one_of({"--detach": detach, **lines}, "--detach --json prints the id; then attach RUN --json-lines")
        return cls(as_json, quiet, json_lines)


def drive_or_detach(
    journal: Journal, settings: Settings, slurm: Slurm, shown: Shown, *, detach: bool, resumed: bool = False
) -> NoReturn:
    """Drive a run here, or start a driver for it and leave."""
    if not detach:
        drive(journal, settings, slurm, shown, resumed=resumed)
    run_id = journal.folder.name
    journal.close()
    pid = start_driver(settings, [run_id])
    if shown.as_json:
        print_json({"run_id": run_id, "pid": pid})
    elif not shown.quiet:
        click.echo(f"run {run_id} is driven by process {pid}, on its own; look at it: fractal-slurm attach {run_id}")
    sys.exit(0)


def drive(
    journal: Journal,
    settings: Settings,
    slurm: Slurm,
    shown: Shown,
    *,
    cancel: bool = False,
    resumed: bool = False,
) -> NoReturn:
    """Drive a run to its end.

    Args:
        journal: The run's journal, which this process may drive.
        settings: Our own settings.
        slurm: The cluster.
        shown: What is shown.
        cancel: Whether to cancel it at once.
        resumed: Whether its driver is gone.
    """
    from ..driver.runner import Detached, Runner
    from ..terminal import json_text
    from .printing import print_summary
    from .views import view_of

    view = view_of(journal, quiet=shown.quiet, json_lines=shown.json_lines, hint=_HINT)
    runner = Runner(journal, settings, slurm, say=view.say, show=view.show)
    if cancel:
        runner.interrupt()
    heed_signals(runner)
    journal.heeds_signals()
    record = journal.record
    view.say(f"run {record.run_id}: as {record.user}, tasks: {record.tasks}, jobs: {len(journal.jobs())}")
    with journal:
        if resumed and (tasks := runner.run.take_up_again()):
            view.say(f"what was refused is tried again: {tasks} tasks")
        try:
            runner.drive()
        except Detached:
            state = "the jobs were told to end" if runner.run.cancelled else "the jobs go on without a driver"
            view.say(f"{state}; later: fractal-slurm resume {runner.run.id}")
            sys.exit(EXIT_INTERRUPTED)
        except FractalSlurmError:
            runner.note_end()
            raise
        finally:
            view.close()
        summary = runner.summary()
        if shown.json_lines:
            click.echo(json_text({"event": "end", "at": round(time.time(), 3), **summary}).encode())
        elif shown.as_json:
            print_json(summary)
        elif not shown.quiet:
            print_summary(summary)
        if runner.run.cancelled:
            sys.exit(EXIT_INTERRUPTED)
        if runner.run.refusal:
            told = shown.as_json or shown.json_lines
            raise SystemExit(ClusterError.exit_code) if told else ClusterError(runner.run.refusal)
        sys.exit(EXIT_TASKS_FAILED if summary["failed"] or summary["not_run"] else 0)


def heed_signals(runner: Runner) -> None:
    """Ctrl-C once cancels cleanly; twice leaves the jobs running. SIGTERM is as good as once, and does not wait.

    SIGHUP says that the terminal is gone, which is no reason to leave a run alone.
    """

    # Handlers set flags only: whatever they printed could come in the midst of another print.
    def interrupt(_number: int, _frame: object) -> None:
        runner.interrupt(CANCEL_DELAY_S)

    def terminate(_number: int, _frame: object) -> None:
        if runner.run.cancel_at is None:
            runner.interrupt()

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # Not SIG_IGN, which our commands would inherit.
        signal.signal(signal.SIGHUP, lambda _number, _frame: None)


def start_driver(settings: Settings, ids: Sequence[str], *, all_runs: bool = False) -> int:
    """Start a driver in a session of its own, so that neither a terminal nor its shell takes it along.

    Args:
        settings: Our own settings.
        ids: The runs that it is to drive.
        all_runs: Whether they are all that have not ended.

    Returns:
        Its pid, once it holds the lock of one of the runs, or one has come to its end already.

    Raises:
        RunError: It ended without.
    """
    from ..driver.journal import Journal
    from ..driver.lock import is_driven
    from ..driver.model import ENDED

    run_id = ids[0]
    log = settings.state_path() / "runs" / run_id / "driver.log"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # -I: neither the folder that it starts in nor PYTHONPATH has a part in what is imported.
        which = ["--all"] if all_runs else list(ids)
        argv = [sys.executable, "-I", "-m", "fractal_slurm.cli", "resume", *which]
        driver = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, cwd="/", start_new_session=True, close_fds=True
        )
    finally:
        os.close(fd)
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        found = [is_driven(settings.state_path(), each) for each in ids]
        if any(one and one.pid == driver.pid and (one.heeds or one.looks) for one in found):
            return driver.pid
        if driver.poll() is not None:
            break
        time.sleep(0.05)
    for each in ids:
        with contextlib.suppress(RunError), Journal.open(settings.state_path(), each, drive=False) as journal:
            if journal.record.state in ENDED:
                return driver.pid
    raise RunError(f"the driver of run {run_id} did not start; see what it said in {log}")
