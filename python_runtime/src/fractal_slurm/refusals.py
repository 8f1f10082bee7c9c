# SPDX-License-Identifier: BSD-3-Clause
"""What a refusal of SLURM, of sudo or of a site's own script means, and what to do about it. Pure functions.

Final refusals are a closed list: a wrong request, and what is not allowed. Every other refusal may pass, whatever its
words: a drained partition, an sbatch that is away during an upgrade, a script of the site.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

# The most characters of others' words in one message. The events of the run keep all of them.
_MOST_SHOWN = 800


class Refusal(Enum):
    """Why a submission was refused, as far as it decides what to do next."""

    WRONG = "wrong"  # the request is wrong: waiting does not help
    FORBIDDEN = "forbidden"  # the request is not allowed: waiting does not help
    TOO_LARGE = "too large"  # the script is too large: try again with fewer tasks
    FULL = "full"  # a limit on the number of jobs: try again when other jobs have ended
    NOT_NOW = "not now"  # the cause may pass, or is not known: try again later


# What sbatch prints for a wrong request: words of slurm_strerror, and of sbatch about its options.
_WRONG = re.compile(
    r"""
      unrecognized\ option | invalid\ option | option\ requires\ an\ argument | requires\ an\ argument
    | doesn't\ allow\ an\ argument | is\ ambiguous
    | [Ii]nvalid\ --\S+\ specification | Invalid\ --\S+\ value | Invalid\ numeric\ value
    | not\ a\ valid\ (?:count|number|time|value|option)
    | This\ does\ not\ look\ like\ a\ batch\ script | DOS\ line\ breaks | [Bb]atch\ script\ is\ empty
    | [Ii]nvalid\ partition\ (?:name\ )?specified | No\ partition\ specified
    | Requested\ nodes\ not\ in\ this\ partition | Invalid\ node\ name\ specified
    | More\ processors\ requested\ than\ permitted | Requested\ more\ tasks\ than\ available\ processors
    | (?:Node|Task|CPU)\ count\ specification\ invalid | Task\ distribution\ specification\ invalid
    | Job\ size\ specification\ needs\ to\ be\ provided
    | Requested\ node\ configuration\ is\ not\ available | Memory\ required\ by\ task\ is\ not\ available
    | Invalid\ (?:preferred\ )?feature\ specification | --batch\ option\ is\ invalid
    | Invalid\ (?:generic\ resource|GRES)\ | Duplicate\ generic\ resource | Requested\ GRES\ option\ unsupported
    | Invalid\ Trackable\ RESource
    | Invalid\ account\ or\ account/partition\ combination\ specified
    | Invalid\ (?:qos|wckey|mcs_label|job\ array|time-min)\ spec | Invalid\ mcs_label\ specified
    | Multiple\ partition\ job\ request\ not\ supported
    | Requested\ time\ limit\ is\ invalid | Invalid\ time\ specified
    | Time\ limit\ specification\ required,\ but\ not\ provided
    | Circular\ job\ dependency | Job\ dependency\ problem
    # Here the request is right, but sbatch finds no slurm.conf as this user; waiting does not help either.
    | stablish\ a\ configuration\ source | Unable\ to\ process\ configuration\ file
    """,
    re.VERBOSE,
)
_NO_CLUSTER = re.compile(r"stablish (?:a )?configuration source|process configuration file|contact slurm controller")
_FORBIDDEN = re.compile(r"User's group not permitted to use this partition|Access/permission denied")
_TOO_LARGE = re.compile(r"Pathname of a file, directory or other parameter too long|[Ss]cript .{0,40}too (?:large|big)")
# Limits on the number of jobs: every limit of a QOS or an association whose name has Submit in it, and slurmctld's own.
_FULL = re.compile(
    r"\b(?:QOS|Assoc)?(?:Max|Grp)Submit\w*|Slurm temporarily unable to accept job|Slurm job queue full"
    r"|Job limit exceeded|MaxJobCount"
)

# SLURM builds the names of its limits from parts: of whom (QOS or Assoc), which (Max, Min or Grp), of what, per what.
# A limit per job or per node is broken by the job alone, for ever. The others (Grp, per user, per account) have room
# again when other jobs end.
_HOPELESS_BY_RULE = re.compile(r"(?:QOS|Assoc)?Max\w+Per(?:Job|Node)(?:Limit)?|QOSMin\w+|AssocMin\w+")
_HOPELESS = frozenset(
    {
        "AccountNotAllowed",
        "AssociationTimeLimit",
        "BadConstraints",
        "DeadLine",
        "DependencyNeverSatisfied",
        "InvalidAccount",
        "InvalidQOS",
        "MaxMemPerLimit",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSNotAllowed",
        "QOSTimeLimit",
    }
)
# How lines of sbatch and of sudo begin.
_SBATCH_SAYS = re.compile(r"(?:\S*/)?sbatch: (?:(?:error|fatal|info): )?")
_SUDO_SAYS = re.compile(
    r"sudo(?:-rs)?: |Sorry, user |\S+ is not (?:in the sudoers file|allowed to run sudo on )|\S+ may not run sudo on "
)
# Warnings of sudo, after which it goes on.
_ASIDE = re.compile(
    r"unable to resolve host|sudo: setrlimit\(|unable to (?:send|open) audit|This incident (?:will|has) be"
    r"|unable to (?:mkdir|open|update|write|lock) \S*(?:/ts|lectured|\.log|sudo\.log|/seq)\b"
)
# Causes for which sudo refuses: its words, whether waiting can't help, and what to do.
_SUDO_CAUSES: tuple[tuple[str, bool, str], ...] = (
    (
        r"must have a tty|no tty present",
        True,
        "sudo wants a terminal (requiretty): add `Defaults:{service} !requiretty` to the sudoers files of this host",
    ),
    (
        r"no new privileges",
        True,
        "this process may not gain rights: take NoNewPrivileges (and what implies it) out of its systemd unit, or "
        "run it outside of that container",
    ),
    (
        r"effective uid is not 0|must be owned by uid 0|setuid",
        True,
        "sudo has no root rights here: it must belong to root with mode 4755, on a file system without nosuid",
    ),
    (
        r"expired|account validation failure|is your account locked|account .{0,20}locked",
        True,
        "PAM refuses the account {service}: look at it with `chage -l {service}` and `passwd -S {service}`",
    ),
    (
        r"too many logins|session initialization|pam_open_session|setresuid|setrlimit|unable to fork|"
        r"[Rr]esource temporarily unavailable|Cannot open session",
        False,
        "PAM can't open a session for {user}: look at /etc/security/limits.conf (maxlogins, nproc) and at sudo's log",
    ),
    (
        r"(?:syntax|parse) error|unable to (?:open|stat|read) |no valid sudoers|error initializing|"
        r"owned by uid|is world writable|unable to initialize",
        False,
        "sudo can't read its own rules: run `visudo -c` as root",
    ),
    (
        r"command not found|unable to execute|No such file or directory",
        False,
        "{command} is not there, or can't be started: install it, or mount its folder",
    ),
)
_NOT_ALLOWED = re.compile(
    r"password is required|authentication is required|is not allowed to (?:execute|run)|is not in the sudoers"
    r"|may not run sudo|[Ii]'m sorry|unknown user|unknown group|a terminal is required"
)


def kind_of(stderr: str) -> Refusal:
    """Return the kind of a refusal of sbatch.

    Args:
        stderr: All that sbatch wrote to standard error, or a script of the site in its place.
    """
    if _FULL.search(stderr):
        return Refusal.FULL
    if _TOO_LARGE.search(stderr):
        return Refusal.TOO_LARGE
    if _FORBIDDEN.search(stderr):
        return Refusal.FORBIDDEN
    if _WRONG.search(stderr) or any(is_hopeless(word) for word in re.findall(r"[A-Z]\w+", stderr)):
        return Refusal.WRONG
    return Refusal.NOT_NOW


def is_hopeless(reason: str) -> bool:
    """Say whether a job that is pending for this reason (squeue(1), %r) will never start, whatever other jobs do."""
    return reason in _HOPELESS or _HOPELESS_BY_RULE.fullmatch(reason) is not None


def says_sudo(stderr: str) -> bool:
    """Say whether sudo refused, and not the command that sudo was to run.

    A refusal is the last line that sudo prints. If other lines follow, sudo ran the command.
    """
    lines = _without_asides(stderr.splitlines())
    return bool(lines) and _SUDO_SAYS.match(lines[-1]) is not None and not any(map(_SBATCH_SAYS.match, lines))


def _without_asides(lines: Iterable[str]) -> list[str]:
    return [line.strip() for line in lines if line.strip() and not _ASIDE.search(line)]


def is_sudos_final_word(stderr: str) -> bool:
    """Say whether sudo's refusal is final, so that waiting does not help."""
    said = "\n".join(_without_asides(stderr.splitlines()))
    for words, final, _advice in _SUDO_CAUSES:
        if re.search(words, said):
            return final
    return _NOT_ALLOWED.search(said) is not None


def sudo_advice(stderr: str, *, service: str, user: str, command: str) -> str:
    """Return what to do about a refusal of sudo, or an empty string if its words do not tell the cause.

    Args:
        stderr: All that sudo wrote to standard error.
        service: The account that called sudo.
        user: The user as whom the command was to run.
        command: The command's path.
    """
    said = "\n".join(_without_asides(stderr.splitlines()))
    for words, _final, advice in _SUDO_CAUSES:
        if re.search(words, said):
            return advice.format(service=service, user=user, command=command)
    return ""


def no_cluster_advice(words: str, *, user: str) -> str:
    """Return what to do if sbatch, run by sudo, finds no cluster; an empty string if these words say something else."""
    if not _NO_CLUSTER.search(words):
        return ""
    return (
        f"sbatch finds no cluster as {user}. sudo takes SLURM_CONF out of the environment, so it is no help there: put "
        "slurm.conf where SLURM looks for it by itself, or set slurm_bin_dir to a folder whose commands set SLURM_CONF"
    )


def no_answer_advice(bin_dir: str) -> str:
    """Return what to do if slurmctld does not answer before anything was submitted.

    Args:
        bin_dir: The folder with SLURM's commands.
    """
    return (
        f"nothing was submitted. `{bin_dir}/scontrol ping` says whether slurmctld is up: if it is down, start it and "
        "try again; if that is the command of another cluster, correct slurm_bin_dir in our settings"
    )


def own_words(stderr: str) -> str:
    """Return what sbatch wrote as one line: each line once, without the name of sbatch, cut if it is long.

    All lines count, because a script of the site may need several for its reason, and SLURM's own last line is then
    only "Unspecified error".
    """
    lines = list(dict.fromkeys(line for line in map(_plain, stderr.splitlines()) if line))
    telling = [line for line in lines if not line.endswith(("Unspecified error", "sleeping and retrying"))]
    return _bounded("; ".join(telling or lines)) or "no reason given"


def sudo_words(lines: Iterable[str]) -> str:
    """Return why sudo refused, as one line: the first line of sudo itself, since the next ones only follow from it.

    If sudo printed no line of its own, or only that PAM opened no session, the words of PAM tell the cause.
    """
    said = _without_asides(lines)
    own = [line.partition(": ")[2] for line in said if line.startswith(("sudo: ", "sudo-rs: "))][:1]
    others = [line for line in said if not line.startswith(("sudo: ", "sudo-rs: "))]
    if not own:
        return _bounded("".join(others[-1:]))
    if "pam_" in own[0] or "session initialization" in own[0]:
        own = [*others, *own]
    return _bounded("; ".join(dict.fromkeys(own)))


def _plain(line: str) -> str:
    return _SBATCH_SAYS.sub("", line.strip(), count=1) if _SBATCH_SAYS.match(line.strip()) else line.strip()


def _bounded(text: str) -> str:
    """Cut a long text in its middle: the reason may stand at either end."""
    if len(text) <= _MOST_SHOWN:
        return text
    half = _MOST_SHOWN // 2
    return f"{text[:half]} ... {text[-half:]}"
