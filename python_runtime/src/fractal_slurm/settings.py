# SPDX-License-Identifier: BSD-3-Clause
"""Our own settings: /etc/fractal/fractal-slurm.toml, each overridable by FRACTAL_SLURM_<NAME>.

Fractal's config file holds nothing of ours; this is where it is.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import SettingsError, shown

SETTINGS_FILE = Path("/etc/fractal/fractal-slurm.toml")
PREFIX = "FRACTAL_SLURM_"
# Above any of them that makes sense.
MAX_NUMBER = 10**12
# All settings with a comment for each take a tenth of it.
_MOST_BYTES = 1 << 16
_MOST_DOTS = 200
# Names with our prefix that are no settings.
_NOT_OURS = ("FRACTAL_SLURM_CONFIG_FILE", "FRACTAL_SLURM_SETTINGS_FILE")


def _setting(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    metadata = {"description": text, "choices": choices}
    return field(default=default, metadata=metadata)  # pylint: disable=invalid-field-call


@dataclass(frozen=True)
class Settings:
    """Our own settings; each field's ``description`` says what it does."""

    slurm_bin_dir: str = _setting("", "Folder of sbatch, squeue and the other commands; empty: where PATH has sbatch.")
    sudo: str = _setting("/usr/bin/sudo", "Absolute path of sudo.")
    state_dir: str = _setting("", "Folder of the journals; empty: ~/.local/state/fractal-slurm.")
    worker_python: str = _setting("", "Python >= 3.8 on the compute nodes; empty: the one that runs this command.")
    worker_folder: str = _setting("", "Folder that has node/worker.py on the compute nodes; empty: where it is here.")
    max_jobs_in_flight: int = _setting(0, "Jobs of a run that SLURM may hold at the same time; 0: any number.")
    max_retries: int = _setting(0, "How often a task that failed is run again.")
    max_node_retries: int = _setting(2, "How often a task is run again that was lost with its node or job.")
    memory_limit: str = _setting(
        "job", "job: SLURM's limit for the job. watch: the worker also ends a task over its mem.", ("job", "watch")
    )
    isolation: str = _setting(
        "none",
        "none: tasks are processes of the worker. step: each slot is a step that SLURM holds to the task's mem.",
        ("none", "step"),
    )
    task_start: str = _setting(
        "fresh",
        "fresh: each task starts a Python of its own. fork: tasks with a Python script share their imports.",
        ("fresh", "fork"),
    )
    fork_fallback: bool = _setting(
        True, "With task_start = fork: a task that failed runs once more in a new process; false: it failed."
    )
    task_logs: str = _setting(
        "joined", "joined: the logs of a job's tasks in one file. separate: a file a task.", ("joined", "separate")
    )
    max_out_bytes: int = _setting(1_000_000, "The largest out-JSON of a task, in bytes.")
    time_scope: str = _setting("task", "What the option time limits: each task, or the whole job.", ("task", "job"))
    start_slack_s: int = _setting(60, "Seconds added to a job's time limit for its start.")
    results_wait_s: int = _setting(
        65, "Seconds to wait for the results of a job that ended: NFS may hide new files for 60."
    )
    sbatch_timeout_s: int = _setting(60, "Seconds after which a submission counts as unanswered.")
    refusal_wait_s: int = _setting(
        86_400,
        "Seconds for which what may pass is waited out: a drained partition, an sbatch or a folder that is away.",
    )
    command_timeout_s: int = _setting(60, "Seconds after which any other command counts as unanswered.")
    silent_worker_s: int = _setting(
        600, "Where SLURM hides jobs (PrivateData): seconds of silence after which a job that began counts as lost."
    )
    cancel_grace_s: int = _setting(10, "Seconds that workers get to end their tasks when a run is cancelled.")

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


def _own_worker_folder() -> str:
    """Where an installed runtime has its worker apart from its package; in a checkout, a part of the package."""
    package, prefix = os.path.dirname(os.path.realpath(__file__)), os.path.realpath(sys.prefix)
    apart = os.path.join(prefix, "share", "fractal-slurm")
    is_installed = package.startswith(prefix + os.sep) and os.path.isdir(os.path.join(apart, "node"))
    return apart if is_installed else package


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
    faults: list[str] = []
    values: dict[str, Any] = {}
    known = {entry.name: entry for entry in fields(Settings)}
    for name, value in _read_toml(file, required=bool(named)).items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            faults.append(f"{file}: {name}: unknown setting; {hint}")
        else:
            values[name] = _check(known[name], value, f"{file}: {name}", faults)
    for name, entry in known.items():
        variable = PREFIX + name.upper()
        if variable in environ and variable not in _NOT_OURS:
            values[name] = _check(entry, environ[variable], variable, faults)
    if faults:
        raise SettingsError(faults)
    return Settings(**values)


def _read_toml(file: Path, *, required: bool) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise SettingsError(f"{file}: can't be read: it is larger than {_MOST_BYTES} bytes")
        # Keys of thousands of parts take the reader seconds; none of ours has more than one.
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.count(b".") > _MOST_DOTS:
                raise SettingsError(f"{file}:{number}: no settings: more than {_MOST_DOTS} dots in a line")
        content: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
        return content
    except SettingsError:
        raise
    except FileNotFoundError:
        if required:
            raise SettingsError(f"{file}: can't be read: it is not there") from None
        return {}
    except OSError as error:
        raise SettingsError(f"{file}: can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: no TOML: {error}") from None
    except RecursionError:
        raise SettingsError(f"{file}: no settings: nested too deeply") from None
    except ValueError as error:  # an integer of more than 4300 digits
        raise SettingsError(f"{file}: can't be read: {error}") from None


def _check(entry: Any, value: Any, where: str, faults: list[str]) -> Any:
    choices = entry.metadata["choices"]
    if isinstance(entry.default, bool):
        if isinstance(value, str) and value.strip(" \t").lower() in ("true", "false"):
            value = value.strip(" \t").lower() == "true"
        if not isinstance(value, bool):
            faults.append(f"{where}: found {shown(value)}; true or false are allowed")
    elif isinstance(entry.default, int):
        if isinstance(value, str) and re.fullmatch(r"[ \t]*[0-9]{1,18}[ \t]*", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
            faults.append(f"{where}: found {shown(value)}; a whole number from 0 to {MAX_NUMBER} is allowed")
    elif not isinstance(value, str):
        faults.append(f"{where}: found {shown(value)}; a string is allowed")
    elif not value.isprintable():
        faults.append(f"{where}: found {shown(value)}; control characters are not allowed")
    elif choices and value not in choices:
        faults.append(f"{where}: found {shown(value)}; allowed are {', '.join(choices)}")
    elif value and not choices and not value.startswith("/"):
        faults.append(f"{where}: found {shown(value)}; an absolute path is allowed")
    return value
