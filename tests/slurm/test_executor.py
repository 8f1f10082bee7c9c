# SPDX-License-Identifier: BSD-3-Clause
"""SlurmExecutor, as the service's own Python uses it."""

from __future__ import annotations

import json
import sqlite3
import subprocess

from conftest import ANNA, RUNTIME, Call, live_jobs

PRELUDE = """
import json, sys, time
from concurrent.futures import as_completed, wait
from fractal_slurm.executor import SlurmExecutor, TaskFailed
def executor(**options):
    return SlurmExecutor({user!r}, cache_dir={work!r}, work_dir={work!r}, config={config!r}, **options)
"""


def run_python(call: Call, body: str) -> object:
    """Run a program as the service account; returns the JSON that it prints."""
    work = str(call.work(ANNA))
    program = PRELUDE.format(user=ANNA, work=work, config=str(call.folder / "config.json")) + body
    argv = call.argv("unused")
    argv[argv.index(str(RUNTIME / "bin/fractal-slurm")) :] = [str(RUNTIME / "bin/python"), "-c", program]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


ECHO = '#!/bin/sh\necho "log of $(cat $2)"\ngrep -q bad "$2" && exit 5\ncat "$2" > "$4"\n'


class TestSlurmExecutor:
    def test_map_gives_results_in_order_in_few_jobs(self, call: Call) -> None:
        task = call.script(ECHO)
        found = run_python(
            call,
            f"""
with executor(window_s=1) as e:
    results = list(e.map({task!r}, ({{"n": n}} for n in range(40))))
print(json.dumps([[r.out["n"] for r in results], len({{r.run_id for r in results}}), results[0].log_tail]))
""",
        )
        assert found == [list(range(40)), 1, 'log of {"n":0}\n']

    def test_a_task_that_fails_raises_with_its_log(self, call: Call) -> None:
        task = call.script(ECHO)
        found = run_python(
            call,
            f"""
with executor(meta={{"cpus_per_task": 2, "time": "00:03:00"}}) as e:
    good, bad = e.submit({task!r}, {{"n": 1}}), e.submit([{task!r}], {{"n": "bad"}})
try:
    bad.result()
except TaskFailed as error:
    print(json.dumps([good.result().out, error.exit_code, str(error)]))
""",
        )
        assert found == [{"n": 1}, 5, 'exit code 5\nlog of {"n":"bad"}']
        call.script(ECHO.replace("exit 5", "true"))
        run_id = call.run_id()
        retry = call("retry", run_id, "--time", "00:04:00", "--json")
        assert (retry.code, retry["tasks"], retry["succeeded"]) == (0, 1, 1)
        assert "the new run has its options" in retry.stderr
        with sqlite3.connect(call.folder / "state/runs" / retry["run_id"] / "journal.sqlite") as journal:
            record = {key: json.loads(value) for key, value in journal.execute("SELECT key, value FROM run")}
        assert (record["config"]["cpus_per_task"], record["config"]["time"]) == (2, "00:04:00")
        assert (record["retry_of"], record["retry_tasks"]) == (run_id, [1])

    def test_futures_end_as_their_tasks_do_and_not_only_with_the_run(self, call: Call) -> None:
        task = call.script('#!/bin/sh\nsleep $(sed "s/[^0-9]//g" "$2")\necho 1 > "$4"\n')
        call.config(batching={"target_num_jobs": 8, "max_num_jobs": 8, "target_cpus_per_job": 1, "max_cpus_per_job": 1})
        found = run_python(
            call,
            f"""
with executor() as e:
    slow, fast = e.submit({task!r}, {{"s": 9}}), e.submit({task!r}, {{"s": 0}})
    fast.result()
    print(json.dumps([slow.done(), slow.running()]))
""",
        )
        assert found == [False, True]

    def test_what_was_not_handed_over_yet_can_be_cancelled(self, call: Call) -> None:
        found = run_python(
            call,
            """
e = executor(window_s=30)
future = e.submit("true")
print(json.dumps([future.cancel(), future.cancelled()]))
e.shutdown()
try:
    e.submit("true")
except RuntimeError:
    pass
else:
    raise SystemExit("a task was taken after shutdown")
""",
        )
        assert found == [True, True]

    def test_cancel_ends_jobs_that_run(self, call: Call) -> None:
        found = run_python(
            call,
            f"""
e = executor()
futures = [e.submit({call.script("#!/bin/sh" + chr(10) + "sleep 60" + chr(10))!r}) for _ in range(4)]
time.sleep(3)
e.cancel()
wait(futures, timeout=60)
print(json.dumps(["cancelled" in str(f.exception()) for f in futures]))
""",
        )
        assert found == [True] * 4
        assert not live_jobs()

    def test_what_can_not_start_raises_in_every_future(self, call: Call) -> None:
        call.config(partition="nowhere")
        found = run_python(
            call,
            """
with executor() as e:
    futures = [e.submit("true") for _ in range(3)]
print(json.dumps([str(f.exception()) for f in futures]))
""",
        )
        assert len(set(found)) == 1
        assert "'nowhere'" in found[0]
