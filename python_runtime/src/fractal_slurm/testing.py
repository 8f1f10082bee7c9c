# SPDX-License-Identifier: BSD-3-Clause
"""Helpers for tests of a cluster with pytest-testinfra: jobs, nodes, sudo rights, runs.

Each takes testinfra's ``host``, on which the tests run as root:

    from fractal_slurm.testing import Slurm, may_run_as

    def test_jobs_run(host):
        job = Slurm(host).run("hostname", user="anna")
        assert job.state == "COMPLETED"

    def test_carl_is_not_impersonated(host):
        assert not may_run_as(host, "fractal", "carl", ["/usr/bin/sbatch", "--parsable"])

Nothing here imports testinfra or pytest, so that the module can be imported anywhere.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .cluster.commands import FINAL_STATES


class Result(Protocol):
    """What testinfra gives for a command that ran."""

    rc: int
    stdout: str
    stderr: str


class Host(Protocol):
    """What is used of testinfra's ``host``."""

    def run(self, command: str, *args: str) -> Result:
        """Run a command in a shell; ``%s`` stands for an argument, quoted."""


@dataclass(frozen=True)
class Job:
    """A job that is over.

    Attributes:
        job_id: SLURM's number.
        state: SLURM's state, such as COMPLETED.
        exit_code: What the script ended with, or 0 if a signal ended it.
    """

    job_id: int
    state: str
    exit_code: int


def run_as(host: Host, user: str, argv: Sequence[str], *, cwd: str = "/", stdin: str = "") -> Result:
    """Run a command as a user; the user's own shell and profile have no part in it.

    Args:
        host: Where.
        user: As whom.
        argv: The command and its arguments.
        cwd: The working directory.
        stdin: What the command reads.
    """
    inner = f"cd {shlex.quote(cwd)} && printf %s {shlex.quote(stdin)} | {shlex.join(argv)}"
    return host.run(f"runuser -u {shlex.quote(user)} -- sh -c {shlex.quote(inner)}")


class Slurm:
    """The SLURM that a host is part of.

    Args:
        host: A host that may submit.
        bin_dir: The folder of sbatch, squeue and the other commands.
    """

    def __init__(self, host: Host, bin_dir: str = "/usr/bin") -> None:
        self.host = host
        self.bin_dir = bin_dir

    def command(self, name: str, *arguments: str, user: str = "root", stdin: str = "") -> Result:
        """Run one of SLURM's commands, such as ``command("sinfo", "-N")``."""
        return run_as(self.host, user, [f"{self.bin_dir}/{name}", *arguments], stdin=stdin)

    def node_states(self) -> dict[str, str]:
        """Each node's state as sinfo says it: idle, allocated, mixed, down, drained; ``*`` follows if it is silent."""
        said = _output(self.command("sinfo", "--noheader", "--Node", "--format=%N %T"))
        return dict(line.split() for line in said.splitlines())

    def submit(self, command: str, *options: str, user: str = "root") -> int:
        """Submit a shell command as a batch job.

        Args:
            command: What the job runs, with sh.
            options: Options of sbatch, such as ``--nodes=2``. Without ``--output``, what it prints is dropped.
            user: Who submits.

        Returns:
            The job's number.

        Raises:
            AssertionError: sbatch refused.
        """
        argv = ["--parsable", "--chdir=/", "--output=/dev/null", *options]
        said = _output(self.command("sbatch", *argv, user=user, stdin=f"#!/bin/sh\n{command}\n"))
        return int(said.split(";")[0])

    def wait(self, job_id: int, timeout_s: float = 60) -> Job:
        """Wait until a job is over.

        Raises:
            AssertionError: It is not, in that time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            shown = _output(self.command("scontrol", "--oneliner", "show", "job", str(job_id)))
            values = dict(word.partition("=")[::2] for word in shown.split())
            if values["JobState"] in FINAL_STATES:
                return Job(job_id, values["JobState"], int(values["ExitCode"].split(":")[0]))
            if time.monotonic() > deadline:
                state = f"{values['JobState']} ({values['Reason']})"
                raise AssertionError(f"job {job_id} is {state} after {timeout_s:.0f} s")
            time.sleep(0.2)

    def run(self, command: str, *options: str, user: str = "root", timeout_s: float = 60) -> Job:
        """Submit a shell command and wait until its job is over; arguments as for ``submit`` and ``wait``."""
        return self.wait(self.submit(command, *options, user=user), timeout_s)


def may_run_as(host: Host, service_user: str, user: str, argv: Sequence[str]) -> bool:
    """Whether sudo on the host lets a service account run a command as another user, without a password.

    sudo itself answers (``sudo -l``); nothing is run.
    """
    return all(sudo_matrix(host, service_user, [user], [argv]).values())


def sudo_matrix(
    host: Host, service_user: str, users: Iterable[str], commands: Iterable[Sequence[str]]
) -> dict[tuple[str, str], bool]:
    """Whether sudo lets a service account run each command as each user; all is asked in one go.

    Returns:
        (user, command line) and whether it is allowed.

    Raises:
        AssertionError: The host did not answer all of it.
    """
    commands = list(commands)
    asked = [(user, argv) for user in users for argv in commands]
    sudo = ["sudo", "--non-interactive", "--list", f"--other-user={service_user}"]
    script = "".join(
        f"{shlex.join([*sudo, f'--user={user}', '--', *argv])} >/dev/null 2>&1; echo $?\n" for user, argv in asked
    )
    codes = _output(host.run("sh -c %s", script)).split()
    assert len(codes) == len(asked), codes  # noqa: S101
    return {(user, shlex.join(argv)): code == "0" for (user, argv), code in zip(asked, codes, strict=True)}


def fractal_run(
    host: Host,
    spec: Mapping[str, Any],
    *,
    service_user: str,
    user: str,
    cache_dir: str,
    work_dir: str,
    command: str = "/usr/local/bin/fractal-slurm",
    options: Sequence[str] = (),
) -> tuple[int, dict[str, Any], str]:
    """Run ``fractal-slurm run`` on a host, as the service account.

    Args:
        host: Where.
        spec: The unit of work.
        service_user: Who runs it.
        user: Who is impersonated.
        cache_dir: The user's cache_dir.
        work_dir: The user's folder for the runtime's files.
        command: The path of fractal-slurm.
        options: Further options of ``run``.

    Returns:
        The exit code, the summary (empty if there is none), and what was written to standard error.
    """
    argv = [command, "run", "-", "--user", user, "--cache-dir", cache_dir, "--work-dir", work_dir, "--json", *options]
    ended = run_as(host, service_user, argv, stdin=json.dumps(spec))
    summary = json.loads(ended.stdout) if ended.stdout.strip() else {}
    return ended.rc, summary, ended.stderr


def _output(result: Result) -> str:
    """The standard output of a command that must succeed."""
    assert result.rc == 0, f"exit code {result.rc}: {result.stderr.strip() or result.stdout.strip()}"  # noqa: S101
    return result.stdout.strip()
