# SPDX-License-Identifier: BSD-3-Clause
"""What the comparison of a config with a cluster calls an error, SLURM must not take: each form of sbatch's options."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ANNA, BASE, CONFIG, SETTINGS, restart, slurm, wait_for
from fractal_slurm.cluster import facts as cluster
from fractal_slurm.cluster import fit
from fractal_slurm.config.file import parse_config
from fractal_slurm.config.resolve import resolve
from fractal_slurm.errors import FractalSlurmError
from fractal_slurm.jobs.script import JobSettings, sbatch_options
from fractal_slurm.refusals import is_hopeless

# Nodes n1 to n4 differ in their features; the partitions in what they allow.
FEATURES = {"n1": "a,b,7z", "n2": "a,c,x86-64", "n3": "b,c,cpu:amd", "n4": "d,e.f,g_h"}
PARTITIONS = {
    "main": {"Nodes": "ALL", "Default": "YES", "MaxTime": "60", "DefaultTime": "10"},
    "short": {"Nodes": "n1,n2", "MaxTime": "1"},
    "long": {"Nodes": "n3", "MaxTime": "INFINITE"},
    "tiny": {"Nodes": "n1,n2", "MaxCPUsPerNode": "2", "MaxMemPerNode": "1000", "MaxNodes": "1"},
    "shut": {"Nodes": "ALL", "State": "DOWN"},
    "drain": {"Nodes": "ALL", "State": "DRAIN"},
    "hidden": {"Nodes": "ALL", "Hidden": "YES"},
    "groups": {"Nodes": "ALL", "AllowGroups": "root"},
    "whole": {"Nodes": "ALL", "OverSubscribe": "EXCLUSIVE"},
}
GRES_CONF = (
    "Name=gpu Type=a100 File=/dev/null\nName=gpu Type=a100 File=/dev/zero\nName=gpu Type=v100 File=/dev/full\n"
    "Name=disk Count=8\n"
)

ROWS: list[dict[str, Any]] = [
    *({"partition": value} for value in (
        "main", "short", "long", "tiny", "shut", "drain", "hidden", "groups", "whole", "nope", "short,main",
        "main,short", "main,main", "main,nope", "nope,main", "short,long,main", "shut,main", "drain,main",
        "groups,main", "main,groups", "tiny,long", "hidden,main", "main,", ",main", "MAIN", "main,tiny",
    )),
    *({"partition": "short,main", "time": value} for value in ("1", "2", "30", "60", "61", "1-00")),
    *({"partition": "short,long", "time": value} for value in ("1", "2", "61", "400-00")),
    *({"time": value} for value in (
        "1", "59", "60", "61", "00:59:30", "01:00:00", "01:00:01", "00:60:00", "0-1", "0-01:00", "0-1:00:00", "1-0",
        "2:00:00", "60:00", "60:01", "00:00:30",
    )),
    *({"partition": "short", "time": value} for value in ("1", "00:00:30", "1:00", "1:01", "2")),
    *({"cpus_per_task": value} for value in (1, 2, 3, 4, 5, 8, 9, 16, 17)),
    *({"partition": "tiny", "cpus_per_task": value} for value in (1, 2, 3, 4, 5)),
    *({"partition": "tiny,main", "cpus_per_task": value} for value in (2, 3, 4, 5)),
    *({"mem": value} for value in ("1M", "100M", "7999M", "8000M", "8001M", "8G", "9G", "32G", "1T")),
    *({"mem": value, "use_mem_per_cpu": True} for value in ("100M", "8000M", "8001M", "32G")),
    *({"mem": value, "cpus_per_task": 4, "use_mem_per_cpu": True} for value in ("8000M", "8001M", "8004M", "9G")),
    *({"partition": "tiny", "mem": value} for value in ("999M", "1000M", "1001M", "2000M", "3000M", "9G")),
    *({"partition": "tiny", "mem": value, "use_mem_per_cpu": True} for value in ("1000M", "1001M", "2000M", "3000M")),
    *({"nodes": value} for value in (1, 2, 4, 5, "1-2", "2-4", "4-9", "5-9", "1-9")),
    *({"nodes": "2", "cpus_per_task": value} for value in (4, 5, 8)),
    *({"nodes": "2", "mem": value} for value in ("8000M", "8001M", "16G")),
    # With fewer tasks than nodes sbatch shortens the list.
    *({"nodelist": value, "tasks": 9} for value in (
        "n1", "n2,n3", "n[1-2]", "n[1,3]", "n[1-4]", "n[01-02]", "n9", "n1,n9", "n[1-9]", "n1,n1", "N1", "localhost",
        "n[1-2],n4", "n[1-2", "n[2-1]", "n[1-2]x", "./nodes", "/etc/hostname", "n1*2", "n{1,2}", "n 1", "127.0.0.1",
    )),
    *({"nodelist": "n1", "nodes": value} for value in (1, 2, 4, "1-4")),
    *({"partition": "short", "nodelist": value, "tasks": 4} for value in ("n1", "n3", "n1,n3", "n[1-4]")),
    *({"partition": "short,main", "nodelist": value} for value in ("n1", "n3", "n1,n3")),
    *({"exclude": value} for value in (
        "n1", "n[1-3]", "n[1-4]", "n1,n9", "n9", "n[1-9]", "localhost", "n[1-2],n[3-4]", "./nodes", "n[2-1]", "n 1",
    )),
    *({"nodelist": "n1", "exclude": value} for value in ("n1", "n2", "n[2-4]", "n[1-2]")),
    *({"nodelist": "n[1-2]", "exclude": value} for value in ("n1", "n3")),
    *({"partition": "short", "exclude": value} for value in ("n1", "n[1-2]", "n[3-4]")),
    *({"constraint": value} for value in (
        "a", "b", "d", "nope", "7z", "x86-64", "cpu:amd", "e.f", "g_h", "A", "a&b", "a&d", "a,b", "a,d", "a|d",
        "a|nope", "nope|a", "nope|nix", "a&nope", "a&b&c", "a&b|d", "a|b&d", "d|a&d", "(a|d)&b", "(a|d)&e.f",
        "(a&b)|(c&d)", "a&(b|c)", "((a))", "((a)", "(a))", "()", "(a", "a)", "&a", "a&", "a&&b", "a|", "|a", "a||b",
        "[a|b]", "[a|nope]", "[nope|nix]", "[a|b|d]", "[a&b]", "[(a&b)|d]", "a&[b|c]", "[a|b]&d", "a*1", "a*2", "a*3",
        "a*9", "nope*1", "[a*1]", "[a*2&b*1]", "a*1&d*1", "[a*1&d*1]", "(a|b)*2", "a b", " a", "a ", "!a", "a=b",
        "a:b", "cpu:amd|a", "7z&a", "[7z|x86-64]", "*2", "a*", "a*x", "[]", "[a", "a]", "a%b", "a;b", "{a,b}",
    )),
    *({"constraint": value, "nodes": "2"} for value in (
        "a", "d", "[a|b]", "[a*1&d*1]", "a*1&d*1", "[a*2]", "a*2", "a*1", "a&d", "a|d", "[a|d]",
    )),
    *({"partition": "short", "constraint": value} for value in ("a", "d", "a|d", "[a|d]", "a*2", "d*1", "cpu:amd")),
    *({"partition": "short,main", "constraint": value} for value in ("a", "d", "nope")),
    *({"gres": value} for value in (
        "gpu", "gpu:1", "gpu:2", "gpu:3", "gpu:4", "gpu:a100", "gpu:a100:2", "gpu:a100:3", "gpu:v100:1", "gpu:v100:2",
        "gpu:a100:2,gpu:v100:1", "gpu:a100:1,gpu:3", "gpu:1,gpu:1", "gpu:nope:1", "nope", "nope:1", "disk", "disk:8",
        "disk:9", "disk:1K", "gpu:0", "gpu:a100:0", "none", "gres:gpu:1", "gres/gpu:1", "gres/gpu=1", "gpu=1",
        "gpu:a100=1", "GPU:1", "gpu:A100:1", "gpu:", "gpu::1", ":1", "gpu:a:b:1", "gpu:1:a100", "gpu:1,", ",gpu:1",
        "gpu:1(S:0)", "gpu:1K", "gpu:01", "gpu:-1", "gpu:1.5", "gpu 1", "gpu:99999999999999999999", "help",
    )),
    *({"gres": value, "nodes": "2"} for value in ("gpu:2", "gpu:3", "gpu:4")),
    *({"gpus": value} for value in (
        "1", "2", "3", "4", "6", "12", "13", "a100:1", "a100:2", "a100:3", "a100:8", "a100:9", "v100:4", "v100:5",
        "nope:1", "a100", "0", "gpu:1", "a100:1,v100:1", "a100:2,v100:1", "A100:1", "1,1", "99",
    )),
    *({"gpus": value, "nodes": "2"} for value in ("2", "4", "6", "7", "a100:4", "a100:5")),
    *({"account": value} for value in ("any", "root", "no-such")),
    {"partition": "short", "gres": "gpu:1", "constraint": "a&b", "time": "1"},
    {"partition": "long", "nodelist": "n3", "constraint": "cpu:amd", "time": "30-00"},
    {"partition": "long", "constraint": "a"},
    {"nodelist": "n4", "constraint": "a"},
    {"nodelist": "n4", "constraint": "a", "nodes": "2"},
    {"nodelist": "n[3-4]", "constraint": "d"},
    {"exclude": "n4", "constraint": "d"},
    {"exclude": "n[1-2]", "constraint": "a"},
]  # fmt: skip


@pytest.fixture(scope="module")
def facts() -> Iterator[cluster.Cluster]:
    """A cluster of many kinds, as an ordinary user sees it."""
    restart(
        partitions=PARTITIONS,
        slurm_conf={**SETTINGS["slurm_conf"], "GresTypes": "gpu,disk"},
        node_conf={"Gres": "gpu:a100:2,gpu:v100:1,disk:8"},
        conf_files={"gres.conf": GRES_CONF},
    )
    for node, features in FEATURES.items():
        values = (f"{name}={features}" for name in ("availablefeatures", "activefeatures"))
        slurm("scontrol", "update", f"nodename={node}", *values)
    wait_for(lambda: "g_h" in slurm("sinfo", "-h", "-o", "%f"))
    outputs = {name: as_anna(command, *argv) for name, (command, *argv) in cluster.COMMANDS.items()}
    yield cluster.parse({name: result.stdout for name, result in outputs.items()})
    restart()


def as_anna(command: str, *arguments: str, script: str = "") -> subprocess.CompletedProcess[str]:
    argv = ["setpriv", f"--reuid={ANNA}", f"--regid={ANNA}", "--init-groups", str(BASE / "bin" / command), *arguments]
    return subprocess.run(argv, input=script, capture_output=True, text=True, check=False, cwd="/")


def errors_of(options: dict[str, Any], facts: cluster.Cluster) -> tuple[list[str], str] | None:
    """What we call an error in a row, and the script that it becomes; None where the config file itself is refused."""
    row = dict(options)
    tasks = row.pop("tasks", 1)
    document = {**CONFIG, "default_slurm_config": {"partition": "main", "cpus_per_task": 1, "mem": "10M", **row}}
    batching = {
        "max_cpus_per_job": 100,
        "max_mem_per_job": "10T",
        "target_cpus_per_job": 100,
        "target_mem_per_job": "1G",
    }
    document["batching_config"] = {**CONFIG["batching_config"], **batching}
    try:
        config = parse_config(document, source="row")
        merged = resolve(config, task_name="x", task_meta={}, workflow_task_meta={}, tot_tasks=tasks).config
    except FractalSlurmError:
        return None
    settings = JobSettings(
        command=("true",), run_folder="/r", cache_dir="/c", worker_python="/x", worker_folder="/x", start_slack_s=0
    )
    options = sbatch_options(merged, settings, token="0" * 16, tasks=tasks)
    lines = "".join(f"#SBATCH --{name}={value}\n" for name, value in options)
    found = [str(finding) for finding in fit.check(config, facts) if finding.severity is fit.Severity.ERROR]
    return found, f"#!/bin/sh\n{lines}true\n"


def starts_never(script: str) -> bool:
    """Whether SLURM takes a job and lets it wait for ever, as it does without EnforcePartLimits."""
    job = as_anna("sbatch", "--parsable", script=script).stdout.strip()
    if not job:
        return False
    deadline = time.monotonic() + 10
    try:
        while time.monotonic() < deadline:
            state, _bar, reason = slurm("squeue", "-h", "-j", job, "-o", "%T|%r").strip().partition("|")
            if state != "PENDING" or is_hopeless(reason):
                return is_hopeless(reason)
            time.sleep(0.2)
    finally:
        slurm("scancel", job)
    return False


def test_no_row_that_slurm_takes_is_called_an_error(facts: cluster.Cluster) -> None:
    tried, refused, wrong = 0, 0, []
    for row in ROWS:
        ours = errors_of(row, facts)
        if ours is None:
            continue
        tried += 1
        answer = as_anna("sbatch", "--test-only", script=ours[1])
        refused += answer.returncode != 0
        if ours[0] and answer.returncode == 0 and not starts_never(ours[1]):
            wrong.append((row, ours[0], answer.stderr))
    assert not wrong, "\n".join(map(str, wrong))
    assert tried >= 300
    assert refused >= 100


def test_most_of_what_slurm_refuses_is_known_before(facts: cluster.Cluster) -> None:
    """Not all: what is not known is no error. But who changes the comparison is to see when it knows much less."""
    found = [ours[0] for row in ROWS if (ours := errors_of(row, facts)) is not None]
    assert sum(map(bool, found)) >= 80
