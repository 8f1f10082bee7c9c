# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hook says of commit messages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .tools import TOOLS, load

commit_message = load("commit-message")
GOOD = "Keep the tasks of a lost node\n\nThey were given up.\n"


@pytest.mark.parametrize(
    "message",
    [
        GOOD,
        "# a comment of git's\nKeep it\n\nA reason.\n# more\n",
        "Merge branch 'x'",
        'Revert "Keep it"\n',
        "fixup! Keep it\n",
    ],
)
def test_takes_what_follows_the_rules(message):
    assert commit_message.faults(message) == []


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ("", "empty"),
        ("K" * 73 + "\n\nA reason.\n", "73 characters"),
        ("keep it\n\nA reason.\n", "capital letter"),
        ("Keep it.\n\nA reason.\n", "full stop"),
        ("Keep it\nA reason.\n", "second line"),
        ("Keep it\n", "body is missing"),
        ("Keep it\n\nSigned-off-by: A B <a@b.org>\n", "body is missing"),
    ],
)
def test_says_what_is_wrong(message, fault):
    assert [found for found in commit_message.faults(message) if fault in found]


def test_reads_a_file_as_git_gives_it(tmp_path):
    file = tmp_path / "COMMIT_EDITMSG"
    file.write_text(GOOD)
    assert subprocess.run([sys.executable, TOOLS / "commit-message", file], check=False).returncode == 0
    # what `git commit --verbose` adds is no body
    file.write_text("Keep it\n\n# ------------------------ >8 ------------------------\ndiff --git a b\n")
    result = subprocess.run(
        [sys.executable, TOOLS / "commit-message", file], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "body is missing" in result.stderr
