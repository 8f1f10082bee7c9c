# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Says what a host's sudoers files mean for one account: which settings concern it, which rights it has.

Standard library only. The functions take texts and return values.
"""

from __future__ import annotations

import fnmatch
import re
from typing import NamedTuple

from . import sudoers_reader

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any

    from .sudoers_reader import Defaults, Member, Statement


class Subject(NamedTuple):
    """The account that is looked at.

    Attributes:
        name: Its name.
        uid: Its uid; None where it is unknown.
        groups: The names of its groups.
        gids: The numbers of its groups.
        host: This host's name.
    """

    name: str
    uid: int | None
    groups: Collection[str]
    gids: Collection[int]
    host: str


class Right(NamedTuple):
    """One command of a rule, with its aliases resolved.

    Attributes:
        path: The file of the rule.
        line: The number of its line.
        run_as: As which users the command may run; None where the rule names none, which means root.
        groups: As which groups.
        password: Whether sudo asks for a password.
        setenv: Whether any environment variable may be set.
        command: The command.
    """

    path: str
    line: int
    run_as: list[Member] | None
    groups: list[Member]
    password: bool
    setenv: bool
    command: Member


_MAX_DEPTH = 32  # of aliases in aliases
# Whoever sets these variables decides what SLURM's commands do, or what programs do that jobs start.
_RISKY_VARIABLE = re.compile(
    r"\*|(SLURM|SBATCH|SCANCEL|SRUN|LD|PYTHON|BASH|MUNGE)[_*].*|PATH|ENV|IFS|PERL5LIB|SHELLOPTS"
)
# With these settings, sudo puts a library of its own into LD_PRELOAD. sbatch hands that on to the jobs.
_PRELOADING = ("noexec", "intercept", "log_subcmds")


class Rules:
    """The statements of a set of files, with the aliases of all of them.

    Args:
        files: Path to text, in sudo's order.
    """

    def __init__(self, files: Mapping[str, str]) -> None:
        self._found = [(path, statement) for path, text in files.items() for statement in sudoers_reader.read(text)]
        self._aliases: dict[tuple[str, str], list[Member]] = {}
        for _path, statement in self._found:
            if statement.kind == "alias":
                self._aliases.setdefault((statement.value.type, statement.value.name), statement.value.members)

    def of_kind(self, kind: str) -> list[tuple[str, int, Any]]:
        """All statements of a kind: a list of (path, line, value)."""
        return [(path, found.line, found.value) for path, found in self._found if found.kind == kind]

    def resolve(self, members: Iterable[Member], kind: str, depth: int = 0) -> list[Member]:
        """Replace the aliases in a list by the members that they stand for, where these are known.

        Args:
            members: The members of a statement.
            kind: The kind of the aliases: Host, Cmnd, User or Runas.
            depth: How many aliases led to this list.
        """
        found = []
        for member in members:
            inner = self._aliases.get((kind, member.text)) if member.kind == "alias" and depth < _MAX_DEPTH else None
            if inner is None:
                found.append(member)
                continue
            for part in self.resolve(inner, kind, depth + 1):
                found.append(part._replace(negated=part.negated != member.negated))
        return found

    def names(self, members: Iterable[Member], kind: str, test: Callable[[Member], bool | None]) -> bool | None:
        """Whether a list names something. The last member that names it decides.

        Args:
            members: The members of a statement.
            kind: The kind of the aliases among them.
            test: Says whether a member names it; None where that can't be known.

        Returns:
            True or False; None where it can't be known.
        """
        for member in reversed(self.resolve(members, kind)):
            named = True if member.kind == "all" else test(member)
            if named is None:
                return None
            if named:
                return not member.negated
        return False


def alias_uses(statements: Iterable[Statement]) -> set[str]:
    """The names of all aliases that statements use.

    Args:
        statements: Statements of any kind.
    """
    members: list[Member] = []
    for statement in statements:
        value = statement.value
        if statement.kind in ("alias", "defaults"):
            members += value.members
        elif statement.kind == "rule":
            members += value.users
            for grant in value.grants:
                members += [grant.command, *grant.hosts, *(grant.run_as or []), *(grant.groups or [])]
    return {member.text for member in members if member.kind == "alias"}


def is_user(member: Member, subject: Subject) -> bool | None:
    """Whether a member of a list names this account, by name, uid or group; None where that can't be known."""
    if member.kind == "group":
        name = member.text[1:]
        if name.startswith(":"):
            return None  # of a plugin
        if name.startswith("#"):
            return name[1:] in {str(gid) for gid in subject.gids}
        return name.lower() in {group.lower() for group in subject.groups}
    if member.kind == "netgroup":
        return None
    return member.text.lower() == subject.name.lower() or member.text == "#%s" % subject.uid


def is_host(member: Member, subject: Subject) -> bool | None:
    """Whether a member of a list names this host; None where that can't be known, as of addresses and netgroups."""
    if member.kind == "netgroup" or re.fullmatch(r"[0-9A-Fa-f.:/]*[.:/][0-9A-Fa-f.:/]*", member.text):
        return None
    host, pattern = subject.host.lower(), member.text.lower()
    short = host.partition(".")[0]
    # Sudo may know this host by a longer name than we do.
    return pattern.partition(".")[0] == short or any(fnmatch.fnmatchcase(name, pattern) for name in (host, short))


def _concerns(rules: Rules, value: Defaults, subject: Subject) -> bool:
    """Whether settings concern an account's calls of our commands. If that can't be known, the answer is yes."""
    if value.binding == ":":
        return rules.names(value.members, "User", lambda member: is_user(member, subject)) is not False
    if value.binding == "@":
        return rules.names(value.members, "Host", lambda member: is_host(member, subject)) is not False
    if value.binding == ">":
        others = [member for member in rules.resolve(value.members, "Runas") if not member.negated]
        return any(member.text not in ("root", "#0") for member in others)
    if value.binding == "!":
        named = [member for member in rules.resolve(value.members, "Cmnd") if not member.negated]
        return any(
            member.kind in ("all", "alias")
            or re.search(r"/(sbatch|scancel|cat|ls|mkdir)?$|[*?\[]", member.text.partition(" ")[0])
            for member in named
        )
    return True


def final_settings(rules: Rules, subject: Subject | None = None) -> dict[str, tuple[str, int, str, Any]]:
    """The last word on each setting, for an account's calls of our commands.

    Args:
        rules: The :class:`Rules`.
        subject: The account. None takes each setting, whomever it is for.

    Returns:
        Name to (path, line, operator, value). The value of a list, such as env_keep, is a mapping of each entry to its
        (path, line).
    """
    found: dict[str, tuple[str, int, str, Any]] = {}
    settings = rules.of_kind("defaults")
    # Sudo applies them in this order: the settings for whom commands run as, and for commands, come last.
    for bindings in (("", ":", "@"), (">",), ("!",)):
        for path, line, value in settings:
            if value.binding not in bindings or (subject is not None and not _concerns(rules, value, subject)):
                continue
            for name, operator, text in value.options:
                if name in ("env_keep", "env_check", "env_delete"):
                    words = (text or "").split()
                    listed = dict(found[name][3]) if name in found and operator in ("+=", "-=") else {}
                    for word in words:
                        if operator == "-=":
                            listed.pop(word, None)
                        else:
                            listed[word] = (path, line)
                    found[name] = (path, line, operator, listed)
                else:
                    found[name] = (path, line, operator, text)
    return found


def set_warnings(files: Mapping[str, str], subject: Subject | None = None) -> list[str]:
    """Settings that matter to us: a sentence for each, with its file and line.

    Args:
        files: Path to text.
        subject: The service account. None takes each setting, whomever it is for.
    """
    rules = Rules(files)
    settings = final_settings(rules, subject)
    user = subject.name if subject else "USER"
    found = []

    def say(name: str, words: str) -> None:
        path, line = settings[name][:2]
        found.append((path, line, "%s:%d: %s" % (path, line, words)))

    def is_on(name: str) -> bool:
        return name in settings and settings[name][2] == ""

    for name in ("log_input", "log_stdin"):
        if is_on(name):
            say(
                name,
                "sudo records standard input here: every submitted script, with its tasks' parameters, lands in sudo's "
                "I/O log",
            )
            break
    if is_on("requiretty"):
        say(
            "requiretty",
            "requiretty: sudo refuses a service that has no terminal; except the service account with Defaults:%s "
            "!requiretty" % user,
        )
    for name in _PRELOADING:
        if is_on(name):
            say(
                name,
                "%s: sudo puts a library into LD_PRELOAD of the commands, and sbatch hands it on to the jobs: programs "
                "there may fail to start others; except the service account with Defaults:%s !%s" % (name, user, name),
            )
    if "env_reset" in settings and settings["env_reset"][2] == "!":
        say(
            "env_reset",
            "!env_reset: whoever holds the service account sets the environment of the commands, and of the jobs; set "
            "Defaults:%s env_reset" % user,
        )
    if is_on("setenv"):
        say("setenv", _setenv_words("setenv", user))
    for word, (path, line) in settings.get("env_keep", (None, None, None, {}))[3].items():
        if _RISKY_VARIABLE.fullmatch(word.partition("=")[0]):
            found.append(
                (
                    path,
                    line,
                    "%s:%d: env_keep lets %s through: whoever holds the service account sets it for the commands, and "
                    "for the jobs; take it away for the service account with Defaults:%s env_keep -= %s"
                    % (path, line, word, user, '"%s"' % word if "=" in word else word),
                )
            )
    for name in sorted(settings):
        if name == "umask" and settings[name][3] in ("022", "0022"):
            continue  # sudo's default
        if (name in ("umask", "env_file", "restricted_env_file") or name.startswith("rlimit_")) and settings[name][
            2
        ] == "=":
            say(
                name,
                "%s=%s: sudo sets this for the commands, and sbatch hands it on to the jobs"
                % (name, settings[name][3]),
            )
    for right in rights(rules, subject) if subject else ():
        if right.setenv:
            found.append(
                (right.path, right.line, "%s:%d: %s" % (right.path, right.line, _setenv_words("SETENV", user)))
            )
    return list(dict.fromkeys(words for _path, _line, words in sorted(found, key=lambda entry: entry[:2])))


def _setenv_words(name: str, user: str) -> str:
    return "%s: %s may set any variable for the commands, and so for the jobs; take it away" % (name, user)


def rights(rules: Rules, subject: Subject) -> list[Right]:
    """What an account may run as others by the rules of the files, in their order.

    Rules whose users can't be known here, as of netgroups, are left out.

    Args:
        rules: The :class:`Rules`.
        subject: The account.

    Returns:
        A right for each command, with its aliases resolved.
    """
    found = []
    for path, line, value in rules.of_kind("rule"):
        if not rules.names(value.users, "User", lambda member: is_user(member, subject)):
            continue
        for grant in value.grants:
            if rules.names(grant.hosts, "Host", lambda member: is_host(member, subject)) is False:
                continue
            run_as = grant.run_as if grant.run_as is None else rules.resolve(grant.run_as, "Runas")
            groups = rules.resolve(grant.groups or [], "Runas")
            for command in rules.resolve([grant.command], "Cmnd"):
                setenv = "SETENV" in grant.tags or (command.kind == "all" and "NOSETENV" not in grant.tags)
                password = "NOPASSWD" not in grant.tags
                found.append(Right(path, line, run_as, groups, password, setenv, command))
    return found


def words_of(right: Right) -> str:
    """A right in the words of sudoers."""
    run_as = "root" if right.run_as is None else ", ".join(map(_text, right.run_as))
    groups = " : " + ", ".join(map(_text, right.groups)) if right.groups else ""
    return "(%s%s) %s%s" % (run_as, groups, "" if right.password else "NOPASSWD: ", _text(right.command))


def _text(member: Member) -> str:
    return ("!" if member.negated else "") + member.text


def foreign_rights(rules: Rules, subject: Subject, own_file: str | None) -> list[tuple[str, int, list[Right]]]:
    """Rules that give an account rights, and stand in other files than ours: a list of (path, line, rights)."""
    found: dict[tuple[str, int], list[Right]] = {}
    for right in rights(rules, subject):
        if right.path != own_file and not right.command.negated:
            found.setdefault((right.path, right.line), []).append(right)
    return [(path, line, found[path, line]) for path, line in found]


def foreign_warnings(rules: Rules, subject: Subject, own_file: str | None) -> list[str]:
    """The rules that :func:`foreign_rights` finds, as sentences."""
    return [
        "%s:%d: gives %s rights that this role did not: %s; what is taken off the role's list stays allowed there"
        % (path, line, subject.name, "; ".join(dict.fromkeys(words_of(right) for right in found))[:500])
        for path, line, found in foreign_rights(rules, subject, own_file)
    ]


class Asked:
    """What an account was meant to be able to do.

    Args:
        entries: Names of users, and of groups with a leading ``%``.
        users: The same users with the members of the groups: a list of (name, uid).
        members: Gives the names of a group's members that can be seen; None where there is no such group.
        commands: Absolute paths of the commands.
        service_user: The account itself. It may run the commands as itself, too.
        accepted: Further commands that are meant, as they stand in the rules.
    """

    def __init__(
        self,
        entries: Iterable[str],
        users: Sequence[tuple[str, int]],
        members: Callable[[str], Collection[str] | None],
        commands: Iterable[str],
        service_user: str,
        accepted: Iterable[str] = (),
    ) -> None:
        self._entries = {entry.lower() for entry in entries} | {service_user.lower()}
        self._names = {name.lower() for name, _uid in users} | {service_user.lower()}
        self._uids = {"#%s" % uid for _name, uid in users}
        self._members = members
        self._commands = set(commands)
        self._accepted = set(accepted)

    def covers(self, run_as: Iterable[str], groups: object, command: str) -> bool:
        """Whether a right is no more than what was asked for.

        Args:
            run_as: The users that the command may run as, in the words of sudoers. Those with a ! are left out. There
                are none where the account may run it as itself alone.
            groups: Whether the account may choose a group.
            command: The command as it stands in the rule.
        """
        if command in self._accepted or command == "list":
            return True
        if groups or command.partition(" ")[0] not in self._commands:
            return False
        return all(self._covers_user(name) for name in run_as)

    def _covers_user(self, name: str) -> bool:
        if name in self._uids or name.lower() in self._entries or name.lower() in self._names:
            return name != "ALL"
        if not name.startswith("%"):
            return False
        members = self._members(name[1:])
        return bool(members and all(member.lower() in self._names for member in members))

    def covers_right(self, right: Right) -> bool:
        """Whether a :class:`Right` is no more than what was asked for."""
        run_as = ["root"] if right.run_as is None else [member.text for member in right.run_as if not member.negated]
        return right.command.negated or self.covers(run_as, right.groups, right.command.text)
