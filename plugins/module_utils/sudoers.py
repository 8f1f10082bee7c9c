# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module ``fractal.slurm.sudoers`` knows about sudoers files, accounts and binaries.

It runs on the managed hosts. Standard library only. Functions take values and return values. The host itself is read
by :class:`HostAccounts`, :class:`SudoersSet`, :func:`find_commands`, :func:`path_faults` and :func:`read_file`.
A fault is a sentence for the person who must act.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from typing import NamedTuple

from . import sudoers_reader, sudoers_rights, trusted_path
from .sudo_rules import CMND_ALIAS, RUNAS_ALIAS, SLURM_COMMANDS, fault_of_account_name

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from .sudoers_reader import Member, Statement

# Each of our files begins with this line. A file that does not is never overwritten or removed.
HEADER = "# Managed by Ansible (role fractal.slurm.sudoers)"
# cat, ls and mkdir are looked for in these folders alone. For SLURM's commands, a site can name folders of its own.
SYSTEM_DIRS = ("/usr/bin", "/bin")

# Regular expressions for arguments came with this release of sudo. sudo-rs has none.
HARDENED_SUDO_VERSION = (1, 9, 10)

# Names that need no quotes in sudoers. A name in capitals would be an alias there. Sudoers has words of its own, too.
_PLAIN_NAME = re.compile(r"(?![A-Z][A-Z0-9_]*$)[A-Za-z_][A-Za-z0-9_.-]*")
_OWN_WORDS = re.compile(r"sha(224|256|384|512)|sudoedit|list|Defaults|(Host|Cmnd|Cmd|User|Runas)_Alias")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-]+")
# Uids that mean nobody, whatever their name.
_NOBODY = (65534, 65535)
_MAX_INCLUDES = 128  # sudo's own limit on nesting


class User(NamedTuple):
    """A user of the host."""

    name: str
    uid: int
    gid: int


class Group(NamedTuple):
    """A group of the host, with the names of the members that can be seen."""

    name: str
    gid: int
    members: tuple[str, ...]


def quoted(entry: str) -> str:
    """The name of a user, or of a group with a leading ``%``, as it stands in sudoers."""
    name = entry[1:] if entry.startswith("%") else entry
    plain = _PLAIN_NAME.fullmatch(name) and not _OWN_WORDS.fullmatch(name)
    return entry if plain else '"%s"' % entry


def fault_of_file_name(name: str) -> str | None:
    """The fault of a file's name in an includedir, or None where sudo reads such a file."""
    if not _FILE_NAME.fullmatch(name):
        return (
            "the file name %r is not allowed: letters, digits, _ and - are (sudo ignores names with a dot or a "
            "trailing tilde)" % name
        )
    return None


class HostAccounts:
    """Users and groups as the host's name service answers for them, each looked up by its key.

    Accounts are never listed as a whole, since directory services often refuse that. So the local passwd file alone
    says who has a group as primary group. :attr:`listable` says whether that is the whole truth.

    Args:
        passwd: The local file of users.
        nsswitch: The name service's configuration.
        login_defs: The file that sets UID_MIN and UID_MAX, the first and last uid of ordinary local users.
    """

    def __init__(
        self,
        passwd: str = "/etc/passwd",
        nsswitch: str = "/etc/nsswitch.conf",
        login_defs: str = "/etc/login.defs",
    ) -> None:
        self._passwd = passwd
        text = _read(login_defs)
        self.uid_min, self.uid_max = parse_uid_min(text), parse_uid_max(text)
        self.listable = sources_are_local(_read(nsswitch))

    def user(self, name: str) -> User | None:
        """The user of that name, or None."""
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            return None
        return User(entry.pw_name, entry.pw_uid, entry.pw_gid)

    def is_local(self, user: User) -> bool:
        """Whether a user stands in the local passwd file."""
        return user.name in local_uids(_read(self._passwd))

    def local_system_uids(self) -> set[int]:
        """The uids of the local system accounts. Root's is left out."""
        return {
            uid
            for uid in local_uids(_read(self._passwd)).values()
            if uid and self.why_system(uid, local=True) is not None
        }

    def why_system(self, uid: int, local: bool) -> str | None:
        """What makes an account one of the system's, or None.

        Args:
            uid: Its uid.
            local: Whether it stands in the local passwd file. Directories may have ordinary users above UID_MAX.
        """
        if uid < self.uid_min:
            return "the uid %d, below this host's UID_MIN of %d" % (uid, self.uid_min)
        if uid in _NOBODY or (local and self.uid_max < uid <= 65535):
            return "the uid %d, above this host's UID_MAX of %d" % (uid, self.uid_max)
        return None

    def subject(self, name: str, host: str) -> sudoers_rights.Subject:
        """All that sudo's rules can know an account by.

        Args:
            name: The account's name. It may be unknown on this host.
            host: This host's name.
        """
        user = self.user(name)
        if user is None:
            return sudoers_rights.Subject(name, None, (), (), host)
        return sudoers_rights.Subject(name, user.uid, self.group_names(user), self.group_ids(user), host)

    def group(self, name: str) -> Group | None:
        """The group of that name with the members that can be seen, or None."""
        try:
            entry = grp.getgrnam(name)
        except KeyError:
            return None
        members = set(entry.gr_mem) | primary_members(_read(self._passwd), entry.gr_gid)
        return Group(entry.gr_name, entry.gr_gid, tuple(sorted(members)))

    def group_ids(self, user: User) -> frozenset[int]:
        """All group ids of a user, as ``id -G`` has them."""
        return frozenset(os.getgrouplist(user.name, user.gid))

    def group_names(self, user: User) -> set[str]:
        """The names of a user's groups, as ``id -Gn`` has them. A group without a name is left out."""
        found = set()
        for gid in self.group_ids(user):
            try:
                found.add(grp.getgrgid(gid).gr_name)
            except KeyError:
                continue
        return found


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def parse_uid_min(login_defs: str) -> int:
    """UID_MIN from the text of login.defs (1000 where it is not set)."""
    match = re.search(r"^\s*UID_MIN\s+([0-9]+)", login_defs, re.MULTILINE)
    return int(match.group(1)) if match else 1000


def parse_uid_max(login_defs: str) -> int:
    """UID_MAX from the text of login.defs (60000 where it is not set)."""
    match = re.search(r"^\s*UID_MAX\s+([0-9]{1,10})\s*$", login_defs, re.MULTILINE)
    return int(match.group(1)) if match else 60000


def local_uids(passwd: str) -> dict[str, int]:
    """Name to uid of the users in the text of a passwd file."""
    fields = (line.split(":") for line in passwd.splitlines())
    return {entry[0]: int(entry[2]) for entry in fields if len(entry) >= 4 and re.fullmatch("[0-9]{1,10}", entry[2])}


def parse_slurm_users(config: str) -> list[tuple[str, int | None, str]]:
    """The accounts that SLURM's daemons run as, from ``scontrol show config`` or slurm.conf.

    Args:
        config: The text.

    Returns:
        A list of (name, uid, setting). The uid is None where the text does not tell it. The setting is SlurmUser or
        SlurmdUser.
    """
    found = []
    # In slurm.conf, a line may hold several settings, and a value may have quotes.
    pattern = r"(?:^|[ \t])(Slurmd?User)[ \t]*=[ \t]*\"?([^\s\"()]+)\"?(?:\(([0-9]{1,10})\))?"
    for line in config.splitlines():
        for setting, name, uid in re.findall(pattern, line.partition("#")[0], re.IGNORECASE):
            number = uid or (name if re.fullmatch("[0-9]{1,10}", name) else "")
            found.append((name, int(number) if number else None, setting))
    return found


def sources_are_local(nsswitch: str) -> bool:
    """Whether passwd and group come from local files only, by the text of nsswitch.conf."""
    for database in ("passwd", "group"):
        match = re.search(r"^\s*%s:([^#\n]*)" % database, nsswitch, re.MULTILINE)
        words = re.sub(r"\[[^\]]*\]", " ", match.group(1)).split() if match else ["files"]
        if not set(words) <= {"files", "systemd", "altfiles", "db"}:
            return False
    return True


def primary_members(passwd: str, gid: int) -> set[str]:
    """Names in the text of a passwd file whose primary group is ``gid``."""
    fields = (line.split(":") for line in passwd.splitlines())
    return {entry[0] for entry in fields if len(entry) >= 4 and entry[3] == str(gid)}


def list_faults(entries: list[str], service_user: str, privileged_groups: Sequence[str] = ()) -> list[str]:
    """What is wrong with a list of users and %groups, as far as it can be known without the host.

    Args:
        entries: Names of users, and of groups with a leading ``%``.
        service_user: The account that impersonates the users.
        privileged_groups: Names of groups whose members are as good as root.

    Returns:
        One sentence for each fault; empty where all is well.
    """
    faults = []
    if not entries:
        faults.append(
            "the list of users to impersonate is empty: name at least one user, or a %group "
            "(fractal_slurm_sudoers_impersonate_users)"
        )
    fault = fault_of_account_name(service_user, "the service account")
    if fault:
        faults.append(fault)
    elif service_user == "root":
        faults.append(_needs_no_sudo(service_user))
    for entry in dict.fromkeys(entries):
        is_group = entry.startswith("%")
        name = entry[1:] if is_group else entry
        what = "group" if is_group else "user"
        fault = fault_of_account_name(name, what, is_group)
        if fault:
            faults.append(fault)
        elif is_group and name in privileged_groups:
            faults.append(_is_privileged(name))
        elif not is_group and name == "root":
            faults.append("user root: can't be impersonated because of uid 0")
        if entries.count(entry) > 1:
            faults.append("%s %s: stands %d times in the list: keep one" % (what, name, entries.count(entry)))
    return faults


def _needs_no_sudo(service_user: str) -> str:
    return "the service account %s has uid 0: it needs no sudo; use an ordinary account" % service_user


def _is_privileged(name: str) -> str:
    return "group %s: privileged: its members are as good as root and can't be impersonated" % name


def account_faults(
    entries: list[str],
    accounts: HostAccounts,
    service_user: str,
    privileged_groups: Sequence[str] = (),
    accept_system_users: Sequence[str] = (),
    accept_unlistable_groups: bool = False,
    slurm_users: Mapping[int, str] | None = None,
) -> list[str]:
    """Why a list of users and %groups can't be impersonated.

    Args:
        entries: Names of users, and of groups with a leading ``%``.
        accounts: The host's accounts.
        service_user: The account that impersonates the users. It may be in the list, whatever its uid.
        privileged_groups: Names of groups whose members are as good as root.
        accept_system_users: Names of users below UID_MIN or above UID_MAX that may be impersonated all the same.
        accept_unlistable_groups: Whether to accept groups whose members can't all be listed.
        slurm_users: Uids that SLURM's daemons run as, to the setting that names each.

    Returns:
        One sentence for each fault; empty where all is well.
    """
    faults = list_faults(entries, service_user, privileged_groups)
    if not fault_of_account_name(service_user, "the service account"):
        service = accounts.user(service_user)
        if service is None:
            faults.append("the service account %s is unknown on this host: create it first" % service_user)
        elif service.uid == 0:
            faults.append(_needs_no_sudo(service_user))

    privileged_ids = {}
    for name in privileged_groups:
        group = accounts.group(name)
        if group is not None:
            privileged_ids[group.gid] = name

    def why_privileged(user: User) -> str | None:
        """What makes a user privileged, or None."""
        if user.uid == 0:
            return "uid 0"
        if slurm_users and user.uid in slurm_users:
            return "SLURM's %s, who can start jobs as anybody" % slurm_users[user.uid]
        if user.name == service_user:
            return None
        if user.name not in accept_system_users:
            system = accounts.why_system(user.uid, accounts.is_local(user))
            if system:
                return system
        groups = sorted({privileged_ids[gid] for gid in accounts.group_ids(user) if gid in privileged_ids})
        return "membership in the privileged group %s" % ", ".join(groups) if groups else None

    for entry in dict.fromkeys(entries):
        is_group = entry.startswith("%")
        name = entry[1:] if is_group else entry
        if fault_of_account_name(name, "", is_group):
            continue
        if is_group:
            faults.extend(
                _group_faults(
                    name, accounts, privileged_ids, privileged_groups, why_privileged, accept_unlistable_groups
                )
            )
        else:
            user = accounts.user(name)
            reason = why_privileged(user) if user is not None else None
            if user is None:
                faults.append("user %s: unknown on this host: create it, or take it off the list" % name)
            elif reason:
                hint = (
                    " (a system account that is meant can be named in fractal_slurm_sudoers_accept_system_users)"
                    if "this host's UID_" in reason
                    else ""
                )
                faults.append("user %s: can't be impersonated because of %s%s" % (name, reason, hint))
    return list(dict.fromkeys(faults))


def closing_entries(
    entries: Iterable[str],
    accounts: HostAccounts,
    service_user: str,
    privileged_groups: Sequence[str] = (),
    accept_system_users: Sequence[str] = (),
    slurm_users: Iterable[int] | None = None,
) -> list[str]:
    """The entries that close the list of users by number. :func:`render` adds those by name.

    Names are not enough: a group of another name may have the number of a privileged one. A system account may join an
    allowed group later.

    Args:
        entries: Names of users, and of groups with a leading ``%``.
        accounts: The host's accounts.
        service_user: The account that impersonates the users. It may be in the list, whatever its uid.
        privileged_groups: Names of groups whose members are as good as root.
        accept_system_users: Names of system accounts that may be impersonated.
        slurm_users: Uids that SLURM's daemons run as.
    """
    groups = (accounts.group(name) for name in privileged_groups)
    gids = sorted({group.gid for group in groups if group is not None})
    uids = {uid for uid in slurm_users or () if uid}
    if any(entry.startswith("%") for entry in entries):
        meant = (accounts.user(name) for name in [service_user, *accept_system_users])
        uids |= accounts.local_system_uids() - {user.uid for user in meant if user is not None}
    return ["!%%#%d" % gid for gid in gids] + ["!#%d" % uid for uid in sorted(uids)]


def empty_groups(entries: Iterable[str], accounts: HostAccounts) -> list[str]:
    """Warnings of groups on the list that are empty. A group whose members can't all be listed is left out.

    Args:
        entries: Names of users, and of groups with a leading ``%``.
        accounts: The host's accounts.
    """
    groups = [accounts.group(entry[1:]) for entry in dict.fromkeys(entries) if entry.startswith("%")]
    return [
        "group %s: nobody is in it on this host, so it lets nobody's work run" % group.name
        for group in groups
        if group is not None and not group.members and accounts.listable
    ]


def not_found(name: str, more: Iterable[str]) -> str:
    """The fault of a command that is nowhere, with the folders that were looked at.

    Args:
        name: The command.
        more: Folders besides those of PATH.
    """
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder] + list(more)
    return "%s is not there: looked in %s: install it, or add its folder to the PATH of Ansible's connection" % (
        name,
        ", ".join(dict.fromkeys(folders)),
    )


def _group_faults(
    name: str,
    accounts: HostAccounts,
    privileged_ids: Mapping[int, str],
    privileged_groups: Sequence[str],
    why_privileged: Callable[[User], str | None],
    accept_unlistable: bool,
) -> list[str]:
    group = accounts.group(name)
    if group is None:
        return ["group %s: unknown on this host: create it, or take it off the list" % name]
    if group.gid == 0 or name in privileged_groups or group.gid in privileged_ids:
        return [_is_privileged(name)]
    faults = []
    for member in group.members:
        user = accounts.user(member)
        reason = why_privileged(user) if user is not None else None
        if reason:
            faults.append("group %s: its member %s can't be impersonated because of %s" % (name, member, reason))
    if not accounts.listable and not accept_unlistable:
        faults.append(
            "group %s: its members can't all be listed here, since accounts come from a directory service: make sure "
            "that none of them is privileged, then set fractal_slurm_sudoers_accept_unlistable_groups" % name
        )
    return faults


def path_faults(path: str, what: str) -> list[str]:
    """Why a file can't be trusted: another account than root can change it, or a folder on the way to it.

    Links are followed step by step. So a folder that holds a link counts, too.

    Args:
        path: An absolute path.
        what: What messages call it.

    Returns:
        One sentence for each file or folder at fault.
    """
    faults = trusted_path.faults_of_path(path, frozenset((0,)), strict=True)
    return ["%s %s: %s" % (what, path, fault) for fault in faults]


def bin_dir_faults(bin_dirs: list[str]) -> list[str]:
    """The faults in the names of the site's folders of SLURM's commands."""
    return [
        "the folder %r of SLURM commands must be absolute, without characters sudoers reads specially" % folder
        for folder in bin_dirs
        if not re.fullmatch(r"(/[A-Za-z0-9_.+-]+)+", folder)
    ]


def find_commands(names: Iterable[str], bin_dirs: list[str]) -> tuple[dict[str, str], list[str]]:
    """Find the commands on this host.

    Args:
        names: Names of commands.
        bin_dirs: Absolute paths of the site's own SLURM folders. The first that has a command counts. If there are any,
            SLURM's commands are looked for in no other place.

    Returns:
        Two values: command to absolute path, and the faults. A command is at fault if it is missing, or if others than
        root can change it.
    """
    found: dict[str, str] = {}
    faults = bin_dir_faults(bin_dirs)
    if faults:
        return found, faults
    for name in names:
        folders: Sequence[str] = SYSTEM_DIRS
        if name in SLURM_COMMANDS:
            folders = bin_dirs or SYSTEM_DIRS + ("/usr/local/bin",)
        path = next((p for p in (os.path.join(f, name) for f in folders) if _is_executable(p)), None)
        if path is None:
            faults.append("%s is not there: looked in %s" % (name, ", ".join(folders)))
            continue
        found[name] = path
        faults.extend(path_faults(path, "the command"))
    return found, list(dict.fromkeys(faults))


def _is_executable(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def render(
    service_user: str,
    entries: Iterable[str],
    commands: Mapping[str, str],
    arguments: Mapping[str, Iterable[str]] | None = None,
    privileged_groups: Iterable[str] = (),
    closing: Iterable[str] = (),
    names: Sequence[str] = (RUNAS_ALIAS, CMND_ALIAS),
) -> str:
    """The text of our sudoers file.

    Args:
        service_user: The account that impersonates the users.
        entries: Names of users, and of groups with a leading ``%``.
        commands: Command to absolute path.
        arguments: Command to the patterns that its arguments must match, in hardened mode; None in the plain mode.
        privileged_groups: Names of groups whose members are never impersonated, whoever joins them later.
        closing: More entries that close the list, as :func:`closing_entries` makes them.
        names: Names of the two aliases, as :func:`alias_names` gives them.
    """
    closing = ["!root", "!#0"] + ["!" + quoted("%" + name) for name in privileged_groups] + list(closing)
    grants = []
    for name, path in commands.items():
        if arguments is None:
            grants.append(path)
        else:
            grants.extend("%s %s" % (path, pattern) for pattern in arguments[name])
    separator = ", \\\n    "
    return "\n".join(
        [
            HEADER + ": what is changed by hand here is lost.",
            "# %s may run these commands as these users, without a password; never as a privileged one." % service_user,
            "Runas_Alias %s = %s" % (names[0], separator.join([quoted(entry) for entry in entries] + closing)),
            "Cmnd_Alias %s = %s" % (names[1], separator.join(grants)),
            "%s ALL=(%s) NOPASSWD: %s" % (quoted(service_user), names[0], names[1]),
            "",
        ]
    )


def service_user_of(text: str) -> str | None:
    """The account whose rights a file of ours holds; None where that can't be told."""
    for statement in sudoers_reader.read(text):
        if statement.kind == "rule":
            first: Member = statement.value.users[0]
            return first.text
    return None


def fault_of_foreign_file(path: str, text: str, service_user: str | None) -> str | None:
    """Why a file must neither be overwritten nor removed: it is not ours, or holds another account's rights.

    Args:
        path: The file.
        text: Its text.
        service_user: The account that impersonates the users; None where that is not known.
    """
    if not text.startswith(HEADER):
        return (
            "%s is not a file of this role (it does not begin with %r), and is left alone: name another file "
            "(fractal_slurm_sudoers_file), or see to it by hand" % (path, HEADER)
        )
    owner = service_user_of(text)
    if owner and service_user and owner != service_user:
        return (
            "%s holds the rights of another service account, %s, and is left alone: give %s a file of its own "
            "(fractal_slurm_sudoers_file); if %s is gone, remove its file by state absent first"
            % (path, owner, service_user, owner)
        )
    return None


def alias_names(files: Mapping[str, str], own_file: str, service_user: str) -> tuple[str, ...]:
    """Names of the two aliases of a service account.

    They are those that Fractal knows. Where another account's file has these, they end in the service account's name.

    Args:
        files: Path to text.
        own_file: Path of the service account's own file.
        service_user: The account that impersonates the users.
    """
    plain = (RUNAS_ALIAS, CMND_ALIAS)
    for path, text in files.items():
        if path == own_file or not text.startswith(HEADER) or service_user_of(text) in (None, service_user):
            continue
        for statement in sudoers_reader.read(text):
            if statement.kind == "alias" and statement.value.name in plain:
                ending = "_" + re.sub("[^A-Z0-9]", "_", service_user.upper())
                return tuple(name + ending for name in plain)
    return plain


def without_our_rights(
    text: str, service_user: str, commands: Collection[str], elsewhere: Iterable[str] = ()
) -> tuple[str, list[Statement], list[tuple[int, str]]]:
    """Take the rights out of a file that the role gives: aliases of our names, and rules for these commands alone.

    Args:
        text: The file's text.
        service_user: The account that impersonates the users.
        commands: Names of the commands.
        elsewhere: Names of aliases that other files use. They stay.

    Returns:
        Three values: the rest of the text, the statements that stay, and the faults, each (line, sentence). A statement
        is at fault if it gives such rights together with others.
    """
    rules = sudoers_rights.Rules({"": text})
    groups: dict[tuple[int, int], list[Statement]] = {}
    for statement in sudoers_reader.read(text):
        groups.setdefault(statement.span, []).append(statement)
    gone: set[tuple[int, int]] = set()
    faults = []
    for span, statements in groups.items():
        ours = [_is_our_right(statement, rules, service_user, commands) for statement in statements]
        if all(ours):
            gone.add(span)
        elif any(mine is not False for mine in ours):
            faults.append(
                (statements[0].line, "has rights of this role together with others: take them apart by hand first")
            )
    # Aliases that only these statements use go, too. So do those that only such aliases use.
    while True:
        used = sudoers_rights.alias_uses(found for span in groups if span not in gone for found in groups[span])
        let_go = sudoers_rights.alias_uses(found for span in gone for found in groups[span]) - used - set(elsewhere)
        unused = [
            span
            for span, statements in groups.items()
            if span not in gone and all(found.kind == "alias" and found.value.name in let_go for found in statements)
        ]
        if not unused:
            break
        gone.update(unused)
    rest, end = "", 0
    for begin, after in sorted(gone):
        rest += text[end:begin]
        end = after
    kept = [found for span, statements in groups.items() if span not in gone for found in statements]
    return rest + text[end:], kept, faults


def _is_our_right(
    statement: Statement, rules: sudoers_rights.Rules, service_user: str, commands: Collection[str]
) -> bool | None:
    """Whether a statement gives what this role gives, and nothing else. None where it gives more besides that."""
    value = statement.value
    plain = (RUNAS_ALIAS, CMND_ALIAS)
    if statement.kind == "alias":
        name: str = value.name
        return name in plain
    if statement.kind != "rule":
        return False
    granted = [command for grant in value.grants for command in rules.resolve([grant.command], "Cmnd")]
    those = [
        (command.kind == "alias" and command.text in plain)
        or (command.kind == "command" and os.path.basename(command.text.partition(" ")[0]) in commands)
        for command in granted
    ]
    uses = any(member.text in plain for grant in value.grants for member in [grant.command, *(grant.run_as or [])])
    names = [member.text for member in value.users]
    if service_user not in names or not (uses or any(those)):
        return False
    return True if names == [service_user] and all(those) else None


def alias_clashes(
    files: Mapping[str, str], own_file: str | None, names: Collection[str] = (RUNAS_ALIAS, CMND_ALIAS)
) -> list[str]:
    """Definitions of our alias names in other files of the set.

    Two definitions are dangerous. Sudo keeps the first that it reads, and that one could grant more.

    Args:
        files: Path to text.
        own_file: Path of our own file, which defines them. None where the set is without it.
        names: The names.
    """
    return [
        "%s:%d: defines the alias %s, which is ours: another definition could widen what is granted; let the role take "
        "it over (fractal_slurm_sudoers_replaces: [%s]), or remove it there"
        % (path, statement.line, statement.value.name, path)
        for path, text in files.items()
        if path != own_file
        for statement in sudoers_reader.read(text)
        if statement.kind == "alias" and statement.value.name in names
    ]


def hidden_clashes(main: str, found: Collection[str], names: Iterable[str] = (RUNAS_ALIAS, CMND_ALIAS)) -> list[str]:
    """Definitions of our alias names that only sudo's own parser finds.

    Args:
        main: Path of the main file.
        found: Names of all aliases that the parser finds in the set.
        names: The names that are ours.
    """
    return [
        "%s, or a file that it includes, defines the alias %s, which is ours: remove it there" % (main, name)
        for name in names
        if name in found
    ]


def read_otherwise(said: str, copy: str, originals: Mapping[str, str]) -> str | None:
    """The fault of a set if visudo read other files of it than we did, or None.

    Args:
        said: The output of ``visudo -c``. It names each file, but sudo-rs names none.
        copy: Path of the main file's copy.
        originals: Path of the copy to path of the original, for all files.
    """
    ending = ": parsed OK"
    read = {line[: -len(ending)] for line in said.splitlines() if line.endswith(ending)}
    strange = sorted(path for path in read if path not in originals)
    unread = sorted(originals[path] for path in originals if path not in read and os.path.isfile(path))
    if strange and copy in read:
        return "sudo reads %s, too, which this module did not find: include it in a plainer way" % ", ".join(strange)
    if unread and len(read) > 1:
        return "sudo does not read %s, which this module found: include it in a plainer way" % ", ".join(unread)
    return None


def set_warnings(files: Mapping[str, str], subject: sudoers_rights.Subject | None = None) -> list[str]:
    """Settings in the set that matter to us, as :func:`sudoers_rights.set_warnings` has them."""
    return sudoers_rights.set_warnings(files, subject)


def parse_sudo_version(text: str) -> tuple[int, ...] | None:
    """The version of sudo from the output of ``sudo -V``.

    Returns:
        A tuple of numbers; None for sudo-rs, and for all else that is not the original sudo.
    """
    match = re.search(r"^Sudo version ([0-9]+)\.([0-9]+)\.([0-9]+)", text, re.MULTILINE)
    return tuple(int(part) for part in match.groups()) if match else None


class SudoersSet:
    """The complete set of sudoers files of a host, with changes of ours.

    Args:
        main: The main file, usually /etc/sudoers.
        hostname: The host's name, for ``%h`` in include paths. What follows its first dot is left out, as sudo does.
        overrides: Our changes, path to text. They count instead of the files on the host. None stands for no file.

    Attributes:
        files: Path to text of all files that sudo would read, in the order in which it first reads them.
        folders: The included folders.
    """

    def __init__(self, main: str, hostname: str, overrides: Mapping[str, str | None] | None = None) -> None:
        self.main = main
        self._hostname = hostname.split(".")[0]
        self._overrides = dict(overrides or {})
        self.files: dict[str, str] = {}
        self.folders: list[str] = []
        self._includes: dict[str, list[tuple[tuple[int, int], str]]] = {}
        self._load(main, 0)

    def _load(self, path: str, depth: int) -> None:
        """Read a file and those that it includes. A missing one is left out: visudo names it."""
        if path in self.files or depth > _MAX_INCLUDES:
            return
        if path in self._overrides:
            text = self._overrides[path]
        else:
            text = read_file(path)
        if text is None:
            return
        self.files[path] = text
        self._includes[path] = []
        for statement in sudoers_reader.read(text):
            if statement.kind not in ("include", "includedir"):
                continue
            target = self._resolve(statement.value.path, path)
            self._includes[path].append((statement.span, target))
            if statement.kind == "include":
                self._load(target, depth + 1)
            elif target not in self.folders:
                self.folders.append(target)
                for name in self._names(target):
                    self._load(os.path.join(target, name), depth + 1)

    def _resolve(self, raw: str, path: str) -> str:
        raw = raw.partition("\0")[0].replace("%h", self._hostname)
        return os.path.normpath(os.path.join(os.path.dirname(path), raw))

    def _names(self, folder: str) -> list[str]:
        """The names of the files that sudo reads in an included folder, in its order."""
        try:
            names = set(os.listdir(folder))
        except OSError:
            names = set()
        for path, text in self._overrides.items():
            if os.path.dirname(path) == folder:
                names = names | {os.path.basename(path)} if text is not None else names - {os.path.basename(path)}
        return sorted(name for name in names if "." not in name and not name.endswith("~"))

    def write_copy(self, folder: str) -> tuple[str, dict[str, str]]:
        """Write the whole set to an empty folder. The includes name the copies.

        Returns:
            Two values: the path of the main file's copy, and path of the copy to path of the original, for all files.
        """
        copies = {}
        for number, original in enumerate(self.folders):
            copies[original] = os.path.join(folder, "folder%d" % number)
            os.mkdir(copies[original], 0o700)
        for number, path in enumerate(self.files):
            parent = copies.get(os.path.dirname(path))
            copies[path] = (
                os.path.join(parent, os.path.basename(path)) if parent else os.path.join(folder, "file%d" % number)
            )
        for path, text in self.files.items():
            for (start, end), target in reversed(self._includes[path]):
                # The rest of the line stays as it is. A missing file stays missing.
                name = copies.get(target) or re.sub(r'([ \t\\"])', r"\\\1", target)
                text = "%s %s %s" % (text[:start], name, text[end:])
            handle = os.open(copies[path], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o440)
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
                stream.write(text)
        return copies[self.main], {copy: path for path, copy in copies.items()}


def read_file(path: str) -> str | None:
    """The text of a file; None where there is no plain file, or it can't be opened."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        return None
    with os.fdopen(handle, "rb") as stream:
        return stream.read().decode("utf-8", "surrogateescape")


def name_originals(message: str, originals: Mapping[str, str]) -> str:
    """Replace the paths of the copies in visudo's words by those of the originals."""
    for copy in sorted(originals, key=len, reverse=True):
        message = message.replace(copy, originals[copy])
    return message
