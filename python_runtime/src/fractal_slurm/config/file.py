# SPDX-License-Identifier: BSD-3-Clause
"""FRACTAL_SLURM_CONFIG_FILE: the models of Fractal's config file, their validation and their JSON Schema.

The file belongs to Fractal: it stays loadable by fractal-server, and nothing of ours goes into it.
Input is read lax (``"2"`` is a fine number of CPUs), since templates often hand numbers over as strings;
what is written is the model's own dump.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from ..errors import ConfigFileError, FractalSlurmError, shown
from .memory import parse_memory
from .walltime import parse_walltime

DEFAULT_CONFIG_FILE = Path("/etc/fractal/slurm_config.json")
ENVIRONMENT_VARIABLE = "FRACTAL_SLURM_CONFIG_FILE"

# A file of thousands of extra_lines takes a tenth of it.
_MOST_BYTES = 1 << 24
# Lone surrogates are no characters: JSON can spell them ("\ud800"), but UTF-8 can't hold them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# What may stand in the value of an #SBATCH option. sbatch splits those lines at blanks, honours
# quotes and backslashes, and takes the rest of a line from a "#" on for a comment.
_OPTION_VALUE = re.compile(r"[^\s\"'\\#\x00-\x1f\x7f-\x9f-][^\s\"'\\#\x00-\x1f\x7f-\x9f]*")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Options that the engine sets and relies on, and so can't come from extra_lines: long name -> what to do instead.
RESERVED_OPTIONS = {
    "job-name": "the engine names its jobs",
    "comment": "the engine marks its jobs with it",
    "array": "the engine makes the jobs",
    "output": "the engine keeps the logs",
    "error": "the engine keeps the logs",
    "open-mode": "the engine keeps the logs",
    "input": "the engine feeds the jobs",
    "chdir": "the engine chooses the folder",
    "clusters": "the engine watches one cluster",
    "export": "the engine chooses the environment; write an export line instead",
    "export-file": "the engine chooses the environment; write an export line instead",
    "get-user-env": "the engine chooses the environment",
    "propagate": "the engine chooses the limits",
    "wrap": "the engine writes the script",
    "wait": "the engine waits by itself",
    "parsable": "the engine reads the job's id",
    "test-only": "nothing would be submitted",
    "uid": "the engine submits as the user",
    "gid": "the engine submits as the user",
    "ntasks": "set batching_config, tasks_per_job and parallel_tasks_per_job instead",
    "tasks": "set batching_config, tasks_per_job and parallel_tasks_per_job instead",
    "cpus-per-task": 'set "cpus_per_task" instead',
    "mem": 'set "mem" instead',
    "mem-per-cpu": 'set "mem" and "use_mem_per_cpu" instead',
    "time": 'set "time" instead',
    "partition": 'set "partition" instead',
    "account": 'set "account" instead',
}
_SHORT_OPTIONS = {
    "J": "job-name",
    "a": "array",
    "o": "output",
    "e": "error",
    "i": "input",
    "D": "chdir",
    "M": "clusters",
    "W": "wait",
    "n": "ntasks",
    "c": "cpus-per-task",
    "t": "time",
    "p": "partition",
    "A": "account",
}
# sbatch's short options without a value, behind which a word may go on with another option (-Hn4).
_SHORT_FLAGS = frozenset("hHIkOQRsuvV")
SBATCH_PREFIX = "#SBATCH"
# What the engine's own data in a script begins with; see worker.MAGIC.
_DATA_PREFIX = "#FRACTAL-SLURM-DATA"
# Above what SLURM's own counters hold, and small enough to print.
MAX_COUNT = 10**12


def check_text(value: str, what: str) -> str:
    """Refuse control characters (line breaks among them): no string with one may reach a script.

    Raises:
        FractalSlurmError: ``value`` has one.
    """
    found = _CONTROL.search(value)
    if found:
        raise FractalSlurmError(f"{what} {value!r} has the control character {found[0]!r}: remove it")
    return value


def check_option_value(value: str, what: str) -> str:
    """Accept a string that can stand behind ``--option=`` on an #SBATCH line as it is.

    Raises:
        FractalSlurmError: It is empty, begins with a dash, or has blanks, quotes, a backslash or a ``#``.
    """
    check_text(value, what)
    if not _OPTION_VALUE.fullmatch(value):
        raise FractalSlurmError(
            f"{what} {value!r} is not allowed: it must not be empty, not begin with a dash, "
            "and have no blanks, quotes, backslashes or #"
        )
    return value


def _reserved(word: str) -> str | None:
    """The long name of the reserved option that a word of an #SBATCH line sets, if it does."""
    if word.startswith("--"):
        name = word[2:].partition("=")[0]
        if not name or name in RESERVED_OPTIONS:
            return name or None
        # getopt_long(3), which sbatch uses, accepts every unambiguous beginning of a name (--ar for --array).
        # No other option of sbatch's is named as one of these begins, so an ambiguous one does no harm here.
        return next((full for full in RESERVED_OPTIONS if full.startswith(name)), None)
    if word.startswith("-"):
        for letter in word[1:]:
            if letter in _SHORT_OPTIONS:
                return _SHORT_OPTIONS[letter]
            if letter not in _SHORT_FLAGS:
                return None  # the rest is this option's value
    return None


def _directive_words(line: str) -> list[str]:
    """The words of an #SBATCH line, as sbatch reads them: quotes hold them together, an open # ends them.

    Raises:
        FractalSlurmError: A backslash (sbatch drops it, in quotes too), or an open quote.
    """
    rest = line[len(SBATCH_PREFIX) :]
    if "\\" in rest:
        raise FractalSlurmError(f"extra_lines {line!r} is not allowed: remove the backslash")
    lexer = shlex.shlex(rest, posix=True, punctuation_chars=False)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, "#"
    try:
        return list(lexer)
    except ValueError:
        raise FractalSlurmError(f"extra_lines {line!r} is not allowed: it has a quote that is not closed") from None


def check_extra_line(line: str) -> str:
    """Accept one of ``extra_lines``, as long as it does not change what the engine relies on.

    Raises:
        FractalSlurmError: A control character, a directive by another name (sbatch honours
            ``#PBS`` and ``#BSUB``, on any line of a script, and ``#SLURM``), a heterogeneous job, one of
            :data:`RESERVED_OPTIONS`, or an #SBATCH line that sbatch can't read.
    """
    check_text(line.replace("\t", " "), "extra_lines")
    if re.match(r"\s*#(PBS|BSUB|SLURM)", line, re.IGNORECASE):
        raise FractalSlurmError(
            f"extra_lines {line!r} is not allowed: sbatch honours #PBS, #BSUB and #SLURM, too; use #SBATCH"
        )
    if line.startswith(_DATA_PREFIX):
        raise FractalSlurmError(f"extra_lines {line!r} is not allowed: the engine marks its own data so")
    # sbatch knows its lines by their first seven characters: no blank before them, in capitals, whatever follows.
    if not line.startswith(SBATCH_PREFIX):
        return line
    if line[len(SBATCH_PREFIX) :].strip().lower().startswith(("hetjob", "packjob")):
        raise FractalSlurmError(f"extra_lines {line!r} is not allowed: heterogeneous jobs are not supported")
    words = _directive_words(line)
    if words and not words[0].startswith("-"):
        raise FractalSlurmError(f"extra_lines {line!r} is not allowed: {words[0]!r} is no option of sbatch")
    for word in words:
        name = _reserved(word)
        if name is not None:
            raise FractalSlurmError(f"extra_lines {line!r} is not allowed: --{name}: {RESERVED_OPTIONS[name]}")
    return line


def directive_values(line: str, name: str, short: str = "") -> list[str]:
    """The values that one of ``extra_lines`` gives an option of sbatch; none where it is no #SBATCH line.

    Args:
        line: The line, as :func:`check_extra_line` accepts it.
        name: The option's name, without dashes.
        short: Its letter, if it has one.
    """
    if not line.startswith(SBATCH_PREFIX):
        return []
    words = _directive_words(line)
    found = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in (f"--{name}", f"-{short}"):
            found.append(following)
        elif word.startswith(f"--{name}="):
            found.append(word.partition("=")[2])
        elif short and word.startswith(f"-{short}"):
            found.append(word[2:])
    return found


def extra_line_warning(line: str) -> str | None:
    """What to say of a line that looks like one of sbatch's, and is a mere comment to it."""
    if line.startswith(SBATCH_PREFIX) or not line.strip().upper().startswith(SBATCH_PREFIX):
        return None
    return f"{line!r} has no effect: sbatch honours {SBATCH_PREFIX} in capitals, at the start of a line"


def check_export_name(name: str) -> str:
    """Accept the name of an environment variable.

    Raises:
        FractalSlurmError: It is none.
    """
    if not _VARIABLE_NAME.fullmatch(name):
        raise FractalSlurmError(
            f"{name!r} is no name of an environment variable: letters, digits and _ are allowed, no digit first"
        )
    return name


def check_export_path(value: str) -> str:
    """Accept a path below a user's cache_dir, as ``user_local_exports`` holds them.

    Raises:
        FractalSlurmError: It is empty or absolute, has ``..`` in it, or a control character.
    """
    check_text(value, "the path")
    if not value.strip():
        raise FractalSlurmError("the path is empty: give one that is relative to the user's cache_dir")
    path = PurePosixPath(value)
    if path.is_absolute():
        raise FractalSlurmError(f"the path {value!r} is absolute: it must be relative to the user's cache_dir")
    if ".." in path.parts:
        raise FractalSlurmError(f"the path {value!r} has '..' in it: it must stay below the user's cache_dir")
    return value


def _as_memory(value: object) -> int:
    return parse_memory(value)


def _as_count(value: object) -> object:
    if isinstance(value, bool) or (isinstance(value, str) and not COUNT_PATTERN.fullmatch(value)):
        raise FractalSlurmError(f"found {shown(value)}; an integer of at least 1 is allowed")
    return value


def _number_to_text(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_COUNT:
        return str(value)
    return value


def check_nodes(value: str) -> str:
    """Accept a number of nodes, or two with a dash between them.

    Raises:
        FractalSlurmError: It is none.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,8}(-[1-9][0-9]{0,8})?", value):
        raise FractalSlurmError(f'nodes {shown(value)} is not allowed: give a number of nodes such as "1" or "1-2"')
    return value


def _as_nodes(value: object) -> object:
    value = _number_to_text(value)
    return check_nodes(value) if isinstance(value, str) else value


def _as_walltime(value: object) -> str:
    parse_walltime(value)
    return str(value).strip()


def _option(what: str) -> BeforeValidator:
    def check(value: object) -> object:
        return check_option_value(value, what) if isinstance(value, str) else value

    return BeforeValidator(check)


_MEMORY_SCHEMA = {
    "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\s*[0-9]+[MGT]?\s*$"}],
}
Memory = Annotated[int, BeforeValidator(_as_memory), WithJsonSchema(_MEMORY_SCHEMA)]
COUNT_PATTERN = re.compile(r"[ \t]*[0-9]{1,18}[ \t]*")
_COUNT_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MAX_COUNT},
        {"type": "string", "pattern": r"^[ \t]*[0-9]{1,18}[ \t]*$"},
    ],
}
Count = Annotated[int, Field(ge=1, le=MAX_COUNT), BeforeValidator(_as_count), WithJsonSchema(_COUNT_SCHEMA)]
_WALLTIME_SCHEMA = {"type": "string", "pattern": r"^\s*([0-9]+(:[0-9]+){0,2}|[0-9]+-[0-9]+(:[0-9]+){0,2})\s*$"}
Walltime = Annotated[str, BeforeValidator(_as_walltime), WithJsonSchema(_WALLTIME_SCHEMA)]
# Numbers are common here, and templates often hand them over as such.
_NUMBER_OR_TEXT_SCHEMA = {"type": ["integer", "string"]}
# A truth as pydantic reads it.
_TRUTHS = "|".join(
    "".join(f"[{letter}{letter.upper()}]" for letter in word)
    for word in ("true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "1", "0")
)
_FLAG_SCHEMA = {
    "anyOf": [
        {"type": "boolean"},
        {"enum": [0, 1]},
        {"type": "string", "pattern": f"^({_TRUTHS})$"},
    ],
}
Flag = Annotated[bool, WithJsonSchema(_FLAG_SCHEMA)]
Line = Annotated[str, BeforeValidator(lambda value: check_extra_line(value) if isinstance(value, str) else value)]
ExportName = Annotated[str, AfterValidator(check_export_name)]
ExportPath = Annotated[str, AfterValidator(check_export_path)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SlurmConfigSet(_Model):
    """SLURM options of one task, as ``gpu_slurm_config`` holds them: all optional."""

    partition: Annotated[str, _option("partition")] | None = Field(
        default=None, description="Partition that jobs are submitted to (sbatch --partition)."
    )
    cpus_per_task: Count | None = Field(default=None, description="CPUs of one task.")
    mem: Memory | None = Field(
        default=None,
        description="Memory of one task: MB as a number, or a string with M, G or T (powers of 1000).",
    )
    constraint: Annotated[str, _option("constraint")] | None = Field(
        default=None, description="Features that nodes must have (sbatch --constraint)."
    )
    gres: Annotated[str, _option("gres")] | None = Field(
        default=None, description="Generic resources of a job, on each node (sbatch --gres)."
    )
    gpus: (
        Annotated[str, BeforeValidator(_number_to_text), _option("gpus"), WithJsonSchema(_NUMBER_OR_TEXT_SCHEMA)] | None
    ) = Field(default=None, description="GPUs of a job (sbatch --gpus).")
    time: Walltime | None = Field(
        default=None,
        description='Time of one task, in one of SLURM\'s formats, as a string: "90" (minutes), "01:30:00", "1-12".',
    )
    account: Annotated[str, _option("account")] | None = Field(
        default=None, description="Account to charge (sbatch --account), unless the user's settings name one."
    )
    nodes: Annotated[str, BeforeValidator(_as_nodes), WithJsonSchema(_NUMBER_OR_TEXT_SCHEMA)] | None = Field(
        default=None, description='Number of nodes of a job (sbatch --nodes), e.g. "1" or "1-2".'
    )
    nodelist: Annotated[str, _option("nodelist")] | None = Field(
        default=None, description="Nodes that a job must include (sbatch --nodelist)."
    )
    exclude: Annotated[str, _option("exclude")] | None = Field(
        default=None, description="Nodes that a job must not use (sbatch --exclude)."
    )
    extra_lines: list[Line] | None = Field(
        default=None, description="Lines for every sbatch script: #SBATCH options, exports, module loads."
    )
    pre_submission_commands: list[str] | None = Field(
        default=None, description="Commands that fractal-server runs before sbatch over SSH. Not used here."
    )
    shebang_line: str | None = Field(default=None, description="First line of every sbatch script.")
    use_mem_per_cpu: Flag | None = Field(
        default=None, description="Ask for --mem-per-cpu (mem / cpus_per_task) and not for --mem."
    )

    @field_validator("shebang_line")
    @classmethod
    def _check_shebang(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"#! ?/", check_text(value, "shebang_line")):
            raise FractalSlurmError(f"shebang_line {value!r} is not allowed: it must begin with #!/, as #!/bin/sh does")
        return value

    @field_validator("pre_submission_commands")
    @classmethod
    def _check_commands(cls, value: list[str] | None) -> list[str] | None:
        for line in value or ():
            check_text(line, "pre_submission_commands")
        return value


class DefaultSlurmConfig(SlurmConfigSet):
    """SLURM options of every task, unless something of higher priority sets them."""

    partition: Annotated[str, _option("partition")] = Field(
        description="Partition that jobs are submitted to (sbatch --partition)."
    )
    cpus_per_task: Count = Field(description="CPUs of one task.")
    mem: Memory = Field(description="Memory of one task: MB as a number, or a string with M, G or T (powers of 1000).")


class BatchingConfig(_Model):
    """Limits of the batching heuristics: targets may be exceeded, maxima never."""

    target_cpus_per_job: Count = Field(description="CPUs that a job should have at most.")
    max_cpus_per_job: Count = Field(description="CPUs that a job must not exceed.")
    target_mem_per_job: Memory = Field(description="Memory that a job should have at most.")
    max_mem_per_job: Memory = Field(description="Memory that a job must not exceed.")
    target_num_jobs: Count = Field(description="Number of jobs, for all tasks of a run, that should not be exceeded.")
    max_num_jobs: Count = Field(description="Number of jobs, for all tasks of a run, that must not be exceeded.")

    @model_validator(mode="after")
    def _check_targets(self) -> BatchingConfig:
        faults = []
        for what in ("cpus_per_job", "mem_per_job", "num_jobs"):
            target, most = getattr(self, f"target_{what}"), getattr(self, f"max_{what}")
            if target > most:
                faults.append(f"target_{what} ({target}) is over max_{what} ({most}): lower the one or raise the other")
        if faults:
            raise FractalSlurmError(faults)
        return self


class SlurmConfigFile(_Model):
    """FRACTAL_SLURM_CONFIG_FILE, whole."""

    default_slurm_config: DefaultSlurmConfig = Field(description="SLURM options of every task.")
    gpu_slurm_config: SlurmConfigSet | None = Field(
        default=None, description="SLURM options that replace the default ones for tasks with needs_gpu."
    )
    batching_config: BatchingConfig = Field(description="Limits of the batching heuristics.")
    user_local_exports: dict[ExportName, ExportPath] | None = Field(
        default=None,
        description="Environment variables to export, with paths relative to the cache_dir of a task's user.",
    )


def parse_config(data: object, *, source: str) -> SlurmConfigFile:
    """Validate the content of a config file.

    Args:
        data: What a JSON or YAML reader made of the file.
        source: Where it came from, for the messages.

    Returns:
        The config.

    Raises:
        ConfigFileError: It is not valid; one line for each fault: source, JSON path, what was found, what is allowed.
    """
    if not isinstance(data, Mapping):
        raise ConfigFileError(f"{source}: $: found {type(data).__name__}; an object is allowed, with {_known(())}")
    try:
        return SlurmConfigFile.model_validate(dict(data))
    except ValidationError as error:
        lines = (line for fault in error.errors() for line in _describe(fault))
        raise ConfigFileError(f"{source}: {line}" for line in lines) from None


def load_config_file(path: str | Path) -> SlurmConfigFile:
    """Read and validate a config file.

    Args:
        path: The JSON file.

    Raises:
        ConfigFileError: It can't be read, is no JSON, or is not valid.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        text = data.decode("utf-8-sig")  # an editor may have begun it with a byte order mark
    except OSError as error:
        raise ConfigFileError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        what = "it is UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "it is not UTF-8"
        raise ConfigFileError(f"{path}: can't be read: {what}: save it as UTF-8") from None
    except ValueError as error:  # a NUL in the path
        raise ConfigFileError(f"{str(path)!r}: can't be read: {error}") from None
    if len(data) > _MOST_BYTES:
        raise ConfigFileError(f"{path}: can't be read: it is larger than {_MOST_BYTES} bytes")
    return parse_config(parse_json(text, source=str(path)), source=str(path))


def parse_json(text: str, *, source: str) -> Any:
    """Read JSON, and refuse a key that stands twice in an object (one of the two would be lost without a word).

    Raises:
        ConfigFileError: It is no JSON, or a key stands twice.
    """

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _value in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ConfigFileError(f"{source}: the key {twice!r} stands twice in one object: keep one")
        return result

    try:
        return json.loads(text, object_pairs_hook=no_duplicates)
    except json.JSONDecodeError as error:
        comma = _trailing_comma(text, error.pos)
        if comma is not None:
            line, column = text.count("\n", 0, comma) + 1, comma - text.rfind("\n", 0, comma)
            raise ConfigFileError(
                f"{source}:{line}:{column}: no JSON: a comma after the last entry: remove it"
            ) from None
        raise ConfigFileError(f"{source}:{error.lineno}:{error.colno}: no JSON: {error.msg}") from None
    except ConfigFileError:
        raise
    except ValueError as error:  # an integer of more than 4300 digits
        raise ConfigFileError(f"{source}: can't be read: {error}") from None
    except RecursionError:
        raise ConfigFileError(f"{source}: no config: nested too deeply") from None


def _trailing_comma(text: str, position: int) -> int | None:
    """Where a comma stands before the end of an object or list, if that is what a JSON reader stopped at."""
    before, after = text[:position].rstrip(), text[position:].lstrip()
    comma = len(before) - 1
    if not before.endswith(","):  # newer versions of Python stop at the comma itself
        comma, before, after = position, before + after[:1], after[1:].lstrip()
    is_one = before.endswith(",") and after[:1] in ("}", "]") and before[:-1].rstrip()[-1:] not in (*":{[,", "")
    return comma if is_one else None


def _known(location: tuple[int | str, ...]) -> list[str]:
    sections: dict[tuple[int | str, ...], type[BaseModel]] = {
        (): SlurmConfigFile,
        ("default_slurm_config",): DefaultSlurmConfig,
        ("gpu_slurm_config",): SlurmConfigSet,
        ("batching_config",): BatchingConfig,
    }
    model = sections.get(location)
    return list(model.model_fields) if model else []


def json_path(location: Iterable[int | str]) -> str:
    """Write a location as a JSON path: ``$.default_slurm_config.extra_lines[0]``."""
    path = "$"
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _VARIABLE_NAME.fullmatch(part):
            path += f".{part}"
        else:
            path += f"[{json.dumps(part)}]"
    return path


def _describe(fault: Any) -> list[str]:
    kind, found, location = fault["type"], fault["input"], fault["loc"]
    # pydantic marks a fault of the name of an export by a last part "[key]".
    if len(location) == 3 and location[0] == "user_local_exports" and location[2] == "[key]":
        location = location[:2]
    path = json_path(location)
    if kind == "extra_forbidden":
        known = _known(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
        return [f"{path}: unknown key; {hint}"]
    if kind == "missing":
        return [f"{path}: missing; it is required"]
    if kind == "value_error":
        error = fault["ctx"]["error"]
        return [f"{path}: {message}" for message in getattr(error, "messages", [str(error)])]
    return [f"{path}: found {shown(found)}; {fault['msg'][:1].lower()}{fault['msg'][1:]}"]


def dump_config(config: SlurmConfigFile) -> dict[str, Any]:
    """What is to be written to the file: the keys that were set, memory in MB."""
    return config.model_dump(mode="json", exclude_unset=True)


def config_warnings(config: SlurmConfigFile) -> list[str]:
    """What is valid, yet has no effect here or surely is not meant; one sentence each, with its JSON path."""
    warnings = []
    for section in ("default_slurm_config", "gpu_slurm_config"):
        options: SlurmConfigSet | None = getattr(config, section)
        if options is not None and options.pre_submission_commands:
            warnings.append(
                f"$.{section}.pre_submission_commands: has no effect here: it belongs to submission over SSH"
            )
        if options is not None and options.extra_lines:
            path = f"$.{section}.extra_lines"
            for line, count in Counter(options.extra_lines).items():
                if count > 1:
                    warnings.append(f"{path}: {line!r} stands twice; the first is kept")
                warning = extra_line_warning(line)
                if warning:
                    warnings.append(f"{path}: {warning}")
    return warnings


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, with descriptions."""
    return SlurmConfigFile.model_json_schema()
