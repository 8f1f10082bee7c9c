# SPDX-License-Identifier: BSD-3-Clause
"""Is this host ready? Each check says what was found, and what to do where it is not as it should be."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..cluster import fit
from ..cluster.commands import Slurm, Submitted
from ..cluster.facts import Cluster
from ..cluster.fit import Severity
from ..config.file import SlurmConfigFile, named_config_file
from ..driver.folders import check_work_dir, unreachable_part
from ..driver.journal import Journal, run_ids
from ..driver.lock import check_locks_in, is_driven, state_now
from ..driver.model import RunState
from ..driver.prepare import PREFLIGHT_TIMEOUT_S, connect, facts_of
from ..errors import FractalSlurmError, RunError, count_of
from ..refusals import no_cluster_advice
from ..settings import Settings, load_settings
from ..sudo import core_folder, current_user
from ..sudo_rules import COMMANDS, SLURM_COMMANDS, clean_path, question
from .findings import Code, Finding, failed, passed, warned
from .limits import examine_limits
from .probe import probe

# What journals need on their file system, and with how little somebody should know of it.
_LEAST_BYTES, _FEW_BYTES, _FEW_FILES = 50 * 10**6, 10**9, 10_000
# A smaller script than SLURM's own default is worth a word.
_SMALL_SCRIPT = 4 * 1024 * 1024
_MOST_NAMED = 5


def examine(
    users: Sequence[str],
    config_file: str | None = None,
    work_dirs: Sequence[str] = (),
    cache_dirs: Sequence[str] = (),
    *,
    with_probe: bool = False,
) -> list[Finding]:
    """Make all checks.

    Args:
        users: Users that this account should be able to impersonate.
        config_file: The config file; None for the one that the environment names.
        work_dirs: Folders in which runs of these users are to work.
        cache_dirs: Their cache folders, which a probe looks at.
        with_probe: Whether to run a task as each user in each of these folders.
    """
    findings = []
    try:
        settings = load_settings()
        findings.append(passed(Code.SETTINGS, "settings", "valid"))
    except FractalSlurmError as error:
        findings.append(failed(Code.SETTINGS, "settings", str(error)))
        settings = Settings()
    slurm = connect(settings)
    findings += _files(settings)
    findings += _journals(settings.state_path())
    findings += examine_limits(settings)
    config = None
    try:
        file, config = named_config_file(config_file)
        findings.append(passed(Code.CONFIG, "config file", f"{file}: valid"))
    except FractalSlurmError as error:
        findings.append(failed(Code.CONFIG, "config file", str(error)))
    findings += _cluster(slurm, config, users)
    findings += _sudo(slurm)
    answers = any(finding.code is Code.SLURM and finding.ok for finding in findings)
    for user in users:
        of_sudo = list(_user(slurm, user))
        findings += of_sudo
        if answers and all(finding.ok for finding in of_sudo):
            findings += _sbatch(slurm, user)
        may_submit = all(finding.ok for finding in of_sudo)
        for folder in work_dirs:
            found = _work_folder(folder, user)
            if may_submit and found.ok:
                found = _below_a_work_folder(slurm, folder, user) or found
            findings.append(found)
        if with_probe and config is not None and answers:
            for folder in work_dirs:
                for cache_dir in cache_dirs or (None,):
                    findings += probe(config, settings, slurm, user=user, work_dir=folder, cache_dir=cache_dir)
    return findings


def _journals(state_dir: Path) -> Iterator[Finding]:
    """Runs that wait for somebody, and the room for new ones."""
    check = "journals"
    existing = next((folder for folder in (state_dir, *state_dir.parents) if folder.exists()), Path("/"))
    try:
        room = os.statvfs(existing)
        free = room.f_frsize * room.f_bavail
        if free < _LEAST_BYTES:
            yield failed(Code.STATE_SPACE, check, f"{existing}: {free // 10**6} MB are left for journals")
        elif free < _FEW_BYTES or (room.f_files and room.f_favail < _FEW_FILES):
            words = f"{free // 10**6} MB and room for {room.f_favail} files are left for journals"
            yield warned(Code.STATE_SPACE, check, f"{existing}: {words}: fractal-slurm prune --older-than 30d")
        else:
            yield passed(Code.STATE_SPACE, check, f"{existing}: {free // 10**9} GB are left")
    except OSError as error:
        yield warned(Code.STATE_SPACE, check, f"{existing}: {error.strerror}")
    left, damaged = [], []
    try:
        ids = run_ids(state_dir)
    except RunError as error:
        yield warned(Code.JOURNALS, check, str(error))
        return
    for run_id in ids:
        try:
            with Journal.open(state_dir, run_id, drive=False) as journal:
                state = state_now(journal.record.state, is_driven(state_dir, run_id))
                if state == RunState.INTERRUPTED:
                    left.append(run_id)
                elif journal.damage:
                    damaged.append(run_id)
        except RunError:
            damaged.append(run_id)
    if left:
        words = f"{count_of(len(left), 'run')} not ended and driven by nobody: {', '.join(left[-_MOST_NAMED:])}"
        yield warned(Code.JOURNALS, check, f"{words}: fractal-slurm resume or cancel RUN")
    if damaged:
        words = f"{count_of(len(damaged), 'journal')} can't be read: {', '.join(damaged[-_MOST_NAMED:])}"
        yield warned(Code.JOURNALS, check, f"{words}: fractal-slurm report RUN shows what can")
    if not left and not damaged:
        yield passed(Code.JOURNALS, check, "no run waits for somebody")


def _files(settings: Settings) -> Iterator[Finding]:
    state = settings.state_path()
    existing = next((folder for folder in (state, *state.parents) if folder.exists()), Path("/"))
    if os.access(existing, os.W_OK | os.X_OK):
        try:
            check_locks_in(existing)
            yield passed(Code.STATE_DIR, "journals", f"{state}: can be written")
        except OSError as error:
            yield failed(Code.STATE_DIR, "journals", f"{state}: {error.strerror}: set state_dir in our settings")
    else:
        yield failed(Code.STATE_DIR, "journals", f"{state}: can't be written: set state_dir in our settings")
    worker = Path(settings.folder(), "node", "worker.py")
    for path, rights in ((Path(settings.python()), stat.S_IXOTH), (worker, stat.S_IROTH)):
        hidden = unreachable_part(path, rights)
        if hidden is None:
            yield passed(Code.WORKER, "worker", f"{path}: every user can reach it")
            continue
        yield failed(
            Code.WORKER,
            "worker",
            f"{path}: other users can't reach it, because of {hidden}: install the runtime where everybody can "
            "read it (role fractal.slurm.runtime)",
        )


def _work_folder(folder: str, user: str) -> Finding:
    """Whether others could put their own in the place of a run's folder."""
    check = f"work folder of {user}"
    try:
        words = check_work_dir(clean_path(folder, "--work-dir"), user)
    except FractalSlurmError as error:
        return failed(Code.WORK_DIR, check, str(error))
    if words:
        return warned(Code.WORK_DIR, check, words)
    there = _nearest(folder)
    if there != Path(folder):
        made = f"{folder} is not there. The first run makes it, if {user} may write in {there}; if not, root has to"
        return warned(Code.WORK_DIR, check, made)
    return passed(
        Code.WORK_DIR, check, f"{folder}: this account sees nothing wrong with it; each job looks again, on its node"
    )


def _below_a_work_folder(slurm: Slurm, folder: str, user: str) -> Finding | None:
    """What is wrong if sudo does not let runs make their folders there: rules in hardened mode know the folders."""
    path = clean_path(folder, "--work-dir")
    try:
        said = slurm.sudo.why_not(user, "mkdir", ["-p", "-m", "700", "--", path])
        if said is None:
            return None
        words = slurm.sudo.refusal(user, f"{core_folder('mkdir')}/mkdir", said, path)
    except FractalSlurmError as error:
        words = str(error)
    return failed(Code.WORK_DIR, f"work folder of {user}", words)


def _nearest(folder: str) -> Path:
    """The nearest folder above one that is not there; the folder itself, if this account can't tell that."""
    for place in (Path(folder), *Path(folder).parents):
        try:
            place.stat()
        except FileNotFoundError:
            continue
        except OSError:
            return Path(folder)
        return place
    return Path(folder)


def _cluster(slurm: Slurm, config: SlurmConfigFile | None, users: Sequence[str]) -> Iterator[Finding]:
    try:
        cluster = facts_of(slurm, users)
    except FractalSlurmError as error:
        yield failed(Code.SLURM, "SLURM", str(error))
        return
    yield passed(Code.SLURM, "SLURM", f"{cluster.version}, cluster {cluster.name}")
    if cluster.hides_jobs:
        words = "other users' jobs are hidden from this account: runs work, but are followed by their result files only"
        yield passed(Code.PRIVATE_DATA, "PrivateData", words)
    else:
        yield passed(Code.PRIVATE_DATA, "PrivateData", "this account sees other users' jobs")
    if cluster.max_script_size < _SMALL_SCRIPT:
        words = f"scripts may have {cluster.max_script_size} bytes (max_script_size): tasks' args are in them"
        yield warned(Code.SCRIPT_SIZE, "scripts", f"{words}, so runs of many tasks get more jobs")
    else:
        words = f"a job's script may have {cluster.max_script_size} bytes (max_script_size)"
        yield passed(Code.SCRIPT_SIZE, "scripts", words)
    if config is not None:
        yield from _fit(config, cluster, users)


def _fit(config: SlurmConfigFile, cluster: Cluster, users: Sequence[str]) -> Iterator[Finding]:
    """Whether the config fits the cluster."""
    name = "config file and cluster"
    found = [finding for finding in fit.check(config, cluster, users=users) if finding.severity is not Severity.ADVICE]
    for finding in found:
        judged = failed if finding.severity is Severity.ERROR else warned
        yield judged(Code.FIT, name, str(finding))
    if not found:
        yield passed(Code.FIT, name, "they fit")


def _sudo(slurm: Slurm) -> Iterator[Finding]:
    try:
        found = slurm.sudo.holds_programs_back()
        more = slurm.sudo.other_rights()
    except FractalSlurmError as error:
        yield failed(Code.SUDO_MORE, "sudo", str(error))
        return
    if found:
        yield warned(
            Code.SUDO_PRELOAD,
            "sudo",
            f"warning: {', '.join(found)} in sudo's rules for {current_user()} may come with jobs (LD_PRELOAD), which "
            "can start no program then: the first job of each run is lost to that, and SLURM runs the users' profiles "
            "for the others. Give the rule the tag EXEC: (`NOPASSWD: EXEC: FRACTAL_CMD`), or except its commands "
            "from that default (`Defaults!FRACTAL_CMD !noexec, !intercept, !log_subcmds`)",
        )
    else:
        yield passed(Code.SUDO_PRELOAD, "sudo", "its rules hold no programs of jobs back")
    if more:
        # With some commands left out, too: who may run all others can make one of them.
        everything = any(re.search(r"(^|[ :])ALL(,|$)", rule.partition(") ")[2]) for rule in more)
        yield (failed if everything else warned)(
            Code.SUDO_MORE,
            "sudo",
            f"{'' if everything else 'note: '}sudo lets {current_user()} run more than our commands: "
            f"{'; '.join(more)[:500]}. Remove the rights that are not wanted; the playbook fractal.slurm.verify "
            "names file and line",
        )
    else:
        yield passed(Code.SUDO_MORE, "sudo", f"it lets {current_user()} run our commands and no others")


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
        yield failed(Code.SUDO_USER, f"sudo as {user}", str(error))
        return
    if any(path.rpartition("/")[2] in SLURM_COMMANDS for path in refused):
        yield failed(Code.SUDO_USER, f"sudo as {user}", slurm.sudo.refusal(user, ", ".join(refused), said))
        return
    yield passed(Code.SUDO_USER, f"sudo as {user}", f"{current_user()} may run {', '.join(COMMANDS)}")


# A job that does nothing, of which SLURM is only asked when it would start.
_TEST_ONLY = b"#!/bin/sh\n#SBATCH --test-only\nexit 0\n"


def _sbatch(slurm: Slurm, user: str) -> Iterator[Finding]:
    """Whether sbatch finds the cluster where sudo runs it: sudo takes SLURM_CONF out of its environment."""
    check = f"sbatch as {user}"
    try:
        submission = slurm.submit(user, _TEST_ONLY, timeout=PREFLIGHT_TIMEOUT_S)
    except FractalSlurmError as error:
        yield failed(Code.SBATCH_USER, check, str(error))
        return
    advice = no_cluster_advice(submission.words, user=user)
    if advice:
        yield failed(Code.SBATCH_USER, check, f"{submission.words}: {advice}")
    elif submission.outcome is Submitted.UNKNOWN and not submission.raw:
        yield failed(Code.SBATCH_USER, check, f"no answer: {submission.words}")
    else:
        # What a config may set is left out here, so what SLURM misses of it is no fault.
        yield passed(Code.SBATCH_USER, check, "it finds the cluster")
