# SPDX-License-Identifier: BSD-3-Clause
"""Run a few commands as another user, through sudo. No other module does so.

A command is a list of words (argv), never a line for a shell. :mod:`fractal_slurm.sudo_rules` says which commands are
allowed, with which arguments, and as which users.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from .errors import ClusterError, FractalSlurmError, ImpersonationError, one_line
from .process import Child, Expired, Finished, Overflow, Stopped, run_command, split_lines
from .refusals import sudo_advice, sudo_words
from .sudo_rules import (
    CMND_ALIAS,
    COMMANDS,
    RUNAS_ALIAS,
    SLURM_COMMANDS,
    check_form,
    check_user_name,
    question,
    rules_beyond,
)

_NO_SUDO = "{} is not there: install sudo, or set `sudo` in our settings"
# What cat and ls print for a file that is missing, or that something else has replaced.
_ABSENT = ("No such file or directory", "Not a directory", "Is a directory")
# How cat and ls name a file that they can't read: its path, maybe in quotes, then the error of the system.
_ABOUT_PATH = re.compile(r"(?:cat|ls): (?:[a-z ]+)?['\u2018]?((?:/[A-Za-z0-9_.-]+)+)['\u2019]?: (.+)$")
# Errors that a user can cause with their own files. Other errors come from the file system: a later try may succeed.
_CLOSED = (
    "Permission denied",
    "Operation not permitted",
    "Too many levels of symbolic links",
    "No such device",  # "or address", too: a socket, or a terminal
    "Invalid argument",
)
# Settings and tags of sudoers(5), in the form in which `sudo -l` lists them.
_HOLDS_BACK = re.compile(r"(?<![^\s,])(noexec|intercept|log_subcmds|NOEXEC|INTERCEPT)(?=[\s,:]|$)")
# The kernel limits a command line (128 KiB for a word, some MB for all), and sudo limits its log lines.
MAX_PATHS_PER_CALL = 2_000
# The names of a run's files and folders need less. What a user adds beyond this is not read.
MAX_LISTING_BYTES = 1 << 25
MAX_NAMES = 1_000_000
# The output of sbatch, scancel and mkdir is shorter, even if a site's wrapper adds its own.
MAX_ANSWER_BYTES = 1 << 20


class TimedOut(ClusterError):
    """A command as another user did not end in time.

    Attributes:
        stderr: What it had written to standard error by then.
    """

    def __init__(self, command: str, user: str, timeout: float, stderr: str) -> None:
        super().__init__(f"{command} as {user} did not end within {timeout:g} seconds")
        self.stderr = stderr


class TooMuch(ClusterError):
    """A command that ran as another user printed more than our limit, and was ended."""


class Stalled(ClusterError):
    """A user's files gave no data for too long, so nothing is known about them."""


class Interrupted(FractalSlurmError):
    """The driver stopped reading, because it has something more urgent to do."""


@dataclass
class Impersonator:
    """Runs the allowed commands as other users, and counts the calls.

    Args:
        sudo: Absolute path of sudo.
        slurm_bin_dir: Folder of sbatch and scancel.
        calls: Number of sudo calls so far.
        stop: Called again and again while files are read. Reading ends when it returns true.
        lingering: Each sbatch that did not end in time, and could not be ended.

    Sudo is used for every user, also for the account that this process runs as: one rule holds for all.
    """

    sudo: str = "/usr/bin/sudo"
    slurm_bin_dir: str = "/usr/bin"
    calls: int = field(default=0)
    stop: Callable[[], bool] = field(default=lambda: False)
    lingering: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def argv(self, user: str, command: str, arguments: Sequence[str]) -> list[str]:
        """Return the whole command line of one call.

        Raises:
            FractalSlurmError: ``command`` is not one of :data:`COMMANDS`, or ``user`` is not a valid user name.
        """
        if command not in COMMANDS:
            raise FractalSlurmError(f"{command!r} can't be run as another user: allowed are {', '.join(COMMANDS)}")
        folder = self.slurm_bin_dir if command in SLURM_COMMANDS else core_folder(command)
        return [
            self.sudo,
            "--non-interactive",
            "--set-home",
            "-u",
            check_user_name(user),
            "--",
            f"{folder}/{command}",
            *arguments,
        ]

    def run(
        self,
        user: str,
        command: str,
        arguments: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60,
    ) -> Finished:
        """Run a command as ``user`` and wait for it.

        Args:
            user: The user that the command runs as.
            command: One of :data:`COMMANDS`.
            arguments: Its arguments.
            stdin: What it reads on standard input.
            timeout: Seconds. A command that takes longer is ended.

        Returns:
            Exit code and output. A failed command is no error here: the caller decides what it means. The exit code
            does not tell whether sudo refused or the command failed: it is 1 for both.

        Raises:
            FractalSlurmError: The command or its arguments are not allowed (:func:`check_form`).
            ImpersonationError: sudo is not installed.
            TimedOut: The command did not end in time.
            TooMuch: The command printed more than :data:`MAX_ANSWER_BYTES`.
            ClusterError: The command could not be started.
        """
        check_form(command, arguments)
        self.calls += 1
        try:
            return run_command(
                self.argv(user, command, arguments),
                env=clean_environment(),
                stdin=stdin,
                timeout=timeout,
                max_bytes=MAX_ANSWER_BYTES,
                spare=command == "sbatch",
            )
        except FileNotFoundError:
            raise ImpersonationError(_NO_SUDO.format(self.sudo)) from None
        except Expired as expired:
            if expired.process is not None and command == "sbatch":
                self.lingering.append(expired.process)
            raise TimedOut(command, user, timeout, expired.stderr.decode(errors="replace")) from None
        except Overflow as overflow:
            raise TooMuch(f"{command} as {user} was ended: {overflow}") from None
        except OSError as error:
            raise ClusterError(f"{command} as {user} can't be started: {error.strerror}") from None

    def is_lingering(self) -> bool:
        """Return whether an sbatch still runs that did not end in time, nor on SIGTERM. It may still submit its job."""
        self.lingering = [process for process in self.lingering if process.poll() is None]
        return bool(self.lingering)

    def read_files(
        self, user: str, paths: Sequence[str], *, timeout: float, max_bytes: int, closed: dict[str, str] | None = None
    ) -> Iterator[bytes]:
        """Read files as ``user``, one after the other. A file that does not exist gives nothing.

        Args:
            user: The owner of the files.
            paths: Absolute paths.
            timeout: Seconds to wait for the next byte, and for each megabyte. After that a file counts as unreadable.
            max_bytes: Most bytes to read, of all files together.
            closed: Receives each file that the user made unreadable (by its mode, say), with the message of cat.
                Without it such a file is an error.

        Yields:
            The content, in chunks.

        Raises:
            Stalled: No data came for too long.
            ClusterError: sudo refused, or a file that exists could not be read. Do not use what was read before.
        """
        for first in range(0, len(paths), MAX_PATHS_PER_CALL):
            some = paths[first : first + MAX_PATHS_PER_CALL]
            for chunk in self._read(user, "cat", some, timeout, max_bytes, closed):
                max_bytes -= len(chunk)
                yield chunk
            if max_bytes <= 0:
                return

    def _read(
        self,
        user: str,
        command: str,
        paths: Sequence[str],
        timeout: float,
        max_bytes: int,
        closed: dict[str, str] | None = None,
    ) -> Iterator[bytes]:
        """Yield the output of cat or ls in chunks. It ends in time, even if a path is a pipe that nobody writes to.

        Raises:
            ClusterError: As :meth:`read_files`.
        """
        check_form(command, ["--", *paths])
        self.calls += 1
        patience = timeout + len(paths)  # seconds to wait in all; each megabyte that arrives adds to them
        try:
            child = Child(self.argv(user, command, ["--", *paths]), env=clean_environment())
        except FileNotFoundError:
            raise ImpersonationError(_NO_SUDO.format(self.sudo)) from None
        except OSError as error:
            raise ClusterError(f"{command} as {user} can't be started: {error.strerror}") from None
        ended = False
        try:
            while max_bytes > 0:
                began = time.monotonic()
                chunk = child.piece(min(timeout, patience), self.stop)
                patience -= time.monotonic() - began
                if chunk is None or patience <= 0:
                    words = f"nothing came for {timeout:g} seconds, or too little"
                    raise Stalled(f"{user}'s files can't be read: {words}")
                if not chunk:
                    ended = True
                    break
                patience += timeout * len(chunk) / (1 << 20)
                max_bytes -= len(chunk)
                yield chunk
        except Overflow as overflow:
            raise ClusterError(f"{user}'s files can't be read: {command} was ended: {overflow}") from None
        except Stopped:
            raise Interrupted(f"{user}'s files were not read to the end: the driver was told to stop") from None
        finally:
            if ended:
                child.close()
            else:
                child.end()
        if ended and child.process.returncode != 0:
            self._check_only_absent(user, command, paths, bytes(child.stderr), timeout, closed)

    def _check_only_absent(
        self,
        user: str,
        command: str,
        paths: Sequence[str],
        stderr: bytes,
        timeout: float,
        closed: dict[str, str] | None,
    ) -> None:
        """Accept a failure of cat or ls if its only cause is files that are missing or closed by their user.

        Raises:
            ClusterError: There is another cause.
            ImpersonationError: sudo refused.
            Interrupted: The driver was told to stop.
        """
        wanted, absent = set(paths), set[str]()
        for line in self._words_of(user, command, ["--", *paths], stderr):
            match = _ABOUT_PATH.search(line)
            path, words = (match[1], match[2]) if match else ("", line)
            if words.startswith(_ABSENT) or line.endswith(_ABSENT):
                continue
            if closed is not None and path and words.startswith(_CLOSED):
                closed.setdefault(path, words)
                continue
            # Another implementation of cat, or another language, has other words for a missing file. So look whether
            # the file is there. Look once for each path: the user can cause any number of lines.
            named = wanted.intersection(re.split(r"[\s:'\"`\u2018\u2019]+", line))
            if not named or not all(path in absent or self._is_absent(user, path, timeout) for path in named):
                raise ClusterError(f"{user}'s files can't be read: {one_line(line)}")
            absent |= named
            if self.stop():
                raise Interrupted(f"{user}'s files were not read to the end: the driver was told to stop")

    def _is_absent(self, user: str, path: str, timeout: float, levels: int = 3) -> bool:
        """Return whether a path is surely missing: its parent folder can be listed, and does not have it."""
        above, _slash, name = path.rpartition("/")
        if not above or not levels:
            return False
        try:
            result = self.run(user, "ls", ["--", above], timeout=timeout)
        except TooMuch:
            return False
        if result.returncode == 0:
            return name not in result.stdout.decode(errors="replace").split("\n")
        return self._is_absent(user, above, timeout, levels - 1)

    def allowed(self, user: str, command: str, arguments: Sequence[str]) -> bool:
        """Ask sudo whether it would run a command as ``user``. The command is not run. Raises as why_not."""
        return self.why_not(user, command, arguments) is None

    def why_not(self, user: str, command: str, arguments: Sequence[str]) -> list[str] | None:
        """Ask sudo whether it would run a command as ``user``. The command is not run.

        Returns:
            None if sudo would run it. Else the lines of sudo's message; the list may be empty.

        Raises:
            ImpersonationError: sudo is not installed, or does not answer.
        """
        argv = self.argv(user, command, arguments)
        result = self._list(argv[argv.index("-u") :])
        return None if result.returncode == 0 else result.stderr.decode(errors="replace").splitlines()

    def holds_programs_back(self) -> list[str]:
        """Return the settings of sudo that stop a command from starting other programs, for this account.

        sudo does so with the variable LD_PRELOAD, and sbatch passes that on to its jobs.

        Returns:
            The settings that `sudo -l` names. The list is empty if sudo lists nothing.

        Raises:
            ImpersonationError: sudo is not installed, or does not answer.
        """
        result = self._list([])
        listing = result.stdout.decode(errors="replace") if result.returncode == 0 else ""
        return sorted({match[1] for match in _HOLDS_BACK.finditer(listing)})

    def other_rights(self) -> list[str]:
        """Return the rules that let this account run more than our commands.

        Returns:
            The rules as `sudo -l` lists them. The list is empty if sudo lists nothing.

        Raises:
            ImpersonationError: sudo is not installed, or does not answer.
        """
        result = self._list([])
        listing = result.stdout.decode(errors="replace") if result.returncode == 0 else ""
        return rules_beyond(listing)

    def _list(self, what: Sequence[str]) -> Finished:
        """Return what `sudo -l` prints."""
        probe = [self.sudo, "--non-interactive", "-l", *what]
        self.calls += 1
        try:
            return run_command(probe, env=clean_environment(), timeout=30, max_bytes=MAX_ANSWER_BYTES)
        except FileNotFoundError:
            raise ImpersonationError(_NO_SUDO.format(self.sudo)) from None
        except Expired:
            raise ImpersonationError("sudo did not answer within 30 seconds") from None
        except Overflow as overflow:
            raise ImpersonationError(f"sudo -l was ended: {overflow}") from None

    def refusal(self, user: str, command: str, stderr: Iterable[str] = (), path: str = "") -> str:
        """Return the message for a user that sudo does not allow, or that this host does not know.

        Args:
            user: The user.
            command: The command that should have run as the user: one path or several.
            stderr: The lines that sudo printed.
            path: The first path that the command should have got, if it needs paths.

        Raises:
            ImpersonationError: sudo does not answer.
        """
        lines = list(stderr)
        words = sudo_words(lines)
        said = f" (sudo: {words})" if words else ""
        if not is_known_user(user):
            return (
                f"{current_user()} can't run {command} as {user}, since this host knows no such user: correct the "
                f"name, or make `getent passwd {user}` find it{said}"
            )
        advice = sudo_advice("\n".join(lines), service=current_user(), user=user, command=command)
        if not advice and path and self.allowed(user, "sbatch", question("sbatch")):
            # So it is not the user: rules in hardened mode know our work folders.
            return (
                f"sudo does not let {current_user()} run {command} as {user} for {path}, but it lets sbatch run. In "
                "hardened mode only folders below fractal_slurm_sudoers_work_dirs are allowed: give one, or add "
                f"one there. In another mode, add {command} to {CMND_ALIAS}{said}"
            )
        advice = advice or (
            f"add {user} (or a group of theirs) to {RUNAS_ALIAS} in the sudoers file of this host, and {command} to "
            f"{CMND_ALIAS} if it is missing there"
        )
        return f"sudo does not let {current_user()} run {command} as {user}: {advice}{said}"

    def make_folder(self, user: str, path: str, *, timeout: float = 60) -> str:
        """Make a private folder (mode 0700) as ``user``. Make the missing folders above it, too.

        mkdir(2) makes a new folder, or fails. So a folder that somebody else made under this name is never used.

        Returns:
            "" if the folder was made, else the message of mkdir: that the name exists already, for instance.

        Raises:
            ClusterError: A folder above it can't be made. The error has the message of mkdir.
            ImpersonationError: sudo refused.
        """
        exclusive = ["-m", "700", "--", path]
        result = self.run(user, "mkdir", exclusive, timeout=timeout)
        if result.returncode == 0:
            return ""
        self._words_of(user, "mkdir", exclusive, result.stderr)
        above = ["-p", "-m", "700", "--", path.rpartition("/")[0] or "/"]
        result = self.run(user, "mkdir", above, timeout=timeout)
        if result.returncode != 0:
            words = self._words_of(user, "mkdir", above, result.stderr)
            parent = path.rpartition("/")[0]
            raise ClusterError(
                f"{user} can't make the folder {path}: {one_line('; '.join(words))}. Let root make {parent} and give "
                f"it to {user}, on a file system that the nodes share, or name another work folder"
            )
        result = self.run(user, "mkdir", exclusive, timeout=timeout)
        if result.returncode == 0:
            return ""
        return one_line("; ".join(self._words_of(user, "mkdir", exclusive, result.stderr)))

    def take_names(self, user: str, paths: Sequence[str], *, timeout: float = 60) -> list[bool]:
        """Claim names by making a folder for each, as ``user``. A claim is final.

        If two processes claim one name, mkdir(2) lets exactly one succeed, on network file systems too.

        Returns:
            For each path, whether we hold the name: we claimed it now, or earlier. If not, a job has made a symlink
            of that name.

        Raises:
            ClusterError: A name could not be claimed, and nobody else holds it. The error has the message of mkdir.
        """
        ours: list[bool] = []
        for first in range(0, len(paths), MAX_PATHS_PER_CALL):
            some = list(paths[first : first + MAX_PATHS_PER_CALL])
            result = self.run(user, "mkdir", ["--", *some], timeout=timeout)
            if result.returncode == 0:
                ours += [True] * len(some)
                continue
            # Each implementation of mkdir has its own messages. So look what exists instead.
            found = self.look(user, some, timeout=timeout)
            if len(found) < len(some):
                words = self._words_of(user, "mkdir", ["--", *some], result.stderr)
                missing = next(path for path in some if path not in found)
                raise ClusterError(f"{user} can't make {missing}: {one_line('; '.join(words))}")
            ours += [found[path] for path in some]
        return ours

    def look(self, user: str, paths: Sequence[str], *, timeout: float = 60) -> dict[str, bool]:
        """Look as ``user`` which paths exist. There may be :data:`MAX_PATHS_PER_CALL` paths at most.

        Returns:
            Each path that exists and that the user can see, with whether it is a folder.
        """
        # With two arguments or more, ls(1) first prints the names that are no folders, then a heading for each folder.
        try:
            result = self.run(user, "ls", ["--", *paths, *paths[-1:]], timeout=timeout)
        except TooMuch:
            # Only a folder with very many names gives so much output.
            if len(paths) == 1:
                return {paths[0]: True}
            halves = paths[: len(paths) // 2], paths[len(paths) // 2 :]
            return {path: kind for half in halves for path, kind in self.look(user, half, timeout=timeout).items()}
        lines = result.stdout.decode(errors="replace").split("\n")
        found = dict.fromkeys(set(paths).intersection(lines), False)
        # A file name can't have a slash, so a file in a folder can't look like a heading.
        found.update(dict.fromkeys((path for path in paths if f"{path}:" in lines), True))
        return found

    def _words_of(self, user: str, command: str, arguments: Sequence[str], stderr: bytes) -> list[str]:
        """Return the lines that a failed command wrote to standard error.

        Raises:
            ImpersonationError: sudo refused, and the command did not run.
        """
        lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
        own = [line for line in lines if f"{command}:" in line]
        if own or (lines and not any(line.startswith("sudo:") for line in lines)):
            return own or lines
        path = next((word for word in arguments if word.startswith("/")), "")
        raise ImpersonationError(self.refusal(user, f"{core_folder(command)}/{command}", lines, path))

    def list_folders(
        self,
        user: str,
        paths: Sequence[str],
        *,
        timeout: float = 60,
        wanted: Callable[[str], bool] = lambda _name: True,
        most: int = MAX_NAMES,
    ) -> dict[str, list[str]]:
        """List folders as ``user``.

        Args:
            user: The owner of the folders.
            paths: Absolute paths of the folders.
            timeout: Seconds to wait for output. After that the folders count as unreadable.
            wanted: Returns whether a name is kept. The user may put any number of other files there.
            most: Most names to keep of one folder.

        Returns:
            The names in each folder. A folder that does not exist has no names, or is left out.

        Raises:
            ClusterError: ls could not be run.
        """
        found: dict[str, list[str]] = {}
        for first in range(0, len(paths), MAX_PATHS_PER_CALL):
            some = dict.fromkeys(paths[first : first + MAX_PATHS_PER_CALL])
            lines = split_lines(self._read(user, "ls", list(some), timeout, MAX_LISTING_BYTES), longest=1 << 16)
            # With a single folder ls(1) prints no heading.
            current = found.setdefault(next(iter(some)), []) if len(some) == 1 else []
            for line in lines:
                name = line.decode(errors="replace")
                if len(some) > 1 and name.endswith(":") and name[:-1] in some:
                    current = found.setdefault(name[:-1], [])
                elif len(current) < most and wanted(name):
                    current.append(name)
        return found


# Where commands are looked for, whatever the caller's PATH.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def clean_environment() -> dict[str, str]:
    """Return the environment of our commands.

    PATH is fixed. The locale is English, because we read messages; sudo passes the locale on to the jobs. From the
    caller's environment we keep only what SLURM's commands need to find the cluster.
    """
    keep = {name: value for name, value in os.environ.items() if name in ("SLURM_CONF", "HOME", "USER", "LOGNAME")}
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "LANGUAGE": "en",
        **keep,
    }


def core_folder(command: str) -> str:
    """Return the folder of a core command: /usr/bin, or /bin on systems where these are two folders."""
    return "/usr/bin" if os.path.exists(f"/usr/bin/{command}") else "/bin"


def is_known_user(user: str) -> bool:
    """Whether this host knows a user."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def current_user() -> str:
    """Return the name of the account that runs this process."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"
