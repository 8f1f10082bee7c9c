# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a person may set or call is described, and has an example that works."""

from __future__ import annotations

import json
import re
import sys

import pytest
import yaml
from fractal_slurm.config.file import load_config_file
from fractal_slurm.settings import load_settings

from .tools import ROOT

sys.path.insert(0, str(ROOT / "tools" / "site"))
reference = pytest.importorskip("reference")

LISTS = {
    "sections": reference.config_sections(),
    "options": reference.config_options(),
    "batching": reference.batching_keys(),
    "settings": reference.settings(),
    "playbooks": reference.playbook_variables(),
    **{f"role {role}": entries for role, entries in reference.roles().items()},
}


@pytest.mark.parametrize("name", LISTS)
def test_each_name_has_a_description_and_an_example(name):
    """If this fails: describe the name where it is defined, and add an example to tools/site/examples.yml."""
    for entry in LISTS[name]:
        assert len(entry.text) > 10, f"{entry.name} has no description"
        # the default of a role's variable may be telling enough, or the variable is one of many alike
        assert name.startswith("role ") or entry.example not in (None, "", [], {}), f"{entry.name} has no example"


def test_no_example_is_of_a_name_that_is_gone():
    known = {entry.name for entries in LISTS.values() for entry in entries}
    for names in reference.examples().values():
        assert not set(names) - known


def test_the_config_of_the_examples_is_valid(tmp_path):
    config = dict(reference.examples()["config"])
    options = {**config["default_slurm_config"], **reference.examples()["options"]}
    # gpus and gres exclude nothing of each other in the schema; each is shown by itself
    for left_out in ("gres", "gpus"):
        chosen = {name: value for name, value in options.items() if name != left_out}
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**config, "default_slurm_config": chosen}), encoding="utf-8")
        load_config_file(file)


def test_each_setting_of_the_examples_is_valid(tmp_path):
    for entry in reference.settings():
        file = tmp_path / "settings.toml"
        file.write_text(f"{entry.name} = {reference.toml(entry.example)}\n", encoding="utf-8")
        value = getattr(load_settings(file, {}), entry.name)
        assert (value.model_dump(exclude_unset=True) if entry.kind == "table" else value) == entry.example


def test_variables_of_the_examples_have_the_right_type():
    kinds = {"str": str, "path": str, "list": list, "dict": dict, "bool": bool, "int": int, "raw": object}
    for role in reference.roles():
        path = ROOT / "roles" / role / "meta" / "argument_specs.yml"
        for name, option in yaml.safe_load(path.read_text("utf-8"))["argument_specs"]["main"]["options"].items():
            example = reference.examples()["variables"].get(name, option.get("default"))
            assert example is None or isinstance(example, kinds[option.get("type", "str")]), name
            assert example is None or example in option.get("choices", [example]), name


def test_each_variable_that_a_playbook_reads_is_described():
    described = {entry.name for entries in LISTS.values() for entry in entries}
    # what roles leave for playbooks, and what the demo hands to its own parts
    own = re.compile(r"fractal_slurm_demo_\w+|fractal_slurm_\w+_(checked|result)|fractal_slurm_compute")
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        text = path.read_text("utf-8")
        made = set(re.findall(r"register: (fractal_slurm_\w+)", text))
        made |= set(re.findall(r"^\s*(fractal_slurm_\w+):", text, re.MULTILINE))
        for name in set(re.findall(r"\bfractal_slurm_\w+", text)) - made - described:
            assert own.fullmatch(name), f"{path.name}: {name} is described nowhere"


def test_each_option_of_a_module_or_filter_is_described():
    for path in sorted((ROOT / "plugins" / "modules").glob("*.py")):
        (text,) = re.findall(r'^DOCUMENTATION = r?"""(.*?)"""', path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        _described(path, yaml.safe_load(text).get("options") or {})
    for path in sorted((ROOT / "plugins" / "filter").glob("*.yml")):
        _described(path, yaml.safe_load(path.read_text("utf-8"))["DOCUMENTATION"].get("options") or {})


def _described(path, options):
    for name, option in options.items():
        assert option.get("description"), f"{path.name}: option {name} has no description"
        _described(path, option.get("suboptions") or {})


def test_each_option_of_a_command_is_described():
    from fractal_slurm.cli import cli

    for command in cli.commands.values():
        assert command.help, command.name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{command.name} {parameter.opts[-1]}"


def test_each_exit_code_of_a_job_is_in_the_table_of_codes():
    from fractal_slurm.node.protocol import EXITS

    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "codes.md").read_text("utf-8"), re.MULTILINE)
    assert {str(code) for code in EXITS} <= set(rows)


@pytest.mark.parametrize("states", ["RunState", "JobState", "TaskState"])
def test_each_state_is_in_the_tables_of_states(states):
    from fractal_slurm.driver import model

    text = (ROOT / "docs" / "codes.md").read_text("utf-8")
    for state in getattr(model, states):
        assert f"`{state}`" in text, state


def test_the_glossary_is_in_order():
    text = (ROOT / "docs" / "glossary.md").read_text("utf-8").partition("\n## ")[0]
    words = [line.split("|")[1].strip().lower() for line in text.splitlines() if line.startswith("| ")][2:]
    assert words == sorted(words)


def test_links_between_files_of_the_repository_lead_somewhere():
    """The pages' own links are checked when they are built; these are the links that GitHub shows."""
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "roles").glob("*/README.md")]:
        text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"
