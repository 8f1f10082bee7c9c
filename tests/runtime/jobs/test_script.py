# SPDX-License-Identifier: GPL-3.0-or-later
import json
import os
import re
import shlex
import subprocess
import sys

import fractal_slurm.jobs.script as script_module
import pytest
from fractal_slurm.config.options import RESERVED_OPTIONS
from fractal_slurm.errors import FractalSlurmError, SpecError
from fractal_slurm.jobs.script import (
    ScriptTooLarge,
    export_path,
    job_limit_s,
    quote,
    render,
    rounds,
    safe_job_name,
    sbatch_options,
    split_command,
)
from fractal_slurm.node.protocol import MAGIC, NO_FILES_EXIT, PRELOAD_EXIT, UNSAFE_EXIT, read_work
from hypothesis import given
from hypothesis import strategies as st
from samples import HERE, TOKEN, job_settings, json_objects, outcome, slurm_config, texts

# What render() may leave in a script as data; the rest of it is the shell's.
DATA = b"\n" + MAGIC


def script_of(config=None, settings=None, tasks=((0, 0, "{}"),)):
    """A script, as text."""
    return render(config or slurm_config(), settings or job_settings(), token=TOKEN, tasks=list(tasks)).decode("utf-8")


def directives(script):
    """The #SBATCH lines that sbatch would honour: those before the first line of the shell's."""
    head = script.split("\nunset ")[0]
    return [line for line in head.splitlines() if line.startswith("#SBATCH")]


def options(script):
    """The options of a script, by name."""
    return dict(line.removeprefix("#SBATCH --").split("=", 1) for line in directives(script))


def environment_of(script):
    """What a real shell exports when it runs the script, up to where it becomes the worker."""
    head = script.partition('if [ "${SLURM_JOB_NUM_NODES:-1}"')[0]
    assert head != script
    environment = {"SUDO_USER": "fractal", "PATH": "/usr/bin"}
    text = f"{head}\nexec /usr/bin/env -0\n".encode()
    result = subprocess.run(["/bin/sh", "-s"], input=text, env=environment, capture_output=True, check=True)
    assert result.stderr == b""
    pairs = (entry.split("=", 1) for entry in result.stdout.decode("utf-8").split("\0") if entry)
    return dict(pairs)


def begin(config=None, *, env=None, **settings):
    """Run a script up to where it becomes the worker. Returns its exit code; 0 if it came so far."""
    head = script_of(config, job_settings(**settings)).partition('if [ "${SLURM_JOB_NUM_NODES:-1}"')[0]
    environment = {"PATH": "/usr/bin", **(env or {})}
    result = subprocess.run(["/bin/sh"], input=f"{head}\necho came so far\n".encode(), env=environment, check=False)
    return result.returncode


class TestBegin:
    """What a script does before all else in a folder that others may have swapped."""

    @pytest.mark.parametrize("mode", [0o700, 0o500, 0o2700])
    def test_goes_on_in_a_folder_that_is_the_users_own(self, tmp_path, mode):
        tmp_path.chmod(0o700)
        (tmp_path / f"{TOKEN}.slurm.out").touch()
        tmp_path.chmod(mode)
        assert begin(run_folder=str(tmp_path), slurm_output=False) == 0
        assert "came so far" in (tmp_path / f"{TOKEN}.slurm.out").read_text()

    @pytest.mark.parametrize("mode", [0o770, 0o701, 0o1777, 0o750, 0o2770])
    def test_ends_in_one_that_is_open_to_others(self, tmp_path, mode):
        tmp_path.chmod(mode)
        config = slurm_config({"extra_lines": [f"touch {tmp_path}/touched"]})
        assert begin(config, run_folder=str(tmp_path), slurm_output=False) == UNSAFE_EXIT
        assert not list(tmp_path.iterdir())

    def test_ends_where_there_is_none(self, tmp_path):
        assert begin(run_folder=f"{tmp_path}/gone", slurm_output=False) == NO_FILES_EXIT

    def test_ends_where_its_output_can_not_be_made(self, tmp_path):
        tmp_path.chmod(0o700)
        (tmp_path / f"{TOKEN}.slurm.out").mkdir()
        assert begin(run_folder=str(tmp_path), slurm_output=False) == NO_FILES_EXIT

    @pytest.mark.parametrize("slurm_output", [True, False])
    @pytest.mark.parametrize("library", ["/usr/libexec/sudo/sudo_noexec.so", "/site/x.so:/usr/lib/sudo_intercept.so"])
    def test_ends_where_it_can_start_nothing(self, tmp_path, library, slurm_output):
        settings = {"run_folder": str(tmp_path), "slurm_output": slurm_output}
        # As if it had been set, without a dynamic linker that heeds it.
        config = slurm_config({"extra_lines": [f"touch {tmp_path}/touched"]})
        script = script_of(config, job_settings(**settings)).replace(
            "unset SUDO_", f"LD_PRELOAD={library}\nunset SUDO_", 1
        )
        assert (
            subprocess.run(["/bin/sh"], input=script.encode(), capture_output=True, check=False).returncode
            == PRELOAD_EXIT
        )
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("before", ["/site/lib.so", ""])
    def test_leaves_what_others_preload(self, before):
        head = script_of(settings=job_settings(clear_preload=True)).partition("set -- ")[0]
        head = head.replace("unset SUDO_", f"LD_PRELOAD={before}\nunset SUDO_", 1)
        result = subprocess.run(
            ["/bin/sh"], input=f'{head}\necho "${{LD_PRELOAD-unset}}"\n'.encode(), capture_output=True, check=True
        )
        assert result.stdout.decode().strip() == (before or "unset")
        assert options(script_of(settings=job_settings(clear_preload=True)))["export"] == "ALL,LD_PRELOAD="


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, ""),
        ({"gres": "gpu:a100:1"}, "gpu"),
        ({"gpus": "2"}, "gpu"),
        ({"gres": "disk:2"}, "other"),
        ({"gres": "shard:2"}, ""),
        ({"extra_lines": ["#SBATCH --gpus-per-task=1"]}, "gpu"),
        ({"extra_lines": ["#SBATCH --gres disk:1"]}, "other"),
        ({"extra_lines": ["export X=--gres=gpu:1"]}, ""),
    ],
)
def test_the_worker_is_told_what_jobs_ask_for(changes, kind):
    text = script_of(slurm_config({"partition": "main", "cpus_per_task": 1, "mem": "1G", **changes}))
    assert re.findall("^gres\t(.*)", text, re.MULTILINE) == [kind] * bool(kind)


class TestRender:
    def test_matches_the_recorded_script(self):
        config = slurm_config(
            {
                "partition": "main",
                "cpus_per_task": 2,
                "mem": "2G",
                "time": "00:20:00",
                "constraint": "avx2",
                "account": "imaging",
                "extra_lines": ["#SBATCH --qos=normal", "export OMP_PROC_BIND=close", "module load cuda"],
            },
            user_local_exports={"CELLPOSE_LOCAL_MODELS_PATH": "models/cellpose", "NAPARI_CONFIG": "napari config.json"},
            meta={"tasks_per_job": 3, "parallel_tasks_per_job": 2},
            tot_tasks=3,
        )
        tasks = [
            (number, 0, json.dumps({"well": f"B{number:02d}", "zarr_url": "/data/plate.zarr"})) for number in range(3)
        ]
        recorded = HERE / "recorded" / "measure_wells.sbatch"
        if os.environ.get("RECORD"):  # after a change that was meant; then read the difference
            recorded.write_text(script_of(config, tasks=tasks), encoding="utf-8")
        assert script_of(config, tasks=tasks) == recorded.read_text(encoding="utf-8")

    def test_begins_with_the_shebang_line(self):
        assert script_of().startswith("#!/bin/sh\n")
        assert script_of(slurm_config({"shebang_line": "#!/bin/bash -l"})).startswith("#!/bin/bash -l\n")

    def test_puts_exports_after_lines_and_lines_after_directives(self):
        config = slurm_config(
            {"extra_lines": ["export A=1", "#SBATCH --qos=x", "export B=2"]}, user_local_exports={"C": "c", "D": "d"}
        )
        script = script_of(config)
        cache = "/home/ann/.cache"
        lines = (
            "#SBATCH --qos=x",
            "unset SUDO_",
            "export A=1",
            "export B=2",
            f"export C={cache}/c",
            "export D=",
            "exec ",
        )
        places = [script.index(f"\n{line}") for line in lines]
        assert places == sorted(places)
        assert directives(script)[-1] == "#SBATCH --qos=x"

    def test_hands_the_engines_options_to_sbatch(self):
        config = slurm_config(
            {"cpus_per_task": 2, "mem": "1500M", "gres": "gpu:1", "nodes": 1, "exclude": "n[3-4]", "time": "30"},
            meta={"tasks_per_job": 8, "parallel_tasks_per_job": 4},
            tot_tasks=8,
        )
        found = options(script_of(config, tasks=[(n, 0, "{}") for n in range(8)]))
        assert found == {
            "job-name": f"Measure_wells.{TOKEN}",
            "comment": f"fractal-slurm:{TOKEN}",
            "partition": "main",
            "ntasks": "4",
            "cpus-per-task": "2",
            "mem": "6000M",
            "gres": "gpu:1",
            "nodes": "1",
            "exclude": "n[3-4]",
            "time": "01:01:00",
            "chdir": "/home/ann/work/20260101-120000-abcd",
            "output": f"/home/ann/work/20260101-120000-abcd/{TOKEN}.slurm.out",
            "open-mode": "append",
            "export": "ALL",
            "propagate": "NONE",
        }
        assert set(found) & set(RESERVED_OPTIONS) >= {"job-name", "comment", "output", "chdir", "export", "propagate"}

    def test_asks_for_memory_by_cpu_where_the_file_says_so(self):
        config = slurm_config({"use_mem_per_cpu": True, "cpus_per_task": 3, "mem": "1000M"}, tot_tasks=2)
        found = options(script_of(config, tasks=[(0, 0, "{}"), (1, 0, "{}")]))
        assert found["mem-per-cpu"] == "334M"
        assert "mem" not in found

    def test_asks_for_no_more_slots_than_there_are_tasks(self):
        config = slurm_config(meta={"tasks_per_job": 8, "parallel_tasks_per_job": 4}, tot_tasks=9)
        assert options(script_of(config))["ntasks"] == "1"
        assert options(script_of(config))["mem"] == "100M"

    def test_leaves_the_limit_to_the_partition_where_no_time_is_given(self):
        assert "time" not in options(script_of())

    @given(
        st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 3), json_objects), min_size=1, max_size=5),
        st.lists(texts.filter(str.strip), min_size=1, max_size=4),
        st.booleans(),
    )
    def test_gives_the_worker_the_tasks_and_the_command_back(self, tasks, command, compressed):
        lines = [(index, attempt, json.dumps(args)) for index, attempt, args in tasks]
        whole = render(slurm_config(), job_settings(command=tuple(command)), token=TOKEN, tasks=lines)
        if compressed:
            lines *= 400  # the same lines again and again: the compressed form is far shorter
            plain = render(slurm_config(), job_settings(command=tuple(command)), token=TOKEN, tasks=lines)
            most = len(plain) + 4095
            whole = render(
                slurm_config(), job_settings(command=tuple(command), max_script_bytes=most), token=TOKEN, tasks=lines
            )
            assert len(whole) < len(plain)
        header, words, found = read_work(whole)
        assert header["encoding"] == ("zlib" if compressed else "plain")
        assert words == list(command)
        assert [tuple(line.decode("utf-8").split("\t", 2)) for line in found] == [
            (str(index), str(attempt), args) for index, attempt, args in lines
        ]

    @pytest.mark.parametrize(
        "line", [". /opt/x/fractal-job.sh", "[ ! -r /opt/x/fractal-job.sh ] || . /opt/x/fractal-job.sh"]
    )
    def test_does_without_the_hook_for_other_jobs(self, line):
        text = script_of(slurm_config({"extra_lines": [line, "module load cuda"]}))
        assert "module load cuda" in text
        assert "fractal-job.sh" not in text

    def test_tells_the_worker_what_it_needs(self):
        config = slurm_config({"time": "30", "cpus_per_task": 2, "mem": "1G"})
        header, words, _lines = read_work(script_of(config).encode())
        assert header == {
            "encoding": "plain",
            "tasks": "1",
            "token": TOKEN,
            "claim": f"/home/ann/work/20260101-120000-abcd/{TOKEN}.claim",
            "folder": f"/home/ann/work/20260101-120000-abcd/{TOKEN}",
            "cpus_per_task": "2",
            "memory_mb": "1000",
            "memory_limit": "job",
            "isolation": "none",
            "srun": "/usr/bin/srun",
            "task_time_s": "1800",
            "job_limit_s": "1860",
            "kill_wait_s": "30",
            "max_out_bytes": "64000000",
            "task_logs": "joined",
        }
        assert words == ["measure", "--verbose"]

    def test_compresses_and_then_refuses_what_is_over_the_clusters_limit(self):
        tasks = [(n, 0, json.dumps({"well": n, "noise": os.urandom(16).hex()})) for n in range(500)]
        plain = len(script_of(tasks=tasks))
        for most, encoding in ((plain + 4096, "plain"), (plain + 4095, "zlib")):
            script = render(slurm_config(), job_settings(max_script_bytes=most), token=TOKEN, tasks=tasks)
            assert len(script) <= most - 4096
            assert read_work(script)[0]["encoding"] == encoding
        with pytest.raises(ScriptTooLarge, match=r"500 tasks has \d+ bytes, compressed; the cluster takes 6000 "):
            render(slurm_config(), job_settings(max_script_bytes=6_000), token=TOKEN, tasks=tasks)

    @given(
        st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True).map("V_{}".format), texts, max_size=4),
        texts.map("/{}".format),
    )
    def test_a_shell_sees_the_exports_as_they_were_meant(self, exports, cache_dir):
        # what may stand below a cache_dir is tested with the config file; here it is about quoting
        exports = {
            name: path for name, path in exports.items() if path.strip("/.").strip() and ".." not in path.split("/")
        }
        exports = {name: path.lstrip("/") for name, path in exports.items()}
        config = slurm_config(user_local_exports=exports)
        found = environment_of(script_of(config, job_settings(cache_dir=cache_dir)))
        for name, path in exports.items():
            assert found[name] == export_path(cache_dir, path)
        assert not [name for name in found if name.startswith("SUDO_")]

    @pytest.mark.parametrize(
        "cache_dir",
        ["/a b/c'd", '/a "b"', "/$(id)`id`", "/a;b&c|d>e", "/~", "/*?[x]", "/a\\b\\", "/é 漢", "/-n", "/%j #x"],
    )
    def test_a_cache_dir_with_blanks_and_quotes_comes_out_right(self, cache_dir):
        found = environment_of(
            script_of(
                slurm_config(user_local_exports={"A": "b c/d'e", "B": '"$HOME"'}), job_settings(cache_dir=cache_dir)
            )
        )
        assert found["A"] == f"{cache_dir}/b c/d'e"
        assert found["FRACTAL_CACHE_DIR"] == cache_dir
        assert found["B"] == f'{cache_dir}/"$HOME"'

    def test_a_shell_runs_the_extra_lines_before_the_exports(self):
        config = slurm_config({"extra_lines": ["export A='b  c'", "export HOME=/x"]}, user_local_exports={"A": "d"})
        found = environment_of(script_of(config))
        assert found["A"] == "/home/ann/.cache/d"
        assert found["HOME"] == "/x"

    @given(st.lists(st.text(max_size=12) | st.text("#SBATCHPU\n -=aJ\"'\\", max_size=20), max_size=3), texts)
    def test_directives_are_ours_or_harmless_ones_of_the_extra_lines(self, lines, cache_dir):
        config, messages = outcome(slurm_config, {"extra_lines": lines})
        if messages:
            return
        script = script_of(config, job_settings(cache_dir=f"/{cache_dir}"))
        found = directives(script)
        ours = [f"#SBATCH --{name}={value}" for name, value in sbatch_options(
            config, job_settings(), token=TOKEN, tasks=1)]  # fmt: skip
        assert found[: len(ours)] == ours
        assert found[len(ours) :] == [line for line in dict.fromkeys(lines) if line.startswith("#SBATCH")]
        # sbatch honours these on any line of a script
        assert not re.search(r"^#(PBS|BSUB)", script, re.MULTILINE)

    @pytest.mark.parametrize(
        "changes",
        [
            {"cache_dir": "/a\nb"},
            {"cache_dir": "/a\rb"},
            {"cache_dir": "/a\0b"},
            {"cache_dir": "/a\udc80b"},
            {"run_folder": "/a\n#SBATCH --array=1-9"},
            {"run_folder": "/a b"},
            {"run_folder": "/a#b"},
            {"command": ("a", "b\nc")},
            {"command": ("a\tb",)},
            {"worker_python": "/usr/bin/py\nthon"},
            {"worker_folder": "/x\ny"},
            {"srun": "/usr/bin/srun\nid"},
            {"memory_limit": "job\n"},
            {"isolation": "none\n"},
            {"task_logs": "joined\nx"},
        ],
    )
    def test_refuses_what_could_end_a_line_wherever_it_comes_from(self, changes):
        with pytest.raises(FractalSlurmError):
            script_of(slurm_config(user_local_exports={"A": "b"}), job_settings(**changes))

    @pytest.mark.parametrize("token", ["a\nb", "a b", "a#b", "a'b"])
    def test_refuses_a_token_that_is_no_word(self, token):
        with pytest.raises(FractalSlurmError):
            render(slurm_config(), job_settings(), token=token, tasks=[(0, 0, "{}")])

    def test_quotes_the_programs_it_calls(self):
        script = script_of(settings=job_settings(worker_python="/opt/my python/bin/python", worker_folder="/opt/it's"))
        assert "exec /bin/sh -c \"$1\" sh '/opt/my python/bin/python' " in script
        assert shlex.quote("/opt/it's") in script

    def test_is_a_script_that_shells_can_read(self):
        script = script_of(slurm_config(user_local_exports={"A": "it's"}))
        for shell in ("sh", "bash"):
            head = script.encode().partition(DATA)[0]
            assert subprocess.run([shell, "-n"], input=head, capture_output=True, check=True).stderr == b""


class TestStartingTheWorker:
    """On a node that is not like the host that submits."""

    def start(self, python, folder, *arguments):
        command = ["/bin/sh", "-c", script_module._START_WORKER, "sh", str(python), str(folder), *arguments]
        environment = {"PATH": "/usr/bin:/bin", "SLURMD_NODENAME": "n7"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "it's" / "share" / "fractal-slurm"
        (folder / "node").mkdir(parents=True)
        (folder / "node" / "__init__.py").touch()
        text = "import sys\ndef main(arguments):\n    print(sys.executable, *arguments)\n    return 3\n"
        (folder / "node" / "worker.py").write_text(text)
        return folder

    def test_takes_the_python_that_is_named(self, folder):
        answer = self.start(sys.executable, folder, "a b", "c")
        assert (answer.returncode, answer.stdout, answer.stderr) == (3, f"{sys.executable} a b c\n", "")

    def test_takes_the_runtimes_own_where_that_is_not_there(self, folder):
        own = folder.parents[1] / "bin" / "python"
        own.parent.mkdir()
        own.symlink_to(sys.executable)
        answer = self.start("/nowhere/python3.99", folder, "x")
        assert (answer.returncode, answer.stderr) == (3, "")
        assert answer.stdout.endswith(" x\n")

    def test_passes_over_one_that_is_too_old(self, folder):
        own = folder.parents[1] / "bin" / "python"
        own.parent.mkdir()
        own.write_text("#!/bin/sh\nexit 1\n")
        own.chmod(0o755)
        answer = self.start("/nowhere/python3.99", folder, "x")
        assert (answer.returncode, answer.stdout) == (3, "/usr/bin/python3 x\n")

    def test_says_where_the_runtime_is_not(self, tmp_path):
        answer = self.start(sys.executable, tmp_path / "gone")
        assert answer.returncode == 127
        assert answer.stderr == (
            f"fractal-slurm: the runtime is not on node n7: {tmp_path}/gone/node/worker.py can not be read there: "
            "run the playbook fractal.slurm.site for this node\n"
        )


class TestJobLimitS:
    def limit(self, tasks, parallel, time="10", **changes):
        config = slurm_config(
            {"time": time}, meta={"tasks_per_job": tasks, "parallel_tasks_per_job": parallel}, tot_tasks=tasks
        )
        return job_limit_s(config, job_settings(**changes), tasks)

    def test_is_the_time_of_a_task_for_each_round_and_a_slack(self):
        assert self.limit(8, 4) == 2 * 600 + 60
        assert self.limit(7, 4) == 2 * 600 + 60
        assert self.limit(9, 4) == 3 * 600 + 60
        assert self.limit(1, 1) == 600 + 60

    def test_is_in_whole_minutes_rounded_up(self):
        assert self.limit(1, 1, time="0:30") == 120
        assert self.limit(1, 1, start_slack_s=61) == 720
        assert self.limit(1, 1, start_slack_s=0) == 600

    def test_does_without_slack_where_only_that_is_over_the_partitions_limit(self):
        assert self.limit(1, 1, max_walltime_s=600) == 600
        assert self.limit(1, 1, max_walltime_s=659) == 600
        assert self.limit(1, 1, max_walltime_s=660) == 660
        assert self.limit(2, 1, max_walltime_s=600) == 1_260

    def test_is_the_time_itself_where_that_limits_the_whole_job(self):
        assert self.limit(8, 1, time_scope="job") == 600

    def test_is_the_partitions_where_no_time_is_given(self):
        assert job_limit_s(slurm_config(), job_settings(), 4) is None


class TestRounds:
    @given(st.integers(1, 8), st.integers(1, 1_000))
    def test_counts_how_often_a_slot_runs_a_task(self, parallel, tasks):
        config = slurm_config(meta={"tasks_per_job": 1_000, "parallel_tasks_per_job": parallel})
        assert (rounds(config, tasks) - 1) * min(parallel, tasks) < tasks <= rounds(config, tasks) * parallel


class TestSafeJobName:
    @given(st.text())
    def test_has_no_character_that_could_be_taken_for_something_else(self, name):
        assert re.fullmatch(r"[A-Za-z0-9_+-]{1,80}", safe_job_name(name))

    def test_keeps_a_plain_name(self):
        assert safe_job_name("Convert_to_OME-Zarr+v2") == "Convert_to_OME-Zarr+v2"
        assert safe_job_name("") == "task"


class TestQuote:
    @given(texts)
    def test_is_one_word_to_a_shell(self, text):
        assert shlex.split(quote(text, "it")) == [text]

    def test_refuses_control_characters(self):
        with pytest.raises(FractalSlurmError, match="it 'a\\\\nb' has the control character"):
            quote("a\nb", "it")


class TestExportPath:
    @pytest.mark.parametrize("path", ["/abs", "..", "a/../../b", "", "a\nb"])
    def test_refuses_what_leaves_the_cache_dir(self, path):
        with pytest.raises(FractalSlurmError):
            export_path("/cache", path)

    @given(texts)
    def test_stays_below_the_cache_dir(self, path):
        found, messages = outcome(export_path, "/cache", path)
        assert messages or found == "/cache" or found.startswith("/cache/")
        assert messages or os.path.normpath(found) == found.rstrip("/")


class TestSplitCommand:
    @given(st.lists(texts, min_size=1, max_size=4).filter(lambda words: words[0]))
    def test_gives_back_words_that_were_quoted(self, words):
        assert split_command(shlex.join(words)) == tuple(words)

    def test_knows_no_shell(self):
        assert split_command("run $HOME; rm -rf * | x `id` && 'a b'") == (
            "run", "$HOME;", "rm", "-rf", "*", "|", "x", "`id`", "&&", "a b",
        )  # fmt: skip

    @pytest.mark.parametrize("command", ["", "  ", "''", "a 'b", 'a "b', "a \\"])
    def test_refuses_what_is_no_command(self, command):
        with pytest.raises(SpecError, match=r"^is empty: give the command|can't be split into words"):
            split_command(command)

    @pytest.mark.parametrize("command", ["a\nb", "a\tb", "a\0b", "a\ud800b"])
    def test_refuses_control_characters(self, command):
        with pytest.raises(FractalSlurmError, match="control character"):
            split_command(command)
