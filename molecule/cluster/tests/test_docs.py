# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests that docs/testing.md shows, run from outside as its reader would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

SHOWN = re.search(r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs/testing.md").read_text(), re.DOTALL)[1]


def run_pytest(folder, text):
    (folder / "test_cluster.py").write_text(text)
    options = [
        "--hosts=ssh://fsm-cluster-login",
        f"--ssh-config={os.environ['MOLECULE_EPHEMERAL_DIRECTORY']}/ssh_config",
    ]
    argv = [sys.executable, "-m", "pytest", "-q", *options, "test_cluster.py"]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=300)


def test_what_is_shown_passes(tmp_path):
    ended = run_pytest(tmp_path, SHOWN)
    assert ended.returncode == 0, ended.stdout
    assert f"{len(re.findall('^def test_', SHOWN, re.MULTILINE)) + 1} passed" in ended.stdout


def test_each_fails_where_the_cluster_is_otherwise(tmp_path):
    wrong = {
        '{"idle"}': '{"down"}',
        '"hostname"': '"exit 3"',
        '["root", "slurm"]': '["anna"]',
        '["anna", "ben"]': '["anna", "carl"]',
        "/usr/bin/true": "/usr/bin/false",
    }
    text = SHOWN
    for right, other in wrong.items():
        assert text.count(right) == 1
        text = text.replace(right, other)
    ended = run_pytest(tmp_path, text)
    assert f"{len(wrong)} failed in" in ended.stdout, ended.stdout
