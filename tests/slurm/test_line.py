# SPDX-License-Identifier: BSD-3-Clause
"""The whole line: from a unit of work to results, as other users, on a real SLURM."""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
import subprocess
import time
from pathlib import Path

import pytest
from conftest import (
    ANNA,
    BASE,
    BEN,
    CONFIG,
    EVE,
    GROUP,
    ONE_JOB,
    SERVICE,
    Call,
    finish,
    grant,
    kill,
    live_jobs,
    running_jobs,
    wait_for,
)

OUT_TASK = """#!/bin/sh
# Prints some, and writes an out-JSON with what it was given and where it runs.
echo "task $2 of $(id -un)"
printf '{"args": %s, "who": "%s", "threads": "%s", "cache": "%s", "greeting": "%s"}' \\
  "$(cat "$2")" "$(id -un)" "$OMP_NUM_THREADS" "$MY_CACHE" "$GREETING" > "$4"
"""


class TestRun:
    @pytest.mark.parametrize("user", [ANNA, BEN], ids=["by name", "through a group"])
    def test_runs_every_task_once_as_the_user(self, call: Call, user: str) -> None:
        config = json.loads(json.dumps(CONFIG))
        config["default_slurm_config"]["extra_lines"] = ["export GREETING='good morning'"]
        config["user_local_exports"] = {"MY_CACHE": "models/it's here"}
        (call.folder / "config.json").write_text(json.dumps(config))
        outcome = call.run(call.spec(call.script(OUT_TASK), 50), user)
        assert outcome.code == 0, outcome.stderr
        assert (outcome["tasks"], outcome["succeeded"], outcome["failed"], outcome["not_run"]) == (50, 50, 0, 0)
        assert outcome["jobs"] == 4
        assert outcome["srun_steps"] == 0
        tasks = call.report()["tasks"]
        assert [task["result"]["args"]["number"] for task in tasks] == list(range(50))
        assert {task["result"]["who"] for task in tasks} == {user}
        assert {task["result"]["threads"] for task in tasks} == {"1"}
        assert {task["result"]["greeting"] for task in tasks} == {"good morning"}
        assert {task["result"]["cache"] for task in tasks} == {f"{call.work(user)}/cache dir/models/it's here"}

    def test_leaves_private_files_of_the_user_only(self, call: Call) -> None:
        assert call.run(call.spec(call.script(OUT_TASK), 8)).code == 0
        run_folder = Path(call.report()["run_folder"])
        paths = [run_folder, *run_folder.rglob("*")]
        assert len(paths) > 4
        for path in paths:
            assert path.lstat().st_uid == pwd.getpwnam(ANNA).pw_uid, path
        assert stat.S_IMODE(run_folder.stat().st_mode) == 0o700
        for path in run_folder.rglob("results-*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        # The journal holds other people's args.
        for path in (call.folder / "state/runs").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path

    def test_costs_few_sudo_calls(self, call: Call) -> None:
        outcome = call.run(call.spec(call.script(OUT_TASK), 400))
        assert outcome["succeeded"] == 400
        assert outcome["sudo_calls"] <= 3 * outcome["jobs"]

    def test_a_report_tells_when_the_driver_is_gone_and_since_when_jobs_run(self, call: Call) -> None:
        gate = call.folder / "gate"
        process = call.begin(call.spec(call.script(f"#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.1; done\n"), 2))
        wait_for(running_jobs)
        kill(process)
        assert call.report()["state"] == "interrupted"
        time.sleep(3)
        resumed = time.time()
        process = call.start("resume", call.run_id(), "--json")
        wait_for(lambda: call.report()["jobs"][0]["began"])
        assert call.report()["jobs"][0]["began"] < resumed
        gate.touch()
        finish(process)
        assert call.report()["state"] == "done"

    def test_one_log_of_one_task_can_be_read_alone(self, call: Call) -> None:
        task = call.script('#!/bin/sh\necho "first of $2"\nhead -c 3 /dev/zero\nprintf "\\377\\n"\ncat "$2"\n')
        assert call.run(call.spec(task, 9)).code == 0
        log = call.argv("report", call.run_id(), "--log", "7")
        data = subprocess.run(log, capture_output=True, check=True).stdout
        assert data.startswith(b"first of ")
        assert data.endswith(b'\0\0\0\xff\n{"number": 7}')

    def test_separate_logs_on_request(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_TASK_LOGS"] = "separate"
        assert call.run(call.spec(call.script(OUT_TASK), 6)).code == 0
        run_folder = Path(call.report()["run_folder"])
        assert sorted(path.name for path in run_folder.rglob("task-*.log")) == [f"task-{n}-0.log" for n in range(6)]
        assert "task" in call("report", call.run_id(), "--log", "3").stdout

    def test_a_script_over_the_limit_is_compressed_or_split(self, call: Call) -> None:
        # 2,000 tasks of 4 KB are 8 MB plain; random digits compress to a half: too much for one job of 4 MiB.
        path = Path(call.spec(call.script(OUT_TASK), 1))
        document = json.loads(path.read_text())
        document["parameters"] = [{"number": n, "noise": os.urandom(2000).hex()} for n in range(2000)]
        path.write_text(json.dumps(document))
        call.config(time="00:00:05", batching=ONE_JOB)
        outcome = call.run(str(path))
        assert outcome.code == 3
        assert "2 jobs would be needed, over max_num_jobs (1)" in outcome.stderr
        assert not call.runs()
        call.config(time="00:00:05", batching={**ONE_JOB, "max_num_jobs": 2})
        path.write_text(json.dumps({**document, "meta": {"tasks_per_job": 2000, "parallel_tasks_per_job": 4}}))
        outcome = call.run(str(path))
        assert outcome.code == 0, outcome.stderr
        assert outcome["succeeded"] == 2000
        assert outcome["jobs"] == 2


# Its list of images is some 59 MB; that of the second task is over the 64 MB that are allowed.
LARGE_OUT = """#!/usr/bin/python3
import json, sys
number = json.load(open(sys.argv[2]))["number"]
one = '{"zarr_url": "/data/plate.zarr/%07d", "types": {"is_3D": true}}'
with open(sys.argv[4], "w") as out:
    out.write('{"image_list_updates": [')
    out.write(", ".join(one % n for n in range(1_000_000 if number == 1 else 880_000)))
    out.write("]}")
"""


class TestLargeResults:
    def test_come_home_up_to_the_limit_in_bounded_memory(self, call: Call) -> None:
        call.config(mem="1500M", batching=ONE_JOB)
        limit = ["prlimit", "--as=1500000000"]
        argv = [*limit, *call.argv(*call.run_arguments(call.spec(call.script(LARGE_OUT), 2)))]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        outcome = json.loads(done.stdout)
        assert outcome["succeeded"] == 1
        (failure,) = outcome["failures"]
        assert re.fullmatch(r"the out-JSON has [67]\d{7} bytes; allowed are 64000000", failure["reason"])
        # Each task is one line of the report.
        with subprocess.Popen(
            [*limit, *call.argv("report", call.run_id(), "--json")], stdout=subprocess.PIPE
        ) as report:
            assert report.stdout is not None
            lines = [(len(line), line[-160:]) for line in report.stdout if b"image_list_updates" in line]
        assert report.returncode == 0
        ((size, end),) = lines
        assert size > 59_000_000
        assert b'"/data/plate.zarr/0879999", "types"' in end


class TestTasksThatFail:
    def test_reports_exit_codes_signals_and_the_end_of_the_log(self, call: Call) -> None:
        task = call.script(
            "#!/bin/sh\n"
            'n=$(sed "s/[^0-9]//g" "$2")\n'
            'echo "now $n" >&2\n'
            '[ "$n" = 3 ] && exit 7\n'
            '[ "$n" = 5 ] && kill -SEGV $$\n'
            "exit 0\n"
        )
        outcome = call.run(call.spec(task, 10))
        assert outcome.code == 1
        assert (outcome["succeeded"], outcome["failed"]) == (8, 2)
        third, fifth = outcome["failures"]
        assert (third["index"], third["reason"], third["exit_code"], third["log_tail"]) == (
            3,
            "exit code 7",
            7,
            "now 3\n",
        )
        assert (fifth["index"], fifth["reason"], fifth["signal"]) == (5, "ended by signal 11 (SIGSEGV)", 11)

    def test_a_command_that_is_not_there(self, call: Call) -> None:
        outcome = call.run(call.spec("/no/such/command --x", 3))
        assert outcome.code == 1
        assert outcome["failed"] == 3
        assert "/no/such/command can't be started: No such file" in outcome["failures"][0]["reason"]

    @pytest.mark.parametrize(
        ("write", "reason"),
        [
            ('printf "{nope" > "$4"', "the out-JSON is no JSON"),
            ('head -c 2000000 /dev/zero > "$4"', "the out-JSON has 2000000 bytes; allowed are 1000000"),
            ('mkdir "$4"', "the out-JSON can't be read"),
        ],
        ids=["no JSON", "too large", "a folder"],
    )
    def test_a_bad_out_json_is_the_tasks_failure(self, call: Call, write: str, reason: str) -> None:
        call.env["FRACTAL_SLURM_MAX_OUT_BYTES"] = "1000000"
        task = call.script(f'#!/bin/sh\ngrep -q 2 "$2" && {write}\nexit 0\n')
        outcome = call.run(call.spec(task, 4))
        assert outcome.code == 1
        assert [(failure["index"], reason in failure["reason"]) for failure in outcome["failures"]] == [(2, True)]
        assert outcome["succeeded"] == 3

    def test_a_task_over_its_time_is_ended_and_the_next_begins(self, call: Call) -> None:
        # Deaf to SIGTERM, and with a child: the whole process group goes. 4 tasks in one slot.
        task = call.script('#!/bin/sh\ngrep -q 1 "$2" || exit 0\ntrap "" TERM\nsleep 1000 &\nwait\nsleep 1000\n')
        call.config(
            time="00:00:02",
            batching={"target_cpus_per_job": 1, "max_cpus_per_job": 1, "max_num_jobs": 1, "target_num_jobs": 1},
        )
        outcome = call.run(call.spec(task, 4))
        assert outcome.code == 1
        assert outcome["succeeded"] == 3
        assert outcome["failures"][0]["reason"] == "over its time of 2 s"

    def test_tries_a_failed_task_again_on_request(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_MAX_RETRIES"] = "2"
        marks = call.work(ANNA)
        task = call.script(
            f'#!/bin/sh\nn=$(sed "s/[^0-9]//g" "$2")\nm={marks}/mark-$n\n'
            '[ "$n" = 1 ] || exit 0\necho x >> $m\n[ $(wc -l < $m) = 3 ] || exit 1\n'
        )
        outcome = call.run(call.spec(task, 4))
        assert outcome.code == 0, outcome.stdout
        assert [task["attempt"] for task in call.report()["tasks"]] == [0, 2, 0, 0]

    def test_an_extra_line_that_fails_is_told_with_what_it_printed(self, call: Call) -> None:
        call.config(extra_lines=["echo 'no such module' >&2; exit 9"])
        outcome = call.run(call.spec("true", 3))
        assert outcome.code == 1
        assert outcome["failed"] == 3
        assert "failed before its first task started (NonZeroExitCode, exit 9:0)" in outcome["failures"][0]["reason"]
        assert "it printed: no such module" in outcome["failures"][0]["reason"]


class TestRefusals:
    def test_a_user_who_is_not_allowed(self, call: Call) -> None:
        outcome = call.run(call.spec("true", 3), EVE)
        assert outcome.code == 3
        assert len(outcome.document["errors"]) == 1
        assert EVE in outcome.document["errors"][0]
        assert "FRACTAL_IMPERSONATE_USERS" in outcome.document["errors"][0]
        assert not live_jobs()

    def test_a_user_who_lost_the_right_while_jobs_wait(self, call: Call) -> None:
        grant(f"{ANNA}, %{GROUP}", commands=f"{BASE}/bin/scancel")
        try:
            outcome = call.run(call.spec("true", 3))
        finally:
            grant(f"{ANNA}, %{GROUP}")
        assert outcome.code == 3
        assert f"{BASE}/bin/sbatch as {ANNA}" in outcome.document["errors"][0]

    @pytest.mark.parametrize(
        "user",
        ["root", "#0", "-u", "no one", "fst-nobody", pytest.param(f"{ANNA}\n{EVE}", id="two lines")],
    )
    def test_names_that_are_no_ordinary_user(self, call: Call, user: str) -> None:
        outcome = call(
            "run", call.spec("true", 1), f"--user={user}", "--cache-dir=/c", f"--work-dir={call.work(ANNA)}", "--json"
        )
        assert outcome.code in (2, 3)
        assert "Traceback" not in outcome.stderr

    def test_a_wrong_config_spec_and_meta_are_told_together_and_nothing_is_written(self, call: Call) -> None:
        call.config(mem="1.5G", partitoin="main", time=36000)
        spec = call.folder / "spec.json"
        spec.write_text('{"task": {"name": "x", "comand": "true"}, "parameters": []}')
        outcome = call.run(str(spec))
        assert outcome.code == 2
        errors = "\n".join(outcome.document["errors"])
        for part in ("$.default_slurm_config.mem", "did you mean 'partition'", "YAML reads 10:00:00 as 36000",
                     "did you mean 'command'", "$.parameters: is empty"):  # fmt: skip
            assert part in errors
        assert outcome.stderr.count("error: ") == len(outcome.document["errors"])
        assert not (call.folder / "state/runs").exists()
        assert not list(call.work(ANNA).iterdir())

    def test_a_partition_that_does_not_exist(self, call: Call) -> None:
        call.config(partition="mian")
        outcome = call.run(call.spec("true", 1))
        assert outcome.code == 3
        assert outcome.document["errors"] == [
            "the partition 'mian' (from default_slurm_config) does not exist; there are main, short"
        ]

    def test_more_time_than_the_partition_allows(self, call: Call) -> None:
        call.config(partition="short", time="00:05:00")
        outcome = call.run(call.spec("true", 1))
        assert outcome.code == 3
        assert "the partition 'short' allows 00:01:00 (MaxTime)" in outcome.document["errors"][0]

    def test_what_slurm_refuses_is_told_in_its_words(self, call: Call) -> None:
        call.config(constraint="no-such-feature")
        outcome = call.run(call.spec("true", 3))
        assert outcome.code == 3
        assert "Invalid feature specification" in outcome.stderr
        assert outcome["not_run"] == 3

    def test_a_work_folder_that_the_user_can_not_write(self, call: Call) -> None:
        outcome = call("run", call.spec("true", 1), "--user", ANNA, "--cache-dir=/c", "--work-dir=/root/work", "--json")
        assert outcome.code == 3
        assert f"{ANNA} can't make the folder /root/work/" in outcome.document["errors"][0]


def test_the_script_with_the_args_is_hidden_from_other_users(call: Call) -> None:
    process = call.begin(call.spec(call.script("#!/bin/sh\nsleep 3\n"), 4))
    job = wait_for(live_jobs)[0]
    asked = subprocess.run(
        ["setpriv", f"--reuid={SERVICE}", f"--regid={SERVICE}", "--init-groups",
         BASE / "bin/scontrol", "write", "batch_script", job, "-"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Invalid user id" in asked.stderr
    assert "number" not in asked.stdout
    assert process.wait(60) == 0


def test_the_servers_own_limits_and_umask_do_no_harm(call: Call) -> None:
    task = call.script('#!/bin/sh\nprintf \'{"files": %s}\' "$(ulimit -Sn)" > "$4"\n')
    argv = ["prlimit", "--nofile=200:200", *call.argv(*call.run_arguments(call.spec(task, 4)))]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, umask=0o077)
    assert result.returncode == 0, result.stderr
    files = [task["result"]["files"] for task in call.report()["tasks"]]
    assert len(files) == 4
    assert 200 not in files
