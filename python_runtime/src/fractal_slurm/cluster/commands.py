# SPDX-License-Identifier: BSD-3-Clause
"""Run SLURM's commands, and return their output as typed values. Only this module interprets SLURM's messages.

Commands that only read (squeue, sacct, scontrol) run as the service account itself. Commands that act as another user
run through :mod:`fractal_slurm.sudo`.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

from ..config.walltime import parse_walltime
from ..errors import ClusterError, FractalSlurmError, one_line
from ..process import Expired, Overflow, run_command
from ..refusals import Refusal, is_sudos_final_word, kind_of, own_words, says_sudo, sudo_words
from ..sudo import Impersonator, TimedOut, TooMuch, clean_environment
from .facts import Cluster, expand_hostlist, parse_config_lines
from .facts import commands as facts_commands
from .facts import parse as parse_facts


class SlurmState:
    """SLURM's names of job states (squeue(1), JOB STATE CODES). SLURM may also print other names."""

    BOOT_FAIL = "BOOT_FAIL"
    CANCELLED = "CANCELLED"
    COMPLETED = "COMPLETED"
    COMPLETING = "COMPLETING"
    DEADLINE = "DEADLINE"
    FAILED = "FAILED"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PENDING = "PENDING"
    PREEMPTED = "PREEMPTED"
    REQUEUE_HOLD = "REQUEUE_HOLD"
    REVOKED = "REVOKED"
    RUNNING = "RUNNING"
    TIMEOUT = "TIMEOUT"


# States in which a job is over for good.
FINAL_STATES = frozenset(
    {
        SlurmState.BOOT_FAIL,
        SlurmState.CANCELLED,
        SlurmState.COMPLETED,
        SlurmState.DEADLINE,
        SlurmState.FAILED,
        SlurmState.NODE_FAIL,
        SlurmState.OUT_OF_MEMORY,
        SlurmState.PREEMPTED,
        SlurmState.REVOKED,
        SlurmState.TIMEOUT,
    }
)
# States that are the fault of nodes or of SLURM, not of the tasks.
NODE_FAULTS = frozenset(
    {
        SlurmState.BOOT_FAIL,
        SlurmState.NODE_FAIL,
        SlurmState.PREEMPTED,
        SlurmState.REQUEUE_HOLD,
        SlurmState.REVOKED,
    }
)

# Reasons of a pending job that SLURM holds, because too often nodes could not start it (a prolog failed) or were lost.
HELD_REASONS = frozenset({"JobHoldMaxRequeue", "launch_failed_requeued_held", "launch failed requeued held"})
# Reasons of a pending job that are normal.
ORDINARY_REASONS = frozenset({"None", "Priority", "Resources", "BeginTime", "Prolog", "Cleaning", "Dependency"})
# Explanations for some of the other reasons.
PENDING_HINTS = {
    "PartitionConfig": ": no node of the partition can run it now (CPUs, memory, features, nodes down)",
    "JobHeldAdmin": ": an administrator holds it",
    "JobHeldUser": ": it is held; `scontrol release` lets it go",
    "PartitionDown": ": the partition is down",
    "PartitionInactive": ": the partition takes no jobs now",
}
# The exit code of a job that SLURM could not start, because of its output file, its folder or its user. The reason of
# squeue does not tell: JobLaunchFailure may also be a job whose worker was killed.
LAUNCH_FAILED = "0:53"
# Messages which say that the client got no answer. The job may still exist.
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
# A word of a command line can have 128 KiB (MAX_ARG_STRLEN). A job name of ours has at most 97 bytes.
_MAX_IDS_PER_CALL = 1_000
_JOB_ID = re.compile(r"([0-9]{1,10})(;\S+)?")
_PLAIN_ID = re.compile(r"[0-9]{1,10}")
# Of a part of an array, or of a job with several components, too.
_ANY_ID = re.compile(r"[0-9]{1,10}(?:[_+][0-9]{1,10})?")
# Most bytes of output: enough for all nodes of the largest clusters, and for a thousand jobs with the longest names.
MAX_BYTES = 1 << 28
_MAX_QUEUE_BYTES = 1 << 24
# The fields of a job: id, state, nodes, time limit, elapsed time, partition, reason, first node, name.
_SQUEUE_FIELDS = ("%i", "%T", "%D", "%l", "%M", "%P", "%r", "%B", "%j")
_SACCT_FIELDS = ("JobIDRaw", "State", "ExitCode", "NNodes", "JobName", "NodeList")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")
_STATE = re.compile(r"[A-Z_]{1,40}")
# No cluster has more nodes.
_MOST_NODES = 1_000_000


class Submitted(Enum):
    """How a submission ended."""

    ACCEPTED = "accepted"
    FULL = "full"  # a limit of the site is reached: try again when there is room
    TOO_LARGE = "too large"  # the script is too large: try with fewer tasks
    REFUSED = "refused"  # the refusal is final: waiting does not help
    NOT_NOW = "not now"  # the trouble may pass: try again later
    UNKNOWN = "unknown"  # there was no answer: the job may exist


@dataclass(frozen=True)
class Submission:
    """The result of one sbatch.

    Attributes:
        outcome: How the submission ended.
        job_id: The job's id, if the job was accepted.
        words: The error message, on one line.
        raw: The error message, unchanged.
        by_sudo: Whether the message is from sudo.
        forbidden: Whether the user may not do this. If false, something in the job is wrong.
        exists_not: Whether it is certain that there is no job.
    """

    outcome: Submitted
    job_id: str = ""
    words: str = ""
    raw: str = ""
    by_sudo: bool = False
    forbidden: bool = False
    exists_not: bool = False


@dataclass(frozen=True)
class SlurmJob:
    """A job, as SLURM reports it.

    Attributes:
        job_id: Its id.
        state: A state of squeue(1) in the long form, e.g. ``RUNNING``.
        reason: Why it waits, or how it ended.
        nodes: Number of nodes.
        name: Its name.
        time_limit: Its time limit, as SLURM writes it.
        partition: Its partition.
        elapsed_s: Seconds that it has run. 0 if SLURM does not say.
        host: The node of its script. Empty if nobody asked for it.
        node: The node of its script, as squeue says. Only for display: it may be empty after the job has ended.
        comment: Its comment. Empty if nobody asked for it.
    """

    job_id: str
    state: str
    reason: str = ""
    nodes: int = 1
    name: str = ""
    time_limit: str = ""
    partition: str = ""
    elapsed_s: int = 0
    host: str = ""
    node: str = ""
    comment: str = ""

    @property
    def tokens(self) -> tuple[str, str]:
        """What may be the token of a job of ours: the end of its name, and of its comment if it was renamed."""
        return self.name.rpartition(".")[2], self.comment.rpartition(":")[2]

    @property
    def is_final(self) -> bool:
        """Whether the job is in a final state."""
        return self.state in FINAL_STATES


class Answer(NamedTuple):
    """The exit code and the output of a command of SLURM."""

    returncode: int
    stdout: str
    stderr: str


class Silence(ClusterError):
    """SLURM did not answer, so nothing is known."""


def _elapsed_s(text: str) -> int:
    """Return the seconds of squeue's %M. It is 0 if squeue prints no time, or INVALID because clocks differ."""
    try:
        return parse_walltime(text)
    except FractalSlurmError:
        return 0


def _first_host(text: str) -> str:
    """Return the first node of a list that sacct printed. Empty if there is none."""
    try:
        return expand_hostlist(text)[0]
    except FractalSlurmError:
        return ""


def first_error(stderr: str) -> str:
    """Return SLURM's error message on one line, without the name of the command. A long message is cut."""
    lines = [
        re.sub(r"^(sbatch|squeue|sacct|scancel|scontrol|sinfo): (error|fatal): ", "", line.strip())
        for line in stderr.splitlines()
    ]
    return one_line("; ".join(list(dict.fromkeys(line for line in lines if line))[:2])) or "no reason given"


def judge_submission(returncode: int, stdout: str, stderr: str) -> Submission:
    """Read the result of ``sbatch --parsable``.

    A wrapper of the site may print other lines, too. So we look for the one line that is only an id.

    Args:
        returncode: The exit code.
        stdout: Standard output.
        stderr: Standard error.
    """
    ids = [match[1] for line in stdout.splitlines() if (match := _JOB_ID.fullmatch(line.strip()))]
    if returncode == 0:
        if len(ids) == 1:
            return Submission(Submitted.ACCEPTED, ids[0])
        found = [
            word
            for line in stdout.splitlines()
            if (m := re.search(r"Submitted batch job ([0-9]{1,10})", line))
            for word in m.groups()
        ]
        if len(found) == 1:
            return Submission(Submitted.ACCEPTED, found[0])
        said = "\n".join(part for part in (stdout.strip(), stderr.strip()) if part)
        return Submission(
            Submitted.UNKNOWN, words=f"sbatch printed no job id, but {said[:200]!r}", raw=said or "nothing"
        )
    said = stderr if stderr.strip() else stdout  # a script of the site may print its reason to standard output
    words = own_words(said)
    # Check for silence first: sbatch may have waited for room, tried again, and then got no answer.
    if returncode < 0 or any(sign in stderr for sign in _SILENCE):
        return Submission(Submitted.UNKNOWN, words=words)
    if says_sudo(stderr):
        outcome = Submitted.REFUSED if is_sudos_final_word(stderr) else Submitted.NOT_NOW
        words = sudo_words(stderr.splitlines())
        return Submission(outcome, words=words, raw=said, by_sudo=True, forbidden=True, exists_not=True)
    kind = kind_of(said)
    outcome = {
        Refusal.FULL: Submitted.FULL,
        Refusal.TOO_LARGE: Submitted.TOO_LARGE,
        Refusal.NOT_NOW: Submitted.NOT_NOW,
    }.get(kind, Submitted.REFUSED)
    # If the message is from a script of the site, that script may have submitted the job before.
    sure = kind is not Refusal.NOT_NOW or "Batch job submission failed" in said
    return Submission(outcome, words=words, raw=said, forbidden=kind is Refusal.FORBIDDEN, exists_not=sure)


def read_squeue(text: str, mark: str) -> Iterator[SlurmJob]:
    """Yield the jobs in the output of squeue.

    Args:
        text: The output. ``<MARK>`` is before each job, and ``|MARK|`` is between its fields.
        mark: A random text that no user could write into a name.
    """
    for row in text.split(f"<{mark}>")[1:]:
        job = _read_job(row.split(f"|{mark}|"), _PLAIN_ID)
        if job is not None:
            yield job


def read_squeue_of(text: str, mark: str) -> Iterator[tuple[str, str, SlurmJob]]:
    """Yield user, id and job of the jobs in the output of squeue that has users, too. Tasks of arrays have ids ``7_1``.

    Args:
        text: The output, as for :func:`read_squeue`, with the comment and the user as the last fields.
        mark: As there.
    """
    for row in text.split(f"<{mark}>")[1:]:
        *fields, comment, user = ["", *row.split(f"|{mark}|")]
        job = _read_job(fields[1:], _ANY_ID)
        if job is not None:
            yield user.strip(), job.job_id, replace(job, comment=comment.strip())


def _read_job(fields: Sequence[str], ids: re.Pattern[str]) -> SlurmJob | None:
    """Read the fields of a job. None if they are not those of one, with an id of this form."""
    if len(fields) != len(_SQUEUE_FIELDS):
        return None
    job_id, state, nodes, limit, elapsed, partition, reason, node, name = map(str.strip, fields)
    if not ids.fullmatch(job_id) or not _STATE.fullmatch(state):
        return None
    return SlurmJob(
        job_id, state, reason, _nodes(nodes), name, limit, partition, elapsed_s=_elapsed_s(elapsed),
        node=node if _HOST.fullmatch(node) else "",
    )  # fmt: skip


def read_sacct(text: str, mark: str) -> Iterator[SlurmJob]:
    """Yield the jobs in the output of sacct. Each line is a job, with the mark between the fields."""
    for line in text.split("\n"):
        fields = line.split(mark)
        if len(fields) in (len(_SACCT_FIELDS) - 1, len(_SACCT_FIELDS)):
            job_id, state, exit_code, nodes, name, hosts = [*fields, ""][: len(_SACCT_FIELDS)]
            word, _blank, rest = state.partition(" ")  # "CANCELLED by 1000"
            if _PLAIN_ID.fullmatch(job_id) and _STATE.fullmatch(word):
                host = _first_host(hosts)
                yield SlurmJob(job_id, word, rest or f"exit {exit_code}", _nodes(nodes), name, host=host)


def read_exit_code(text: str, job_id: str) -> str:
    """Return exit code and signal of a job, e.g. ``73:0``. Empty if they can't be read.

    Args:
        text: The output of squeue: id and exit_code. The latter is a wait status, or already has the form ``73:0``.
        job_id: The job's id.
    """
    words = text.split()
    if len(words) != 2 or words[0] != job_id:
        return ""
    if re.fullmatch(r"[0-9]{1,3}:[0-9]{1,3}", words[1]):
        return words[1]
    if not re.fullmatch(r"[0-9]{1,10}", words[1]):
        return ""
    status = int(words[1])
    number_of_signal = status & 0x7F
    return f"0:{number_of_signal}" if number_of_signal else f"{status >> 8 & 0xFF}:0"


def read_host(text: str, job_id: str) -> str:
    """Return the node of a job's script from squeue's id, exit_code and BatchHost. Empty if there is none."""
    words = text.split()
    return words[2] if len(words) == 3 and words[0] == job_id and _HOST.fullmatch(words[2]) else ""


def _nodes(text: str) -> int:
    """Return a number of nodes. It is 1 if the text is not a number."""
    return min(int(text), _MOST_NODES) if re.fullmatch(r"[0-9]{1,9}", text) else 1


@dataclass
class Slurm:
    """The cluster, as this host sees it.

    Attributes:
        bin_dir: Folder of SLURM's commands.
        sudo: Runs commands as other users.
        timeout: Seconds after which a command counts as unanswered.
        squeue_calls: Number of squeue calls so far.
        squeue_s: Seconds that slurmctld needs to answer a squeue.
        gate: Held while a job is submitted. It limits how many submissions run at the same time.
    """

    bin_dir: str
    sudo: Impersonator
    timeout: float = 60
    squeue_calls: int = field(default=0)
    squeue_s: float = field(default=0.0)
    gate: AbstractContextManager[object] = field(default_factory=nullcontext)
    _squeue_before_s: float = field(default=0.0)

    def _ask(
        self, command: str, *arguments: str, timeout: float | None = None, max_bytes: int = MAX_BYTES, **env: str
    ) -> Answer:
        """Run a command of SLURM as the service account. ``env`` is added to its environment.

        Raises:
            Silence: The command did not end in time.
            ClusterError: The command does not exist, can't be started, or printed more than ``max_bytes``.
        """
        try:
            result = run_command(
                [f"{self.bin_dir}/{command}", *arguments],
                env={**clean_environment(), **env},
                timeout=timeout or self.timeout,
                max_bytes=max_bytes,
            )
        except FileNotFoundError:
            raise ClusterError(
                f"{self.bin_dir}/{command} is not there: install SLURM's client commands, "
                "or set slurm_bin_dir in our settings"
            ) from None
        except OSError as error:
            raise ClusterError(f"{self.bin_dir}/{command} can't be started: {error.strerror}") from None
        except Expired:
            raise Silence(f"{command} got no answer within {timeout or self.timeout:g} seconds") from None
        except Overflow as overflow:
            raise ClusterError(f"{command} was ended: {overflow}") from None
        return Answer(result.returncode, result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace"))

    def _answer(self, command: str, *arguments: str, timeout: float | None = None) -> str:
        result = self._ask(command, *arguments, timeout=timeout)
        if result.returncode != 0:
            raise Silence(f"{command}: {first_error(result.stderr)}")
        return result.stdout

    def config(self, timeout: float | None = None) -> dict[str, str]:
        """Return the values of ``scontrol show config`` by name.

        Raises:
            Silence: slurmctld does not answer.
        """
        return parse_config_lines(self._answer("scontrol", "show", "config", timeout=timeout))

    def facts(self, users: Sequence[str] = (), *, timeout: float | None = None) -> Cluster:
        """Return partitions, nodes and limits, for :mod:`fractal_slurm.cluster.fit`.

        Args:
            users: The users whose associations are wanted, if there is accounting. Without any, those of all users are.
            timeout: Seconds for each command.

        Raises:
            ClusterError: slurmctld does not answer, or the output is not that of SLURM.
        """
        accounting = self.config(timeout).get("AccountingStorageType", "").endswith("slurmdbd")
        outputs = {}
        for name, (command, *arguments) in facts_commands(accounting=accounting, users=users).items():
            result = self._ask(command, *arguments, timeout=timeout)
            if result.returncode == 0:
                outputs[name] = result.stdout
        return parse_facts(outputs)

    def submit(self, user: str, script: bytes, *, timeout: float) -> Submission:
        """Submit a script as ``user``.

        Args:
            user: The user of the job.
            script: The script. sbatch reads it from standard input, so no file is needed.
            timeout: Seconds after which the submission counts as unanswered.
        """
        try:
            with self.gate:
                result = self.sudo.run(user, "sbatch", ["--parsable"], stdin=script, timeout=timeout)
        except TimedOut as expired:
            # Most likely sbatch was ended while it waited for room. But its last try may have submitted the job.
            if kind_of(expired.stderr) is Refusal.FULL:
                return Submission(Submitted.UNKNOWN, words=own_words(expired.stderr), raw=expired.stderr)
            return Submission(Submitted.UNKNOWN, words=str(expired))
        except TooMuch as much:
            return Submission(Submitted.UNKNOWN, words=str(much), raw=str(much))
        return judge_submission(
            result.returncode, result.stdout.decode(errors="replace"), result.stderr.decode(errors="replace")
        )

    def squeue(self, job_ids: Sequence[str] = (), *, names: Sequence[str] = (), user: str = "") -> dict[str, SlurmJob]:
        """Ask slurmctld for jobs. Jobs that it does not know, or does not know any more, are left out.

        Args:
            job_ids: Ids to look for.
            names: Job names to look for, if no ids are given.
            user: The user of the jobs with these names. Other users can see our names, and use them for their jobs.

        Raises:
            Silence: slurmctld does not answer.
        """
        found: dict[str, SlurmJob] = {}
        wanted = job_ids or names
        for first in range(0, len(wanted), _MAX_IDS_PER_CALL):
            some = set(wanted[first : first + _MAX_IDS_PER_CALL])
            which = [f"--jobs={','.join(some)}"] if job_ids else [f"--name={','.join(some)}", f"--user={user}"]
            for state in self._squeue(*which).values():
                if (state.job_id if job_ids else state.name) in some:
                    found[state.job_id] = state
        return found

    def squeue_of(self, users: Sequence[str]) -> list[tuple[str, str, SlurmJob]] | None:
        """Ask slurmctld for all jobs of users, also for those that are none of ours.

        Returns:
            User, id and job of each, with its comment. None if slurmctld does not answer this: it may do without a
            user, or not at all.
        """
        try:
            fields = (*_SQUEUE_FIELDS, "%k", "%u")
            result, mark = self._squeue_text(f"--user={','.join(users)}", "--array", fields=fields)
        except ClusterError:
            return None
        return list(read_squeue_of(result.stdout, mark)) if result.returncode == 0 else None

    def _squeue(self, *which: str) -> dict[str, SlurmJob]:
        result, mark = self._squeue_text(*which)
        if result.returncode != 0:
            if "Invalid job id specified" in result.stderr:
                return {}
            raise Silence(f"squeue: {first_error(result.stderr)}")
        return {state.job_id: state for state in read_squeue(result.stdout, mark)}

    def _squeue_text(self, *which: str, fields: Sequence[str] = _SQUEUE_FIELDS) -> tuple[Answer, str]:
        """Return what squeue printed, and the mark in it."""
        self.squeue_calls += 1
        began = time.monotonic()
        # Users choose the names of their jobs. A name may have a newline, followed by text that looks like another job.
        # So every field begins with a random mark that nobody else knows. It is passed in the environment, because
        # everybody can read a command line.
        mark = secrets.token_hex(8)
        result = self._ask(
            "squeue", "--noheader", "--states=all", *which,
            max_bytes=_MAX_QUEUE_BYTES, SQUEUE_FORMAT=f"<{mark}>" + f"|{mark}|".join(fields),
        )  # fmt: skip
        if result.returncode == 0:
            # Use the faster of the last two answers: a slurmctld that has just started may give one slow answer.
            took = time.monotonic() - began
            self.squeue_s, self._squeue_before_s = min(took, self._squeue_before_s), took
        return result, mark

    def sacct(self, job_ids: Sequence[str]) -> dict[str, SlurmJob]:
        """Ask the accounting for jobs. The result is empty if there is no accounting, or if it does not answer."""
        mark = secrets.token_hex(8)
        found: dict[str, SlurmJob] = {}
        for first in range(0, len(job_ids), _MAX_IDS_PER_CALL):
            some = job_ids[first : first + _MAX_IDS_PER_CALL]
            try:
                result = self._ask(
                    "sacct", "--noheader", "--parsable2", f"--delimiter={mark}", "--allocations", "--duplicates",
                    f"--jobs={','.join(some)}", f"--format={','.join(_SACCT_FIELDS)}", max_bytes=_MAX_QUEUE_BYTES,
                )  # fmt: skip
            except ClusterError:
                return found
            if result.returncode == 0:
                # A requeued job has several lines. The last one is the newest.
                found |= {state.job_id: state for state in read_sacct(result.stdout, mark) if state.job_id in some}
        return found

    def exists(self, job_id: str) -> bool | None:
        """Return whether slurmctld has a job, even if it hides the job from us. None if there is no clear answer.

        We ask for the script of the job. slurmctld refuses that for jobs of other users, with another message than for
        jobs that do not exist. The question changes nothing.
        """
        try:
            # If slurmctld shows the script, it may be as large as SLURM allows.
            result = self._ask("scontrol", "write", "batch_script", job_id, "-", max_bytes=_MAX_QUEUE_BYTES)
        except ClusterError:
            return None
        if "Invalid job id specified" in result.stderr:
            return False
        shown = result.returncode == 0 or "Invalid user id" in result.stderr
        return True if shown or "permission denied" in result.stderr else None

    def end_of(self, job_id: str) -> tuple[str, str]:
        """Return how a job ended, and where.

        Returns:
            Exit code and signal as SLURM writes them (``73:0``), and the node of the job's script. Both are empty if
            slurmctld does not know the job any more.

        Raises:
            Silence: slurmctld does not answer.
        """
        # We do not use scontrol: it prints the job's name on the same line, and the user chose this name.
        result = self._ask(
            "squeue",
            "--noheader",
            "--states=all",
            f"--jobs={job_id}",
            SQUEUE_FORMAT2="JobID:20,exit_code:20,BatchHost:256",
        )
        if result.returncode != 0 and "Invalid job id" not in result.stderr:
            raise Silence(f"squeue: {first_error(result.stderr)}")
        code = " ".join(result.stdout.split()[:2])
        return read_exit_code(code, job_id), read_host(result.stdout, job_id)

    def cancel(self, user: str, job_ids: Sequence[str]) -> None:
        """Cancel jobs of ``user`` with one call. Ids that SLURM does not know do no harm.

        Raises:
            Silence: slurmctld does not answer.
            ClusterError: SLURM refused.
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
