# SPDX-License-Identifier: GPL-3.0-or-later
"""The hardened rules let the runtime do its work, and nothing else."""

import pytest
from fractal_slurm.testing import fractal_run, run_as

testinfra_hosts = ["ssh://fsm-hardened-host"]

BASE = "/var/lib/fractal-slurm-testbed"
HOME = f"{BASE}/home/anna"
SBATCH, SCANCEL = f"{BASE}/bin/sbatch", f"{BASE}/bin/scancel"
CAT, LS, MKDIR = "/usr/bin/cat", "/usr/bin/ls", "/usr/bin/mkdir"
AS_ANNA = ["-u", "anna", "--"]
JOB = "#!/bin/sh\n#SBATCH --output=/dev/null\ntrue\n"

# What the runtime does, to the letter.
ALLOWED = {
    "sbatch": [*AS_ANNA, SBATCH, "--parsable"],
    "scancel one": [*AS_ANNA, SCANCEL, "1"],
    "scancel several": [*AS_ANNA, SCANCEL, "1", "2"],
    "mkdir above": [*AS_ANNA, MKDIR, "-p", "-m", "700", "--", f"{HOME}/work"],
    "mkdir private": [*AS_ANNA, MKDIR, "-m", "700", "--", f"{HOME}/work/run"],
    "mkdir": [*AS_ANNA, MKDIR, "--", f"{HOME}/work/run/claim"],
    "ls": [*AS_ANNA, LS, "--", f"{HOME}/work/run"],
    "ls several": [*AS_ANNA, LS, "--", f"{HOME}/work", f"{HOME}/work/run"],
    "cat": [*AS_ANNA, CAT, "--", f"{HOME}/work/result"],
}

ESCAPES = {
    # whom
    "another user": ["-u", "carl", "--", SBATCH, "--parsable"],
    "another user by number": ["-u", "#0", "--", SBATCH, "--parsable"],
    "root": ["-u", "root", "--", CAT, "--", f"{HOME}/work/result"],
    "root by default": [CAT, "--", f"{HOME}/work/result"],
    "the account of SLURM": ["-u", "slurm", "--", SCANCEL, "1"],
    "a group": ["-g", "root", "--", CAT, "--", f"{HOME}/work/result"],
    "a user with a group": ["-u", "anna", "-g", "root", "--", LS, "--", f"{HOME}/work"],
    "a member of a privileged group": ["-u", "frida", "--", SBATCH, "--parsable"],
    # what
    "a shell": [*AS_ANNA, "/bin/bash"],
    "a login shell": ["-u", "anna", "-i"],
    "the shell option": ["-u", "anna", "-s"],
    "an editor": [*AS_ANNA, "/usr/bin/vi", f"{HOME}/work/result"],
    "sudoedit": ["-u", "anna", "-e", f"{HOME}/work/result"],
    "env": [*AS_ANNA, "/usr/bin/env", SBATCH, "--parsable"],
    "python": [*AS_ANNA, "/usr/bin/python3", "-c", "pass"],
    "another file command": [*AS_ANNA, "/usr/bin/cp", f"{HOME}/work/result", "/tmp"],
    "another command of SLURM": [*AS_ANNA, f"{BASE}/bin/srun", "true"],
    "another sbatch": [*AS_ANNA, "/usr/bin/sbatch", "--parsable"],
    "a command by name": [*AS_ANNA, "bash"],
    # options of sudo
    "a folder to begin in": ["-D", "/tmp", *AS_ANNA, LS, "--", f"{HOME}/work"],
    "a root folder": ["-R", "/tmp", *AS_ANNA, LS, "--", f"{HOME}/work"],
    # environment
    "a variable": [*AS_ANNA, "SLURM_CONF=/tmp/slurm.conf", SBATCH, "--parsable"],
    "LD_PRELOAD": [*AS_ANNA, "LD_PRELOAD=/tmp/x.so", SBATCH, "--parsable"],
    "PATH": [*AS_ANNA, "PATH=/tmp", SBATCH, "--parsable"],
    "the whole environment": ["-E", *AS_ANNA, SBATCH, "--parsable"],
    # options of sbatch and scancel
    "sbatch alone": [*AS_ANNA, SBATCH],
    "sbatch with an option before": [*AS_ANNA, SBATCH, "--uid=root", "--parsable"],
    "sbatch with an option after": [*AS_ANNA, SBATCH, "--parsable", "--wrap=id"],
    "sbatch with a file": [*AS_ANNA, SBATCH, "--parsable", "/tmp/script"],
    "sbatch with an option in one word": [*AS_ANNA, SBATCH, "--parsable --wrap=id"],
    "scancel of all": [*AS_ANNA, SCANCEL, "--user=anna"],
    "scancel with an option after": [*AS_ANNA, SCANCEL, "1", "--full"],
    "scancel of a step": [*AS_ANNA, SCANCEL, "1.0"],
    "scancel without a job": [*AS_ANNA, SCANCEL],
    "scancel of nothing": [*AS_ANNA, SCANCEL, ""],
    # paths
    "a file elsewhere": [*AS_ANNA, CAT, "--", "/etc/passwd"],
    "two dots": [*AS_ANNA, CAT, "--", f"{HOME}/../../../../../etc/passwd"],
    "two dots at the end": [*AS_ANNA, LS, "--", f"{HOME}/.."],
    "one good and one bad": [*AS_ANNA, CAT, "--", f"{HOME}/work/result", "/etc/passwd"],
    "one bad and one good": [*AS_ANNA, CAT, "--", "/etc/passwd", f"{HOME}/work/result"],
    "a blank": [*AS_ANNA, CAT, "--", f"{HOME}/a /etc/passwd"],
    "a newline": [*AS_ANNA, CAT, "--", f"{HOME}/a\n/etc/passwd"],
    "a newline at the end": [*AS_ANNA, CAT, "--", f"{HOME}/a\n"],
    "a quote": [*AS_ANNA, CAT, "--", f"{HOME}/'a"],
    "a pattern": [*AS_ANNA, CAT, "--", f"{BASE}/home/*/work/result"],
    "a hidden file": [*AS_ANNA, CAT, "--", f"{HOME}/.bashrc"],
    "a hidden folder": [*AS_ANNA, LS, "--", f"{HOME}/.ssh/keys"],
    "a relative path": [*AS_ANNA, CAT, "--", "work/result"],
    "the base itself": [*AS_ANNA, LS, "--", f"{BASE}/home"],
    "a folder whose name begins like the base": [*AS_ANNA, LS, "--", f"{BASE}/home2/a"],
    "two slashes": [*AS_ANNA, CAT, "--", f"{HOME}//work/result"],
    "no path": [*AS_ANNA, CAT, "--"],
    # options of cat, ls and mkdir
    "no dashes": [*AS_ANNA, CAT, f"{HOME}/work/result"],
    "an option of ls": [*AS_ANNA, LS, "-R", "--", f"{HOME}/work"],
    "an option after the dashes": [*AS_ANNA, LS, "--", "-R", f"{HOME}/work"],
    "an option in a name": [*AS_ANNA, LS, "--", f"{HOME}/-R"],
    "another mode": [*AS_ANNA, MKDIR, "-p", "-m", "4777", "--", f"{HOME}/x"],
    "another mode without -p": [*AS_ANNA, MKDIR, "-m", "755", "--", f"{HOME}/x"],
    "no mode with -p": [*AS_ANNA, MKDIR, "-p", "--", f"{HOME}/x"],
    "a security context": [*AS_ANNA, MKDIR, "-Z", "--", f"{HOME}/x"],
}


def sudo(host, argv, stdin=""):
    return run_as(host, "fractal", ["sudo", "--non-interactive", *argv], stdin=stdin)


@pytest.fixture(scope="module", autouse=True)
def work(host):
    """What the allowed commands work on."""
    host.check_output(f"runuser -u anna -- sh -c 'mkdir -p {HOME}/work && echo done > {HOME}/work/result'")


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(host, name):
    # A folder of a run is one that was not there.
    host.run(f"rm -rf {HOME}/work/run{'' if name == 'mkdir private' else '/claim'}")
    ended = sudo(host, ALLOWED[name], stdin=JOB)
    assert ended.rc == 0, ended.stderr


@pytest.mark.parametrize("name", ESCAPES)
def test_refused(host, name):
    ended = sudo(host, ESCAPES[name], stdin=JOB)
    assert ended.rc == 1, f"it ran: {ended.stdout}"
    assert ended.stdout == ""
    # by sudo, not by the command: nothing of the command's own is said
    assert any(words in ended.stderr for words in ("sudo:", "usage: sudo", "Sorry,")), ended.stderr


def test_the_service_users_environment_stays_outside(host):
    refused = run_as(host, "anna", ["env", "SBATCH_PARTITION=nowhere", SBATCH, "--parsable"], stdin=JOB)
    assert refused.rc != 0, "the variable changes nothing, so the next lines show nothing"
    slipped = ["SBATCH_PARTITION=nowhere", "SLURM_CONF=/nowhere", "LD_PRELOAD=/nowhere.so", "PATH=/tmp"]
    ended = run_as(host, "fractal", ["env", *slipped, "/usr/bin/sudo", "-n", *ALLOWED["sbatch"]], stdin=JOB)
    assert ended.rc == 0, ended.stderr


def test_a_new_member_of_the_group_is_allowed(host):
    ended = sudo(host, ["-u", "erik", "--", SBATCH, "--parsable"], stdin=JOB)
    assert ended.rc == 0, ended.stderr


def test_links_are_followed_with_no_more_rights_than_the_user_has(host):
    """What hardened mode does not protect from; the README of the role says so."""
    host.check_output(f"runuser -u anna -- ln -sfn /etc {HOME}/work/link")
    assert sudo(host, [*AS_ANNA, CAT, "--", f"{HOME}/work/link/hostname"]).rc == 0
    refused = sudo(host, [*AS_ANNA, CAT, "--", f"{HOME}/work/link/shadow"])
    assert (refused.rc, refused.stdout) == (1, "")
    assert "Permission denied" in refused.stderr


@pytest.mark.parametrize("user", ["anna", "ben"])
def test_work_goes_on_under_these_rules(host, user):
    spec = {
        "task": {"name": "Work", "command": "/usr/bin/python3 /opt/slow_task.py", "meta": {}},
        "meta": {},
        "parameters": [{"seconds": 0}] * 48,
    }
    home = f"{BASE}/home/{user}"
    code, summary, messages = fractal_run(
        host, spec, service_user="fractal", user=user, cache_dir=f"{home}/cache", work_dir=f"{home}/fractal-work"
    )
    assert code == 0, messages
    assert (summary["jobs"], summary["succeeded"]) == (2, 48)
