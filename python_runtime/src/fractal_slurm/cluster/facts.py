# SPDX-License-Identifier: BSD-3-Clause
"""What a cluster is made of, read from what SLURM's own commands print.

Commands and parser are apart, so that the commands can run on one host and their output be understood on another.
The text forms are used, not ``--json``: they are the same from SLURM 22.05 to the newest and much cheaper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..config.walltime import parse_walltime
from ..errors import ClusterError, FractalSlurmError, shown

_ASSOCIATION_FIELDS = (
    "Account",
    "User",
    "Partition",
    "QOS",
    "DefaultQOS",
    "MaxSubmit",
    "GrpSubmit",
    "MaxJobs",
    "MaxWall",
    "Cluster",
)
_QOS_FIELDS = ("Name", "MaxSubmitPU", "GrpSubmit", "MaxJobsPU", "MaxWall", "Flags")
# Name -> arguments. All of them only read, and any account may run them.
COMMANDS: dict[str, tuple[str, ...]] = {
    "config": ("scontrol", "show", "config"),
    "partitions": ("scontrol", "--all", "--oneliner", "show", "partition"),
    "nodes": ("scontrol", "--all", "--oneliner", "show", "node"),
}
# The same for clusters that keep accounts.
ACCOUNTING_COMMANDS: dict[str, tuple[str, ...]] = {
    "associations": (
        "sacctmgr",
        "--noheader",
        "--parsable2",
        "show",
        "associations",
        f"format={','.join(_ASSOCIATION_FIELDS)}",
    ),
    "qos": ("sacctmgr", "--noheader", "--parsable2", "show", "qos", f"format={','.join(_QOS_FIELDS)}"),
    # What slurmdbd itself hides, which scontrol does not say.
    "accounting_config": ("sacctmgr", "show", "configuration"),
}
DEFAULT_MAX_SCRIPT_SIZE = 4 * 1024 * 1024

# The beginning of a value. It may have blanks in it (Reason, OS), and ends where the next KEY= begins.
_KEY = re.compile(r"(?:^|(?<=\s))([A-Za-z][A-Za-z0-9_:/]*)=")
# No number of SLURM's is longer.
_NUMBER = re.compile(r"\s*([0-9]{1,18})(?![0-9])")
# More names are no part of one cluster.
_MOST_HOSTS = 100_000
# No name of a host is longer (hostname(7)).
_LONGEST_HOST = 255
_UNLIMITED = frozenset(("UNLIMITED", "INFINITE", "NONE", "N/A", "(null)", "NO_VAL", ""))


@dataclass(frozen=True)
class Node:
    """A node.

    Attributes:
        name: Its name.
        state: State as SLURM writes it, e.g. ``IDLE`` or ``DOWN+DRAIN``.
        cpus: CPUs that jobs can have.
        memory_mb: Memory that jobs can have.
        gres: Generic resources by name, all types together, and by ``name:type``; e.g. ``{"gpu": 4, "gpu:a100": 4}``.
        features: Features for --constraint.
        partitions: Names of the partitions that it is in.
        reason: Why it is down or drained, by the administrator or SLURM.
        host: NodeHostName, by which SLURM knows it, too.
        unknown: Which of the fields above SLURM did not say in a form that is known: ``cpus``, ``memory_mb``, ``gres``.
    """

    name: str
    state: str
    cpus: int
    memory_mb: int
    gres: dict[str, int] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()
    reason: str = ""
    host: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def is_up(self) -> bool:
        """Whether jobs can be started on it, now or when it is free."""
        flags = set(re.findall(r"[A-Z_]+", self.state.upper()))
        down = {
            "DOWN",
            "DRAIN",
            "DRAINED",
            "DRAINING",
            "FAIL",
            "FAILING",
            "NOT_RESPONDING",
            "UNKNOWN",
            "INVALID_REG",
            "FUTURE",
        }
        return not flags & down


@dataclass(frozen=True)
class Partition:
    """A partition.

    Attributes:
        name: Its name.
        is_default: Whether jobs that name none get it.
        state: ``UP``, ``DOWN``, ``DRAIN`` or ``INACTIVE``.
        max_time_s: Longest time limit of a job in seconds, None for any.
        default_time_s: Time limit of jobs that name none, None where that is ``max_time_s``.
        max_nodes: Most nodes of a job, None for any.
        max_cpus_per_node: Most CPUs of a job on a node, None for any.
        max_memory_mb: Most memory of a job on a node, None for any.
        allow_accounts: The only accounts that may use it, None for all.
        deny_accounts: Accounts that may not use it.
        qos: Its own QOS, or an empty string.
        total_nodes: Number of its nodes.
    """

    name: str
    is_default: bool
    state: str
    max_time_s: int | None = None
    default_time_s: int | None = None
    max_nodes: int | None = None
    max_cpus_per_node: int | None = None
    max_memory_mb: int | None = None
    allow_accounts: tuple[str, ...] | None = None
    deny_accounts: tuple[str, ...] = ()
    qos: str = ""
    total_nodes: int = 0


@dataclass(frozen=True)
class Association:
    """An account, or a user in an account, with limits. A limit of None is none.

    Attributes:
        account: The account.
        user: The user, or an empty string for the account's own line.
        partition: The only partition that it is for, or an empty string.
        qos: QOS that it may use.
        default_qos: QOS of jobs that name none.
        max_submit: Most jobs that the user may have submitted.
        group_max_submit: Most jobs that all of the account may have submitted.
        max_jobs: Most jobs that the user may have running.
        max_wall_s: Longest time limit of a job in seconds; 0 lets no job run.
        cluster: The cluster that it is for, or an empty string where that is not said.
    """

    account: str
    user: str
    partition: str = ""
    qos: tuple[str, ...] = ()
    default_qos: str = ""
    max_submit: int | None = None
    group_max_submit: int | None = None
    max_jobs: int | None = None
    max_wall_s: int | None = None
    cluster: str = ""


@dataclass(frozen=True)
class Qos:
    """A quality of service. A limit of None is none.

    Attributes:
        name: Its name.
        max_submit_per_user: Most jobs that a user may have submitted.
        group_max_submit: Most jobs that all users together may have submitted.
        max_jobs_per_user: Most jobs that a user may have running.
        max_wall_s: Longest time limit of a job in seconds; 0 lets no job run.
        flags: Its flags, e.g. ``("PartitionTimeLimit",)``.
    """

    name: str
    max_submit_per_user: int | None = None
    group_max_submit: int | None = None
    max_jobs_per_user: int | None = None
    max_wall_s: int | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """A cluster.

    Attributes:
        name: ClusterName.
        version: SLURM's version.
        min_job_age_s: Seconds that a job stays known after its end.
        kill_wait_s: Seconds between SIGTERM and SIGKILL when a job is ended.
        max_array_size: One more than the highest index of a job array.
        max_job_count: Most jobs that slurmctld holds.
        max_script_size: Largest batch script in bytes.
        private_data: What ordinary users can't see of others, e.g. ``("jobs",)``.
        enforce_part_limits: ``ALL``, ``ANY`` or ``NO``: whether sbatch refuses what can't run.
        accounting_enforced: What AccountingStorageEnforce names.
        has_accounting: Whether accounts are kept.
        partitions: By name; none where SLURM shows this account none.
        nodes: By name; none where SLURM shows this account none.
        associations: All that were asked for, of this cluster; None where they are not known.
        qos: By name; None where they are not known.
        shows_partitions: Whether SLURM shows this account partitions (PrivateData).
        shows_nodes: Whether SLURM shows this account nodes (PrivateData).
        shows_accounts: Whether slurmdbd is known to show this account the associations of others.
    """

    name: str
    version: str
    min_job_age_s: int
    kill_wait_s: int
    max_array_size: int
    max_job_count: int
    max_script_size: int
    private_data: tuple[str, ...]
    enforce_part_limits: str
    accounting_enforced: tuple[str, ...]
    has_accounting: bool
    partitions: dict[str, Partition]
    nodes: dict[str, Node]
    associations: tuple[Association, ...] | None = None
    qos: dict[str, Qos] | None = None
    shows_partitions: bool = True
    shows_nodes: bool = True
    shows_accounts: bool = True

    @property
    def hides_jobs(self) -> bool:
        """Whether slurmctld shows ordinary users their own jobs only (PrivateData, slurm.conf(5))."""
        return "jobs" in map(str.lower, self.private_data)

    @property
    def hides_partitions(self) -> bool:
        """Whether there may be partitions that SLURM does not show this account (PrivateData)."""
        return not self.shows_partitions or "partitions" in map(str.lower, self.private_data)

    @property
    def limits_jobs(self) -> bool:
        """Whether SLURM heeds limits of QOS and associations (AccountingStorageEnforce)."""
        return bool({"limits", "safe", "all"} & {name.lower() for name in self.accounting_enforced})

    def hides_nodes_of(self, partition: Partition) -> bool:
        """Whether a partition has nodes that SLURM does not show: those in a cloud, while they are powered down."""
        return len(self.nodes_of(partition.name)) < partition.total_nodes

    def nodes_of(self, partition: str) -> list[Node]:
        """The nodes of a partition."""
        return [node for node in self.nodes.values() if partition in node.partitions]

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def commands(*, accounting: bool, users: Sequence[str] = ()) -> dict[str, list[str]]:
    """The commands to run, by the name under which :func:`parse` takes their output.

    Args:
        accounting: Whether accounts are asked for, too.
        users: The users whose associations are wanted; none for all.
    """
    wanted = {name: list(argv) for name, argv in COMMANDS.items()}
    if accounting:
        wanted.update({name: list(argv) for name, argv in ACCOUNTING_COMMANDS.items()})
        if users:
            # The accounts' own lines, which have no user, come by a question of their own.
            wanted["accounts"] = [*wanted["associations"], "user="]
            wanted["associations"].append(f"user={','.join(users)}")
    return wanted


def parse(outputs: Mapping[str, str]) -> Cluster:
    """Understand what the commands printed. What they did not say, or not in a form that is known, is unknown.

    Args:
        outputs: Standard output by name, see :func:`commands`. All but ``config`` may be missing.

    Raises:
        ClusterError: ``config`` is missing, or is not what SLURM prints.
    """
    if not outputs.get("config", "").strip():
        raise ClusterError(f"nothing is known of the cluster: no output of {' '.join(COMMANDS['config'])}")
    config = parse_config_lines(outputs["config"])
    if "SLURM_VERSION" not in config:
        raise ClusterError("`scontrol show config` states no SLURM_VERSION: is it SLURM's scontrol?")
    nodes = [parse_node(line) for line in _lines(outputs, "nodes", "NodeName=")]
    partitions = [parse_partition(line) for line in _lines(outputs, "partitions", "PartitionName=")]
    name = config.get("ClusterName", "")
    associations = outputs.get("associations")
    if associations is not None:
        associations = "\n".join((outputs.get("accounts", ""), associations))
    qos = outputs.get("qos")
    script_size = re.search(r"\bmax_script_size=([0-9]{1,18})(?![0-9])", config.get("SchedulerParameters", ""))
    return Cluster(
        name=name,
        version=config["SLURM_VERSION"],
        min_job_age_s=_integer(config.get("MinJobAge", "")) or 0,
        kill_wait_s=_integer(config.get("KillWait", "")) or 30,
        max_array_size=_integer(config.get("MaxArraySize", "")) or 0,
        max_job_count=_integer(config.get("MaxJobCount", "")) or 0,
        max_script_size=int(script_size[1]) if script_size else DEFAULT_MAX_SCRIPT_SIZE,
        private_data=_names(config.get("PrivateData", "")),
        enforce_part_limits=config.get("EnforcePartLimits", "NO").upper(),
        accounting_enforced=_names(config.get("AccountingStorageEnforce", "")),
        has_accounting=config.get("AccountingStorageType", "").endswith("slurmdbd"),
        partitions={partition.name: partition for partition in partitions},
        nodes={node.name: node for node in nodes},
        associations=None
        if associations is None
        # One slurmdbd may keep the accounts of several clusters.
        else tuple(
            entry
            for entry in map(_association, _rows(associations, _ASSOCIATION_FIELDS))
            if not name or entry.cluster.lower() in ("", name.lower())
        ),
        qos=None if qos is None else {row["Name"]: _qos(row) for row in _rows(qos, _QOS_FIELDS)},
        shows_partitions=bool(partitions),
        shows_nodes=bool(nodes),
        shows_accounts=_shows_accounts(outputs.get("accounting_config")),
    )


def _lines(outputs: Mapping[str, str], name: str, start: str) -> list[str]:
    return [line for line in outputs.get(name, "").splitlines() if line.strip().startswith(start)]


def _shows_accounts(text: str | None) -> bool:
    """Whether slurmdbd shows everybody the associations of all, by its part of ``sacctmgr show configuration``.

    Where it does not say, one is believed that shows them: so old answers, without this part, are read as before.
    """
    if text is None:
        return True
    _slurm, _heading, slurmdbd = text.partition("SlurmDBD configuration")
    hidden = _names(parse_config_lines(slurmdbd).get("PrivateData", ""))
    return not {"accounts", "users"} & {each.lower() for each in hidden}


def parse_config_lines(text: str) -> dict[str, str]:
    """``scontrol show config`` by name."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _sign, value in pairs}


def parse_oneliner(line: str) -> dict[str, str]:
    """A line of ``scontrol --oneliner show`` by name. Where a name stands twice, the first counts."""
    found: dict[str, str] = {}
    text = line.strip()
    keys = list(_KEY.finditer(text))
    for key, following in zip(keys, [*keys[1:], None], strict=False):
        found.setdefault(key[1], text[key.end() : following.start() if following else None].strip())
    return found


def parse_node(line: str) -> Node:
    """A line of ``scontrol --oneliner show node``."""
    values = parse_oneliner(line)
    unknown = []
    # CPUEfctv leaves out CPUs that are set aside for the system; older versions do not have it.
    cpus = _integer(values.get("CPUEfctv", "")) or _integer(values.get("CPUTot", ""))
    memory = _integer(values.get("RealMemory", ""))
    try:
        gres = parse_gres(values.get("Gres", ""))
    except FractalSlurmError:
        gres = {}
        unknown.append("gres")
    if cpus is None:
        unknown.append("cpus")
    if memory is None:
        unknown.append("memory_mb")
    return Node(
        name=values["NodeName"],
        state=values.get("State", "UNKNOWN"),
        cpus=cpus or 0,
        memory_mb=max(0, (memory or 0) - (_integer(values.get("MemSpecLimit", "")) or 0)),
        gres=gres,
        features=_names(values.get("AvailableFeatures", "")),
        partitions=_names(values.get("Partitions", "")),
        reason=values.get("Reason", ""),
        host=values.get("NodeHostName", ""),
        unknown=tuple(unknown),
    )


def parse_partition(line: str) -> Partition:
    """A line of ``scontrol --oneliner show partition``."""
    values = parse_oneliner(line)
    allowed = values.get("AllowAccounts", "ALL")
    return Partition(
        name=values["PartitionName"],
        is_default=values.get("Default", "NO") == "YES",
        state=values.get("State", "UP"),
        max_time_s=_seconds(values.get("MaxTime", "")),
        default_time_s=_seconds(values.get("DefaultTime", "")),
        max_nodes=_integer(values.get("MaxNodes", "")),
        max_cpus_per_node=_integer(values.get("MaxCPUsPerNode", "")),
        max_memory_mb=_integer(values.get("MaxMemPerNode", "")),
        allow_accounts=None if allowed == "ALL" else _names(allowed),
        deny_accounts=_names(values.get("DenyAccounts", "")),
        qos="" if values.get("QoS", "N/A") in _UNLIMITED else values["QoS"],
        total_nodes=_integer(values.get("TotalNodes", "")) or 0,
    )


def parse_gres(text: str) -> dict[str, int]:
    """A list of generic resources, as nodes have them and as --gres asks for them.

    Args:
        text: E.g. ``gpu:a100:4(S:0-1),shard:8`` or ``gres/gpu:2``.

    Returns:
        Counts by name, and by ``name:type`` where a type is stated.

    Raises:
        FractalSlurmError: It is no such list.
    """
    found: dict[str, int] = {}
    plain = re.sub(r"\([^()]*\)", "", text).strip()
    if plain in _UNLIMITED or plain == "none":
        return found
    for entry in plain.split(","):
        parts = re.sub("^gres[/:]", "", entry.strip()).replace("=", ":").split(":")
        count = 1
        if len(parts) > 1 and re.fullmatch(r"[0-9]{1,18}[KMGTkmgt]?", parts[-1]):
            number = parts.pop()
            scale = {"K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}.get(number[-1].upper(), 1)
            count = int(number.rstrip("KMGTkmgt")) * scale
        if not parts[0] or len(parts) > 2 or re.fullmatch(r"[0-9]+", parts[-1]):
            raise FractalSlurmError(f"gres {shown(text)} is not allowed: give name, name:count or name:type:count")
        found[parts[0]] = found.get(parts[0], 0) + count
        if len(parts) == 2:
            found[":".join(parts)] = found.get(":".join(parts), 0) + count
    return found


def expand_hostlist(text: str) -> list[str]:
    """The names in a host list such as ``gpu[01-03,7],login``.

    Raises:
        FractalSlurmError: It is no host list, or one of more than 100,000 names in all or with a name of over 255
            characters.
    """
    refusal = FractalSlurmError(
        f"the host list {shown(text)} is not allowed: give names, or ranges such as node[01-04]"
    )
    if not re.fullmatch(r"(?:[^\[\]\s]|\[[^\[\]]*\])+", text.strip()):
        raise refusal
    found: list[str] = []
    for entry in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text.strip()):
        names, longest = [""], 0
        for literal, ranges in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", entry):
            ends = [literal] if literal else _ranges(ranges, text)
            if len(found) + len(names) * len(ends) > _MOST_HOSTS:
                raise FractalSlurmError(f"the host list {shown(text)} is not allowed: it has over {_MOST_HOSTS} names")
            longest += max(map(len, ends))
            if longest > _LONGEST_HOST:
                raise FractalSlurmError(
                    f"the host list {shown(text)} is not allowed: a name has over {_LONGEST_HOST} characters"
                )
            names = [name + end for name in names for end in ends]
        found += names
    if not found:
        raise refusal
    return found


def _ranges(text: str, whole: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if match is None or not first <= last < first + _MOST_HOSTS - len(found):
            raise FractalSlurmError(f"the host list {shown(whole)} is not allowed: {shown(part)} is no range")
        found += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    return found


def _names(text: str) -> tuple[str, ...]:
    if text.strip() in _UNLIMITED or text.strip().lower() == "none":
        return ()
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _integer(text: str) -> int | None:
    match = _NUMBER.match(text)
    return int(match[1]) if match else None


def _seconds(text: str) -> int | None:
    """A limit of the site's in seconds. None where there is none, or none that can be read; zero is a limit, too."""
    plain = text.strip()
    if re.fullmatch(r"(?:0{1,9}[-:])*0{1,9}", plain):
        return 0
    try:
        return None if plain in _UNLIMITED else parse_walltime(plain)
    except FractalSlurmError:
        return None


def _rows(text: str, names: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table. The last column is missing from answers that were written down before it was asked for."""
    rows = [line.split("|") for line in text.splitlines() if line.strip()]
    full = [[*row, ""] if len(row) == len(names) - 1 else row for row in rows]
    return [dict(zip(names, row, strict=True)) for row in full if len(row) == len(names)]


def _association(row: Mapping[str, str]) -> Association:
    return Association(
        account=row["Account"],
        user=row["User"],
        partition=row["Partition"],
        qos=_names(row["QOS"]),
        default_qos=row["DefaultQOS"],
        max_submit=_integer(row["MaxSubmit"]),
        group_max_submit=_integer(row["GrpSubmit"]),
        max_jobs=_integer(row["MaxJobs"]),
        max_wall_s=_seconds(row["MaxWall"]),
        cluster=row["Cluster"],
    )


def _qos(row: Mapping[str, str]) -> Qos:
    return Qos(
        name=row["Name"],
        max_submit_per_user=_integer(row["MaxSubmitPU"]),
        group_max_submit=_integer(row["GrpSubmit"]),
        max_jobs_per_user=_integer(row["MaxJobsPU"]),
        max_wall_s=_seconds(row["MaxWall"]),
        flags=_names(row["Flags"]),
    )
