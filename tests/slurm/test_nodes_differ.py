# SPDX-License-Identifier: BSD-3-Clause
"""Nodes that have another Python than the host that submits, or no runtime."""

from __future__ import annotations

import shutil
from pathlib import Path

from conftest import ANNA, ONE_JOB, Call

NODE = Path(__file__).resolve().parents[2] / "python_runtime" / "src" / "fractal_slurm" / "node"


def test_a_node_without_the_python_of_the_host_that_submits_takes_its_own(call: Call) -> None:
    folder = call.work(ANNA).parent / "runtime" / "share" / "fractal-slurm"
    shutil.copytree(NODE, folder / "node")
    call.env.update(FRACTAL_SLURM_WORKER_FOLDER=str(folder), FRACTAL_SLURM_WORKER_PYTHON="/nowhere/python3.99")
    call.config(batching=ONE_JOB)
    assert call.run(call.spec("true", 3))["succeeded"] == 3


def test_a_node_without_the_runtime_is_told_in_words(call: Call) -> None:
    call.env.update(FRACTAL_SLURM_WORKER_FOLDER="/nowhere/fractal-slurm", FRACTAL_SLURM_MAX_RETRIES="0")
    call.config(batching=ONE_JOB)
    outcome = call.run(call.spec("true", 3))
    assert outcome["failed"] == 3
    reason = outcome["failures"][0]["reason"]
    assert "the runtime is not on node n" in reason
    assert "/nowhere/fractal-slurm/node/worker.py can not be read there: run the playbook fractal.slurm.site" in reason
