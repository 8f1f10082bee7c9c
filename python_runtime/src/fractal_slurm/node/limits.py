# SPDX-License-Identifier: BSD-3-Clause
"""What a job may use: how long it has, and what its processes use of the memory."""

from __future__ import annotations

import os
import time

from .placement import is_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Munge refuses what comes from a clock that is further off, by default.
SKEW_S = 300.0


def job_end(limit_s: float, before_s: float = 0.0) -> float | None:
    """When SLURM ends this job, by the monotonic clock.

    SLURM's times are those of its own clock. This node's may be off: the worker then goes by the length of the time
    limit, and by the age of the script.

    Args:
        limit_s: The job's time limit; 0 if the script does not tell.
        before_s: Seconds that went by in the job before the step that this process is in.
    """
    start, end = (os.environ.get(f"SLURM_JOB_{what}_TIME", "") for what in ("START", "END"))
    by_clock = None
    if is_number(end):  # SLURM 22.05 does not have it
        by_clock = int(end) - time.time()
        if is_number(start):
            limit_s = int(end) - int(start)
    # What extra_lines did before the worker (conda, module load) took of the job's time, too.
    left = by_limit = limit_s - before_s - process_age_s() if limit_s else None
    if by_clock is not None and by_clock > 0:
        if by_limit is None or not is_number(start):
            left = by_clock
        elif by_clock > by_limit - SKEW_S:
            # Of the two the one that ends the job's queue sooner: that costs but time, and the other costs tasks.
            left = min(by_clock, by_limit)
    return None if left is None else time.monotonic() + left


def process_age_s() -> float:
    """Seconds since this process began: with the job's script, that gave way to the worker by exec."""
    try:
        with open("/proc/self/stat", "rb") as file:
            began = int(file.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, ValueError, IndexError):
        return 0.0


class MemoryWatch:
    """Which tasks use more memory than they may.

    Args:
        memory_mb: What a task may use, in MB.
        every_s: How often to look, in seconds.
        patience_s: How long a task may be over it: in a step it is SLURM's to end it, and where it does not, ours.
    """

    def __init__(self, memory_mb: int, every_s: float, patience_s: float) -> None:
        self.memory_mb, self.every_s, self.patience_s = memory_mb, every_s, patience_s
        self.next_look = 0.0
        self.over_since: dict[int, float] = {}

    def look(self, groups: Iterable[int], now: float) -> dict[int, float]:
        """The process groups that are to be ended, and what each uses, in MB.

        Args:
            groups: Of the running tasks.
            now: The monotonic clock.
        """
        self.next_look = now + self.every_s
        used = group_memory_mb({group for group in groups if group})
        over = {group: peak for group, peak in used.items() if peak > self.memory_mb}
        self.over_since = {group: self.over_since.get(group, now) for group in over}
        return {group: peak for group, peak in over.items() if now >= self.over_since[group] + self.patience_s}


def group_memory_mb(groups: set[int]) -> dict[int, float]:
    """Resident memory of process groups, in MB. Pages that processes share count once (Pss), where it matters."""
    page_mb = os.sysconf("SC_PAGE_SIZE") / 1e6
    members: dict[int, list[tuple[str, float]]] = {}
    for name in os.listdir("/proc"):
        if is_number(name):
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            group = int(fields[2])
            if group in groups:
                members.setdefault(group, []).append((name, int(fields[21]) * page_mb))
    used = {}
    for group, processes in members.items():
        used[group] = sum(resident for _name, resident in processes)
        if len(processes) > 1:
            used[group] = sum(proportional_mb(name, resident) for name, resident in processes)
    return used


def oom_kills() -> int:
    """How many processes of this job the kernel ended for lack of memory; 0 if it has no control group of its own."""
    job = os.environ.get("SLURM_JOB_ID", "")
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as groups:
            own = groups.readlines()
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            counters = oom_counters(own, mounts, job)
    except OSError:
        return 0
    for counter in counters:
        try:
            with open(counter, encoding="ascii") as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except OSError:
            continue
    return 0


class OomKills:
    """The processes of this job that the kernel ended for lack of memory: of each, one task is told."""

    def __init__(self) -> None:
        self.told = 0

    def is_one_more(self) -> bool:
        """Whether there is one that no task was told of. Then one is, from here on."""
        if oom_kills() <= self.told:
            return False
        self.told += 1
        return True


def oom_counters(groups: Iterable[str], mounts: Iterable[str], job: str) -> list[str]:
    """The files in which the kernel counts the processes that it ended for lack of memory, by cgroups(7).

    Args:
        groups: The lines of /proc/self/cgroup.
        mounts: The lines of /proc/self/mountinfo: in a container a part of the tree only is mounted.
        job: The job's id.

    Returns:
        Nothing where the job has no control group of its own, named by SLURM like
        /slurm/uid_1000/job_42/step_batch: another group's count tells of others' processes.
    """
    paths = {}
    for line in groups:
        _number, controllers, path = line.rstrip("\n").split(":", 2)
        if f"/job_{job}/" in f"{path}/":
            paths.update(dict.fromkeys(controllers.split(","), path))
    files = []
    for line in mounts:
        place, _separator, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            path, name = paths.get("", ""), "memory.events"
        elif kind.startswith("cgroup ") and "memory" in kind.split()[-1].split(","):
            path, name = paths.get("memory", ""), "memory.oom_control"
        else:
            continue
        root, mounted_at = place.split()[3:5]
        if path:
            root = root.rstrip("/")
            below = path[len(root) :] if path.startswith(root) else path
            files.append(f"{mounted_at}{below}/{name}")
    return files


def proportional_mb(name: str, resident: float) -> float:
    """Return the memory of a process in MB, shared pages in proportion; ``resident`` if the kernel does not tell."""
    try:
        with open(f"/proc/{name}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return resident
