# SPDX-License-Identifier: GPL-3.0-or-later
"""The real worker in a process of its own, with scripts as they are rendered, but without a SLURM around it."""

import ast
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from fractal_slurm.jobs.script import render
from fractal_slurm.node import protocol, worker
from fractal_slurm.node.task_queue import chunk_bounds
from samples import TOKEN, job_settings, slurm_config

JOB = "4711"
TMP = "/tmp"  # noqa: S108 - where the worker looks for room
# A task that takes as many seconds as its parameters tell, and writes what they tell.
TASK = """
import json, sys, time
args = json.load(open(sys.argv[2]))
time.sleep(args.get("sleep", 0))
if "out" in args:
    open(sys.argv[4], "w").write(args["out"])
"""
# The worker looks again so often; sooner than it does in a job.
QUICK = "from node import loop, steps\nloop.RETRY_S = loop.TICK_S = worker.RETRY_S = steps.RETRY_S = 0.1\n"
# While the file FULL is there, nothing can be written to files whose names begin so.
FULL_DISK = (
    QUICK
    + """
import errno, os
_write = os.write
def write(fd, data):
    name = os.path.basename(os.readlink(f"/proc/self/fd/{{fd}}"))
    if name.startswith("{name}") and os.path.exists("{full}"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return _write(fd, data)
os.write = write
"""
)

# What srun does with its arguments, beside waiting for SLURM: run the command after the options.
STEP = 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'


class Job:
    """A script in a run folder of its own, and the workers started from it."""

    def __init__(self, folder, tasks, header=None, **settings):
        self.folder = folder
        program = folder / "task.py"
        program.write_text(TASK)
        command = settings.pop("command", (sys.executable, "-I", "-S", str(program)))
        settings = job_settings(command=command, run_folder=str(folder), kill_wait_s=1, **settings)
        lines = [(number, 0, json.dumps(args)) for number, args in enumerate(tasks)]
        script = render(slurm_config(), settings, token=TOKEN, tasks=lines)
        for key, value in (header or {}).items():
            script, times = re.subn(rb"(?m)^%s\t.*$" % key.encode(), f"{key}\t{value}".encode(), script)
            assert times == 1
        self.script = folder / "script"
        self.script.write_bytes(script)
        self.claim = folder / f"{TOKEN}.claim"

    def start(self, slots=1, *, before="", delay_s=0.0, more=(), script="", **env):
        """Start a worker.

        `before` runs in its process first, `script` in the script's, which takes `delay_s`; `more` are arguments.
        """
        code = "import sys; sys.path.append(sys.argv[1]); from node import worker"
        code = f"{code}\n{before}\nsys.exit(worker.main(sys.argv[2:]))"
        folder = os.path.dirname(os.path.dirname(worker.__file__))
        words = [sys.executable, "-I", "-S", "-c", code, folder, str(self.script), str(slots), *more]
        return subprocess.Popen(
            ["/bin/sh", "-c", f'{script}\nsleep {delay_s}; exec "$@"', "sh", *words],
            env={"PATH": os.environ["PATH"], "TMPDIR": str(self.folder), "SLURM_JOB_ID": JOB, **env},
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, slots=1, timeout_s=30, **kwargs):
        """Run a worker to its end. Returns its exit code and what it said."""
        process = self.start(slots, **kwargs)
        try:
            _out, said = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
        return process.returncode, said

    def records(self):
        """All records of the result files."""
        found = []
        for path in sorted((self.folder / TOKEN).glob("results-*")):
            if path.is_file() and not path.is_symlink():
                found += [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        return found

    def tasks(self):
        return [record for record in self.records() if "task" in record]

    def states(self):
        return [(record["task"], record["state"]) for record in self.tasks()]

    def end(self):
        """Why the worker ended, and how many tasks it left."""
        [record] = [record for record in self.records() if "end" in record]
        return record["end"], record["left"]


@pytest.fixture
def public():
    """A folder that others can come to; those of pytest are below one that they can't."""
    folder = Path(tempfile.mkdtemp(dir=TMP))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def wait_for(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


class TestTimeLimit:
    def test_starts_tasks_whose_times_use_up_the_limit_to_the_second(self, tmp_path):
        job = Job(tmp_path, [{}, {}], {"task_time_s": 100, "job_limit_s": 100})
        assert job.run()[0] == 0
        assert job.states() == [(0, "succeeded"), (1, "succeeded")]
        assert job.end() == ("the queue is empty", 0)

    def test_starts_the_first_task_of_each_slot_and_no_other_that_can_not_end(self, tmp_path):
        job = Job(tmp_path, [{"sleep": 0.3}] * 3, {"task_time_s": 100, "job_limit_s": 60})
        assert job.run(slots=2)[0] == 0
        assert sorted(job.states()) == [(0, "succeeded"), (1, "succeeded")]
        assert job.end() == ("no further task can end within the job's time limit", 1)

    def test_counts_what_came_before_the_worker_in_the_script(self, tmp_path):
        job = Job(tmp_path, [{}] * 2, {"task_time_s": 0, "job_limit_s": 2})
        assert job.run(delay_s=1.5)[0] == 0
        assert job.states() == [(0, "succeeded")]

    def test_believes_slurm_about_the_end_of_the_job(self, tmp_path):
        job = Job(tmp_path, [{}] * 2, {"task_time_s": 100, "job_limit_s": 600})
        assert job.run(SLURM_JOB_END_TIME=str(int(time.time()) + 20))[0] == 0
        assert job.states() == [(0, "succeeded")]

    @pytest.mark.parametrize("off_s", [-7 * 3600, -200, 7 * 3600])
    def test_goes_by_the_length_of_the_limit_where_the_nodes_clock_is_off(self, tmp_path, off_s):
        job = Job(tmp_path, [{}] * 2, {"task_time_s": 100, "job_limit_s": 1})
        start = int(time.time()) - off_s
        times = {"SLURM_JOB_START_TIME": str(start), "SLURM_JOB_END_TIME": str(start + 110)}
        assert job.run(**times)[0] == 0
        assert job.states() == [(0, "succeeded"), (1, "succeeded")]
        for path in tmp_path.glob(f"{TOKEN}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        times["SLURM_JOB_END_TIME"] = str(start + 20)
        assert job.run(**times)[0] == 0
        assert job.states() == [(0, "succeeded")]

    @pytest.mark.parametrize(("before", "tasks"), [("  90", 1), ("", 2), ("ELAPSED", 2), ("4123168608", 2)])
    def test_counts_what_the_job_did_before_the_step(self, tmp_path, before, tasks):
        job = Job(tmp_path, [{}] * 2, {"task_time_s": 50, "job_limit_s": 100})
        assert job.run(more=[before])[0] == 0
        assert len(job.states()) == tasks

    def test_does_not_charge_tasks_for_the_time_that_they_were_suspended(self, tmp_path):
        job = Job(tmp_path, [{"sleep": 6}], {"task_time_s": 4, "job_limit_s": 600})
        process = job.start(before="from node import loop; loop.SUSPENDED_S = 0.5")
        wait_for(lambda: list(tmp_path.glob("fractal-*/0-0-args.json")))
        time.sleep(0.3)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *map(int, children)):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(5)
        for pid in (*map(int, children), process.pid):
            os.kill(pid, signal.SIGCONT)
        assert process.wait(10) == 0
        assert job.states() == [(0, "succeeded")]
        assert job.tasks()[0]["seconds"] < 4


class TestFence:
    def test_ends_at_once_where_the_server_took_the_work_back(self, tmp_path):
        job = Job(tmp_path, [{}])
        job.claim.symlink_to(JOB)
        Path(f"{job.claim}.stop").mkdir()
        code, said = job.run(SLURM_RESTART_COUNT="1")
        assert (code, job.tasks()) == (0, [])
        assert "the server took this work back: this job ends" in said

    def test_ends_at_once_where_another_job_has_the_work(self, tmp_path):
        job = Job(tmp_path, [{}])
        job.claim.symlink_to("4712")
        assert "job 4712 does this work already" in job.run()[1]
        assert job.tasks() == []


class TestFullNode:
    @pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE])
    def test_lets_a_task_wait_for_room_for_its_process(self, tmp_path, number):
        job = Job(tmp_path, [{}] * 3, task_logs="separate")
        full = f"""{QUICK}
import os
_spawn, tries = os.posix_spawnp, []
def spawn(*args, **kwargs):
    tries.append(1)
    if len(tries) < 3:
        raise OSError({number}, os.strerror({number}))
    return _spawn(*args, **kwargs)
os.posix_spawnp = spawn
"""
        code, said = job.run(before=full)
        assert code == 0
        assert job.states() == [(0, "succeeded"), (1, "succeeded"), (2, "succeeded")]
        assert said.count("waiting for room") == 1

    def test_calls_a_command_that_is_not_there_the_tasks_failure(self, tmp_path):
        job = Job(tmp_path, [{}], command=("/nowhere/measure",))
        assert job.run()[0] == 0
        assert job.tasks()[0]["reason"] == "/nowhere/measure can't be started: No such file or directory"

    def test_writes_all_of_the_args_though_the_system_takes_them_in_pieces(self, tmp_path):
        job = Job(tmp_path, [{"out": "7"}])
        pieces = "import os; _write = os.write; os.write = lambda fd, data: _write(fd, data[:3])"
        assert job.run(before=pieces)[0] == 0
        assert job.tasks()[0]["out"] == 7

    def test_goes_on_where_the_files_of_tasks_can_be_written_again(self, tmp_path):
        full = tmp_path / "full"
        full.touch()
        job = Job(tmp_path, [{}] * 3)
        process = job.start(before=FULL_DISK.format(name="0-0-args", full=full))
        assert "No space left on device; waiting for room" in process.stderr.readline()
        full.unlink()
        assert process.wait(10) == 0
        assert job.states() == [(0, "succeeded"), (1, "succeeded"), (2, "succeeded")]

    def test_gives_up_at_the_deadline(self, tmp_path):
        full = tmp_path / "full"
        full.touch()
        job = Job(tmp_path, [{}] * 3, {"task_time_s": 0, "job_limit_s": 1})
        assert job.run(before=FULL_DISK.format(name="0-0-args", full=full))[0] == 0
        assert job.states() == []
        assert job.end() == ("the files of its tasks could not be written", 3)


class TestFullFromTheStart:
    """The folder of the job, and what is in it, can't be made: no task has run."""

    NO_ROOM = (
        QUICK
        + """
import errno, os
_open, _mkdir, _symlink = os.open, os.mkdir, os.symlink
def full(call):
    def checked(*args, **kwargs):
        if os.path.exists("{full}") and any("{name}" in str(arg) for arg in args):
            raise OSError(errno.{error}, os.strerror(errno.{error}), args[-1] if call is _symlink else args[0])
        return call(*args, **kwargs)
    return checked
os.open, os.mkdir, os.symlink = full(_open), full(_mkdir), full(_symlink)
"""
    )

    @pytest.mark.parametrize("name", [f"{TOKEN}.claim", f"/{TOKEN}", "results-0-0", "log-0-0", "slot-0-0-1"])
    def test_waits_for_room(self, tmp_path, name):
        full = tmp_path / "full"
        full.touch()
        job = Job(tmp_path, [{}] * 3)
        process = job.start(slots=2, before=self.NO_ROOM.format(full=full, name=name, error="ENOSPC"))
        assert re.search(r"can't be made: No space left on device; waiting for room", process.stderr.readline())
        full.unlink()
        assert process.wait(10) == 0
        assert sorted(job.states()) == [(0, "succeeded"), (1, "succeeded"), (2, "succeeded")]
        assert sum("begin" in record for record in job.records()) == 1

    @pytest.mark.parametrize(("error", "limit_s"), [("EDQUOT", 1), ("EACCES", 600)])
    def test_ends_in_words_and_with_an_exit_code_of_its_own(self, tmp_path, error, limit_s):
        full = tmp_path / "full"
        full.touch()
        job = Job(tmp_path, [{}], {"task_time_s": 0, "job_limit_s": limit_s})
        code, said = job.run(before=self.NO_ROOM.format(full=full, name=f"/{TOKEN}/", error=error))
        assert code == protocol.NO_FILES_EXIT
        words = os.strerror(getattr(errno, error))
        assert f"results-0-0 can't be made: {words}; this job ends before its first task" in said
        assert "Traceback" not in said
        assert not list(tmp_path.glob("fractal-*"))

    def test_ends_when_the_job_is_ended(self, tmp_path):
        full = tmp_path / "full"
        full.touch()
        job = Job(tmp_path, [{}])
        process = job.start(before=self.NO_ROOM.format(full=full, name=f"/{TOKEN}/", error="ENOSPC"))
        assert "waiting for room" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == protocol.NO_FILES_EXIT

    def test_takes_no_chunk_twice_and_forgets_none(self, tmp_path):
        full = tmp_path / "full"
        job = Job(tmp_path, [{"sleep": 0.2}] + [{}] * 8)
        (tmp_path / TOKEN / "chunks-0").mkdir(parents=True)
        (tmp_path / TOKEN / "chunks-0" / "1").symlink_to("0")  # as a file server leaves it whose answer was lost
        (tmp_path / TOKEN / "chunks-0" / "2").symlink_to("1")
        full.touch()
        process = job.start(slots="1(x2)", before=self.NO_ROOM.format(full=full, name="/chunks-0/", error="ENOSPC"))
        assert "its next tasks could not be taken: No space left on device" in process.stderr.readline()
        full.unlink()
        assert process.wait(10) == 0
        bounds = chunk_bounds(9, 2)
        elsewhere = range(bounds[2], bounds[3])
        assert sorted(task for task, _state in job.states()) == [n for n in range(9) if n not in elsewhere]


class TestFullResults:
    def test_goes_on_with_the_queue_once_results_can_be_written(self, tmp_path):
        full = tmp_path / "full"
        job = Job(tmp_path, [{"sleep": 0.5}, {}, {}])
        process = job.start(before=FULL_DISK.format(name="results-", full=full))
        wait_for(job.records)
        full.touch()
        assert "results can't be written: No space left on device" in process.stderr.readline()
        time.sleep(0.5)
        assert process.poll() is None
        full.unlink()
        assert process.wait(10) == 0
        assert job.states() == [(0, "succeeded"), (1, "succeeded"), (2, "succeeded")]
        assert job.end() == ("the queue is empty", 0)

    def test_gives_up_at_the_deadline(self, tmp_path):
        job = Job(tmp_path, [{}], {"task_time_s": 0, "job_limit_s": 1})
        (tmp_path / TOKEN).mkdir()
        (tmp_path / TOKEN / "results-0-0").symlink_to("/dev/full")
        assert job.run(before=QUICK)[0] == 74

    @pytest.mark.parametrize("by_mark", [False, True])
    def test_gives_up_when_the_job_is_ended(self, tmp_path, by_mark):
        job = Job(tmp_path, [{}])
        (tmp_path / TOKEN).mkdir()
        (tmp_path / TOKEN / "results-0-0").symlink_to("/dev/full")
        process = job.start(before=QUICK)
        assert "results can't be written" in process.stderr.readline()
        time.sleep(0.3)
        if by_mark:
            Path(f"{job.claim}.stop").mkdir()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 74

    def test_gives_each_task_its_own_log_though_one_could_not_be_kept(self, tmp_path):
        job = Job(tmp_path, [{}] * 2, command=("/bin/sh", "-c", "echo one"))
        once = f"""
import os
_write, tries = os.write, []
def write(fd, data):
    if os.path.basename(os.readlink(f"/proc/self/fd/{{fd}}")).startswith("log-") and not tries:
        tries.append(1)
        raise OSError({errno.ENOSPC}, "No space left on device")
    return _write(fd, data)
os.write = write
"""
        assert job.run(before=once)[0] == 0
        first, second = job.tasks()
        assert (first["tail"], first["log"]) == ("one\n", [0, 0])
        assert first["log_fault"] == "the log can't be kept: No space left on device"
        assert (second["tail"], second["log"]) == ("one\n", [0, 4])


class TestSteps:
    @pytest.mark.parametrize(
        ("srun", "why"),
        [
            ("/bin/false", "srun ended with status 256"),
            ("/nowhere/srun", "can't be started: No such file or directory"),
        ],
    )
    def test_leaves_tasks_unrecorded_where_steps_do_not_start(self, tmp_path, srun, why):
        job = Job(tmp_path, [{}] * 6, isolation="step", srun=srun)
        code, said = job.run(slots=4, before=QUICK)
        assert code == 75
        assert job.tasks() == []
        assert job.end() == ("its steps can't be started", 6)
        assert f"its steps can't be started: {'' if srun == '/bin/false' else srun + ' '}{why}" in said

    def test_ends_an_srun_that_waits_for_ever(self, tmp_path):
        srun = tmp_path / "srun"
        srun.write_text("#!/bin/sh\nexec sleep 1000\n")
        srun.chmod(0o755)
        job = Job(tmp_path, [{}] * 6, isolation="step", srun=str(srun))
        code, said = job.run(slots=4, before=f"{QUICK}\nsteps.STEP_START_S = 0.5")
        assert code == 75
        assert job.end() == ("its steps can't be started", 6)
        assert f"a slot's step did not begin within 0.5 s: {srun} is ended" in said

    def test_takes_a_task_back_from_a_step_that_waits(self, tmp_path):
        srun = tmp_path / "srun"
        srun.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/sruns\nexec sleep 1000\n")
        srun.chmod(0o755)
        job = Job(tmp_path, [{}] * 6, isolation="step", srun=str(srun))
        process = job.start(slots=2, before=QUICK)
        wait_for(lambda: (tmp_path / "sruns").exists() and len((tmp_path / "sruns").read_text().split()) == 2)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(10) == 0
        assert time.monotonic() - began < 3
        assert job.tasks() == []
        assert job.end() == ("the job was ended", 6)
        assert not any(Path(f"/proc/{pid}").exists() for pid in (tmp_path / "sruns").read_text().split())

    @pytest.mark.parametrize("memory_limit", ["job", "watch"])
    def test_ends_a_task_over_its_memory_that_slurm_lets_go_on(self, tmp_path, memory_limit):
        srun = tmp_path / "srun"
        srun.write_text(f"#!/bin/sh\n{STEP}")
        srun.chmod(0o755)
        hog = (sys.executable, "-I", "-S", "-c", "import time; hog = bytearray(b'x' * 300_000_000); time.sleep(20)")
        job = Job(
            tmp_path, [{}], {"memory_mb": 100}, isolation="step", srun=str(srun), command=hog, memory_limit=memory_limit
        )
        assert job.run(before=f"{QUICK}\nworker.STEP_WATCH_S, worker.STEP_MEMORY_S = 0.1, 0.5")[0] == 0
        [task] = job.tasks()
        assert task["state"] == "memory"
        assert re.fullmatch(r"used \d+ MB; its mem is 100 MB", task["reason"])

    def test_a_step_that_comes_late_finds_nothing_to_do(self, tmp_path):
        srun = tmp_path / "srun"
        srun.write_text(f"#!/bin/sh\ntouch {tmp_path}/began\ntrap '' TERM\nsleep 1\n{STEP}")
        srun.chmod(0o755)
        job = Job(tmp_path, [{}], isolation="step", srun=str(srun), command=("touch", f"{tmp_path}/ran"))
        process = job.start(before=f"{QUICK}", SLURMD_NODENAME="n1")
        wait_for((tmp_path / "began").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert job.tasks() == []
        assert not (tmp_path / "ran").exists()


class TestWhatTasksInherit:
    """Tasks see what the script left, and nothing that the worker made for itself."""

    # What a shell starts with, apart from what each process has of its own. glibc's posix_spawn() ignores two signals
    # over 31 that it keeps for its threads.
    LOOK = (
        "/bin/sh",
        "-c",
        "umask; pwd; ulimit -a; nice; ls /proc/self/fd; "
        "sed -nE 's/^(Sig(Blk|Ign|Cgt)|NoNewPrivs|Cpus_allowed):.*(.{7})$/\\1 \\3/p' /proc/self/status; "
        "tr '\\0' '\\n' < /proc/$$/environ | grep -Ev '^(SLURM_|_=|PWD=|SHLVL=|OLDPWD=|[A-Z_]*_THREADS=)' | sort",
    )
    SCRIPTS = (
        "",
        "umask 027; cd /usr; export SOME=thing",
        "umask 0; ulimit -S -n 64; ulimit -S -f 1000; nice=1; exec 7</dev/null",
        "trap '' INT TERM HUP USR2; unset LANG LC_ALL LC_CTYPE",
        "export LC_CTYPE=C; unset LC_ALL LANG",
    )

    @pytest.mark.parametrize("script", SCRIPTS)
    @pytest.mark.parametrize("isolation", ["none", "step"])
    def test_is_what_the_script_left(self, tmp_path, script, isolation):
        srun = tmp_path / "srun"
        # As srun does it: the umask of this variable, the root folder as asked for.
        srun.write_text(f'#!/bin/sh\numask "$SLURM_UMASK"; cd /\n{STEP}')
        srun.chmod(0o755)
        job = Job(tmp_path, [{}], isolation=isolation, srun=str(srun), command=self.LOOK)
        env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "SLURM_JOB_ID": JOB}
        expected = subprocess.run(
            ["/bin/sh", "-c", f'{script}\nexec "$@"', "sh", *self.LOOK],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert job.run(script=script)[0] == 0
        [task] = job.tasks()
        assert task["state"] == "succeeded"
        offset, length = task["log"]
        found = (tmp_path / TOKEN / "log-0-0").read_text()[offset : offset + length]
        assert found == expected

    @pytest.mark.parametrize("isolation", ["none", "step"])
    def test_the_workers_own_files_are_private_all_the_same(self, tmp_path, isolation):
        srun = tmp_path / "srun"
        srun.write_text(f"#!/bin/sh\numask 0\n{STEP}")
        srun.chmod(0o755)
        job = Job(tmp_path, [{"sleep": 0.3}], isolation=isolation, srun=str(srun), task_logs="separate")
        job.start(script="umask 0", slots="1(x2)").wait(20)
        modes = {
            str(path.relative_to(tmp_path)): oct(path.lstat().st_mode & 0o777)
            for path in (tmp_path / TOKEN).rglob("*")
            if not path.is_symlink()
        }
        assert set(modes.values()) <= {"0o600", "0o700"}, modes


class TestRunFolder:
    """The worker touches nothing before it has proved that the run's folder is the user's own."""

    def refused(self, job):
        code, said = job.run()
        assert code == protocol.UNSAFE_EXIT
        assert "Traceback" not in said
        assert not list(job.folder.glob(f"{TOKEN}*"))
        assert "this job ends before its first task" in said
        return said

    @pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o1777])
    def test_refuses_one_that_is_open_to_others(self, tmp_path, mode):
        job = Job(tmp_path, [{}])
        tmp_path.chmod(mode)
        assert (
            f"{tmp_path} is not the user's own and private: others have rights in it (mode {mode:04o})"
            in self.refused(job)
        )

    def test_takes_one_that_hands_on_its_group(self, tmp_path):
        tmp_path.chmod(0o2700)
        assert Job(tmp_path, [{}]).run()[0] == 0

    def test_refuses_anothers(self, tmp_path):
        job = Job(tmp_path, [{}])
        code, said = job.run(before="import os\nos.geteuid = lambda uid=os.geteuid(): uid + 4321")
        assert code == protocol.UNSAFE_EXIT
        assert "it belongs to uid" in said

    @pytest.mark.parametrize("where", ["to a folder", "to nowhere"])
    def test_refuses_a_link(self, tmp_path, where):
        job = Job(tmp_path, [{}])
        job.script.rename(tmp_path.parent / "script")
        job.script = tmp_path.parent / "script"
        tmp_path.rename(f"{tmp_path}.away")
        tmp_path.symlink_to(f"{tmp_path}.away" if where == "to a folder" else "nowhere")
        assert "is a link, or no folder" in self.refused(job)

    def test_refuses_one_below_a_folder_where_everybody_may_rename(self, public):
        folder = public / "open" / "run"
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        job = Job(folder, [{}])
        folder.parent.chmod(0o777)
        assert f"{folder.parent} (mode 0777) lets everybody rename what is in it" in self.refused(job)
        folder.parent.chmod(0o1777)
        assert job.run()[0] == 0

    def test_takes_one_that_others_can_not_come_near(self, tmp_path):
        folder = tmp_path / "open" / "run"
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        tmp_path.chmod(0o700)
        folder.parent.chmod(0o777)
        assert Job(folder, [{}]).run()[0] == 0

    def test_does_not_follow_a_swap(self, tmp_path):
        """What it opened once it goes on with, also for the stop mark and the next start of a task."""
        folder = tmp_path / "run"
        folder.mkdir(mode=0o700)
        job = Job(folder, [{}] * 4, command=("/bin/sh", "-c", "sleep 0.3"))
        process = job.start(TMPDIR=TMP)
        wait_for(job.records)
        folder.rename(tmp_path / "away")
        folder.symlink_to("/nowhere")
        assert process.wait(10) == 0
        folder.unlink()
        (tmp_path / "away").rename(folder)
        assert [state for _task, state in job.states()] == ["succeeded"] * 4

    def test_names_the_folder_and_not_the_descriptor(self, tmp_path):
        job = Job(tmp_path, [{}])
        (tmp_path / TOKEN).touch()
        code, said = job.run()
        assert code == protocol.NO_FILES_EXIT
        assert f"worker: {tmp_path}/{TOKEN} can't be made: File exists" in said


class TestScratch:
    def files(self, job):
        return [record["tail"].split() for record in job.tasks()]

    def where(self, tmp_path, **kwargs):
        job = Job(tmp_path, [{}], command=("/bin/sh", "-c", 'echo "$2"; stat -c %a "${2%/*}"', "sh"))
        assert job.run(**kwargs)[0] == 0
        [(path, mode)] = self.files(job)
        assert mode == "700"
        return path

    def test_is_in_the_nodes_folder_for_such(self, tmp_path):
        assert re.fullmatch(rf"{tmp_path}/fractal-{TOKEN}-0-0-[0-9a-f]{{16}}/0-0-args.json", self.where(tmp_path))
        assert not list(tmp_path.glob("fractal-*"))

    @pytest.mark.parametrize("mode", [0o777, 0o770])
    def test_is_not_where_others_may_rename_it(self, tmp_path, public, mode):
        public.chmod(mode)
        path = self.where(tmp_path, TMPDIR=str(public))
        assert path.startswith(f"{TMP}/fractal-{TOKEN}-0-0-")

    def test_is_in_the_jobs_folder_where_the_node_has_none(self, tmp_path):
        no_tmp = "import os\nmkdir = os.mkdir\ndef full(path, *mode, **more):\n"
        no_tmp += '    if path.startswith("/tmp/fractal-"):\n        raise OSError(28, "full", path)\n'
        no_tmp += "    return mkdir(path, *mode, **more)\nos.mkdir = full"
        path = self.where(tmp_path, TMPDIR="/nowhere", before=no_tmp)
        assert path.startswith(f"{tmp_path}/{TOKEN}/files-0-0-")


class TestWhatTheScriptPrinted:
    SAID = "script: 14: module: not found\nfractal-slurm worker: an earlier start's\n\n"

    def test_is_in_the_first_record_and_with_what_failed(self, tmp_path):
        job = Job(tmp_path, [{}, {"sleep": "no number"}])
        (tmp_path / f"{TOKEN}.slurm.out").write_text("x" * 10_000 + "\n" + self.SAID)
        assert job.run()[0] == 0
        [begin] = [record for record in job.records() if "begin" in record]
        assert begin["printed"].endswith("x\nscript: 14: module: not found")
        good, bad = job.tasks()
        assert "reason" not in good
        assert re.fullmatch(
            "exit code 1; before, the script of its job printed: x+ script: 14: module: not found", bad["reason"]
        )

    @pytest.mark.parametrize("kind", ["absent", "empty", "link", "pipe", "odd"])
    def test_is_nothing_to_trip_over(self, tmp_path, kind):
        path = tmp_path / f"{TOKEN}.slurm.out"
        {
            "absent": lambda: None,
            "empty": path.touch,
            "link": lambda: path.symlink_to("/etc/passwd"),
            "pipe": lambda: os.mkfifo(path),
            "odd": lambda: path.write_bytes(b'\xff\x00\x1b[2J"\\\n'),
        }[kind]()
        job = Job(tmp_path, [{"sleep": "no number"}])
        assert job.run()[0] == 0
        [begin] = [record for record in job.records() if "begin" in record]
        assert ("printed" in begin) == (kind == "odd")
        [task] = job.tasks()
        assert "root:" not in task["reason"]


class TestOldPythons:
    @pytest.mark.parametrize("name", sorted(path.name for path in Path(worker.__file__).parent.glob("*.py")))
    def test_it_is_python_3_8(self, name):
        source = Path(worker.__file__).with_name(name).read_text()
        tree = ast.parse(source, feature_version=(3, 8))
        # What came with 3.9 and later, of all that such a file may use.
        newer = set(
            """
            removeprefix removesuffix waitstatus_to_exitcode pidfd_open pidfd_send_signal is_relative_to bit_count lcm
            nextafter ulp cache
            pairwise batched randbytes hardlink_to aiter anext process_cpu_count eventfd splice setns
            unshare SIGSTKFLT StrEnum ExceptionGroup BaseExceptionGroup add_note UTC tomllib zoneinfo graphlib
        """.split()  # noqa: SIM905 - a list of words is read more easily so
        )
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert not used & newer
        keywords = {word.arg for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords}
        assert not keywords & {"strict", "root_dir", "slots", "kw_only", "delete_on_close"}
        # `dict | dict` is 3.9's; of flags and sets it is as old as Python.
        merges = [
            node for node in ast.walk(tree)
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
            and any(isinstance(side, (ast.Dict, ast.DictComp)) for side in (node.left, node.right))
        ]  # fmt: skip
        assert not merges


class TestOutJson:
    def test_refuses_what_is_nested_too_deeply_to_be_read_again(self, tmp_path):
        limit = protocol.MAX_OUT_DEPTH
        depths = (limit, limit + 1, *range(985, 1000), 100_000)
        tasks = [{"out": "[" * depth + "1" + "]" * depth} for depth in depths]
        job = Job(tmp_path, tasks)
        assert job.run()[0] == 0
        states = [state for _task, state in job.states()]
        assert states == ["succeeded"] + ["failed"] * (len(depths) - 1)
        assert job.tasks()[1]["reason"] == "the out-JSON is nested too deeply: allowed are 500 levels"

    def test_refuses_more_values_than_anybody_could_keep(self, tmp_path):
        job = Job(tmp_path, [{"out": json.dumps([0] * count)} for count in (10, 11)])
        assert job.run(before="from node import protocol; protocol.MAX_OUT_VALUES = 10")[0] == 0
        assert job.states() == [(0, "succeeded"), (1, "failed")]
        assert job.tasks()[1]["reason"].startswith("the out-JSON has too many values")

    def test_refuses_what_json_makes_too_long(self, tmp_path):
        job = Job(tmp_path, [{"out": f'"{"x" * 90_000}"'}, {"out": f'"{chr(252) * 40_000}"'}], max_out_bytes=100_000)
        assert job.run()[0] == 0
        assert job.states() == [(0, "succeeded"), (1, "failed")]
        assert job.tasks()[1]["reason"].startswith("the out-JSON takes 240")

    def test_takes_a_large_one(self, tmp_path):
        job = Job(tmp_path, [{"out": json.dumps(["x" * 30_000_000])}])
        assert job.run()[0] == 0
        assert len(job.tasks()[0]["out"][0]) == 30_000_000

    def test_takes_wide_ones_and_nan(self, tmp_path):
        job = Job(tmp_path, [{"out": json.dumps([[]] * 2000)}, {"out": "NaN"}])
        assert job.run()[0] == 0
        assert job.states() == [(0, "succeeded"), (1, "succeeded")]


class TestRequeue:
    def test_runs_only_what_was_not_finished(self, tmp_path):
        job = Job(tmp_path, [{}] * 3)
        folder = tmp_path / TOKEN
        folder.mkdir()
        done = {"token": TOKEN, "state": "succeeded"}
        lines = [{**done, "task": 1}, {**done, "task": "2"}, {**done, "task": [0]}, {**done, "state": "cut", "task": 0}]
        text = "[" * 100_000 + "\n" + "".join(f"\n{json.dumps(line)}\n" for line in lines) + json.dumps(done)
        (folder / "results-0-0").write_text(text)
        assert job.run(SLURM_RESTART_COUNT="1")[0] == 0
        again = [json.loads(line) for line in (folder / "results-1-0").read_bytes().split(b"\n") if line]
        assert [record["task"] for record in again if "task" in record] == [0, 2]

    def test_reads_no_file_that_never_ends(self, tmp_path):
        job = Job(tmp_path, [{}])
        folder = tmp_path / TOKEN
        (folder / "results-9-1").mkdir(parents=True)
        os.mkfifo(folder / "results-9-2")
        (folder / "results-9-3").symlink_to("/dev/zero")
        with (folder / "results-9-4").open("wb") as file:
            file.truncate(10**8)
        assert job.run(SLURM_RESTART_COUNT="1")[0] == 0
        found = [json.loads(line) for line in (folder / "results-1-0").read_bytes().split(b"\n") if line]
        assert [record["state"] for record in found if "task" in record] == ["succeeded"]


FORKED = """
import argparse, email.mime.text, json, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--args-json")
parser.add_argument("--out-json")
arguments = parser.parse_args()
args = json.load(open(arguments.args_json))
print("task", args["n"])
with open(sys.argv[0] + ".marks", "a") as marks:
    marks.write(f"{args['n']}\\n")
time.sleep(args.get("sleep", 0))
here = "email.mime.text" in sys.modules
in_a_fork = "nursery" in open("/proc/self/cmdline").read()
if in_a_fork and args.get("fails") == "in a fork" or args.get("fails") == "always":
    sys.exit(3)
if in_a_fork and args.get("fails") == "by its out-JSON":
    open(arguments.out_json, "w").write("{")
else:
    json.dump({"n": args["n"], "fork": in_a_fork}, open(arguments.out_json, "w"))
"""


class TestForks:
    """Tasks in forks of a Python that has done their imports (task_start = "fork")."""

    def job(self, folder, tasks, header=None, **settings):
        script = folder / "forked.py"
        script.write_text(FORKED)
        command = settings.pop("command", ("/usr/bin/python3", str(script)))
        tasks = [{"n": number, **args} for number, args in enumerate(tasks)]
        return Job(folder, tasks, header, command=command, task_start="fork", **settings)

    def ends(self, job):
        [record] = [record for record in job.records() if "end" in record]
        return record

    def marks(self, job):
        path = job.folder / "forked.py.marks"
        return sorted(int(line) for line in path.read_text().split()) if path.exists() else []

    @pytest.mark.parametrize("task_logs", ["joined", "separate"])
    def test_runs_every_task_once_with_its_result_and_log(self, tmp_path, task_logs):
        job = self.job(tmp_path, [{}] * 20, task_logs=task_logs)
        code, said = job.run(slots=3)
        assert (code, said) == (0, "")
        records = sorted(job.tasks(), key=lambda record: record["task"])
        assert [record["out"]["n"] for record in records] == list(range(20))
        assert all(record["state"] == "succeeded" and record["exit"] == 0 for record in records)
        assert [record["tail"] for record in records] == [f"task {number}\n" for number in range(20)]
        assert all(record["out"]["fork"] for record in records)
        assert self.marks(job) == list(range(20))
        end = self.ends(job)
        assert (end["forked"], end["fresh_why"], end["fork_off"]) == (20, None, None)
        assert not list(tmp_path.glob("fractal-*"))

    def test_slots_do_not_wait_where_there_is_one_for_every_task(self, tmp_path):
        # The script never opens its args file, so the first task would be waited for.
        job = self.job(tmp_path, [{}] * 3)
        (tmp_path / "forked.py").write_text("import time\ntime.sleep(2)\n")
        assert job.run(slots=3)[0] == 0
        ends = [record["start"] + record["seconds"] for record in job.tasks()]
        assert max(record["start"] for record in job.tasks()) < min(ends)  # all at the same time
        assert self.ends(job)["forked"] == 3

    def test_a_command_that_is_no_python_script_starts_as_ever(self, tmp_path):
        job = self.job(tmp_path, [{}] * 3, command=("/bin/sh", "-c", "exit 0"))
        assert job.run()[0] == 0
        assert [state for _task, state in job.states()] == ["succeeded"] * 3
        assert self.ends(job)["fresh_why"] == "the command is not PYTHON SCRIPT.py"

    def test_a_python_that_is_not_there_fails_its_tasks_and_not_the_job(self, tmp_path):
        script = tmp_path / "forked.py"
        job = self.job(tmp_path, [{}] * 2, command=(str(tmp_path / "python3"), str(script)))
        assert job.run()[0] == 0
        assert [state for _task, state in job.states()] == ["failed"] * 2
        assert "can't be started: No such file" in self.ends(job)["fresh_why"]

    def test_the_environment_of_a_slot_is_its_tasks(self, tmp_path):
        job = self.job(tmp_path, [{}] * 6)
        (tmp_path / "forked.py").write_text(
            "import json, os, sys, time\nopen(sys.argv[2])\ntime.sleep(0.5)\n"
            "json.dump([os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS']], open(sys.argv[4], 'w'))\n"
        )
        assert job.run(slots=2, CUDA_VISIBLE_DEVICES="0,1")[0] == 0
        outs = [record["out"] for record in job.tasks()]
        assert len(outs) == 6
        assert {tuple(out) for out in outs} == {("0", "1"), ("1", "1")}  # each slot has a GPU of its own

    @pytest.mark.parametrize("fails", ["in a fork", "by its out-JSON"])
    def test_what_fails_in_a_fork_alone_runs_again_and_nothing_is_forked_from_then_on(self, tmp_path, fails):
        job = self.job(tmp_path, [{}, {}, {"fails": fails}, {}, {}, {}])
        code, said = job.run()
        assert code == 0
        records = {record["task"]: record for record in job.tasks()}
        assert len(job.tasks()) == len(records) == 6
        assert all(record["state"] == "succeeded" for record in records.values())
        assert [records[number]["out"]["fork"] for number in range(6)] == [True, True, False, False, False, False]
        assert records[2]["fork_failed"]
        assert records[2]["tail"] == "task 2\n"
        assert self.marks(job) == [0, 1, 2, 2, 3, 4, 5]
        assert "task 2 failed in a fork" in self.ends(job)["fork_off"]
        assert "task 2 failed in a fork" in said

    def test_what_fails_in_a_new_process_too_is_the_tasks_own(self, tmp_path):
        job = self.job(tmp_path, [{}, {"fails": "always"}, {}, {}])
        assert job.run()[0] == 0
        records = {record["task"]: record for record in job.tasks()}
        assert {number: record["state"] for number, record in records.items()} == {
            0: "succeeded", 1: "failed", 2: "succeeded", 3: "succeeded",
        }  # fmt: skip
        assert (records[1]["exit"], records[1]["reason"]) == (3, "exit code 3")
        assert records[3]["out"]["fork"] is True
        assert self.ends(job)["fork_off"] is None

    def test_without_the_fallback_a_failed_task_has_failed(self, tmp_path):
        job = self.job(tmp_path, [{"fails": "in a fork"}, {}], fork_fallback=False)
        assert job.run()[0] == 0
        assert sorted(job.states()) == [(0, "failed"), (1, "succeeded")]
        assert self.marks(job) == [0, 1]

    def test_times_and_signals_hold(self, tmp_path):
        job = self.job(tmp_path, [{}, {"sleep": 60}, {}], {"task_time_s": 4, "job_limit_s": 100})
        assert job.run()[0] == 0
        assert sorted(job.states()) == [(0, "succeeded"), (1, "timeout"), (2, "succeeded")]

    def test_ends_with_its_job(self, tmp_path):
        job = self.job(tmp_path, [{}, {"sleep": 60}, {}])
        process = job.start()
        wait_for(lambda: self.marks(job) == [0, 1])
        process.terminate()
        assert process.wait(timeout=20) == 0
        process.stderr.close()
        assert sorted(job.states()) == [(0, "succeeded"), (1, "cut")]
        # Neither the nursery nor a task lives on.
        wait_for(lambda: not processes_of(str(tmp_path)))

    def test_nothing_lives_on_where_the_worker_is_killed(self, tmp_path):
        job = self.job(tmp_path, [{}, {"sleep": 2}, {}])
        process = job.start()
        wait_for(lambda: self.marks(job) == [0, 1])
        process.kill()
        process.communicate()
        wait_for(lambda: not processes_of(str(tmp_path)), timeout_s=30)

    def test_memory_is_watched(self, tmp_path):
        job = self.job(tmp_path, [{}, {}], {"memory_mb": 120}, memory_limit="watch")
        (tmp_path / "forked.py").write_text(
            "import json, sys, time\nargs = json.load(open(sys.argv[2]))\n"
            "held = bytearray(b'x' * (args['n'] * 300_000_000))\ntime.sleep(3 * args['n'])\n"
        )
        assert job.run(before=QUICK)[0] == 0
        assert sorted(job.states()) == [(0, "succeeded"), (1, "memory")]

    def test_every_task_runs_once_though_nurseries_are_killed_at_random(self, tmp_path):
        job = self.job(tmp_path, [{}] * 500)
        # As small as can be, since most start in new processes. The nursery is what a worker starts first.
        (tmp_path / "forked.py").write_text(
            "import os, re, sys\nnumber = re.search('[0-9]+', open(sys.argv[2]).read())[0]\n"
            "fd = os.open(sys.argv[0] + '.marks', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
            "os.write(fd, number.encode() + b'\\n')\n"
        )
        end = 500
        killer = (
            "import os, random, signal, threading, time\n"
            "from node import forks, loop, processes\nstarted, spawn = [], processes.spawn\n"
            "def spawn_and_note(*words):\n"
            "    started.append(spawn(*words))\n"
            "    return started[-1]\n"
            "def kill_the_first():\n"
            "    time.sleep(random.uniform(0.2, 1.5))\n"
            "    os.kill(started[0], signal.SIGKILL)\n"
            "forks.spawn = loop.spawn = spawn_and_note\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, worker.WAITED)\n"
            "threading.Thread(target=kill_the_first, daemon=True).start()\n"
        )
        code, _said = job.run(slots=4, before=killer, timeout_s=120)
        assert code == 0
        assert sorted(job.states()) == [(number, "succeeded") for number in range(end)]
        assert self.marks(job) == list(range(end))
        assert self.ends(job)["forked"] < end
        assert self.ends(job)["fresh_why"]

    def test_tells_how_long_the_start_of_a_task_takes(self, tmp_path):
        script = tmp_path / "forked.py"
        script.write_text("import sys, time\ntime.sleep(0.4)\nopen(sys.argv[2]).read()\ntime.sleep(0.4)\n")
        job = Job(tmp_path, [{}] * 3, command=("/usr/bin/python3", str(script)))
        assert job.run()[0] == 0
        first, *others = job.tasks()
        assert 0.4 <= first["startup_s"] < 0.8 <= first["seconds"]
        assert not any("startup_s" in record for record in others)


def processes_of(word):
    """The processes whose command lines have a word."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_text()
            except OSError:
                continue
            if word in words:
                found.append(int(entry.name))
    return found
