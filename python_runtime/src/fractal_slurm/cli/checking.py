# SPDX-License-Identifier: BSD-3-Clause
"""Commands that look at this host."""

from __future__ import annotations

import sys

import click

from ..errors import ClusterError
from .common import config_option, guarded, json_option, print_json


@click.command()
@click.option("--user", "users", multiple=True, metavar="USER", help="Check that this user can be impersonated.")
@click.option("--work-dir", "work_dirs", multiple=True, metavar="DIR", help="Check that runs of USER may work in it.")
@config_option
@json_option
@guarded
def doctor(users: tuple[str, ...], work_dirs: tuple[str, ...], config_path: str | None, as_json: bool) -> None:
    """Check that this host is ready; say what to do where it is not."""
    from ..doctor import examine
    from ..report import table

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


@click.command()
@guarded
def hook_path() -> None:
    """Print the path of the job hook for fractal-server.

    The line ". PATH" in extra_lines makes fractal-server's own jobs run their tasks without an srun a task.
    """
    from ..settings import load_settings

    click.echo(load_settings().hook())
