# SPDX-License-Identifier: BSD-3-Clause
"""Commands that drive a run: begin it, go on with it, cancel it."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..errors import ClusterError, FractalSlurmError, RunError, count_of
from .common import (
    EXIT_INTERRUPTED,
    EXIT_TASKS_FAILED,
    account_option,
    config_option,
    guarded,
    json_option,
    load_config,
    print_json,
    say,
)

if TYPE_CHECKING:
    from ..cluster.commands import Slurm
    from ..driver.journal import Journal
    from ..driver.runner import Runner
    from ..settings import Settings

# Time to think again, after Ctrl-C.
CANCEL_DELAY_S = 2


@click.command()
@click.argument("spec_path", metavar="SPEC")
@click.option("--user", required=True, metavar="USER", help="Whom to run the tasks as.")
@click.option("--cache-dir", required=True, metavar="DIR", help="The user's cache_dir, base of user_local_exports.")
@click.option("--work-dir", required=True, metavar="DIR", help="A folder that the user can write, on the nodes too.")
@click.option(
    "--task-start",
    type=click.Choice(["fresh", "fork"]),
    help="Whether tasks with a Python script share their imports; else as our settings say.",
)
@config_option
@account_option
@json_option
@guarded
def run(
    spec_path: str,
    user: str,
    cache_dir: str,
    work_dir: str,
    task_start: str | None,
    config_path: str | None,
    account: str | None,
    as_json: bool,
) -> None:
    """Run a unit of work, and wait for it.

    SPEC is a file in JSON or YAML; "-" reads it from standard input. "task" says what to run, "parameters" has one
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
    or left alone.
    """
    from ..driver.prepare import connect, create_run
    from ..settings import load_settings
    from ..spec import load_spec

    settings = load_settings()
    if task_start:
        settings = settings.model_copy(update={"task_start": task_start})
    faults: list[str] = []
    loaded: list[Any] = []
    for load in (lambda: load_config(config_path), lambda: load_spec(spec_path)):
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
    _drive(journal, settings, slurm, as_json)


@click.command()
@click.argument("run_id", metavar="RUN")
@json_option
@guarded
def resume(run_id: str, as_json: bool) -> None:
    """Go on with a run whose driver is gone."""
    from ..driver.journal import Journal
    from ..driver.prepare import connect
    from ..settings import load_settings

    settings = load_settings()
    journal = Journal.open(settings.state_path(), run_id, drive=True)
    _drive(journal, settings, connect(settings), as_json, resumed=True)


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--mem", metavar="MEM", help="Other memory for each task, such as 4G.")
@click.option("--time", "walltime", metavar="TIME", help="Another time limit for each task, such as 02:00:00.")
@config_option
@json_option
@guarded
def retry(run_id: str, mem: str | None, walltime: str | None, config_path: str | None, as_json: bool) -> None:
    """Run the tasks of a run again that failed or did not run, as a new run.

    The config file is read anew, so what was mended in it holds. The new run's report names the run that it came from.
    """
    from ..driver.journal import Journal
    from ..driver.model import ENDED, TaskState
    from ..driver.prepare import connect, create_run
    from ..settings import load_settings
    from ..spec import Spec

    settings = load_settings()
    with Journal.open(settings.state_path(), run_id, drive=False) as old:
        if old.get("state") not in ENDED:
            raise RunError(f"run {run_id} has not ended: fractal-slurm resume or cancel it first")
        rows = {row.index: row.args for row in old.tasks(TaskState.FAILED, TaskState.NOT_RUN)}
        metas, jobs, account = old.get("metas"), old.get("job_settings"), (old.get("config") or {}).get("account")
        user, name, folder = old.get("user"), old.get("task_name"), old.get("run_folder")
        first = old.get("retry_tasks") or None
        if old.damage:
            raise RunError(old.damage)
    if not rows:
        raise RunError(f"run {run_id} has no task that failed or did not run")
    if not metas:
        raise RunError(f"run {run_id} was not begun by fractal-slurm run, or by an older version: run its spec again")
    changes = {key: value for key, value in (("mem", mem), ("time", walltime)) if value is not None}
    spec = Spec(
        task_name=name,
        command=tuple(jobs["command"]),
        parameters=list(rows.values()),
        task_meta=metas["task_meta"],
        meta=metas["meta"] | changes,
    )
    slurm = connect(settings)
    journal = create_run(
        load_config(config_path),
        spec,
        settings,
        slurm,
        user=user,
        cache_dir=jobs["cache_dir"],
        work_dir=os.path.dirname(folder),
        account=account,
        say=say,
    )
    with journal.transaction():
        journal.put("retry_of", run_id)
        # Which task of the first run each is: of a retry of a retry, too.
        journal.put("retry_tasks", [first[index] if first else index for index in rows])
        journal.event("retry", run_id, f"{len(rows)} of its tasks")
    say(f"run {journal.get('run_id')} runs {count_of(len(rows), 'task')} of run {run_id} again")
    _drive(journal, settings, slurm, as_json)


def _drive(
    journal: Journal,
    settings: Settings,
    slurm: Slurm,
    as_json: bool,
    *,
    cancel: bool = False,
    resumed: bool = False,
) -> NoReturn:
    from ..driver.model import RunState
    from ..driver.runner import Detached, Runner
    from ..report import ProgressLine, print_summary

    line = ProgressLine()
    runner = Runner(journal, settings, slurm, say=line.say, show=line.show)
    if cancel:
        runner.interrupt()
    heed_signals(runner)
    journal.heeds_signals()
    line.say(f"run {runner.run.id}: as {runner.run.user}, tasks: {journal.get('tasks')}, jobs: {len(journal.jobs())}")
    with journal:
        if resumed and (tasks := runner.run.take_up_again()):
            line.say(f"what was refused is tried again: {tasks} tasks")
        try:
            runner.drive()
        except Detached:
            state = "the jobs were told to end" if runner.run.cancelled else "the jobs go on without a driver"
            line.say(f"{state}; later: fractal-slurm resume {runner.run.id}")
            sys.exit(EXIT_INTERRUPTED)
        except FractalSlurmError:
            line.close()
            if not any(job.may_be_out for job in journal.jobs()):
                journal.put("state", RunState.REFUSED)
            raise
        line.close()
        summary = runner.summary()
        if as_json:
            print_json(summary)
        else:
            print_summary(summary)
        if runner.run.cancelled:
            sys.exit(EXIT_INTERRUPTED)
        if runner.run.refusal:
            raise ClusterError(runner.run.refusal) if not as_json else SystemExit(ClusterError.exit_code)
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


@click.command()
@click.argument("run_id", metavar="RUN")
@json_option
@guarded
def cancel(run_id: str, as_json: bool) -> None:
    """Cancel a run: what has finished is kept."""
    from ..driver.journal import Journal, check_run_id, is_driven
    from ..driver.model import ENDED
    from ..driver.prepare import connect
    from ..settings import load_settings

    settings = load_settings()
    driver = is_driven(settings.state_path(), check_run_id(run_id))
    if driver is not None:
        if driver.host and driver.host != os.uname().nodename:
            raise RunError(f"run {run_id} is driven on host {driver.host} (pid {driver.pid}): cancel it there")
        if not driver.pid or not driver.heeds:
            raise RunError(
                f"run {run_id} is driven by another process ({driver}), which does not say that it cancels when it is "
                "told to: cancel it there, or end it, and try again"
            )
        os.kill(driver.pid, signal.SIGTERM)
        if as_json:
            print_json({"run_id": run_id, "signalled": driver.pid})
        else:
            click.echo(f"the driver of run {run_id} (pid {driver.pid}) was told to cancel it")
        return
    journal = Journal.open(settings.state_path(), run_id, drive=True)
    if journal.get("state") in ENDED:
        raise RunError(f"run {run_id} has ended already ({journal.get('state')})")
    _drive(journal, settings, connect(settings), as_json, cancel=True)
