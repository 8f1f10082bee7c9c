# SPDX-License-Identifier: BSD-3-Clause
"""SLURM's commands: argv in, typed values out. What SLURM's words mean is known here and nowhere else.

Everything that only reads (squeue, sacct, scontrol) runs as the service user itself; what acts as
somebody else goes through :mod:`fractal_slurm.impersonate`.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from . import cluster
from .cluster import Cluster, parse_config_lines
from .errors import ClusterError, FractalSlurmError
from .impersonate import Impersonator, TimedOut, clean_environment
from .walltime import parse_walltime

# Job states from which a job does not come back (squeue(1), JOB STATE CODES).
FINAL_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
# Faults of nodes and of SLURM, none of the tasks.
NODE_FAULTS = frozenset({"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REQUEUE_HOLD", "REVOKED"})

# Refusals that end by themselves when other jobs end, by the first error line of sbatch or its message
# (the second line is the same for limits that no waiting cures, such as a job larger than an association may have).
BACK_PRESSURE = (
    "AssocMaxSubmitJobLimit",
    "AssocGrpSubmitJobsLimit",
    "AssocGrpSubmitJobLimit",
    "MaxSubmitJobsPerAccount",
    "QOSMaxSubmitJobPerUserLimit",
    "QOSMaxSubmitJobPerAccountLimit",
    "QOSGrpSubmitJobsLimit",
    "Slurm temporarily unable to accept job",
    "Job limit exceeded",
    "MaxJobCount",
)
# Reasons of a pending job that no waiting cures.
HOPELESS_REASONS = frozenset(
    {
        "AccountNotAllowed",
        "AssocMaxCpuPerJobLimit",
        "AssocMaxMemPerJob",
        "AssocMaxNodePerJobLimit",
        "AssocMaxWallDurationPerJobLimit",
        "BadConstraints",
        "DependencyNeverSatisfied",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSMaxCpuPerJobLimit",
        "QOSMaxMemoryPerJob",
        "QOSMaxNodePerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "QOSNotAllowed",
    }
)
# Reasons of a pending job that SLURM holds since nodes could not start it (a prolog failed), or were lost, too often.
HELD_REASONS = frozenset({"JobHoldMaxRequeue", "launch_failed_requeued_held", "launch failed requeued held"})
# Reasons of a pending job that are the course of things.
ORDINARY_REASONS = frozenset({"None", "Priority", "Resources", "BeginTime", "Prolog", "Cleaning", "Dependency"})
# What helps with some of the others.
PENDING_HINTS = {
    "PartitionConfig": ": no node of the partition fits it as things are (CPUs, memory, features, nodes down)",
    "JobHeldAdmin": ": an administrator holds it",
    "JobHeldUser": ": it is held; `scontrol release` lets it go",
    "PartitionDown": ": the partition is down",
    "PartitionInactive": ": the partition takes no jobs now",
}
# The exit code of a job that SLURM could not start: its output file, its folder or its user are not as they should be.
# squeue's reason, JobLaunchFailure, is the same for a job whose worker was killed.
LAUNCH_FAILED = "0:53"
# The client never got an answer: the job may exist all the same.
_SILENCE = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Transport endpoint is not connected",
    "Connection refused",
    "Connection reset by peer",
    "Connection timed out",
    "Communication connection failure",
    "Slurm backup controller in standby mode",
    "Munge encode failed",
    "Protocol authentication error",
    "Unexpected message received",
    "Insane message length",
    "Unable to confirm allocation",
    "Unable to establish controller machine",
    "Unable to establish configuration source",
)
# A word of a command line is at most 128 KiB long (MAX_ARG_STRLEN); a name of ours at most 97 bytes.
_MAX_IDS_PER_CALL = 1_000
_JOB_ID = re.compile(r"(\d+)(;\S+)?")


class Submitted(Enum):
    """What became of a submission."""

    ACCEPTED = "accepted"
    FULL = "full"  # a limit of the site: try again when there is room
    REFUSED = "refused"  # waiting does not help
    UNKNOWN = "unknown"  # no answer: the job may exist


@dataclass(frozen=True)
class Submission:
    """The outcome of one sbatch: the job's id if it was accepted, and SLURM's words, digested and raw, if not."""

    outcome: Submitted
    job_id: str = ""
    words: str = ""
    raw: str = ""


@dataclass(frozen=True)
class JobState:
    """What SLURM says of a job.

    Attributes:
        job_id: Its id.
        state: A state of squeue(1), long form, e.g. ``RUNNING``.
        reason: Why it waits, or how it ended.
        nodes: Number of nodes.
        name: Its name.
        time_limit: Its time limit as SLURM writes it.
        partition: Its partition.
        elapsed_s: For how many seconds it has run; 0 where SLURM does not say.
    """

    job_id: str
    state: str
    reason: str = ""
    nodes: int = 1
    name: str = ""
    time_limit: str = ""
    partition: str = ""
    elapsed_s: int = 0

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES


class Silence(ClusterError):
    """SLURM did not answer. Nothing follows from that."""


def _elapsed_s(text: str) -> int:
    """Seconds of squeue's %M; 0 where it says none, or INVALID, as it does where clocks disagree."""
    try:
        return parse_walltime(text)
    except FractalSlurmError:
        return 0


def first_error(stderr: str) -> str:
    """SLURM's own words, without the name of the command before them."""
    lines = [
        re.sub(r"^(sbatch|squeue|sacct|scancel|scontrol|sinfo): (error|fatal): ", "", line.strip())
        for line in stderr.splitlines()
    ]
    return "; ".join(list(dict.fromkeys(line for line in lines if line))[:2]) or "no reason given"


def is_back_pressure(stderr: str) -> bool:
    """Whether sbatch's words mean that there is no room now."""
    return any(sign in stderr for sign in BACK_PRESSURE)


def judge_submission(returncode: int, stdout: str, stderr: str) -> Submission:
    """Read the outcome of ``sbatch --parsable``.

    A site's wrapper may print around the id, so the id is the one line that is nothing else.
    """
    ids = [match[1] for line in stdout.splitlines() if (match := _JOB_ID.fullmatch(line.strip()))]
    if returncode == 0:
        if len(ids) == 1:
            return Submission(Submitted.ACCEPTED, ids[0])
        found = [
            word
            for line in stdout.splitlines()
            if (m := re.search(r"Submitted batch job (\d+)", line))
            for word in m.groups()
        ]
        if len(found) == 1:
            return Submission(Submitted.ACCEPTED, found[0])
        return Submission(Submitted.UNKNOWN, words=f"sbatch printed no job id, but {stdout.strip()[:200]!r}")
    words = first_error(stderr)
    # Silence first: sbatch may have waited for room, tried again, and then got no answer.
    if returncode < 0 or any(sign in stderr for sign in _SILENCE):
        return Submission(Submitted.UNKNOWN, words=words)
    if is_back_pressure(stderr):
        return Submission(Submitted.FULL, words=words)
    return Submission(Submitted.REFUSED, words=words, raw=stderr)


@dataclass
class Slurm:
    """The cluster, as this host sees it.

    Attributes:
        bin_dir: Folder of SLURM's commands.
        sudo: Who crosses to other users.
        timeout: Seconds after which a command counts as unanswered.
        squeue_calls: Number of squeue calls so far.
        squeue_s: How long it takes slurmctld to answer one, in seconds.
    """

    bin_dir: str
    sudo: Impersonator
    timeout: float = 60
    squeue_calls: int = field(default=0)
    squeue_s: float = field(default=0.0)
    _squeue_before_s: float = field(default=0.0)

    def _ask(self, command: str, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [f"{self.bin_dir}/{command}", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout or self.timeout,
                check=False,
                env=clean_environment(),
                start_new_session=True,
            )
        except FileNotFoundError:
            raise ClusterError(
                f"{self.bin_dir}/{command} is not there: install SLURM's client commands, "
                "or set slurm_bin_dir in our settings"
            ) from None
        except subprocess.TimeoutExpired:
            raise Silence(f"{command} got no answer within {timeout or self.timeout:g} seconds") from None

    def _answer(self, command: str, *arguments: str, timeout: float | None = None) -> str:
        result = self._ask(command, *arguments, timeout=timeout)
        if result.returncode != 0:
            raise Silence(f"{command}: {first_error(result.stderr)}")
        return result.stdout

    def config(self, timeout: float | None = None) -> dict[str, str]:
        """``scontrol show config``, by name.

        Raises:
            Silence: slurmctld does not answer.
        """
        return parse_config_lines(self._answer("scontrol", "show", "config", timeout=timeout))

    def facts(self, users: Sequence[str] = (), *, timeout: float | None = None) -> Cluster:
        """Partitions, nodes and limits, for :mod:`fractal_slurm.fit`.

        Args:
            users: Whose associations are wanted, where there is accounting; none for all.
            timeout: Seconds for each command.

        Raises:
            ClusterError: slurmctld does not answer, or not as SLURM does.
        """
        accounting = self.config(timeout).get("AccountingStorageType", "").endswith("slurmdbd")
        outputs = {}
        for name, (command, *arguments) in cluster.commands(accounting=accounting, users=users).items():
            result = self._ask(command, *arguments, timeout=timeout)
            if result.returncode == 0:
                outputs[name] = result.stdout
        return cluster.parse(outputs)

    def submit(self, user: str, script: bytes, *, timeout: float) -> Submission:
        """Submit a script as ``user``.

        Args:
            user: Whose job it becomes.
            script: The script; sbatch reads it from standard input, so that no file of ours is needed.
            timeout: Seconds after which the submission counts as unanswered.
        """
        try:
            result = self.sudo.run(user, "sbatch", ["--parsable"], stdin=script, timeout=timeout)
        except TimedOut as expired:
            # Ended while it waited for room, in all likelihood; yet its last try may have been answered.
            words = first_error(expired.stderr) if is_back_pressure(expired.stderr) else str(expired)
            return Submission(Submitted.UNKNOWN, words=words)
        return judge_submission(
            result.returncode, result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace")
        )

    def squeue(self, job_ids: Sequence[str] = (), *, names: Sequence[str] = (), user: str = "") -> dict[str, JobState]:
        """What slurmctld says of these jobs, in one call; jobs that it does not know (any more) are left out.

        Args:
            job_ids: Ids to look for.
            names: Job names to look for, if no ids are given.
            user: Whose jobs of these names: everybody sees them in squeue, and can give them to jobs.

        Raises:
            Silence: slurmctld does not answer.
        """
        found: dict[str, JobState] = {}
        wanted = job_ids or names
        for first in range(0, len(wanted), _MAX_IDS_PER_CALL):
            some = ",".join(wanted[first : first + _MAX_IDS_PER_CALL])
            found |= self._squeue(f"--jobs={some}") if job_ids else self._squeue(f"--name={some}", f"--user={user}")
        return found

    def _squeue(self, *which: str) -> dict[str, JobState]:
        self.squeue_calls += 1
        began = time.monotonic()
        result = self._ask("squeue", "--noheader", "--states=all", "--format=%i|%T|%D|%l|%M|%P|%j|%r", *which)
        if result.returncode != 0:
            if "Invalid job id specified" in result.stderr:
                return {}
            raise Silence(f"squeue: {first_error(result.stderr)}")
        # The quicker of the last two: one slow answer, from a slurmctld that just started, tells nothing.
        took = time.monotonic() - began
        self.squeue_s, self._squeue_before_s = min(took, self._squeue_before_s), took
        found: dict[str, JobState] = {}
        for line in result.stdout.splitlines():
            fields = line.strip().split("|", 7)
            if len(fields) == 8:
                job_id, state, nodes, limit, elapsed, partition, name, reason = fields
                count = int(nodes) if nodes.isdigit() else 1
                found[job_id] = JobState(
                    job_id, state, reason, count, name, limit, partition, elapsed_s=_elapsed_s(elapsed)
                )
        return found

    def sacct(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        """What the accounting says of these jobs; empty where there is none, or it does not answer."""
        try:
            result = self._ask(
                "sacct", "--noheader", "--parsable2", "--allocations", "--duplicates",
                f"--jobs={','.join(job_ids)}", "--format=JobIDRaw,State,ExitCode,NNodes,JobName",
            )  # fmt: skip
        except ClusterError:
            return {}
        found: dict[str, JobState] = {}
        if result.returncode != 0:
            return found
        for line in result.stdout.splitlines():
            fields = line.split("|", 4)
            if len(fields) == 5:
                job_id, state, exit_code, nodes, name = fields
                # "CANCELLED by 1000"; of a job that was requeued the last line is the newest.
                word, _blank, rest = state.partition(" ")
                found[job_id] = JobState(
                    job_id, word, rest or f"exit {exit_code}", int(nodes) if nodes.isdigit() else 1, name
                )
        return found

    def exists(self, job_id: str) -> bool | None:
        """Whether slurmctld has a job that it does not show us: it refuses the script of one that is somebody else's.

        Nothing is changed by the question. None where there is no clear answer.
        """
        try:
            result = self._ask("scontrol", "write", "batch_script", job_id, "-")
        except ClusterError:
            return None
        if "Invalid job id specified" in result.stderr:
            return False
        shown = result.returncode == 0 or "Invalid user id" in result.stderr
        return True if shown or "permission denied" in result.stderr else None

    def exit_code(self, job_id: str) -> str:
        """A job's exit code and signal as SLURM writes them, e.g. ``73:0``; empty where slurmctld forgot the job.

        Raises:
            Silence: slurmctld does not answer.
        """
        result = self._ask("scontrol", "--oneliner", "show", "job", job_id)
        if result.returncode != 0 and "Invalid job id" not in result.stderr:
            raise Silence(f"scontrol: {first_error(result.stderr)}")
        match = re.search(r" ExitCode=(\d+:\d+) ", result.stdout)
        return match[1] if match else ""

    def cancel(self, user: str, job_ids: Sequence[str]) -> None:
        """Cancel jobs of ``user``'s, in one call. Ids that SLURM does not know do no harm.

        Raises:
            Silence: slurmctld does not answer.
            ClusterError: It was refused.
        """
        if not job_ids:
            return
        try:
            result = self.sudo.run(user, "scancel", list(job_ids), timeout=self.timeout)
        except TimedOut as expired:
            raise Silence(str(expired)) from None
        if result.returncode != 0:
            words = result.stderr.decode(errors="replace")
            if any(sign in words for sign in _SILENCE):
                raise Silence(f"scancel: {first_error(words)}")
            if "Invalid job id" not in words and "already completing or completed" not in words:
                raise ClusterError(f"scancel as {user}: {first_error(words)}")
