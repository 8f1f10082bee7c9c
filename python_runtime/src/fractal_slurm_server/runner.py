# SPDX-License-Identifier: BSD-3-Clause
"""A runner for slurm_sudo resources of fractal-server that uses our engine.

fractal-server decides: it resolves the config of each task, and this runner passes the values on. The checks before a
submission are made by fractal-server's own code, which this class inherits.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fractal_server.runner.exceptions import JobExecutionError, TaskExecutionError
from fractal_server.runner.executors.slurm_common.base_slurm_runner import create_accounting_record_slurm
from fractal_server.runner.executors.slurm_sudo.runner import SlurmSudoRunner
from fractal_server.string_tools import validate_cmd

from fractal_slurm.api import FractalSlurmError, RunEnd, RunHandle, RunRequest, SlurmConfig

from .process import engine, owner
from .sheet import FAILED, SHUTDOWN_MESSAGE, Desk, Sheet, set_statuses

# Seconds between two looks: whether the job was stopped, and which tasks have ended.
_TICK_S = 0.3
# GPUs in #SBATCH lines and in the value of gres: with or without a type, a number, and sockets.
_GPU_OPTION = re.compile(r"\s--(gres|gpus)[=\s]\s*(\S+)")
_GPU_GRES = re.compile(r"(?:gres[:/])?gpu(?::[A-Za-z][^:(]*)?(?:[:=]([0-9]{1,6}))?(?:\(.*\))?")
# The line that starts the job hook in fractal-server's own jobs. Our jobs do not need it.
_HOOK = re.compile(r"(\[ ! -r \S+ \] \|\| )?\.\s+\S*/fractal-job\.sh\s*")
_MOST_SAID = 100

logger = logging.getLogger(__name__)


class EngineRunner(SlurmSudoRunner):
    """Runs the tasks of one job of fractal-server. For the arguments see :class:`SlurmSudoRunner`."""

    executor_error_log: str | None

    def __init__(self, **arguments: Any) -> None:
        resource = arguments["resource"]
        super().__init__(**arguments)
        self.fractal_job_id: int | None = arguments.get("fractal_job_id") or _job_of(self.root_dir_local)
        self.engine_resource_id: int | None = arguments.get("resource_id") or getattr(resource, "id", None)
        if self.fractal_job_id is not None:
            owner().note(self.fractal_job_id)

    def check_fractal_server_versions(self) -> None:
        """Check nothing: the engine needs no fractal-server on the nodes."""

    def _mkdir_remote_folder(self, folder: str) -> None:
        """Make nothing: the engine makes missing folders when it makes the folder of a run."""

    def submit(
        self,
        *,
        base_command: str,
        workflow_task_order: int,
        workflow_task_id: int,
        task_name: str,
        parameters: dict[str, Any],
        history_unit_id: int,
        task_files: Any,
        config: Any,
        task_type: Any,
        user_id: int,
    ) -> tuple[Any, BaseException | None]:
        """Run one task. Arguments and results are those of fractal-server's own runner."""
        self.executor_error_log = None
        try:
            if self.is_shutdown():
                raise JobExecutionError(SHUTDOWN_MESSAGE)
            self.validate_submit_parameters(parameters=parameters, task_type=task_type)
            config = self._enrich_slurm_config(config)
            config.tasks_per_job = config.parallel_tasks_per_job = 1
            desk = self._run(
                self._sheet(
                    [task_files], [history_unit_id], task_type, user_id, workflow_task_order, workflow_task_id,
                    task_name, is_multisubmit=False,
                ),
                base_command,
                [parameters],
                config,
            )  # fmt: skip
        except Exception as error:
            logger.error("fractal-slurm: task %r could not be run: %s", task_name, error)
            set_statuses([history_unit_id], FAILED, has_warnings=False)
            return None, error
        return desk.results.get(0), desk.errors.get(0)

    def multisubmit(
        self,
        *,
        base_command: str,
        workflow_task_order: int,
        workflow_task_id: int,
        task_name: str,
        list_parameters: list[dict[str, Any]],
        history_unit_ids: list[int],
        list_task_files: list[Any],
        task_type: Any,
        config: Any,
        user_id: int,
    ) -> tuple[dict[int, Any], dict[int, BaseException]]:
        """Run one task for each set of parameters. Arguments and results are those of fractal-server's own runner."""
        self.executor_error_log = None
        try:
            if self.is_shutdown():
                raise JobExecutionError(SHUTDOWN_MESSAGE)
            self.validate_multisubmit_parameters(
                task_type=task_type,
                list_parameters=list_parameters,
                list_task_files=list_task_files,
                history_unit_ids=history_unit_ids,
            )
            desk = self._run(
                self._sheet(
                    list_task_files, history_unit_ids, task_type, user_id, workflow_task_order, workflow_task_id,
                    task_name, is_multisubmit=True,
                ),
                base_command,
                list_parameters,
                self._enrich_slurm_config(config),
            )  # fmt: skip
        except Exception as error:
            logger.error("fractal-slurm: task %r could not be run: %s", task_name, error)
            if str(task_type) == "parallel":
                set_statuses(history_unit_ids, FAILED)
            return {}, dict.fromkeys(range(len(list_parameters)), error)
        return desk.results, desk.errors

    # -- one run of the engine

    def _sheet(
        self,
        task_files: Sequence[Any],
        units: Sequence[int],
        task_type: Any,
        user_id: int,
        order: int,
        task_id: int,
        task_name: str,
        *,
        is_multisubmit: bool,
    ) -> Sheet:
        return Sheet(
            owner=owner().name,
            job=self.fractal_job_id,
            resource=self.engine_resource_id,
            user=user_id,
            task_type=str(getattr(task_type, "value", task_type)),
            is_multisubmit=is_multisubmit,
            order=order,
            task=task_id,
            task_name=task_name,
            folder=str(task_files[0].wftask_subfolder_local),
            stems=[str(files.prefix_component) for files in task_files],
            units=list(units),
        )

    def _run(self, sheet: Sheet, base_command: str, parameters: Sequence[dict[str, Any]], config: Any) -> Desk:
        """Run the tasks of a sheet, and wait until all have ended.

        Raises:
            JobExecutionError: The tasks can't be run.
            TaskExecutionError: The command is not one that fractal-server allows.
        """
        if not Path(sheet.folder).is_dir():
            self._mkdir_local_folder(folder=sheet.folder)
        for index, each in enumerate(parameters):
            sheet.file(index, "args.json").write_text(json.dumps(each, indent=2), encoding="utf-8")
        try:
            validate_cmd(base_command)
        except ValueError as error:
            raise TaskExecutionError(f"Invalid command. Original error: {error}") from None
        said: list[str] = []
        run = engine(self.python_worker_interpreter)
        desk = Desk(sheet)
        request = RunRequest(
            user=self.slurm_user,
            task_name=sheet.task_name,
            command=base_command,
            parameters=parameters,
            config=map_config(config, task_name=sheet.task_name),
            cache_dir=str(self.user_cache_dir),
            # One folder for all tasks of the job: each that is missing costs two more calls of sudo.
            work_dir=str(self.root_dir_remote),
            labels=sheet.label(),
        )
        end: RunEnd | None = None
        try:
            handle = run.start(request, on_task_end=desk.take, say=lambda words: _note(said, words))
        except FractalSlurmError as error:
            account(sheet, ())
            raise JobExecutionError(str(error)) from None
        is_stopped = False
        try:
            while end is None:
                try:
                    end = handle.wait(_TICK_S)
                except TimeoutError:
                    pass
                except FractalSlurmError as error:
                    _note(said, str(error))
                    break
                if not is_stopped and end is None and self.is_shutdown():
                    is_stopped = True
                    handle.cancel()
                desk.write_down(handle, is_stopped=is_stopped)
                desk.show_running(handle)
        except BaseException:
            handle.cancel()
            account(sheet, handle.job_ids())
            raise
        if end is not None and end.state == "left":
            wait_for_the_end()
        account(sheet, handle.job_ids())
        run.set_labels(handle.run_id, {"taken": True})
        refusal = end.refusal if end is not None else None
        if refusal:  # the engine also says how to continue the run: here the workflow would not go on
            said = [refusal if words.startswith(refusal) else words for words in said]
        for index in range(len(parameters)):
            if index not in desk.results and index not in desk.errors:
                desk.errors[index] = JobExecutionError("; ".join(said) or "the run ended without a result of this task")
                if sheet.is_ours_to_set(FAILED):
                    set_statuses([sheet.units[index]], FAILED)
        is_said = any(not isinstance(error, TaskExecutionError) for error in desk.errors.values())
        if is_said and said and not refusal:  # a refusal is the error of each task
            self.executor_error_log = "\n".join(said)
        self._leave_notes(sheet, handle, said)
        return desk

    def _leave_notes(self, sheet: Sheet, handle: RunHandle, said: Sequence[str]) -> None:
        """Write files beside the logs of the job: the run's id, its SLURM jobs and its messages; and a job's script."""
        stem = "par-engine" if sheet.is_multisubmit else "non_par-engine"
        jobs = " ".join(map(str, handle.job_ids())) or "none"
        lines = [f"run: {handle.run_id}", f"SLURM jobs: {jobs}", *said]
        (Path(sheet.folder) / f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        with contextlib.suppress(FractalSlurmError):  # nobody needs it for the results
            (Path(sheet.folder) / f"{stem}-slurm.sh").write_text(handle.script(), encoding="utf-8")


def account(sheet: Sheet, job_ids: Sequence[int]) -> None:
    """Write an accounting record, with the fields that this version of fractal-server has.

    As with its own runner, only a submission of many tasks has a record without any SLURM job.
    """
    if not job_ids and not sheet.is_multisubmit:
        return
    known = {
        "user_id": sheet.user,
        "slurm_job_ids": list(job_ids),
        "fractal_job_id": sheet.job,
        "resource_id": sheet.resource,
    }
    taken = inspect.signature(create_accounting_record_slurm).parameters
    create_accounting_record_slurm(**{name: value for name, value in known.items() if name in taken})


def map_config(config: Any, *, task_name: str) -> SlurmConfig:
    """Return fractal-server's resolved config in the form of the engine.

    The values are not changed, but for one: no more tasks run at once than the job has GPUs. SLURM gives the GPUs of a
    job to one srun at a time, so tasks of fractal-server need not expect that another one uses their GPU.
    """
    values = config.model_dump()
    values["extra_lines"] = [line for line in values["extra_lines"] if line.strip() and not _HOOK.fullmatch(line)]
    values["job_name"] = values.get("job_name") or task_name.replace(" ", "_")
    values["tasks_per_job"] = values.get("tasks_per_job") or 1
    values["parallel_tasks_per_job"] = values.get("parallel_tasks_per_job") or 1
    gpus = gpus_of_job(values.get("gres"), values.get("gpus"), values.get("nodes"), values["extra_lines"])
    if gpus:
        values["parallel_tasks_per_job"] = min(values["parallel_tasks_per_job"], gpus)
    return SlurmConfig(**values)


def gpus_of_job(gres: str | None, gpus: str | None, nodes: int | None, extra_lines: Sequence[str]) -> int | None:
    """Return how many GPUs a job asks for. None if it asks for none, or in words that are not known here.

    Args:
        gres: Such as ``gpu:1``, ``gpu:a100:2,disk:1``. It is for each node.
        gpus: Such as ``2``, ``a100:2,v100:1``. It is for the job.
        nodes: The number of nodes. None for one.
        extra_lines: Some may be #SBATCH lines with these options, which count more than the options.
    """
    for line in extra_lines:
        for name, value in _GPU_OPTION.findall(line) if line.startswith("#SBATCH") else ():
            gres, gpus = (value, gpus) if name == "gres" else (gres, value)
    counts = [match[1] for part in (gpus or "").split(",") if (match := re.fullmatch(r"(?:[^:]+:)?([0-9]{1,6})", part))]
    if counts:
        return sum(map(int, counts))
    counts = [match[1] or "1" for part in (gres or "").split(",") if (match := _GPU_GRES.fullmatch(part))]
    return sum(map(int, counts)) * (nodes or 1) or None


def wait_for_the_end() -> None:
    """Wait for ever. This process ends, and its runs go on without it: the next process collects their results.

    So no task of them has failed, and the workflow of this thread must not see an end. It ends with the process.
    """
    threading.Event().wait()


def _note(said: list[str], words: str) -> None:
    logger.info("fractal-slurm: %s", words)
    if len(said) < _MOST_SAID:
        said.append(words)


def _job_of(folder: Path) -> int | None:
    """Return the id of fractal-server's job from the name of its folder. Older versions do not pass the id."""
    match = re.search(r"_job_([0-9]{1,12})_", folder.name)
    return int(match[1]) if match else None
