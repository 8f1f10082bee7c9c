# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of users and groups as directory services have them, on the real sudo: what we write is what it reads.

It runs in a mount namespace of its own, with an /etc of its own: no account is made on this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

USERS = ["anna@site.org", "SITE\\anna", "SITE+anna", "1anna", "ANNA", "A1", "host$", "10.0.0.1", "sha256", "sudoedit"]
# Every sign that the rule takes, in every place where it takes it; one service account will do for them.
SIGNS = [f"a{sign}b" for sign in "._@+-"] + [f"c{sign}" for sign in "._@+-"]
SIGNS += ["A", "_", "9z", "_$", "A\\B", "Al.Bo@S.ORG"]
GROUPS = [*USERS, "Domain Users", "SITE\\domain users", "R&D (all)", "o'neil"]
SERVICES = ["svc@site.org", "SITE\\svc", "SVC", "1svc"]
# Inside the namespace: which of the accounts does sudo let each service account act as?
ASK = """
import json, os, subprocess, sys
found = {}
for entry, text, uid, users in json.load(sys.stdin):
    with open("/etc/sudoers", "w") as stream:
        stream.write(text)
    os.chmod("/etc/sudoers", 0o440)
    subprocess.run(["visudo", "-cqf", "/etc/sudoers"], check=True)
    for user in users:
        argv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        argv += ["sudo", "--non-interactive", "--set-home", "-u", user, "--", "/usr/bin/id", "-un"]
        answer = subprocess.run(argv, capture_output=True, text=True)
        if answer.returncode == 0:
            found.setdefault(entry, []).append(answer.stdout.strip())
print(json.dumps(found))
"""


@pytest.fixture
def etc(tmp_path: Path) -> Iterator[Path]:
    """A copy of /etc with the accounts: each user by name, and one member for each group."""
    folder = tmp_path / "etc"
    # What useradd and its like make for a moment may be gone before it is copied.
    passing = shutil.ignore_patterns("*.lock", *(f"{name}[.+]*" for name in ("passwd", "*shadow", "group", "sub?id")))
    shutil.copytree("/etc", folder, symlinks=True, ignore_dangling_symlinks=True, ignore=passing)
    tmp_path.chmod(0o755)
    shutil.rmtree(folder / "sudoers.d")
    members = [f"member{number}" for number in range(len(GROUPS))]
    lines = {"passwd": [], "group": [], "shadow": []}
    for number, name in enumerate([*USERS, *SERVICES, *SIGNS, *members]):
        lines["passwd"].append(f"{name}:x:{70000 + number}:{70000 + number}::/:/bin/sh")
        lines["shadow"].append(f"{name}:*:19000:0:99999:7:::")
    for number, (group, member) in enumerate(zip(GROUPS, members, strict=True)):
        lines["group"].append(f"{group}:x:{80000 + number}:{member}")
    for name, found in lines.items():
        with (folder / name).open("a") as stream:
            stream.write("".join(f"{line}\n" for line in found))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="root's rights are needed")
@pytest.mark.parametrize("service", SERVICES)
def test_sudo_reads_each_name_as_just_that(machine: None, etc: Path, service: str) -> None:
    from ansible_collections.fractal.slurm.plugins.module_utils import sudo_rules, sudoers

    assert [name for name in [*USERS, *SIGNS] if sudo_rules.fault_of_account_name(name, "user")] == []
    uid = 70000 + len(USERS) + SERVICES.index(service)
    members = {f"%{group}": f"member{number}" for number, group in enumerate(GROUPS)}
    accounts = {**{user: user for user in [*USERS, *(SIGNS if service == SERVICES[0] else [])]}, **members}
    lists = {entry: ([entry], [account, "daemon", USERS[0]]) for entry, account in accounts.items()}
    lists["all"] = (list(accounts), [*accounts.values(), "daemon"])
    questions = [
        (entry, sudoers.render(service, entries, {"id": "/usr/bin/id"}, privileged_groups=["Domain Users"]), uid, users)
        for entry, (entries, users) in lists.items()
        if entry != USERS[0]
    ]
    enter = f'mount --make-rprivate / && mount --bind {etc} /etc && exec {sys.executable} -c "$0"'
    argv = ["unshare", "--mount", "sh", "-c", enter, ASK]
    answer = subprocess.run(argv, input=json.dumps(questions), capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    closed = members["%Domain Users"]
    expected = {entry: [account] for entry, account in accounts.items() if account not in (closed, USERS[0])}
    expected["all"] = [account for account in accounts.values() if account != closed]
    assert json.loads(answer.stdout) == expected
