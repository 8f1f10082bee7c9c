# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line, as far as it needs no SLURM."""

import json
import subprocess
import sys
import time

import click
import jsonschema
import pytest
from click.testing import CliRunner
from fractal_slurm import __version__
from fractal_slurm.cli.common import guarded
from fractal_slurm.config.file import json_schema
from hypothesis import given
from hypothesis import strategies as st
from samples import any_texts, config_data, json_values, run

SPEC = {
    "task": {"name": "Measure wells", "command": "measure --verbose", "meta": {"mem": "1G"}},
    "meta": {"cpus_per_task": 2, "time": "10"},
    "parameters": [{"well": f"A{number:02d}"} for number in range(1, 13)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for the files of this module, with settings that are empty whatever this machine has."""
    path = tmp_path_factory.mktemp("cli")
    (path / "settings.toml").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRACTAL_SLURM_SETTINGS_FILE", str(path / "settings.toml"))
        patch.delenv("FRACTAL_SLURM_CONFIG_FILE", raising=False)
        yield path


@pytest.fixture
def config(folder):
    """A good config file."""
    path = folder / "config.json"
    data = config_data({"account": "lab", "extra_lines": ["export A=1"]}, user_local_exports={"MODELS": "my models"})
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.fixture
def spec(folder):
    """A good unit of work."""
    path = folder / "spec.json"
    path.write_text(json.dumps(SPEC), encoding="utf-8")
    return path


@pytest.fixture
def broken(folder):
    """A config file and a unit of work with two faults each."""
    config, spec = folder / "broken_config.json", folder / "broken_spec.yaml"
    config.write_text(json.dumps(config_data({"mem": "4 GB", "time": 36_000})), encoding="utf-8")
    spec.write_text("task: {name: a}\nparameters: []\n", encoding="utf-8")
    return config, spec


def error_lines(text):
    """The lines of standard error, each of which has to be an error."""
    lines = text.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


class TestValidate:
    def test_says_that_a_good_file_is_valid(self, config):
        assert run("validate", config) == (0, f"{config}: valid\n", "")

    def test_gives_a_line_for_each_fault_of_each_file(self, config, broken):
        code, out, err = run("validate", broken[0], config, "/nowhere.json")
        assert code == 2
        assert out == f"{config}: valid\n"
        lines = error_lines(err)
        assert len(lines) == 3
        assert lines[0].startswith(f"{broken[0]}: $.default_slurm_config.mem: ")
        assert lines[1].startswith(f"{broken[0]}: $.default_slurm_config.time: ")
        assert lines[2] == "/nowhere.json: can't be read: No such file or directory"

    def test_gives_the_same_as_one_json_document(self, config, broken):
        code, out, _err = run("validate", "--json", config, broken[0])
        good, bad = json.loads(out)
        assert code == 2
        assert (good["file"], good["valid"], good["errors"], good["warnings"]) == (str(config), True, [], [])
        assert (bad["valid"], len(bad["errors"])) == (False, 2)

    def test_finds_the_file_by_its_variable(self, config, monkeypatch):
        monkeypatch.setenv("FRACTAL_SLURM_CONFIG_FILE", str(config))
        assert run("validate")[1] == f"{config}: valid\n"

    def test_warns_and_is_fine(self, folder):
        path = folder / "warned.json"
        path.write_text(json.dumps(config_data({"pre_submission_commands": ["x"]})), encoding="utf-8")
        code, _out, err = run("validate", path)
        assert code == 0
        assert err.startswith(f"warning: {path}: $.default_slurm_config.pre_submission_commands: has no effect here")


class TestSchema:
    def test_prints_the_schema_that_a_file_is_checked_with(self, config):
        code, out, err = run("schema")
        assert (code, err) == (0, "")
        assert json.loads(out) == json_schema()
        jsonschema.validate(json.loads(config.read_text(encoding="utf-8")), json.loads(out))


class TestExplain:
    def test_shows_every_option_and_its_source(self, config, spec):
        code, out, err = run("explain", spec, "--config", config)
        assert (code, err) == (0, "")
        rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
        lost = "(default_slurm_config)"
        assert rows["cpus_per_task"] == ["cpus_per_task", "2", "WorkflowTask.meta", "1", lost]
        assert rows["mem_per_task_MB"] == ["mem_per_task_MB", "1000", "task.meta", "100", lost]
        assert rows["account"] == ["account", "lab", "default_slurm_config"]
        assert "batching, by maximum resources: " in out

    def test_says_which_limit_held_and_what_one_change_would_do(self, tmp_path):
        config, spec = tmp_path / "config.json", tmp_path / "spec.json"
        limits = {"target_cpus_per_job": 8, "max_cpus_per_job": 14, "max_mem_per_job": "64G", "max_num_jobs": 50}
        config.write_text(json.dumps(config_data({"time": "1:00:00"}, batching_config=limits)))
        task = {"name": "a", "command": "b", "meta": {"cpus_per_task": 2}}
        meta = {"time": None, "max_num_jobs": 100}
        spec.write_text(json.dumps({"task": task, "meta": meta, "parameters": [{}] * 1536}))
        code, out, err = run("explain", spec, "--config", config)
        assert code == 0
        assert err == (
            "warning: WorkflowTask.meta: $.max_num_jobs: has no effect: it is read from the config file only\n"
        )
        rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
        assert rows["time"] == ["time", "none", "WorkflowTask.meta", "1:00:00", "(default_slurm_config)"]
        assert out.partition("what held")[2].splitlines() == [
            " it there: max_cpus_per_job (14, batching_config), max_num_jobs (50, batching_config)",
            "what one change would do (time: with all jobs running at once):",
            "  max_cpus_per_job 14 -> 28: 14 tasks of a job at a time in place of 7, 0.6 of the time",
            "  cpus_per_task 2 -> 1: 14 tasks of a job at a time in place of 7, 0.6 of the time",
            "  max_num_jobs 50 -> 100: 96 jobs of 16 in place of 50 of 31, 0.6 of the time",
        ]

    def test_gives_the_same_as_one_json_document(self, config, spec):
        code, out, _err = run("explain", spec, "--config", config, "--json", "--account", "mine")
        document = json.loads(out)
        assert code == 0
        assert document["config"]["account"] == "mine"
        assert document["sources"]["account"] == "the user's settings"
        assert document["batching"]["branch"] == "maximum resources"
        assert set(document["sources"]) >= set(document["config"])
        assert document["overridden"]["account"] == [{"source": "default_slurm_config", "value": "lab"}]
        assert document["batching"]["bound_by"]
        assert {change["option"] for change in document["changes"]} >= set(document["batching"]["bound_by"])


class TestPlan:
    def test_shows_the_jobs_that_it_would_become(self, config, spec):
        code, out, _err = run("plan", spec, "--config", config, "--json")
        assert code == 0
        plan = json.loads(out)
        assert {name: plan[name] for name in ("tasks", "jobs", "tasks_per_job", "parallel_tasks_per_job")} == {
            "tasks": 12,
            "jobs": 3,
            "tasks_per_job": 4,
            "parallel_tasks_per_job": 4,
        }
        assert (plan["cpus_per_job"], plan["mem_per_job_MB"], plan["time_per_job"]) == (8, 4_000, "00:11:00")
        assert run("plan", spec, "--config", config)[0] == 0

    def test_a_job_asks_for_no_more_than_its_tasks_need(self, config, folder):
        single = folder / "single.json"
        single.write_text(json.dumps({**SPEC, "parameters": [{"well": "A01"}]}), encoding="utf-8")
        plan = json.loads(run("plan", single, "--config", config, "--json")[1])
        assert (plan["jobs"], plan["cpus_per_job"], plan["mem_per_job_MB"]) == (1, 2, 1_000)
        assert "#SBATCH --mem=1000M\n" in run("script", single, "--config", config)[1]

    def test_names_the_faults_of_config_and_spec_together(self, broken):
        code, out, err = run("plan", broken[1], "--config", broken[0])
        assert (code, out) == (2, "")
        lines = error_lines(err)
        assert [line.split(": ")[:2] for line in lines] == [
            [str(broken[0]), "$.default_slurm_config.mem"],
            [str(broken[0]), "$.default_slurm_config.time"],
            [str(broken[1]), "$.task.command"],
            [str(broken[1]), "$.parameters"],
        ]
        code, out, _err = run("plan", broken[1], "--config", broken[0], "--json")
        assert code == 2
        assert json.loads(out) == {"errors": lines}

    def test_names_the_faults_of_the_metas(self, config, folder):
        path = folder / "metas.json"
        path.write_text(json.dumps({**SPEC, "meta": {"account": "x", "cpus_per_task": 0}}), encoding="utf-8")
        code, _out, err = run("plan", path, "--config", config)
        assert code == 2
        assert [line.split(": ")[1] for line in error_lines(err)] == ["$.account", "$.cpus_per_task"]

    def test_names_the_faults_of_our_own_settings(self, config, spec, folder, monkeypatch):
        monkeypatch.setenv("FRACTAL_SLURM_TASK_LOGS", "none")
        code, _out, err = run("plan", spec, "--config", config)
        assert code == 2
        assert error_lines(err) == ["FRACTAL_SLURM_TASK_LOGS: found 'none'; allowed are joined, separate"]


class TestScript:
    def test_prints_the_script_of_a_job(self, config, spec):
        code, out, err = run("script", spec, "--config", config, "--job", "3", "--cache-dir", "/home/ann/my cache")
        assert (code, err) == (0, "")
        assert out.startswith("#!/bin/sh\n#SBATCH --job-name=Measure_wells.")
        assert "\nexport A=1\nexport MODELS='/home/ann/my cache/my models'\n" in out
        assert out.endswith('11\t0\t{"well": "A12"}\n')
        assert json.loads(run("script", spec, "--config", config, "--json")[1])["job"] == 1

    @pytest.mark.parametrize("number", ["0", "4", "-1"])
    def test_knows_how_many_jobs_there_are(self, config, spec, number):
        code, _out, err = run("script", spec, "--config", config, "--job", number)
        assert code == 2
        assert error_lines(err) == [f"--job {number}: the spec becomes 3 jobs, numbered from 1"]

    @pytest.mark.parametrize("command", ["validate", "plan"])
    def test_refuses_a_user_whose_limits_nobody_looks_at(self, config, spec, command):
        files = [config] if command == "validate" else [spec, "--config", config]
        code, out, err = run(command, *files, "--user", "ann")
        assert (code, out) == (2, "")
        assert "--user needs --cluster" in err

    @pytest.mark.parametrize("name", ["--cache-dir", "--work-dir"])
    def test_refuses_folders_that_could_change_the_script(self, config, spec, name):
        code, out, err = run("script", spec, "--config", config, name, "/a\n#SBATCH --array=1-9")
        assert (code, out) == (2, "")
        assert len(error_lines(err)) == 1


class TestEntryPoint:
    """The same through a process of its own."""

    def test_reads_a_unit_of_work_on_standard_input(self, config, spec):
        result = subprocess.run(
            [sys.executable, "-m", "fractal_slurm.cli", "plan", "-", "--config", config, "--json"],
            input=spec.read_bytes(),
            capture_output=True,
            check=True,
        )
        assert json.loads(result.stdout)["jobs"] == 3

    def test_ends_with_2_and_sentences_on_standard_error(self, broken):
        result = subprocess.run(
            [sys.executable, "-m", "fractal_slurm.cli", "validate", broken[0]],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (result.returncode, result.stdout) == (2, "")
        assert len(error_lines(result.stderr)) == 2

    def test_answers_help_without_loading_what_is_heavy(self):
        code = (
            "import sys; from fractal_slurm.cli import cli\n"
            "try: cli(['--help'])\n"
            "except SystemExit: print(*sorted({'pydantic', 'jinja2', 'rich', 'yaml', 'sqlite3'} & set(sys.modules)))"
        )
        began = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert result.stdout.splitlines()[-1] == ""
        assert time.perf_counter() - began < 10

    def test_says_what_is_wrong_with_a_file_without_loading_what_only_runs_need(self, broken):
        heavy = {"jinja2", "rich", "yaml", "sqlite3", "fractal_slurm.driver", "fractal_slurm.sudo"}
        code = (
            "import sys; from fractal_slurm.cli import cli\n"
            f"try: cli(['validate', {str(broken[0])!r}])\n"
            f"except SystemExit: print(*sorted({heavy} & set(sys.modules)))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert len(error_lines(result.stderr)) == 2
        assert result.stdout.splitlines()[-1] == ""

    @pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["schema"], ["completion", "bash"], ["explain"]])
    def test_says_that_standard_output_is_full(self, arguments):
        with open("/dev/full", "w") as full:
            argv = [sys.executable, "-m", "fractal_slurm.cli", *arguments]
            result = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert result.returncode == 2, result.stderr
        assert result.stderr.count("\n") == 1 or arguments == ["explain"]  # it misses an argument
        assert "Traceback" not in result.stderr

    @pytest.mark.parametrize("stream", ["| true", "2> /dev/full", ">&- 2>&-"])
    def test_ends_as_ever_where_nobody_reads_it(self, config, stream):
        argv = f"{sys.executable} -m fractal_slurm.cli validate {config}"
        codes = []
        for more in ("", " --no-such"):
            shell = f"set -o pipefail; {argv}{more} {stream}"
            result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
            assert "Exception ignored" not in result.stderr
            codes.append(result.returncode)
        # It may be told in time that its pipe is closed.
        assert codes[0] in {0, 1 if stream == "| true" else 0}
        assert codes[1] == 2

    def test_tells_its_version(self):
        assert run("--version") == (0, f"fractal-slurm, version {__version__}\n", "")

    @pytest.mark.parametrize(
        "arguments", [["nonsense"], ["validate", "--nonsense"], ["explain"], ["script", "x", "--job", "y"]]
    )
    def test_ends_with_2_where_it_is_called_wrongly(self, arguments):
        code, _out, err = run(*arguments)
        assert code == 2
        assert "Error: " in err


@st.composite
def mutated(draw, document):
    """A document with something else in one or two of its places."""
    document = json.loads(json.dumps(document))
    for _number in range(draw(st.integers(0, 2))):
        place = document
        while True:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            inner = place[key]
            if not inner or not isinstance(inner, (dict, list)) or draw(st.booleans()):
                break
            place = inner
        what = draw(st.sampled_from(["value", "remove", "add"]))
        if what == "value":
            place[key] = draw(json_values)
        elif what == "remove":
            del place[key]
        elif isinstance(place, dict):
            place[draw(any_texts)] = draw(json_values)
        if not document:
            break
    return document


FULL_CONFIG = config_data(
    {"gres": "gpu:1", "time": "10", "nodes": "1", "extra_lines": ["export A=1"], "use_mem_per_cpu": False},
    gpu_slurm_config={"partition": "gpu", "mem": "2G"},
    user_local_exports={"A": "b"},
)
FULL_SPEC = {**SPEC, "meta": {"needs_gpu": True, "tasks_per_job": 2, "parallel_tasks_per_job": 2, "extra_lines": ["x"]}}


class TestAnyInput:
    """Whatever is in a file: 0 or 2, a line for each fault, never a traceback."""

    @given(mutated(FULL_CONFIG) | json_values)
    def test_validate(self, folder, document):
        path = folder / "fuzzed.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        code, out, err = run("validate", path)
        if code:
            assert code == 2
            assert out == ""
            assert all(line.startswith(f"{path}: $") for line in error_lines(err))
        else:
            assert out == f"{path}: valid\n"
        assert run("validate", "--json", path)[0] == code

    @given(mutated(FULL_CONFIG), mutated(FULL_SPEC), st.sampled_from(["plan", "script", "explain"]), st.booleans())
    def test_plan_script_and_explain(self, folder, config, spec, command, as_json):
        paths = folder / "fuzzed_config.json", folder / "fuzzed_spec.json"
        for path, document in zip(paths, (config, spec), strict=True):
            path.write_text(json.dumps(document), encoding="utf-8")
        arguments = ["--json"] if as_json else []
        code, out, err = run(command, paths[1], "--config", paths[0], *arguments)
        assert code in (0, 2)
        assert all(line.startswith(("error: ", "warning: ")) for line in err.splitlines())
        assert (code == 2) == ("error: " in err)
        if as_json:
            json.loads(out)


def test_ctrl_c_before_anything_was_begun_ends_a_command_as_a_later_one_does():
    @click.command()
    @guarded
    def command() -> None:
        raise KeyboardInterrupt

    result = CliRunner().invoke(command)
    assert result.exit_code == 130
    assert "Aborted" not in result.output
