# SPDX-License-Identifier: BSD-3-Clause
"""After a restart, collect the results of jobs that an ended server process left, and correct their statuses."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fractal_server.app.db import get_sync_db
from fractal_server.app.models.v2 import HistoryRun, HistoryUnit, JobV2, ProjectV2, Resource
from fractal_server.runner.filenames import SHUTDOWN_FILENAME
from fractal_server.utils import get_timestamp
from fractal_server.zip_tools import _zip_folder_to_file_and_remove
from sqlalchemy import select, update

from fractal_slurm.api import Engine, FractalSlurmError, RunError, RunHandle, StoredRun

from .owner import Left, files, known, left
from .process import engine, owner
from .runner import account
from .sheet import FAILED, Desk, Sheet

SUBMITTED = "submitted"
_TICK_S = 1.0
# How many seconds we wait for the database at the start.
_DATABASE_WAIT_S = 300
# States of a run that is not driven any more, but has no end.
_STAY = ("left", "broken")
_MOST_OF_ERROR = 5_000
# So much the clock of whoever made a row may differ from ours, in seconds.
_CLOCK_S = 5

logger = logging.getLogger(__name__)


def take_up() -> None:
    """Continue the jobs of ended processes, in a thread in the background."""
    threading.Thread(target=_take_up_all, name="fractal-slurm take up", daemon=True).start()


def _take_up_all() -> None:
    try:
        own = owner()
        for path in files(own.folder):
            if path.name != f"{own.name}.owner":
                threading.Thread(target=_take_up, args=(path,), name="fractal-slurm take up", daemon=True).start()
        _wait_for_database()
        _close_ownerless(own.folder)
    except Exception:
        logger.exception("fractal-slurm: what an earlier process left can't be looked at")


def _close_ownerless(folder: Path) -> None:
    """Correct jobs that were given to a process which ended before it began them. They waited for a free thread.

    Args:
        folder: The folder of the files of owners.
    """
    since, known_jobs = known(folder)
    before = datetime.fromtimestamp(max(0.0, since - _CLOCK_S), tz=timezone.utc)
    with next(get_sync_db()) as db:
        waiting = db.execute(
            select(JobV2.id, Resource.jobs_local_dir)
            .join(ProjectV2, ProjectV2.id == JobV2.project_id)
            .join(Resource, Resource.id == ProjectV2.resource_id)
            .where(JobV2.status == SUBMITTED, JobV2.start_timestamp < before, Resource.type == "slurm_sudo")
        ).all()
    for job, jobs_dir in waiting:
        if job not in known_jobs and _is_ours(jobs_dir):
            close_job(job, [])


def _is_ours(jobs_dir: str) -> bool:
    """Return whether a resource is this server's. A server on another host may use the same database."""
    try:
        return os.stat(jobs_dir).st_uid == os.getuid()
    except OSError:
        return False


def _take_up(path: Path) -> None:
    with left(path) as found:
        if found is None:
            return
        try:
            _wait_for_database()
            bring_home(found, engine())
            path.unlink()
        except Exception:
            logger.exception("fractal-slurm: what an earlier process left (%s) stays for the next start", path.name)


def _wait_for_database() -> None:
    deadline = time.monotonic() + _DATABASE_WAIT_S
    while True:
        try:
            with next(get_sync_db()) as db:
                db.execute(select(JobV2.id).limit(1))
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(2)


@dataclass
class Home:
    """A run that an ended process left, and what has come of it.

    Attributes:
        sheet: Its submission.
        desk: The results so far.
        handle: The run. None if it can't be continued.
        problem: Why it can't be continued.
        is_stopped: Whether the job was told to stop.
        is_over: Whether no result can come any more.
    """

    sheet: Sheet
    desk: Desk
    handle: RunHandle | None = None
    problem: str = ""
    is_stopped: bool = False
    is_over: bool = False


def bring_home(found: Left, with_engine: Engine) -> None:
    """Drive the runs of an ended process to their ends. Correct each of its jobs as soon as its runs have ended.

    Args:
        found: The jobs that the process left.
        with_engine: The engine that drives the runs.

    Raises:
        RunError: A run did not come to its end. It can be continued later, and its job is not changed.
    """
    homes = [home for stored in with_engine.stored() if (home := _take(stored, found.owner, with_engine)) is not None]
    jobs = list(found.jobs)
    stays: dict[str, str] = {}
    while True:
        for home in homes:
            if home.is_over or home.handle is None or home.handle.run_id in stays:
                continue
            _look(home, with_engine)
            if home.handle.state in _STAY:
                stays[home.handle.run_id] = home.handle.state
        for job in list(jobs):
            runs = [home for home in homes if home.sheet.job == job]
            if all(home.is_over for home in runs):
                close_job(job, runs)
                jobs.remove(job)
        if not [home for home in homes if not (home.is_over or home.handle is None or home.handle.run_id in stays)]:
            break
        time.sleep(_TICK_S)
    if stays:
        raise RunError(", ".join(f"run {run_id} is {state}" for run_id, state in stays.items()))


def _take(stored: StoredRun, owner_name: str, with_engine: Engine) -> Home | None:
    """Continue a stored run, if the ended process left it."""
    sheet = Sheet.of(stored.labels)
    if sheet is None or sheet.owner != owner_name or stored.labels.get("taken"):
        return None
    home = Home(sheet, Desk(sheet, is_alone=True))
    try:
        home.handle = with_engine.resume(stored.run_id, on_task_end=home.desk.take)
        logger.warning("fractal-slurm: run %s of job %s is taken up again", stored.run_id, sheet.job)
    except FractalSlurmError as error:
        logger.warning("fractal-slurm: run %s can't be taken up again: %s", stored.run_id, error)
        home.problem, home.is_over = f"run {stored.run_id} can't be continued: {error}", True
    return home


def _look(home: Home, with_engine: Engine) -> None:
    """Write down what a run has brought since the last look."""
    handle, sheet = home.handle, home.sheet
    assert handle is not None  # noqa: S101 - the caller looks
    if not home.is_stopped and (Path(sheet.folder).parent / SHUTDOWN_FILENAME).exists():
        home.is_stopped = True
        handle.cancel()
    state = handle.state
    home.desk.write_down(handle, is_stopped=home.is_stopped)
    home.desk.show_running(handle)
    if state not in ("waiting", "running", *_STAY):
        account(sheet, handle.job_ids())
        with_engine.set_labels(handle.run_id, {"taken": True})
        home.is_over = True


def close_job(job_id: int, homes: Sequence[Home]) -> None:
    """Set a job to failed, if nobody works on it any more and it has no end yet.

    Args:
        job_id: The id of the job of fractal-server.
        homes: The runs of the job that were collected.
    """
    with next(get_sync_db()) as db:
        job = db.get(JobV2, job_id)
        if job is None or job.status != SUBMITTED:
            return
        unfinished = select(HistoryRun).where(HistoryRun.job_id == job_id, HistoryRun.status == SUBMITTED)
        found = list(db.execute(unfinished.order_by(HistoryRun.id)).scalars())
        ids, begun = [run.id for run in found], [_task_of(run.workflowtask_dump) for run in found]
        db.execute(
            update(HistoryUnit)
            .where(HistoryUnit.history_run_id.in_(ids), HistoryUnit.status == SUBMITTED)
            .values(status=FAILED)
        )
        db.execute(update(HistoryRun).where(HistoryRun.id.in_(ids)).values(status=FAILED))
        job.status = FAILED
        job.end_timestamp = get_timestamp()
        job.log = job_log(job_id, homes, begun)
        folder = job.working_dir
        db.commit()
    logger.warning("fractal-slurm: job %s was put right: failed", job_id)
    if folder and Path(folder).is_dir():
        _zip_folder_to_file_and_remove(folder=folder)


def _task_of(dump: Mapping[str, Any]) -> tuple[str, int]:
    """Return the name and the position of a task from fractal-server's copy of it."""
    return str((dump.get("task") or {}).get("name")), int(dump.get("order") or 0)


def job_log(job_id: int, homes: Sequence[Home], begun: Sequence[tuple[str, int]] = ()) -> str:
    """Return the log of a job whose server ended: what has come home, what did not go on, and what to do.

    Args:
        job_id: The id of the job of fractal-server.
        homes: The runs of the job that were collected.
        begun: The tasks that fractal-server had begun and not finished: name and position.
    """
    words = [
        f"JOB ERROR in Fractal job {job_id}:",
        "The server ended while this job ran, and was started again. The workflow did not go on.",
    ]
    if any(home.is_stopped for home in homes):
        words.append("The job was stopped.")
    for home in homes:
        sheet, desk = home.sheet, home.desk
        part = ", its first part" if sheet.is_first_part() else ""
        words.append(
            f"Task '{sheet.task_name}' (task {sheet.order}; the first is task 0){part}: "
            f"{len(desk.results)} of {len(sheet.units)} succeeded, {len(desk.errors)} failed. "
            "Their logs and outputs are in the folder of this job. Their outputs are not in the image list."
        )
        if sheet.is_first_part():
            words.append("The other parts of this task were not started.")
        if home.problem:
            words.append(home.problem)
        if desk.errors and not home.is_stopped:
            first = min(desk.errors)
            words.append(f"The first error:\n{str(desk.errors[first])[:_MOST_OF_ERROR]}")
    if not homes:
        words.append("No task of it was in SLURM at that time.")
    if homes:
        last = homes[-1].sheet
        where = f"from task '{last.task_name}' (task {last.order}) on, for all its images"
    elif begun:
        # It may have ended just before: then its units are done, but fractal-server did not write its outputs down.
        name, order = begun[-1]
        words.append(
            f"Task '{name}' (task {order}; the first is task 0) had begun, and was not finished. Its outputs may be "
            "missing in the image list, also those of units that are done."
        )
        where = f"from task '{name}' (task {order}) on, for all its images"
    else:
        where = "from the first task that is not done on"
    words.append(f"What to do: Run the workflow again {where}.")
    return "\n".join(words)
