# SPDX-License-Identifier: BSD-3-Clause
"""Facts about a cluster: its partitions, nodes, accounts and limits, read from the output of SLURM's commands.

:func:`commands` lists the commands, :func:`parse` reads their output. So the commands can run on one host, and another
host can read the output. We read the text output, not ``--json``: it is the same from SLURM 22.05 to the newest
version, and much faster.
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
# Name of the output -> command. The commands change nothing, and any account may run them.
COMMANDS: dict[str, tuple[str, ...]] = {
    "config": ("scontrol", "show", "config"),
    "partitions": ("scontrol", "--all", "--oneliner", "show", "partition"),
    "nodes": ("scontrol", "--all", "--oneliner", "show", "node"),
}
# The same, for clusters with accounting.
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
    # What slurmdbd itself hides. scontrol does not show that.
    "accounting_config": ("sacctmgr", "show", "configuration"),
}
DEFAULT_MAX_SCRIPT_SIZE = 4 * 1024 * 1024

# A KEY= before a value. A value may have blanks in it (Reason, OS): it ends where the next KEY= begins.
_KEY = re.compile(r"(?:^|(?<=\s))([A-Za-z][A-Za-z0-9_:/]*)=")
# No number of SLURM has more digits.
_NUMBER = re.compile(r"\s*([0-9]{1,18})(?![0-9])")
# No cluster has more hosts.
_MOST_HOSTS = 100_000
# No host name is longer (hostname(7)).
_LONGEST_HOST = 255
_UNLIMITED = frozenset(("UNLIMITED", "INFINITE", "NONE", "N/A", "(null)", "NO_VAL", ""))


@dataclass(frozen=True)
class Node:
    """A node.

    Attributes:
        name: Its name.
        state: State as SLURM writes it, e.g. ``IDLE`` or ``DOWN+DRAIN``.
        cpus: Number of CPUs that jobs can use.
        memory_mb: Memory in MB that jobs can use.
        gres: Generic resources by name, all types together, and by ``name:type``; e.g. ``{"gpu": 4, "gpu:a100": 4}``.
        features: Features for --constraint.
        partitions: Names of the partitions that it is in.
        reason: Why it is down or drained, as the administrator or SLURM wrote it.
        host: Its NodeHostName. SLURM accepts this name for the node, too.
        unknown: Fields that could not be read from SLURM's output: ``cpus``, ``memory_mb``, ``gres``.
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
        """Whether jobs can start on this node, now or when it becomes free."""
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
        is_default: Whether a job that names no partition gets this one.
        state: ``UP``, ``DOWN``, ``DRAIN`` or ``INACTIVE``.
        max_time_s: Longest time limit of a job in seconds, None for no limit.
        default_time_s: Time limit in seconds of a job that names none, None where that is ``max_time_s``.
        max_nodes: Most nodes of a job, None for no limit.
        max_cpus_per_node: Most CPUs of a job on one node, None for no limit.
        max_memory_mb: Most memory in MB of a job on one node, None for no limit.
        allow_accounts: The only accounts that may use it, None for all accounts.
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
    """An account, or a user in an account, with limits. None stands for no limit.

    Attributes:
        account: The account.
        user: The user, or an empty string for the line of the account itself.
        partition: The only partition that it holds for, or an empty string for all.
        qos: QOS that it may use.
        default_qos: QOS of a job that names none.
        max_submit: Most jobs that the user may have submitted.
        group_max_submit: Most jobs that all of the account may have submitted.
        max_jobs: Most jobs that the user may have running.
        max_wall_s: Longest time limit of a job in seconds; 0 lets no job run.
        cluster: The cluster that it holds for, or an empty string where SLURM does not name it.
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
    """A quality of service (QOS). None stands for no limit.

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
        min_job_age_s: Seconds that slurmctld keeps a job after its end.
        kill_wait_s: Seconds between SIGTERM and SIGKILL when a job is ended.
        max_array_size: One more than the highest index of a job array.
        max_job_count: Most jobs that slurmctld holds.
        max_script_size: Largest batch script in bytes.
        private_data: What ordinary users can't see of other users, e.g. ``("jobs",)``.
        enforce_part_limits: ``ALL``, ``ANY`` or ``NO``: whether sbatch refuses a job that can't run.
        accounting_enforced: The values of AccountingStorageEnforce.
        has_accounting: Whether the cluster uses slurmdbd.
        partitions: Partitions by name. It is empty where SLURM shows this account none.
        nodes: Nodes by name. It is empty where SLURM shows this account none.
        associations: The associations of this cluster that were asked for, None where they are not known.
        qos: QOS by name, None where they are not known.
        shows_partitions: Whether SLURM shows this account partitions (PrivateData).
        shows_nodes: Whether SLURM shows this account nodes (PrivateData).
        shows_accounts: Whether slurmdbd shows this account the associations of other users.
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
        """Whether slurmctld shows ordinary users only their own jobs (PrivateData, slurm.conf(5))."""
        return "jobs" in map(str.lower, self.private_data)

    @property
    def hides_partitions(self) -> bool:
        """Whether there may be partitions that SLURM does not show this account (PrivateData)."""
        return not self.shows_partitions or "partitions" in map(str.lower, self.private_data)

    @property
    def limits_jobs(self) -> bool:
        """Whether SLURM enforces the limits of QOS and associations (AccountingStorageEnforce)."""
        return bool({"limits", "safe", "all"} & {name.lower() for name in self.accounting_enforced})

    def hides_nodes_of(self, partition: Partition) -> bool:
        """Whether a partition has nodes that SLURM does not show, such as cloud nodes that are powered down."""
        return len(self.nodes_of(partition.name)) < partition.total_nodes

    def nodes_of(self, partition: str) -> list[Node]:
        """Return the nodes of a partition."""
        return [node for node in self.nodes.values() if partition in node.partitions]

    def as_dict(self) -> dict[str, Any]:
        """Return these facts as plain values, for JSON."""
        return asdict(self)


def commands(*, accounting: bool, users: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the commands to run.

    Args:
        accounting: Whether to ask for accounts and QOS, too.
        users: The users whose associations are wanted. Without any, those of all users are.

    Returns:
        The commands by name. :func:`parse` takes the output of each under the same name.
    """
    wanted = {name: list(argv) for name, argv in COMMANDS.items()}
    if accounting:
        wanted.update({name: list(argv) for name, argv in ACCOUNTING_COMMANDS.items()})
        if users:
            # The lines of the accounts themselves have no user. A second command asks for them.
            wanted["accounts"] = [*wanted["associations"], "user="]
            wanted["associations"].append(f"user={','.join(users)}")
    return wanted


def parse(outputs: Mapping[str, str]) -> Cluster:
    """Read the output of the commands. A value that is missing, or that we can't read, counts as unknown.

    Args:
        outputs: Standard output by name, see :func:`commands`. Only ``config`` is required.

    Raises:
        ClusterError: ``config`` is missing, or is not the output of ``scontrol show config``.
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
    """Return whether slurmdbd shows everybody the associations of all users.

    The part on slurmdbd in ``sacctmgr show configuration`` says so. Where that part is missing, the answer is true:
    outputs that were saved before we asked for it have no such part.
    """
    if text is None:
        return True
    _slurm, _heading, slurmdbd = text.partition("SlurmDBD configuration")
    hidden = _names(parse_config_lines(slurmdbd).get("PrivateData", ""))
    return not {"accounts", "users"} & {each.lower() for each in hidden}


def parse_config_lines(text: str) -> dict[str, str]:
    """Return the values of ``scontrol show config`` by name."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _sign, value in pairs}


def parse_oneliner(line: str) -> dict[str, str]:
    """Return the values of a line of ``scontrol --oneliner show`` by name. Of a name that occurs twice, the first."""
    found: dict[str, str] = {}
    text = line.strip()
    keys = list(_KEY.finditer(text))
    for key, following in zip(keys, [*keys[1:], None], strict=False):
        found.setdefault(key[1], text[key.end() : following.start() if following else None].strip())
    return found


def parse_node(line: str) -> Node:
    """Return the node that a line of ``scontrol --oneliner show node`` describes."""
    values = parse_oneliner(line)
    unknown = []
    # CPUEfctv does not count the CPUs that are reserved for the system. Older versions do not print it.
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
    """Return the partition that a line of ``scontrol --oneliner show partition`` describes."""
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
    """Read a list of generic resources: those of a node, or those that --gres asks for.

    Args:
        text: E.g. ``gpu:a100:4(S:0-1),shard:8`` or ``gres/gpu:2``.

    Returns:
        Counts by name, and also by ``name:type`` where the list names a type.

    Raises:
        FractalSlurmError: The text is not such a list.
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
    """Return the names in a host list such as ``gpu[01-03,7],login``.

    Raises:
        FractalSlurmError: The text is not a host list, or has more than 100,000 names, or a name of over 255
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
    """Return a time limit in seconds. None stands for no limit, or one that we can't read. Zero is a limit."""
    plain = text.strip()
    if re.fullmatch(r"(?:0{1,9}[-:])*0{1,9}", plain):
        return 0
    try:
        return None if plain in _UNLIMITED else parse_walltime(plain)
    except FractalSlurmError:
        return None


def _rows(text: str, names: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table. The last column may be missing: older saved outputs do not have it."""
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
