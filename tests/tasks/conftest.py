# SPDX-License-Identifier: GPL-3.0-or-later
"""Real Fractal tasks, in a virtual environment of their own (`make test-tasks`)."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The helpers that run a worker in a process of its own.
for folder in ("", "node"):
    sys.path.insert(0, str(ROOT / "tests" / "runtime" / folder))

import test_nursery  # noqa: E402 - found there alone

tasks = test_nursery.tasks  # a fixture
