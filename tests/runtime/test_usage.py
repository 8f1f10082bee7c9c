# SPDX-License-Identifier: GPL-3.0-or-later
"""Command lines that can't be: what is wrong, what is allowed and what to do, in our words."""

import json
import re

import click
import pytest
from fractal_slurm.cli import cli
from fractal_slurm.executor import SlurmExecutor
from journals import RUN, make
from samples import run

WHERE = ("--user", "anna", "--cache-dir", "/c", "--work-dir", "/w")
# What click's own sentences begin with.
CLICKS = r"Error: (Invalid|Missing|No such|Option '|Got unexpected)"


@pytest.fixture(autouse=True)
def state_dir(tmp_path, monkeypatch):
    """A folder for journals, which the command line takes for its own, and no configuration."""
    (tmp_path / "settings.toml").touch()
    monkeypatch.setenv("FRACTAL_SLURM_SETTINGS_FILE", str(tmp_path / "settings.toml"))
    monkeypatch.setenv("FRACTAL_SLURM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("FRACTAL_SLURM_CONFIG_FILE", raising=False)
    return tmp_path / "state"


def refused(*arguments):
    """What is said of a command line; it ends with 2, and nothing is on standard output."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    return err


class TestContradictions:
    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            (("run", "x", *WHERE, "--json", "--json-lines"), "--json and --json-lines"),
            (("run", "x", *WHERE, "--quiet", "--json-lines"), "--quiet and --json-lines"),
            (("run", "x", "y", *WHERE, "--detach", "--json-lines"), "--detach and --json-lines"),
            (("resume", RUN, "--json", "--json-lines"), "--json and --json-lines"),
            (("resume", "--all", "--detach", "--json-lines"), "--detach and --json-lines"),
            (("retry", RUN, "--json", "--json-lines"), "--json and --json-lines"),
            (("logs", RUN, "0", "--failed"), "TASK and --failed"),
            (("report", RUN, "--log", "0", "--events"), "--log and --events"),
            (("report", RUN, "--events", "--html", "x"), "--events and --html"),
            (("report", RUN, "--log", "0", "--html", "x", "--events"), "--log and --events and --html"),
            (("report", RUN, "--log", "0", "--json"), "--log and --json"),
        ],
    )
    def test_are_named_with_what_to_do(self, arguments, names):
        assert re.search(rf"Error: {names} contradict each other: .{{10}}", refused(*arguments))

    @pytest.mark.parametrize(
        ("arguments", "needed"),
        [
            (("runs", "--dry-run"), "need --clean"),
            (("runs", "--older-than", "1d"), "need --clean"),
            (("doctor", "--work-dir", "/w"), "--work-dir needs --user"),
            (("doctor", "--cache-dir", "/c"), "--cache-dir needs --probe"),
            (("doctor", "--probe"), "--probe needs --user and --work-dir"),
            (("validate", "--user", "anna"), "--user needs --cluster"),
        ],
    )
    def test_so_are_options_that_would_do_nothing_alone(self, arguments, needed):
        assert needed in refused(*arguments)

    def test_each_command_with_both_kinds_of_json_refuses_both(self):
        both = {
            name
            for name, command in cli.commands.items()
            if {"as_json", "json_lines"} <= {param.name for param in command.params}
        }
        assert both == {"run", "resume", "retry"}


class TestWords:
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("rnu",), "'rnu': unknown command; did you mean 'run'?"),
            (("--no-such",), "fractal-slurm has no option --no-such"),
            (("logs", RUN, "--fail"), "logs has no option --fail; did you mean --failed?"),
            (("run",), 'SPEC... is missing: give files in JSON or YAML, or "-" for standard input'),
            (("run", "x"), "--user USER is missing: The user as whom the tasks run."),
            (("run", "x", "--user"), "--user USER needs a value"),
            (("run", "x", *WHERE, "--task-start", "y"), "--task-start: found 'y'; fresh and fork are allowed"),
            (("report", RUN, "--json=1"), "--json takes no value"),
            (("attach",), "RUN is missing: fractal-slurm status lists the runs"),
            (("status", "x", "y"), "x y: nothing more may be given here"),
            (("script", "x", "--job", "y"), "--job N: found 'y'; a whole number from 1 is allowed"),
            (("completion",), "SHELL is missing: bash, zsh and fish are allowed"),
            (("completion", "csh"), "SHELL: found 'csh'; bash, zsh and fish are allowed"),
        ],
    )
    def test_are_ours(self, arguments, sentence):
        err = refused(*arguments)
        assert f"\nError: {sentence}\n" in err
        # Whose command line it was is said, too.
        name = arguments[0] if arguments[0] in cli.commands else "[OPTIONS] COMMAND"
        assert err.startswith(f"Usage: fractal-slurm {name} ")

    @pytest.mark.parametrize("name", sorted(cli.commands))
    @pytest.mark.parametrize("arguments", [(), ("--no-such",), ("a", "b", "c", "d"), ("--json=1",), ("x", "-1")])
    def test_no_command_speaks_in_words_of_a_library(self, name, arguments):
        if not arguments and not any(param.required for param in cli.commands[name].params):
            return
        assert not re.search(CLICKS, run(name, *arguments)[2])

    def test_no_argument_has_a_type_that_would(self):
        of_click = (click.types.StringParamType, click.types.BoolParamType)
        for command in cli.commands.values():
            for param in command.params:
                assert isinstance(param.type, of_click) or not type(param.type).__module__.startswith("click"), param

    def test_the_list_of_commands_is_no_error(self):
        assert "Commands:" in run()[1] + run()[2]
        assert run("--help")[0] == run("run", "--help")[0] == 0


class TestTasks:
    @pytest.mark.parametrize("command", [("logs", RUN), ("logs", RUN, "--follow"), ("report", RUN, "--log")])
    @pytest.mark.parametrize("wanted", ["x", "9", "1.0", "0x1", "9" * 30, "\N{SUPERSCRIPT TWO}"])
    def test_that_are_not_there_are_told_with_those_that_are(self, state_dir, command, wanted):
        make(state_dir).close()
        assert refused(*command, wanted) == f"error: run {RUN} has no task {wanted}: its tasks are 0 to 2\n"

    def test_are_told_as_json(self, state_dir):
        make(state_dir).close()
        code, out, _err = run("logs", RUN, "x", "--json")
        assert code == 2
        assert json.loads(out) == {"errors": [f"run {RUN} has no task x: its tasks are 0 to 2"]}


class TestConfigFile:
    """Who named a file that can't be read, and who can name another."""

    @pytest.mark.parametrize(
        ("what", "words"),
        [
            (None, "can't be read: No such file or directory"),
            ("folder", "can't be read: Is a directory: name a file in it"),
            ("empty", "it is empty"),
        ],
    )
    def test_that_is_none_is_told_with_who_named_it(self, tmp_path, monkeypatch, what, words):
        path = tmp_path / "config"
        if what == "folder":
            path.mkdir()
        elif what == "empty":
            path.write_text("\n")
        (tmp_path / "spec.json").write_text("{}")
        assert f"error: {path}: {words}; --config names it\n" in refused(
            "explain", tmp_path / "spec.json", "--config", path
        )
        monkeypatch.setenv("FRACTAL_SLURM_CONFIG_FILE", str(path))
        by_variable = f"{path}: {words}; FRACTAL_SLURM_CONFIG_FILE names it; another can be named with"
        assert f"error: {by_variable} --config\n" in refused("plan", tmp_path / "spec.json")
        assert refused("validate") == f"error: {by_variable} FILE\n"
        with pytest.raises(ValueError, match=re.escape(f"{by_variable} config")):
            SlurmExecutor(user="anna", cache_dir="/c", work_dir="/w")

    def test_by_default_is_said_to_be_the_default(self, tmp_path, monkeypatch):
        default = tmp_path / "slurm_config.json"
        monkeypatch.setattr("fractal_slurm.config.file.DEFAULT_CONFIG_FILE", str(default))
        assert refused("plan", "/dev/null").splitlines() == [
            f"error: {default}: can't be read: No such file or directory; it is the default, which the role "
            "fractal.slurm.slurm_config writes; another can be named with --config or FRACTAL_SLURM_CONFIG_FILE",
            "error: /dev/null: it is empty",
        ]

    def test_that_this_account_may_not_read(self, tmp_path, monkeypatch):
        def refuse(_path, _mode):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("pathlib.Path.open", refuse)
        assert refused("validate", "/x") == (
            "error: /x: can't be read: Permission denied: this account needs the right to read it, and to enter the "
            "folders above it\n"
        )
