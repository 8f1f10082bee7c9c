# SPDX-License-Identifier: BSD-3-Clause
"""Commands that submit nothing: what is valid, what a unit of work would become."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from ..errors import FractalSlurmError, RunError, count_of
from .common import (
    account_option,
    complete_files,
    complete_folders,
    config_option,
    guarded,
    json_option,
    load_config,
    print_json,
    say,
)
from .usage import Numbered

if TYPE_CHECKING:
    from ..cluster.facts import Cluster
    from ..config.batching import Batching
    from ..config.resolve import Resolution
    from ..config.whatif import Change
    from ..spec import Spec


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...", shell_complete=complete_files)
@click.option("--cluster", is_flag=True, help="Compare with the live cluster, too.")
@click.option("--user", "users", multiple=True, metavar="USER", help="With --cluster: look at this user's limits.")
@json_option
@guarded
def validate(files: tuple[str, ...], cluster: bool, users: tuple[str, ...], as_json: bool) -> None:
    """Check config files; a line for each fault."""
    from ..config.file import config_path, config_warnings, load_config_file, named_config_file
    from ..errors import ConfigFileError

    _check_user(users, cluster=cluster)
    facts = _facts(users) if cluster else None
    rows = []
    for file in files or (config_path(),):
        row: dict[str, Any] = {"file": file, "valid": True, "errors": [], "warnings": [], "advice": []}
        try:
            config = load_config_file(file) if files else named_config_file(argument="FILE")[1]
            row["warnings"] = [f"{file}: {warning}" for warning in config_warnings(config)]
            if facts is not None:
                from ..cluster.fit import Severity, check

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


def _check_user(user: object, *, cluster: bool) -> None:
    """Refuse a user whose limits nobody looks at."""
    if user and not cluster:
        raise click.UsageError("--user needs --cluster: the limits of a user are the cluster's")


def _facts(users: tuple[str, ...]) -> Cluster:
    from ..driver.prepare import connect, facts_of
    from ..settings import load_settings

    return facts_of(connect(load_settings()), users, timeout=None)


@click.command()
@json_option
@guarded
def schema(as_json: bool) -> None:
    """Print the JSON Schema of the config file."""
    from ..config.file import json_schema

    print_json(json_schema())


def _resolved(spec_path: str, config_path: str | None, account: str | None) -> tuple[Spec, Resolution]:
    from ..driver.prepare import resolve_spec
    from ..errors import FractalSlurmError
    from ..spec import load_spec

    faults: list[str] = []
    config, spec = None, None
    try:
        config = load_config(config_path)
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


@click.command()
@click.argument("spec_path", metavar="SPEC", shell_complete=complete_files)
@config_option
@account_option
@json_option
@guarded
def explain(spec_path: str, config_path: str | None, account: str | None, as_json: bool) -> None:
    """Show every option of a unit of work, what set it, and why its tasks are batched as they are."""
    from dataclasses import asdict

    from ..config.whatif import bound_by, changes
    from .printing import table

    spec, resolution = _resolved(spec_path, config_path, account)
    values, batching = asdict(resolution.config), resolution.batching
    bound = bound_by(resolution.config, batching)
    others = changes(resolution.config, batching, len(spec.parameters))
    for warning in resolution.warnings:
        say(f"warning: {warning}")
    if as_json:
        decided = {**_batching_row(batching), "bound_by": bound}
        print_json(
            {
                "config": values,
                "sources": resolution.sources,
                "overridden": {
                    name: [{"source": source, "value": value} for source, value in lost]
                    for name, lost in resolution.overridden.items()
                },
                "batching": decided,
                "changes": [{**change._asdict(), "batching": _batching_row(change.batching)} for change in others],
                "warnings": resolution.warnings,
            }
        )
        return

    def shown(value: object) -> object:
        return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value

    rows = [
        (
            name,
            "none" if value is None else shown(value),
            resolution.sources[name],
            ", ".join(
                f"{'none' if was is None else shown(was)} ({source})"
                for source, was in resolution.overridden.get(name, [])
            ),
        )
        for name, value in values.items()
        if value not in (None, [], {}) or name in resolution.overridden
    ]
    table("", ("option", "value", "from", "in place of"), rows)
    click.echo(f"batching, by {batching.branch.value}: {batching.reason}")
    if bound:
        limits = (f"{name} ({shown(values[name])}, {resolution.sources[name]})" for name in bound)
        click.echo(f"what held it there: {', '.join(limits)}")
    if others:
        click.echo("what one change would do (time: with all jobs running at once):")
    for change in others:
        click.echo(f"  {_words_of(change, batching)}")


def _batching_row(batching: Batching) -> dict[str, Any]:
    return {**batching._asdict(), "branch": batching.branch.value}


def _words_of(change: Change, now: Batching) -> str:
    """What a change would do, in words."""
    other = change.batching
    after = "left out" if change.after is None else change.after
    if (other.num_jobs, other.tasks_per_job) != (now.num_jobs, now.tasks_per_job):
        jobs = count_of(other.num_jobs, "job")
        what = f"{jobs} of {other.tasks_per_job} in place of {now.num_jobs} of {now.tasks_per_job}"
    else:
        what = f"{other.parallel_tasks_per_job} tasks of a job at a time in place of {now.parallel_tasks_per_job}"
    return f"{change.option} {change.before} -> {after}: {what}, {_times(change.time_ratio)} of the time"


def _times(ratio: float) -> str:
    """A ratio with two digits that count."""
    return f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"


@click.command()
@click.argument("spec_path", metavar="SPEC", shell_complete=complete_files)
@config_option
@account_option
@click.option("--cluster", is_flag=True, help="Use the limits of the live cluster.")
@click.option("--user", metavar="USER", help="With --cluster: use this user's limits, too.")
@json_option
@guarded
def plan(
    spec_path: str, config_path: str | None, account: str | None, cluster: bool, user: str | None, as_json: bool
) -> None:
    """Show which jobs a unit of work would become."""
    from ..config.walltime import format_walltime
    from ..driver.prepare import connect, facts_of, job_settings, walltime_of
    from ..jobs.plan import fit_scripts, make_plan
    from ..settings import load_settings
    from .printing import table

    _check_user(user, cluster=cluster)
    settings = load_settings()
    spec, resolution = _resolved(spec_path, config_path, account)
    facts = facts_of(connect(settings), [user] if user else (), timeout=None) if cluster else None
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
        "mem_per_job_MB": slots * config.memory_mb,
        "time_per_task": config.time,
        "time_per_job": limit,
        "branch": resolution.batching.branch.value,
        "reason": outcome.reason,
        "warnings": resolution.warnings,
    }
    if as_json:
        print_json(document)
        return
    table("", ("plan", ""), [row for row in document.items() if row[0] != "warnings" and row[1] is not None])


@click.command()
@click.argument("spec_path", metavar="SPEC", shell_complete=complete_files)
@click.option("--job", "number", type=Numbered(), default=1, metavar="N", help="Which job's script, from 1.")
@click.option(
    "--cache-dir", default="/cache_dir", metavar="DIR", shell_complete=complete_folders, help="The user's cache_dir."
)
@click.option(
    "--work-dir", default="/work_dir", metavar="DIR", shell_complete=complete_folders, help="The user's work folder."
)
@config_option
@account_option
@json_option
@guarded
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
    from ..driver.prepare import check_cache_dir, job_settings
    from ..jobs import layout
    from ..jobs.plan import fit_scripts, make_plan
    from ..jobs.script import render
    from ..settings import load_settings
    from ..sudo_rules import clean_path

    spec, resolution = _resolved(spec_path, config_path, account)
    work_dir = clean_path(work_dir, "--work-dir")
    check_cache_dir(cache_dir)
    jobs = job_settings(
        spec, load_settings(), run_folder=layout.run_folder(work_dir, "RUN"), cache_dir=cache_dir, run_id="RUN"
    )
    outcome = fit_scripts(make_plan(resolution, jobs, len(spec.parameters)), jobs, spec.parameters)
    if not 1 <= number <= len(outcome.batches):
        raise RunError(f"--job {number}: the spec becomes {count_of(len(outcome.batches), 'job')}, numbered from 1")
    tasks = [(index, 0, spec.parameters[index]) for index in outcome.batches[number - 1]]
    text = render(outcome.config, jobs, token="0" * 16, tasks=tasks).decode("utf-8")
    if as_json:
        print_json({"job": number, "script": text})
    else:
        click.echo(text, nl=False)
