# SPDX-License-Identifier: BSD-3-Clause
"""Users whose names are as directory services have them, on a real SLURM and the real sudo."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from conftest import ANNA, GROUP, NAME, WORK, Call, grant

NAMES = [f"{NAME}@site.org", f"{NAME}\\anna", f"{NAME}+anna", NAME.upper(), f"1{NAME}"]


@pytest.fixture(scope="module")
def users() -> Iterator[None]:
    for name in NAMES:
        subprocess.run(["useradd", "--badname", "--no-create-home", name], check=True, capture_output=True)
    grant(", ".join([ANNA, f"%{GROUP}", *(f'"{name}"' for name in NAMES)]))
    yield
    grant(f"{ANNA}, %{GROUP}")
    for name in NAMES:
        subprocess.run(["userdel", name], check=False, capture_output=True)


@pytest.mark.parametrize("user", NAMES, ids=["realm", "domain", "plus", "capitals", "digit"])
def test_a_unit_of_work_runs_as_the_user(call: Call, users: None, user: str) -> None:
    folder = WORK / call.folder.name / "work"
    folder.mkdir(mode=0o700)
    subprocess.run(["chown", "--", f"{user}:", folder], check=True)
    task = call.script('#!/bin/sh\nprintf {} > "$4"\n')
    spec = call.spec(task, 2)
    outcome = call("run", spec, "--user", user, "--cache-dir", str(folder), "--work-dir", str(folder), "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome["succeeded"] == 2
    uid = subprocess.run(["id", "-u", "--", user], capture_output=True, text=True, check=True).stdout.strip()
    assert {path.lstat().st_uid for path in folder.rglob("*")} <= {int(uid)}
    assert call.report()["user"] == user
