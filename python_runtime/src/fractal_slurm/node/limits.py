# SPDX-License-Identifier: BSD-3-Clause
"""The limits of a job: when it ends, and how much memory its processes use."""

from __future__ import annotations

import os
import time

from .placement import is_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# By default munge refuses messages if the two clocks differ by more than this.
SKEW_S = 300.0


def job_end(limit_s: float, before_s: float = 0.0) -> float | None:
    """Return when SLURM ends this job, by the monotonic clock in seconds; None if that is not known.

    SLURM's times are from its own clock. If the clock of this node is wrong, we use the length of the time limit and
    the age of the script.

    Args:
        limit_s: The job's time limit in seconds. 0 if the script does not say.
        before_s: Seconds that passed in the job before the job step of this process began.
    """
    start, end = (os.environ.get(f"SLURM_JOB_{what}_TIME", "") for what in ("START", "END"))
    by_clock = None
    if is_number(end):  # SLURM 22.05 does not have it
        by_clock = int(end) - time.time()
        if is_number(start):
            limit_s = int(end) - int(start)
    # extra_lines run before the worker (conda, module load). Their time is part of the job's time.
    left = by_limit = limit_s - before_s - process_age_s() if limit_s else None
    if by_clock is not None and by_clock > 0:
        if by_limit is None or not is_number(start):
            left = by_clock
        elif by_clock > by_limit - SKEW_S:
            # Use the earlier of the two. An end that is too early costs only time. One that is too late costs tasks.
            left = min(by_clock, by_limit)
    return None if left is None else time.monotonic() + left


def process_age_s() -> float:
    """Return the seconds since this process began. The job's script became the worker by exec: its time counts."""
    try:
        with open("/proc/self/stat", "rb") as file:
            began = int(file.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
    except (OSError, ValueError, IndexError):
        return 0.0


class MemoryWatch:
    """Finds the tasks that use more memory than they may.

    Args:
        memory_mb: Memory that a task may use, in MB.
        every_s: Seconds between two looks.
        patience_s: Seconds for which a task may be over its memory. In a job step SLURM should end the task. If it does
            not, we do.
    """

    def __init__(self, memory_mb: int, every_s: float, patience_s: float) -> None:
        self.memory_mb, self.every_s, self.patience_s = memory_mb, every_s, patience_s
        self.next_look = 0.0
        self.over_since: dict[int, float] = {}

    def look(self, groups: Iterable[int], now: float) -> dict[int, float]:
        """Return the process groups to end, and the memory of each in MB.

        Args:
            groups: The process groups of the running tasks.
            now: Time of the monotonic clock, in seconds.
        """
        self.next_look = now + self.every_s
        used = group_memory_mb({group for group in groups if group})
        over = {group: peak for group, peak in used.items() if peak > self.memory_mb}
        self.over_since = {group: self.over_since.get(group, now) for group in over}
        return {group: peak for group, peak in over.items() if now >= self.over_since[group] + self.patience_s}


def group_memory_mb(groups: set[int]) -> dict[int, float]:
    """Return the resident memory of process groups, in MB. Pages that several processes share count once (Pss)."""
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
    """Return how many processes of this job the kernel ended for lack of memory.

    It is 0 if the job has no control group of its own.
    """
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
    """Counts the processes of this job that the kernel ended for lack of memory. Each one explains one failed task."""

    def __init__(self) -> None:
        self.told = 0

    def is_one_more(self) -> bool:
        """Return whether there is a process that explains no failed task yet. If so, count it as used."""
        if oom_kills() <= self.told:
            return False
        self.told += 1
        return True


def oom_counters(groups: Iterable[str], mounts: Iterable[str], job: str) -> list[str]:
    """Return the files in which the kernel counts the processes that it ended for lack of memory (cgroups(7)).

    Args:
        groups: The lines of /proc/self/cgroup.
        mounts: The lines of /proc/self/mountinfo. In a container only a part of the tree is mounted.
        job: The job's id.

    Returns:
        The files. The list is empty if the job has no control group of its own. SLURM names such a group like
        /slurm/uid_1000/job_42/step_batch. The count of any other group includes processes of other jobs.
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
    """Return the memory of a process in MB. A shared page counts by its share (Pss).

    If the kernel does not show this, the result is ``resident``.
    """
    try:
        with open(f"/proc/{name}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return resident
