# SPDX-License-Identifier: BSD-3-Clause
"""After a restart, collect the results of jobs that an ended server process left, and correct their statuses."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from fractal_server.app.db import get_sync_db
from fractal_server.app.models.v2 import HistoryRun, HistoryUnit, JobV2
from fractal_server.runner.filenames import SHUTDOWN_FILENAME
from fractal_server.utils import get_timestamp
from fractal_server.zip_tools import _zip_folder_to_file_and_remove
from sqlalchemy import select, update

from fractal_slurm.api import Engine, FractalSlurmError, RunHandle

from .owner import Left, files, left
from .process import engine, owner
from .runner import account
from .sheet import FAILED, Desk, Sheet

SUBMITTED = "submitted"
_TICK_S = 1.0
# How many seconds we wait for the database at the start.
_DATABASE_WAIT_S = 300

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
    except Exception:
        logger.exception("fractal-slurm: what an earlier process left can't be looked at")


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


def bring_home(found: Left, with_engine: Engine) -> None:
    """Drive the runs of an ended process to their ends, then correct its jobs.

    Args:
        found: The jobs that the process left.
        with_engine: The engine that drives the runs.
    """
    runs: list[tuple[Sheet, Desk, RunHandle]] = []
    for stored in with_engine.stored():
        sheet = Sheet.of(stored.labels)
        if sheet is None or sheet.owner != found.owner or stored.labels.get("taken"):
            continue
        desk = Desk(sheet, is_alone=True)
        try:
            runs.append((sheet, desk, with_engine.resume(stored.run_id, on_task_end=desk.take)))
            logger.warning("fractal-slurm: run %s of job %s is taken up again", stored.run_id, sheet.job)
        except FractalSlurmError as error:
            logger.warning("fractal-slurm: run %s can't be taken up again: %s", stored.run_id, error)
    waiting = list(runs)
    stopped: set[str] = set()
    while waiting:
        time.sleep(_TICK_S)
        for sheet, desk, handle in list(waiting):
            if handle.run_id not in stopped and (Path(sheet.folder).parent / SHUTDOWN_FILENAME).exists():
                stopped.add(handle.run_id)
                handle.cancel()
            is_over = handle.state not in ("waiting", "running")
            desk.write_down(handle, is_stopped=handle.run_id in stopped)
            if is_over:
                waiting.remove((sheet, desk, handle))
                account(sheet, handle.job_ids())
                with_engine.set_labels(handle.run_id, {"taken": True})
    for job in found.jobs:
        close_job(job, [(sheet, desk) for sheet, desk, _handle in runs if sheet.job == job])


def close_job(job_id: int, runs: Sequence[tuple[Sheet, Desk]]) -> None:
    """Set a job to failed, if nobody works on it any more and it has no end yet.

    Args:
        job_id: The id of the job of fractal-server.
        runs: The runs of the job that were collected.
    """
    with next(get_sync_db()) as db:
        job = db.get(JobV2, job_id)
        if job is None or job.status != SUBMITTED:
            return
        unfinished = select(HistoryRun.id).where(HistoryRun.job_id == job_id, HistoryRun.status == SUBMITTED)
        ids = list(db.execute(unfinished).scalars())
        db.execute(
            update(HistoryUnit)
            .where(HistoryUnit.history_run_id.in_(ids), HistoryUnit.status == SUBMITTED)
            .values(status=FAILED)
        )
        db.execute(update(HistoryRun).where(HistoryRun.id.in_(ids)).values(status=FAILED))
        words = [
            f"JOB ERROR in Fractal job {job_id}:",
            "The server was restarted while this job ran, and its workflow did not go on.",
        ]
        for sheet, desk in runs:
            words.append(
                f"Task '{sheet.task_name}' (number {sheet.order} of the workflow): {len(desk.results)} succeeded, "
                f"{len(desk.errors)} failed. Their logs and outputs were brought home; the image list does not have "
                "the outputs yet. Run the workflow again from this task on."
            )
        job.status = FAILED
        job.end_timestamp = get_timestamp()
        job.log = "\n".join(words)
        folder = job.working_dir
        db.commit()
    logger.warning("fractal-slurm: job %s was put right: failed", job_id)
    if folder and Path(folder).is_dir():
        _zip_folder_to_file_and_remove(folder=folder)
