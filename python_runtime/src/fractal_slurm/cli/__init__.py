# SPDX-License-Identifier: BSD-3-Clause
"""The command ``fractal-slurm``; a module for each group of commands.

Nothing heavy is imported at the top of any of them: ``--help`` and ``validate`` answer at once.
"""

from __future__ import annotations

import io
import os
import sys

import click

from .. import __version__
from ..errors import RunError
from . import checking, driving, looking, planning, reading
from .common import say
from .usage import Commands


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fractal-slurm")
def cli() -> None:
    """Run tasks on a SLURM cluster as other users, in as few jobs as possible."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that is not UTF-8 gets what it can't show spelled out.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


for _command in (
    planning.validate,
    planning.schema,
    planning.explain,
    planning.plan,
    planning.script,
    driving.run,
    driving.resume,
    driving.attach,
    driving.cancel,
    driving.retry,
    looking.status,
    looking.runs,
    looking.report,
    reading.logs,
    looking.prune,
    checking.doctor,
    checking.completion,
    checking.hook_path,
):
    cli.add_command(_command)


def main() -> None:
    """Entry point."""
    # We have no pydantic plugins, and looking for some costs a tenth of the time to the first answer.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    code: str | int | None = 0
    try:
        cli()
    except SystemExit as ended:
        code = ended.code
    except OSError as error:  # click prints the help by itself
        say(f"error: standard output: {error.strerror}")
        code = RunError.exit_code
    sys.exit(_written(code))


def _written(code: str | int | None) -> str | int | None:
    """Write what is left in the streams, so that Python need not complain at its end; return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            # Whoever closes a pipe has read enough.
            if stream is sys.stdout and not code and not isinstance(error, BrokenPipeError):
                say(f"error: standard output: {error.strerror}")
                code = RunError.exit_code
    return code
