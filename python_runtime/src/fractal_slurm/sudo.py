# SPDX-License-Identifier: BSD-3-Clause
"""The one place that crosses to another user: a few commands, through sudo, as argv lists.

Which commands, in which forms, as whom: see :mod:`fractal_slurm.sudo_rules`.
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
    rules_beyond,
)

_NO_SUDO = "{} is not there: install sudo, or set `sudo` in our settings"
# What cat and ls print for a file that is missing, or that was replaced by something else meanwhile.
_ABSENT = ("No such file or directory", "Not a directory", "Is a directory")
# How cat names a file with trouble: its path, maybe in quotes, then the words of the system.
_ABOUT_PATH = re.compile(r"(?:cat|ls): (?:[a-z ]+)?['\u2018]?((?:/[A-Za-z0-9_.-]+)+)['\u2019]?: (.+)$")
# Errors that a user can cause with a file of the own. Other errors are trouble of a file system, which passes.
_CLOSED = (
    "Permission denied",
    "Operation not permitted",
    "Too many levels of symbolic links",
    "No such device",  # "or address", too: a socket, or a terminal
    "Invalid argument",
)
# Defaults and tags of sudoers(5), as `sudo -l` lists them.
_HOLDS_BACK = re.compile(r"(?<![^\s,])(noexec|intercept|log_subcmds|NOEXEC|INTERCEPT)(?=[\s,:]|$)")
# Limits of a command line: the kernel's (128 KiB a word, some MB in all), and the length of sudo's log lines.
MAX_PATHS_PER_CALL = 2_000
# The names of a run's files and folders take less. Other names that a user makes there are not read.
MAX_LISTING_BYTES = 1 << 25
MAX_NAMES = 1_000_000
# The output of sbatch, scancel and mkdir takes less, the words of a site's wrapper included.
MAX_ANSWER_BYTES = 1 << 20


class TimedOut(ClusterError):
    """A command as another user did not end in time.

    Attributes:
        stderr: What it had said so far.
    """

    def __init__(self, command: str, user: str, timeout: float, stderr: str) -> None:
        super().__init__(f"{command} as {user} did not end within {timeout:g} seconds")
        self.stderr = stderr


class TooMuch(ClusterError):
    """A command that ran as another user printed more than such a command can need."""


class Stalled(ClusterError):
    """Nothing came from a user's files for too long, so nothing is known about them."""


class Interrupted(FractalSlurmError):
    """The driver stopped reading, because it has something more urgent to do."""


@dataclass
class Impersonator:
    """Runs the allowed commands as other users, and counts the calls.

    Args:
        sudo: Absolute path of sudo.
        slurm_bin_dir: Folder of sbatch and scancel.
        service_user: The account that this process runs as. Where it is itself the user wanted, sudo is used
            all the same, so that one rule holds for everybody.
        calls: Number of sudo calls so far.
        stop: Asked while files are read: whether to give that up.
        lingering: Each sbatch that did not end in time, and could not be ended.
    """

    sudo: str = "/usr/bin/sudo"
    slurm_bin_dir: str = "/usr/bin"
    calls: int = field(default=0)
    stop: Callable[[], bool] = field(default=lambda: False)
    lingering: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def argv(self, user: str, command: str, arguments: Sequence[str]) -> list[str]:
        """Return the whole command line of one call.

        Raises:
            FractalSlurmError: ``command`` is not among :data:`COMMANDS`, or ``user`` is no name of a user.
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
            user: Whom to run it as.
            command: One of :data:`COMMANDS`.
            arguments: Its arguments.
            stdin: What it reads on standard input.
            timeout: Seconds after which it is ended.

        Returns:
            Exit code and output, whatever they are: a caller judges them. sudo's own refusal can't be told
            from a failing command by its exit code (1 both).

        Raises:
            FractalSlurmError: It is none of our forms.
            ImpersonationError: There is no sudo.
            TimedOut: The command did not end in time.
            TooMuch: It printed more than any of them has to say.
            ClusterError: It could not be started.
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
        """Say whether an sbatch still runs that ended neither in time nor on SIGTERM: it may still submit its job."""
        self.lingering = [process for process in self.lingering if process.poll() is None]
        return bool(self.lingering)

    def read_files(
        self, user: str, paths: Sequence[str], *, timeout: float, max_bytes: int, closed: dict[str, str] | None = None
    ) -> Iterator[bytes]:
        """The content of files of ``user``'s, one after the other, in chunks. Files that are not there are passed over.

        Args:
            user: Whose files they are.
            paths: Absolute paths.
            timeout: Seconds without a byte, or for each megabyte, after which a file counts as unreadable.
            max_bytes: Where reading stops; what is beyond is left unread.
            closed: Takes the files that their user made something of that can't be read, each with cat's words for
                it; without it they are errors.

        Raises:
            Stalled: Nothing came for too long.
            ClusterError: sudo refused, or a file that is there could not be read: nothing follows from what came.
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
        """Yield the output of cat or ls in chunks. It ends even if the user made a path a pipe that nobody fills.

        Raises:
            ClusterError: As :meth:`read_files`.
        """
        check_form(command, ["--", *paths])
        self.calls += 1
        patience = timeout + len(paths)  # seconds of waiting in all; each megabyte that comes adds to them
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
        """Accept a failure of cat or ls if it only means that files are missing or can't be read.

        Raises:
            ClusterError: It means something else.
            ImpersonationError: It is sudo's.
            Interrupted: The driver has something else to do.
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
            # Another implementation, or another language, may say so in other words: a second look tells. One for each
            # path: the user may write any number of lines.
            named = wanted.intersection(re.split(r"[\s:'\"`\u2018\u2019]+", line))
            if not named or not all(path in absent or self._is_absent(user, path, timeout) for path in named):
                raise ClusterError(f"{user}'s files can't be read: {one_line(line)}")
            absent |= named
            if self.stop():
                raise Interrupted(f"{user}'s files were not read to the end: the driver was told to stop")

    def _is_absent(self, user: str, path: str, timeout: float, levels: int = 3) -> bool:
        """Say whether a path is surely missing: the folder above it can be listed, and does not have it."""
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
        """Ask sudo whether it would run a command as ``user``; nothing is run as ``user``. Raises as why_not."""
        return self.why_not(user, command, arguments) is None

    def why_not(self, user: str, command: str, arguments: Sequence[str]) -> list[str] | None:
        """Ask sudo whether it would run a command as ``user``; nothing is run as ``user``.

        Returns:
            None if it would; else the lines that it has to say to that, which may be none.

        Raises:
            ImpersonationError: There is no sudo, or it does not answer.
        """
        argv = self.argv(user, command, arguments)
        result = self._list(argv[argv.index("-u") :])
        return None if result.returncode == 0 else result.stderr.decode(errors="replace").splitlines()

    def holds_programs_back(self) -> list[str]:
        """Which of sudo's settings for this account keep a command from starting programs, by what sudo lists.

        They do so by a variable, LD_PRELOAD, that sbatch hands on to its jobs. Where sudo lists nothing, none is known.

        Raises:
            ImpersonationError: There is no sudo, or it does not answer.
        """
        result = self._list([])
        listing = result.stdout.decode(errors="replace") if result.returncode == 0 else ""
        return sorted({match[1] for match in _HOLDS_BACK.finditer(listing)})

    def other_rights(self) -> list[str]:
        """Rules that let this account run more than our commands, as sudo lists them; none where it lists nothing.

        Raises:
            ImpersonationError: There is no sudo, or it does not answer.
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

    def refusal(self, user: str, command: str, stderr: Iterable[str] = ()) -> str:
        """The sentence for a user that sudo does not allow, or that this host does not know.

        Args:
            user: The user.
            command: What was to be run as them: one path or several.
            stderr: The lines that sudo had to say.
        """
        lines = list(stderr)
        words = sudo_words(lines)
        said = f" (sudo: {words})" if words else ""
        if not _is_known(user):
            return (
                f"{current_user()} can't run {command} as {user}, since this host knows no such user: correct the "
                f"name, or make `getent passwd {user}` find it{said}"
            )
        advice = sudo_advice("\n".join(lines), service=current_user(), user=user, command=command) or (
            f"add {user} (or a group of theirs) to {RUNAS_ALIAS} in the sudoers file of this host, and {command} to "
            f"{CMND_ALIAS} if it is missing there"
        )
        return f"sudo does not let {current_user()} run {command} as {user}: {advice}{said}"

    def make_folder(self, user: str, path: str, *, timeout: float = 60) -> str:
        """Make a folder of ``user``'s, private to them (mode 0700), with what is missing above it.

        mkdir(2) makes the folder itself, or fails: what somebody else made of that name is never taken for it.

        Returns:
            "" if it was made, else why not, in mkdir's words: it is there, say.

        Raises:
            ClusterError: What is above it can't be made; with mkdir's words.
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
            raise ClusterError(f"{user} can't make the folder {path}: {one_line('; '.join(words))}")
        result = self.run(user, "mkdir", exclusive, timeout=timeout)
        if result.returncode == 0:
            return ""
        return one_line("; ".join(self._words_of(user, "mkdir", exclusive, result.stderr)))

    def take_names(self, user: str, paths: Sequence[str], *, timeout: float = 60) -> list[bool]:
        """Take names, each at once and for good, by making a folder of that name as ``user``.

        Of two who take a name, mkdir(2) lets exactly one succeed, on network file systems too.

        Returns:
            For each path, whether it is ours: made now, or earlier. Else it is a job's symlink.

        Raises:
            ClusterError: A name could neither be taken nor is it taken; with mkdir's words.
        """
        ours: list[bool] = []
        for first in range(0, len(paths), MAX_PATHS_PER_CALL):
            some = list(paths[first : first + MAX_PATHS_PER_CALL])
            result = self.run(user, "mkdir", ["--", *some], timeout=timeout)
            if result.returncode == 0:
                ours += [True] * len(some)
                continue
            # What is there tells more than mkdir's words, of which each implementation has its own.
            found = self.look(user, some, timeout=timeout)
            if len(found) < len(some):
                words = self._words_of(user, "mkdir", ["--", *some], result.stderr)
                missing = next(path for path in some if path not in found)
                raise ClusterError(f"{user} can't make {missing}: {one_line('; '.join(words))}")
            ours += [found[path] for path in some]
        return ours

    def look(self, user: str, paths: Sequence[str], *, timeout: float = 60) -> dict[str, bool]:
        """What is there of some paths (of :data:`MAX_PATHS_PER_CALL` at the most), as ``user`` sees it.

        Returns:
            For each path that is there and can be looked at, whether it is a folder.
        """
        # With two words or more ls(1) prints a heading for each folder. Before these stand the names of all else.
        try:
            result = self.run(user, "ls", ["--", *paths, *paths[-1:]], timeout=timeout)
        except TooMuch:
            # What prints so much is a folder, and its user filled it.
            if len(paths) == 1:
                return {paths[0]: True}
            halves = paths[: len(paths) // 2], paths[len(paths) // 2 :]
            return {path: kind for half in halves for path, kind in self.look(user, half, timeout=timeout).items()}
        lines = result.stdout.decode(errors="replace").split("\n")
        found = dict.fromkeys(set(paths).intersection(lines), False)
        # No name in a folder has a slash, so nobody can forge a heading.
        found.update(dict.fromkeys((path for path in paths if f"{path}:" in lines), True))
        return found

    def _words_of(self, user: str, command: str, arguments: Sequence[str], stderr: bytes) -> list[str]:
        """Return what a command that failed wrote to standard error, as sentences.

        Raises:
            ImpersonationError: It was sudo that refused.
        """
        lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
        own = [line for line in lines if f"{command}:" in line]
        if own or (lines and not any(line.startswith("sudo:") for line in lines)):
            return own or lines
        raise ImpersonationError(self.refusal(user, f"{core_folder(command)}/{command}", lines))

    def list_folders(
        self,
        user: str,
        paths: Sequence[str],
        *,
        timeout: float = 60,
        wanted: Callable[[str], bool] = lambda _name: True,
        most: int = MAX_NAMES,
    ) -> dict[str, list[str]]:
        """The names in each of the folders; a folder that is not there has none.

        Args:
            user: Whose folders they are.
            paths: Absolute paths.
            timeout: Seconds without a name after which the folders count as unreadable.
            wanted: Which names are kept: the folders are the user's, who may make any number of others.
            most: How many names are kept of one folder.

        Raises:
            ClusterError: ls could not be run.
        """
        found: dict[str, list[str]] = {}
        for first in range(0, len(paths), MAX_PATHS_PER_CALL):
            some = dict.fromkeys(paths[first : first + MAX_PATHS_PER_CALL])
            lines = split_lines(self._read(user, "ls", list(some), timeout, MAX_LISTING_BYTES), longest=1 << 16)
            # ls(1): 1 and 2 stand for folders that are missing or closed; with one folder it prints no heading.
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

    It has a fixed PATH, and an English locale, because we read messages; sudo passes the locale on to the jobs. Of the
    caller's environment it has only what SLURM's clients need to find the cluster.
    """
    keep = {name: value for name, value in os.environ.items() if name in ("SLURM_CONF", "HOME", "USER", "LOGNAME")}
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "LANGUAGE": "en",
        **keep,
    }


def core_folder(command: str) -> str:
    """Return the folder of a core command: /usr/bin, or /bin on systems that keep the two apart."""
    return "/usr/bin" if os.path.exists(f"/usr/bin/{command}") else "/bin"


def _is_known(user: str) -> bool:
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
