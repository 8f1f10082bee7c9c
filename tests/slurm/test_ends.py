# SPDX-License-Identifier: BSD-3-Clause
"""Ends of jobs that need a cluster of their own kind: real memory limits, nodes that do not boot, deadlines."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import (
    BASE,
    ONE_JOB,
    SETTINGS,
    Call,
    counted,
    finish,
    live_jobs,
    operate,
    restart,
    slurm,
    starts,
    wait_for,
)
from test_hook import Script


class TestDeadline:
    def test_a_job_that_misses_its_deadline_keeps_what_it_has(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        script, marks = counted(call, 0.5)
        process = call.begin(call.spec(script, 24))
        wait_for(lambda: len(starts(marks)) > 8)
        (job,) = live_jobs()
        # SLURM holds jobs to it that wait for room: this one has results, and waits again.
        slurm("scontrol", "update", "nodename=ALL", "state=drain", "reason=test")
        slurm("scontrol", "requeue", job)
        wait_for(lambda: "PENDING" in slurm("squeue", "-h", "-o", "%T", "-j", job))
        slurm("scontrol", "update", f"jobid={job}", "StartTime=now", "Deadline=now+4")
        outcome = finish(process, code=1)
        assert outcome["succeeded"] >= 4
        assert outcome["succeeded"] + outcome["not_run"] == 24
        assert "was ended by its deadline" in outcome["failures"][0]["reason"]
        assert set(starts(marks).values()) == {1}


def cgroup_version(*controllers: str) -> int:
    """The version of cgroups that has all of these controllers on this machine, and lets us make groups; 0 for none."""
    top = Path("/sys/fs/cgroup")
    own = top / "cgroup.controllers"
    if own.exists():
        # slurmd asks systemd for a scope of its own there; freezing is no controller any more
        there = Path("/run/systemd/system").is_dir() and {*own.read_text().split(), "freezer"} >= set(controllers)
        return 2 if there else 0
    for name in controllers:
        probe = top / name / "fractal-slurm-test"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError:
            return 0
    return 1


CGROUP = {"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup", "JobAcctGatherParams": None}


def cgroup_conf(version: int, **changes: str) -> dict[str, str]:
    """The content of a cgroup.conf for :func:`restart`."""
    options = {
        "CgroupPlugin": f"cgroup/v{version}",
        "CgroupMountpoint": "/sys/fs/cgroup",
        "ConstrainRAMSpace": "no",
        "ConstrainCores": "no",
        **changes,
    }
    return {"cgroup.conf": "".join(f"{name}={value}\n" for name, value in options.items())}


@pytest.fixture(scope="class")
def memory_limits() -> Iterator[None]:
    """A cluster whose kernel holds jobs and steps to their memory."""
    version = cgroup_version("memory", "freezer")
    if not version:
        pytest.skip("real memory limits need cgroups that can be made here, with a memory controller")
    restart(
        slurm_conf={**SETTINGS["slurm_conf"], **CGROUP},
        conf_files=cgroup_conf(version, ConstrainRAMSpace="yes", ConstrainSwapSpace="yes"),
    )
    yield
    restart()


# Uses more memory than its job has, in steps, so that it is the largest process when that is used up.
HOG = (
    '#!/usr/bin/python3\nimport sys, time\nif "7" in open(sys.argv[2]).read():\n'
    "    hog = []\n    while True:\n        hog.append(bytearray(20_000_000))\n        time.sleep(0.02)\n"
    "time.sleep(0.3)\n"
)


@pytest.mark.usefixtures("memory_limits")
class TestMemoryLimits:
    @pytest.mark.parametrize(
        ("isolation", "words"),
        [("none", "the kernel ended a process of its job"), ("step", "the kernel ended a process of its step")],
    )
    def test_only_the_task_that_used_up_the_memory_fails(self, call: Call, isolation: str, words: str) -> None:
        call.env["FRACTAL_SLURM_ISOLATION"] = isolation
        call.config(mem="100M", batching=ONE_JOB)
        outcome = call.run(call.spec(call.script(HOG), 14))
        assert outcome.code == 1
        assert outcome["succeeded"] == 13, outcome["failures"]
        assert [failure["index"] for failure in outcome["failures"]] == [7]
        assert words in outcome["failures"][0]["reason"]

    def test_a_worker_that_is_the_victim_costs_only_the_culprit(self, call: Call) -> None:
        """The job ends as OUT_OF_MEMORY; nothing says by which task."""
        call.config(mem="100M", batching=ONE_JOB)
        # Many small processes, and a worker that the kernel is told to end first.
        task = call.script(
            '#!/bin/sh\nsleep 0.3\ngrep -q 7 "$2" || exit 0\n'
            "choom -n 1000 -p $PPID > /dev/null\n"
            "/usr/bin/python3 -c 'hog = bytearray(900_000_000)'\nsleep 60\n"
        )
        outcome = call.run(call.spec(task, 14))
        assert outcome.code == 1
        assert outcome["succeeded"] == 13, outcome["failures"]
        assert [failure["index"] for failure in outcome["failures"]] == [7]
        assert "ran out of memory" in outcome["failures"][0]["reason"]

    def test_the_hook_tells_a_task_of_fractal_server_that_the_kernel_ended_it(self, call: Call) -> None:
        script = Script(call, "2.26.0-sudo")
        task = call.folder / "task.sh"
        hog = "hog = [bytearray(20_000_000) for n in range(10_000)]"
        task.write_text(task.read_text().replace("sleep 0", f'[ "$n" != 1 ] || exec /usr/bin/python3 -c "{hog}"'))
        script.run()
        outputs = script.outputs()
        assert [output and output[0] for output in outputs] == [True, False, True, False, True]
        assert "The kernel ended a process of this job for lack of memory" in outputs[1][1]["traceback_string"]
        assert "for lack of memory" not in outputs[3][1]["traceback_string"]


@pytest.fixture(params=["task/affinity", "task/cgroup"])
def confined(request: pytest.FixtureRequest) -> Iterator[None]:
    """A cluster that holds each job to the CPUs that it granted."""
    cpus = os.cpu_count() or 1
    if cpus < 2:
        pytest.skip("two slots with CPUs of their own need two CPUs")
    conf = {**SETTINGS["slurm_conf"], "TaskPlugin": request.param}
    files = {}
    if request.param == "task/cgroup":
        version = cgroup_version("cpuset", "freezer")
        if not version:
            pytest.skip("confinement by task/cgroup needs cgroups that can be made here, with a cpuset controller")
        conf |= CGROUP
        files = cgroup_conf(version, ConstrainCores="yes")
    # Nodes whose CPUs exist, or SLURM grants some that can't be had.
    restart(cpus=cpus, slurm_conf=conf, conf_files=files)
    yield
    restart()


@pytest.mark.usefixtures("confined")
def test_slots_run_on_cpus_of_their_own(call: Call) -> None:
    call.config(batching={**ONE_JOB, "target_cpus_per_job": 2, "max_cpus_per_job": 2})
    task = call.script(
        "#!/usr/bin/python3\nimport json, os, sys, time\ntime.sleep(0.3)\n"
        'json.dump(sorted(os.sched_getaffinity(0)), open(sys.argv[4], "w"))\n'
    )
    outcome = call.run(call.spec(task, 8))
    assert outcome.code == 0, outcome.stderr
    sets = Counter(tuple(task["result"]) for task in call.report()["tasks"])
    assert len(sets) == 2
    assert all(len(cpus) == 1 for cpus in sets)


class TestBoot:
    def test_a_node_that_does_not_boot_costs_no_task(self, call: Call) -> None:
        program = call.script("#!/bin/sh\nexit 1\n", "resume.sh")
        power = {
            "SuspendProgram": "/bin/true", "ResumeProgram": program, "SuspendTime": "1", "SuspendTimeout": "1",
            "ResumeTimeout": "3", "SuspendExcNodes": "n[1-3]",
        }  # fmt: skip
        restart(slurm_conf={**SETTINGS["slurm_conf"], **power})
        try:
            wait_for(lambda: "idle~" in slurm("sinfo", "-h", "-n", "n4", "-o", "%T"), what="n4 to sleep")
            slurm("scontrol", "update", "nodename=n[1-3]", "state=drain", "reason=test")
            # SLURM requeues a job that allows it, and holds it back for two minutes.
            call.config(extra_lines=["#SBATCH --no-requeue"], batching=ONE_JOB)
            script, marks = counted(call, 0.2)
            process = call.begin(call.spec(script, 8))
            # SLURM 22.05 calls it a NODE_FAIL; BOOT_FAIL is for nodes that the job itself has rebooted.
            wait_for(lambda: "_FAIL" in slurm("squeue", "-h", "--states=all", "-o", "%T"), what="the job to fail")
            slurm("scontrol", "update", "nodename=n[1-3]", "state=resume")
            outcome = finish(process)
        finally:
            operate("stop")
            for file in (BASE / "state").glob("node_state*"):
                file.unlink()  # else n4 sleeps on
            restart()
        assert outcome["succeeded"] == 8
        assert "was lost with its node: " in outcome.stderr
        assert starts(marks) == Counter(range(8))
