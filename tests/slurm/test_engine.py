# SPDX-License-Identifier: BSD-3-Clause
"""The engine inside of a program, as fractal-server's adapter uses it."""

from __future__ import annotations

import json
import subprocess

import pytest
from conftest import ANNA, BEN, RUNTIME, Call, live_jobs

PRELUDE = """
import json, os, sys, time
from fractal_slurm.api import Engine, FractalSlurmError, RunRequest, SlurmConfig
def request(command, tasks, *, per_job=2, **changes):
    config = SlurmConfig(
        partition="main", cpus_per_task=1, mem_per_task_MB=100, job_name="a task", target_cpus_per_job=4,
        max_cpus_per_job=4, target_mem_per_job=400, max_mem_per_job=400, target_num_jobs=9, max_num_jobs=9,
        tasks_per_job=per_job, parallel_tasks_per_job=2, time="00:01:00", extra_lines=["export SEEN=yes"],
    )
    values = dict(user={user!r}, task_name="a task", command=command, config=config, cache_dir={work!r},
        parameters=[{{"n": n}} for n in range(tasks)], work_dir={work!r}, labels={{"job": 7}})
    return RunRequest(**{{**values, **changes}})
"""


def run_python(call: Call, body: str, *, code: int = 0) -> object:
    """Run a program as the service account; returns the JSON that it prints."""
    program = PRELUDE.format(user=ANNA, work=str(call.work(ANNA))) + body
    argv = call.argv("unused")
    argv[argv.index(str(RUNTIME / "bin/fractal-slurm")) :] = [str(RUNTIME / "bin/python"), "-c", program]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout or "null")


LONG = 'head -c 6000 /dev/zero | tr "\\0" x\n'
ECHO = f'#!/bin/sh\n{LONG}echo "$SEEN $(cat $2)"\ngrep -q 3 "$2" && exit 5\ncat "$2" > "$4"\n'


class TestEngine:
    def test_runs_what_is_decided_and_tells_of_each_end_and_log(self, call: Call) -> None:
        task = call.script(ECHO)
        found = run_python(
            call,
            f"""
ends = []
with Engine(max_runs=1) as engine:
    run = engine.start(request({task!r}, 5), on_task_end=ends.append)
    other = engine.start(request("true", 1))
    end, second = run.wait(60), other.wait(60)
    logs = run.logs([1, 3, 4, 99])
    stored = engine.stored()
print(json.dumps(dict(
    ends=sorted([e.index, e.state, e.exit_code, e.out, e.log_bytes, e.run_id == run.run_id] for e in ends),
    end=[end.state, end.succeeded, end.failed, len(end.job_ids), end.job_ids == run.job_ids()],
    second=[second.state, second.succeeded], sudo=end.sudo_calls,
    logs={{n: [len(log), log[-20:].decode().strip("x")] for n, log in logs.items()}},
    stored=[[s.user, dict(s.labels), s.has_ended, s.is_driven] for s in stored],
    script=run.script().splitlines(),
)))
""",
        )
        assert found["ends"] == [
            [n, "failed" if n == 3 else "succeeded", 5 if n == 3 else 0, None if n == 3 else {"n": n}, 6012, True]
            for n in range(5)
        ]
        assert found["end"] == ["done", 4, 1, 3, True]
        assert found["second"] == ["done", 1]
        assert found["sudo"] <= 3 * 3
        assert {"export SEEN=yes", "#SBATCH --partition=main"} <= set(found["script"])
        assert not any(line.startswith(("#FRACTAL", "0\t")) for line in found["script"])
        assert found["logs"] == {str(n): [6012, f'yes {{"n":{n}}}\n'] for n in (1, 3, 4)}
        assert found["stored"] == [[ANNA, {"job": 7}, True, False]] * 2

    def test_finds_runs_again_of_a_process_that_died_and_loses_nothing(self, call: Call) -> None:
        task = call.script('#!/bin/sh\nsleep $(($(sed "s/[^0-9]//g" "$2") * 2))\ncp "$2" "$4"\n')
        run_python(
            call,
            f"""
engine = Engine()
run = engine.start(request({task!r}, 4), on_task_end=lambda end: os._exit(9))
run.wait()
""",
            code=9,
        )
        found = run_python(
            call,
            """
with Engine() as engine:
    before = [[s.has_ended, s.is_driven, dict(s.labels)] for s in engine.stored()]
    ends = []
    run = engine.resume(engine.stored()[0].run_id, on_task_end=ends.append)
    end = run.wait(60)
engine = Engine()
engine.set_labels(end.run_id, {"told": True})
again = []
engine.resume(end.run_id, on_task_end=again.append).wait(10)
print(json.dumps([before, end.state, sorted([e.index, e.out["n"]] for e in ends), len(again),
    [dict(s.labels) for s in engine.stored()]]))
""",
        )
        assert found == [
            [[False, False, {"job": 7}]],
            "done",
            [[n, n] for n in range(4)],
            4,
            [{"job": 7, "told": True}],
        ]

    @pytest.mark.parametrize("task_logs", ["joined", "separate"])
    def test_reads_what_running_tasks_have_printed(self, call: Call, task_logs: str) -> None:
        call.env["FRACTAL_SLURM_TASK_LOGS"] = task_logs
        task = call.script('#!/bin/sh\necho "begun $(cat $2)"\ngrep -q 0 "$2" || sleep 30\n')
        found = run_python(
            call,
            f"""
import threading
from fractal_slurm.sudo import Impersonator
calls, argv = [], Impersonator.argv
Impersonator.argv = lambda self, *args: calls.append(threading.get_ident()) or argv(self, *args)
engine = Engine()
run = engine.start(request({task!r}, 6, per_job=4))
end = time.monotonic() + 20
while time.monotonic() < end and (run.running() != [1, 2, 4, 5] or len(run.logs_so_far(range(6))) < 4):
    time.sleep(0.2)
calls.clear()
logs = run.logs_so_far(range(6))
many = [calls.count(threading.get_ident()), run.running(), {{n: log.decode() for n, log in logs.items()}}]
print(json.dumps([many, [(run.log_so_far(n, most_bytes=8) or b"").decode() for n in range(6)]]))
engine.shutdown("cancel", timeout=30)
""",
        )
        # the first has ended, and there is no room for the fourth
        (calls, running, logs), one_by_one = found
        assert (running, one_by_one) == ([1, 2, 4, 5], ["", 'begun {"', 'begun {"', "", 'begun {"', 'begun {"'])
        assert logs == {str(n): f'begun {{"n":{n}}}\n' for n in (1, 2, 4, 5)}
        assert calls <= 2  # tasks that do not run are asked for, too

    def test_leaves_runs_to_others_and_cancels_them(self, call: Call) -> None:
        task = call.script("#!/bin/sh\nsleep 60\n")
        found = run_python(
            call,
            f"""
engine = Engine(max_runs=1)
run, waits = engine.start(request({task!r}, 2)), engine.start(request({task!r}, 2))
while not run.job_ids():
    time.sleep(0.1)
states = [run.state, waits.state]
print_ = [engine.shutdown("leave", timeout=30), run.wait().state, waits.wait().state]
try:
    engine.start(request("true", 1))
except RuntimeError as error:
    print_.append(str(error))
engine = Engine()
handles = [engine.resume(s.run_id) for s in engine.stored()]
engine.shutdown("cancel", timeout=60)
print(json.dumps([states, print_, [h.wait().state for h in handles], [h.wait().not_run for h in handles]]))
""",
        )
        assert found[:3] == [
            ["running", "waiting"],
            [True, "left", "left", "the engine was shut down"],
            ["cancelled", "cancelled"],
        ]
        assert not live_jobs()

    def test_says_what_is_wrong_with_a_request_and_raises_what_a_listener_raised(self, call: Call) -> None:
        found = run_python(
            call,
            """
from dataclasses import replace
engine, good = Engine(), request("true", 1)
faults = []
for bad in (
    replace(good, config=replace(good.config, partition="a b", cpus_per_task=0, extra_lines=["#PBS -q x"])),
    replace(good, config=replace(good.config, partition="nowhere")),
    replace(good, parameters=[]),
    replace(good, parameters=[3]),
    replace(good, command="'"),
):
    try:
        engine.start(bad)
    except FractalSlurmError as error:
        faults.append(error.messages)
def listen(end):
    raise KeyError("told")
run = engine.start(good, on_task_end=listen)
try:
    run.wait(60)
except KeyError as error:
    faults.append(str(error))
told = []
def too_eager(end):
    try:
        eager.wait()
    except RuntimeError as error:
        told.append("can't go on while" in str(error))
    told.append(engine.shutdown("cancel"))
eager = engine.start(good, on_task_end=too_eager)
told += [eager.wait(60).state, engine.shutdown(timeout=60)]
print(json.dumps([faults, run.state, len(engine.stored()), told]))
""",
        )
        faults, state, stored, told = found
        assert told == [True, False, "done", True]
        places = sorted(message.split(": ")[1] for message in faults[0])
        assert places == ["$.cpus_per_task", "$.extra_lines[0]", "$.partition"]
        assert "'nowhere'" in faults[1][0]
        assert faults[2:4] == [
            ["$.parameters: is empty: give one parameter set for each task"],
            ["$.parameters[0]: found 3; an object is allowed"],
        ]
        assert "can't be split" in faults[4][0]
        assert faults[5] == "'told'"
        assert (state, stored) == ("done", 2)


MANY = """
import threading
began, most = time.monotonic(), 0
with Engine() as engine:
    runs = [engine.start(request({task!r}, 2, per_job=1, user=user, work_dir=work))
            for _number in range(6) for user, work in {places!r}]
    while not all(run.has_ended() for run in runs):
        time.sleep(0.05)
        most = max(most, threading.active_count())
    calls, took = engine.squeue_calls(), time.monotonic() - began
print(json.dumps([[run.wait().succeeded for run in runs], most, calls, took]))
"""

ONE_CAT = """
import pathlib
from fractal_slurm.sudo import Impersonator
read, cats = Impersonator._read, []
def _read(self, user, command, *rest):
    cats.append(command)
    return read(self, user, command, *rest)
Impersonator._read = _read
def running(run):
    with engine.open(run.run_id) as journal:
        return [job.slurm_state for job in journal.jobs()] == ["RUNNING"]
with Engine() as engine:
    runs = [engine.start(request({task!r}, 1, user={user!r}, work_dir={work!r})) for _number in range(6)]
    while not all(map(running, runs)):
        time.sleep(0.05)
    cats.clear()
    pathlib.Path({gate!r}).touch()
    succeeded = [run.wait(120).succeeded for run in runs]
print(json.dumps([succeeded, cats.count("cat")]))
"""

FAIR = """
from dataclasses import replace
config = replace(request("true", 1).config, tasks_per_job=1, target_num_jobs=40, max_num_jobs=40)
with Engine() as engine:
    (first, work), (second, other) = {places!r}
    runs = [engine.start(request("true", 40, user=first, work_dir=work, config=config))]
    while not runs[0].job_ids():
        time.sleep(0.02)
    runs.append(engine.start(request("true", 3, user=second, work_dir=other, config=config)))
    for run in runs:
        run.wait(120)
    times = []
    for run in runs:
        with engine.open(run.run_id) as journal:
            times.append([job.submitted_at for job in journal.jobs()])
print(json.dumps(times))
"""


class TestManyRuns:
    def test_share_squeue_and_threads(self, call: Call) -> None:
        task = call.script('#!/bin/sh\nsleep 1\ncp "$2" "$4"\n')
        places = [(user, str(call.work(user))) for user in (ANNA, BEN)]
        succeeded, most, calls, took = run_python(call, MANY.format(task=task, places=places))
        assert succeeded == [2] * 12
        # Two users have a turn each at a time, and a thread each that just ended one. One waits for the next, and one
        # is the main one. That is not one a run.
        assert most <= 2 * 2 + 1 + 1
        # As often as one run by itself would ask: once a second at first, then less.
        assert calls <= took + 3

    def test_of_a_user_are_read_in_one_call(self, call: Call) -> None:
        gate = call.folder / "gate" / "open"
        gate.parent.mkdir()
        gate.parent.chmod(0o777)  # the service account opens it
        task = call.script(f'#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.1; done\ncp "$2" "$4"\n')
        succeeded, cats = run_python(
            call, ONE_CAT.format(task=task, user=ANNA, work=str(call.work(ANNA)), gate=str(gate))
        )
        assert succeeded == [1] * 6
        # Each run by itself needs one. Some jobs may end after the first look, and some that run may be looked at.
        assert cats <= 4

    def test_of_a_user_with_few_jobs_are_not_behind_those_of_one_with_many(self, call: Call) -> None:
        places = [(user, str(call.work(user))) for user in (ANNA, BEN)]
        big, small = run_python(call, FAIR.format(places=places))
        assert (len(big), len(small)) == (40, 3)
        # The first turns of the small one come while the big one submits.
        assert sum(at < max(small) for at in big) <= 32
