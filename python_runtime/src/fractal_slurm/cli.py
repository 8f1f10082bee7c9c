# SPDX-License-Identifier: BSD-3-Clause
"""The command ``fractal-slurm``.

Nothing heavy is imported at the top: ``--help`` and ``validate`` answer at once.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from . import __version__
from .errors import ClusterError, FractalSlurmError, RunError

if TYPE_CHECKING:
    from .cluster.commands import Slurm
    from .cluster.facts import Cluster
    from .config.file import SlurmConfigFile
    from .config.resolve import Resolution
    from .driver.journal import Journal
    from .driver.runner import Runner
    from .settings import Settings
    from .spec import Spec

EXIT_TASKS_FAILED, EXIT_INTERRUPTED = 1, 130
# Time to think again, after Ctrl-C.
CANCEL_DELAY_S = 2
_Command = TypeVar("_Command", bound=Callable[..., Any])

_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to standard output.")
_config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help="The config file; else FRACTAL_SLURM_CONFIG_FILE, else /etc/fractal/slurm_config.json.",
)
_account_option = click.option("--account", metavar="NAME", help="Account from the user's settings.")


def say(sentence: str) -> None:
    """A sentence for a person, on standard error."""
    from .report import indented

    with contextlib.suppress(OSError):  # the terminal is gone
        click.echo(indented(sentence), err=True)


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    from .report import json_text

    click.echo(json_text(document, indent=2).encode())


def _guarded(command: _Command) -> _Command:
    """Errors of ours end a command with their sentences and their exit code; none of them gets a traceback."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except FractalSlurmError as error:
            if kwargs.get("as_json"):
                print_json({"errors": error.messages})
            for message in error.messages:
                say(f"error: {message}")
            sys.exit(error.exit_code)
        except Exception as error:
            # By name: importing sqlite3 for this alone would delay every answer.
            if not isinstance(error, OSError) and type(error).__module__ != "sqlite3":
                raise
            if isinstance(error, BrokenPipeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(EXIT_TASKS_FAILED)
            say(f"error: {error}; the journal has all that was done so far: fractal-slurm status")
            sys.exit(RunError.exit_code)

    return guarded  # type: ignore[return-value]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fractal-slurm")
def cli() -> None:
    """Run tasks on a SLURM cluster as other users, in as few jobs as possible."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 gets what it can't show spelled out.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# -- nothing is submitted ---------------------------------------------------------------------------------


def _config_path(path: str | None) -> str:
    from .config.file import DEFAULT_CONFIG_FILE, ENVIRONMENT_VARIABLE

    return path or os.environ.get(ENVIRONMENT_VARIABLE) or str(DEFAULT_CONFIG_FILE)


def _load_config(path: str | None) -> SlurmConfigFile:
    from .config.file import config_warnings, load_config_file

    file = _config_path(path)
    config = load_config_file(file)
    for warning in config_warnings(config):
        say(f"warning: {file}: {warning}")
    return config


@cli.command()
@click.argument("files", nargs=-1, metavar="FILE...")
@click.option("--cluster", is_flag=True, help="Compare with the live cluster, too.")
@click.option("--user", "users", multiple=True, metavar="USER", help="With --cluster: look at this user's limits.")
@_json_option
@_guarded
def validate(files: tuple[str, ...], cluster: bool, users: tuple[str, ...], as_json: bool) -> None:
    """Check config files; a line for each fault."""
    from .config.file import config_warnings, load_config_file
    from .errors import ConfigFileError

    facts = _facts(users) if cluster else None
    rows = []
    for file in files or (_config_path(None),):
        row: dict[str, Any] = {"file": file, "valid": True, "errors": [], "warnings": [], "advice": []}
        try:
            config = load_config_file(file)
            row["warnings"] = [f"{file}: {warning}" for warning in config_warnings(config)]
            if facts is not None:
                from .cluster.fit import Severity, check

                lists = {Severity.ERROR: "errors", Severity.WARNING: "warnings", Severity.ADVICE: "advice"}
                for finding in check(config, facts, users=users):
                    row[lists[finding.severity]].append(f"{file}: {finding}")
        except ConfigFileError as error:
            row["errors"] = error.messages
        row["valid"] = not row["errors"]
        rows.append(row)
        for kind, word in (("errors", "error"), ("warnings", "warning"), ("advice", "advice")):
            for message in row[kind]:
                say(f"{word}: {message}")
        if row["valid"] and not as_json:
            click.echo(f"{file}: valid{', and fits the cluster' if cluster else ''}")
    if as_json:
        print_json(rows)
    sys.exit(0 if all(row["valid"] for row in rows) else FractalSlurmError.exit_code)


def _facts(users: tuple[str, ...]) -> Cluster:
    from .driver.prepare import connect
    from .settings import load_settings

    return connect(load_settings()).facts(users)


@cli.command()
@_json_option
@_guarded
def schema(as_json: bool) -> None:
    """Print the JSON Schema of the config file."""
    from .config.file import json_schema

    print_json(json_schema())


def _resolved(spec_path: str, config_path: str | None, account: str | None) -> tuple[Spec, Resolution]:
    from .driver.prepare import resolve_spec
    from .errors import FractalSlurmError
    from .spec import load_spec

    faults: list[str] = []
    config, spec = None, None
    try:
        config = _load_config(config_path)
    except FractalSlurmError as error:
        faults += error.messages
    try:
        spec = load_spec(spec_path)
    except FractalSlurmError as error:
        faults += error.messages
    if config is None or spec is None:
        raise FractalSlurmError(faults)
    resolution = resolve_spec(config, spec, account)
    return spec, resolution


@cli.command()
@click.argument("spec_path", metavar="SPEC")
@_config_option
@_account_option
@_json_option
@_guarded
def explain(spec_path: str, config_path: str | None, account: str | None, as_json: bool) -> None:
    """Show every option of a unit of work, and where its value came from."""
    from dataclasses import asdict

    from .report import table

    _spec, resolution = _resolved(spec_path, config_path, account)
    values = asdict(resolution.config)
    for warning in resolution.warnings:
        say(f"warning: {warning}")
    if as_json:
        batching = {**resolution.batching._asdict(), "branch": resolution.batching.branch.value}
        print_json(
            {"config": values, "sources": resolution.sources, "batching": batching, "warnings": resolution.warnings}
        )
        return
    rows = [
        (
            name,
            json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value,
            resolution.sources[name],
        )
        for name, value in values.items()
        if value not in (None, [], {})
    ]
    table("", ("option", "value", "from"), rows)
    click.echo(f"batching, by {resolution.batching.branch.value}: {resolution.batching.reason}")


@cli.command()
@click.argument("spec_path", metavar="SPEC")
@_config_option
@_account_option
@click.option("--cluster", is_flag=True, help="Heed the limits of the live cluster.")
@click.option("--user", metavar="USER", help="With --cluster: heed this user's limits, too.")
@_json_option
@_guarded
def plan(
    spec_path: str, config_path: str | None, account: str | None, cluster: bool, user: str | None, as_json: bool
) -> None:
    """Show which jobs a unit of work would become."""
    from .config.walltime import format_walltime
    from .driver.prepare import connect, job_settings, walltime_of
    from .jobs.plan import fit_scripts, make_plan
    from .report import table
    from .settings import load_settings

    settings = load_settings()
    spec, resolution = _resolved(spec_path, config_path, account)
    facts = connect(settings).facts([user] if user else ()) if cluster else None
    jobs = job_settings(
        spec,
        settings,
        run_folder="/work",
        cache_dir="/cache",
        cluster=facts,
        max_walltime=walltime_of(facts, resolution, user or "") if facts else None,
    )
    outcome = fit_scripts(make_plan(resolution, jobs, len(spec.parameters)), jobs, spec.parameters)
    config = outcome.config
    limit = None if outcome.job_limit_s is None else format_walltime(outcome.job_limit_s)
    slots = min(config.parallel_tasks_per_job, len(outcome.batches[0]))
    for warning in resolution.warnings:
        say(f"warning: {warning}")
    document = {
        "tasks": len(spec.parameters),
        "jobs": len(outcome.batches),
        "tasks_per_job": config.tasks_per_job,
        "parallel_tasks_per_job": config.parallel_tasks_per_job,
        "cpus_per_job": slots * config.cpus_per_task,
        "mem_per_job_MB": slots * config.mem_per_task_MB,
        "time_per_task": config.time,
        "time_per_job": limit,
        "branch": resolution.batching.branch.value,
        "reason": outcome.reason,
        "warnings": resolution.warnings,
    }
    if as_json:
        print_json(document)
        return
    table("", ("plan", ""), [(name, value) for name, value in document.items() if value not in (None, [])])


@cli.command()
@click.argument("spec_path", metavar="SPEC")
@click.option("--job", "number", default=1, metavar="N", help="Which job's script, from 1.")
@click.option("--cache-dir", default="/cache_dir", metavar="DIR", help="The user's cache_dir.")
@click.option("--work-dir", default="/work_dir", metavar="DIR", help="The user's work folder.")
@_config_option
@_account_option
@_json_option
@_guarded
def script(
    spec_path: str,
    number: int,
    cache_dir: str,
    work_dir: str,
    config_path: str | None,
    account: str | None,
    as_json: bool,
) -> None:
    """Print the sbatch script of one of the jobs."""
    from .driver.prepare import check_cache_dir, job_settings
    from .jobs.plan import fit_scripts, make_plan
    from .jobs.script import render
    from .settings import load_settings
    from .sudo import clean_path

    spec, resolution = _resolved(spec_path, config_path, account)
    work_dir = clean_path(work_dir, "--work-dir")
    check_cache_dir(cache_dir)
    jobs = job_settings(spec, load_settings(), run_folder=f"{work_dir}/RUN", cache_dir=cache_dir)
    outcome = fit_scripts(make_plan(resolution, jobs, len(spec.parameters)), jobs, spec.parameters)
    if not 1 <= number <= len(outcome.batches):
        raise RunError(f"--job {number}: there are {len(outcome.batches)} jobs, numbered from 1")
    tasks = [(index, 0, spec.parameters[index]) for index in outcome.batches[number - 1]]
    text = render(outcome.config, jobs, token="0" * 16, tasks=tasks).decode("utf-8")
    if as_json:
        print_json({"job": number, "script": text})
    else:
        click.echo(text, nl=False)


# -- runs -------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("spec_path", metavar="SPEC")
@click.option("--user", required=True, metavar="USER", help="Whom to run the tasks as.")
@click.option("--cache-dir", required=True, metavar="DIR", help="The user's cache_dir, base of user_local_exports.")
@click.option("--work-dir", required=True, metavar="DIR", help="A folder that the user can write, on the nodes too.")
@click.option(
    "--task-start",
    type=click.Choice(["fresh", "fork"]),
    help="Whether tasks with a Python script share their imports; else as our settings say.",
)
@_config_option
@_account_option
@_json_option
@_guarded
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
    """Run a unit of work, and wait for it."""
    from dataclasses import replace

    from .driver.prepare import connect, create_run
    from .settings import load_settings
    from .spec import load_spec

    settings = load_settings()
    if task_start:
        settings = replace(settings, task_start=task_start)
    faults: list[str] = []
    loaded: list[Any] = []
    for load in (lambda: _load_config(config_path), lambda: load_spec(spec_path)):
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


@cli.command()
@click.argument("run_id", metavar="RUN")
@_json_option
@_guarded
def resume(run_id: str, as_json: bool) -> None:
    """Go on with a run whose driver is gone."""
    from .driver.journal import Journal
    from .driver.prepare import connect
    from .settings import load_settings

    settings = load_settings()
    journal = Journal.open(settings.state_path(), run_id, drive=True)
    _drive(journal, settings, connect(settings), as_json, resumed=True)


def _drive(
    journal: Journal,
    settings: Settings,
    slurm: Slurm,
    as_json: bool,
    *,
    cancel: bool = False,
    resumed: bool = False,
) -> NoReturn:
    from .driver.runner import Detached, Runner
    from .report import ProgressLine, print_summary

    line = ProgressLine()
    runner = Runner(journal, settings, slurm, say=line.say, show=line.show)
    if cancel:
        runner.interrupt()
    _heed_signals(runner)
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
            if not any(job.slurm_job_id or job.state == "submitting" for job in journal.jobs()):
                journal.put("state", "refused")
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


def _heed_signals(runner: Runner) -> None:
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


@cli.command()
@click.argument("run_id", metavar="RUN")
@_json_option
@_guarded
def cancel(run_id: str, as_json: bool) -> None:
    """Cancel a run: what has finished is kept."""
    from .driver.journal import ENDED, Journal, check_run_id, is_driven
    from .driver.prepare import connect
    from .settings import load_settings

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


@cli.command()
@_json_option
@_guarded
def status(as_json: bool) -> None:
    """List the runs."""
    import time

    from .driver.journal import Journal, is_driven, run_ids, state_now
    from .report import table
    from .settings import load_settings

    state_dir = load_settings().state_path()
    rows = []
    for run_id in run_ids(state_dir):
        row: dict[str, Any] = {"run_id": run_id, "state": "damaged"}
        try:
            with Journal.open(state_dir, run_id, drive=False) as journal:
                driver = is_driven(state_dir, run_id)
                counts = journal.counts()
                row |= {
                    "state": state_now(journal.get("state", "unknown"), driver),
                    "user": journal.get("user"),
                    "task_name": journal.get("task_name"),
                    "created": journal.get("created"),
                    "tasks": sum(counts.values()),
                    "succeeded": counts.get("succeeded", 0),
                    "failed": counts.get("failed", 0),
                    "not_run": counts.get("not_run", 0),
                    "jobs": sum(job.slurm_job_id is not None for job in journal.jobs()),
                    "driver": None if driver is None else {"host": driver.host, "pid": driver.pid},
                }
                if journal.damage:
                    row["state"] = "damaged"
                    raise RunError(journal.damage)
        except RunError as error:
            for message in error.messages:
                say(f"warning: {message}")
        rows.append(row)
    if as_json:
        print_json(rows)
        return
    columns = ("run_id", "state", "user", "task_name", "tasks", "succeeded", "failed", "not_run", "jobs")
    began = [
        time.strftime("%Y-%m-%d %H:%M", time.localtime(row["created"])) if row.get("created") else "" for row in rows
    ]
    table(
        f"runs in {state_dir}",
        ("began", *columns),
        [(when, *(row.get(column) for column in columns)) for when, row in zip(began, rows, strict=True)],
    )
    if any(row["state"] == "interrupted" for row in rows):
        click.echo("interrupted runs go on with: fractal-slurm resume RUN")


@cli.command()
@click.argument("run_id", metavar="RUN")
@click.option("--log", "log_of", type=int, metavar="TASK", help="Print the whole log of one task.")
@click.option("--events", is_flag=True, help="Print what happened, in order.")
@_json_option
@_guarded
def report(run_id: str, log_of: int | None, events: bool, as_json: bool) -> None:
    """Show the jobs and tasks of a run."""
    import time

    from .driver.journal import Journal, is_driven, state_now
    from .driver.prepare import connect
    from .report import indented, plain, print_report, report_json, run_head, task_log, task_rows
    from .settings import load_settings

    def warn(journal: Journal) -> None:
        for message in journal.damage:
            say(f"warning: {message}")

    settings = load_settings()
    with Journal.open(settings.state_path(), run_id, drive=False) as journal:
        if log_of is not None:
            for chunk in task_log(journal, connect(settings).sudo, log_of):
                if sys.stdout.isatty():
                    click.echo(plain(chunk.decode("utf-8", "replace")), nl=False)
                else:
                    sys.stdout.buffer.write(chunk)
            return
        if events:
            rows = journal.events()
            if as_json:
                print_json([dict(zip(("at", "what", "subject", "detail"), row, strict=True)) for row in rows])
                warn(journal)
                return
            for at, what, subject, detail in rows:
                when = time.strftime("%H:%M:%S", time.localtime(at))
                click.echo(indented(f"{when}  {what}  {subject}  {detail}", by=10))
            warn(journal)
            return
        head = run_head(journal)
        head["state"] = state_now(head["state"] or "unknown", is_driven(settings.state_path(), run_id))
        if as_json:
            for piece in report_json(head, task_rows(journal), journal.damage):
                click.echo(piece.encode(), nl=False)
        else:
            unfinished = task_rows(journal, "waiting", "cut", "failed", "not_run")
            print_report(head, unfinished, journal.counts())
        warn(journal)


@cli.command()
@click.option(
    "--older-than", required=True, metavar="AGE", help="Of runs that ended so long ago: 30d (days), or 12h (hours)."
)
@click.option("--dry-run", is_flag=True, help="Only show which ones.")
@_json_option
@_guarded
def prune(older_than: str, dry_run: bool, as_json: bool) -> None:
    """Remove the journals of runs that have ended: args, results and the ends of logs are in them."""
    import time

    from .driver.journal import prune as prune_journals
    from .settings import load_settings

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


@cli.command()
@click.option("--user", "users", multiple=True, metavar="USER", help="Check that this user can be impersonated.")
@click.option("--work-dir", "work_dirs", multiple=True, metavar="DIR", help="Check that runs of USER may work in it.")
@_config_option
@_json_option
@_guarded
def doctor(users: tuple[str, ...], work_dirs: tuple[str, ...], config_path: str | None, as_json: bool) -> None:
    """Check that this host is ready; say what to do where it is not."""
    from .doctor import examine
    from .report import table

    findings = examine(users, config_path, work_dirs)
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        table(
            "",
            ("check", "", "what was found, what to do"),
            [(f.check, "ok" if f.ok else "FAIL", f.words) for f in findings],
        )
    sys.exit(0 if all(finding.ok for finding in findings) else ClusterError.exit_code)


def main() -> None:
    """Entry point."""
    # We have no pydantic plugins, and looking for some costs a tenth of the time to the first answer.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    cli()


if __name__ == "__main__":
    main()
