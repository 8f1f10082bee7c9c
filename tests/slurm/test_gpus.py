# SPDX-License-Identifier: BSD-3-Clause
"""Jobs with GPUs. SLURM hands out any device files that it is told are GPUs, and names them as it does real ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ONE_JOB, SETTINGS, Call, restart
from test_hook import Script

TWO_SLOTS = {**ONE_JOB, "target_cpus_per_job": 2, "max_cpus_per_job": 2}
TASK = """#!/bin/sh
sleep 0.3
printf '"%s"' "$CUDA_VISIBLE_DEVICES" > "$4"
"""
# A task of fractal-server that holds its GPU for a while, and fails if another one has it.
HOLDS = """#!/bin/sh
n=$(sed "s/[^0-9]//g" "$2")
gpu=MARKS/$SLURMD_NODENAME-$CUDA_VISIBLE_DEVICES
mkdir "$gpu" || exit 9
sleep 0.3
rmdir "$gpu"
printf '["%s", "%s", "%s"]' "$CUDA_VISIBLE_DEVICES" "$SLURM_GPUS_ON_NODE" "$SLURM_NTASKS" > "$4"
"""


@pytest.fixture(scope="module", autouse=True)
def gpus() -> Iterator[None]:
    devices = {"gres.conf": "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\nName=disk Count=8\n"}
    restart(
        slurm_conf={**SETTINGS["slurm_conf"], "GresTypes": "gpu,disk"},
        node_conf={"Gres": "gpu:2,disk:8"},
        conf_files=devices,
    )
    yield
    restart()


def results(call: Call, **options: Any) -> list[str]:
    call.config(batching=TWO_SLOTS, **options)
    outcome = call.run(call.spec(call.script(TASK), 6))
    assert outcome.code == 0, outcome.stderr
    return [task["result"] for task in call.report()["tasks"]]


def test_slots_share_out_the_gpus_of_their_job(call: Call) -> None:
    assert set(results(call, gres="gpu:2")) == {"0", "1"}


@pytest.mark.parametrize(
    ("option", "seen"), [({"gpus": "2"}, {"0", "1"}), ({"gres": "gpu:1"}, {"0"}), ({"gres": "disk:2"}, {""})]
)
def test_slots_in_steps_do_not_wait_for_what_each_other_has(call: Call, option: dict[str, str], seen: set[str]) -> None:
    call.env["FRACTAL_SLURM_ISOLATION"] = "step"
    assert set(results(call, **option)) == seen


@pytest.mark.parametrize(
    ("lines", "slots", "seen"),
    [
        ("#SBATCH --gres=gpu:1\n", 1, {"0"}),
        ("#SBATCH --gres=gpu:2\n", 2, {"0", "1"}),
        ("#SBATCH --nodes=2 --gres=gpu:1\n", 2, {"0"}),
    ],
)
def test_the_hook_runs_one_task_at_a_time_on_a_gpu(call: Call, lines: str, slots: int, seen: set[str]) -> None:
    script = Script(call, "2.18.5-sudo", lines=lines, task=HOLDS)
    script.run()
    assert f"5 tasks in {slots} slots" in script.printed()[0]
    outputs = script.outputs()
    assert [output[0] for output in outputs] == [True] * 5
    assert {tuple(output[1]) for output in outputs} == {(gpu, "1", "1") for gpu in seen}
