# SPDX-License-Identifier: BSD-3-Clause
"""Is this host ready? Each check says what was found, and what to do where it is not as it should be."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .cluster.commands import Silence, Slurm, Submitted
from .config.file import config_path, load_config_file
from .driver.folders import check_work_dir, unreachable_part
from .driver.prepare import PREFLIGHT_TIMEOUT_S, connect
from .errors import FractalSlurmError
from .refusals import no_cluster_advice
from .settings import Settings, load_settings
from .sudo import core_folder, current_user
from .sudo_rules import COMMANDS, SLURM_COMMANDS, clean_path, question


class Finding(NamedTuple):
    """The outcome of one check."""

    check: str
    ok: bool
    words: str


def examine(users: Sequence[str], config_file: str | None = None, work_dirs: Sequence[str] = ()) -> list[Finding]:
    """Make all checks.

    Args:
        users: Users that this account should be able to impersonate.
        config_file: The config file; None for the one that the environment names.
        work_dirs: Folders in which runs of these users are to work.
    """
    findings = []
    try:
        settings = load_settings()
        findings.append(Finding("settings", True, "valid"))
    except FractalSlurmError as error:
        findings.append(Finding("settings", False, str(error)))
        settings = Settings()
    slurm = connect(settings)
    findings += _files(settings, config_file)
    findings += _cluster(slurm)
    findings += _sudo(slurm)
    answers = any(finding.check == "SLURM" and finding.ok for finding in findings)
    for user in users:
        of_sudo = list(_user(slurm, user))
        findings += of_sudo
        if answers and all(finding.ok for finding in of_sudo):
            findings += _sbatch(slurm, user)
        findings += [_work_folder(folder, user) for folder in work_dirs]
    return findings


def _files(settings: Settings, config_file: str | None) -> Iterator[Finding]:
    file = config_path(config_file)
    try:
        load_config_file(file)
        yield Finding("config file", True, f"{file}: valid")
    except FractalSlurmError as error:
        yield Finding("config file", False, str(error))
    state = settings.state_path()
    existing = next((folder for folder in (state, *state.parents) if folder.exists()), Path("/"))
    writable = os.access(existing, os.W_OK | os.X_OK)
    yield Finding(
        "journals",
        writable,
        f"{state}: can be written" if writable else f"{state}: can't be written: set state_dir in our settings",
    )
    worker = Path(settings.folder(), "node", "worker.py")
    for path, rights in ((Path(settings.python()), stat.S_IXOTH), (worker, stat.S_IROTH)):
        hidden = unreachable_part(path, rights)
        yield Finding(
            "worker",
            hidden is None,
            f"{path}: every user can reach it"
            if hidden is None
            else f"{path}: other users can't reach it, because of {hidden}: install the runtime where everybody can "
            "read it (role fractal.slurm.runtime)",
        )


def _work_folder(folder: str, user: str) -> Finding:
    """Whether others could put their own in the place of a run's folder."""
    check = f"work folder of {user}"
    try:
        words = check_work_dir(clean_path(folder, "--work-dir"), user)
    except FractalSlurmError as error:
        return Finding(check, False, str(error))
    return Finding(
        check,
        True,
        words or f"{folder}: this account sees nothing wrong with it; each job looks again, on its node",
    )


def _cluster(slurm: Slurm) -> Iterator[Finding]:
    try:
        cluster = slurm.facts(timeout=PREFLIGHT_TIMEOUT_S)
    except Silence as error:
        yield Finding("SLURM", False, f"{error}: is slurmctld up, and is slurm_bin_dir right in our settings?")
        return
    except FractalSlurmError as error:
        yield Finding("SLURM", False, str(error))
        return
    yield Finding("SLURM", True, f"{cluster.version}, cluster {cluster.name}")
    if cluster.hides_jobs:
        yield Finding(
            "PrivateData",
            True,
            "other users' jobs are hidden from this account: runs work, but are followed by their result files only",
        )


def _sudo(slurm: Slurm) -> Iterator[Finding]:
    try:
        found = slurm.sudo.holds_programs_back()
        more = slurm.sudo.other_rights()
    except FractalSlurmError as error:
        yield Finding("sudo", False, str(error))
        return
    if found:
        yield Finding(
            "sudo",
            True,
            f"warning: {', '.join(found)} in sudo's rules for {current_user()} may come with jobs (LD_PRELOAD), which "
            "can start no program then: the first job of each run is lost to that, and SLURM runs the users' profiles "
            "for the others. Give the rule the tag EXEC: (`NOPASSWD: EXEC: FRACTAL_CMD`), or except its commands "
            "from that default (`Defaults!FRACTAL_CMD !noexec, !intercept, !log_subcmds`)",
        )
    if more:
        # With some commands left out, too: who may run all others can make one of them.
        everything = any(re.search(r"(^|[ :])ALL(,|$)", rule.partition(") ")[2]) for rule in more)
        yield Finding(
            "sudo",
            not everything,
            f"{'' if everything else 'note: '}sudo lets {current_user()} run more than our commands: "
            f"{'; '.join(more)[:500]}. Remove the rights that are not wanted; the playbook fractal.slurm.verify "
            "names file and line",
        )


def _user(slurm: Slurm, user: str) -> Iterator[Finding]:
    refused, said = [], []
    try:
        for command in COMMANDS:
            # The form with a path is refused here by hardened rules, which know the work folders; the verify
            # playbook tries those.
            words = slurm.sudo.why_not(user, command, question(command))
            if words is not None:
                folder = slurm.sudo.slurm_bin_dir if command in SLURM_COMMANDS else core_folder(command)
                refused.append(f"{folder}/{command}")
                said += words
    except FractalSlurmError as error:
        yield Finding(f"sudo as {user}", False, str(error))
        return
    if any(path.rpartition("/")[2] in SLURM_COMMANDS for path in refused):
        yield Finding(f"sudo as {user}", False, slurm.sudo.refusal(user, ", ".join(refused), said))
        return
    yield Finding(f"sudo as {user}", True, f"{current_user()} may run {', '.join(COMMANDS)}")


# A job that does nothing, of which SLURM is only asked when it would start.
_TEST_ONLY = b"#!/bin/sh\n#SBATCH --test-only\nexit 0\n"


def _sbatch(slurm: Slurm, user: str) -> Iterator[Finding]:
    """Whether sbatch finds the cluster where sudo runs it: sudo takes SLURM_CONF out of its environment."""
    check = f"sbatch as {user}"
    try:
        submission = slurm.submit(user, _TEST_ONLY, timeout=PREFLIGHT_TIMEOUT_S)
    except FractalSlurmError as error:
        yield Finding(check, False, str(error))
        return
    advice = no_cluster_advice(submission.words, user=user)
    if advice:
        yield Finding(check, False, f"{submission.words}: {advice}")
    elif submission.outcome is Submitted.UNKNOWN and not submission.raw:
        yield Finding(check, False, f"no answer: {submission.words}")
    else:
        # What a config may set is left out here, so what SLURM misses of it is no fault.
        yield Finding(check, True, "it finds the cluster")
