# SPDX-License-Identifier: BSD-3-Clause
"""Run a command, and take what it prints in pieces: bounded in time and in bytes, whoever is at its other end.

A user may take over the streams of a command that runs as that user, and write to them without end, or never.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

# One piece of output, and what a command may say on standard error: a line for each of 2,000 paths, some times over.
PIECE_BYTES = 1 << 20
MAX_STDERR_BYTES = 1 << 22
# How often a command that is silent is looked at, and a wish to stop is asked for, in seconds.
_LOOK_S = 0.2
# How long a command gets to end after SIGTERM, in seconds.
END_S = 5.0


@dataclass(frozen=True)
class Finished:
    """A command that ended: exit code as in :mod:`subprocess`, standard output and standard error."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Expired(Exception):
    """A command did not end in time.

    Attributes:
        stderr: What it had said.
        process: It, if it lives on.
    """

    def __init__(self, stderr: bytes, process: subprocess.Popen[bytes] | None = None) -> None:
        super().__init__()
        self.stderr = stderr
        self.process = process


class Overflow(Exception):
    """A command printed more than it may; it was ended.

    Attributes:
        most: The bytes that it may print.
    """

    def __init__(self, most: int) -> None:
        super().__init__(f"it printed more than {most} bytes")
        self.most = most


class Stopped(Exception):
    """Whoever waits for the command wants to stop; it was ended."""


class Child:
    """A command that runs. Leave it by :meth:`close`.

    Args:
        argv: The command line; no shell is involved.
        env: Its whole environment.
        stdin: What it reads on standard input.

    Raises:
        OSError: It can't be started.
    """

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], stdin: bytes = b"") -> None:
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",  # the caller's folder may be one that the user can't enter
            env=env,
            start_new_session=True,  # Ctrl-C at the terminal is ours to handle
            bufsize=0,
        )
        self.stderr = bytearray()
        self._stdin = memoryview(stdin)
        # Not select(2), which fails in a process with more than 1,024 open files.
        self._selector = selectors.PollSelector()
        self._to_read = 2  # streams that are not closed yet
        for stream, event in (
            (self.process.stdin, selectors.EVENT_WRITE),
            (self.process.stdout, selectors.EVENT_READ),
            (self.process.stderr, selectors.EVENT_READ),
        ):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self._selector.register(stream, event)

    def piece(self, wait_s: float, stop: Callable[[], bool] = lambda: False) -> bytes | None:
        """The next piece of standard output.

        It is over when it is closed, or when the command has ended and nothing is left in the pipe: somebody else may
        hold its other end open.

        Args:
            wait_s: Seconds to wait for it.
            stop: Asked now and then whether to give up.

        Returns:
            The piece; empty once it is over and the command has ended; None where nothing came in time.

        Raises:
            Overflow: It said too much on standard error.
            Stopped: ``stop`` said so.
        """
        deadline = time.monotonic() + wait_s
        while True:
            if stop():
                raise Stopped
            left = max(0.0, deadline - time.monotonic())
            if not self._to_read:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(min(_LOOK_S, left))
                if self.process.returncode is not None:
                    return b""
                if not left:
                    return None
                continue
            ended = self.process.poll() is not None  # before looking: what it wrote is in the pipe then
            ready = self._selector.select(0 if ended else min(_LOOK_S, left))
            for key, _event in ready:
                piece = self._serve(key.fileobj)
                if piece:
                    return piece
            if not ready and ended:
                return b""
            if not left and not ended:
                return None

    def _serve(self, stream: object) -> bytes:
        """Move what can be moved; returns what came on standard output."""
        try:
            if self.process.stdin is not None and stream is self.process.stdin:
                self._stdin = self._stdin[os.write(self.process.stdin.fileno(), self._stdin[:PIECE_BYTES]) :]
                if not self._stdin:
                    self._drop(self.process.stdin)
                return b""
            piece = os.read(stream.fileno(), PIECE_BYTES)  # type: ignore[attr-defined]
        except BlockingIOError:
            return b""
        except OSError:  # it closed its standard input, and may do well without
            piece = b""
        if not piece:
            self._drop(stream)
        if stream is self.process.stdout:
            return piece
        self.stderr += piece
        if len(self.stderr) > MAX_STDERR_BYTES:
            raise Overflow(MAX_STDERR_BYTES)
        return b""

    def _drop(self, stream: object) -> None:
        self._selector.unregister(stream)  # type: ignore[arg-type]
        if stream is not self.process.stdin:
            self._to_read -= 1
        stream.close()  # type: ignore[attr-defined]

    def terminate(self) -> None:
        """Ask the command to end.

        sudo hands SIGTERM on to it, and can't hand on SIGKILL: killed at once, it would leave the command alive. It
        suspends itself when somebody suspends the command, hence SIGCONT.
        """
        with contextlib.suppress(OSError):  # where sudo became the command, it is not ours to signal
            self.process.terminate()
            self.process.send_signal(signal.SIGCONT)

    def end(self) -> bool:
        """End the command, whose output is not wanted any more. Returns whether it has ended."""
        self.close()
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        return self.kill()

    def kill(self) -> bool:
        """End what did not heed SIGTERM: sudo at least. Returns whether it has ended."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait(1)
        return self.process.poll() is not None

    def close(self) -> None:
        """Let go of its streams."""
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
        self._selector.close()


def run_command(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout: float,
    max_bytes: int,
    stdin: bytes = b"",
    stop: Callable[[], bool] = lambda: False,
    spare: bool = False,
) -> Finished:
    """Run a command, and wait for it.

    Args:
        argv: The command line.
        env: Its whole environment.
        timeout: Seconds after which it is ended.
        max_bytes: The most that it may print to standard output.
        stdin: What it reads on standard input.
        stop: Asked now and then whether to give up.
        spare: Whether to leave it alive, if it does not end in time, and not on SIGTERM either: what it does may still
            be of consequence, and killing sudo would only take the command out of sight.

    Raises:
        OSError: It can't be started.
        Expired: It did not end in time.
        Overflow: It printed too much.
        Stopped: ``stop`` said so.
    """
    child = Child(argv, env=env, stdin=stdin)
    deadline = time.monotonic() + timeout
    expired = False
    output = bytearray()
    try:
        while True:
            piece = child.piece(max(0.0, deadline - time.monotonic()), stop)
            if piece is None and not expired:
                expired = True
                child.terminate()
                deadline = time.monotonic() + END_S  # an answer may come at the last moment
            elif piece is None:
                raise Expired(bytes(child.stderr), child.process if spare or not child.kill() else None)
            elif piece:
                output += piece
                if len(output) > max_bytes:
                    raise Overflow(max_bytes)
            elif expired and child.process.returncode != 0:
                raise Expired(bytes(child.stderr))
            else:
                return Finished(child.process.returncode, bytes(output), bytes(child.stderr))
    except (Overflow, Stopped):
        child.end()
        raise
    finally:
        child.close()


def slices(lines: Iterable[bytes], *, most: int = 2_000, most_bytes: int = 1 << 23) -> Iterator[list[bytes]]:
    """Lines in handfuls: what is done with one takes no long while, and little memory.

    Args:
        lines: The lines.
        most: How many there are in one.
        most_bytes: Its size, give or take a line.
    """
    some: list[bytes] = []
    size = 0
    for line in lines:
        some.append(line)
        size += len(line)
        if len(some) >= most or size >= most_bytes:
            yield some
            some, size = [], 0
    if some:
        yield some


def split_lines(chunks: Iterable[bytes], *, longest: int = 1 << 30) -> Iterator[bytes]:
    """Lines that are not blank out of chunks of a stream, holding one chunk and one line at a time.

    Args:
        chunks: The stream.
        longest: Bytes of the longest line; of a longer one, a piece comes that is no record.
    """
    rest = bytearray()
    for chunk in chunks:
        first, newline, others = chunk.partition(b"\n")
        if len(rest) <= longest:
            rest += first
        if not newline:
            continue
        if rest:
            yield bytes(rest[:longest])
        lines = others.split(b"\n")
        rest = bytearray(lines.pop())
        yield from (line[:longest] for line in lines if line)
    if rest:
        yield bytes(rest[:longest])
