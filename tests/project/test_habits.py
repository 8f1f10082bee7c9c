# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists that must agree: checks and hooks, tools and their exact versions."""

from __future__ import annotations

import re
import subprocess

import yaml

from .tools import ROOT, TOOLS


def test_hooks_do_each_check_of_the_linters_and_nothing_else():
    checks = subprocess.run([TOOLS / "lint", "--list"], capture_output=True, text=True, check=True).stdout.split()
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}, "hooks of other repositories need a network"
    assert [hook["entry"].split()[-1] for hook in hooks if "stages" not in hook] == checks
    assert [hook["entry"] for hook in hooks if "stages" in hook] == ["python3 tools/commit-message"]


def test_each_tool_has_an_exact_version():
    """If this fails: run tools/lock, and commit what it wrote."""
    lock = (TOOLS / "requirements-lock.txt").read_text(encoding="utf-8")
    locked = {name.lower() for name in re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)}
    for level in ("run", "dev", "docs", "molecule", "fuzz"):
        lines = (TOOLS / f"requirements-{level}.txt").read_text(encoding="utf-8").splitlines()
        wanted = {re.split(r"[^\w.-]", line)[0].lower() for line in lines if line and line[0] not in "#-"}
        assert not wanted - locked, f"requirements-{level}.txt: {', '.join(sorted(wanted - locked))}"


def test_no_link_of_a_checkout_leads_into_the_checkout_as_a_whole():
    """`ansible-galaxy collection install .` follows links without an end, if distlib is older than 0.4."""
    collection = ROOT / ".build/collections/ansible_collections/fractal/slurm"
    assert (collection / "plugins").samefile(ROOT / "plugins")
    assert not (collection / ".build").exists()
