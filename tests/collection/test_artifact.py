# SPDX-License-Identifier: GPL-3.0-or-later
"""The artifact: what is in it, and that it works from an empty home without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from .conftest import ROOT, without_ansible_settings

BIN = Path(sys.executable).parent
# Folders whose tracked files go in, all of them, but for what is named below; nothing else goes in.
FOLDERS = ("LICENSES", "changelogs", "docs", "examples", "meta", "playbooks", "plugins", "python_runtime", "roles")
FILES = ("CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md")
LEFT_OUT = ("examples/plate/test_", "examples/server/test_", "changelogs/fragments/")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """The artifact, built from a clone, so that nothing but what is committed can go in by way of git."""
    folder = tmp_path_factory.mktemp("artifact")
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    # what a working checkout has lying about
    for litter in (".build/x", ".venv/y.py", "plugins/modules/__pycache__/z.pyc", "python_runtime/dist/a.whl"):
        (clone / litter).parent.mkdir(parents=True, exist_ok=True)
        (clone / litter).write_text("")
    (clone / "roles" / "runtime" / "secret.key").write_text("")
    subprocess.run(
        [BIN / "ansible-galaxy", "collection", "build", "--output-path", str(folder), str(clone)],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("fractal-slurm-*.tar.gz"))


def tracked():
    names = subprocess.run(
        ["git", "-C", ROOT, "ls-tree", "-r", "--name-only", "HEAD"], capture_output=True, text=True, check=True
    )
    return {
        name
        for name in names.stdout.splitlines()
        if (name in FILES or name.split("/")[0] in FOLDERS) and not name.startswith(LEFT_OUT)
    }


def test_holds_what_is_tracked_in_its_folders_and_nothing_else(artifact):
    with tarfile.open(artifact) as archive:
        held = {member.name for member in archive.getmembers() if member.isfile()}
    assert held - {"MANIFEST.json", "FILES.json"} == tracked()


def test_works_from_an_empty_home_without_a_network(artifact, tmp_path):
    environment = {"HOME": str(tmp_path), "PATH": f"{BIN}:/usr/bin:/bin", "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"}
    for name in ("http_proxy", "https_proxy"):
        environment[name] = "http://127.0.0.1:9"  # nobody answers there
    subprocess.run(
        ["ansible-galaxy", "collection", "install", "--offline", str(artifact)],
        check=True,
        capture_output=True,
        env=environment,
        cwd=tmp_path,
    )
    installed = tmp_path / ".ansible" / "collections" / "ansible_collections" / "fractal" / "slurm"
    inventory = installed / "playbooks" / "inventory"
    for example in ("one_host", "cluster"):
        result = subprocess.run(
            ["ansible-playbook", "-i", str(inventory / example), "fractal.slurm.validate"],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stdout + result.stderr
    for playbook in ("site", "verify", "upgrade", "remove"):
        result = subprocess.run(
            ["ansible-playbook", "--syntax-check", "-i", str(inventory / "cluster"), f"fractal.slurm.{playbook}"],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_line_that_installs_it_works_a_second_time(artifact, tmp_path):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\$ (ansible-galaxy collection install .*?)(?:\s+#.*)?$", readme, re.MULTILINE)
    environment = {"HOME": str(tmp_path), "PATH": f"{BIN}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    for _time in range(2):
        subprocess.run(
            ["/bin/sh", "-c", f"{line} --offline"],
            check=True,
            capture_output=True,
            env=environment,
            cwd=artifact.parent / "clone",
        )
    assert (tmp_path / ".ansible/collections/ansible_collections/fractal/slurm/MANIFEST.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="root's rights are needed")
def test_site_yml_works_from_it(artifact, site, tmp_path):
    collections = tmp_path / "collections"
    subprocess.run(
        # --force: nothing is installed where the home of who runs the tests holds this version already
        [BIN / "ansible-galaxy", "collection", "install", "--offline", "--force", "-p", collections, artifact],
        check=True,
        capture_output=True,
        env=without_ansible_settings(),  # nor where ANSIBLE_COLLECTIONS_PATH does
    )
    site.collections = collections
    outcome = site.play("fractal.slurm.site")
    assert outcome.status == 0, outcome.output
    assert outcome.changed == {"one": 3}
