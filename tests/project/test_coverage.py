# SPDX-License-Identifier: GPL-3.0-or-later
"""tools/coverage: a line for each folder, and a floor."""

import json

import pytest

from .tools import load

TOOL = load("coverage")


@pytest.fixture
def report(tmp_path):
    def write(covered):
        rest = {"num_statements": 80, "covered_branches": 0, "num_branches": 20}
        files = {
            "python_runtime/src/fractal_slurm/driver/a.py": {"summary": {"covered_lines": covered, **rest}},
            "plugins/modules/b.py": {"summary": {"covered_lines": 80, **rest, "covered_branches": 20}},
        }
        (tmp_path / "report.json").write_text(json.dumps({"files": files}))
        return str(tmp_path / "report.json")

    return write


def test_shows_each_folder_and_the_whole(report, capsys):
    assert TOOL.main(report(80)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["   80.0 %  fractal_slurm/driver", "  100.0 %  plugins/modules", "   90.0 %  all"]


def test_fails_below_the_floor(report, capsys):
    assert TOOL.main(report(0)) == 1
    assert "tests are missing" in capsys.readouterr().err
