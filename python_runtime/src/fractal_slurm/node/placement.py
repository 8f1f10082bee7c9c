# SPDX-License-Identifier: BSD-3-Clause
"""Decide where the tasks of a job run: the slots of each node, and the CPUs, threads and GPUs of each slot."""

from __future__ import annotations

import os

# Variables with the number of threads of common numerical libraries. Each is set to cpus_per_task, unless the job's
# environment sets it already.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")
# What SLURM says of the other slots of the job, and of the job step in which the worker runs. A task would take it for
# its own: libraries for MPI, or for several GPUs, would wait for ranks that are tasks of their own.
ALONE = {
    "SLURM_NTASKS": "1",
    "SLURM_NPROCS": "1",
    "SLURM_NNODES": "1",
    "SLURM_TASKS_PER_NODE": "1",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_GTIDS": "0",
}
# Beginnings of names. SLURM_STEPMGR is none of them: srun asks that node for a step.
OF_STEP = ("SLURM_STEP_", "SLURM_STEPID", "SLURM_SRUN_COMM_", "SLURM_LAUNCH_NODE_", "SLURM_NTASKS_PER_")


def slots_of_node(tasks_per_node: str, node: int) -> tuple[list[int], int]:
    """Read the slots of the nodes from SLURM_TASKS_PER_NODE, e.g. ``4(x2),1``.

    Args:
        tasks_per_node: The variable's value.
        node: The node's number in the job (SLURM_NODEID).

    Returns:
        The number of slots of each node of the job, and the number of slots of this node.
    """
    slots = []
    for part in (tasks_per_node or "1").split(","):
        count, _x, times = part.partition("(x")
        slots += [int(count)] * int(times.rstrip(")") or 1)
    return slots, slots[node] if node < len(slots) else 1


def split_cpus(slots: int, cpus_per_task: int) -> list[set[int]] | None:
    """Return a CPU set for each slot. Return None if SLURM did not bind this job to the CPUs that it got.

    Without such a binding each job sees all CPUs. If we then chose some, several jobs would use the same CPUs.
    """
    granted = os.environ.get("SLURM_CPUS_ON_NODE", "")
    cpus = sorted(os.sched_getaffinity(0))
    if not is_number(granted) or len(cpus) != int(granted) or len(cpus) < slots * cpus_per_task:
        return None
    # Keep the hardware threads of one core in one slot.
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
    """Return the environment of the tasks of one slot.

    It has the number of threads, and the slot's share of the job's GPUs. Its other variables of SLURM are those of a
    job with one task, as each task is one.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(OF_STEP)}
    env.update((name, value) for name, value in ALONE.items() if name in env)
    env["SLURM_CPUS_PER_TASK"] = str(cpus_per_task)
    if "SLURM_CPUS_ON_NODE" in env:
        env["SLURM_CPUS_ON_NODE"] = str(cpus_per_task)
    for name in THREAD_VARIABLES:
        env.setdefault(name, str(cpus_per_task))
    for name in GPU_VARIABLES:
        devices = [device for device in env.get(name, "").split(",") if device]
        if len(devices) > 1:
            share = len(devices) // slots
            mine = devices[number * share : (number + 1) * share] if share else [devices[number % len(devices)]]
            env[name] = ",".join(mine)
            if "SLURM_GPUS_ON_NODE" in env:
                env["SLURM_GPUS_ON_NODE"] = str(len(mine))
    return env


def gpus_of_node() -> int | None:
    """Return how many GPUs SLURM gave to this job on this node. None if it gave none, or does not say."""
    count = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return int(count) or None if is_number(count) else None


def is_number(text: str) -> bool:
    """Return whether a text is a whole number in ASCII digits. Python also has other digits, such as superscripts."""
    return text.isascii() and text.isdigit() and len(text) < 19
