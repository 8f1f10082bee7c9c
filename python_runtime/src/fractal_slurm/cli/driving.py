# SPDX-License-Identifier: BSD-3-Clause
"""Commands that drive a run: begin it, go on with it, cancel it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import FractalSlurmError, RunError, count_of
from .common import (
    EXIT_TASKS_FAILED,
    account_option,
    complete_files,
    complete_folders,
    complete_runs,
    config_option,
    guarded,
    json_option,
    load_config,
    print_json,
    say,
)
from .one import Shown, drive, drive_or_detach
from .usage import OneOf

if TYPE_CHECKING:
    from ..driver.journal import Journal
    from ..driver.model import RunState

# Seconds between two looks at a run of another driver.
_LOOK_S = 1.0
_ATTACH_HINT = "Ctrl-C leaves this view; the run goes on"
_Command = TypeVar("_Command", bound=Callable[..., Any])


def view_options(command: _Command) -> _Command:
    """The options on what is shown while a run is driven."""
    quiet = click.option("--quiet", is_flag=True, help="Show nothing but errors.")
    lines = click.option("--json-lines", is_flag=True, help="Print events to standard output, a JSON document a line.")
    return quiet(lines(json_option(command)))


detach_option = click.option(
    "--detach", is_flag=True, help="Start a driver in the background; it goes on after a logout."
)


@click.command()
@click.argument("spec_paths", metavar="SPEC...", shell_complete=complete_files, nargs=-1, required=True)
@click.option("--user", required=True, metavar="USER", help="The user as whom the tasks run.")
@click.option(
    "--cache-dir",
    required=True,
    metavar="DIR",
    shell_complete=complete_folders,
    help="The user's cache_dir: user_local_exports are below it.",
)
@click.option(
    "--work-dir",
    required=True,
    metavar="DIR",
    shell_complete=complete_folders,
    help="A folder in which the user can write, on the nodes, too.",
)
@click.option(
    "--task-start",
    type=OneOf(["fresh", "fork"]),
    help="Whether tasks with a Python script share their imports; the default is in the settings.",
)
@config_option
@account_option
@detach_option
@view_options
@guarded
def run(
    spec_paths: tuple[str, ...],
    user: str,
    cache_dir: str,
    work_dir: str,
    task_start: str | None,
    config_path: str | None,
    account: str | None,
    detach: bool,
    as_json: bool,
    quiet: bool,
    json_lines: bool,
) -> None:
    """Run units of work, and wait for them.

    SPEC is a file in JSON or YAML; "-" reads it from standard input. Several become a run each, which one process
    drives side by side; if one of them is not valid, none is begun. "task" says what to run, "parameters" has one
    object for each time that it is run:

    \b
      {
        "task": {"name": "Segment", "command": "/opt/venv/bin/python /opt/tasks/segment.py",
                 "meta": {"cpus_per_task": 2, "mem": "4G"}},
        "meta": {"time": "01:00:00"},
        "parameters": [{"well": "A01"}, {"well": "A02"}]
      }

    The task is started as "COMMAND --args-json FILE --out-json FILE". It succeeds if it exits with 0; what it wrote as
    out-JSON is its result. A task that exits with 0 and writes none succeeds, too. task.meta holds the task's own
    options, meta those of this run, which go before; "fractal-slurm schema" lists them.

    \b
    Example:
      fractal-slurm run spec.json --user anna --cache-dir /home/anna/.cache --work-dir /shared/anna/runs

    Exit codes: 0 all tasks succeeded, 1 some did not, 2 the input is not valid, 3 SLURM or sudo refused, 130 cancelled
    or left alone; of several runs, the highest.
    """
    from ..driver.prepare import connect, create_run
    from ..settings import load_settings
    from ..spec import load_spec

    shown = Shown.wanted(as_json=as_json, quiet=quiet, json_lines=json_lines, detach=detach)
    settings = load_settings()
    if task_start:
        settings = settings.model_copy(update={"task_start": task_start})
    if len(spec_paths) > 1:
        from .many import create_runs, drive_many_or_detach

        ids = create_runs(
            spec_paths, config_path, settings, user=user, cache_dir=cache_dir, work_dir=work_dir, account=account
        )
        drive_many_or_detach(ids, settings, shown, detach=detach)
    faults: list[str] = []
    loaded: list[Any] = []
    for load in (lambda: load_config(config_path), lambda: load_spec(spec_paths[0])):
        try:
            loaded.append(load())
        except FractalSlurmError as error:
            faults += error.messages
    if faults:
        raise FractalSlurmError(faults)
    config, spec = loaded
    slurm = connect(settings)
    journal = create_run(
        config, spec, settings, slurm, user=user, cache_dir=cache_dir, work_dir=work_dir, account=account, say=say
    )
    del spec, loaded
    drive_or_detach(journal, settings, slurm, shown, detach=detach)


@click.command()
@click.argument("run_id", metavar="[RUN]...", nargs=-1, shell_complete=complete_runs)
@click.option("--all", "all_runs", is_flag=True, help="All runs that have not ended and that no process drives.")
@detach_option
@view_options
@guarded
def resume(run_id: tuple[str, ...], all_runs: bool, detach: bool, as_json: bool, quiet: bool, json_lines: bool) -> None:
    """Go on with runs whose driver is gone, such as after a restart of the host.

    One process drives all runs that are named. With --all, a run that another process drives is left to it. A journal
    that can't be read is named, and holds back no other run; the exit code is 2 then. With --all, SIGTERM leaves the
    jobs of all runs in SLURM.
    """
    from ..driver.journal import Journal
    from ..driver.prepare import connect
    from ..settings import load_settings

    if all_runs == bool(run_id):
        raise click.UsageError("name runs, or give --all")
    shown = Shown.wanted(as_json=as_json, quiet=quiet, json_lines=json_lines, detach=detach)
    settings = load_settings()
    if all_runs:
        from .many import drive_many_or_detach, open_runs

        ids, broken = open_runs(settings)
        drive_many_or_detach(ids, settings, shown, detach=detach, resumed=True, all_runs=True, broken=broken)
    if len(run_id) > 1:
        from .many import drive_many_or_detach

        drive_many_or_detach(list(dict.fromkeys(run_id)), settings, shown, detach=detach, resumed=True)
    journal = Journal.open(settings.state_path(), run_id[0], drive=True)
    drive_or_detach(journal, settings, connect(settings), shown, detach=detach, resumed=True)


@click.command()
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.option("--mem", metavar="MEM", help="Other memory for each task, such as 4G.")
@click.option("--time", "walltime", metavar="TIME", help="Another time limit for each task, such as 02:00:00.")
@config_option
@detach_option
@view_options
@guarded
def retry(
    run_id: str,
    mem: str | None,
    walltime: str | None,
    config_path: str | None,
    detach: bool,
    as_json: bool,
    quiet: bool,
    json_lines: bool,
) -> None:
    """Run the tasks of a run again that failed or did not run, as a new run.

    The config file is read anew, so what was mended in it holds. The new run's report names the run that it came from.
    A run of a program, such as one that uses SlurmExecutor, is run again with the options that it had.
    """
    from dataclasses import replace

    from ..driver.again import knows_metas, options_again
    from ..driver.journal import Journal
    from ..driver.model import ENDED, TaskState
    from ..driver.prepare import connect, create_resolved_run, create_run
    from ..jobs.layout import work_dir_of
    from ..settings import load_settings
    from ..spec import Spec

    shown = Shown.wanted(as_json=as_json, quiet=quiet, json_lines=json_lines, detach=detach)
    settings = load_settings()
    with Journal.open(settings.state_path(), run_id, drive=False) as old:
        was = old.record
        if was.state not in ENDED:
            raise RunError(f"run {run_id} has not ended: fractal-slurm resume or cancel it first")
        rows = {row.index: row.args for row in old.tasks(TaskState.FAILED, TaskState.NOT_RUN)}
        if old.damage:
            raise RunError(old.damage)
    if not rows:
        raise RunError(f"run {run_id} has no task that failed or did not run")
    if was.labels:
        raise RunError(
            f"run {run_id} was begun by a program that keeps track of it (it has the labels {', '.join(was.labels)}) "
            "and that would not learn of another run: run the tasks again from there, in fractal-server by submitting "
            "the job again"
        )
    changes = {key: value for key, value in (("mem", mem), ("time", walltime)) if value is not None}
    metas = was.metas if knows_metas(was) else None
    spec = Spec(
        task_name=was.task_name,
        command=was.job_settings.command,
        parameters=list(rows.values()),
        task_meta=dict(metas.task_meta) if metas else {},
        meta={**metas.meta, **changes} if metas else {},
    )
    slurm = connect(settings)
    whose: dict[str, Any] = {
        "user": was.user,
        "cache_dir": was.job_settings.cache_dir,
        "work_dir": work_dir_of(was.run_folder),
        "say": say,
    }
    if metas:
        journal = create_run(load_config(config_path), spec, settings, slurm, account=was.config.account, **whose)
    else:
        if config_path is not None:
            raise RunError(f"run {run_id} was begun without a spec: its options are its own, and --config has no part")
        if not quiet:
            say(f"run {run_id} was begun without a spec: the new run has its options, not those of the config file")
        resolution = options_again(was, changes, tasks=len(rows))
        journal = create_resolved_run(resolution, spec, settings, slurm, **whose)
    with journal.transaction():
        # Of a retry of a retry, too, the tasks are those of the first run.
        first = was.retry_tasks
        tasks = tuple(first[index] if first else index for index in rows)
        journal.write(replace(journal.record, retry_of=run_id, retry_tasks=tasks))
        journal.event("retry", run_id, f"{len(rows)} of its tasks")
    if not quiet:
        say(f"run {journal.record.run_id} runs {count_of(len(rows), 'task')} of run {run_id} again")
    drive_or_detach(journal, settings, slurm, shown, detach=detach)


@click.command()
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@click.option("--json-lines", is_flag=True, help="Print events to standard output, a JSON document a line.")
@guarded
def attach(run_id: str, json_lines: bool) -> None:
    """Show a run as it goes, whoever drives it; Ctrl-C leaves the view alone.

    Ends with the run. Exit codes: 0 all tasks succeeded, or the view was left; 1 some did not.
    """
    from ..driver.journal import Journal
    from ..driver.model import TaskState
    from ..report import run_head, task_rows
    from ..settings import load_settings
    from .following import is_over
    from .printing import print_report
    from .views import view_of

    state_dir = load_settings().state_path()
    with Journal.open(state_dir, run_id, drive=False) as journal:
        view = view_of(journal, quiet=False, json_lines=json_lines, state_dir=state_dir, hint=_ATTACH_HINT)
        try:
            while not is_over(state := run_state(journal, state_dir)):
                view.show()
                time.sleep(_LOOK_S)
        except KeyboardInterrupt:
            view.close()
            say(f"run {run_id} goes on; look again: fractal-slurm attach {run_id}")
            return
        view.close()
        counts = journal.counts()
        if not json_lines:
            head = {**run_head(journal), "state": state}
            print_report(head, task_rows(journal, TaskState.FAILED, TaskState.NOT_RUN), counts)
        for message in journal.damage:
            say(f"warning: {message}")
        sys.exit(EXIT_TASKS_FAILED if counts[TaskState.FAILED] or counts[TaskState.NOT_RUN] else 0)


def run_state(journal: Journal, state_dir: Path) -> RunState:
    """What the state of a run means now, given who drives it."""
    from ..driver.lock import is_driven, state_now

    return state_now(journal.record.state, is_driven(state_dir, journal.folder.name))


@click.command()
@click.argument("run_id", metavar="RUN", shell_complete=complete_runs)
@json_option
@guarded
def cancel(run_id: str, as_json: bool) -> None:
    """Cancel a run: what has finished is kept."""
    from ..driver.journal import Journal, check_run_id
    from ..driver.lock import ask_to_cancel, is_driven
    from ..driver.model import ENDED
    from ..driver.prepare import connect
    from ..settings import load_settings

    settings = load_settings()
    driver = is_driven(settings.state_path(), check_run_id(run_id))
    if driver is not None:
        if driver.host and driver.host != os.uname().nodename:
            raise RunError(f"run {run_id} is driven on host {driver.host} (pid {driver.pid}): cancel it there")
        if not driver.pid or not (driver.heeds or driver.looks):
            raise RunError(
                f"run {run_id} is driven by another process ({driver}), which does not say that it cancels when it is "
                "told to: cancel it there, or end it, and try again"
            )
        if driver.looks:  # it drives other runs, too: a signal would cancel them all
            ask_to_cancel(settings.state_path() / "runs" / run_id)
        else:
            os.kill(driver.pid, signal.SIGTERM)
        if as_json:
            print_json({"run_id": run_id, "signalled": driver.pid})
        else:
            click.echo(f"the driver of run {run_id} (pid {driver.pid}) was told to cancel it")
        return
    journal = Journal.open(settings.state_path(), run_id, drive=True)
    if journal.record.state in ENDED:
        raise RunError(f"run {run_id} has ended already ({journal.record.state})")
    drive(journal, settings, connect(settings), Shown(as_json), cancel=True)
