# SPDX-License-Identifier: BSD-3-Clause
"""Drive many runs in one process: several specs, or all runs whose driver is gone."""

from __future__ import annotations

import contextlib
import queue
import resource
import signal
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..driver.context import take_up_again
from ..driver.engine import Engine, RunHandle
from ..driver.journal import Journal, discard, run_ids
from ..driver.lock import DrivenElsewhere, driven_elsewhere, is_asked_to_cancel, is_driven
from ..driver.model import ENDED, RunState
from ..driver.prepare import connect, draft_spec, facts_of
from ..driver.runner import summary_of
from ..errors import ClusterError, FractalSlurmError, RunError, count_of
from ..settings import Settings
from ..spec import load_spec
from ..terminal import json_text
from .common import EXIT_INTERRUPTED, EXIT_TASKS_FAILED, load_config, print_json, say
from .crowd import Crowd, crowd_of
from .one import CANCEL_DELAY_S, Shown, start_driver
from .printing import print_summary

if TYPE_CHECKING:
    from types import FrameType

_HINT = "Ctrl-C cancels all runs; twice leaves the jobs running"
# Seconds between two looks at what changed, and at what others ask for.
_STEP_S, _ASKED_S = 0.1, 0.5
# Open files of one run, and of the rest of the process; a run that finds no room waits for another's end.
_FILES_OF_A_RUN, _OTHER_FILES = 4, 200


def create_runs(
    spec_paths: Sequence[str],
    config_path: str | None,
    settings: Settings,
    *,
    user: str,
    cache_dir: str,
    work_dir: str,
    account: str | None,
) -> list[str]:
    """Check several specs, and make a run of each: of all, or of none.

    Returns:
        The runs' ids, in the order of the specs.

    Raises:
        FractalSlurmError: One of them is not valid; the messages name it. Nothing was submitted.
    """
    if spec_paths.count("-") > 1:
        raise FractalSlurmError("SPEC: '-' stands there more than once: standard input can be read once only")
    faults: list[str] = []
    said: set[str] = set()
    slurm = connect(settings)
    known: list[Any] = []

    def facts() -> Any:
        if not known:  # the same for all specs, since they have one user
            known.append(facts_of(slurm, [user]))
        return known[0]

    def say_once(sentence: str) -> None:
        if sentence not in said:
            said.add(sentence)
            say(sentence)

    config = None
    try:
        config = load_config(config_path)
    except FractalSlurmError as error:
        faults += error.messages
    drafts = []
    whose = {"user": user, "cache_dir": cache_dir, "work_dir": work_dir}
    for path in spec_paths:
        try:
            spec = load_spec(path)
            if config is not None:
                drafts.append(draft_spec(config, spec, settings, facts, account=account, say=say_once, **whose))
        except ClusterError as error:
            if not known:  # it is SLURM that can't be reached, or refuses the account: nothing of this spec
                raise
            faults += _named(error, path)
        except FractalSlurmError as error:
            faults += _named(error, path)
    if faults:
        raise FractalSlurmError([*dict.fromkeys(faults), "nothing was submitted, of the other specs neither"])
    made: list[Path] = []
    try:
        for draft in drafts:
            with draft.create(settings) as journal:  # all of them open would be too many files
                made.append(journal.folder)
    except BaseException:
        for folder in made:
            with contextlib.suppress(FractalSlurmError, OSError):
                discard(folder)
        raise
    return [folder.name for folder in made]


def _named(error: FractalSlurmError, path: str) -> list[str]:
    """The messages of an error, each of which names the spec."""
    return [message if message.startswith(path) else f"{path}: {message}" for message in error.messages]


def open_runs(settings: Settings) -> tuple[list[str], list[str]]:
    """The runs that have not ended, oldest first; and why others can't be read, a sentence each."""
    found, broken = [], []
    for run_id in run_ids(settings.state_path()):
        try:
            with Journal.open(settings.state_path(), run_id, drive=False) as journal:
                state = journal.record.state
                if journal.damage:
                    raise RunError(journal.damage)
        except RunError as error:
            broken += error.messages
            continue
        except OSError as error:
            broken.append(f"run {run_id} can't be read: {error}")
            continue
        if state not in ENDED:
            found.append(run_id)
    return found, broken


def can_be_begun(ids: Sequence[str], settings: Settings, *, all_runs: bool) -> tuple[list[str], list[str]]:
    """Those of some runs that no process drives; and why others can't be driven, a sentence each.

    Args:
        ids: The runs.
        settings: Our own settings.
        all_runs: Whether they are all that have not ended: to leave one to another process is no fault then.
    """
    free, faults = [], []
    for run_id in ids:
        try:
            Journal.open(settings.state_path(), run_id, drive=False).close()
            driver = is_driven(settings.state_path(), run_id)
            if driver is not None:
                raise driven_elsewhere(run_id, driver)
        except DrivenElsewhere as error:
            if all_runs:
                say(f"left alone: {error}")
            else:
                faults += error.messages
        except RunError as error:
            faults += error.messages
        else:
            free.append(run_id)
    return free, faults


class _Wishes:
    """What signals asked for. Handlers set values only: whatever they printed could come amid another print.

    Args:
        sigterm_leaves: Whether SIGTERM leaves the jobs, as the second Ctrl-C does; else it cancels.
    """

    def __init__(self, *, sigterm_leaves: bool) -> None:
        self._sigterm_leaves = sigterm_leaves
        self.cancel_at: float | None = None
        self.leave = False
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._terminate)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            # Not SIG_IGN, which our commands would inherit.
            signal.signal(signal.SIGHUP, lambda _number, _frame: None)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self.cancel_at is None:
            self.cancel_at = time.monotonic() + CANCEL_DELAY_S
        else:
            self.leave = True

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        if self._sigterm_leaves:
            self.leave = True
        elif self.cancel_at is None:
            self.cancel_at = time.monotonic()


class _Many:
    """Drives runs to their ends, as many at once as the process may have files open.

    Args:
        ids: The runs.
        settings: Our own settings.
        shown: What is shown.
        resumed: Whether their drivers are gone; what was refused is tried again then.
        all_runs: Whether a run that another process drives is left to it, which is no fault.
    """

    def __init__(self, ids: Sequence[str], settings: Settings, shown: Shown, *, resumed: bool, all_runs: bool) -> None:
        self.settings = settings
        self.shown = shown
        self.resumed = resumed
        self.all_runs = all_runs
        self.code = 0
        self.documents: dict[str, dict[str, Any]] = {run_id: {} for run_id in ids}
        self.errors: list[str] = []
        self.engine = Engine(settings)
        self.crowd: Crowd = crowd_of(quiet=shown.quiet, json_lines=shown.json_lines, hint=_HINT)
        self._waiting = deque(ids)
        self._driven: dict[RunHandle, float] = {}
        self._over: queue.SimpleQueue[RunHandle] = queue.SimpleQueue()
        self._room = max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES) // _FILES_OF_A_RUN)
        self._cancelled = self._told = False
        self._asked_at = 0.0

    def drive(self) -> None:
        """Go on until every run has ended, or was left."""
        # A service that is stopped with its host is no reason to cancel the work of all users.
        wishes = _Wishes(sigterm_leaves=self.all_runs)
        try:
            while (self._waiting and not wishes.leave) or self._driven:
                while self._waiting and len(self._driven) < self._room and not wishes.leave:
                    self._begin(self._waiting.popleft())
                self._heed(wishes)
                self._take_ends()
                self.crowd.tick()
        finally:
            self.crowd.close()
            self.engine.shutdown("leave")
        for run_id in self._waiting:
            self._fault(EXIT_INTERRUPTED, f"run {run_id} was not begun")

    def _begin(self, run_id: str) -> None:
        """Take up one run; one that can't be taken up holds back no other."""
        try:
            journal = Journal.open(self.settings.state_path(), run_id, drive=True)
        except DrivenElsewhere as error:
            if self.all_runs:
                self.documents.pop(run_id)
                self.crowd.say(f"left alone: {error}")
            else:
                self._fault(RunError.exit_code, *error.messages)
            return
        except RunError as error:
            self._fault(RunError.exit_code, *error.messages)
            return
        try:
            if self.all_runs and journal.record.state in ENDED:  # meanwhile, by another process
                self.documents.pop(run_id)
                journal.close()
                return
            is_asked_to_cancel(journal.folder)  # what was asked of an earlier driver
            journal.heeds_signals(of_many=True)
            again = take_up_again(journal) if self.resumed else 0
            view = self.crowd.view_of(journal)
            record = journal.record
            view.say(f"as {record.user}, tasks: {record.tasks}, jobs: {len(journal.jobs())}")
            if again:
                view.say(f"what was refused is tried again: {count_of(again, 'task')}")
                journal.write(replace(journal.record, state=RunState.PLANNED))
            # At boot, what keeps a run from being begun may pass: users who are not known yet.
            handle = self.engine.drive(
                journal, say=view.say, show=view.show, on_end=self._over.put, stays_open=self.all_runs
            )
        except (RunError, OSError, sqlite3.Error) as error:
            journal.close()
            self._fault(RunError.exit_code, f"run {run_id} can't be driven: {error}")
            return
        self._driven[handle] = time.monotonic()
        if self._cancelled:
            handle.cancel()

    def _heed(self, wishes: _Wishes) -> None:
        """Do what signals, and other processes, ask for."""
        now = time.monotonic()
        if wishes.leave:
            for handle in self._driven:
                handle.leave()
        elif wishes.cancel_at is not None:
            if not self._told and now < wishes.cancel_at:
                self._told = True
                self.crowd.say(
                    f"cancelling all runs in {wishes.cancel_at - now:.0f} s; Ctrl-C again leaves the jobs running"
                )
            if now >= wishes.cancel_at and not self._cancelled:
                self._cancelled = True
                for handle in self._driven:
                    handle.cancel()
        if now - self._asked_at >= _ASKED_S:
            self._asked_at = now
            for handle in self._driven:
                if is_asked_to_cancel(self.settings.state_path() / "runs" / handle.run_id):
                    handle.cancel()

    def _take_ends(self) -> None:
        """Wait a little for runs to end, and note how they did."""
        wait: float = _STEP_S
        while True:
            try:
                handle = self._over.get(timeout=wait) if wait else self._over.get_nowait()
            except queue.Empty:
                return
            wait = 0.0
            self._end(handle, time.monotonic() - self._driven.pop(handle))

    def _end(self, handle: RunHandle, wall_s: float) -> None:
        run_id = handle.run_id
        try:
            end = handle.wait(0)
            with self.engine.open(run_id) as journal:
                summary = summary_of(
                    journal, wall_s=wall_s, sudo_calls=end.sudo_calls, squeue_calls=self.engine.squeue_calls()
                )
        except (FractalSlurmError, OSError, sqlite3.Error) as error:
            messages = error.messages if isinstance(error, FractalSlurmError) else [str(error)]
            named = [words if words.startswith(f"run {run_id} ") else f"run {run_id}: {words}" for words in messages]
            self._fault(getattr(error, "exit_code", RunError.exit_code), *named)
            self.crowd.ended(run_id, "it can't be driven any more")
            return
        self.documents[run_id] = summary
        if end.state == "left":
            self.code = max(self.code, EXIT_INTERRUPTED)
            self.crowd.ended(run_id, f"its jobs go on without a driver; later: fractal-slurm resume {run_id}")
            return
        if self.shown.json_lines:
            click.echo(json_text({"event": "end", "at": round(time.time(), 3), **summary}).encode())
        self.crowd.ended(run_id, f"{end.state}: {end.succeeded} of {summary['tasks']} tasks succeeded")
        if end.state == "cancelled":
            self.code = max(self.code, EXIT_INTERRUPTED)
        elif end.refusal:
            self._fault(ClusterError.exit_code, f"run {run_id}: {end.refusal}")
        elif end.failed or end.not_run:
            self.code = max(self.code, EXIT_TASKS_FAILED)

    def _fault(self, code: int, *messages: str) -> None:
        self.code = max(self.code, code)
        self.errors += messages
        for message in messages:
            (say if self.shown.quiet else self.crowd.say)(f"error: {message}")

    def finish(self) -> NoReturn:
        """Print what came of the runs, and exit with the worst of their codes."""
        summaries = [document for document in self.documents.values() if document]
        if self.shown.as_json:
            print_json({"runs": summaries, **({"errors": self.errors} if self.errors else {})})
        elif not self.shown.quiet and not self.shown.json_lines:
            for summary in summaries:
                print_summary(summary)
        sys.exit(self.code)


def drive_runs(
    ids: Sequence[str],
    settings: Settings,
    shown: Shown,
    *,
    resumed: bool = False,
    all_runs: bool = False,
    broken: Sequence[str] = (),
) -> NoReturn:
    """Drive runs to their ends in one loop.

    Args:
        ids: The runs.
        settings: Our own settings.
        shown: What is shown.
        resumed: Whether their drivers are gone.
        all_runs: Whether they are all that have not ended: those that another process drives are left to it.
        broken: Why other runs can't be read.
    """
    many = _Many(ids, settings, shown, resumed=resumed, all_runs=all_runs)
    if broken:
        many._fault(RunError.exit_code, *broken)
    many.drive()
    many.finish()


def drive_many_or_detach(
    ids: Sequence[str],
    settings: Settings,
    shown: Shown,
    *,
    detach: bool,
    resumed: bool = False,
    all_runs: bool = False,
    broken: Sequence[str] = (),
) -> NoReturn:
    """Drive runs here, or start one driver for them and leave."""
    if detach:
        ids, faults = can_be_begun(ids, settings, all_runs=all_runs)
        broken = [*broken, *faults]
    if not detach or not ids:
        drive_runs(ids, settings, shown, resumed=resumed, all_runs=all_runs, broken=broken)
    for message in broken:
        say(f"error: {message}")
    pid = start_driver(settings, ids, all_runs=all_runs)
    if shown.as_json:
        print_json({"run_ids": list(ids), "pid": pid, **({"errors": list(broken)} if broken else {})})
    elif not shown.quiet:
        click.echo(f"{count_of(len(ids), 'run')} are driven by process {pid}, on its own: {', '.join(ids)}")
    sys.exit(RunError.exit_code if broken else 0)
