# SPDX-License-Identifier: BSD-3-Clause
"""What the page of a run shows, as plain values: who ran when, what tasks used, and what that suggests."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config.walltime import format_walltime
from ..driver.model import TaskState
from ..errors import count_of
from ..report import args_words

# A suggestion leaves so much above the largest that was seen, and is made from so many tasks on.
_MEMORY_ROOM, _TIME_ROOM, _FEWEST = 1.25, 1.5, 3
# It is worth a word if it saves so much of what was asked for; and near a limit is from so much of it on.
_WORTH, _NEAR = 0.25, 0.9
_STEPS_MB = 100
# Of names of hosts and the like so many characters are shown.
_MOST_ARGS = 120


@dataclass
class Bar:
    """A task in a lane of the timeline, in seconds since the run began."""

    begin: float
    end: float
    task: int
    state: str


@dataclass
class JobLanes:
    """A job in the timeline.

    Attributes:
        number: Its number.
        name: What to call it.
        submitted: When it was submitted, in seconds since the run began; None where it never was.
        began: When SLURM started it.
        ended: When it was seen to be over.
        lanes: Its slots, each with its tasks.
    """

    number: int
    name: str
    submitted: float | None
    began: float | None
    ended: float | None
    lanes: list[list[Bar]] = field(default_factory=list)

    @property
    def waited_s(self) -> float:
        return max(0.0, (self.began or self.submitted or 0.0) - (self.submitted or 0.0))

    @property
    def startup_s(self) -> float:
        """Until the first task began: the node's clock may differ a little from the server's."""
        first = min((lane[0].begin for lane in self.lanes if lane), default=None)
        return 0.0 if first is None or self.began is None else max(0.0, first - self.began)

    @property
    def busy_s(self) -> float:
        return sum(span.end - span.begin for lane in self.lanes for span in lane)

    @property
    def idle_s(self) -> float:
        """What its slots were free for, between the first task's begin and the last one's end."""
        bars = [span for lane in self.lanes for span in lane]
        if not bars:
            return 0.0
        whole = max(span.end for span in bars) - min(span.begin for span in bars)
        return max(0.0, whole * len(self.lanes) - self.busy_s)


def lanes_of(bars: Iterable[Bar]) -> list[list[Bar]]:
    """Spread tasks over as few lanes as hold them without overlap: their slots, for all that is known."""
    lanes: list[list[Bar]] = []
    free: list[tuple[float, int]] = []  # of each lane the end of its last task
    for span in sorted(bars, key=lambda span: (span.begin, span.task)):
        # Clocks are rounded: what begins as the one before it ends may seem to begin earlier.
        if free and free[0][0] <= span.begin + 0.005:
            lane = heapq.heappop(free)[1]
            lanes[lane].append(span)
        else:
            lane = len(lanes)
            lanes.append([span])
        heapq.heappush(free, (span.end, lane))
    return lanes


def timeline(jobs: Sequence[dict[str, Any]], tasks: Iterable[dict[str, Any]], created: float) -> list[JobLanes]:
    """When each job waited and what its slots did.

    Args:
        jobs: As :func:`fractal_slurm.report.job_row` has them.
        tasks: As :func:`fractal_slurm.report.task_rows` has them.
        created: When the run began.
    """

    def since(at: float | None) -> float | None:
        return None if at is None else max(0.0, at - created)

    found: dict[str, JobLanes] = {}
    for job in jobs:
        if job["submitted"] is not None:
            name = f"job {job['number']}" + (f" ({job['slurm_job_id']})" if job["slurm_job_id"] else "")
            row = JobLanes(job["number"], name, since(job["submitted"]), since(job["began"]), since(job["ended"]))
            found[job["slurm_job_id"] or f"?{job['number']}"] = row
    bars: dict[str, list[Bar]] = {}
    for task in tasks:
        if task["start"] is not None and task["duration_s"] is not None and task["job"] in found:
            begin = since(task["start"]) or 0.0
            length = min(max(0.0, task["duration_s"]), 10.0**8)
            bars.setdefault(task["job"], []).append(Bar(begin, begin + length, task["index"], task["state"]))
    for job_id, row in found.items():
        row.lanes = lanes_of(bars.get(job_id, []))
    return sorted(found.values(), key=lambda row: row.number)


def _amount(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Use:
    """What tasks used of one thing.

    Attributes:
        values: One for each task that succeeded.
        asked: What was asked for each; None where nothing was.
        unit: The unit of both.
    """

    values: list[float]
    asked: float | None
    unit: str

    def quantile(self, share: float) -> float:
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def words(self) -> str:
        """The distribution in words, for who can't see it."""
        if not self.values:
            return "Nothing was measured."
        unit = "CPU" if self.unit == "CPUs" and self.asked == 1 else self.unit
        asked = "" if self.asked is None else f" Asked for each: {self.asked:g} {unit}."
        return (
            f"{count_of(len(self.values), 'task')}: half took at most {_amount(self.quantile(0.5))} {self.unit}, "
            f"nine of ten at most {_amount(self.quantile(0.9))}, the largest {_amount(max(self.values))}.{asked}"
        )


def uses(tasks: Iterable[dict[str, Any]], config: dict[str, Any], time_s: int | None) -> dict[str, Use]:
    """Durations, memory and CPUs of the tasks that succeeded, and what was asked for."""
    seconds: list[float] = []
    memory: list[float] = []
    cpus: list[float] = []
    for task in tasks:
        if task["state"] != TaskState.SUCCEEDED:
            continue
        duration = task["duration_s"]
        if duration is not None and 0 <= duration < 10**8:
            seconds.append(float(duration))
            if task["cpu_s"] is not None and duration >= 1 and 0 <= task["cpu_s"] < 10**9:
                cpus.append(task["cpu_s"] / duration)
        if task["peak_mb"] is not None and 0 <= task["peak_mb"] < 10**9:
            memory.append(float(task["peak_mb"]))
    return {
        "time": Use(seconds, time_s, "s"),
        "mem": Use(memory, config.get("mem_per_task_MB"), "MB"),
        "cpus": Use(cpus, config.get("cpus_per_task"), "CPUs"),
    }


def suggestions(found: dict[str, Use], kinds: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """What to ask for the next time, why, and what it would save; by option."""
    rows = []
    words = " ".join(str(kind["kind"]) for kind in kinds)
    time, mem, cpus = found["time"], found["mem"], found["cpus"]
    hours = sum(time.values) / 3600
    if "memory" in words:
        rows.append(
            {"option": "mem", "now": _mb(mem.asked), "then": "more", "why": "tasks ran out of memory", "saves": ""}
        )
    elif mem.asked and len(mem.values) >= _FEWEST:
        most = max(mem.values)
        wanted = max(_STEPS_MB, -(-int(most * _MEMORY_ROOM) // _STEPS_MB) * _STEPS_MB)
        if most > _NEAR * mem.asked:
            why = f"the largest task used {most:.0f} MB: {100 * most / mem.asked:.0f} % of it"
            rows.append({"option": "mem", "now": _mb(mem.asked), "then": _mb(wanted), "why": why, "saves": ""})
        elif wanted <= (1 - _WORTH) * mem.asked:
            saved = (mem.asked - wanted) * hours / 1000
            rows.append(
                {
                    "option": "mem",
                    "now": _mb(mem.asked),
                    "then": _mb(wanted),
                    "why": f"the largest task used {most:.0f} MB; that and a quarter more",
                    "saves": f"{100 * (1 - wanted / mem.asked):.0f} % of the memory: {saved:.3g} GB hours in this run",
                }
            )
    if "time" in words and "limit" in words:
        now = format_walltime(int(time.asked)) if time.asked else ""
        rows.append({"option": "time", "now": now, "then": "more", "why": "tasks ran out of time", "saves": ""})
    elif time.asked and len(time.values) >= _FEWEST:
        most = max(time.values)
        wanted_s = max(60, -(-int(most * _TIME_ROOM) // 60) * 60)
        now, then = format_walltime(int(time.asked)), format_walltime(wanted_s)
        if most > _NEAR * time.asked:
            why = f"the longest task took {most:.0f} s: {100 * most / time.asked:.0f} % of it"
            rows.append({"option": "time", "now": now, "then": then, "why": why, "saves": ""})
        elif wanted_s <= (1 - _WORTH) * time.asked:
            why = f"the longest task took {most:.0f} s; that and half more"
            saves = "nothing by itself; short jobs start earlier, in the gaps of others (backfill)"
            rows.append({"option": "time", "now": now, "then": then, "why": why, "saves": saves})
    if cpus.asked and len(cpus.values) >= _FEWEST:
        busy = cpus.quantile(0.95)
        wanted_cpus = max(1, -(-int(busy * 10) // 10))
        if wanted_cpus < cpus.asked:
            saved = (cpus.asked - wanted_cpus) * hours
            rows.append(
                {
                    "option": "cpus_per_task",
                    "now": f"{cpus.asked:g}",
                    "then": str(wanted_cpus),
                    "why": f"nineteen of twenty tasks kept at most {busy:.1f} CPUs busy",
                    "saves": f"{saved:.3g} CPU hours in this run",
                }
            )
    return rows


def _mb(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}M"


def task_table(tasks: Iterable[dict[str, Any]]) -> list[list[Any]]:
    """A row for each task, for the page's table: index, state, args, node, begin, seconds, MB, reason."""
    return [
        [
            task["index"],
            str(task["state"]),
            args_words(task["args"], _MOST_ARGS),
            (task["host"] or "")[:80],
            task["duration_s"],
            task["peak_mb"],
            (task["reason"] or "")[:200],
        ]
        for task in tasks
    ]
