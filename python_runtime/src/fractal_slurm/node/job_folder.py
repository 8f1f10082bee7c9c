# SPDX-License-Identifier: BSD-3-Clause
"""The folder of a job, inside of the run's folder, and the claim beside it.

Other users may have write access to a folder above the run's folder, and may rename folders there. So the worker opens
the run's folder only once. By the descriptor it checks that the folder is private and belongs to the user. It opens
everything below through descriptors. The worker sets the modes of its files itself, because the umask is for the tasks.
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

# Of the output of the script, this many bytes are kept.
PRINTED_BYTES = 1000


class Fenced(Exception):
    """Another job does the work of this job now, so this one must end."""


class JobFolder:
    """The folder in which the worker of a job keeps results and logs.

    Args:
        path: The folder, as the script names it.
        job: The job's id.

    Attributes:
        run_path: The run's folder, as the script names it.
        run: The path of the run's folder by its descriptor, once it is open.
        path: The path of the job's folder, below ``run``.
        above: Who else may replace the run's folder by another one (see :func:`.folders.look_above`).
        shown: Path by descriptor -> the name of that folder in messages.
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
            Unsafe: The folder is not private, does not belong to the user, or everybody may replace it.
            OSError: The folder can't be opened.
        """
        self.run = self._enter(self.run_path, self.run_path)
        self.path = f"{self.run}/{self.name}"
        self.above, words = look_above(self.run_path, os.geteuid())
        if self.above == EVERYBODY:
            raise Unsafe(words)

    def _enter(self, path: str, name: str) -> str:
        """Open a folder. Return a path by its descriptor, which stays right even if the folder is renamed.

        The processes of job steps use this path, too. So do tasks, if there is no other folder for their files.

        Args:
            path: The folder.
            name: The name of the folder in messages.

        Raises:
            Unsafe: The folder is a link, belongs to another user, or others have rights in it.
            OSError: The folder can't be opened.
        """
        by_descriptor = f"/proc/{os.getpid()}/fd/{open_own_folder(path, name)}"
        self.shown[by_descriptor] = name
        return by_descriptor

    def in_words(self, text: str) -> str:
        """Return a message in which folders have the names that people know."""
        for path, name in self.shown.items():
            text = text.replace(path, name)
        return text

    def claim(self) -> None:
        """Claim the work of this submission for this job.

        Raises:
            Fenced: Another job has the work, or the server took it back.
            OSError: The claim can't be made.
        """
        path = f"{self.run}/{self.name}{CLAIM}"
        try:
            # The link must never lead to a folder, even if tasks make files in their working directory: for the server
            # a folder of this name has another meaning.
            os.symlink(CLAIM_PREFIX + self.job, path)
        except FileExistsError:
            try:
                owner = os.readlink(path)
            except OSError:
                raise Fenced("the server gave this work to another job") from None
            if owner.startswith(CLAIM_PREFIX):  # older claims have only the id
                owner = owner[len(CLAIM_PREFIX) :]
            if owner != self.job:
                raise Fenced(f"job {owner} does this work already") from None
        # A requeued job finds its own claim, even if the server took the work back meanwhile.
        if self.is_stopped():
            raise Fenced("the server took this work back")

    def is_stopped(self) -> bool:
        """Return whether the server made its mark, by which it ends a job without SLURM."""
        return os.path.isdir(f"{self.run}/{self.name}{STOP}")

    def make(self) -> None:
        """Make the job's folder, if it does not exist.

        Raises:
            OSError: The folder can't be made, or something else has its name.
        """
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(self.path).st_mode):
                raise

    def open_file(self, name: str, flags: int = 0) -> int:
        """Open a file of the job for reading and appending. Return the same descriptor each time.

        Raises:
            OSError: The file can't be made.
        """
        if name not in self._fds:
            flags |= os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._fds[name] = os.open(f"{self.path}/{name}", flags, 0o600)
        return self._fds[name]

    def make_scratch(self, label: str) -> str:
        """Make a private folder for the args and out files of running tasks. Return its path.

        It is on the node if possible, else in the job's folder. It is always a new folder with a random name: another
        user could make a folder of a known name first.

        Args:
            label: Part of the name. It is different for each start and each node of the job.

        Raises:
            OSError: The folder can't be made.
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
        """Return the last output of extra_lines. The shell goes on after an error there, such as a missing command."""
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
        """Yield the records that earlier starts of this job wrote.

        Args:
            token: The token of the records.
            max_bytes: Longest line to read, in bytes.
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
