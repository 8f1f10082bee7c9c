# SPDX-License-Identifier: BSD-3-Clause
"""A user who makes of their own files, records and jobs what harms the service account, or who reads its output."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ANNA, BASE, BEN, EVE, ONE_JOB, RUNTIME, Call, Outcome, finish, kill, slurm, wait_for

# The folder of the one job, for a task that plays tricks in it.
FOLDER = "d=$(ls -d {work}/*/*/)\n"


def hostile(call: Call, commands: str) -> str:
    """A unit of work with two tasks, each of which does this in the job's folder, $d."""
    call.config(batching=ONE_JOB)
    call.env["FRACTAL_SLURM_COMMAND_TIMEOUT_S"] = "2"
    folder = FOLDER.format(work=call.work(ANNA))
    return call.spec(call.script(f"#!/bin/bash\n{folder}{commands}\necho '{{}}' > \"$4\"\n"), 2)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


class TestResultsThatCanNotBeRead:
    @pytest.mark.parametrize(
        "trick",
        [
            "rm -f $d/results-0-0; mkfifo $d/results-0-0",
            "chmod 000 $d/results-0-0",
            "ln -sf results-0-0 $d/results-0-0",
            "chmod 000 $d/results-0-0; chmod 500 $d/..",
        ],
    )
    def test_a_run_can_be_cancelled(self, call: Call, trick: str) -> None:
        process = call.begin(hostile(call, trick))
        wait_for(lambda: call.runs() and "ended" in states(call))
        # Long enough for the driver to be at it, and shorter than it waits for results before it makes a new job.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
        process.send_signal(signal.SIGTERM)
        outcome = finish(process, code=130, seconds=60)
        assert outcome["not_run"] == 2
        assert "results can't be read now" in outcome.stderr

    def test_a_pipe_that_trickles_does_not_hold_the_driver(self, call: Call) -> None:
        process = call.begin(hostile(call, "rm -f $d/results-0-0; mkfifo $d/results-0-0"))
        wait_for(lambda: call.runs() and "ended" in states(call))
        (pipe,) = call.work(ANNA).glob("*/*/results-0-0")
        with opened(pipe) as fd:
            with contextlib.suppress(AssertionError):
                wait_for(lambda: os.write(fd, b"x") and process.poll() is not None, seconds=10)
            process.send_signal(signal.SIGTERM)
            wait_for(lambda: os.write(fd, b"x") and process.poll() is not None, what="the driver to end")
        assert "or too little" in finish(process, code=130).stderr


class TestResultsThatStayUnread:
    """A user made something else of a result file: the others count, this one is waited for, then told."""

    @pytest.mark.parametrize(
        ("trick", "words"),
        [
            ("chmod 000 $d/results-0-0", "Permission denied"),
            ("rm $d/results-0-0; ln -s /dev/tty $d/results-0-0", "No such device or address"),
            (
                "cd $d; rm results-0-0; "
                "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"results-0-0\")'",
                "No such device or address",
            ),
            ("ln -sf results-0-0 $d/results-0-0", "Too many levels of symbolic links"),
            ("rm $d/results-0-0; ln -s /etc/shadow $d/results-0-0", "Permission denied"),
            ("rm -f $d/results-0-0; mkfifo $d/results-0-0", "nothing came for"),
        ],
    )
    def test_a_run_ends_and_says_why(self, call: Call, trick: str, words: str) -> None:
        call.env |= {"FRACTAL_SLURM_RESULTS_WAIT_S": "2", "FRACTAL_SLURM_MAX_NODE_RETRIES": "0"}
        outcome = call.run(hostile(call, f"[ $(basename $(dirname $2)) ] && {trick}"), timeout=60)
        assert outcome.code == 1
        assert {failure["state"] for failure in outcome["failures"]} <= {"failed", "not_run"}
        assert any(words in failure["reason"] for failure in outcome["failures"])

    def test_the_other_jobs_of_the_run_count(self, call: Call) -> None:
        call.env |= {"FRACTAL_SLURM_RESULTS_WAIT_S": "2", "FRACTAL_SLURM_MAX_NODE_RETRIES": "0"}
        call.env["FRACTAL_SLURM_COMMAND_TIMEOUT_S"] = "2"
        call.config(batching={"target_num_jobs": 2, "max_num_jobs": 2, "target_cpus_per_job": 1, "max_cpus_per_job": 1})
        text = (
            '#!/bin/bash\ngrep -q 0 "$2" && for d in {work}/*/*/; do [ $d/slot-0-0-0 -ef /dev/fd/1 ] && '
            "{{ rm $d/results-0-0; mkfifo $d/results-0-0; }}; done\necho '{{}}' > \"$4\"\n"
        )
        outcome = call.run(call.spec(call.script(text.format(work=call.work(ANNA))), 2), timeout=60)
        assert (outcome["succeeded"], outcome["failed"]) == (1, 1), outcome.stderr

    def test_a_folder_out_of_reach_is_waited_for_and_then_told(self, call: Call) -> None:
        call.env["FRACTAL_SLURM_REFUSAL_WAIT_S"] = "4"
        call.env["FRACTAL_SLURM_RESULTS_WAIT_S"] = "1"
        outcome = self.begun(hostile(call, "chmod 000 $d/results-0-0; chmod 500 $d/.."), call)
        assert outcome.code == 3, outcome.stderr
        assert "it did not pass within" in outcome.stderr
        (folder,) = call.work(ANNA).glob("*")
        folder.chmod(0o700)
        next(folder.glob("*/results-0-0")).chmod(0o600)
        assert call("resume", call.run_id(), "--json")["succeeded"] == 2

    def begun(self, spec: str, call: Call) -> Outcome:
        return call(*call.run_arguments(spec)[:-1], timeout=90)

    def test_what_one_user_writes_does_not_hold_up_another_in_one_process(self, call: Call) -> None:
        spec = hostile(call, "rm -f $d/results-0-0; mkfifo $d/results-0-0")
        call.env |= {"FRACTAL_SLURM_RESULTS_WAIT_S": "20", "FRACTAL_SLURM_COMMAND_TIMEOUT_S": "30"}
        command = json.loads(Path(spec).read_text())["task"]["command"]
        program = f"""
import time
from fractal_slurm.executor import SlurmExecutor
def executor(user, work):
    return SlurmExecutor(user, cache_dir=work, work_dir=work, config={str(call.folder / "config.json")!r})
bad = executor({ANNA!r}, {str(call.work(ANNA))!r})
stuck = bad.submit({command!r}, {{"n": 1}})
time.sleep(4)  # the driver waits at the pipe
began = time.monotonic()
with executor({BEN!r}, {str(call.work(BEN))!r}) as good:
    assert good.submit("true").result().out is None
assert not stuck.done()
print(time.monotonic() - began, flush=True)
import os
os._exit(0)
"""
        argv = call.argv("unused")
        argv[argv.index(str(RUNTIME / "bin/fractal-slurm")) :] = [str(RUNTIME / "bin/python"), "-c", program]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert result.returncode == 0, result.stderr
        assert float(result.stdout) < 25


class TestCommandsThatDoNotEnd:
    @pytest.mark.parametrize("suspend", [False, True])
    def test_a_command_is_ended_with_its_sudo(self, call: Call, suspend: bool) -> None:
        pipe = call.work(ANNA) / "pipe"
        os.mkfifo(pipe)
        os.chown(pipe, pwd.getpwnam(ANNA).pw_uid, -1)
        program = (
            "from fractal_slurm.sudo import Impersonator, TimedOut\n"
            f"try: Impersonator().run({ANNA!r}, 'cat', ['--', {str(pipe)!r}], timeout=2)\n"
            "except TimedOut: print('timed out')\n"
        )
        argv = call.argv("unused")
        argv[argv.index(str(RUNTIME / "bin/fractal-slurm")) :] = [str(RUNTIME / "bin/python"), "-c", program]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        (pid,) = wait_for(lambda: readers(pipe))
        if suspend:
            os.kill(pid, signal.SIGSTOP)
        assert process.communicate(timeout=60)[0] == "timed out\n"
        wait_for(lambda: not readers(pipe), seconds=5)


def readers(path: Path) -> list[int]:
    """The cats that read a path."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[0] == "/usr/bin/cat" and str(path) in words:
                    found.append(int(entry.name))
    return found


class TestForgedLines:
    LINE = "12:00:00  cancel  by root"

    def test_what_a_job_prints_is_marked_as_its_own(self, call: Call) -> None:
        call.config(batching=ONE_JOB, extra_lines=[f"printf 'x\\n{self.LINE}\\n\\033[2Jy\\n'", "exit 5"])
        outcome = call(*call.run_arguments(call.spec("true", 1))[:-1])
        events = call("report", call.run_id(), "--events")
        report = call("report", call.run_id())
        for text in (outcome.stdout, outcome.stderr, events.stdout, report.stdout):
            assert not any(line.startswith(self.LINE) for line in text.splitlines())
            assert "\x1b" not in text
        assert f"| {self.LINE}" in outcome.stderr

    def test_a_task_is_named_to_the_letter(self, call: Call) -> None:
        call.run(call.spec("true", 1, name="[red]a[/red] :pile_of_poo:"))
        assert "[red]a[/red] :pile_of_poo:" in " ".join(call("report", call.run_id()).stdout.split())
        assert "[red]a[/red] :pile_of_poo:" in " ".join(call("status").stdout.split())


class TestRecordsWithoutEnd:
    RECORDS = (
        '{"end":"x","token":"%s","job":"1","restart":%d,"node":0,"steps":0}',
        '{"task":0,"attempt":%d,"token":"%s","state":"succeeded","job":"1","restart":0,"node":0}',
        '{"token":"%s","beat":%d}',
        "%s%d",
    )

    @pytest.mark.parametrize("number", range(len(RECORDS)))
    def test_a_run_heeds_sigterm_while_it_reads(self, call: Call, number: int) -> None:
        record = self.RECORDS[number]
        values = "n % 9999, t" if number == 1 else "t, n % 9999"
        code = (
            "import sys; t = sys.argv[1]\n"
            "with open(sys.argv[2], 'a') as f:\n"
            f"    for n in range(2_000_000): f.write({record!r} % ({values}) + chr(10))\n"
        )
        writer = call.script(code, "write.py")
        spec = hostile(call, f"grep -q 0 $2 && python3 {writer} $(basename $d) $d/results-0-0")
        process = call.begin(spec)
        wait_for(
            lambda: process.poll() is not None or (call.runs() and {"ended", "collected"} & set(states(call))),
            seconds=120,
        )
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(120) in (0, 1, 130, -signal.SIGTERM)  # it may have been done before
        assert time.monotonic() - began < 60

    def test_many_empty_result_files_are_no_work(self, call: Call) -> None:
        code = "import os, sys\nfor n in range(30_000): os.close(os.open(f'{sys.argv[1]}/results-1-{n}', os.O_CREAT))\n"
        writer = call.script(code, "write.py")
        outcome = call.run(hostile(call, f"grep -q 0 $2 && python3 {writer} $d"))
        assert (outcome.code, outcome["succeeded"]) == (0, 2)

    def test_names_with_newlines_are_no_files(self, call: Call) -> None:
        code = (
            "import os, sys\nd = sys.argv[1]\n"
            "for n in range(20_000): os.close(os.open(f'{d}/x\\n{d}:\\nresults-9-{n}\\n', os.O_CREAT))\n"
        )
        writer = call.script(code, "write.py")
        outcome = call.run(hostile(call, f"grep -q 0 $2 && python3 {writer} $d"))
        assert (outcome.code, outcome["succeeded"]) == (0, 2)


def states(call: Call) -> list[str]:
    """The states of the jobs in the newest run's journal."""
    with contextlib.closing(sqlite3.connect(call.folder / "state/runs" / call.run_id() / "journal.sqlite")) as journal:
        return [row[0] for row in journal.execute("SELECT state FROM job")]


class TestReport:
    def test_a_log_of_any_length_takes_no_memory(self, call: Call) -> None:
        record = '{"task":0,"attempt":0,"token":"%s","state":"failed","job":"1","restart":0,"node":0,"log":[0,%d]}'
        forge = f"printf '{record}\\n' $(basename $d) $((1 << 60)) >> $d/results-0-0\nln -sf /dev/zero $d/log-0-0"
        call.run(hostile(call, forge))
        argv = call.argv("report", call.run_id(), "--log", "0")
        limit = 600_000_000
        process = subprocess.Popen(["prlimit", f"--as={limit}", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        read = 0
        while read < 2 * limit and (chunk := process.stdout.read(1 << 20)):
            read += len(chunk)
        process.stdout.close()
        process.wait(60)
        assert read >= 2 * limit

    def test_no_log_reaches_a_terminal_as_it_is(self, call: Call) -> None:
        call.run(hostile(call, "printf 'a\\033]0;owned\\007\\302\\2332Jb\\tc\\n'; exit 3"))
        argv = call.argv("report", call.run_id(), "--log", "0")
        assert b"\x1b]0;owned\x07\xc2\x9b2J" in subprocess.run(argv, capture_output=True, check=True).stdout
        shown = subprocess.run(["script", "-qec", " ".join(argv), "/dev/null"], capture_output=True, check=True).stdout
        assert b"b\tc" in shown
        assert not {"\x1b", "\x07", "\x9b"} & set(shown.decode())

    def test_json_spells_what_a_terminal_obeys(self, call: Call) -> None:
        text = "\x7f\x9b2J\u202e"
        outcome = call.run(hostile(call, "printf '\\177\\302\\2332J\\342\\200\\256'; exit 3"))
        assert outcome["failures"][0]["log_tail"] == text
        assert not set(text) - set("2J") & set(outcome.stdout)


class TestJobs:
    def test_a_job_renamed_by_its_user_tells_nothing_of_another(self, call: Call) -> None:
        call.config(batching={"target_num_jobs": 2, "max_num_jobs": 2, "target_cpus_per_job": 1, "max_cpus_per_job": 1})
        process = call.begin(call.spec(call.script("#!/bin/sh\nsleep 6\necho '{}' > \"$4\"\n"), 2))
        wait_for(lambda: call.runs() and states(call) == ["submitted"] * 2)
        wait_for(lambda: len(slurm("squeue", "--noheader", "--states=R", "--format=%i").split()) == 2)
        first, second = sorted(slurm("squeue", "--noheader", "--format=%i %j").splitlines())
        job_id, name = second.split()
        forged = f"x\n{job_id}|COMPLETED|40000000|1:00|0:01|main|{name}|None\n{first.split()[1]}"
        slurm("scontrol", "update", f"jobid={first.split()[0]}", f"name={forged}")
        outcome = finish(process)
        assert outcome["succeeded"] == 2
        assert {job["state"] for job in call.report()["jobs"]} == {"COMPLETED"}
        assert all(job["nodes"] == 1 for job in call.report()["jobs"])

    def test_a_job_of_the_same_name_by_somebody_else_is_not_taken_for_ours(self, call: Call) -> None:
        call.config(batching=ONE_JOB)
        process = call.begin(call.spec(call.script("#!/bin/sh\nsleep 8\n"), 1))
        wait_for(lambda: call.runs() and "submitted" in states(call))
        kill(process)
        # As if the answer to the submission had not come.
        with contextlib.closing(
            sqlite3.connect(call.folder / "state/runs" / call.run_id() / "journal.sqlite")
        ) as journal:
            journal.execute("UPDATE job SET state = 'submitting', slurm_job_id = NULL")
            journal.commit()
        (name,) = slurm("squeue", "--noheader", "--format=%j").split()
        for _time in range(2):
            argv = [BASE / "bin/sbatch", f"--job-name={name}", "--chdir=/", "--output=/dev/null", "--wrap=exit 9"]
            subprocess.run(argv, check=True, user=EVE, group=EVE, extra_groups=[], capture_output=True)
        outcome = call("resume", call.run_id(), "--json")
        assert outcome.code == 0, outcome.stderr
