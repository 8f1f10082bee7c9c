# SPDX-License-Identifier: BSD-3-Clause
"""Many faults in one run, at moments that a seed sets: nothing is lost, and nothing runs under two tokens.

A seed repeats the faults and their moments, not what SLURM makes of them; CONTRIBUTING.md says how to try others.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    ANNA,
    BASE,
    GROUP,
    Call,
    away,
    finish,
    frozen,
    grant,
    kill,
    live_jobs,
    running_jobs,
    slurm,
    wait_for,
)

SEEDS = [int(seed) for seed in os.environ.get("FRACTAL_CHAOS_SEEDS", "2 9").split()]
TASKS, FAULTS_S, END_S = 80, 8.0, 150.0
STATES = ("succeeded", "failed", "not_run")
# Notes its starts, with its token, which is in the path of its args. Some fail by themselves, some have much to say.
TASK = """#!/bin/sh
n=$(sed "s/[^0-9]//g" "$2")
echo "$n $2" >> {marks}
case $n in
*7) exit 3 ;;
*31) kill -SEGV $$ ;;
*52) head -c 300000 /dev/zero | tr '\\0' x ;;
esac
sleep $((n % 20 / 10)).$((n % 10))
[ $((n % 10)) != 4 ] || pad=$(head -c 400000 /dev/zero | tr '\\0' y)
echo "{{\\"n\\": $n, \\"pad\\": \\"$pad\\"}}" > "$4"
"""
START = re.compile(r"^([0-9]+) .*fractal-([0-9a-f]{16})", re.MULTILINE)


class Chaos:
    """One run, and what is done to it."""

    def __init__(self, call: Call, seed: int) -> None:
        self.call, self.rng = call, random.Random(seed)  # noqa: S311 - no secret
        self.began = time.monotonic()
        self.made: list[str] = []
        self.held: dict[str, tuple[float, str, AbstractContextManager[None]]] = {}  # what is at fault, until when
        self.cancelled: list[str] = []
        self.killed: set[int] = set()
        self.work = call.work(ANNA)
        self.marks = call.folder / "marks"  # where no fault takes it away
        self.marks.touch()
        self.marks.chmod(0o666)
        call.env |= {"FRACTAL_SLURM_SBATCH_TIMEOUT_S": "5", "FRACTAL_SLURM_COMMAND_TIMEOUT_S": "5"}
        call.env["FRACTAL_SLURM_MAX_NODE_RETRIES"] = "20"
        self.driver = call.begin(call.spec(call.script(TASK.format(marks=self.marks)), TASKS))

    def resume(self) -> None:
        self.driver = self.call.start("resume", self.call.run_id(), "--json")

    def cancel_job(self) -> None:
        self.cancelled += self.cancelled or live_jobs()[-1:]
        slurm("scancel", *self.cancelled)

    def kill_process(self, word: str) -> None:
        """Kill a task, or a worker that serves several: of a single one it would be said that the task did it."""
        for pid, command in processes(word):
            with suppress(OSError):
                if word == "task.sh" or len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) > 1:
                    self.killed |= {int(number) for number in re.findall(r"/([0-9]+)-[0-9]+-args", command)}
                    os.kill(pid, signal.SIGKILL)
                    return

    def fault(self) -> None:
        """Make a fault, unless what it is about is at fault already."""
        work, aside = self.work, self.call.folder / "away"
        node = f"n{self.rng.randint(1, 4)}"
        where, what, fault = self.rng.choice(
            [
                ("driver", "driver killed", between(lambda: kill(self.driver), self.resume)),
                ("slurmctld", "slurmctld hangs", frozen("slurmctld")),
                ("slurmctld", "slurmctld is down", away("slurmctld", signal.SIGTERM)),
                ("slurmctld", "slurmctld killed", away("slurmctld", signal.SIGKILL)),
                ("slurmctld", "job requeued", between(lambda: slurm("scontrol", "requeue", *running_jobs()[:1]))),
                ("slurmctld", "job cancelled", between(self.cancel_job)),
                (node, f"slurmd of {node} killed", away("slurmd", signal.SIGKILL, node)),
                ("folder", "folder away", between(lambda: work.rename(aside), lambda: aside.rename(work))),
                ("folder", "folder closed", between(lambda: work.chmod(0), lambda: work.chmod(0o700))),
                ("sudo", "sudo refuses", between(lambda: grant(f"%{GROUP}"), lambda: grant(f"{ANNA}, %{GROUP}"))),
                ("worker", "worker killed", between(lambda: self.kill_process("worker.main"))),
                ("task", "task killed", between(lambda: self.kill_process("task.sh"))),
            ]
        )
        until = time.monotonic() + self.rng.choice([0.5, 2, 5])
        if where not in self.held:
            fault.__enter__()
            self.held[where] = (until, what, fault)
            self.made.append(f"{time.monotonic() - self.began:.1f} s: {what}")

    def mend(self, *, at_once: bool = False) -> None:
        """End the faults that had their time: slurmctld's first, since it is asked whether a slurmd is back."""
        for where, (until, what, fault) in sorted(self.held.items(), key=lambda item: item[0] != "slurmctld"):
            if at_once or (time.monotonic() >= until and (where[0] != "n" or "slurmctld" not in self.held)):
                del self.held[where]
                fault.__exit__(None, None, None)
                self.made.append(f"{time.monotonic() - self.began:.1f} s: no more: {what}")

    def go(self) -> None:
        """Make faults for a while, mend them, and let the run come to its end."""
        wait_for(live_jobs)
        try:
            next_fault = 0.0
            while time.monotonic() < self.began + FAULTS_S:
                self.mend()
                if time.monotonic() >= next_fault:
                    self.fault()
                    next_fault = time.monotonic() + self.rng.expovariate(1.5)
                time.sleep(0.05)
        finally:
            self.mend(at_once=True)
        deadline = time.monotonic() + END_S
        while self.driver.poll() is None:
            assert time.monotonic() < deadline, "the run does not end"
            slurm("scontrol", "update", "nodename=ALL", "state=resume")
            for job in slurm("squeue", "--noheader", "--states=PENDING", "--format=%i").split():
                slurm("scontrol", "update", f"jobid={job}", "StartTime=now")  # not minutes after it was requeued
            time.sleep(1)

    def check(self) -> None:
        """What has to hold, whatever happened."""
        outcome = finish(self.driver, code=1)
        assert "Traceback" not in outcome.stderr
        tasks = self.call.report()["tasks"]
        assert [task["index"] for task in tasks] == list(range(TASKS))
        counts = Counter(task["state"] for task in tasks)
        assert [outcome[state] for state in STATES] == [counts[state] for state in STATES]
        assert not [(task["index"], task["state"], task["reason"]) for task in tasks if not self.is_right(task)]
        # Not by squeue: a slurmctld that was killed may take up again jobs that have ended.
        wait_for(lambda: not processes("worker.main"), what="the jobs of the run to be gone")
        tokens: dict[str, list[str]] = {}
        for number, token in START.findall(self.marks.read_text()):
            if tokens.setdefault(number, [token])[-1] != token:
                assert token not in tokens[number], f"task {number} was started under {token} after another token"
                tokens[number].append(token)

    def is_right(self, task: dict[str, Any]) -> bool:
        """Whether a task ended as it has to."""
        number, reason = task["index"], str(task["reason"])
        own = "exit code 3" if number % 10 == 7 else "ended by signal 11" if number % 100 == 31 else ""
        if task["state"] == "succeeded":
            return not own and bool(task["result"]["n"] == number)
        if task["state"] == "not_run":
            return any(f"job {job} was cancelled" in reason for job in self.cancelled)
        return (bool(own) and reason.startswith(own)) or (number in self.killed and "signal 9" in reason)


def processes(word: str) -> list[tuple[int, str]]:
    """The processes of this lane's jobs with a word in their command line, and that."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if word in command and str(BASE) in command:
                found.append((int(entry.name), command))
    return found


@contextmanager
def between(begin: Callable[[], Any], end: Callable[[], Any] = lambda: None) -> Iterator[None]:
    begin()
    yield
    end()


@pytest.mark.parametrize("seed", SEEDS)
def test_many_faults_lose_nothing(call: Call, seed: int) -> None:
    chaos = Chaos(call, seed)
    try:
        chaos.go()
        chaos.check()
    except BaseException:
        print(f"seed {seed}", *chaos.made, sep="\n")
        raise
