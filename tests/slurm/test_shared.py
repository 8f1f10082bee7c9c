# SPDX-License-Identifier: BSD-3-Clause
"""Several processes on one host: one squeue for all, limits that hold for all, and what happens when one dies."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    ANNA,
    BASE,
    BEN,
    ONE_JOB,
    SERVICE,
    Call,
    counted,
    finish,
    kill,
    live_jobs,
    slurm,
    starts,
    wait_for,
)

_specs = count()


def begin(call: Call, command: str, tasks: int, user: str = ANNA) -> subprocess.Popen[str]:
    """Start a process of its own for a run, whose spec the next one does not overwrite."""
    path = Path(call.spec(command, tasks))
    own = path.rename(path.with_name(f"spec-{next(_specs)}.json"))
    return call.begin(str(own), user)


def are_out(jobs: int) -> bool:
    return len(live_jobs()) == jobs


def requests() -> int:
    """How many requests slurmctld had of the service account, by its own count."""
    text = slurm("sdiag").partition("statistics by user")[2]
    found = re.search(rf"^\s*{SERVICE}\s.*?count:([0-9]+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def asked_in(seconds: float) -> float:
    """Requests of the service account in a second, over some seconds."""
    before, began = requests(), time.monotonic()
    time.sleep(seconds)
    return (requests() - before) / (time.monotonic() - began)


def test_many_processes_ask_slurm_as_often_as_one(call: Call) -> None:
    call.config(batching=ONE_JOB)
    script = call.script("#!/bin/sh\nwhile [ ! -e {} ]; do sleep 0.2; done\n".format(call.folder / "go-on"))
    rates = []
    processes: list[subprocess.Popen[str]] = []
    for more in (1, 5):
        processes += [begin(call, script, 1, (ANNA, BEN)[number % 2]) for number in range(more)]
        wait_for(partial(are_out, len(processes)))
        time.sleep(1)
        rates.append(asked_in(8))
    (call.folder / "go-on").touch()
    assert [finish(process)["succeeded"] for process in processes] == [1] * 6
    # A run asks once a second at first. Six that ask for themselves would come to five a second and more.
    assert rates[1] < rates[0] + 1.2, rates


def test_a_process_that_dies_or_hangs_holds_nobody_and_nothing_runs_twice(call: Call) -> None:
    call.config(batching=ONE_JOB)
    script, marks = counted(call, 1)
    processes = [begin(call, script, 4) for _turn in range(4)]
    wait_for(lambda: len(starts(marks)) == 4 and sum(starts(marks).values()) > 8)
    # Whoever of them asks for the others: one dies, one hangs for longer than its time to ask.
    dead, hangs, *others = processes
    run_of_dead = next(
        run for run in call.runs() if (call.folder / f"state/runs/{run}/lock").read_text().split()[0] == pid_of(dead)
    )
    kill(dead)
    hangs.send_signal(signal.SIGSTOP)
    try:
        assert [finish(process, seconds=60)["succeeded"] for process in others] == [4, 4]
    finally:
        hangs.send_signal(signal.SIGCONT)
    assert finish(hangs)["succeeded"] == 4
    assert call("resume", run_of_dead, "--json")["succeeded"] == 4
    assert starts(marks) == Counter(list(range(4)) * 4)


def pid_of(process: subprocess.Popen[str]) -> str:
    return str(process.pid)


def test_limits_hold_for_all_processes_and_survive_them(call: Call) -> None:
    limits = {"each_user": {"max_submissions": "3 in 20s", "max_jobs_in_flight": 2}}
    call.env["FRACTAL_SLURM_LIMITS"] = json.dumps(limits)
    call.config(batching=ONE_JOB)
    script, marks = counted(call, 0.5)
    before = slurm("squeue", "-h", "--states=all", "-o", "%i").split()
    processes = [begin(call, script, 2) for _turn in range(5)]
    submitted: dict[str, float] = {}
    most = 0
    while any(process.poll() is None for process in processes):
        jobs = dict(line.split(" ", 1) for line in slurm("squeue", "-h", "--states=all", "-o", "%i %V").splitlines())
        for job_id, at in jobs.items():
            if job_id not in before:
                submitted.setdefault(job_id, time.mktime(time.strptime(at, "%Y-%m-%dT%H:%M:%S")))
        most = max(most, len(live_jobs()))
        time.sleep(0.2)
    outcomes = [finish(process) for process in processes]
    assert [outcome["succeeded"] for outcome in outcomes] == [2] * 5
    assert starts(marks) == Counter([0, 1] * 5)
    assert most <= 2
    times = sorted(submitted.values())
    assert len(times) == 5
    assert times[3] - times[0] >= 19  # SLURM tells whole seconds
    told = "".join(outcome.stderr for outcome in outcomes)
    assert re.search(r"waiting for our limit of 3 submissions in 20 s for \S+ .*it goes on at [0-9:]{8}", told), told


def test_a_job_counts_whose_process_died_before_it_knew_of_it(call: Call) -> None:
    call.env["FRACTAL_SLURM_LIMITS"] = json.dumps({"each_user": {"max_jobs_in_flight": 1}})
    call.config(batching=ONE_JOB)
    go_on = call.folder / "go-on"
    script = call.script(f"#!/bin/sh\nwhile [ ! -e {go_on} ]; do sleep 0.2; done\n")
    wrapper = BASE / "bin/sbatch"
    original = wrapper.read_text()
    held = call.folder / "held"
    wrapper.write_text(original.replace("exec ", f'[ -e {held} ] && {{ /usr/bin/sbatch "$@"; exec sleep 15; }}\nexec '))
    held.touch()
    try:
        dies = begin(call, script, 1)
        (job_id,) = wait_for(live_jobs)
        kill(dies)
        held.unlink()
        waits = begin(call, script, 1)
        wait_for(lambda: len(call.runs()) == 2 and "limit reached" in call.events())
        # It learns the job's id by its name, so it goes on when that job is over: at once, not minutes later.
        (ledger,) = (call.folder / "state/shared").glob("*.sqlite")
        wait_for(lambda: noted(ledger) == [job_id], seconds=90)
        assert live_jobs() == [job_id]
        go_on.touch()
        assert finish(waits)["succeeded"] == 1
    finally:
        wrapper.write_text(original)


def noted(ledger: Path) -> list[str]:
    """The ids of the jobs in flight that processes share."""
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        return [row[0] for row in db.execute("SELECT job_id FROM job WHERE gone IS NULL")]


def with_limits(call: Call, limits: dict[str, object], *, jobs: int) -> None:
    """Set limits, and let a run have up to so many jobs of one task."""
    call.env["FRACTAL_SLURM_LIMITS"] = json.dumps(limits)
    one_cpu = {"target_cpus_per_job": 1, "max_cpus_per_job": 1}
    call.config(batching={"target_num_jobs": jobs, "max_num_jobs": jobs, **one_cpu})


def test_users_share_the_places_of_all_whichever_process_looks_first(call: Call) -> None:
    with_limits(call, {"all_users": {"max_jobs_in_flight": 2}}, jobs=30)
    big = begin(call, "true", 30)
    wait_for(lambda: ids_of(call, ANNA))
    small = finish(begin(call, "true", 3, BEN))
    kill(big)
    assert (small["succeeded"], small["jobs"]) == (3, 3)
    first, *_others, last = ids_of(call, BEN)
    # One of the two places is the small run's, from its first look on.
    assert sum(first < job < last for job in ids_of(call, ANNA)) <= 6


def ids_of(call: Call, user: str) -> list[int]:
    """The jobs of a user, in the order of their submissions: SLURM numbers them so."""
    return sorted(job_id for run in call.runs() for job_id in jobs_of(call, run, user))


def jobs_of(call: Call, run_id: str, user: str) -> list[int]:
    """The jobs of a run, if it is of a user."""
    run = call("report", run_id, "--json")
    return sorted(int(job["slurm_job_id"]) for job in run["jobs"] if run["user"] == user and job["slurm_job_id"])


def test_of_one_users_processes_the_oldest_run_goes_first(call: Call) -> None:
    with_limits(call, {"each_user": {"min_submission_interval": 2}}, jobs=5)
    dies = begin(call, "true", 5)
    wait_for(lambda: ids_of(call, ANNA))
    (older,) = call.runs()
    kill(dies)
    younger = begin(call, "true", 5)
    wait_for(lambda: len(call.runs()) == 2 and jobs_of(call, max(call.runs()), ANNA))
    assert call("resume", older, "--json")["succeeded"] == 5
    assert finish(younger)["succeeded"] == 5
    (first, *_younger), of_older = jobs_of(call, max(call.runs()), ANNA), jobs_of(call, older, ANNA)
    resumed = [job_id for job_id in of_older if job_id > first]
    assert len(resumed) >= 3
    # From its first look on the places are the older run's.
    assert resumed == list(range(resumed[0], resumed[0] + len(resumed)))


def test_jobs_that_the_user_submitted_by_hand_count(call: Call) -> None:
    limits = {"each_user": {"max_jobs_in_flight": 2}, "count_foreign_jobs": True}
    call.env["FRACTAL_SLURM_LIMITS"] = json.dumps(limits)
    call.config(batching=ONE_JOB)
    argv = [f"{BASE}/bin/sbatch", "--parsable", "--mem=10M", "--array=1-2", "--output=/dev/null", "--wrap=sleep 100"]
    user = ["setpriv", f"--reuid={ANNA}", f"--regid={ANNA}", "--init-groups"]
    by_hand = subprocess.run([*user, *argv], cwd="/", capture_output=True, text=True, check=True).stdout.strip()
    process = begin(call, "true", 1)
    wait_for(lambda: call.runs() and "limit reached" in call("report", call.run_id(), "--events").stdout)
    assert {job.partition("_")[0] for job in live_jobs()} == {by_hand}  # and none of ours
    slurm("scancel", by_hand)
    assert finish(process)["succeeded"] == 1


@pytest.fixture
def small_state(call: Call) -> Iterator[list[str]]:
    """A state folder on a file system of its own, in a mount namespace; what enters that."""
    account = pwd.getpwnam(SERVICE)
    options = f"size=2m,mode=0700,uid={account.pw_uid},gid={account.pw_gid}"
    mount = f"mount -t tmpfs -o {options} none '{call.folder}/state' && echo ready && exec sleep 600"
    holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", mount], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    yield ["nsenter", "--mount", f"--target={holder.pid}"]
    holder.kill()
    holder.communicate()


def test_a_state_folder_that_is_full_loses_nothing(call: Call, small_state: list[str]) -> None:
    call.env["FRACTAL_SLURM_LIMITS"] = json.dumps({"each_user": {"max_jobs_in_flight": 1}})
    script, marks = counted(call, 1)

    def inside(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*small_state, *argv], capture_output=True, text=True, check=False, **options)

    arguments = call.argv(*call.run_arguments(call.spec(script, 16)))
    process = subprocess.Popen([*small_state, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: sum(starts(marks).values()) >= 4)
    state = call.folder / "state"
    inside("dd", "if=/dev/zero", f"of={state}/filler", "bs=4k")
    _stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2, stderr
    assert "fractal-slurm status" in stderr
    inside("rm", f"{state}/filler")
    (run_id,) = inside("ls", f"{state}/runs").stdout.split()
    resumed = inside(*call.argv("resume", run_id, "--json"), timeout=120)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["succeeded"] == 16
    assert starts(marks) == Counter(range(16))
    assert os.listdir(state) == []  # nothing was written beside it


def test_where_nothing_can_be_shared_runs_with_limits_wait_and_others_go_on(call: Call) -> None:
    shared = call.folder / "state/shared"
    shared.mkdir(mode=0o755)  # root's
    call.config(batching=ONE_JOB)
    script, marks = counted(call, 0.1)
    free = finish(begin(call, script, 2))
    assert free["succeeded"] == 2
    assert free.stderr.count("can't be used: Permission denied") == 1
    call.env["FRACTAL_SLURM_LIMITS"] = json.dumps({"all_users": {"max_jobs_in_flight": 10}})
    process = begin(call, script, 2)
    wait_for(lambda: len(call.runs()) == 2)
    time.sleep(3)
    assert process.poll() is None
    assert not live_jobs()
    shutil.chown(shared, SERVICE, SERVICE)
    limited = finish(process)
    assert "limits are set, so nothing is submitted meanwhile" in limited.stderr
    assert limited["succeeded"] == 2
    assert starts(marks) == Counter([0, 1] * 2)
