# SPDX-License-Identifier: BSD-3-Clause
"""What a command line may not say, in words of ours: what is wrong, what is allowed, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..errors import shown

# What to do where an argument is missing; of an option its help says it.
_MISSING = {
    "RUN": "fractal-slurm status lists the runs",
    "SPEC": 'give a file in JSON or YAML, or "-" for standard input',
    "SPEC...": 'give files in JSON or YAML, or "-" for standard input',
}


class OneOf(click.Choice):  # type: ignore[type-arg, unused-ignore]
    """One of a few words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse any other word."""
        if value not in self.choices:
            raise click.BadParameter(f"found {shown(value)}; {_listed(self)} are allowed", ctx, param)
        return value


class Numbered(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A whole number, counted from 1."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Refuse what is no number."""
        number = value if isinstance(value, int) else whole_number(value)
        if number is None:
            raise click.BadParameter(f"found {shown(value)}; a whole number from 1 is allowed", ctx, param)
        return number


class Commands(click.Group):
    """Commands, each of which refuses a wrong command line in our words."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read what stands before the command."""
        with _in_our_words():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Read what stands after the command, and run it."""
        with _in_our_words(ctx):
            return super().invoke(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command that is named."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            from ..config.faults import unknown

            raise click.UsageError(f"{shown(name)}: {unknown(name, known, 'command')}", ctx)
        return super().resolve_command(ctx, args)


def whole_number(text: str) -> int | None:
    """A number that an argument names; None where it is none."""
    return int(text) if re.fullmatch("-?[0-9]{1,18}", text) else None


def only_one_of(given: dict[str, object], advice: str = "give one of them") -> None:
    """Refuse options that contradict each other.

    Args:
        given: What was given for each of them, by its name.
        advice: What to do.

    Raises:
        click.UsageError: More than one was given.
    """
    names = [name for name, value in given.items() if value not in (None, False)]
    if len(names) > 1:
        raise click.UsageError(f"{' and '.join(names)} contradict each other: {advice}")


@contextmanager
def _in_our_words(group: click.Context | None = None) -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        where = error.ctx or _command_of(group)
        words = None if where is None else _words(error, where)
        if words is None:
            raise
        raise click.UsageError(words, where) from None


def _command_of(group: click.Context | None) -> click.Context | None:
    """The command that was named, for an error that does not say which one it was."""
    name = None if group is None else group.invoked_subcommand
    if group is None or name is None or not isinstance(group.command, click.Group):
        return group
    command = group.command.get_command(group, name)
    return group if command is None else click.Context(command, parent=group, info_name=name)


def _words(error: click.UsageError, where: click.Context) -> str | None:
    """Our words for an error of click's; None for one that has ours already."""
    param = getattr(error, "param", None)
    if isinstance(error, click.MissingParameter) and param is not None:
        if isinstance(param.type, click.Choice):
            return f"{_name(param, where)} is missing: {_listed(param.type)} are allowed"
        advice = getattr(param, "help", None) or _MISSING.get(param.metavar)
        return f"{_name(param, where)} is missing" + (f": {advice}" if advice else "")
    if isinstance(error, click.BadParameter) and param is not None:
        return f"{_name(param, where)}: {error.message}"
    if isinstance(error, click.NoSuchOption):
        near = list(error.possibilities or ())
        return f"{where.info_name} has no option {error.option_name}" + (f"; did you mean {near[0]}?" if near else "")
    if isinstance(error, click.BadOptionUsage):
        options = [each for each in where.command.params if error.option_name in each.opts]
        if not options:
            return None
        is_flag = getattr(options[0], "is_flag", False)
        return f"{error.option_name} takes no value" if is_flag else f"{_name(options[0], where)} needs a value"
    extra = re.fullmatch(r"Got unexpected extra arguments? \((.*)\)", error.message, re.DOTALL)
    return f"{extra[1]}: nothing more may be given here" if extra else None


def _name(param: click.Parameter, where: click.Context) -> str:
    """A parameter as it is written: ``--user USER``, ``RUN``."""
    if isinstance(param, click.Option):
        return f"{param.opts[0]} {param.metavar}" if param.metavar else param.opts[0]
    return param.metavar or param.human_readable_name


def _listed(choice: click.Choice) -> str:  # type: ignore[type-arg, unused-ignore]
    """What is allowed: ``a, b and c``."""
    *first, last = choice.choices
    return f"{', '.join(first)} and {last}"
