# SPDX-License-Identifier: GPL-3.0-or-later
"""Each command that a page shows exists as it is written, and is run by a test, or it is said here why it is not."""

from __future__ import annotations

import re
import shlex
import sys

import click
import pytest
import yaml
from fractal_slurm.cli import cli

from .tools import ROOT

sys.path.insert(0, str(ROOT / "tools" / "site"))
commands = pytest.importorskip("commands")

ALL = commands.commands()
ROLES = {path.parent.parent.name for path in ROOT.glob("roles/*/meta/argument_specs.yml")}
PLAYBOOKS = {path.stem for path in ROOT.glob("playbooks/*.yml")}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))

# What runs the commands that match: a test, or a step of the full run of all checks.
RUN_BY = {
    r"fractal-slurm .*": "tests/slurm/test_documented.py",
    r"squeue .*": "tests/slurm/test_documented.py",
    r"sudo --non-interactive .*|sudo (cat|mkdir|sbatch).*|sudo -u|sbatch --parsable|scancel --user": "tests/slurm",
    r"ansible-playbook .*fractal\.slurm\.(site|validate|verify|upgrade|remove)\b.*": "tests/collection",
    r"ansible-playbook .*fractal\.slurm\.demo(_remove)?": "tools/demo",
    r"ansible-galaxy collection install --force \.(\.\.)?": "tests/collection/test_artifact.py",
    r"ansible-doc .*": "tools/docs",
    r"ansible-test sanity": "Makefile",
    r"make (demo|demo-clean|test|test-unit|test-worker|test-integration|lint test docs|docs|lint|sanity|molecule|fuzz)":
        ".ci/run",
    r"systemctl start fractal-slurm-resume": "molecule/default/tests/test_service.py",
    r"make (test-tasks|molecule-all|demo-server)": "Makefile",
    r"python3 -m benchmarks.*|python -m benchmarks --help|make bench": "benchmarks/__main__.py",
    r"python3 (-S -E )?-c pass": "benchmarks/rows.py",
    r"python3 (make_plate|measure_well)\.py .*|cat /tmp/out\.json": "examples/plate/test_plate.py",
    r"python -m fractal_slurm_server": "tests/runtime/server/test_server_switch.py",
    r"python3 roles/testbed/files/testbed.py .*|/var/lib/mytest/bin/sbatch .*": "tests/slurm/conftest.py",
    r"pip install '\.\[server\]'|pip install 'python_runtime\[server\]'": "examples/server/local_server.py",
    r"pip install 'ansible-core.*": "tools/bootstrap",
    r"(sudo )?tools/molecule .*|molecule .*|export .*|podman ps .*": "tools/molecule",
    r"curl .*": "examples/server/fractal_api.py",
}  # fmt: skip
# Why no test runs the commands that match.
NOT_RUN = {
    r"ansible-galaxy collection install --offline .*": "needs an artifact of a release",
    r"ansible-inventory --host HOST": "Ansible's own; shows what a site's inventory has",
    r"chmod \+t|getent group .*|git diff|id (USER|anna@site\.org)": "of the system, or a site's decision",
    r"make (hooks|release.*|test LANES=1|test-in .*|test-oldest|test-fractal-servers?.*|test-golden)":
        "for contributors; needs another release, Python, checkout, or changes this checkout",
    r"pip download .*|pip install ~/.*|pytest --hosts=.*": "needs the internet or a cluster of the reader's own",
    r"scontrol (ping|show job ID|update .*|write batch_script)": "SLURM's own; of a site's administrator",
    r"sudo (--version|-l -U fractal|apt install .*)": "of the system",
    r"systemctl stop": "of the system",
    r"(sudo|sbatch) [a-z].*(requiretty|as USER)\)?|sudo {2,}.*": "words of a message or of a drawing, no command",
}  # fmt: skip


@pytest.mark.parametrize("command", ALL, ids=str)
def test_each_command_is_run_by_a_test_or_said_not_to_be(command):
    found = [pattern for pattern in (*RUN_BY, *NOT_RUN) if re.fullmatch(pattern, command.text)]
    assert found, f"{command}: let a test run it and name that in RUN_BY, or say in NOT_RUN why none does"


def test_no_line_of_the_lists_is_left_over():
    texts = [command.text for command in ALL]
    for pattern in (*RUN_BY, *NOT_RUN):
        assert any(re.fullmatch(pattern, text) for text in texts), pattern
    for place in RUN_BY.values():
        assert (ROOT / place).exists(), place


def named(first):
    return [command for command in ALL if command.text.split()[0] == first]


@pytest.mark.parametrize("command", named("fractal-slurm"), ids=str)
def test_each_command_of_ours_takes_the_options_that_are_shown(command):
    text = command.text.partition(" > ")[0].replace(" ...", "")
    if re.match(r"fractal-slurm [^a-z-]", text):
        pytest.skip("not a command, but what one prints")
    words = shlex.split(text)[1:]
    node: click.Command = cli
    while isinstance(node, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in node.commands, f"{command}: there is no {name}"
        node = node.commands[name]
    known = {option for parameter in node.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
        "--help"
    }
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, command


@pytest.mark.parametrize("command", named("make"), ids=str)
def test_each_target_of_make_is_there(command):
    words = [word for word in command.text.split()[1:] if "=" not in word]
    assert set(words) <= TARGETS, command


@pytest.mark.parametrize("command", named("ansible-playbook"), ids=str)
def test_each_playbook_and_variable_is_there(command):
    [playbook] = re.findall(r"fractal\.slurm\.(\w+)", command.text)
    assert playbook in PLAYBOOKS, command
    known = (ROOT / "playbooks" / f"{playbook}.yml").read_text("utf-8")
    for role in ROLES:
        known += (ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text("utf-8")
    for variable in re.findall(r"-e (\w+)=", command.text):
        assert variable in known, command
    for tag in re.findall(r"--tags (\w+)", command.text):
        assert tag in known, command


@pytest.mark.parametrize("command", named("ansible-doc"), ids=str)
def test_each_role_and_module_is_there(command):
    [name] = re.findall(r"fractal\.slurm\.(\w+)", command.text)
    if "-t role" not in command.text:
        assert (ROOT / "plugins" / "modules" / f"{name}.py").exists(), command
        return
    assert name in ROLES, command
    [entry] = re.findall(r"-e (\w+)", command.text) or ["main"]
    specs = yaml.safe_load((ROOT / "roles" / name / "meta" / "argument_specs.yml").read_text("utf-8"))
    assert entry in specs["argument_specs"], command
