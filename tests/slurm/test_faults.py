# SPDX-License-Identifier: BSD-3-Clause
"""Nothing is lost: drivers that die, a silent slurmctld, jobs that end in every way they can. Faults made for real."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import (
    ANNA,
    BASE,
    GROUP,
    ONE_JOB,
    Call,
    away,
    counted,
    finish,
    frozen,
    grant,
    kill,
    live_jobs,
    running_jobs,
    slurm,
    starts,
    wait_for,
)


class TestDriverThatDies:
    def test_resume_goes_on_after_a_kill_at_any_moment(self, call: Call) -> None:
        script, marks = counted(call, 0.3)
        call.env["FRACTAL_SLURM_MAX_JOBS_IN_FLIGHT"] = "2"
        process = call.begin(call.spec(script, 60))
        # Killed again and again: while it submits, polls, collects.
        for pause in (0.7, 0.3, 0.5, 0.9, 1.3):
            time.sleep(pause)
            kill(process)
            if not call.runs():
                process = call.begin(call.spec(script, 60))
            else:
                process = call.start("resume", call.run_id(), "--json")
        assert finish(process)["succeeded"] == 60
        assert starts(marks) == Counter(range(60))

    @pytest.mark.parametrize("state", ["submitting", "submitted", "ended"])
    def test_resume_from_each_state_of_a_job(self, call: Call, state: str) -> None:
        script, marks = counted(call, 0.2)
        process = call.begin(call.spec(script, 16))

        def reached() -> bool:
            try:
                file = call.folder / "state/runs" / call.run_id() / "journal.sqlite"
                with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
                    events = [row[0] for row in db.execute("SELECT what FROM event")]
            except (IndexError, sqlite3.Error):
                return False
            return state in events

        deadline = time.monotonic() + 30
        while not reached() and time.monotonic() < deadline:
            time.sleep(0.002)
        kill(process)
        outcome = call("resume", call.run_id(), "--json")
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 16
        assert starts(marks) == Counter(range(16))

    def test_results_that_are_there_are_not_run_again(self, call: Call) -> None:
        script, marks = counted(call, 0)
        process = call.begin(call.spec(script, 20))
        wait_for(lambda: live_jobs() or starts(marks))
        process.kill()
        wait_for(lambda: not live_jobs())
        time.sleep(6)  # over MinJobAge: slurmctld has forgotten the jobs
        outcome = call("resume", call.run_id(), "--json")
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 20
        assert starts(marks) == Counter(range(20))

    def test_a_second_driver_is_refused_in_words(self, call: Call) -> None:
        gate = call.folder / "gate"  # the first one drives until it is opened
        task = call.script(f"#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.1; done\n")
        process = call.begin(call.spec(task, 4))
        wait_for(live_jobs)
        second = call("resume", call.run_id(), "--json")
        gate.touch()
        assert second.code == 2
        assert "is driven by another process (pid " in second.document["errors"][0]
        assert process.wait(60) == 0

    def test_an_ended_run_can_be_resumed_to_no_effect(self, call: Call) -> None:
        assert call.run(call.spec("true", 3)).code == 0
        again = call("resume", call.run_id(), "--json")
        assert again.code == 0
        assert (again["succeeded"], again["sudo_calls"]) == (3, 0)


class TestSubmissionWithoutAnAnswer:
    def test_a_job_that_a_hung_slurmctld_creates_late_is_found(self, call: Call) -> None:
        script, marks = counted(call, 0.1)
        call.env["FRACTAL_SLURM_SBATCH_TIMEOUT_S"] = "3"
        process = call.begin(call.spec(script, 8))
        wait_for(call.runs)
        with frozen("slurmctld"):
            time.sleep(8)
        assert finish(process)["succeeded"] == 8
        assert starts(marks) == Counter(range(8))

    def test_the_server_first_then_a_late_job_ends_at_once(self, call: Call) -> None:
        """The driver dies between journalling and sbatch; the fence is taken; the old script arrives all the same."""
        script, marks = counted(call, 0.1)
        process = call.begin(call.spec(script, 4))
        wait_for(lambda: not live_jobs() and starts(marks))
        assert process.wait(60) == 0
        # The same script once more, as it would come from a hung slurmctld: its token was claimed by another job.
        spool = call("script", str(call.folder / "spec.json"), "--work-dir", str(call.work(ANNA)))
        text = spool.stdout.replace(f"{call.work(ANNA)}/RUN", call.report()["run_folder"])
        token = next(Path(call.report()["run_folder"]).glob("*.claim")).name.removesuffix(".claim")
        text = text.replace("0" * 16, token)
        late = subprocess.run(
            ["setpriv", f"--reuid={ANNA}", f"--regid={ANNA}", "--init-groups", BASE / "bin/sbatch", "--parsable"],
            input=text, capture_output=True, text=True, check=True, cwd="/",
        )  # fmt: skip
        wait_for(lambda: late.stdout.strip() not in live_jobs())
        assert starts(marks) == Counter(range(4))
        output = (Path(call.report()["run_folder"]) / f"{token}.slurm.out").read_text()
        assert "does this work already: this job ends" in output

    def test_the_fence_of_the_server_stops_a_job_that_comes_later(self, call: Call) -> None:
        script, marks = counted(call, 0)
        call.env["FRACTAL_SLURM_SBATCH_TIMEOUT_S"] = "3"
        process = call.begin(call.spec(script, 4))
        # Killed once the journal says "submitting": the job may or may not exist.
        wait_for(call.runs)
        kill(process)
        wait_for(lambda: not live_jobs())
        file = call.folder / "state/runs" / call.run_id() / "journal.sqlite"
        ran_before = starts(marks)
        with sqlite3.connect(file) as db:
            # As a driver that died just before sbatch leaves it.
            db.execute("UPDATE job SET state = 'submitting', slurm_job_id = NULL WHERE state = 'planned'")
        db.close()
        outcome = call("resume", call.run_id(), "--json")
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 4
        assert starts(marks) == Counter(range(4)), ran_before

    def test_another_job_under_the_same_id_is_not_taken_for_a_renamed_one(self, call: Call) -> None:
        """A slurmctld that lost its state gave the id to a job of another run, before the driver looked once."""
        call.config(batching=ONE_JOB)
        script, marks = counted(call, 0)
        slurm("scontrol", "update", "partitionname=main", "state=down")
        process = call.begin(call.spec(script, 4))
        wait_for(live_jobs)
        kill(process)
        slurm("scancel", *live_jobs())
        slurm("scontrol", "update", "partitionname=main", "state=up")
        name = "--job-name=other.0123456789abcdef"
        other = slurm("sbatch", "--parsable", "--chdir=/", "--output=/dev/null", name, "--wrap=sleep 300").strip()
        with sqlite3.connect(call.folder / "state/runs" / call.run_id() / "journal.sqlite") as db:
            db.execute("UPDATE job SET state = 'submitted', slurm_job_id = ?", (other,))
        db.close()
        outcome = finish(call.start("resume", call.run_id(), "--json"), seconds=60)
        assert outcome["succeeded"] == 4
        assert "renamed" not in outcome.stderr
        assert live_jobs() == [other]
        assert starts(marks) == Counter(range(4))


class TestOutages:
    def test_slurmctld_that_hangs_while_jobs_run(self, call: Call) -> None:
        script, marks = counted(call, 4)
        call.env["FRACTAL_SLURM_COMMAND_TIMEOUT_S"] = "3"
        process = call.begin(call.spec(script, 16))
        wait_for(lambda: len(running_jobs()) == 4)
        with frozen("slurmctld"):
            time.sleep(12)
        outcome = finish(process)
        assert outcome["succeeded"] == 16
        assert outcome.stderr.count("SLURM does not answer") == 1
        assert outcome.stderr.count("SLURM answers again") == 1
        assert starts(marks) == Counter(range(16))

    @pytest.mark.parametrize("daemon", ["slurmctld", "munged"])
    def test_a_daemon_that_is_down_for_a_while(self, call: Call, daemon: str) -> None:
        script, marks = counted(call, 0.5)
        process = call.begin(call.spec(script, 12))
        wait_for(running_jobs)
        # Not killed: slurmctld would lose its state, give ids a second time and drain the nodes that notice.
        with away(daemon, signal.SIGTERM):
            time.sleep(4)
        assert finish(process)["succeeded"] == 12
        assert starts(marks) == Counter(range(12))

    def test_an_absent_slurmctld_is_said_before_anything_is_begun(self, call: Call) -> None:
        with away("slurmctld", signal.SIGTERM):
            outcome = call.run(call.spec("true", 2))
            others = [call("validate", "--cluster"), call("doctor")]
        assert outcome.code == 3
        [said] = outcome.document["errors"]
        assert said.startswith("SLURM can't be reached: ")
        advice = said[said.index("nothing was submitted. ") :]
        assert f"{BASE}/bin/scontrol ping" in advice
        assert [(other.code, advice in " ".join((other.stdout + other.stderr).split())) for other in others] == [
            (3, True)
        ] * 2
        assert not call.runs()


class TestEndsOfJobs:
    def test_cancelled_from_outside_keeps_what_it_has(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        script, marks = counted(call, 1)
        process = call.begin(call.spec(script, 40))
        wait_for(lambda: len(starts(marks)) > 8)
        slurm("scancel", *live_jobs())
        outcome = finish(process, code=1)
        assert outcome["succeeded"] >= 4
        assert outcome["succeeded"] + outcome["not_run"] == 40
        assert "was cancelled" in outcome["failures"][0]["reason"]
        assert set(starts(marks).values()) == {1}

    def test_requeued_does_not_run_finished_tasks_again(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        script, marks = counted(call, 0.5)
        process = call.begin(call.spec(script, 24))
        wait_for(lambda: len(starts(marks)) > 8)
        (job,) = live_jobs()
        slurm("scontrol", "requeue", job)
        wait_for(lambda: "PENDING" in slurm("squeue", "-h", "-o", "%T", "-j", job))
        slurm("scontrol", "update", f"jobid={job}", "StartTime=now")
        outcome = finish(process)
        assert outcome["succeeded"] == 24
        # Only what ran when the job was stopped ran twice.
        assert sum(starts(marks).values()) <= 24 + 4

    def test_a_time_limit_costs_only_what_ran(self, call: Call) -> None:
        one = {**ONE_JOB, "target_cpus_per_job": 1, "max_cpus_per_job": 1}
        call.config(time=None, batching=one)
        task = call.script('#!/bin/sh\ngrep -q 1 "$2" && sleep 300\necho "{}" > "$4"\n')
        process = call.begin(call.spec(task, 4))
        (job,) = wait_for(running_jobs)
        slurm("scontrol", "update", f"jobid={job}", "TimeLimit=1")  # the shortest that there is
        outcome = finish(process, code=1)
        assert outcome["succeeded"] == 3
        assert [failure["index"] for failure in outcome["failures"]] == [1]
        assert "was ended by its time limit (TIMEOUT)" in outcome["failures"][0]["reason"]

    def test_a_killed_worker_costs_only_the_culprit(self, call: Call) -> None:
        """As memory does it without cgroups: the whole job is shot, and nothing says by which task."""
        call.config(batching=ONE_JOB)
        task = call.script(
            '#!/bin/sh\nn=$(sed "s/[^0-9]//g" "$2")\nsleep 0.2\n[ "$n" = 9 ] && kill -KILL $PPID\necho "{}" > "$4"\n'
        )
        outcome = call.run(call.spec(task, 20))
        assert outcome.code == 1
        assert outcome["succeeded"] == 19
        assert [failure["index"] for failure in outcome["failures"]] == [9]
        # Of a job that ended long before a look slurmctld may know nothing any more: it forgets jobs after 5 s here.
        assert any(words in outcome["failures"][0]["reason"] for words in ("was killed or failed", "(LOST)"))

    def test_a_job_that_slurm_ends_for_its_memory_is_told_so_and_costs_only_the_culprit(self, call: Call) -> None:
        """Without cgroups, slurmd adds up what the processes use. The worker itself may have too much, for a result."""
        call.config(mem="100M", batching={**ONE_JOB, "target_cpus_per_job": 1, "max_cpus_per_job": 1})
        result = 'open(sys.argv[4], "w").write(\'"\' + "x" * 60_000_000 + \'"\')'
        large = f'if "1" in open(sys.argv[2]).read():\n    {result}\n    time.sleep(3)\n'
        outcome = call.run(call.spec(call.script(f"#!/usr/bin/python3\nimport sys, time\n{large}"), 3))
        assert outcome.code == 1
        assert outcome["succeeded"] == 2, outcome["failures"]
        (failure,) = outcome["failures"]
        assert failure["index"] == 1
        assert "ran out of memory (SLURM: StepId=" in failure["reason"]
        assert "exceeded memory limit" in failure["reason"]

    def test_a_job_that_has_too_much_memory_before_its_first_task_costs_no_node(self, call: Call) -> None:
        hog = "/usr/bin/python3 -c 'import time; hog = bytearray(300_000_000); time.sleep(9)'"
        call.config(mem="50M", batching=ONE_JOB, extra_lines=[hog])
        outcome = call.run(call.spec("true", 2))
        assert outcome.code == 1
        assert [failure["index"] for failure in outcome["failures"]] == [0, 1]
        assert "ran out of memory before its first task started (SLURM: StepId=" in outcome["failures"][0]["reason"]
        assert "elsewhere" not in outcome.stderr

    def test_two_culprits_fail_and_the_innocent_beside_them_do_not(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        task = call.script('#!/bin/sh\ngrep -q "[12]" "$2" && kill -KILL $PPID\nsleep 0.5\necho "{}" > "$4"\n')
        outcome = call.run(call.spec(task, 6))
        assert outcome.code == 1
        assert [failure["index"] for failure in outcome["failures"]] == [1, 2]
        assert outcome["succeeded"] == 4

    def test_a_node_that_dies_while_its_worker_lives_on(self, call: Call) -> None:
        call.config(batching=ONE_JOB, extra_lines=["#SBATCH --no-requeue"])
        script, marks = counted(call, 12)
        process = call.begin(call.spec(script, 16))
        wait_for(lambda: len(starts(marks)) > 3)
        (job,) = live_jobs()
        node = slurm("squeue", "-h", "-o", "%N", "-j", job).strip()
        with away("slurmd", signal.SIGKILL, node):
            outcome = finish(process, seconds=300)
        assert outcome["succeeded"] == 16
        assert "NODE_FAIL" in outcome.stderr
        # The old worker saw the mark of the server and ended: no task of it ran beside the new job for long.
        assert sum(starts(marks).values()) <= 16 + 2 * 4, starts(marks)

    def test_a_job_that_can_never_start_is_not_waited_for(self, call: Call) -> None:
        call.config(nodes="9", mem="50M", batching={"target_cpus_per_job": 9, "max_cpus_per_job": 9})
        outcome = call.run(call.spec("true", 9))
        assert outcome.code == 3
        assert outcome["not_run"] == 9
        if "SLURM refused the job" in outcome.stderr:  # newer ones say so at once
            assert "Requested node configuration is not available" in outcome.stderr
        else:
            assert "will never start job" in outcome.stderr
            assert "PartitionNodeLimit" in outcome.stderr
        assert not live_jobs()

    def test_a_job_whose_dependency_failed_is_not_waited_for(self, call: Call) -> None:
        other = slurm("sbatch", "--parsable", "--chdir=/", "--output=/dev/null", "--wrap=sleep 300").strip()
        call.config(extra_lines=[f"#SBATCH --dependency=afterok:{other}"], batching=ONE_JOB)
        process = call.begin(call.spec("true", 4))
        wait_for(lambda: "(Dependency)" in slurm("squeue", "-h", "-o", "(%r)"))
        slurm("scancel", other)
        outcome = finish(process, code=3)
        assert outcome["not_run"] == 4
        assert "DependencyNeverSatisfied" in outcome.stderr
        assert not live_jobs()

    def test_a_job_for_which_the_partition_became_too_short_is_not_waited_for(self, call: Call) -> None:
        call.config(time="00:05:00", batching=ONE_JOB)
        slurm("scontrol", "update", "partitionname=main", "state=down")
        try:
            process = call.begin(call.spec("true", 4))
            wait_for(live_jobs)
            slurm("scontrol", "update", "partitionname=main", "state=up", "maxtime=2")
            outcome = finish(process, code=3)
        finally:
            slurm("scontrol", "update", "partitionname=main", "state=up", "maxtime=60")
        assert outcome["not_run"] == 4
        assert "PartitionTimeLimit" in outcome.stderr
        assert not live_jobs()


class TestCancel:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_once_cancels_cleanly(self, call: Call, number: signal.Signals) -> None:
        script, marks = counted(call, 1)
        process = call.begin(call.spec(script, 200))
        wait_for(lambda: len(starts(marks)) > 20)
        process.send_signal(number)
        outcome = finish(process, code=130)
        assert outcome["state"] == "cancelled"
        assert outcome["succeeded"] >= 4
        assert outcome["succeeded"] + outcome["not_run"] == 200
        assert not live_jobs()

    @pytest.mark.parametrize("line", ["true", "sleep 60"], ids=["jobs that wait", "jobs before their first task"])
    def test_what_never_began_is_not_waited_for(self, call: Call, line: str) -> None:
        call.env["FRACTAL_SLURM_RESULTS_WAIT_S"] = "100"
        call.config(extra_lines=[line], batching={"target_num_jobs": 8, "max_num_jobs": 8})
        script, _marks = counted(call, 60)
        process = call.begin(call.spec(script, 64))
        wait_for(lambda: len(running_jobs()) == 4)
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        outcome = finish(process, code=130, seconds=60)
        assert outcome["not_run"] == 64
        assert "waiting for the last results" not in outcome.stderr

    def test_what_began_is_waited_for_and_it_is_said(self, call: Call) -> None:
        """The worker is gone without a word: its last results may be on their way."""
        call.config(batching=ONE_JOB)
        process = call.begin(call.spec(call.script("#!/bin/sh\nsleep 3\nkill -KILL $PPID\n"), 8))
        (job,) = wait_for(running_jobs)
        process.send_signal(signal.SIGSTOP)
        wait_for(lambda: not live_jobs())
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        outcome = finish(process, code=130)
        assert f"waiting for the last results of job {job}, whose worker had begun, for up to 4 s" in outcome.stderr

    def test_twice_leaves_the_jobs_running_and_says_how_to_resume(self, call: Call) -> None:
        script, marks = counted(call, 1)
        process = call.begin(call.spec(script, 24))
        wait_for(running_jobs)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        outcome = finish(process, code=130)
        assert f"fractal-slurm resume {call.run_id()}" in outcome.stderr
        assert call("resume", call.run_id(), "--json")["succeeded"] == 24
        assert starts(marks) == Counter(range(24))

    def test_by_the_command_with_and_without_a_driver(self, call: Call) -> None:
        script, _marks = counted(call, 1)
        process = call.begin(call.spec(script, 100))
        wait_for(running_jobs)
        assert call("cancel", call.run_id(), "--json").code == 0
        process.communicate(timeout=60)
        assert process.returncode == 130
        process = call.begin(call.spec(script, 100))
        wait_for(running_jobs)
        kill(process)
        outcome = call("cancel", call.run_id(), "--json")
        assert outcome.code == 130
        assert outcome["state"] == "cancelled"
        assert not live_jobs()

    def test_while_a_submission_has_no_answer(self, call: Call) -> None:
        script, marks = counted(call, 1)
        call.env["FRACTAL_SLURM_SBATCH_TIMEOUT_S"] = "2"
        process = call.begin(call.spec(script, 8))
        wait_for(call.runs)
        with frozen("slurmctld"):
            time.sleep(3)
            process.send_signal(signal.SIGTERM)
            time.sleep(3)
        outcome = finish(process, code=130)
        assert outcome["succeeded"] + outcome["not_run"] == 8
        wait_for(lambda: not live_jobs())
        assert max(starts(marks).values(), default=1) == 1

    def test_of_a_run_whose_driver_died_in_it_goes_on(self, call: Call) -> None:
        script, _marks = counted(call, 30)
        process = call.begin(call.spec(script, 8))
        wait_for(running_jobs)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: "cancel" in call.events())
        kill(process)
        outcome = call("resume", call.run_id(), "--json")
        assert outcome.code == 130, outcome.stderr
        assert (outcome["not_run"], outcome["state"]) == (8, "cancelled")
        assert not live_jobs()
        again = call("cancel", call.run_id(), "--json")
        assert again.code == 2
        assert "has ended already" in again.document["errors"][0]


class TestSeveralNodes:
    @pytest.mark.parametrize(("nodes", "slots"), [(2, 6), (3, 9), (3, 3)])
    def test_one_step_and_one_queue_for_all_nodes(self, call: Call, nodes: int, slots: int) -> None:
        call.config(
            nodes=str(nodes),
            mem="50M",
            batching={"target_cpus_per_job": slots, "max_cpus_per_job": slots, **ONE_JOB},
        )
        script, marks = counted(call, 0.2)
        outcome = call.run(call.spec(script, 40))
        assert outcome.code == 0, outcome.stderr
        assert (outcome["succeeded"], outcome["jobs"], outcome["srun_steps"]) == (40, 1, 1), outcome.stderr
        assert starts(marks) == Counter(range(40))
        hosts = {task["host"] for task in call.report()["tasks"]}
        assert len(hosts) == nodes

    def test_a_job_that_loses_a_node_on_the_way_loses_no_task(self, call: Call) -> None:
        """Resized: SLURM ends what ran on the node that was taken away, and lets the job go on."""
        call.config(nodes="2", mem="50M", batching={"target_cpus_per_job": 4, "max_cpus_per_job": 4, **ONE_JOB})
        script, marks = counted(call, 0.5)
        process = call.begin(call.spec(script, 40))
        wait_for(lambda: len(starts(marks)) > 8)
        (job,) = live_jobs()
        slurm("scontrol", "update", f"jobid={job}", "numnodes=1")
        wait_for(lambda: slurm("squeue", "-h", "-o", "%D", "-j", job).strip() != "2", what="the job to shrink")
        outcome = finish(process)
        assert outcome["succeeded"] == 40
        # Only what ran on that node, two tasks at a time, was started a second time.
        again = [task for task, times in starts(marks).items() if times > 1]
        assert len(again) <= 4


class TestResultFiles:
    def test_torn_doubled_and_foreign_lines_change_nothing(self, call: Call) -> None:
        work = call.work(ANNA)
        lines = r'{"task":0,"tok\n{"task":5,"attempt":0,"token":"x","state":"failed"}\n{"begin":1,"token":[]}\n'
        forged = (
            f"#!/bin/sh\nd=$(ls -d {work}/*/*/)\n"
            f"grep -q 1 \"$2\" && printf '{lines}' >> $d/results-0-0\n"
            'echo "{}" > "$4"\n'
        )
        call.config(batching=ONE_JOB)
        outcome = call.run(call.spec(call.script(forged), 8))
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 8
        assert "torn" in outcome.stderr
        assert "foreign" in outcome.stderr

    def test_rights_that_are_gone_for_a_while_lose_nothing(self, call: Call) -> None:
        script, marks = counted(call, 0.5)
        call.env["FRACTAL_SLURM_MAX_JOBS_IN_FLIGHT"] = "2"
        process = call.begin(call.spec(script, 16))
        wait_for(lambda: len(starts(marks)) >= 4)
        grant(f"%{GROUP}")
        try:
            wait_for(lambda: not live_jobs())
            # Neither the driver that was there nor a new one gives up what it can't read or submit now.
            for _driver in range(2):
                time.sleep(6)
                assert process.poll() is None
                kill(process)
                process = call.start("resume", call.run_id(), "--json")
            time.sleep(4)
        finally:
            grant(f"{ANNA}, %{GROUP}")
        outcome = finish(process)
        assert outcome["succeeded"] == 16
        assert f"as {ANNA}" in outcome.stderr
        assert outcome.stderr.count("going on") == 1
        assert starts(marks) == Counter(range(16))

    def test_of_a_job_that_was_cancelled_while_the_folder_was_away_count(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        script, marks = counted(call, 1)
        process = call.begin(call.spec(script, 40))
        wait_for(lambda: len(starts(marks)) > 8)
        work = call.work(ANNA)
        work.rename(work.with_name("away"))
        slurm("scancel", *live_jobs())
        wait_for(lambda: not live_jobs())
        time.sleep(8)  # over results_wait_s
        assert process.poll() is None
        work.with_name("away").rename(work)
        outcome = finish(process, code=1)
        assert outcome["succeeded"] >= 4
        assert outcome["succeeded"] + outcome["not_run"] == 40

    def test_that_come_late_from_a_job_whose_worker_was_killed_count(self, call: Call) -> None:
        """As a network file system may hide them: a job that failed without any is not one that never began."""
        call.config(batching=ONE_JOB)
        call.env["FRACTAL_SLURM_RESULTS_WAIT_S"] = "12"
        marks = call.work(ANNA)
        task = call.script(
            f'#!/bin/sh\necho >> {marks}/marks\nsleep 0.3\n[ "$(wc -l < {marks}/marks)" = 12 ] && kill -KILL $PPID\n'
            'echo "{}" > "$4"\n'
        )
        process = call.begin(call.spec(task, 20))
        wait_for(lambda: list(marks.glob("*/*/results-0-0")))
        (folder,) = (file.parent for file in marks.glob("*/*/results-0-0"))
        folder.rename(folder.with_name("hidden"))
        wait_for(lambda: not live_jobs())
        time.sleep(6)
        folder.with_name("hidden").rename(folder)
        outcome = finish(process)
        assert outcome["succeeded"] == 20, outcome.stderr

    def test_a_forged_first_record_can_not_stop_the_driver(self, call: Call) -> None:
        work = call.work(ANNA)
        begin = '{"begin":1,"token":"%s","job":"7","restart":0,"node":0,"nodes":400000000,"slots":1}'
        task = call.script(
            f"#!/bin/sh\nd=$(ls -d {work}/*/*/)\nt=$(basename $d)\n"
            f"printf '{begin}\\n' $t >> $d/results-0-0\nsleep 2\necho '{{}}' > \"$4\"\n"
        )
        call.config(batching=ONE_JOB)
        outcome = call.run(call.spec(task, 6))
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 6


class TestSites:
    def test_a_login_profile_that_waits_or_exits_is_not_run(self, call: Call) -> None:
        import pwd

        profile = Path(pwd.getpwnam(ANNA).pw_dir) / ".profile"
        bash_profile = profile.with_name(".bash_profile")
        trace = call.work(ANNA) / "the profile ran"
        for file in (profile, bash_profile):
            file.write_text(f"touch '{trace}'\nsleep 60\nexit 3\n")
        try:
            outcome = call.run(call.spec("true", 4))
            assert outcome.code == 0, outcome.stderr
            assert not trace.exists()
        finally:
            profile.unlink()
            bash_profile.unlink()

    def test_a_task_over_its_memory_is_ended_by_the_watch(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_MEMORY_LIMIT"] = "watch"
        task = call.script(
            '#!/usr/bin/python3\nimport sys, time\nif "2" in open(sys.argv[2]).read():\n'
            "    hog = bytearray(400_000_000)\n    time.sleep(30)\n"
        )
        # The job has room for all, so SLURM's own limit is not what ends it.
        call.config(mem="200M", batching=ONE_JOB)
        outcome = call.run(call.spec(task, 4))
        assert outcome.code == 1
        assert outcome["succeeded"] == 3
        assert "its mem is 200 MB" in outcome["failures"][0]["reason"]
