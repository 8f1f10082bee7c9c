# SPDX-License-Identifier: GPL-3.0-or-later
"""One word for each thing: the words of the glossary, and none of those that it says we do not use."""

from __future__ import annotations

import re

import pytest

from .tools import ROOT

PAGE = ROOT / "docs" / "glossary.md"
# What people read: pages, messages, help, descriptions, docstrings and comments, those of tests and tools, too.
PLACES = (
    "*.md", "docs/**/*.md", "roles/**/*.md", "roles/**/*.yml", "roles/**/*.py", "plugins/**/*.py", "playbooks/**/*.yml",
    "playbooks/**/*.md", "python_runtime/**/*.py", "python_runtime/*.md", "examples/**/*.py", "examples/**/*.md",
    "molecule/**/*.md", "benchmarks/*.md", "benchmarks/**/*.py", "tests/**/*.py", "tests/**/*.md", "tools/**/*",
    "changelogs/fragments/*.yml", "galaxy.yml", "Makefile", "python_runtime/**/*.sh", "**/*.j2",
)  # fmt: skip


def tables():
    """The two tables of the page, as lists of rows."""
    found = []
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("| --- "):
            found.append([])
        elif line.startswith("| ") and found:
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return found


TERMS, AVOIDED = tables()
FILES = sorted(
    path
    for place in PLACES
    for path in ROOT.glob(place)
    if path.is_file() and path != PAGE and path.name != "CHANGELOG.md"
    if not {".build", "__pycache__", "output"} & set(path.parts)
)


def texts_of(words):
    """The words of a cell, as patterns: without the case of the first letter, over the ends of lines."""
    for word in re.findall(r"`([^`]+)`", words):
        first, rest = word[0], re.escape(word[1:]).replace(r"\ ", r"\s+(?:# |- )?")
        yield rf"(?<![\w.`])[{first.lower()}{first.upper()}]{rest}(?:s|es)?\b"


@pytest.mark.parametrize("row", AVOIDED, ids=lambda row: row[0])
def test_nobody_uses_another_word(row):
    words, instead, but = row
    kept = re.findall(r"`([^`]+)`", but)
    found = []
    for path in FILES:
        text = path.read_text("utf-8")
        for others in kept:
            text = text.replace(others, "")
        for pattern in texts_of(words):
            for hit in re.finditer(pattern, text):
                line = text.count("\n", 0, hit.start()) + 1
                found.append(f"{path.relative_to(ROOT)}:{line}: {hit[0]!r}; we say {instead}")
    assert not found, "\n".join(found)


def test_each_word_to_say_instead_is_a_term():
    terms = {term.strip() for row in TERMS for term in row[0].split(",")}
    for _words, instead, _but in AVOIDED:
        assert instead in terms, instead
