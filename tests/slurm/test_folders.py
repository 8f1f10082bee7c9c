# SPDX-License-Identifier: BSD-3-Clause
"""Work folders and nodes that are not as they should be: full from the start, closed to root; clocks that are off."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ANNA, ONE_JOB, Call, away, counted, daemon_pids, finish, live_jobs, slurm, starts, wait_for


@contextlib.contextmanager
def small_folder(call: Call, *, size: str = "20m", inodes: int = 1000) -> Iterator[Path]:
    """The user's work folder on a file system of its own, of some size and so many files and folders, itself one."""
    work = call.work(ANNA)
    owner = pwd.getpwnam(ANNA)
    options = f"size={size},nr_inodes={inodes},mode=0700,uid={owner.pw_uid},gid={owner.pw_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", work], check=True)
    try:
        yield work
    finally:
        subprocess.run(["umount", "-l", work], check=True)


def enlarge(work: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=20m,nr_inodes=1000", work], check=True)


def test_a_folder_that_is_full_stops_the_worker_until_there_is_room(call: Call) -> None:
    with small_folder(call, size="300k") as work:
        call.config(batching=ONE_JOB, extra_lines=[f"head -c 250000 /dev/zero > {work}/ballast"])
        task = call.script('#!/bin/sh\nhead -c 1000 /dev/urandom | od -An -tx1 | tr -d " \\n" >&2\nexit 0\n')
        process = call.begin(call.spec(task, 60))
        wait_for(lambda: os.statvfs(work).f_bavail == 0)
        time.sleep(3)
        assert process.poll() is None
        enlarge(work)
        assert finish(process)["succeeded"] == 60


class TestFullFromTheStart:
    """No task has run, so none is lost."""

    @pytest.mark.parametrize("inodes", [3, 4, 5], ids=["at its claim", "at its folder", "at its results"])
    def test_a_job_waits_for_room_for_its_files(self, call: Call, inodes: int) -> None:
        call.config(batching=ONE_JOB)
        with small_folder(call, inodes=inodes) as work:
            script, marks = counted(call, 0)
            process = call.begin(call.spec(script, 8))
            wait_for(lambda: any("waiting for room" in file.read_text() for file in work.glob("*/*.slurm.out")))
            enlarge(work)
            outcome = finish(process)
            assert (outcome["succeeded"], outcome["jobs"]) == (8, 1)
            assert starts(marks) == Counter(range(8))

    def test_a_job_that_slurm_can_not_start_is_submitted_again_once_there_is_room(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        with small_folder(call, inodes=2) as work:  # no room for the job's output file
            script, marks = counted(call, 0)
            process = call.begin(call.spec(script, 8))
            wait_for(lambda: call.runs() and "outage" in call.events())
            # Why the job ended is known even when slurmctld has forgotten it meanwhile.
            wait_for(lambda: not slurm("squeue", "--noheader", "--states=all"))
            enlarge(work)
            outcome = finish(process)
            assert (outcome["succeeded"], outcome["jobs"]) == (8, 2)
            assert starts(marks) == Counter(range(8))
            assert f"{ANNA} can't make" in outcome.stderr
            assert "No space left on device: trying again" in outcome.stderr

    @pytest.mark.parametrize("inodes", [2, 3])
    def test_a_run_that_waits_for_room_can_be_cancelled(self, call: Call, inodes: int) -> None:
        call.config(batching=ONE_JOB)
        with small_folder(call, inodes=inodes) as work:
            process = call.begin(call.spec("true", 8))
            wait_for(lambda: call.runs() and ("outage" in call.events() or any(work.glob("*/*.slurm.out"))))
            process.send_signal(signal.SIGTERM)
            outcome = finish(process, code=130)
            assert outcome["not_run"] == 8
            assert "Traceback" not in outcome.stderr
            assert not live_jobs()

    def test_files_that_can_not_be_made_fail_the_tasks_in_words_after_some_tries(self, call: Call) -> None:
        call.config(batching=ONE_JOB, extra_lines=['touch "${SLURM_JOB_NAME##*.}"  # where its folder goes'])
        outcome = call.run(call.spec("true", 3))
        assert outcome.code == 1
        assert (outcome["failed"], outcome["jobs"]) == (3, 3)
        reason = outcome["failures"][0]["reason"]
        assert "its files could not be made; it printed: fractal-slurm worker: /" in reason
        assert "can't be made: File exists; this job ends before its first task; it was tried 3 times" in reason


@pytest.fixture
def squashed() -> Iterator[str]:
    """A node whose root has no rights in the folders of others, as on a file server that squashes it."""
    powers = "-dac_override,-dac_read_search"
    with away("slurmd", signal.SIGTERM, "n1", by=["/usr/bin/setpriv", f"--bounding-set={powers}"]):
        pass
    (pid,) = wait_for(lambda: daemon_pids("slurmd", "n1"))
    assert not int(re.search(r"CapEff:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1], 16) & 0b110
    yield "n1"
    with away("slurmd", signal.SIGTERM, "n1"):
        pass


class TestRootSquash:
    def test_a_folder_that_root_can_not_enter_is_as_good_as_any(self, call: Call, squashed: str) -> None:
        call.config(nodelist=squashed, batching=ONE_JOB)
        script, marks = counted(call, 0.1)
        outcome = call.run(call.spec(script, 8))
        assert outcome.code == 0, outcome.stderr
        assert (outcome["succeeded"], outcome["jobs"]) == (8, 1)
        assert starts(marks) == Counter(range(8))
        assert {task["host"] for task in call.report()["tasks"]} == {squashed}


def libfaketime() -> Path:
    """The library that shows a program another time; installed where it is missing, as SLURM is by the testbed."""
    for _attempt in range(2):
        for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1"):
            return path
        if shutil.which("apt-get"):
            install = ["apt-get", "-o", "DPkg::Lock::Timeout=900", "-qq", "-y", "--no-install-recommends", "install"]
            subprocess.run([*install, "faketime"], capture_output=True, check=False)
    pytest.skip("a clock that is off needs the package faketime")


class TestClocks:
    @pytest.mark.parametrize("off", ["+7h", "-7h"])
    def test_a_node_whose_clock_is_off_runs_its_queue_to_the_end(self, call: Call, off: str) -> None:
        call.config(
            batching={**ONE_JOB, "target_cpus_per_job": 1, "max_cpus_per_job": 1},
            extra_lines=[
                # As SLURM sets them from 23.02 on, by slurmctld's clock.
                "export SLURM_JOB_START_TIME=$(date +%s)",
                "export SLURM_JOB_END_TIME=$((SLURM_JOB_START_TIME + 600))",
                f"export LD_PRELOAD={libfaketime()} FAKETIME={off} FAKETIME_DONT_FAKE_MONOTONIC=1",
            ],
        )
        task = call.script('#!/bin/sh\ndate +%s > "$4"\n')
        outcome = call.run(call.spec(task, 8))
        assert outcome.code == 0, outcome.stderr
        assert (outcome["succeeded"], outcome["jobs"]) == (8, 1)
        record = call.report()["tasks"][0]
        assert abs(record["result"] - record["start"]) < 60  # both by the clock that is off
        created = call.folder.stat().st_mtime
        assert abs(record["result"] - created) > 6 * 3600
