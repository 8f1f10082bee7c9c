# SPDX-License-Identifier: BSD-3-Clause
"""Refusals: what may pass is waited out, what is final ends the run, and a run that was refused can be resumed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import (
    ANNA,
    BASE,
    GROUP,
    ONE_JOB,
    SERVICE,
    SETTINGS,
    SUDOERS,
    Call,
    counted,
    finish,
    grant,
    kill,
    live_jobs,
    restart,
    slurm,
    starts,
    wait_for,
)

SBATCH = BASE / "bin/sbatch"
ONE_AT_A_TIME = {"FRACTAL_SLURM_MAX_JOBS_IN_FLIGHT": "1"}


@contextlib.contextmanager
def sbatch_does(lines: str, *, first: bool = True) -> Iterator[None]:
    """The site's sbatch is a script that does something else first, or in place of SLURM's."""
    original = SBATCH.read_text()
    head, rest = original.split("\n", 1)
    beside = SBATCH.with_name("sbatch.new")
    beside.write_text(f"{head}\n{lines}\n{rest if first else ''}")
    beside.chmod(0o755)
    beside.rename(SBATCH)
    try:
        yield
    finally:
        beside.write_text(original)
        beside.chmod(0o755)
        beside.rename(SBATCH)


@contextlib.contextmanager
def partition(**values: str) -> Iterator[None]:
    """The partition is otherwise for a while."""
    slurm("scontrol", "update", "partitionname=main", *(f"{name}={value}" for name, value in values.items()))
    try:
        yield
    finally:
        slurm("scontrol", "update", "partitionname=main", "state=up", "maxtime=60")


class TestWhatMayPass:
    def test_an_sbatch_that_is_away_for_a_while(self, call: Call) -> None:
        """As in an upgrade: sudo itself says that the command is not found."""
        script, marks = counted(call, 0.2)
        call.env |= ONE_AT_A_TIME
        process = call.begin(call.spec(script, 32))
        wait_for(lambda: starts(marks))
        away = SBATCH.with_name("sbatch.away")
        SBATCH.rename(away)
        time.sleep(6)
        away.rename(SBATCH)
        outcome = finish(process)
        assert outcome["succeeded"] == 32
        assert starts(marks) == Counter(range(32))
        assert outcome.stderr.count("command not found") == 1
        assert "sudoers" not in outcome.stderr
        assert "SLURM takes jobs again" in outcome.stderr

    def test_an_sbatch_that_is_away_at_the_first_submission(self, call: Call) -> None:
        away = SBATCH.with_name("sbatch.away")
        SBATCH.rename(away)
        try:
            process = call.begin(call.spec("true", 4))
            wait_for(lambda: call.runs() and "not now" in call.events())
        finally:
            away.rename(SBATCH)
        assert finish(process)["succeeded"] == 4

    @pytest.mark.parametrize("state", ["drain", "inactive"])
    def test_a_partition_that_is_closed_between_two_submissions(self, call: Call, state: str) -> None:
        script, marks = counted(call, 0.2)
        call.env |= ONE_AT_A_TIME
        process = call.begin(call.spec(script, 32))
        wait_for(lambda: starts(marks))
        with partition(state=state):
            wait_for(lambda: "not now" in call.events())
        outcome = finish(process)
        assert outcome["succeeded"] == 32
        assert starts(marks) == Counter(range(32))
        assert outcome.stderr.count("Required partition not available (inactive or drain): this may pass") == 1

    def test_a_script_of_the_site_that_refuses_in_its_own_words(self, call: Call) -> None:
        closed = call.folder / "closed"
        closed.touch()
        words = "echo 'The cluster rests until noon:' >&2; echo 'see the page of the day' >&2"
        with sbatch_does(f"[ ! -e {closed} ] || {{ {words}; exit 1; }}"):
            process = call.begin(call.spec("true", 8))
            wait_for(lambda: call.runs() and "said by sbatch" in call.events())
            time.sleep(3)
            closed.unlink()
            outcome = finish(process)
        assert outcome["succeeded"] == 8
        assert outcome.stderr.count("The cluster rests until noon:; see the page of the day: this may pass") == 1
        assert "FRACTAL_IMPERSONATE_USERS" not in outcome.stderr

    def test_a_script_of_the_site_that_fails_after_it_submitted_runs_nothing_twice(self, call: Call) -> None:
        script, marks = counted(call, 0.2)
        call.config(batching=ONE_JOB)
        original = SBATCH.read_text()
        command = original.strip().splitlines()[-1].removeprefix("exec ")
        once = call.work(ANNA) / "once"  # hers to remove
        once.touch()
        submits = f"SLURM_CONF={BASE}/etc/slurm.conf {command} >/dev/null"
        fails = f"if [ -e {once} ]; then {submits}; echo 'the log is full' >&2; rm -f {once}"
        with sbatch_does(f"{fails}; exit 1; fi"):
            outcome = call.run(call.spec(script, 8))
        assert outcome.code == 0, outcome.stderr
        assert starts(marks) == Counter(range(8))
        assert "the log is full: this may pass" in outcome.stderr

    def test_rights_that_are_away_for_a_while(self, call: Call) -> None:
        script, marks = counted(call, 0.2)
        call.env |= ONE_AT_A_TIME
        process = call.begin(call.spec(script, 32))
        wait_for(lambda: starts(marks))
        grant(f"%{GROUP}")
        time.sleep(6)
        grant(f"{ANNA}, %{GROUP}")
        assert finish(process)["succeeded"] == 32
        assert starts(marks) == Counter(range(32))


class TestTheLimit:
    def test_what_does_not_pass_ends_the_run_and_resume_goes_on_once_it_has(self, call: Call) -> None:
        script, marks = counted(call, 0.2)
        call.env |= {**ONE_AT_A_TIME, "FRACTAL_SLURM_REFUSAL_WAIT_S": "4"}
        process = call.begin(call.spec(script, 32))
        wait_for(lambda: starts(marks))
        with partition(state="drain"):
            outcome = finish(process, code=3)
        assert outcome["not_run"] > 0
        assert outcome["succeeded"] + outcome["not_run"] == 32
        assert f"fractal-slurm resume {outcome['run_id']}" in outcome.stderr
        assert call.report()["state"] == "refused"
        again = call("resume", call.run_id(), "--json")
        assert again.code == 0, again.stderr
        assert again["succeeded"] == 32
        assert starts(marks) == Counter(range(32))

    def test_a_script_that_prints_no_id_and_submits_nothing_is_not_tried_for_ever(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_REFUSAL_WAIT_S"] = "4"
        with sbatch_does("echo 'no jobs today'; exit 0", first=False):
            outcome = call.run(call.spec("true", 2))
        assert outcome.code == 3
        assert outcome["not_run"] == 2
        assert "no jobs today" in outcome.stderr

    def test_a_wrong_spec_ends_at_once_and_can_be_resumed(self, call: Call) -> None:
        call.config(constraint="nope")
        outcome = call.run(call.spec("true", 2))
        assert outcome.code == 3
        assert "SLURM refused the job: " in outcome.stderr
        assert "this may pass" not in outcome.stderr
        slurm("scontrol", "update", "nodename=n[1-4]", "availablefeatures=nope", "activefeatures=nope")
        try:
            again = call("resume", call.run_id(), "--json")
        finally:
            slurm("scontrol", "update", "nodename=n[1-4]", "availablefeatures=", "activefeatures=")
        assert again.code == 0, again.stderr
        assert again["succeeded"] == 2

    def test_a_run_whose_job_could_never_start_can_be_resumed(self, call: Call) -> None:
        script, marks = counted(call, 0)
        call.config(batching=ONE_JOB, time="00:05:00")
        slurm("scontrol", "update", "nodename=ALL", "state=drain", "reason=test")
        process = call.begin(call.spec(script, 4))
        wait_for(live_jobs)
        with partition(maxtime="1"):
            outcome = finish(process, code=3)
        assert "PartitionTimeLimit" in outcome["failures"][0]["reason"]
        slurm("scontrol", "update", "nodename=ALL", "state=resume")
        again = call("resume", call.run_id(), "--json")
        assert again.code == 0, again.stderr
        assert starts(marks) == Counter(range(4))

    def test_a_run_that_was_not_allowed_can_be_resumed(self, call: Call) -> None:
        with partition(state="up", allowgroups="root"):
            outcome = call.run(call.spec("true", 4))
        slurm("scontrol", "update", "partitionname=main", "allowgroups=ALL")
        assert outcome.code == 3
        assert "User's group not permitted to use this partition" in outcome.stderr
        again = call("resume", call.run_id(), "--json")
        assert again.code == 0, again.stderr
        assert again["succeeded"] == 4


def test_a_cluster_that_takes_smaller_scripts_than_it_did_gets_smaller_ones(call: Call) -> None:
    call.config(batching=ONE_JOB)
    path = call.spec("true", 40)
    noise = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(160))
    spec = json.loads(Path(path).read_text())
    spec["parameters"] = [{"noise": noise[256 * number : 256 * (number + 1)]} for number in range(40)]
    Path(path).write_text(json.dumps(spec))
    with partition(state="drain"):
        process = call.begin(path)
        wait_for(lambda: call.runs() and "not now" in call.events())
        kill(process)
    scheduler = "sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0,max_script_size=6000"
    restart(slurm_conf={**SETTINGS["slurm_conf"], "SchedulerParameters": scheduler})
    try:
        outcome = call("resume", call.run_id(), "--json")
    finally:
        restart()
    assert outcome.code == 0, outcome.stderr
    assert outcome["succeeded"] == 40
    assert outcome["jobs"] > 1


class TestWhoRefusesAndWhy:
    """The cause in the words of whoever said it, with the advice that helps against it."""

    @pytest.fixture
    def sudoers(self) -> Iterator[Callable[[str], None]]:
        """Adds a line to the sudoers file, and takes it out at the end."""

        def add(line: str) -> None:
            candidate = Path("/etc") / SUDOERS.name
            candidate.write_text(f"{SUDOERS.read_text()}{line}\n")
            candidate.chmod(0o440)
            subprocess.run(["visudo", "-cqf", candidate], check=True)
            candidate.rename(SUDOERS)

        yield add
        grant(f"{ANNA}, %{GROUP}")

    def test_a_site_that_wants_a_terminal(self, call: Call, sudoers: Callable[[str], None]) -> None:
        sudoers(f"Defaults:{SERVICE} requiretty")
        outcome = call.run(call.spec("true", 2))
        doctor = call("doctor", "--user", ANNA, "--json")
        assert outcome.code == 3
        (found,) = [check for check in doctor.document if check["check"] == f"sudo as {ANNA}"]
        for words in (outcome.document["errors"][0], found["words"]):
            assert f"add `Defaults:{SERVICE} !requiretty` to the sudoers files of this host" in words
            assert "you must have a tty to run sudo" in words
            assert "FRACTAL_IMPERSONATE_USERS" not in words

    def test_an_account_that_has_expired(self, call: Call) -> None:
        subprocess.run(["chage", "--expiredate", "1", SERVICE], check=True)
        try:
            doctor = call("doctor", "--user", ANNA, "--json")
        finally:
            subprocess.run(["chage", "--expiredate", "-1", SERVICE], check=True)
        (found,) = [check for check in doctor.document if check["check"] == f"sudo as {ANNA}"]
        assert not found["ok"]
        assert f"chage -l {SERVICE}" in found["words"]

    def test_a_configuration_that_does_not_cross_sudo(self, call: Call) -> None:
        """The service finds the cluster by SLURM_CONF, of which sudo leaves nothing."""
        call.env |= {"SLURM_CONF": f"{BASE}/etc/slurm.conf", "FRACTAL_SLURM_SLURM_BIN_DIR": "/usr/bin"}
        grant(f"{ANNA}, %{GROUP}", commands="/usr/bin/sbatch, /usr/bin/scancel")
        try:
            doctor = call("doctor", "--user", ANNA, "--json")
            outcome = call.run(call.spec("true", 2))
        finally:
            grant(f"{ANNA}, %{GROUP}")
        (found,) = [check for check in doctor.document if check["check"] == f"sbatch as {ANNA}"]
        assert not found["ok"]
        assert outcome.code == 3
        for words in (found["words"], outcome["failures"][0]["reason"]):
            assert "Could not establish a configuration source" in words
            assert "sudo takes SLURM_CONF out of the environment" in words

    def test_doctor_finds_nothing_wrong_here_and_submits_nothing(self, call: Call) -> None:
        before = slurm("squeue", "--noheader", "--states=all", "--format=%i")
        found = call("doctor", "--user", ANNA, "--json").document
        assert [check for check in found if not check["ok"]] == []
        assert {"check": f"sbatch as {ANNA}", "ok": True, "words": "it finds the cluster"}.items() <= next(
            check for check in found if check["code"] == "D24"
        ).items()
        assert slurm("squeue", "--noheader", "--states=all", "--format=%i") in (before, "")

    def test_a_site_that_gives_its_reason_on_the_third_line(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_REFUSAL_WAIT_S"] = "3"
        lua = (
            "function slurm_job_submit(desc, parts, uid)\n"
            "  for number = 1, 5 do slurm.log_user('line ' .. number .. ' of the rules') end\n"
            "  return slurm.ERROR\nend\n"
            "function slurm_job_modify(desc, job, parts, uid) return slurm.SUCCESS end\n"
        )
        restart(slurm_conf={**SETTINGS["slurm_conf"], "JobSubmitPlugins": "lua"}, conf_files={"job_submit.lua": lua})
        try:
            outcome = call.run(call.spec("true", 2))
        finally:
            restart()
        assert outcome.code == 3
        assert "line 1 of the rules; line 2 of the rules; line 3 of the rules" in outcome["failures"][0]["reason"]
        assert "line 5 of the rules" in outcome["failures"][0]["reason"]
        events = call("report", call.run_id(), "--events", "--json").document
        assert any(event["detail"].count("of the rules") == 5 for event in events)
