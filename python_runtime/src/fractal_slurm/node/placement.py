# SPDX-License-Identifier: BSD-3-Clause
"""Where the tasks of a job run: slots of nodes, and of each slot the CPUs, threads and GPUs."""

from __future__ import annotations

import os

# The threads of the usual numerical libraries; each is set to cpus_per_task unless the job's environment has it.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")


def slots_of_node(tasks_per_node: str, node: int) -> tuple[list[int], int]:
    """The slots of one node, out of SLURM_TASKS_PER_NODE, e.g. ``4(x2),1``.

    Args:
        tasks_per_node: The variable's value.
        node: The node's number in the job (SLURM_NODEID).

    Returns:
        Slots of every node of the job, and of this one.
    """
    slots = []
    for part in (tasks_per_node or "1").split(","):
        count, _x, times = part.partition("(x")
        slots += [int(count)] * int(times.rstrip(")") or 1)
    return slots, slots[node] if node < len(slots) else 1


def split_cpus(slots: int, cpus_per_task: int) -> list[set[int]] | None:
    """A CPU set for each slot, or nothing where SLURM did not confine this job to the CPUs that it granted.

    Pinning by guess puts neighbouring jobs on the same CPUs, since without confinement every job sees all.
    """
    granted = os.environ.get("SLURM_CPUS_ON_NODE", "")
    cpus = sorted(os.sched_getaffinity(0))
    if not is_number(granted) or len(cpus) != int(granted) or len(cpus) < slots * cpus_per_task:
        return None
    # Hardware threads of one core go to one slot.
    siblings: dict[int, str] = {}
    for cpu in cpus:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as file:
                siblings[cpu] = file.read()
        except OSError:
            siblings[cpu] = ""
    first: dict[str | int, int] = {}
    for cpu in cpus:
        first.setdefault(siblings[cpu] or cpu, cpu)
    cpus.sort(key=lambda cpu: (first[siblings[cpu] or cpu], cpu))
    return [set(cpus[n * cpus_per_task : (n + 1) * cpus_per_task]) for n in range(slots)]


def slot_environment(number: int, slots: int, cpus_per_task: int) -> dict[str, str]:
    """The environment of the tasks of one slot: threads, its share of the job's GPUs."""
    env = dict(os.environ)
    env["SLURM_CPUS_PER_TASK"] = str(cpus_per_task)
    for name in THREAD_VARIABLES:
        env.setdefault(name, str(cpus_per_task))
    for name in GPU_VARIABLES:
        devices = [device for device in env.get(name, "").split(",") if device]
        if len(devices) > 1:
            share = len(devices) // slots
            mine = devices[number * share : (number + 1) * share] if share else [devices[number % len(devices)]]
            env[name] = ",".join(mine)
    return env


def is_number(text: str) -> bool:
    """Whether a text is a whole number that int takes: a digit of another script, such as a superscript, is none."""
    return text.isascii() and text.isdigit() and len(text) < 19
