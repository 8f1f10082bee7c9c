# SPDX-License-Identifier: BSD-3-Clause
"""The folder of a job in the run's folder, and the claim beside it.

Colleagues may write in a folder above the run's, and rename what is in it. So the worker opens the run's folder once,
proves by that descriptor that it is the user's own and private, and reaches all below it through descriptors. Its files
are private by explicit modes: the umask is the tasks'.
"""

from __future__ import annotations

import os
import stat

from .folders import EVERYBODY, NOBODY, UNKNOWN, Unsafe, look_above, open_own_folder, private, whole_lines
from .protocol import CLAIM, CLAIM_PREFIX, OUTPUT, OWN_WORDS, STOP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

# Of what the script says, this much is kept.
PRINTED_BYTES = 1000


class Fenced(Exception):
    """The work of this job was given to another job."""


class JobFolder:
    """Where the worker of a job keeps results and logs.

    Args:
        path: The folder, as the script names it.
        job: The job's id.

    Attributes:
        run_path: The run's folder, as the script names it.
        run: The run's folder by its descriptor, once it is open.
        path: The job's folder, below that.
        above: Who else may put another folder in the place of the run's.
        shown: What a path by descriptor is called in words.
    """

    def __init__(self, path: str, job: str) -> None:
        self.run_path, _slash, self.name = path.rpartition("/")
        self.job = job
        self.run = self.path = ""
        self.above = UNKNOWN
        self.shown: dict[str, str] = {}
        self._fds: dict[str, int] = {}

    def open(self) -> None:
        """Open the run's folder.

        Raises:
            Unsafe: It is not the user's own and private.
            OSError: It can't be opened.
        """
        self.run = self._enter(self.run_path, self.run_path)
        self.path = f"{self.run}/{self.name}"
        self.above, words = look_above(self.run_path, os.geteuid())
        if self.above == EVERYBODY:
            raise Unsafe(words)

    def _enter(self, path: str, name: str) -> str:
        """Open a folder. Returns the path that leads to it by descriptor, whatever is renamed meanwhile.

        The steps' processes go by it, too, and tasks where there is no other folder for their files.

        Args:
            path: The folder.
            name: What it is called in words.

        Raises:
            Unsafe: It is a link, another's, or open to others.
            OSError: It can't be opened.
        """
        by_descriptor = f"/proc/{os.getpid()}/fd/{open_own_folder(path, name)}"
        self.shown[by_descriptor] = name
        return by_descriptor

    def in_words(self, text: str) -> str:
        """A text in which folders have the names that people know."""
        for path, name in self.shown.items():
            text = text.replace(path, name)
        return text

    def claim(self) -> None:
        """Take this submission's token for this job.

        Raises:
            Fenced: It was given to another job, or taken back.
            OSError: The claim can't be made.
        """
        path = f"{self.run}/{self.name}{CLAIM}"
        try:
            # It leads nowhere, whatever tasks make in their working directory: the server may not take it for a folder.
            os.symlink(CLAIM_PREFIX + self.job, path)
        except FileExistsError:
            try:
                owner = os.readlink(path)
            except OSError:
                raise Fenced("the server gave this work to another job") from None
            if owner.startswith(CLAIM_PREFIX):  # older ones had the id alone
                owner = owner[len(CLAIM_PREFIX) :]
            if owner != self.job:
                raise Fenced(f"job {owner} does this work already") from None
        # A job that was requeued after the server gave its work away finds its own claim.
        if self.is_stopped():
            raise Fenced("the server took this work back")

    def is_stopped(self) -> bool:
        """Whether the server's mark is there, made where it wants a job to end without SLURM's help."""
        return os.path.isdir(f"{self.run}/{self.name}{STOP}")

    def make(self) -> None:
        """Make the job's folder, if it is not there.

        Raises:
            OSError: It can't be made, or something else has its name.
        """
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(self.path).st_mode):
                raise

    def open_file(self, name: str, flags: int = 0) -> int:
        """Open a file of the job's for reading and appending, once.

        Raises:
            OSError: It can't be made.
        """
        if name not in self._fds:
            flags |= os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fds[name] = os.open(f"{self.path}/{name}", flags, 0o600)
        return self._fds[name]

    def make_scratch(self, label: str) -> str:
        """A private folder for the args and out files of running tasks: on the node, else in the job's folder.

        It is made, never found: what has a name that can be foretold may be somebody else's.

        Args:
            label: Tells starts and nodes of the job apart.

        Raises:
            OSError: It can't be made.
        """
        name = f"fractal-{self.name}-{label}-{os.urandom(8).hex()}"
        for parent in (os.environ.get("TMPDIR"), "/tmp"):  # noqa: S108 - made anew and private, or not used
            if parent and os.path.isabs(parent):
                try:
                    if look_above(f"{parent}/{name}", os.geteuid())[0] <= NOBODY:
                        os.mkdir(f"{parent}/{name}", 0o700)
                        return f"{parent}/{name}"
                except OSError:
                    pass
        name = f"files-{label}-{os.urandom(8).hex()}"
        os.mkdir(f"{self.path}/{name}", 0o700)
        path = f"{self.run_path}/{self.name}/{name}"
        return path if self.above <= NOBODY else self._enter(f"{self.path}/{name}", path)

    def read_printed(self) -> str:
        """The last of what extra_lines said: a shell goes on where a command of theirs is not there, say."""
        try:
            fd = private(f"{self.run}/{self.name}{OUTPUT}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            size = os.fstat(fd).st_size
            text = os.pread(fd, PRINTED_BYTES, max(0, size - PRINTED_BYTES)).decode("utf-8", "replace")
        except OSError:
            return ""
        finally:
            os.close(fd)
        lines = [line.strip() for line in text.splitlines() if not line.startswith((OWN_WORDS, "srun: "))]
        return "\n".join(filter(None, lines))

    def records(self, token: str, max_bytes: int) -> Iterator[dict[str, Any]]:
        """The records that earlier starts of this job left.

        Args:
            token: What they have as their token.
            max_bytes: The longest line that is read.
        """
        import json

        for name in os.listdir(self.path):
            if not name.startswith("results-"):
                continue
            for line in whole_lines(f"{self.path}/{name}", max_bytes):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict) and record.get("token") == token:
                    yield record
