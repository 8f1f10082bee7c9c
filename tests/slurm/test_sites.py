# SPDX-License-Identifier: BSD-3-Clause
"""Clusters that are set up otherwise: limits on jobs, hidden jobs, wrappers around sbatch, accounting."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from conftest import (
    ANNA,
    BASE,
    BEN,
    NAME,
    ONE_JOB,
    SERVICE,
    SETTINGS,
    Call,
    away,
    counted,
    finish,
    kill,
    live_jobs,
    restart,
    running_jobs,
    slurm,
    starts,
    wait_for,
)


@pytest.fixture(scope="class")
def private() -> Iterator[None]:
    """A cluster that shows users their own jobs only."""
    restart(slurm_conf={**SETTINGS["slurm_conf"], "PrivateData": "jobs"})
    yield
    restart()


@pytest.mark.usefixtures("private")
class TestHiddenJobs:
    def test_a_run_ends_well_and_says_how_it_is_followed(self, call: Call) -> None:
        script, marks = counted(call, 0.3)
        outcome = call.run(call.spec(script, 16))
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 16
        assert outcome.stderr.count("PrivateData") == 1
        assert starts(marks) == Counter(range(16))

    def test_a_killed_driver_is_resumed(self, call: Call) -> None:
        script, marks = counted(call, 0.5)
        process = call.begin(call.spec(script, 16))
        wait_for(lambda: starts(marks))
        kill(process)
        outcome = call("resume", call.run_id(), "--json")
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 16
        assert starts(marks) == Counter(range(16))

    def test_a_job_that_fails_before_its_worker_is_told_with_its_output(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_SILENT_WORKER_S"] = "3"
        call.env["FRACTAL_SLURM_MAX_NODE_RETRIES"] = "0"
        call.config(extra_lines=["echo 'no such module'; exit 3"])
        outcome = call.run(call.spec("true", 2))
        assert outcome.code == 1
        assert outcome["failed"] == 2
        assert "it printed: no such module" in outcome["failures"][0]["reason"]

    def test_a_cancel_ends_what_runs_and_what_waits(self, call: Call) -> None:
        script, marks = counted(call, 30)
        process = call.begin(call.spec(script, 8))
        wait_for(lambda: starts(marks))
        process.send_signal(signal.SIGTERM)
        outcome = finish(process, code=130)
        assert outcome["not_run"] == 8
        assert not live_jobs()

    def test_a_worker_that_falls_silent_is_lost_and_its_tasks_run_again(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_SILENT_WORKER_S"] = "5"
        call.config(batching=ONE_JOB)
        marks = call.work(ANNA)
        task = call.script(
            f'#!/bin/sh\nn=$(sed "s/[^0-9]//g" "$2")\n[ "$n" = 3 ] && mkdir {marks}/once && kill -KILL $PPID\n'
            'sleep 0.3\necho "{}" > "$4"\n'
        )
        outcome = call.run(call.spec(task, 8))
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 8
        assert "silent" in outcome.stderr

    def test_a_job_that_is_cancelled_while_it_waits_is_not_waited_for(self, call: Call) -> None:
        reason = cancelled_while_it_waits(call)
        assert reason.endswith("was cancelled (SLURM does not know it any more, and it never began)")


def test_a_hidden_job_that_is_cancelled_while_it_waits_is_found_in_the_accounting(call: Call) -> None:
    hidden = {**SETTINGS["slurm_conf"], "PrivateData": "jobs", "MinJobAge": "600"}
    restart(slurm_conf=hidden, accounting=True, accounts={NAME: [SERVICE, ANNA]})
    try:
        reason = cancelled_while_it_waits(call)
    finally:
        restart()
    assert reason.endswith("was cancelled by 0")


def cancelled_while_it_waits(call: Call) -> str:
    """The reason of the tasks of a hidden job that root cancels before it starts."""
    call.env["FRACTAL_SLURM_SILENT_WORKER_S"] = "5"
    slurm("scontrol", "update", "nodename=ALL", "state=drain", "reason=test")
    call.config(batching=ONE_JOB)
    process = call.begin(call.spec("true", 4))
    (job,) = wait_for(live_jobs)
    time.sleep(3)  # the driver learns how a job looks that is there
    slurm("scancel", job)
    slurm("scontrol", "update", "nodename=ALL", "state=resume")
    outcome = finish(process, code=1)
    assert outcome["not_run"] == 4
    return str(outcome["failures"][0]["reason"])


@pytest.fixture
def small() -> Iterator[None]:
    """A cluster that holds few jobs at a time, ended ones included."""
    restart(slurm_conf={**SETTINGS["slurm_conf"], "MaxJobCount": "4", "MinJobAge": "2"})
    yield
    restart()


@pytest.mark.usefixtures("small")
def test_a_cluster_that_is_full_is_waited_out(call: Call) -> None:
    call.env["FRACTAL_SLURM_SBATCH_TIMEOUT_S"] = "10"
    call.config(batching={"target_num_jobs": 8, "max_num_jobs": 8, "target_cpus_per_job": 1, "max_cpus_per_job": 1})
    script, marks = counted(call, 0)
    outcome = call.run(call.spec(script, 8), timeout=400)
    assert outcome.code == 0, outcome.stderr
    assert outcome["succeeded"] == 8
    assert "limit is reached" in outcome.stderr
    assert starts(marks) == Counter(range(8))


@pytest.fixture(scope="class")
def accounting() -> Iterator[None]:
    """A cluster with slurmdbd, and limits on what its users may submit."""
    restart(accounting=True, accounts={"fst": [SERVICE, ANNA, BEN]})
    slurm("sacctmgr", "--immediate", "add", "qos", "fst-small", "set", "MaxSubmitJobsPerUser=3")
    slurm("sacctmgr", "--immediate", "modify", "user", ANNA, "set", "QOS=fst-small", "DefaultQOS=fst-small")
    slurm("sacctmgr", "--immediate", "modify", "user", BEN, "set", "MaxSubmitJobs=2")
    wait_for(lambda: "fst-small" in slurm("scontrol", "show", "assoc_mgr", "flags=qos"))
    yield
    restart()


@pytest.mark.usefixtures("accounting")
class TestLimits:
    @pytest.mark.parametrize(
        ("user", "jobs", "word"),
        [(ANNA, 200, "QOSMaxSubmitJobPerUserLimit"), (BEN, 10, "AssocMaxSubmitJobLimit")],
        ids=["QOS of 3", "association of 2"],
    )
    def test_a_limit_on_submitted_jobs_is_waited_out(self, call: Call, user: str, jobs: int, word: str) -> None:
        call.config(
            batching={"target_num_jobs": jobs, "max_num_jobs": jobs, "target_cpus_per_job": 1, "max_cpus_per_job": 1}
        )
        outcome = call.run(call.spec("true", 2 * jobs), user, timeout=400)
        assert outcome.code == 0, outcome.stderr
        assert (outcome["succeeded"], outcome["jobs"]) == (2 * jobs, jobs)
        assert outcome.stderr.count(word) == 1

    def test_runs_of_a_user_who_is_at_the_limit_try_one_at_a_time(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        task = call.script("#!/bin/sh\nsleep 4\n")
        processes = [call.begin(call.spec(task, 1), BEN) for _turn in range(6)]
        outcomes = [finish(process) for process in processes]
        assert [outcome["succeeded"] for outcome in outcomes] == [1] * 6
        told = [outcome.stderr.count("the site's limit is reached") for outcome in outcomes]
        assert sorted(told) == [0, 0, 1, 1, 1, 1]
        refused = [
            event
            for outcome in outcomes
            for event in call("report", outcome["run_id"], "--events", "--json").document
            if event["what"] == "full"
        ]
        # Two rounds of four that each tries for itself, every two seconds, came to over a dozen.
        assert 1 <= len(refused) <= 8, refused

    def test_an_account_that_does_not_exist_fails_at_once_in_slurms_words(self, call: Call) -> None:
        call.config(account="no-such-account")
        outcome = call.run(call.spec("true", 2))
        assert outcome.code == 3
        assert "Invalid account" in outcome.stderr
        assert "waiting" not in outcome.stderr
        assert call.events().count("submitting") == 1

    def test_a_qos_that_lets_nothing_run_stops_nobody_else(self, call: Call) -> None:
        slurm("sacctmgr", "--immediate", "add", "qos", "fst-zero", "set", "MaxWall=0")
        slurm("sacctmgr", "--immediate", "modify", "user", BEN, "set", "QOS+=fst-zero")
        wait_for(lambda: "fst-zero" in slurm("scontrol", "show", "assoc_mgr", "flags=qos"))
        assert call.run(call.spec("true", 2)).code == 0
        call.config(extra_lines=["#SBATCH --qos=fst-zero"])
        outcome = call.run(call.spec("true", 2), BEN)
        assert outcome.code == 3
        assert f"the QOS 'fst-zero' of {BEN} allows 00:00:00 (MaxWall)" in outcome.document["errors"][0]

    def test_the_limits_of_another_cluster_in_the_same_slurmdbd_are_not_ours(self, call: Call) -> None:
        for argv in (
            ("add", "cluster", "elsewhere"),
            ("add", "account", "far", "cluster=elsewhere"),
            ("add", "user", BEN, "account=far", "cluster=elsewhere", "MaxWall=0", "MaxSubmitJobs=0"),
        ):
            slurm("sacctmgr", "--immediate", *argv)
        assert "elsewhere|far" in slurm("sacctmgr", "-nP", "show", "associations", "format=Cluster,Account")
        outcome = call.run(call.spec("true", 2), BEN)
        assert outcome.code == 0, outcome.stderr

    def test_a_job_under_the_least_that_its_qos_wants_is_not_waited_for(self, call: Call) -> None:
        slurm("sacctmgr", "--immediate", "add", "qos", "fst-least", "set", "MinTRES=cpu=3")
        slurm("sacctmgr", "--immediate", "modify", "user", BEN, "set", "QOS+=fst-least")
        wait_for(lambda: "fst-least" in slurm("scontrol", "show", "assoc_mgr", "flags=qos"))
        time.sleep(2)  # slurmdbd tells slurmctld of the user a moment later
        call.config(extra_lines=["#SBATCH --qos=fst-least"])
        outcome = call.run(call.spec("true", 2), BEN)
        assert outcome.code == 3
        assert "QOSMinCpuNotSatisfied" in outcome.stderr
        assert outcome["not_run"] == 2
        assert not live_jobs()

    def test_a_job_that_slurmctld_forgot_is_found_in_the_accounting(self, call: Call) -> None:
        script, marks = counted(call, 2)
        call.config(batching=ONE_JOB)
        process = call.begin(call.spec(script, 16))
        wait_for(lambda: len(starts(marks)) > 5)
        os.kill(process.pid, signal.SIGSTOP)
        slurm("scancel", *live_jobs())
        wait_for(lambda: not live_jobs())
        time.sleep(SECONDS_TO_FORGET)
        os.kill(process.pid, signal.SIGCONT)
        outcome = finish(process, code=1)
        assert "was cancelled by 0" in outcome["failures"][-1]["reason"]

    @pytest.mark.parametrize("seconds", [3, 0], ids=["and comes back", "and stays away"])
    def test_a_slurmdbd_that_dies_costs_nothing(self, call: Call, seconds: int) -> None:
        script, marks = counted(call, 0.5)
        process = call.begin(call.spec(script, 32))
        wait_for(lambda: starts(marks))
        with away("slurmdbd", signal.SIGKILL):
            assert slurm("sacct") == ""
            time.sleep(seconds)
            if not seconds:
                assert process.wait(120) == 0
        assert finish(process)["succeeded"] == 32
        assert starts(marks) == Counter(range(32))

    def test_max_jobs_in_flight_is_our_own_limit(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_MAX_JOBS_IN_FLIGHT"] = "1"
        process = call.begin(call.spec(call.script("#!/bin/sh\nsleep 0.5\n"), 16))
        most = 0
        while process.poll() is None:
            most = max(most, len(live_jobs()))
            time.sleep(0.2)
        assert process.returncode == 0
        assert most == 1


def test_a_cluster_that_hides_nodes_and_partitions_runs_jobs_all_the_same(call: Call) -> None:
    restart(slurm_conf={**SETTINGS["slurm_conf"], "PrivateData": "nodes,partitions,reservations"})
    try:
        outcome = call.run(call.spec("true", 4))
        valid = call("validate", "--cluster", "--json")
    finally:
        restart()
    assert outcome.code == 0, outcome.stderr
    assert valid.code == 0, valid.stderr
    assert "shows this account no partitions (PrivateData)" in valid.document[0]["warnings"][0]


class TestSteps:
    """isolation = "step": SLURM itself holds each slot to its memory."""

    def test_one_step_a_slot_and_not_a_task(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_ISOLATION"] = "step"
        call.config(batching=ONE_JOB)
        script, marks = counted(call, 0.1)
        outcome = call.run(call.spec(script, 30))
        assert outcome.code == 0, outcome.stderr
        assert (outcome["succeeded"], outcome["srun_steps"]) == (30, 4)
        assert starts(marks) == Counter(range(30))

    def test_a_task_over_its_memory_is_the_only_one_that_fails(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_ISOLATION"] = "step"
        call.config(mem="150M", batching=ONE_JOB)
        task = call.script(
            '#!/usr/bin/python3\nimport sys, time\nif "7" in open(sys.argv[2]).read():\n'
            "    hog = bytearray(500_000_000)\n    time.sleep(60)\ntime.sleep(0.2)\n"
        )
        outcome = call.run(call.spec(task, 14))
        assert outcome.code == 1
        assert outcome["succeeded"] == 13, outcome["failures"]
        assert [failure["index"] for failure in outcome["failures"]] == [7]
        # Which of them ends it, SLURM or the worker, is a matter of SLURM's version.
        assert re.search("(most likely over its mem of|its mem is) 150 MB", outcome["failures"][0]["reason"])

    def test_a_task_over_its_time_and_a_cancel_reach_into_the_step(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_ISOLATION"] = "step"
        call.config(time="00:00:02", batching=ONE_JOB)
        task = call.script('#!/bin/sh\ngrep -q 1 "$2" && sleep 100\nexit 0\n')
        outcome = call.run(call.spec(task, 9))
        assert outcome.code == 1
        assert outcome["failures"][0]["reason"] == "over its time of 2 s"
        assert outcome["succeeded"] == 8


SECONDS_TO_FORGET = 35  # slurmctld purges after MinJobAge, and looks twice a minute


class TestPreemption:
    def test_a_preempted_job_keeps_its_results_and_the_rest_runs_again(self, call: Call) -> None:
        low = {"Nodes": "ALL", "Default": "YES", "MaxTime": "60", "PriorityTier": "1"}
        high = {"Nodes": "ALL", "MaxTime": "60", "PriorityTier": "10", "PreemptMode": "off"}
        preempt = {"PreemptType": "preempt/partition_prio", "PreemptMode": "CANCEL"}
        restart(partitions={"main": low, "high": high}, slurm_conf={**SETTINGS["slurm_conf"], **preempt})
        try:
            script, marks = counted(call, 1.5)
            call.config(batching=ONE_JOB)
            process = call.begin(call.spec(script, 16))
            wait_for(lambda: len(starts(marks)) >= 8)
            slurm("sbatch", "--partition=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
            outcome = finish(process)
        finally:
            restart()
        assert outcome["succeeded"] == 16
        assert "was lost with its node: PREEMPTED" in outcome.stderr
        assert sum(starts(marks).values()) <= 16 + 4


class TestJobSubmitPlugin:
    def test_values_that_the_site_rewrites_are_read_back_and_said_once(self, call: Call) -> None:
        lua = (
            "function slurm_job_submit(desc, parts, uid)\n"
            "  if desc.partition == 'main' then desc.time_limit = 2; desc.name = 'site-' .. uid end\n"
            "  return slurm.SUCCESS\nend\n"
            "function slurm_job_modify(desc, job, parts, uid) return slurm.SUCCESS end\n"
        )
        restart(slurm_conf={**SETTINGS["slurm_conf"], "JobSubmitPlugins": "lua"}, conf_files={"job_submit.lua": lua})
        try:
            outcome = call.run(call.spec(call.script("#!/bin/sh\nsleep 1\n"), 64))
            lost = self.lose_a_submission(call)
            resumed = call("resume", lost, "--json")
            found = [event for event in call("report", lost, "--events", "--json").document if "found" in event["what"]]
        finally:
            restart()
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 64
        assert outcome.stderr.count("the site renamed job") == 1
        assert outcome.stderr.count("2:00 of time, less than its tasks may need") == 1
        # Its name is the site's, but its comment is not.
        assert (resumed["succeeded"], resumed["jobs"]) == (1, 1)
        assert [event["what"] for event in found] == ["found by its comment"]
        assert resumed.stderr.count("the site renamed job") == 1

    def lose_a_submission(self, call: Call) -> str:
        """Kill a driver between its submission and the answer; returns the run."""
        wrapper, before = BASE / "bin/sbatch", call.runs()
        original = wrapper.read_text()
        wrapper.write_text(original.replace("exec ", '/usr/bin/sbatch "$@"; exec sleep 15\nexec '))
        try:
            dies = call.begin(call.spec(call.script("#!/bin/sh\nsleep 1\n"), 1))
            wait_for(live_jobs)
            kill(dies)
        finally:
            wrapper.write_text(original)
        (lost,) = set(call.runs()) - set(before)
        return lost


def test_a_job_that_a_failing_prolog_holds_runs_on_another_node(call: Call) -> None:
    prolog, fails = BASE / "prolog", BASE / "the prolog fails once"
    prolog.write_text(f"#!/bin/sh\n! rm '{fails}' 2>/dev/null\n")
    prolog.chmod(0o755)
    restart(slurm_conf={**SETTINGS["slurm_conf"], "Prolog": str(prolog)})
    call.config(batching=ONE_JOB)
    script, marks = counted(call, 0)
    fails.touch()
    try:
        outcome = call.run(call.spec(script, 8))
    finally:
        slurm("scontrol", "update", "nodename=ALL", "state=resume")
        restart()
    assert outcome.code == 0, outcome.stderr
    assert (outcome["succeeded"], outcome["jobs"]) == (8, 2)
    assert "was lost with its node: REQUEUE_HOLD (launch failed requeued held)" in outcome.stderr
    assert starts(marks) == Counter(range(8))


class TestWrappers:
    def test_text_around_the_job_id_does_no_harm(self, call: Call) -> None:
        wrapper = BASE / "bin/sbatch"
        original = wrapper.read_text()
        lines = original.splitlines()
        lines.insert(1, "echo 'Welcome to our cluster: 42 jobs today'")
        wrapper.write_text("\n".join(lines) + "\n")
        try:
            outcome = call.run(call.spec("true", 4))
        finally:
            wrapper.write_text(original)
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 4

    def test_a_tmp_that_may_not_hold_programs(self, call: Call) -> None:
        tmp = call.folder / "tmp"
        tmp.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,noexec,nosuid,mode=1777", "none", tmp], check=True)
        try:
            call.config(extra_lines=[f"export TMPDIR={tmp}", "umask 077"])
            task = call.script('#!/bin/sh\ncase "$2" in "$TMPDIR"/*) echo "[1]" > "$4";; *) exit 1;; esac\n')
            outcome = call.run(call.spec(task, 8))
            assert not list(tmp.iterdir())
        finally:
            subprocess.run(["umount", "-l", tmp], check=True)
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 8

    def test_a_home_that_is_absent(self, call: Call) -> None:
        import pwd

        home = pwd.getpwnam(ANNA).pw_dir
        os.rename(home, f"{home}.away")
        try:
            outcome = call.run(call.spec("true", 4))
        finally:
            os.rename(f"{home}.away", home)
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 4
        assert running_jobs() == []
