# SPDX-License-Identifier: BSD-3-Clause
"""Work folders and nodes that are not as they should be: full from the start, closed to root; clocks that are off."""

from __future__ import annotations

import contextlib
import json
import pwd
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ANNA, Call, away, daemon_pids, live_jobs, wait_for
from test_faults import counted, starts

ONE_JOB = {"target_num_jobs": 1, "max_num_jobs": 1}


@contextlib.contextmanager
def small_folder(call: Call, inodes: int) -> Iterator[Path]:
    """The user's work folder on a file system of its own that holds so many files and folders, itself included."""
    work = call.work(ANNA)
    owner = pwd.getpwnam(ANNA)
    options = f"size=20m,nr_inodes={inodes},mode=0700,uid={owner.pw_uid},gid={owner.pw_gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", work], check=True)
    try:
        yield work
    finally:
        subprocess.run(["umount", "-l", work], check=True)


class TestFullFromTheStart:
    """No task has run, so none is lost."""

    @pytest.mark.parametrize("inodes", [3, 4, 5], ids=["at its claim", "at its folder", "at its results"])
    def test_a_job_waits_for_room_for_its_files(self, call: Call, inodes: int) -> None:
        call.config(batching=ONE_JOB)
        with small_folder(call, inodes) as work:
            script, marks = counted(call, 0)
            process = call.start(*call.run_arguments(call.spec(script, 8)))
            wait_for(lambda: any("waiting for room" in file.read_text() for file in work.glob("*/*.slurm.out")))
            subprocess.run(["mount", "-o", "remount,nr_inodes=1000", work], check=True)
            stdout, stderr = process.communicate(timeout=90)
            assert process.returncode == 0, stderr
            summary = json.loads(stdout)
            assert (summary["succeeded"], summary["jobs"]) == (8, 1)
            assert starts(marks) == Counter(range(8))

    def test_a_job_that_slurm_can_not_start_is_submitted_again_once_there_is_room(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        with small_folder(call, 2) as work:  # no room for the job's output file
            script, marks = counted(call, 0)
            process = call.start(*call.run_arguments(call.spec(script, 8)))
            wait_for(lambda: call.runs() and "outage" in call.events())
            subprocess.run(["mount", "-o", "remount,nr_inodes=1000", work], check=True)
            stdout, stderr = process.communicate(timeout=120)
            assert process.returncode == 0, stderr
            summary = json.loads(stdout)
            assert (summary["succeeded"], summary["jobs"]) == (8, 2)
            assert starts(marks) == Counter(range(8))
            assert f"{ANNA} can't make" in stderr
            assert "No space left on device: trying again" in stderr

    @pytest.mark.parametrize("inodes", [2, 3])
    def test_a_run_that_waits_for_room_can_be_cancelled(self, call: Call, inodes: int) -> None:
        call.config(batching=ONE_JOB)
        with small_folder(call, inodes) as work:
            process = call.start(*call.run_arguments(call.spec("true", 8)))
            wait_for(lambda: call.runs() and ("outage" in call.events() or any(work.glob("*/*.slurm.out"))))
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=90)
            assert process.returncode == 130, stderr
            assert json.loads(stdout)["not_run"] == 8
            assert "Traceback" not in stderr
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


class TestClocks:
    @pytest.mark.parametrize("off", ["+7h", "-7h"])
    def test_a_node_whose_clock_is_off_runs_its_queue_to_the_end(self, call: Call, off: str) -> None:
        library = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
        if not library.exists():
            pytest.skip("a clock that is off needs the package faketime")
        call.config(
            batching={**ONE_JOB, "target_cpus_per_job": 1, "max_cpus_per_job": 1},
            extra_lines=[
                # As SLURM sets them from 23.02 on, by slurmctld's clock.
                "export SLURM_JOB_START_TIME=$(date +%s)",
                "export SLURM_JOB_END_TIME=$((SLURM_JOB_START_TIME + 600))",
                f"export LD_PRELOAD={library} FAKETIME={off} FAKETIME_DONT_FAKE_MONOTONIC=1",
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
