# SPDX-License-Identifier: BSD-3-Clause
"""fractal-server's own job scripts, recorded from its releases, on a real SLURM: with the hook in them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ANNA, BASE, REPO, RUNTIME, WORK, Call, live_jobs, slurm, wait_for

RECORDED = REPO / "tests/runtime/recorded/server_scripts"
REMOTE = "fractal_server.runner.executors.slurm_common.remote"
# What a task sees: who started it, its variables, and where it is.
TASK = """#!/bin/sh
n=$(sed "s/[^0-9]//g" "$2")
echo "task $n on ${SLURMD_NODENAME-}: $(tr '\\0' ' ' < /proc/$PPID/cmdline | cut -c1-300)"
[ "$n" != 3 ] || exit 7
sleep SLEEP
echo "{\\"n\\": $n, \\"cache\\": \\"${FRACTAL_CACHE_DIR-}\\", \\"mine\\": \\"$MY_CACHE\\", \\"site\\": \\"$SITE\\",
 \\"step\\": \\"${SLURM_STEP_ID-none}\\", \\"threads\\": \\"${OMP_NUM_THREADS-}\\", \\"cwd\\": \\"$PWD\\"}" > "$4"
"""
# Stands in for fractal-server's own program, where the script runs as it was written.
OWN = """import json, sys
json.dump([True, "its own"], open(sys.argv[4], "w"))
"""


class Script:
    """A recorded script, in folders of a test's own.

    Args:
        call: The test.
        name: Version and kind of the recorded script.
        sleep: How long its tasks take, in seconds.
        lines: More #SBATCH lines.
        task: The text of its tasks. SLEEP and MARKS stand for ``sleep`` and a folder of the user.
        changes: Keys of all input files.
    """

    def __init__(
        self, call: Call, name: str, sleep: float = 0, lines: str = "", task: str = TASK, **changes: str
    ) -> None:
        self.local, home = call.folder / "jobs", call.work(ANNA)
        task = call.script(task.replace("SLEEP", str(sleep)).replace("MARKS", str(home)))
        text = (RECORDED / f"{name}.sbatch").read_text()
        document = (RECORDED / f"{name}.input.json").read_text()
        both = {
            "/srv/fractal/jobs": str(self.local), "/home/anna": str(home), "/opt/fractal-slurm": str(RUNTIME),
            "/opt/fractal-server/bin/python": "/usr/bin/python3", "/opt/tasks/bin/python /opt/tasks/measure.py": task,
        }  # fmt: skip
        for old, new in both.items():
            text, document = text.replace(old, new), document.replace(old, new)
        [workdir] = [line.split()[-1] for line in text.splitlines() if line.startswith("#SBATCH -D ")]
        self.folder = Path(workdir)
        self.as_user = ["setpriv", f"--reuid={ANNA}", f"--regid={ANNA}", "--clear-groups"]
        subprocess.run([*self.as_user, "mkdir", "-p", workdir], check=True)
        self.tasks = [line.split() for line in text.splitlines() if f" -m {REMOTE} " in line]
        for number, words in enumerate(self.tasks):
            path = Path(words[words.index("--input-file") + 1])
            path.parent.mkdir(parents=True, exist_ok=True)
            own = json.loads(document.replace("-0000000-", f"-{number:07d}-"))
            path.write_text(json.dumps({**own, **changes}))
            Path(own["full_command"].split()[own["full_command"].split().index("--args-json") + 1]).write_text(
                json.dumps({"number": number})
            )
        self.local.mkdir(exist_ok=True)
        own_program = self.folder / "fractal_server/runner/executors/slurm_common"
        own_program.mkdir(parents=True)
        (own_program / "remote.py").write_text(OWN)
        first, rest = text.split("\n", 1)
        self.path = self.local / "submit.sh"
        self.path.write_text(f"{first}\n{lines}{rest}")
        subprocess.run(["chmod", "-R", "a+rX", str(self.local)], check=True)
        self.job = ""

    def submit(self) -> None:
        argv = [*self.as_user, "env", "-i", f"PATH={BASE}/bin:/usr/bin:/bin", f"HOME={WORK}"]
        argv += [str(BASE / "bin/sbatch"), "--parsable", str(self.path)]
        self.job = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    def run(self) -> None:
        self.submit()
        self.wait()

    def wait(self) -> None:
        wait_for(lambda: self.job not in live_jobs(), what=f"job {self.job} to end")

    def outputs(self) -> list[Any]:
        """What fractal-server would read of each task; None where there is no file."""
        paths = [Path(words[words.index("--output-file") + 1]) for words in self.tasks]
        return [json.loads(path.read_text()) if path.exists() else None for path in paths]

    def printed(self) -> tuple[str, str]:
        """Output and error output of the job."""
        [out], [err] = (list(self.folder.glob(f"*-slurm-{self.job}.{end}")) for end in ("out", "err"))
        return out.read_text(), err.read_text()

    def state(self) -> str:
        return slurm("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={self.job}").strip()

    def logs(self) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.glob("*-log.txt"))]


@pytest.mark.parametrize("name", ["2.18.5-sudo", "2.26.0-ssh"])
def test_runs_the_tasks_in_the_slots_of_the_job(call: Call, name: str) -> None:
    script = Script(call, name)
    script.run()
    assert script.state() == "COMPLETED"
    outputs = script.outputs()
    done = [output[1] for output in outputs if output[0]]
    assert [each["n"] for each in done] == [0, 1, 2, 4]
    cache = "" if name.startswith("2.18") else f"{call.work(ANNA)}/.fractal_cache"
    for each in done:
        assert (each["cache"], each["site"], each["step"], each["threads"]) == (cache, "here", "none", "1")
        assert each["mine"] == f"{call.work(ANNA)}/.fractal_cache/my/cache"
        assert each["cwd"] == str(script.folder)
    assert outputs[3][1]["exc_type_name"] == "TaskExecutionError"
    assert "Task failed with returncode=7.\nSTDERR: task 3 on " in outputs[3][1]["traceback_string"]
    assert all("hook.main" in log for log in script.logs())
    out, err = script.printed()
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        "Hostname", "Current directory", "Start time", "fractal-slurm", "End time",
    ]  # fmt: skip
    assert "5 tasks in 2 slots" in out
    assert err == ""


def test_runs_them_on_all_nodes_of_the_job(call: Call) -> None:
    script = Script(call, "2.26.0-sudo", 0.5, "#SBATCH --nodes=2\n")
    script.run()
    assert [output[0] for output in script.outputs()] == [True, True, True, False, True]
    assert len({log.split()[3] for log in script.logs()}) == 2
    assert {output[1]["step"] for output in script.outputs() if output[0]} == {"none"}
    assert script.printed()[1] == ""
    assert not list(script.folder.glob(".fractal-slurm-*"))


def test_a_cancelled_job_keeps_the_results_it_has(call: Call) -> None:
    script = Script(call, "2.26.0-sudo", 30)
    quick = call.folder / "task.sh"
    quick.write_text(quick.read_text().replace("sleep 30", '[ "$n" -lt 2 ] || exec sleep 31.5'))
    script.submit()
    wait_for(lambda: all(script.outputs()[:2]), what="the first two tasks")
    slurm("scancel", script.job)
    script.wait()
    outputs = script.outputs()
    # The fourth task fails by itself, if it has begun.
    assert [output and output[0] for output in outputs] in ([True, True, None, x, None] for x in (None, False))
    assert script.state() == "CANCELLED"
    wait_for(lambda: subprocess.run(["pgrep", "-u", ANNA, "-f", "sleep 31.5"], check=False).returncode == 1)


@pytest.mark.parametrize("changes", [{"fractal_server_version": "2.27.0"}, {"a_new_key": "x"}])
def test_runs_as_it_was_written_what_it_does_not_know(call: Call, changes: dict[str, str]) -> None:
    script = Script(call, "2.26.0-sudo", **changes)
    script.run()
    assert script.outputs() == [[True, "its own"]] * 5
    out, err = script.printed()
    assert "fractal-slurm: this job runs as fractal-server wrote it: " in out
    assert all(line.startswith("srun: ") for line in err.splitlines())  # they wait in turn, and say so


def test_the_tasks_do_without_srun_even_where_one_input_file_is_gone(call: Call) -> None:
    script = Script(call, "2.26.0-sudo")
    words = script.tasks[2]
    Path(words[words.index("--input-file") + 1]).unlink()
    script.run()
    outputs = script.outputs()
    assert outputs[2] == [True, "its own"]
    assert [output[0] for output in outputs] == [True, True, True, False, True]


@pytest.fixture(autouse=True)
def _leaves_nothing(call: Call) -> Any:
    yield
    shutil.rmtree(call.folder / "jobs", ignore_errors=True)
