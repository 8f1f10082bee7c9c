# SPDX-License-Identifier: BSD-3-Clause
"""Does a config file fit a cluster? Everything that sbatch would refuse, or that would wait for ever.

SLURM itself says so late or never: a job that no node can run is accepted, and pends without end,
unless the site sets EnforcePartLimits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from .batching import heuristics
from .cluster import Cluster, Node, Partition, Qos, expand_hostlist, parse_gres
from .config_file import SlurmConfigFile
from .errors import BatchingError, FractalSlurmError
from .walltime import format_walltime, parse_walltime

# Numbers of tasks for which the batching is told: one, a plate of 96 wells, one of 1,536, and a screen.
ADVICE_FOR = (1, 96, 1_536, 10_000)
_DEFAULT = "$.default_slurm_config"
_GPU = "$.gpu_slurm_config"
_BATCHING = "$.batching_config"


class Severity(str, Enum):
    """How much a finding matters."""

    ERROR = "error"
    WARNING = "warning"
    ADVICE = "advice"


class Finding(NamedTuple):
    """One thing found.

    Attributes:
        severity: An error is never going to work; a warning may work or wait; advice is for reading.
        path: JSON path in the config file.
        message: A sentence: what was found, what the cluster allows.
    """

    severity: Severity
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class Options(NamedTuple):
    """What a task of one kind asks for, with the JSON path that each option came from."""

    values: dict[str, Any]
    paths: dict[str, str]

    def get(self, name: str) -> Any:
        """The option's value, or None."""
        return self.values.get(name)

    def path(self, name: str) -> str:
        """The option's JSON path."""
        return self.paths.get(name, f"{_DEFAULT}.{name}")


def check(config: SlurmConfigFile, cluster: Cluster, *, users: Sequence[str] = ()) -> list[Finding]:
    """Compare a config file with a cluster.

    Args:
        config: The config file.
        cluster: The cluster.
        users: Users who are going to be impersonated; their accounts and limits are looked at where they are known.

    Returns:
        What was found: errors first, then warnings, then advice.
    """
    found: list[Finding] = []
    kinds = [_layer((config.default_slurm_config, _DEFAULT))]
    if config.gpu_slurm_config is not None:
        kinds.append(_layer((config.default_slurm_config, _DEFAULT), (config.gpu_slurm_config, _GPU)))
    for options in kinds:
        found += _check_options(options, cluster, users)
    found += _check_batching(config, kinds[0], cluster, users)
    order = list(Severity)
    return sorted(dict.fromkeys(found), key=lambda finding: order.index(finding.severity))


def _layer(*layers: tuple[Any, str]) -> Options:
    """Lay sets of options over one another; the last one wins."""
    options = Options({}, {})
    for model, path in layers:
        for name, value in model.model_dump(exclude_none=True).items():
            options.values[name] = value
            options.paths[name] = f"{path}.{name}"
    return options


def _check_options(options: Options, cluster: Cluster, users: Sequence[str]) -> Iterator[Finding]:
    name = options.get("partition")
    partition = cluster.partitions.get(name)
    if partition is None:
        known = ", ".join(sorted(cluster.partitions)) or "none"
        yield Finding(
            Severity.ERROR, options.path("partition"), f"found {name!r}; the cluster {cluster.name} has {known}"
        )
        return
    if partition.state != "UP":
        yield Finding(
            Severity.WARNING,
            options.path("partition"),
            f"the partition {name!r} is {partition.state}: jobs wait until it is UP",
        )
    yield from _check_time(options, cluster, partition, users)
    yield from _check_nodes(options, cluster, partition)
    yield from _check_account(options, cluster, partition, users)


def walltime_limit(
    cluster: Cluster, *, partition: str, user: str, account: str | None = None, qos: str | None = None
) -> int | None:
    """The longest time limit that a user's job may have, in seconds; None for any.

    Args:
        cluster: The cluster.
        partition: The job's partition, or several with commas between them, of which SLURM takes one that fits.
        user: Whose job it is.
        account: The job's account, if it names one.
        qos: The job's QOS, if it names one.
    """
    limits = []
    for name in partition.split(","):
        found = cluster.partitions[name]
        options = Options({"account": account}, {})
        sorts = [(cluster.qos or {})[qos]] if qos in (cluster.qos or {}) else _qos_of(options, cluster, found, user)
        own = [entry.max_wall_s for entry in cluster.associations or () if entry.user == user]
        limits.append([found.max_time_s, *(sort.max_wall_s for sort in sorts), *(own if len(own) == 1 else ())])
    shortest = [min((each for each in some if each is not None), default=None) for some in limits]
    return None if None in shortest else max(each for each in shortest if each is not None)


def _check_time(options: Options, cluster: Cluster, partition: Partition, users: Sequence[str]) -> Iterator[Finding]:
    text = options.get("time")
    if text is None:
        default = partition.default_time_s or partition.max_time_s
        if default is not None:
            yield Finding(
                Severity.ADVICE,
                options.path("time"),
                f"not set: jobs get the partition's default of {format_walltime(default)}",
            )
        return
    wanted = parse_walltime(text)
    limits: list[tuple[int, str]] = []
    if partition.max_time_s is not None:
        limits.append((partition.max_time_s, f"the partition {partition.name!r} allows"))
    for user in users:
        for qos in _qos_of(options, cluster, partition, user):
            if qos.max_wall_s is not None:
                limits.append((qos.max_wall_s, f"the QOS {qos.name!r} of {user} allows"))
    for limit, whose in dict.fromkeys(limits):
        if wanted > limit:
            yield Finding(
                Severity.ERROR, options.path("time"), f"found {text!r}; {whose} at most {format_walltime(limit)}"
            )


def _check_nodes(options: Options, cluster: Cluster, partition: Partition) -> Iterator[Finding]:
    """Whether a task fits at least one node of the partition."""
    nodes = cluster.nodes_of(partition.name)
    if not nodes:
        yield Finding(Severity.ERROR, options.path("partition"), f"the partition {partition.name!r} has no nodes")
        return
    try:
        wanted_nodes, excluded = (
            set(expand_hostlist(options.get(name))) if options.get(name) else set() for name in ("nodelist", "exclude")
        )
        asked = _asked(options)
    except FractalSlurmError as error:
        yield Finding(Severity.ERROR, options.path("gres"), str(error))
        return
    for name in ("nodelist", "exclude"):
        unknown = sorted((wanted_nodes if name == "nodelist" else excluded) - set(cluster.nodes))
        if unknown:
            yield Finding(Severity.ERROR, options.path(name), f"no such nodes: {', '.join(unknown)}")
    outside = sorted(wanted_nodes & set(cluster.nodes) - {node.name for node in nodes})
    if outside:
        yield Finding(
            Severity.ERROR, options.path("nodelist"), f"not in the partition {partition.name!r}: {', '.join(outside)}"
        )
    candidates = [
        node for node in nodes if node.name not in excluded and (not wanted_nodes or node.name in wanted_nodes)
    ]
    if not candidates:
        yield Finding(
            Severity.ERROR, options.path("nodelist"), f"nodelist and exclude leave no node of {partition.name!r}"
        )
        return
    shortfalls = {node.name: _shortfalls(node, partition, asked) for node in candidates}
    fitting = [node for node in candidates if not shortfalls[node.name]]
    if not fitting:
        best = min(candidates, key=lambda node: (len(shortfalls[node.name]), -node.cpus, -node.memory_mb))
        for name, words in shortfalls[best.name].items():
            yield Finding(
                Severity.ERROR,
                options.path(name),
                f"no node of the partition {partition.name!r} fits a task; the best is {best.name}: {words}",
            )
    elif not any(node.is_up for node in fitting):
        states = ", ".join(f"{node.name} is {node.state}" for node in fitting[:4])
        yield Finding(
            Severity.WARNING, options.path("partition"), f"no node that fits a task is up: {states}: jobs wait"
        )


class _Asked(NamedTuple):
    cpus: int
    memory_mb: int
    gres: dict[str, int]
    gpus: dict[str, int]
    constraint: str | None


def _asked(options: Options) -> _Asked:
    gpus = options.get("gpus")
    return _Asked(
        options.get("cpus_per_task"),
        options.get("mem"),
        parse_gres(options.get("gres") or ""),
        # --gpus=2 and --gpus=a100:2 leave the name out.
        parse_gres(f"gpu:{gpus}") if gpus else {},
        options.get("constraint"),
    )


def _shortfalls(node: Node, partition: Partition, asked: _Asked) -> dict[str, str]:
    """Why a task does not fit a node, by option."""
    found = {}
    cpus = min(node.cpus, partition.max_cpus_per_node or node.cpus)
    memory = min(node.memory_mb, partition.max_mem_per_node_mb or node.memory_mb)
    if asked.cpus > cpus:
        found["cpus_per_task"] = f"it has {cpus} CPUs, and {asked.cpus} are asked for"
    if asked.memory_mb > memory:
        found["mem"] = f"it has {memory} MB, and {asked.memory_mb} MB are asked for"
    for option, wanted in (("gres", asked.gres), ("gpus", asked.gpus)):
        lacking = [f"{count} {name}" for name, count in wanted.items() if node.gres.get(name, 0) < count]
        if lacking:
            has = ", ".join(f"{count} {name}" for name, count in node.gres.items()) or "none"
            found[option] = f"it has {has}, and {', '.join(lacking)} are asked for"
    if asked.constraint is not None and not satisfies(node.features, asked.constraint):
        has = ", ".join(node.features) or "none"
        found["constraint"] = f"it has the features {has}, and {asked.constraint!r} is asked for"
    return found


def satisfies(features: Sequence[str], constraint: str) -> bool:
    """Whether a node's features satisfy a --constraint.

    ``&``, ``|`` and parentheses are understood. Of the forms that count nodes or choose among them
    (``[a|b]``, ``a*4``), only that the node has one of the features is asked.

    Args:
        features: The node's features.
        constraint: What is asked for.
    """
    if re.search(r"[\[\]*]", constraint):
        return any(name in features for name in re.findall(r"[A-Za-z_][\w.=-]*", constraint))
    tokens = re.findall(r"[()&|,]|[^()&|,\s]+", constraint)

    def alternatives() -> bool:
        result = conjunction()
        while tokens and tokens[0] == "|":
            tokens.pop(0)
            result = conjunction() or result
        return result

    def conjunction() -> bool:
        result = term()
        while tokens and tokens[0] in "&,":
            tokens.pop(0)
            result = term() and result
        return result

    def term() -> bool:
        if not tokens:
            return False
        token = tokens.pop(0)
        if token == "(":  # noqa: S105 (no password)
            result = alternatives()
            if tokens and tokens[0] == ")":
                tokens.pop(0)
            return result
        return token in features

    return alternatives() and not tokens


def _check_account(options: Options, cluster: Cluster, partition: Partition, users: Sequence[str]) -> Iterator[Finding]:
    account = options.get("account")
    if account is not None:
        allowed = partition.allow_accounts
        if (allowed is not None and account not in allowed) or account in partition.deny_accounts:
            only = f"only {', '.join(allowed)}" if allowed is not None else "others only"
            yield Finding(
                Severity.ERROR, options.path("account"), f"found {account!r}; {partition.name!r} is for {only}"
            )
    if cluster.associations is None:
        return
    for user in users:
        accounts = sorted({entry.account for entry in cluster.associations if entry.user == user})
        if account is not None and account not in accounts:
            has = f"{user} has {', '.join(accounts)}" if accounts else f"{user} has no account"
            yield Finding(Severity.ERROR, options.path("account"), f"found {account!r}; {has}")
        elif not accounts and "associations" in cluster.accounting_enforced:
            yield Finding(
                Severity.ERROR,
                options.path("account"),
                f"{user} has no account, and the cluster takes jobs of accounts only",
            )


def _qos_of(options: Options, cluster: Cluster, partition: Partition, user: str) -> Iterator[Qos]:
    """The QOS that a user's jobs get when they name none, and the partition's own."""
    names = [partition.qos] if partition.qos else []
    for entry in cluster.associations or ():
        if entry.user == user and options.get("account") in (None, entry.account):
            names.append(entry.default_qos or (entry.qos[0] if len(entry.qos) == 1 else "normal"))
    for name in dict.fromkeys(names):
        qos = (cluster.qos or {}).get(name)
        if qos is not None:
            yield qos


def _check_batching(
    config: SlurmConfigFile, options: Options, cluster: Cluster, users: Sequence[str]
) -> Iterator[Finding]:
    limits = config.batching_config
    if cluster.max_job_count and limits.max_num_jobs > cluster.max_job_count:
        yield Finding(
            Severity.WARNING,
            f"{_BATCHING}.max_num_jobs",
            f"found {limits.max_num_jobs}; slurmctld holds at most {cluster.max_job_count} jobs",
        )
    partition = cluster.partitions.get(options.get("partition"))
    if partition is None:
        return
    nodes = cluster.nodes_of(partition.name)
    largest: tuple[tuple[str, Callable[[Node], int], int | None, str], ...] = (
        ("max_cpus_per_job", lambda node: node.cpus, partition.max_cpus_per_node, "CPUs"),
        ("max_mem_per_job", lambda node: node.memory_mb, partition.max_mem_per_node_mb, "MB"),
    )
    for name, size, cap, unit in largest:
        most = max((min(size(node), cap or size(node)) for node in nodes), default=0)
        value = getattr(limits, name)
        if most and value > most:
            yield Finding(
                Severity.WARNING,
                f"{_BATCHING}.{name}",
                f"found {value}; the largest node of {partition.name!r} has {most} {unit}: such jobs spread over "
                "several nodes, or wait for ever where nodes is 1",
            )
    for user in users:
        for limit, whose in _submit_limits(options, cluster, partition, user):
            if limits.max_num_jobs > limit:
                yield Finding(
                    Severity.WARNING,
                    f"{_BATCHING}.max_num_jobs",
                    f"found {limits.max_num_jobs}; {whose} allows {user} {limit} submitted jobs: "
                    "the rest waits for room",
                )
    yield from _advise(config)


def _submit_limits(options: Options, cluster: Cluster, partition: Partition, user: str) -> Iterator[tuple[int, str]]:
    for entry in cluster.associations or ():
        if options.get("account") not in (None, entry.account):
            continue
        if entry.user == user and entry.max_submit is not None:
            yield entry.max_submit, f"the account {entry.account!r}"
        if entry.user == "" and entry.group_max_submit is not None:
            members = {other.account for other in cluster.associations or () if other.user == user}
            if entry.account in members:
                yield entry.group_max_submit, f"the account {entry.account!r} as a whole"
    for qos in _qos_of(options, cluster, partition, user):
        for limit in (qos.max_submit_per_user, qos.group_max_submit):
            if limit is not None:
                yield limit, f"the QOS {qos.name!r}"


def _advise(config: SlurmConfigFile) -> Iterator[Finding]:
    options, limits = config.default_slurm_config, config.batching_config
    for number in ADVICE_FOR:
        try:
            batching = heuristics(
                tot_tasks=number,
                cpus_per_task=options.cpus_per_task,
                mem_per_task=options.mem,
                target_cpus_per_job=limits.target_cpus_per_job,
                max_cpus_per_job=limits.max_cpus_per_job,
                target_mem_per_job=limits.target_mem_per_job,
                max_mem_per_job=limits.max_mem_per_job,
                target_num_jobs=limits.target_num_jobs,
                max_num_jobs=limits.max_num_jobs,
            )
        except BatchingError as error:
            for message in error.messages:
                yield Finding(Severity.ERROR, _BATCHING, message)
            return
        jobs, size = batching.num_jobs, min(batching.tasks_per_job, number)
        yield Finding(
            Severity.ADVICE,
            _BATCHING,
            f"{number} tasks: {jobs} jobs of up to {size} tasks, {min(batching.parallel_tasks_per_job, size)} at "
            f"a time, by {batching.branch.value}",
        )
