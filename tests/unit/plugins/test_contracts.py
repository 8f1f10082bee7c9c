# SPDX-License-Identifier: GPL-3.0-or-later
"""What several files state must be the same in all of them."""

from __future__ import annotations

import ast
import itertools
import os
import re
import tempfile
from pathlib import Path

import pytest
import yaml
from ansible_collections.fractal.slurm.plugins.module_utils import commands, sudo_rules, trusted_path
from ansible_collections.fractal.slurm.plugins.modules import service_environment
from ansible_collections.fractal.slurm.plugins.plugin_utils.runtime import runtime_module

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
FILTERS = sorted((ROOT / "plugins" / "filter").glob("*.yml"))
ROLES = ("sudoers", "slurm_config", "runtime", "server_engine", "testbed")


def read_yaml(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def documentation(module):
    tree = ast.parse((ROOT / "plugins" / "modules" / f"{module}.py").read_text(encoding="utf-8"))
    texts = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    return tuple(yaml.safe_load(ast.literal_eval(texts[name])) for name in ("DOCUMENTATION", "EXAMPLES", "RETURN"))


def test_hosts_and_runtime_agree_on_commands_their_forms_and_aliases():
    rules = runtime_module("sudo_rules")
    for name in ("COMMANDS", "SLURM_COMMANDS", "RUNAS_ALIAS", "CMND_ALIAS", "FORMS"):
        assert getattr(sudo_rules, name) == getattr(rules, name)


def test_what_hosts_are_asked_are_the_forms_of_the_runtime():
    rules = runtime_module("sudo_rules")
    patterns = rules.hardened_arguments(["/work"])
    asked = sudo_rules.examples("/work")
    assert len(asked) == len(rules.FORMS)
    for command, arguments in asked:
        rules.check_form(command, arguments)
        joined = " ".join(arguments)
        assert any(re.search(text, joined) if text.startswith("^") else text == joined for text in patterns[command])


def agree_on_user(name):
    """Whether the hosts' rule and the runtime's say the same of a user's name; root is the role's to refuse."""
    try:
        runtime_module("sudo_rules").check_user_name(name)
        taken = True
    except ValueError:
        taken = name == "root"
    return taken == (sudo_rules.fault_of_account_name(name, "user") is None)


def test_hosts_and_runtime_agree_on_names_of_users():
    for name in ("anna", "a.b-c_d", "A1b", "_x", "anna@site.org", "SITE\\anna", "SITE+anna", "1anna", "ANNA", "host$"):
        assert sudo_rules.fault_of_account_name(name, "user") is None
        assert agree_on_user(name)
    refused = "|ALL|7|a b|a\\|a\\\\b|-a|#5|%a|+a|!a|a,b|a:b|a=b|\u00e9|a\n|a'b|.a|a$b|7$|a\"b|(a)|~a|a/b"
    for name in (*refused.split("|"), "a" * 256):
        assert sudo_rules.fault_of_account_name(name, "user") is not None
        assert agree_on_user(name)


def test_hosts_and_runtime_agree_on_every_short_name():
    signs = "aZ0_.@+\\-$ %#,!\n"
    names = ("".join(word) for length in range(4) for word in itertools.product(signs, repeat=length))
    assert [name for name in names if not agree_on_user(name)] == []


def test_hosts_and_runtime_look_for_commands_in_the_same_folders():
    assert commands.PATH == runtime_module("sudo").PATH


def test_the_config_file_and_the_settings_are_in_the_same_place_for_all():
    config, settings = runtime_module("config.file"), runtime_module("settings")
    places = [documentation(name)[0]["options"]["path"]["default"] for name in ("slurm_config", "slurm_config_info")]
    places.append(documentation("verify_deployment")[0]["options"]["config_path"]["default"])
    defaults = {
        role: read_yaml(ROOT / "roles" / role / "defaults" / "main.yml") for role in ("slurm_config", "runtime")
    }
    places.append(defaults["slurm_config"]["fractal_slurm_config_path"])
    assert set(places) == {config.DEFAULT_CONFIG_FILE}
    assert service_environment._VARIABLE == config.ENVIRONMENT_VARIABLE
    assert defaults["runtime"]["fractal_slurm_runtime_settings_file"] == str(settings.SETTINGS_FILE)


@pytest.fixture
def open_folder():
    """A folder that everybody can pass, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)  # noqa: S103 - for others to pass
        yield Path(name)


def test_hosts_and_runtime_agree_on_what_others_can_reach(open_folder):
    both = (trusted_path.unreachable_part, runtime_module("driver.folders").unreachable_part)
    base = open_folder
    (base / "closed").mkdir(mode=0o700)
    for name, mode in (("run", 0o755), ("read", 0o744), ("closed/run", 0o755)):
        (base / name).touch()
        (base / name).chmod(mode)
    (base / "in").symlink_to("closed/run")
    (base / "closed" / "out").symlink_to("../run")
    expected = {
        "run": None, "read": "read", "closed/run": "closed", "in": "closed", "closed/out": "closed", "closed": "closed"
    }  # fmt: skip
    for name, part in expected.items():
        found = {str(unreachable(str(base / name))) for unreachable in both}
        assert found == {"None" if part is None else str(base / part)}, name
    assert {unreachable(str(base / "read"), 0o004) for unreachable in both} == {None}


def test_every_module_is_in_the_action_group():
    groups = read_yaml(ROOT / "meta" / "runtime.yml")["action_groups"]
    assert sorted(groups["slurm"]) == [f"fractal.slurm.{name}" for name in MODULES]


def test_every_module_and_filter_is_in_the_changelog():
    releases = read_yaml(ROOT / "changelogs" / "changelog.yaml")["releases"].values()
    modules = sorted(entry["name"] for release in releases for entry in release.get("modules", []))
    filters = sorted(entry["name"] for release in releases for entry in release.get("plugins", {}).get("filter", []))
    versions = read_yaml(ROOT / "changelogs" / "changelog.yaml")["releases"]
    released = [name for name in MODULES if documentation(name)[0]["version_added"] in versions]
    assert (modules, filters) == (released, [path.stem for path in FILTERS])


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_documented_with_examples(module):
    described, examples, _returned = documentation(module)
    assert described["module"] == module
    assert examples
    assert all(f"fractal.slurm.{module}" in example or "ansible.builtin.debug" in example for example in examples)


def without_sample(returned, path=""):
    """Paths of the documented values that show none."""
    for name, value in returned.items():
        if "contains" in value:
            yield from without_sample(value["contains"], f"{path}{name}.")
        elif "sample" not in value:
            yield path + name


@pytest.mark.parametrize("module", MODULES)
def test_every_value_that_a_module_returns_has_a_sample(module):
    assert list(without_sample(documentation(module)[2])) == []


@pytest.mark.parametrize("path", FILTERS, ids=lambda path: path.stem)
def test_every_value_that_a_filter_returns_has_a_sample(path):
    assert list(without_sample(read_yaml(path)["RETURN"])) == []


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_begins_with_the_prefix_and_has_its_default(role):
    folder = ROOT / "roles" / role
    options = read_yaml(folder / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    defaults = read_yaml(folder / "defaults" / "main.yml")
    assert all(name.startswith("fractal_slurm_") for name in [*options, *defaults])
    assert {name: option["default"] for name, option in options.items() if "default" in option} == defaults


def test_the_oldest_ansible_core_is_the_one_that_is_tried():
    oldest = read_yaml(ROOT / "meta" / "runtime.yml")["requires_ansible"].removeprefix(">=").removesuffix(".0")
    assert f"ansible-core>={oldest},<" in (ROOT / "tools" / "requirements-oldest.txt").read_text(encoding="utf-8")
