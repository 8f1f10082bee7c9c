# SPDX-License-Identifier: GPL-3.0-or-later
"""What several test modules need: config files, settings, and strategies that make them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fractal_slurm.cli import cli
from fractal_slurm.config.file import SlurmConfigFile, parse_config
from fractal_slurm.config.resolve import SlurmConfig, resolve
from fractal_slurm.errors import FractalSlurmError
from fractal_slurm.jobs.script import JobSettings
from hypothesis import strategies as st

HERE = Path(__file__).parent

MINIMAL: dict[str, Any] = {
    "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": "100M"},
    "batching_config": {
        "target_cpus_per_job": 4,
        "max_cpus_per_job": 8,
        "target_mem_per_job": "4G",
        "max_mem_per_job": "8G",
        "target_num_jobs": 4,
        "max_num_jobs": 10,
    },
}

TOKEN = "0123456789abcdef"


def vectors(name: str) -> list[dict[str, Any]]:
    """The rows of one of the files of vectors."""
    rows: list[dict[str, Any]] = json.loads((HERE / "vectors" / f"{name}.json").read_text(encoding="utf-8"))
    return rows


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, list[str]]:
    """What a function returns, or the sentences with which it refuses."""
    try:
        return function(*args, **kwargs), []
    except FractalSlurmError as error:
        return None, error.messages


def config_data(default: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """The content of a config file: the least, and what is given on top of it."""
    data = copy.deepcopy(MINIMAL)
    data["default_slurm_config"] |= default or {}
    for name, section in sections.items():
        if isinstance(section, dict) and name in data:
            data[name] |= section
        else:
            data[name] = section
    return data


def config_file(default: dict[str, Any] | None = None, **sections: Any) -> SlurmConfigFile:
    """A checked config file."""
    return parse_config(config_data(default, **sections), source="config.json")


def slurm_config(
    default: dict[str, Any] | None = None, *, meta: dict[str, Any] | None = None, tot_tasks: int = 4, **sections: Any
) -> SlurmConfig:
    """The merged config of a task."""
    return resolve(
        config_file(default, **sections), task_name="Measure wells", workflow_task_meta=meta, tot_tasks=tot_tasks
    ).config


def job_settings(**changes: Any) -> JobSettings:
    """What the scripts of a run have in common."""
    return JobSettings(
        **{
            "command": ("measure", "--verbose"),
            "run_folder": "/home/ann/work/20260101-120000-abcd",
            "cache_dir": "/home/ann/.cache",
            "worker_python": "/opt/fractal-slurm/1.0.0/bin/python",
            "worker_folder": "/opt/fractal-slurm/1.0.0/lib/fractal_slurm",
            "srun": "/usr/bin/srun",
            **changes,
        }
    )


def run(*arguments: object) -> tuple[Any, str, str]:
    """Run a command in this process: exit code, standard output, standard error. A traceback is an exception here."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _number in range(2))
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli([str(argument) for argument in arguments], prog_name="fractal-slurm")
        except SystemExit as end:
            code = end.code or 0
    for stream in (out, err):
        stream.flush()
    printed, said = (stream.buffer.getvalue().decode("utf-8") for stream in (out, err))
    return code, printed, said


# Text as a person could write it into a file: no control characters, no lone surrogates.
texts = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=20)
# Any text that JSON can spell.
any_texts = st.text(st.characters(), max_size=10)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | any_texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(any_texts, children, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(any_texts, json_values, max_size=4)
