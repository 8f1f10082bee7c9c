# SPDX-License-Identifier: BSD-3-Clause
"""Our own settings: /etc/fractal/fractal-slurm.toml, each overridable by FRACTAL_SLURM_<NAME>.

Fractal's config file holds nothing of ours; this is where it is.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .config.documents import read_text
from .config.faults import faults_of, found, json_path, plain
from .errors import FractalSlurmError, SettingsError
from .limits import LimitSettings, as_limits
from .node.protocol import HOOK

SETTINGS_FILE = Path("/etc/fractal/fractal-slurm.toml")
PREFIX = "FRACTAL_SLURM_"
# Above any of them that makes sense.
MAX_NUMBER = 10**12
# All settings with a comment for each take a tenth of it.
_MOST_BYTES = 1 << 16
_MOST_DOTS = 200


def _as_number(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[ \t]*[0-9]{1,18}[ \t]*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise FractalSlurmError(f"{found(value)}; a whole number from 0 to {MAX_NUMBER} is allowed")
    return value


def _as_truth(value: object) -> bool:
    if isinstance(value, str) and value.strip(" \t").lower() in ("true", "false"):
        return value.strip(" \t").lower() == "true"
    if not isinstance(value, bool):
        raise FractalSlurmError(f"{found(value)}; true or false are allowed")
    return value


def _as_path(value: object) -> str:
    if not isinstance(value, str):
        raise FractalSlurmError(f"{found(value)}; a string is allowed")
    if not value.isprintable():
        raise FractalSlurmError(f"{found(value)}; control characters are not allowed")
    if value and not value.startswith("/"):
        raise FractalSlurmError(f"{found(value)}; an absolute path is allowed")
    return value


# What stands in a file has its type already; what stands in the environment is text.
WholeNumber = Annotated[int, BeforeValidator(_as_number)]
Truth = Annotated[bool, BeforeValidator(_as_truth)]
AbsolutePath = Annotated[str, BeforeValidator(_as_path)]
LimitTables = Annotated[LimitSettings, BeforeValidator(as_limits)]


class Settings(BaseModel):
    """Our own settings; each field's ``description`` says what it does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slurm_bin_dir: AbsolutePath = Field(
        default="", description="Folder of sbatch, squeue and the other commands; empty: where PATH has sbatch."
    )
    sudo: AbsolutePath = Field(default="/usr/bin/sudo", description="Absolute path of sudo.")
    state_dir: AbsolutePath = Field(
        default="", description="Folder of the journals; empty: ~/.local/state/fractal-slurm."
    )
    worker_python: AbsolutePath = Field(
        default="", description="Python >= 3.8 on the nodes; empty: the one that runs this command."
    )
    worker_folder: AbsolutePath = Field(
        default="", description="Folder that has node/worker.py on the nodes; empty: where it is here."
    )
    max_jobs_in_flight: WholeNumber = Field(
        default=0, description="Jobs of a run that SLURM may hold at the same time; 0: any number."
    )
    limits: LimitTables = Field(
        default_factory=LimitSettings,
        description="Limits on the submissions of all runs together: `each_user`, `all_users` and `users.NAME` hold "
        "`max_jobs_in_flight`, `max_submissions` and `min_submission_interval`. The environment has them in JSON.",
    )
    max_retries: WholeNumber = Field(default=0, description="How often a task that failed is run again.")
    max_node_retries: WholeNumber = Field(
        default=2, description="How often a task is run again that was lost with its node or job."
    )
    memory_limit: Literal["job", "watch"] = Field(
        default="job", description="job: SLURM's limit for the job. watch: the worker also ends a task over its mem."
    )
    isolation: Literal["none", "step"] = Field(
        default="none",
        description="none: tasks are processes of the worker. step: each slot is a step that SLURM holds to the task's "
        "mem.",
    )
    task_start: Literal["fresh", "fork"] = Field(
        default="fresh",
        description="fresh: each task starts a Python of its own. fork: tasks with a Python script share their "
        "imports.",
    )
    fork_fallback: Truth = Field(
        default=True,
        description="With task_start = fork: a task that failed runs once more in a new process; false: it failed.",
    )
    task_logs: Literal["joined", "separate"] = Field(
        default="joined", description="joined: the logs of a job's tasks in one file. separate: a file a task."
    )
    max_out_bytes: WholeNumber = Field(default=64_000_000, description="The largest out-JSON of a task, in bytes.")
    time_scope: Literal["task", "job"] = Field(
        default="task", description="What the option time limits: each task, or the whole job."
    )
    start_slack_s: WholeNumber = Field(default=60, description="Seconds added to a job's time limit for its start.")
    results_wait_s: WholeNumber = Field(
        default=65, description="Seconds to wait for the results of a job that ended: NFS may hide new files for 60."
    )
    sbatch_timeout_s: WholeNumber = Field(
        default=60, description="Seconds after which a submission counts as unanswered."
    )
    refusal_wait_s: WholeNumber = Field(
        default=86_400,
        description="Seconds for which what may pass is waited out: a drained partition, an sbatch or a folder that is "
        "away.",
    )
    command_timeout_s: WholeNumber = Field(
        default=60, description="Seconds after which any other command counts as unanswered."
    )
    silent_worker_s: WholeNumber = Field(
        default=600,
        description="Where SLURM hides jobs (PrivateData): seconds of silence after which a job that began counts as "
        "lost.",
    )
    cancel_grace_s: WholeNumber = Field(
        default=10, description="Seconds that workers get to end their tasks when a run is cancelled."
    )

    def bin_dir(self) -> str:
        """The folder of SLURM's commands."""
        if self.slurm_bin_dir:
            return self.slurm_bin_dir.rstrip("/")
        found = shutil.which("sbatch")
        return os.path.dirname(os.path.abspath(found)) if found else "/usr/bin"

    def state_path(self) -> Path:
        """The folder of the journals."""
        if self.state_dir:
            return Path(self.state_dir)
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        return Path(base) / "fractal-slurm"

    def python(self) -> str:
        """The Python that runs the worker on the nodes: the real file, so that an upgrade leaves running jobs alone."""
        return self.worker_python or os.path.realpath(sys.executable)

    def folder(self) -> str:
        """The folder that has node/worker.py on the nodes. Its name is the same whichever Python a node has."""
        return self.worker_folder or _own_worker_folder()

    def hook(self) -> str:
        """The file that a line of ``extra_lines`` reads in fractal-server's own jobs; see docs/hook.md.

        By the link to the version that is in use, so that it stays the same after an upgrade.
        """
        folder = self.folder()
        version, below = os.path.dirname(os.path.dirname(folder)), os.path.join("share", "fractal-slurm")
        current = os.path.join(os.path.dirname(version), "current")
        if folder == os.path.join(version, below) and os.path.realpath(current) == os.path.realpath(version):
            folder = os.path.join(current, below)
        return f"{folder}/node{HOOK}"


def _own_worker_folder() -> str:
    """Where an installed runtime has its worker apart from its package; in a checkout, a part of the package."""
    package, prefix = os.path.dirname(os.path.realpath(__file__)), os.path.realpath(sys.prefix)
    apart = os.path.join(prefix, "share", "fractal-slurm")
    is_installed = package.startswith(prefix + os.sep) and os.path.isdir(os.path.join(apart, "node"))
    return apart if is_installed else package


def check_settings(values: Mapping[str, Any], *, source: str) -> Settings:
    """Validate settings that are in memory.

    Args:
        values: Names to values.
        source: Where they came from, for messages.

    Raises:
        SettingsError: A value, or a name, is not allowed; every fault at once.
    """
    faults = _faults(values, lambda name: f"{source}: {name}")
    if faults:
        raise SettingsError(faults)
    return Settings.model_validate(dict(values))


def _faults(values: Mapping[str, Any], place: Callable[[str], str]) -> list[str]:
    """What is wrong with values; ``place`` says where the one of a name stands."""
    try:
        Settings.model_validate(dict(values))
    except ValidationError as error:
        faults = faults_of(error, Settings, values, "setting")
        return [f"{place(plain(str(location[0])))}{json_path(location[1:])[1:]}: {words}" for location, words in faults]
    return []


def load_settings(path: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read our settings.

    Args:
        path: The TOML file; None for FRACTAL_SLURM_SETTINGS_FILE or the default one. The default may be missing.
        environ: The environment; None for this process's.

    Raises:
        SettingsError: A value, or a name, is not allowed; every fault at once.
    """
    environ = os.environ if environ is None else environ
    named = path or environ.get("FRACTAL_SLURM_SETTINGS_FILE")
    file = Path(named or SETTINGS_FILE)
    in_file = _read_toml(file, required=bool(named))
    variables = {name: PREFIX + name.upper() for name in Settings.model_fields}
    in_environment = {name: environ[variable] for name, variable in variables.items() if variable in environ}
    faults = _faults(in_file, lambda name: f"{file}: {name}") + _faults(in_environment, variables.__getitem__)
    if faults:
        raise SettingsError(faults)
    return Settings.model_validate({**in_file, **in_environment})


def _read_toml(file: Path, *, required: bool) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]
    text = read_text(file, source=str(file), most=_MOST_BYTES, error=SettingsError, optional=True)
    if text is None:
        if required:
            raise SettingsError(f"{file}: can't be read: it is not there")
        return {}
    # Keys of thousands of parts take the reader seconds; ours have few.
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _MOST_DOTS:
            raise SettingsError(f"{file}:{number}: no settings: more than {_MOST_DOTS} dots in a line")
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: no TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"{file}: no settings: nested too deeply") from None
    except ValueError as error:  # an integer of more than 4300 digits
        raise SettingsError(f"{file}: can't be read: {error}") from None
    return content
