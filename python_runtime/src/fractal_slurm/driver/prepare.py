# SPDX-License-Identifier: BSD-3-Clause
"""Before a run: everything that can be checked is checked, and the journal is made. Nothing is submitted here."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cluster.commands import Silence, Slurm
from ..cluster.facts import Cluster
from ..cluster.fit import WalltimeLimit, longest_walltime
from ..config.file import SlurmConfigFile
from ..config.options import directive_values
from ..config.resolve import Resolution, resolve
from ..errors import ClusterError, RunError
from ..jobs import layout
from ..jobs.plan import fit_scripts, make_plan
from ..jobs.script import JobSettings, render
from ..refusals import no_answer_advice
from ..settings import Settings
from ..spec import Spec
from ..sudo import Impersonator
from ..sudo_rules import check_user_name, clean_path
from .folders import check_work_dir
from .journal import Journal
from .model import Metas, RunRecord, TaskLine

PREFLIGHT_TIMEOUT_S = 12


def new_run_id() -> str:
    """An id for a run: the time it began, and a few random digits."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def connect(settings: Settings) -> Slurm:
    """SLURM and sudo, as the settings say where they are."""
    sudo = Impersonator(sudo=settings.sudo, slurm_bin_dir=settings.bin_dir())
    return Slurm(bin_dir=settings.bin_dir(), sudo=sudo, timeout=settings.command_timeout_s)


def job_settings(
    spec: Spec,
    settings: Settings,
    *,
    run_folder: str,
    cache_dir: str,
    run_id: str = "",
    cluster: Cluster | None = None,
    max_walltime: WalltimeLimit | None = None,
) -> JobSettings:
    """What the scripts of a run have in common.

    Args:
        spec: The unit of work.
        settings: Our own settings.
        run_folder: The run's folder, in the user's work folder.
        cache_dir: The user's cache_dir.
        run_id: The run's id, for the jobs' comments; empty for none.
        cluster: The cluster, where it is known.
        max_walltime: The longest time limit that a job may have; None for any.
    """
    known: dict[str, Any] = (
        {}
        if cluster is None
        else {
            "kill_wait_s": cluster.kill_wait_s,
            "max_script_bytes": cluster.max_script_size,
        }
    )
    return JobSettings(
        command=spec.command,
        run_folder=run_folder,
        cache_dir=cache_dir,
        run_id=run_id,
        worker_python=settings.python(),
        worker_folder=settings.folder(),
        srun=f"{settings.bin_dir()}/srun",
        memory_limit=settings.memory_limit,
        isolation=settings.isolation,
        task_logs=settings.task_logs,
        task_start=settings.task_start,
        fork_fallback=settings.fork_fallback,
        max_out_bytes=settings.max_out_bytes,
        time_scope=settings.time_scope,
        start_slack_s=settings.start_slack_s,
        max_walltime_s=None if max_walltime is None else max_walltime.seconds,
        max_walltime_of="" if max_walltime is None else str(max_walltime),
        **known,
    )


def walltime_of(cluster: Cluster, resolution: Resolution, user: str) -> WalltimeLimit | None:
    """The longest time limit that a job of this config and user may have, and who sets it; None for any.

    Raises:
        ClusterError: There is no such partition.
    """
    config = resolution.config
    names = [name.strip() for name in config.partition.split(",") if name.strip()]
    missing = [name for name in names if name not in cluster.partitions] if not cluster.hides_partitions else []
    if missing:
        raise ClusterError(
            f"the partition {missing[0]!r} (from {resolution.sources['partition']}) does not exist; "
            f"there are {', '.join(sorted(cluster.partitions)) or 'none'}"
        )
    qos = [value for line in config.extra_lines for value in directive_values(line, "qos", "q")]
    return longest_walltime(
        cluster, partition=",".join(names), user=user, account=config.account, qos=qos[-1] if qos else None
    )


def resolve_spec(config_file: SlurmConfigFile, spec: Spec, account: str | None = None) -> Resolution:
    """The merged config of a unit of work."""
    return resolve(
        config_file,
        task_name=spec.task_name,
        task_meta=spec.task_meta,
        workflow_task_meta=spec.meta,
        tot_tasks=len(spec.parameters),
        account=account,
    )


@dataclass(frozen=True)
class Draft:
    """A run that was checked, and of which nothing was written yet.

    Attributes:
        record: What the run is.
        parameters: The args-JSON of each task.
        batches: Token to tasks of each planned job.
        reason: Why they are batched so.
    """

    record: RunRecord
    parameters: Sequence[str]
    batches: Mapping[str, range]
    reason: str

    def create(self, settings: Settings) -> Journal:
        """Make the journal.

        Raises:
            RunError: The journal can't be written.
        """
        return Journal.create(settings.state_path(), self.record, self.parameters, self.batches, self.reason)


def facts_of(slurm: Slurm, users: Sequence[str] = (), *, timeout: float | None = PREFLIGHT_TIMEOUT_S) -> Cluster:
    """What SLURM says of the cluster, and of what users may do there.

    Args:
        slurm: The cluster.
        users: The users. Without any, the associations of all users are asked for.
        timeout: Seconds for each command; None for that of our settings.

    Raises:
        ClusterError: It can't be reached, or its output is not that of SLURM.
    """
    try:
        return slurm.facts(users, timeout=timeout)
    except Silence as silence:
        raise ClusterError(f"SLURM can't be reached: {silence}; {no_answer_advice(slurm.bin_dir)}") from None


def create_run(
    config_file: SlurmConfigFile,
    spec: Spec,
    settings: Settings,
    slurm: Slurm,
    *,
    user: str,
    cache_dir: str,
    work_dir: str,
    account: str | None = None,
    say: Callable[[str], None],
) -> Journal:
    """Check everything that can be checked, and make the journal of a new run. Nothing is submitted yet.

    Args:
        config_file: The config file.
        spec: The unit of work.
        settings: Our own settings.
        slurm: The cluster.
        user: Whose jobs they become.
        cache_dir: The user's cache_dir.
        work_dir: A folder in which the user can write, on the nodes too.
        account: The account from the user's settings.
        say: Where warnings go.

    Raises:
        FractalSlurmError: The input is not valid, sudo or SLURM refuse, or the journal can't be written.
    """
    return draft_spec(
        config_file,
        spec,
        settings,
        lambda: facts_of(slurm, [user]),
        user=user,
        cache_dir=cache_dir,
        work_dir=work_dir,
        account=account,
        say=say,
    ).create(settings)


def create_resolved_run(
    resolution: Resolution,
    spec: Spec,
    settings: Settings,
    slurm: Slurm,
    *,
    user: str,
    cache_dir: str,
    work_dir: str,
    labels: Mapping[str, Any] | None = None,
    say: Callable[[str], None],
) -> Journal:
    """As :func:`create_run`, for a config that is resolved already: the metas of the spec have no part in it.

    Args:
        labels: What the caller wants to find with the run later; JSON values by name.
    """
    return draft_run(
        resolution,
        spec,
        settings,
        lambda: facts_of(slurm, [user]),
        user=user,
        cache_dir=cache_dir,
        work_dir=work_dir,
        labels=labels,
        say=say,
    ).create(settings)


def draft_spec(
    config_file: SlurmConfigFile,
    spec: Spec,
    settings: Settings,
    facts: Callable[[], Cluster],
    *,
    user: str,
    cache_dir: str,
    work_dir: str,
    account: str | None = None,
    say: Callable[[str], None],
) -> Draft:
    """As :func:`draft_run`, with the config that the file and the metas of the spec come to."""
    return draft_run(
        resolve_spec(config_file, spec, account),
        spec,
        settings,
        facts,
        user=user,
        cache_dir=cache_dir,
        work_dir=work_dir,
        metas=Metas(task_meta=spec.task_meta, meta=spec.meta),
        say=say,
    )


def draft_run(
    resolution: Resolution,
    spec: Spec,
    settings: Settings,
    facts: Callable[[], Cluster],
    *,
    user: str,
    cache_dir: str,
    work_dir: str,
    labels: Mapping[str, Any] | None = None,
    metas: Metas | None = None,
    say: Callable[[str], None],
) -> Draft:
    """Check everything that can be checked of a new run. Nothing is written yet.

    Args:
        facts: What SLURM says of the cluster and the user; called once what needs no SLURM is checked.
        metas: The metas that the config was resolved with; None if it was given as a whole.

    Raises:
        FractalSlurmError: The input is not valid, or SLURM can't be reached.
    """
    check_user_name(user)
    work_dir = clean_path(work_dir, "--work-dir")
    warning = check_work_dir(work_dir, user)
    if warning:
        say(f"warning: {warning}")
    check_cache_dir(cache_dir)
    for warning in resolution.warnings:
        say(f"warning: {warning}")
    cluster = facts()
    max_walltime = walltime_of(cluster, resolution, user)
    run_id = new_run_id()
    run_folder = layout.run_folder(work_dir, run_id)
    jobs = job_settings(
        spec,
        settings,
        run_folder=run_folder,
        cache_dir=cache_dir,
        run_id=run_id,
        cluster=cluster,
        max_walltime=max_walltime,
    )
    plan = fit_scripts(make_plan(resolution, jobs, len(spec.parameters)), jobs, spec.parameters)
    # The first script is written for its checks: what may not stand in one is found before anything is made.
    first = [TaskLine(index, 0, spec.parameters[index]) for index in plan.batches[0][:1]]
    render(plan.config, jobs, token="0" * 16, tasks=first)
    record = RunRecord(
        run_id=run_id,
        created=time.time(),
        user=user,
        task_name=spec.task_name,
        tasks=len(spec.parameters),
        run_folder=run_folder,
        config=plan.config,
        job_settings=jobs,
        sources=dict(resolution.sources),
        settings=settings.model_dump(),
        hides_jobs=cluster.hides_jobs,
        metas=metas,
        labels=dict(labels or {}),
    )
    batches = {secrets.token_hex(8): batch for batch in plan.batches}
    return Draft(record, spec.parameters, batches, plan.reason)


def check_cache_dir(cache_dir: str) -> None:
    """Accept a user's cache_dir.

    Raises:
        RunError: It is not absolute, or has ``..`` in it.
    """
    if not cache_dir.startswith("/") or ".." in cache_dir.split("/"):
        raise RunError(f"--cache-dir {cache_dir!r} is not allowed: it must be an absolute path without '..'")
