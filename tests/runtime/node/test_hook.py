# SPDX-License-Identifier: GPL-3.0-or-later
"""The hook on recorded scripts of fractal-server, run by a real shell, without a SLURM around it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fractal_slurm.node import hook, server_script
from fractal_slurm.node.server_script import Unknown, read_input, read_script, split_command, time_limit_s

RECORDED = Path(__file__).parents[1] / "recorded" / "server_scripts"
NAMES = sorted(path.stem for path in RECORDED.glob("*.sbatch"))
NODE = Path(hook.__file__).parent
MODULE = server_script.MODULE
# What fractal-server's own program does, but for its checks: it tells that it ran.
REMOTE = 'import json, sys\njson.dump([True, "its own"], open(sys.argv[4], "w"))\n'
# srun, but for SLURM: the command after the options.
SRUN = '#!/bin/sh\necho "$*" >> "$SRUN_CALLS"\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n'


class Job:
    """A recorded script in folders of its own.

    Args:
        folder: Where.
        task: The text of a task, for sh: its number is in $n, the file to write for the server in $4.
        name: Which script.
        edit: Changes the script's text.
        changes: Keys of the input files; None takes a key away.
    """

    def __init__(self, folder, task, name="2.26.0-sudo", edit=lambda text: text, **changes):
        self.folder = folder
        program = folder / "task.sh"
        program.write_text(f'#!/bin/sh\nn=$(sed "s/[^0-9]//g" "$2")\n{task}\n')
        program.chmod(0o755)
        text = (RECORDED / f"{name}.sbatch").read_text()
        document = (RECORDED / f"{name}.input.json").read_text()
        for old, new in {
            "/srv/fractal": f"{folder}/server", "/home/anna": f"{folder}/home",
            "/opt/fractal-slurm/share/fractal-slurm": str(NODE.parent),
            "/opt/fractal-server/bin/python": sys.executable,
            "/opt/tasks/bin/python /opt/tasks/measure.py": str(program),
        }.items():  # fmt: skip
            text, document = text.replace(old, new), document.replace(old, new)
        [workdir] = [line.split()[-1] for line in text.splitlines() if line.startswith("#SBATCH -D ")]
        self.work = Path(workdir)
        own = self.work.joinpath(*MODULE.split(".")[:-1])
        own.mkdir(parents=True)
        (own / "remote.py").write_text(REMOTE)
        (folder / "bin").mkdir()
        (folder / "bin/srun").write_text(SRUN)
        (folder / "bin/srun").chmod(0o755)
        self.tasks = [line.split() for line in text.splitlines() if f" -m {MODULE} " in line]
        for number, words in enumerate(self.tasks):
            path = Path(words[8])
            path.parent.mkdir(parents=True, exist_ok=True)
            values = {**json.loads(document.replace("-0000000-", f"-{number:07d}-")), **changes}
            path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
            (path.parent / path.name.replace("input", "args")).write_text(json.dumps({"number": number}))
        self.script = folder / "slurm_script"
        self.script.write_text(edit(text))

    def start(self, shell="/bin/sh", slots="2", **env):
        env = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_TASKS_PER_NODE": slots,
            "SLURM_CPUS_PER_TASK": "1", "SRUN_CALLS": f"{self.folder}/calls", **env,
        }  # fmt: skip
        return subprocess.Popen(
            [shell, str(self.script)], env=env, cwd=self.work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, **kwargs):
        process = self.start(**kwargs)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, out, err

    def outputs(self):
        paths = [Path(words[10]) for words in self.tasks]
        return [json.loads(path.read_text()) if path.exists() else None for path in paths]

    def srun_calls(self):
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def log(self, number):
        [path] = self.work.glob(f"*-{number:07d}-log.txt")
        return path.read_text()


@pytest.fixture(params=["/bin/sh", "/bin/bash"])
def shell(request):
    return request.param


class TestRecordedScripts:
    @pytest.mark.parametrize("name", NAMES)
    def test_are_known(self, name):
        script = read_script((RECORDED / f"{name}.sbatch").read_bytes())
        assert (len(script.tasks), script.time_s) == (5, 600)
        document = json.loads((RECORDED / f"{name}.input.json").read_text())
        assert read_input(document) == document

    def test_are_of_the_first_and_the_last_version_that_are_known(self):
        versions = {tuple(map(int, name.split(".")[:2])) for name in NAMES}
        assert {server_script.FIRST_VERSION, server_script.LAST_VERSION} <= versions


class TestJob:
    def test_runs_all_tasks_without_srun(self, tmp_path, shell):
        out = """printf '{"n": %s, "c": "%s", "s": "%s"}' $n "$FRACTAL_CACHE_DIR" "$SITE" > "$4\""""
        task = f'echo "task $n"; {out}; umask'
        job = Job(tmp_path, task, edit=lambda text: text.replace("export SITE=here", "export SITE=here\numask 027"))
        code, out, err = job.run(shell=shell)
        assert (code, err, job.srun_calls()) == (0, "", [])
        cache = f"{tmp_path}/home/.fractal_cache"
        assert job.outputs() == [[True, {"n": n, "c": cache, "s": "here"}] for n in range(5)]
        assert [job.log(n) for n in range(5)] == [f"task {n}\n0027\n" for n in range(5)]
        words = [line.partition(":")[0] for line in out.splitlines()]
        assert words == ["Hostname", "Current directory", "Start time", "fractal-slurm", "End time"]
        modes = {path.stat().st_mode & 0o777 for path in self_made(job)}
        assert modes == {0o640}

    def test_the_output_file_is_as_fractal_servers_own_program_writes_it(self, tmp_path):
        job = Job(tmp_path, '[ "$n" != 0 ] || echo "{\\"a\\": [1, \\"\\u00fc\\"]}" > "$4"')
        assert job.run()[0] == 0
        texts = [Path(words[10]).read_text() for words in job.tasks[:2]]
        assert texts == [json.dumps((True, {"a": [1, "ü"]}), indent=2), json.dumps((True, None), indent=2)]

    @pytest.mark.parametrize(
        ("task", "name", "words"),
        [
            ("echo oh; echo no >&2; exit 3", "TaskExecutionError", "Task failed with returncode=3.\nSTDERR: oh\nno\n"),
            ("kill -9 $$", "TaskExecutionError", "Task failed with returncode=-9.\nSTDERR: \n"),
            ('echo "{" > "$4"', "JSONDecodeError", "Expecting property name"),
            ("yes | head -c 100001; exit 1", "TaskExecutionError", "STDERR: Cannot display stderr of length 100001."),
        ],
    )
    def test_tells_why_a_task_failed(self, tmp_path, task, name, words):
        job = Job(tmp_path, task)
        assert job.run()[0] == 0
        for success, told in job.outputs():
            assert (success, told["exc_type_name"]) == (False, name)
            assert words in told["traceback_string"]

    def test_waits_for_no_pipe_that_stands_for_a_file(self, tmp_path):
        job = Job(tmp_path, 'case $n in 2) mkfifo "$4" ;; 3) exit 1 ;; *) echo {} > "$4" ;; esac')
        documents = [json.loads(Path(words[8]).read_text()) for words in job.tasks]
        os.mkfifo(documents[1]["log_file_remote"])
        Path(job.tasks[4][8]).unlink()
        os.mkfifo(job.tasks[4][8])
        code, _out, err = job.run()
        assert (code, err) == (0, "")
        first, second, third, fourth, fifth = job.outputs()
        assert (first, second, fifth) == ([True, {}], [True, "its own"], [True, "its own"])
        assert third[1]["exc_type_name"] == "JSONDecodeError"
        assert "returncode=1" in fourth[1]["traceback_string"]

    def test_has_no_variable_of_its_own_in_the_tasks(self, tmp_path, shell):
        job = Job(tmp_path, "env", edit=lambda text: text.replace("export SITE=here", "set -a; export SITE=here"))
        assert job.run(shell=shell)[0] == 0
        names = {line.partition("=")[0] for line in job.log(0).splitlines()}
        assert not {name for name in names if "hook" in name or "srun" in name or "wait" in name}

    def test_keeps_slots_busy_from_one_queue(self, tmp_path):
        job = Job(tmp_path, "date +%s.%N; sleep 0.5; date +%s.%N")
        assert job.run(slots="2")[0] == 0
        spans = [tuple(map(float, job.log(n).split())) for n in range(5)]
        at_once = max(sum(begin <= moment < end for begin, end in spans) for moment, _end in spans)
        assert at_once == 2

    def test_waits_for_what_the_script_started_itself(self, tmp_path, shell):
        def edit(text):
            return text.replace("export SITE=here", "(sleep 1; echo late) &\nexport SITE=here")

        job = Job(tmp_path, "true", edit=edit)
        code, out, _err = job.run(shell=shell)
        assert code == 0
        assert out.index("late") < out.index("End time")

    def test_does_not_wait_for_what_the_script_gave_away(self, tmp_path):
        line = "sleep 50 > /dev/null 2>&1 & disown\nexec > >(cat)"
        job = Job(
            tmp_path, "true", edit=lambda text: text.replace("bin/sh", "bin/bash").replace("export SITE=here", line)
        )
        began = time.monotonic()
        assert job.run(shell="/bin/bash")[::2] == (0, "")  # noqa: S604
        assert time.monotonic() - began < 30
        assert job.srun_calls() == []

    def test_a_job_that_is_ended_keeps_what_it_has_and_dies_as_a_script_does(self, tmp_path):
        job = Job(tmp_path, '[ "$n" -lt 2 ] || exec sleep 60; echo {} > "$4"')
        process = job.start()
        wait_for(lambda: job.outputs()[:2] == [[True, {}]] * 2)
        process.send_signal(signal.SIGTERM)
        _out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (-signal.SIGTERM, "")
        assert job.outputs()[2:] == [None, None, None]

    def test_tells_of_the_time_limit(self, tmp_path):
        job = Job(tmp_path, '[ "$n" -lt 2 ] || exec sleep 60; echo {} > "$4"')
        end = int(time.time()) + 8
        process = job.start(SLURM_JOB_START_TIME=str(end - 9), SLURM_JOB_END_TIME=str(end))
        wait_for(lambda: job.outputs()[:2] == [[True, {}]] * 2 and time.time() > end)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        words = [output[1]["traceback_string"] for output in job.outputs()[2:]]
        assert all("The job was over its time limit (time)" in each for each in words)
        assert ["did not begin" in each for each in words] == [False, False, True]

    def test_tells_of_memory(self, tmp_path, monkeypatch):
        counts = iter([0, 1, 1, 1])
        monkeypatch.setattr("fractal_slurm.node.limits.oom_kills", lambda: next(counts))
        kills = hook.OomKills()
        assert [kills.is_one_more() for _time in range(4)] == [False, True, False, False]


class TestLine:
    """The line of extra_lines that reads the hook."""

    def test_may_look_first_whether_it_is_there(self, tmp_path, shell):
        hook_file = f"{NODE}/fractal-job.sh"
        line = f"set -eu\n[ ! -r {hook_file} ] || . {hook_file}"
        job = Job(tmp_path, "true", edit=lambda text: text.replace(f". {hook_file}", line))
        assert job.run(shell=shell)[::2] == (0, "")
        assert (job.outputs(), job.srun_calls()) == ([[True, None]] * 5, [])

    def test_does_no_harm_where_it_is_not(self, tmp_path, shell):
        line = f"set -eu\n[ ! -r {NODE}/no/fractal-job.sh ] || . {NODE}/no/"
        job = Job(tmp_path, "true", edit=lambda text: text.replace(f". {NODE}/", line))
        assert job.run(shell=shell)[::2] == (0, "")
        assert (job.outputs(), len(job.srun_calls())) == ([[True, "its own"]] * 5, 5)

    @pytest.mark.parametrize("line", ["sleep 0 & wait", "srun true", "echo a; echo", "command echo x"])
    def test_other_lines_may_do_what_they_like(self, tmp_path, line):
        job = Job(tmp_path, "true", edit=lambda text: text.replace("export SITE=here", line))
        code, out, _err = job.run()
        assert (code, job.outputs()) == (0, [[True, None]] * 5)
        assert ("a\n\nHostname" in out) == ("echo a" in line)
        assert job.srun_calls() == (["true"] if "srun" in line else [])

    @pytest.mark.parametrize("before", ["set -e", "set -u", "set -eu"])
    def test_a_script_that_is_not_known_goes_on_in_a_strict_shell(self, tmp_path, shell, before):
        def edit(text):
            return text.replace(". /", f"{before}\n. /", 1).replace("export SITE=here", "trap : EXIT")

        job = Job(tmp_path, "true", edit=edit)
        assert job.run(shell=shell)[::2] == (0, "")
        assert job.outputs() == [[True, "its own"]] * 5

    @pytest.mark.parametrize(
        ("shell", "line", "words"),
        [
            ("/bin/sh", 'srun() { command srun --more "$@"; }', "its srun is no program"),
            ("/bin/bash", 'srun() { command srun --more "$@"; }', "its srun is no program"),
            ("/bin/bash", "trap : EXIT", "its shell has a trap"),
            ("/bin/sh", "export LD_LIBRARY_PATH=$SITE_LIB", "python3 does not start after its lines"),
        ],
    )
    def test_goes_on_as_it_was_written_where_a_file_of_the_site_does_more(self, tmp_path, shell, line, words):
        site = tmp_path / "site.sh"
        site.write_text(f"{line}\necho 'Start time: soon'\n")
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib/libm.so.6").write_text("no library")

        def edit(text):
            return text.replace("bin/sh\n", f"{shell[1:]}\n").replace("export SITE=here", f". {site}")

        job = Job(tmp_path, "exit 9", edit=edit)
        # what stands in for srun writes its calls by the shell alone, which such libraries would end, too
        (tmp_path / "bin/srun").write_text('#!/bin/sh\necho >> "$SRUN_CALLS"\n')
        _code, out, _err = job.run(shell=shell, SITE_LIB=f"{tmp_path}/lib")
        assert f"{words}\n" in out
        assert "without an srun a task" not in out

    def test_runs_as_it_was_written_what_has_more_tasks_than_a_command_line_may_have(self, tmp_path):
        def edit(text):
            lines = text.replace("export SITE=here", "export SLURM_TASKS_PER_NODE=many").split("\n")
            [first, *_rest] = [number for number, line in enumerate(lines) if line.startswith("srun ")]
            return "\n".join([*lines[:first], *lines[first : first + 5] * 100, *lines[first + 5 :]])

        job = Job(tmp_path, "exit 9", edit=edit)
        (tmp_path / "bin/srun").write_text('#!/bin/sh\necho $# >> "$SRUN_CALLS"\n')
        code, out, err = job.run()
        assert (code, err, len(job.srun_calls())) == (0, "", 500)
        assert out.rstrip().splitlines()[-1].startswith("End time: ")

    @pytest.mark.parametrize("change", ["SLURM_TASKS_PER_NODE=0", "SLURM_TASKS_PER_NODE=2,-1", "SLURM_JOB_NUM_NODES=2"])
    def test_runs_as_it_was_written_where_no_task_could_begin(self, tmp_path, change):
        job = Job(tmp_path, "exit 9", edit=lambda text: text.replace("export SITE=here", f"export {change}"))
        # a step on two nodes ends at once, and began nothing
        (tmp_path / "bin/srun").write_text('#!/bin/sh\necho "${1#--}" >> "$SRUN_CALLS"\n')
        code, out, _err = job.run()
        assert (code, job.srun_calls().count("ntasks=1")) == (0, 5)
        assert "fractal-slurm: this job runs as fractal-server wrote it: " in out

    @pytest.mark.parametrize("options", [[], ["-i"]])
    def test_does_nothing_outside_of_a_job_and_where_someone_types(self, tmp_path, options):
        env = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7" if options else ""}
        words = f"alias echo='echo -e'\n. {NODE}/fractal-job.sh\ntype echo\nset | grep fractal_hook\n"
        shell = ["bash", "--norc", "--noprofile", *options]
        done = subprocess.run(
            shell, input=words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False
        )
        assert "error" not in done.stderr
        assert done.stdout in ("echo is aliased to `echo -e'\n", "echo is a shell builtin\n")

    def test_says_that_a_python_is_too_old(self, tmp_path):
        shutil.copytree(NODE, tmp_path / "share/fractal-slurm/node")
        python = tmp_path / "bin/python"
        job = Job(
            tmp_path, "exit 9", edit=lambda text: text.replace(str(NODE.parent), f"{tmp_path}/share/fractal-slurm")
        )
        python.write_text("#!/bin/sh\nexit 1\n")
        python.chmod(0o755)
        code, out, err = job.run()
        assert (code, err, len(job.srun_calls())) == (0, "", 5)
        assert f"{python.parent.parent}/share/fractal-slurm/../../bin/python can't run its program" in out


class TestWhatItDoesNotKnow:
    @pytest.mark.parametrize(
        "edit",
        [
            lambda text: text.replace("wait\n\n\n", "wait\necho more\n"),
            lambda text: text.replace('echo "Start time', 'echo "Begin'),
            lambda text: text.replace(" --input-file ", " --input ", 1),
            lambda text: text.replace("--ntasks=1", "--ntasks=2", 1),
            lambda text: text.replace("--mem=100MB", "--mem=200MB", 1),
            lambda text: text.replace("export SITE=here", "trap 'echo end' EXIT"),
            lambda text: text.replace("export SITE=here", "echo 'Start time: 1'"),
            lambda text: text.replace("export SITE=here", f". {NODE}/fractal-job.sh"),
            lambda text: text.replace("#!/bin/sh\n", "#!/bin/sh -u\n"),
            lambda text: text.replace("#SBATCH --ntasks", "#SBATCH --comment=x --sig=USR1@60\n#SBATCH --ntasks"),
        ],
    )
    def test_runs_as_it_was_written(self, tmp_path, edit):
        job = Job(tmp_path, "exit 9", edit=edit)
        code, out, err = job.run()
        assert (code, err) == (0, "")
        assert len(job.srun_calls()) == 5
        assert job.outputs() == [[True, "its own"]] * 5
        assert out.count("fractal-slurm: this job runs as fractal-server wrote it: ") in (0, 1)

    @pytest.mark.parametrize(
        "env",
        [
            {"SLURM_ARRAY_JOB_ID": "7"},
            {"SLURM_HET_SIZE": "2"},
            {"SLURM_PACK_SIZE": "2"},
            {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_PER_TASK": "1"},
            {"SLURM_TASK_PROLOG": "/site/prolog"},
        ],
    )
    def test_jobs_whose_sruns_are_not_alike_run_as_they_were_written(self, tmp_path, env):
        job = Job(tmp_path, "exit 9")
        code, _out, err = job.run(**env)
        assert (code, err, len(job.srun_calls())) == (0, "", 5)
        assert job.outputs() == [[True, "its own"]] * 5

    @pytest.mark.parametrize(
        "changes",
        [
            {"fractal_server_version": "2.27.0"},
            {"fractal_server_version": "2.17.2"},
            {"fractal_server_version": "3"},
            {"a_new_key": "x"},
            {"log_file_remote": None},
            {"full_command": ["a"]},
        ],
    )
    def test_other_versions_and_other_keys_too(self, tmp_path, changes):
        job = Job(tmp_path, "exit 9", **changes)
        code, out, err = job.run()
        assert (code, err, len(job.srun_calls())) == (0, "", 5)
        assert job.outputs() == [[True, "its own"]] * 5
        assert "fractal-slurm: this job runs as fractal-server wrote it: " in out

    @pytest.mark.parametrize("command", ["/nowhere/task --args-json a", "/bin/echo 'open", "/bin/echo $HOME"])
    def test_a_task_that_fractal_server_refuses_is_left_to_its_own_program(self, tmp_path, command):
        job = Job(tmp_path, "exit 9", full_command=command)
        code, _out, err = job.run()
        assert (code, err, job.srun_calls()) == (0, "", [])
        assert job.outputs() == [[True, "its own"]] * 5

    def test_a_script_of_our_own_is_passed_over_in_silence(self, tmp_path, capsys):
        script = tmp_path / "script"
        script.write_text(f"#!/bin/sh\n. {NODE}/fractal-job.sh\n\n#FRACTAL-SLURM-DATA 1\n")
        assert hook.check(str(script)) == 3
        assert capsys.readouterr().out == ""


class TestLargeFiles:
    """Their sizes are told from what the system says of them: the file has a hole, and reading it would take hours."""

    def test_a_log_is_not_read_to_its_end(self, tmp_path):
        job = Job(tmp_path, "echo begin; truncate -s 100G /proc/self/fd/1; exit 9")
        code, _out, err = job.run()
        assert (code, err) == (0, "")
        words = job.outputs()[0][1]["traceback_string"]
        assert "Task failed with returncode=9.\nSTDERR: Cannot display stderr of length 107374182400." in words

    def test_neither_is_what_a_task_writes_for_the_server(self, tmp_path):
        job = Job(tmp_path, 'truncate -s 100G "$4"')
        code, _out, err = job.run()
        assert (code, err) == (0, "")
        words = job.outputs()[0][1]["traceback_string"]
        assert words.endswith("metadiff.json: it has more than 256000000 bytes\n")


class TestGpus:
    @pytest.mark.parametrize(
        ("line", "gpus", "slots"),
        [
            ("--gres=gpu:1", "1", 1),
            ("--gres=gpu:a100:2,disk:1", "2", 2),
            ("--gres gpu:4", "4", 3),
            ("-G1", "1", 1),
            ("--gpus=2", "2", 2),
            ("--tres-per-task=gres/gpu:1", "2", 2),
            ("--gres=disk:1 --exclusive", "1", 3),
            ("--partition=gpu", "1", 3),
            ("--gres=gpu:1", "", 3),
        ],
    )
    def test_a_gpu_has_one_task_at_a_time_if_the_job_asked_for_it(self, tmp_path, line, gpus, slots):
        job = Job(tmp_path, "true", edit=lambda text: text.replace("#SBATCH --time", f"#SBATCH {line}\n#SBATCH --time"))
        _code, out, err = job.run(slots="3", SLURM_GPUS_ON_NODE=gpus)
        assert f"5 tasks in {slots} slots on 1 nodes" in out
        assert (err, job.srun_calls()) == ("", [])


class TestSplitCommand:
    @pytest.mark.parametrize(
        ("command", "words"),
        [("a b  c", ["a", "b", "c"]), ("a 'b c' \"d\"", ["a", "b c", "d"]), ("/x/ü y", ["/x/ü", "y"])],
    )
    def test_splits_as_fractal_server_does(self, command, words):
        assert split_command(command) == words

    @pytest.mark.parametrize("command", ["", " ", "a 'b", "a;b", "a|b", "a$b", "a*"])
    def test_refuses(self, command):
        with pytest.raises(Unknown):
            split_command(command)


class TestTimeLimit:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("10", 600), ("1:30", 90), ("1:00:00", 3600), ("1-2", 93600), ("1-0:30", 88200), ("1-0:0:5", 86405), ("x", 0)],
    )
    def test_reads_what_sbatch_reads(self, text, seconds):
        assert time_limit_s(["#SBATCH --mem=1M", f"#SBATCH --time={text}"]) == seconds


def self_made(job):
    """Log and output files."""
    return [*job.work.glob("*-log.txt"), *job.work.glob("*-output.json")]


def wait_for(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
