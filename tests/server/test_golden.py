# SPDX-License-Identifier: GPL-3.0-or-later
"""The same workflows on fractal-server's own runner and on the engine leave the same: rows, files, zip, texts."""

import fnmatch
import os
import time
import traceback
from pathlib import Path

import golden_picture
import pytest
from golden_cases import cases

MANY = int(os.environ.get("GOLDEN_MANY", "200"))
CASES = {case.name: case for case in cases(MANY) if fnmatch.fnmatch(case.name, os.environ.get("GOLDEN_CASES", "*"))}
DIFFERENCES = Path(__file__).with_name("golden_differences.toml")


@pytest.fixture(scope="module")
def pictures(real_server):
    """What each workflow left, by way and name; an error in its place where it could not be run."""
    found = {}
    for way in ("own", "engine"):
        real_server.start(engine=way == "engine")
        for name, case in CASES.items():
            began = time.monotonic()
            try:
                found[way, name] = real_server.run(case)
            except Exception:
                found[way, name] = traceback.format_exc()
            print(f"{way}: {name}: {time.monotonic() - began:.1f} s", flush=True)
    return found


@pytest.fixture(scope="module")
def used():
    """The differences by design that were met."""
    return set()


@pytest.mark.parametrize("name", CASES)
def test_leaves_the_same(real_server, pictures, used, name):
    known, rewrites = golden_picture.read(DIFFERENCES, real_server.version)
    own, engine = pictures["own", name], pictures["engine", name]
    assert isinstance(own, dict), own
    assert isinstance(engine, dict), engine
    assert own["job/status"] == CASES[name].status, own["job/log"]
    own, in_own = golden_picture.rewritten(own, rewrites)
    engine, in_engine = golden_picture.rewritten(engine, rewrites)
    used |= in_own | in_engine
    unknown = []
    for difference in golden_picture.compare(name, own, engine):
        reasons = [entry for entry in known if entry.covers(difference)]
        used.update(entry.reason for entry in reasons)
        if not reasons:
            unknown.append(difference)
    assert not unknown, "\n" + "\n".join(map(str, unknown[:60]))


@pytest.mark.skipif("GOLDEN_CASES" in os.environ, reason="not all workflows ran")
def test_each_difference_by_design_is_still_one(real_server, pictures, used):
    known, rewrites = golden_picture.read(DIFFERENCES, real_server.version)
    assert {entry.reason for entry in (*known, *rewrites)} - used == set()
