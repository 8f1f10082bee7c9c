# SPDX-License-Identifier: BSD-3-Clause
"""What the commands share: sentences, JSON, errors and options."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import FractalSlurmError, RunError, one_line

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..config.file import SlurmConfigFile
    from ..driver.journal import Journal

_MOST_COMPLETIONS = 50
EXIT_TASKS_FAILED, EXIT_INTERRUPTED = 1, 130
_Command = TypeVar("_Command", bound=Callable[..., Any])


def complete_runs(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """For a shell: the runs of this account whose ids begin so, newest first."""
    from click.shell_completion import CompletionItem

    from ..driver.journal import run_ids
    from ..settings import load_settings

    try:
        found = run_ids(load_settings().state_path())
    except (FractalSlurmError, OSError):
        return []
    return [CompletionItem(run_id) for run_id in reversed(found) if run_id.startswith(begun)][:_MOST_COMPLETIONS]


def complete_files(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """For a shell: that a file is meant; it finds them itself."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(begun, type="file")]


def complete_folders(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """For a shell: that a folder is meant; it finds them itself."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(begun, type="dir")]


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to standard output.")
config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    shell_complete=complete_files,
    help="The config file; else FRACTAL_SLURM_CONFIG_FILE, else /etc/fractal/slurm_config.json.",
)
account_option = click.option("--account", metavar="NAME", help="Account from the user's settings.")


def say(sentence: str) -> None:
    """A sentence for a person, on standard error."""
    from ..terminal import indented

    with contextlib.suppress(OSError):  # the terminal is gone
        click.echo(indented(sentence), err=True)


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    from ..terminal import json_text

    click.echo(json_text(document, indent=2).encode())


def guarded(command: _Command) -> _Command:
    """Errors of ours end a command with their sentences and their exit code; none of them gets a traceback."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except FractalSlurmError as error:
            if kwargs.get("as_json"):
                print_json({"errors": error.messages})
            for message in error.messages:
                say(f"error: {message}")
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            say("interrupted; fractal-slurm status shows what has begun")
            sys.exit(EXIT_INTERRUPTED)
        except Exception as error:
            # By name: importing sqlite3 for this alone would delay every answer.
            if not isinstance(error, OSError) and type(error).__module__ != "sqlite3":
                raise
            if isinstance(error, BrokenPipeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(EXIT_TASKS_FAILED)
            say(f"error: {error}; the journal has all that was done so far: fractal-slurm status")
            sys.exit(RunError.exit_code)

    return wrapper  # type: ignore[return-value]


def task_index(journal: Journal, text: str) -> int:
    """The task of a run that an argument names.

    Raises:
        RunError: There is no such task.
    """
    from ..report import no_such_task
    from .usage import whole_number

    index = whole_number(text)
    if index is None or journal.task(index) is None:
        raise no_such_task(journal, one_line(text, 80))
    return index


def load_config(path: str | None) -> SlurmConfigFile:
    """Read the config file, and print its warnings."""
    from ..config.file import config_warnings, named_config_file

    file, config = named_config_file(path)
    for warning in config_warnings(config):
        say(f"warning: {file}: {warning}")
    return config
