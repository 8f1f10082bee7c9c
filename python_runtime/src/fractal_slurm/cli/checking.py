# SPDX-License-Identifier: BSD-3-Clause
"""Commands that look at this host."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..errors import ClusterError
from .common import (
    EXIT_TASKS_FAILED,
    complete_files,
    complete_folders,
    config_option,
    guarded,
    json_option,
    print_json,
)
from .usage import OneOf


@click.command()
@click.option("--user", "users", multiple=True, metavar="USER", help="Check that this user can be impersonated.")
@click.option(
    "--work-dir",
    "work_dirs",
    multiple=True,
    metavar="DIR",
    shell_complete=complete_folders,
    help="Check that runs of USER may work in it.",
)
@click.option(
    "--cache-dir",
    "cache_dirs",
    multiple=True,
    metavar="DIR",
    shell_complete=complete_folders,
    help="With --probe: USER's cache folder.",
)
@click.option("--probe", is_flag=True, help="Run a small task as each USER in each --work-dir.")
@click.option("--strict", is_flag=True, help="Exit with 1 where there are warnings.")
@click.option(
    "--textfile",
    metavar="FILE",
    shell_complete=complete_files,
    help="Write metrics for node_exporter, readable for everybody.",
)
@config_option
@json_option
@guarded
def doctor(
    users: tuple[str, ...],
    work_dirs: tuple[str, ...],
    cache_dirs: tuple[str, ...],
    probe: bool,
    strict: bool,
    textfile: str | None,
    config_path: str | None,
    as_json: bool,
) -> None:
    """Check that this host is ready; say what to do where it is not.

    Each line has a code, which docs/doctor.md explains. Exit codes: 0 no check failed, 3 one did, 1 with --strict:
    there are warnings.
    """
    from ..doctor.checks import examine
    from ..doctor.findings import Level
    from .printing import table

    if probe and not (users and work_dirs):
        raise click.UsageError("--probe needs --user and --work-dir")
    if work_dirs and not users:
        raise click.UsageError("--work-dir needs --user: whether a user may work in it")
    if cache_dirs and not probe:
        raise click.UsageError("--cache-dir needs --probe: a task looks at it, on a node")
    findings = examine(users, config_path, work_dirs, cache_dirs, with_probe=probe)
    if textfile is not None:
        from ..doctor.metrics import text_of
        from ..driver.folders import write_whole
        from ..settings import Settings, load_settings

        broken = any(finding.check == "settings" and not finding.ok for finding in findings)
        state_dir = (Settings() if broken else load_settings()).state_path()
        write_whole(Path(textfile), text_of(findings, state_dir), mode=0o644)
    if as_json:
        print_json([finding.document() for finding in findings])
    else:
        words = {Level.OK: "ok", Level.WARNING: "WARN", Level.FAILED: "FAIL"}
        rows = [(finding.code.value, finding.check, words[finding.level], finding.words) for finding in findings]
        table("", ("code", "check", "", "what was found, what to do"), rows)
        if any(finding.level is not Level.OK for finding in findings):
            click.echo("what the codes mean: docs/doctor.md")
    if not all(finding.ok for finding in findings):
        sys.exit(ClusterError.exit_code)
    sys.exit(EXIT_TASKS_FAILED if strict and any(finding.level is Level.WARNING for finding in findings) else 0)


@click.command()
@guarded
def hook_path() -> None:
    """Print the path of the job hook for fractal-server.

    The line ". PATH" in extra_lines makes fractal-server's own jobs run their tasks without an srun a task.
    """
    from ..settings import load_settings

    click.echo(load_settings().hook())


@click.command()
@click.argument("shell", metavar="SHELL", type=OneOf(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completions of SHELL (bash, zsh or fish); the role fractal.slurm.runtime installs them.

    For the shell that you are in: source <(fractal-slurm completion bash)
    """
    from click.shell_completion import ShellComplete, get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - these three are click's own
    completer = found(context.find_root().command, {}, "fractal-slurm", "_FRACTAL_SLURM_COMPLETE")
    # Not the class's own: that of bash asks which bash there is here.
    click.echo(ShellComplete.source(completer))
