# SPDX-License-Identifier: BSD-3-Clause
"""Compare a config file with a cluster. Find what sbatch would refuse, and jobs that would wait for ever.

SLURM itself may not report such a job: it accepts a job that no node can run, unless the site sets EnforcePartLimits.
The job then stays pending.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from ..config.batching import heuristics
from ..config.file import SlurmConfigFile
from ..config.walltime import format_walltime, parse_walltime
from ..errors import BatchingError, FractalSlurmError, count_of, shown
from .facts import Association, Cluster, Node, Partition, Qos, expand_hostlist, parse_gres

# Numbers of tasks for which we show the batching: one task, a plate of 96 wells, a plate of 1,536, and a screen.
ADVICE_FOR = (1, 96, 1_536, 10_000)
_DEFAULT = "$.default_slurm_config"
_GPU = "$.gpu_slurm_config"
_BATCHING = "$.batching_config"
# How many names a message shows, and how many characters of each.
_MOST_NAMES, _LONGEST_NAME = 10, 80
# Precedence of the operators of a constraint: a higher number binds first.
_BINDS = {"|": 1, "&": 2, ",": 2}
# A name that can only be a node. A file name with a slash and localhost are not.
_PLAIN_HOST = re.compile(r"(?!localhost$)[A-Za-z0-9][A-Za-z0-9_.-]*").fullmatch


class Severity(str, Enum):
    """How much a finding matters."""

    ERROR = "error"
    WARNING = "warning"
    ADVICE = "advice"


class Finding(NamedTuple):
    """One result of the comparison.

    Attributes:
        severity: An error: jobs can't run. A warning: jobs may run, or wait. Advice: information only.
        path: JSON path in the config file.
        message: A sentence that says what the file has, and what the cluster allows.
    """

    severity: Severity
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class Options(NamedTuple):
    """The options of one kind of task, with the JSON path where each option was set."""

    values: dict[str, Any]
    paths: dict[str, str]

    def get(self, name: str) -> Any:
        """Return the option's value, or None."""
        return self.values.get(name)

    def path(self, name: str) -> str:
        """Return the option's JSON path."""
        return self.paths.get(name, f"{_DEFAULT}.{name}")


def check(config: SlurmConfigFile, cluster: Cluster, *, users: Sequence[str] = ()) -> list[Finding]:
    """Compare a config file with a cluster.

    Args:
        config: The config file.
        cluster: The cluster.
        users: Users whose jobs will run. Their accounts and limits are checked where they are known.

    Returns:
        The findings: errors first, then warnings, then advice.
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
    """Merge sets of options. Where two sets have the same option, the last one wins."""
    options = Options({}, {})
    for model, path in layers:
        for name, value in model.model_dump(exclude_none=True).items():
            options.values[name] = value
            options.paths[name] = f"{path}.{name}"
    return options


def _check_options(options: Options, cluster: Cluster, users: Sequence[str]) -> Iterator[Finding]:
    # sbatch ignores an empty name between commas.
    names = [name.strip() for name in options.get("partition").split(",") if name.strip()]
    path = options.path("partition")
    if not cluster.shows_partitions:
        yield Finding(
            Severity.WARNING,
            path,
            f"the cluster {cluster.name} shows this account no partitions (PrivateData): nothing is compared with them",
        )
        return
    unknown = [name for name in names if name not in cluster.partitions]
    if unknown:
        known = ", ".join(sorted(cluster.partitions))
        hidden = " that it shows this account (PrivateData)" if cluster.hides_partitions else ""
        severity = Severity.WARNING if hidden else Severity.ERROR
        yield Finding(severity, path, f"found {unknown[0]!r}; the cluster {cluster.name} has {known}{hidden}")
        return
    partitions = [cluster.partitions[name] for name in dict.fromkeys(names)]
    for partition in partitions:
        if partition.state != "UP":
            yield Finding(
                Severity.WARNING,
                path,
                f"the partition {partition.name!r} is {partition.state}: jobs wait until it is UP",
            )
    yield from _of_any(
        [
            [
                *_check_time(options, cluster, partition, users),
                *_softened(_check_nodes(options, cluster, partition), if_=cluster.hides_nodes_of(partition)),
                *_check_partition_account(options, cluster, partition),
            ]
            for partition in partitions
        ]
    )
    yield from _check_account(options, cluster, users)


def _softened(found: Iterable[Finding], *, if_: bool) -> list[Finding]:
    """Return the findings. If ``if_`` is true, because not all is known, each error becomes a warning."""
    return [
        finding._replace(severity=Severity.WARNING) if if_ and finding.severity is Severity.ERROR else finding
        for finding in found
    ]


def _of_any(alternatives: Sequence[Sequence[Finding]]) -> Iterator[Finding]:
    """Yield the findings for several partitions. SLURM picks one that fits, so errors count only if none fits."""
    fits = any(all(finding.severity is not Severity.ERROR for finding in found) for found in alternatives)
    for found in alternatives:
        yield from _softened(found, if_=fits)


def walltime_limit(
    cluster: Cluster, *, partition: str, user: str, account: str | None = None, qos: str | None = None
) -> int | None:
    """Return the longest time limit that a user's job may have, in seconds. None stands for no limit.

    Args:
        cluster: The cluster.
        partition: The job's partition. It may be several, with commas between them: SLURM picks one that fits.
        user: The user whose job it is.
        account: The job's account, if it names one.
        qos: The job's QOS, if it names one.
    """
    longest = longest_walltime(cluster, partition=partition, user=user, account=account, qos=qos)
    return None if longest is None else longest.seconds


class WalltimeLimit(NamedTuple):
    """A limit on the time of a job.

    Attributes:
        seconds: The limit in seconds.
        whose: Who sets it, as the beginning of a sentence.
        option: SLURM's name of the limit: ``MaxWall`` or ``MaxTime``.
    """

    seconds: int
    whose: str
    option: str

    def __str__(self) -> str:
        return f"{self.whose} {format_walltime(self.seconds)} ({self.option})"


def longest_walltime(
    cluster: Cluster, *, partition: str, user: str, account: str | None = None, qos: str | None = None
) -> WalltimeLimit | None:
    """Return the longest time limit that a user's job may have, and who sets it. Arguments: see walltime_limit.

    None stands for no limit.
    """
    shortest: list[WalltimeLimit] = []
    for name in partition.split(","):
        found = cluster.partitions.get(name.strip())
        if found is None:
            return None
        limits = _walltime_limits(cluster, found, user, account, qos)
        if not limits:
            return None
        shortest.append(min(limits))
    return max(shortest)


def _walltime_limits(
    cluster: Cluster, partition: Partition, user: str, account: str | None, qos: str | None
) -> list[WalltimeLimit]:
    """Return the limits on the time of a job, each with the words that say who sets it.

    SLURM looks at the partition's QOS, the job's QOS and the user's association, in this order, and uses the first that
    sets a limit. It uses none of them if AccountingStorageEnforce does not name limits. The partition's MaxTime holds,
    too, unless a QOS has the flag PartitionTimeLimit. A limit that we do not know is left out.
    """
    entry = _association_of(cluster, partition, user, account)
    sorts = _sorts(cluster, partition, entry, qos)
    if any("OverPartQOS" in sort.flags for sort in sorts[1:]):
        sorts = sorts[::-1]
    limits = [(sort.max_wall_s, f"the QOS {sort.name!r}{f' of {user}' if user else ''} allows") for sort in sorts]
    if entry is not None:
        limits.append((entry.max_wall_s, f"the association of {user} with {entry.account!r} allows"))
    first = [WalltimeLimit(limit, whose, "MaxWall") for limit, whose in limits if limit is not None][:1]
    first = first if cluster.limits_jobs else []
    if partition.max_time_s is not None and not any("PartitionTimeLimit" in sort.flags for sort in sorts):
        first.append(WalltimeLimit(partition.max_time_s, f"the partition {partition.name!r} allows", "MaxTime"))
    return first


def _association_of(cluster: Cluster, partition: Partition, user: str, account: str | None) -> Association | None:
    """Return the association that a user's job gets, or None where that is not known."""
    own = [
        entry
        for entry in cluster.associations or ()
        if entry.user == user and user and entry.partition in ("", partition.name) and account in (None, entry.account)
    ]
    exact = [entry for entry in own if entry.partition] or own
    # With several accounts we do not know which one is the default.
    return exact[0] if len({entry.account for entry in exact}) == 1 else None


def _sorts(cluster: Cluster, partition: Partition, entry: Association | None, qos: str | None = None) -> list[Qos]:
    """Return the known QOS that apply to a job: the partition's, and the one that the job names or gets."""
    names = [partition.qos] if partition.qos else []
    if qos is not None:
        names.append(qos)
    elif entry is not None and entry.default_qos:
        names.append(entry.default_qos)
    elif entry is not None and len(entry.qos) == 1:
        names.append(entry.qos[0])
    elif entry is not None and (not entry.qos or "normal" in entry.qos):
        names.append("normal")
    return [(cluster.qos or {})[name] for name in dict.fromkeys(names) if name in (cluster.qos or {})]


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
    # SLURM rounds a time limit up to whole minutes.
    wanted = -(-parse_walltime(text) // 60) * 60
    lifted = [sort for sort in (cluster.qos or {}).values() if "PartitionTimeLimit" in sort.flags]
    for user in users or ("",):
        account = options.get("account")
        entry = _association_of(cluster, partition, user, account)
        for limit in _walltime_limits(cluster, partition, user, account, None):
            if wanted <= limit.seconds:
                continue
            # A QOS may lift the partition's limit. Without the association we do not know which QOS the job gets.
            known = limit.option != "MaxTime" or (
                entry is not None if lifted else cluster.qos is not None or not cluster.has_accounting
            )
            yield Finding(
                Severity.ERROR if known else Severity.WARNING,
                options.path("time"),
                f"found {text!r}; {limit.whose} at most {format_walltime(limit.seconds)}",
            )


def _check_nodes(options: Options, cluster: Cluster, partition: Partition) -> Iterator[Finding]:
    """Check whether a task fits at least one node of the partition. What is not known gives no error."""
    if not cluster.shows_nodes:
        yield Finding(
            Severity.WARNING,
            options.path("partition"),
            "the cluster shows this account no nodes (PrivateData): nothing is compared with them",
        )
        return
    nodes = cluster.nodes_of(partition.name)
    if cluster.hides_nodes_of(partition):
        yield Finding(
            Severity.WARNING,
            options.path("partition"),
            f"the cluster shows {len(nodes)} of the {partition.total_nodes} nodes of {partition.name!r}: "
            "the others are not compared",
        )
        if not nodes:
            return
    if not nodes:
        yield Finding(Severity.ERROR, options.path("partition"), f"the partition {partition.name!r} has no nodes")
        return
    listed: dict[str, set[str] | None] = {}
    for name in ("nodelist", "exclude"):
        listed[name], findings = _listed(options, name, cluster)
        yield from findings
    wanted, excluded = listed["nodelist"], listed["exclude"] or set()
    outside = sorted((wanted or set()) - {node.name for node in nodes})
    if outside:
        yield Finding(
            Severity.ERROR, options.path("nodelist"), f"not in the partition {partition.name!r}: {_some(outside)}"
        )
    left = [node for node in nodes if node.name not in excluded]
    if not left or (wanted and wanted <= excluded):
        yield Finding(
            Severity.ERROR, options.path("nodelist"), f"nodelist and exclude leave no node of {partition.name!r}"
        )
        return
    asked, findings = _asked(options)
    yield from findings
    yield from _check_fit(options, partition, left, wanted or set(), asked)


def _listed(options: Options, name: str, cluster: Cluster) -> tuple[set[str] | None, list[Finding]]:
    """Return the nodes that an option names, and findings. The nodes are None where they are not known."""
    text = options.get(name)
    if not text:
        return None, []
    path = options.path(name)
    try:
        names = set(expand_hostlist(text))
    except FractalSlurmError as error:
        return None, [Finding(Severity.WARNING, path, f"{error}; it is not compared with the cluster")]
    hosts: dict[str, set[str]] = {}
    for node in cluster.nodes.values():
        hosts.setdefault(node.host, set()).add(node.name)
    odd = sorted(each for each in names if each not in cluster.nodes and (each in hosts or not _PLAIN_HOST(each)))
    if odd:
        # This may be a file, or the name of a host that differs from the name of its node.
        return None, [Finding(Severity.WARNING, path, f"found {_some(odd)}: not compared with the cluster's nodes")]
    unknown = sorted(names - set(cluster.nodes))
    found = [Finding(Severity.ERROR, path, f"no such nodes: {_some(unknown)}")] if unknown else []
    return names & set(cluster.nodes), found


def _check_fit(
    options: Options, partition: Partition, nodes: Sequence[Node], wanted: set[str], asked: _Asked
) -> Iterator[Finding]:
    """Check whether one of the nodes fits a task. It should be one of those that the job must include."""
    shortfalls = {node.name: _shortfalls(node, partition, asked) for node in nodes}
    fitting = [node for node in nodes if not shortfalls[node.name]]
    # nodelist names nodes that a job must have. SLURM adds others if the job needs them.
    best_of = [node for node in nodes if node.name in wanted] or nodes
    if not fitting or not any(node in fitting for node in best_of):
        best = min(best_of, key=lambda node: (len(shortfalls[node.name]), -node.cpus, -node.memory_mb))
        which = (
            f"no node of the partition {partition.name!r} fits a task" if not fitting else "no node of nodelist fits"
        )
        for name, words in shortfalls[best.name].items():
            # The GPUs of a job on several nodes are counted over all of these nodes.
            in_all = (
                name != "gpus"
                or options.get("nodes") in (None, "1")
                or all(sum(node.gres.get(gres, 0) for node in nodes) < count for gres, count in asked.gpus.items())
            )
            severity = Severity.ERROR if not fitting and in_all else Severity.WARNING
            yield Finding(severity, options.path(name), f"{which}; the best is {best.name}: {words}")
    elif not any(node.is_up for node in fitting):
        states = ", ".join(f"{node.name} is {node.state}" for node in fitting[:4])
        yield Finding(
            Severity.WARNING, options.path("partition"), f"no node that fits a task is up: {states}: jobs wait"
        )


def _some(names: Sequence[str]) -> str:
    """Return the first few names for a message, and how many more there are."""
    return ", ".join(name[:_LONGEST_NAME] for name in names[:_MOST_NAMES]) + (
        f" and {len(names) - _MOST_NAMES} more" if names[_MOST_NAMES:] else ""
    )


class _Asked(NamedTuple):
    cpus: int
    memory_mb: int
    gres: dict[str, int]
    gpus: dict[str, int]
    constraint: str | None


def _asked(options: Options) -> tuple[_Asked, list[Finding]]:
    """Return what a task asks of a node, and findings. A value that we can't read gives a warning."""
    gpus = options.get("gpus")
    counts: dict[str, dict[str, int]] = {}
    found = []
    # --gpus=2 and --gpus=a100:2 do not have the name gpu in them.
    for name, text in (("gres", options.get("gres") or ""), ("gpus", f"gpu:{gpus}" if gpus else "")):
        try:
            if text == "help":  # sbatch prints a list, and submits nothing
                raise FractalSlurmError("gres 'help' asks for nothing")
            counts[name] = parse_gres(text if name == "gres" else ",gpu:".join(text.split(",")))
        except FractalSlurmError as error:
            counts[name] = {}
            found.append(Finding(Severity.WARNING, options.path(name), f"{error}; it is not compared with the cluster"))
    return (
        _Asked(
            options.get("cpus_per_task"), options.get("mem"), counts["gres"], counts["gpus"], options.get("constraint")
        ),
        found,
    )


def _shortfalls(node: Node, partition: Partition, asked: _Asked) -> dict[str, str]:
    """Return why a task does not fit a node, by option."""
    found = {}
    cpus = min(node.cpus, partition.max_cpus_per_node or node.cpus)
    memory = min(node.memory_mb, partition.max_memory_mb or node.memory_mb)
    if asked.cpus > cpus and "cpus" not in node.unknown:
        found["cpus_per_task"] = f"it has {cpus} CPUs, and {asked.cpus} are asked for"
    if asked.memory_mb > memory and "memory_mb" not in node.unknown:
        found["mem"] = f"it has {memory} MB, and {asked.memory_mb} MB are asked for"
    for option, wanted in (("gres", asked.gres), ("gpus", asked.gpus)):
        lacking = [
            f"{count} {name[:_LONGEST_NAME]}" for name, count in wanted.items() if node.gres.get(name, 0) < count
        ]
        if lacking and "gres" not in node.unknown:
            has = ", ".join(f"{count} {name}" for name, count in node.gres.items()) or "none"
            found[option] = f"it has {has}, and {_some(lacking)} are asked for"
    if asked.constraint is not None and not satisfies(node.features, asked.constraint):
        has = ", ".join(node.features) or "none"
        found["constraint"] = f"it has the features {has}, and {shown(asked.constraint)} is asked for"
    return found


def satisfies(features: Sequence[str], constraint: str) -> bool:
    """Return whether a node's features may satisfy a --constraint.

    ``&``, ``,``, ``|`` and parentheses are evaluated. For ``[a|b]`` the node must have one of the features. For a form
    with a count (``a*4``), and for any form that we can't read, the answer is true.

    Args:
        features: The node's features.
        constraint: The value of --constraint.
    """
    parts = re.findall(r"[()&|,\[\]]|\*[0-9]+|[^()&|,*\[\]\s]+", constraint)
    names = {part for part in parts if part not in "()&|,[]" and not part.startswith("*")}
    if "*" in constraint:
        return True
    if re.search(r"[\[\]]", constraint):
        return not names or any(name in features for name in names)
    if "".join(parts) != "".join(constraint.split()) or not names:
        return True
    return _evaluate(["1" if part in features else "0" if part in names else part for part in parts])


def _evaluate(parts: Sequence[str]) -> bool:
    """Return the value of an expression of 0, 1, & (or a comma), | and parentheses. A broken expression is true."""
    operands: list[bool] = []
    operators: list[str] = []

    def reduce(least: int) -> None:
        while operators and operators[-1] != "(" and _BINDS[operators[-1]] >= least:
            right, left = operands.pop(), operands.pop()
            operands.append(left or right if operators.pop() == "|" else left and right)

    expected = True  # whether an operand comes next
    for part in parts:
        if part in "01" and expected:
            operands.append(part == "1")
            expected = False
        elif part == "(" and expected:
            operators.append(part)
        elif part in _BINDS and not expected:
            reduce(_BINDS[part])
            operators.append(part)
            expected = True
        elif part == ")" and not expected and "(" in operators:
            reduce(0)
            operators.pop()
        else:
            return True
    if expected:
        return True
    operators[:] = [operator for operator in operators if operator != "("]
    reduce(0)
    return operands[-1]


def _check_partition_account(options: Options, cluster: Cluster, partition: Partition) -> Iterator[Finding]:
    account = options.get("account")
    if account is None:
        return
    allowed = None if partition.allow_accounts is None else [name.lower() for name in partition.allow_accounts]
    denied = [name.lower() for name in partition.deny_accounts]
    if (allowed is not None and account.lower() not in allowed) or (allowed is None and account.lower() in denied):
        only = f"only {', '.join(partition.allow_accounts or ())}" if allowed is not None else "others only"
        # Newer versions also accept the accounts below the allowed ones.
        known = _needs_account(cluster) and (allowed is None or re.match(r"2[0-2]\.", cluster.version))
        yield Finding(
            Severity.ERROR if known else Severity.WARNING,
            options.path("account"),
            f"found {account!r}; {partition.name!r} is for {only}",
        )


def _needs_account(cluster: Cluster) -> bool:
    """Return whether SLURM refuses a job if its user has no such account.

    The value ``associations`` of AccountingStorageEnforce says so, and the other values imply it.
    """
    implied = {"associations", "limits", "qos", "safe", "wckeys", "all"}
    return bool(implied & {name.lower() for name in cluster.accounting_enforced})


def _check_account(options: Options, cluster: Cluster, users: Sequence[str]) -> Iterator[Finding]:
    account = options.get("account")
    if cluster.associations is None or not _needs_account(cluster):
        return
    for user in users:
        accounts = sorted({entry.account for entry in cluster.associations if entry.user == user})
        if account is not None and account.lower() not in accounts:
            has = f"{user} has {', '.join(accounts)}" if accounts else f"{user} has no account"
            words = f"found {account!r}; {has}"
        elif not accounts:
            words = f"{user} has no account, and the cluster takes jobs of accounts only"
        else:
            continue
        if not cluster.shows_accounts:
            words += " that slurmdbd shows this account (PrivateData)"
        severity = Severity.ERROR if cluster.shows_accounts else Severity.WARNING
        yield Finding(severity, options.path("account"), words)


def _qos_of(options: Options, cluster: Cluster, partition: Partition, user: str) -> list[Qos]:
    """Return the partition's QOS, and the QOS that a user's job gets if it names none."""
    return _sorts(cluster, partition, _association_of(cluster, partition, user, options.get("account")))


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
    partition = cluster.partitions.get(options.get("partition").partition(",")[0].strip())
    if partition is None:
        yield from _advise(config)
        return
    nodes = cluster.nodes_of(partition.name)
    largest: tuple[tuple[str, Callable[[Node], int], int | None, str], ...] = (
        ("max_cpus_per_job", lambda node: node.cpus, partition.max_cpus_per_node, "CPUs"),
        ("max_mem_per_job", lambda node: node.memory_mb, partition.max_memory_mb, "MB"),
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
    for user in users if cluster.limits_jobs else ():
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
    options = config.default_slurm_config
    for number in ADVICE_FOR:
        try:
            batching = heuristics(
                tot_tasks=number,
                cpus_per_task=options.cpus_per_task,
                mem_per_task=options.mem,
                **config.batching_config.model_dump(),
            )
        except BatchingError as error:
            for message in error.messages:
                yield Finding(Severity.ERROR, _BATCHING, message)
            return
        jobs, size = batching.num_jobs, min(batching.tasks_per_job, number)
        yield Finding(
            Severity.ADVICE,
            _BATCHING,
            f"{count_of(number, 'task')}: {count_of(jobs, 'job')} of up to {count_of(size, 'task')}, "
            f"{min(batching.parallel_tasks_per_job, size)} at a time, by {batching.branch.value}",
        )
