# SPDX-License-Identifier: GPL-3.0-or-later
"""What reads texts of others: a function a reader. Each takes any bytes; only an error of ours may come out of it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from fractal_slurm.cluster import facts as cluster
from fractal_slurm.cluster import fit
from fractal_slurm.cluster.commands import judge_submission, read_exit_code, read_sacct, read_squeue, read_squeue_of
from fractal_slurm.config.documents import parse_json
from fractal_slurm.config.file import parse_config
from fractal_slurm.config.memory import parse_memory
from fractal_slurm.config.walltime import parse_walltime
from fractal_slurm.driver.journal import record_of
from fractal_slurm.driver.prepare import resolve_spec
from fractal_slurm.driver.records import classify
from fractal_slurm.errors import FractalSlurmError
from fractal_slurm.process import slices, split_lines
from fractal_slurm.settings import load_settings
from fractal_slurm.spec import parse_spec
from fractal_slurm.terminal import indented, json_text

CONFIG = parse_config(
    {
        "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": "100M"},
        "batching_config": {
            "target_cpus_per_job": 4,
            "max_cpus_per_job": 8,
            "target_mem_per_job": "4G",
            "max_mem_per_job": "8G",
            "target_num_jobs": 4,
            "max_num_jobs": 10,
        },
    },
    source="config",
)
NODE = "NodeName=n1 CPUTot=8 RealMemory=8000 Gres=gpu:a100:4 AvailableFeatures=a,b Partitions=main State=IDLE\n"
FACTS = {
    "config": "SLURM_VERSION = 22.05.8\nClusterName = c\n",
    "nodes": NODE,
    "partitions": "PartitionName=main State=UP MaxTime=1-00:00:00\n",
}
TOKEN = "0123456789abcdef"
MARK = "0f0f0f0f0f0f0f0f"


def spec(data: bytes) -> None:
    """A unit of work, JSON or YAML."""
    found = parse_spec(data.decode("utf-8", "replace"), source="spec")
    resolve_spec(CONFIG, found)


def config(data: bytes) -> None:
    """A config file, and what is looked for in a cluster."""
    found = parse_config(parse_json(data.decode("utf-8", "replace"), source="config"), source="config")
    fit.check(found, cluster.parse(FACTS), users=["ann"])


def settings(data: bytes) -> None:
    """Our own settings."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        load_settings(file.name, {})


def results(data: bytes) -> None:
    """A result file, and what is made of its records."""
    for some in slices(split_lines([data[:40], data[40:]])):
        for line in some:
            _kind, record = classify(line, {TOKEN})
            json.loads(json_text(record))
            indented(record_of(line.decode("utf-8", "replace")).get("tail", ""))


def queue(data: bytes) -> None:
    """What squeue, sacct and sbatch print."""
    text = data.decode("utf-8", "replace").replace("@", f"<{MARK}>").replace("~", f"|{MARK}|")
    list(read_squeue(text, MARK))
    list(read_squeue_of(text, MARK))
    list(read_sacct(text.replace(f"|{MARK}|", MARK), MARK))
    read_exit_code(text, "7")
    judge_submission(0, text, "")
    judge_submission(1, "", text)


def facts(data: bytes) -> None:
    """What scontrol and sacctmgr print."""
    text = data.decode("utf-8", "replace")
    cluster.parse({**FACTS, "nodes": text or NODE})
    cluster.parse({**FACTS, "partitions": text or "PartitionName=main"})
    cluster.parse({**FACTS, "config": f"{FACTS['config']}{text}"})
    cluster.parse({**FACTS, "associations": text, "qos": text})


def options(data: bytes) -> None:
    """Values with a grammar of SLURM's own."""
    text = data.decode("utf-8", "replace")
    for read in (cluster.expand_hostlist, cluster.parse_gres, parse_walltime, parse_memory):
        with contextlib.suppress(FractalSlurmError):
            read(text)
    fit.satisfies(["a", "b"], text)


TARGETS: dict[str, Callable[[bytes], None]] = {
    function.__name__: function for function in (spec, config, settings, results, queue, facts, options)
}
CORPUS = Path(__file__).parent / "corpus"


def seeds(name: str) -> list[Path]:
    """The inputs that are kept of a target: samples of each form, and what once went wrong."""
    return sorted((CORPUS / name).iterdir())


def attempt(name: str, data: bytes) -> None:
    """Hand an input to a target; it may refuse it in sentences."""
    try:
        TARGETS[name](data)
    except FractalSlurmError as error:
        for message in error.messages:
            message.encode("utf-8", "surrogatepass")
