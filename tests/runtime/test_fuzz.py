# SPDX-License-Identifier: GPL-3.0-or-later
"""Inputs that the fuzzers keep: what once ended in a traceback, a hang or much memory, and samples of every form."""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from targets import CORPUS, TARGETS, attempt, seeds


def test_every_reader_has_samples():
    assert {entry.name for entry in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize(
    ("name", "file"),
    [(name, file) for name in TARGETS for file in seeds(name)],
    ids=lambda value: getattr(value, "name", value),
)
def test_is_read_or_refused_at_once(name, file):
    began = time.monotonic()
    attempt(name, file.read_bytes())
    assert time.monotonic() - began < 15
