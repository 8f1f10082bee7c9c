# SPDX-License-Identifier: BSD-3-Clause
"""Run a command and read its output in pieces, with limits on time and bytes.

The limits hold against hostile users, too: a command that runs as a user belongs to that user, who may write to its
streams without end, or never.
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

# The most bytes of one piece of output, and of all of standard error. A call of cat names up to 2,000 paths, and may
# print some lines of errors for each.
PIECE_BYTES = 1 << 20
MAX_STDERR_BYTES = 1 << 22
# Seconds between two looks at a command that prints nothing, and between two calls of ``stop``.
_LOOK_S = 0.2
# Seconds that a command gets to end after SIGTERM.
END_S = 5.0


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code as in :mod:`subprocess`, its standard output and its standard error."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Expired(Exception):
    """A command did not end in time.

    Attributes:
        stderr: What it wrote to standard error until then.
        process: The process, if it still runs; else None.
    """

    def __init__(self, stderr: bytes, process: subprocess.Popen[bytes] | None = None) -> None:
        super().__init__()
        self.stderr = stderr
        self.process = process


class Overflow(Exception):
    """A command printed more than it may, and was ended for that.

    Attributes:
        most: The most bytes that it may print.
    """

    def __init__(self, most: int) -> None:
        super().__init__(f"it printed more than {most} bytes")
        self.most = most


class Stopped(Exception):
    """The caller's ``stop`` asked to give up, and the command was ended."""


class Child:
    """A running command. Call :meth:`close` when it is no longer needed.

    Args:
        argv: The command line; no shell is involved.
        env: The command's whole environment.
        stdin: What the command gets on standard input.

    Raises:
        OSError: The command can't be started.
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
        """Return the next piece of standard output.

        The output is complete when the stream is closed. It is also complete when the command has ended and the pipe is
        empty, because another process may hold the pipe open for ever.

        Args:
            wait_s: Seconds to wait for a piece.
            stop: Called now and then; true to give up.

        Returns:
            The piece. Empty bytes once the output is complete and the command has ended. None if no piece came in time.

        Raises:
            Overflow: The command wrote too much to standard error.
            Stopped: ``stop`` returned true.
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
            ended = self.process.poll() is not None  # asked before reading: all that it wrote is in the pipe then
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
        """Read or write one stream that is ready; return what came from standard output."""
        try:
            if self.process.stdin is not None and stream is self.process.stdin:
                self._stdin = self._stdin[os.write(self.process.stdin.fileno(), self._stdin[:PIECE_BYTES]) :]
                if not self._stdin:
                    self._drop(self.process.stdin)
                return b""
            piece = os.read(stream.fileno(), PIECE_BYTES)  # type: ignore[attr-defined]
        except BlockingIOError:
            return b""
        except OSError:  # the command closed its standard input; it may not need the rest
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
        """Ask the command to end, by SIGTERM and SIGCONT.

        sudo passes SIGTERM on to the command. It can't pass on SIGKILL, so killing sudo would leave the command alive.
        SIGCONT is for a sudo that suspended itself because somebody suspended the command.
        """
        with contextlib.suppress(OSError):  # a sudo that became the command itself belongs to the user
            self.process.terminate()
            self.process.send_signal(signal.SIGCONT)

    def end(self) -> bool:
        """End the command, whose output is no longer wanted; return whether it has ended."""
        self.close()
        self.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        return self.kill()

    def kill(self) -> bool:
        """Kill a command that ignored SIGTERM, or at least its sudo; return whether the process has ended."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait(1)
        return self.process.poll() is not None

    def close(self) -> None:
        """Close the command's streams."""
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
    """Run a command and wait for its end.

    Args:
        argv: The command line.
        env: The command's whole environment.
        timeout: Seconds after which the command is ended.
        max_bytes: The most bytes that it may print to standard output.
        stdin: What the command gets on standard input.
        stop: Called now and then; true to give up.
        spare: Leave a command alive that ends neither in time nor on SIGTERM. This is for sbatch: it may still submit,
            and killing its sudo would only hide it.

    Returns:
        The exit code and what the command printed.

    Raises:
        OSError: The command can't be started.
        Expired: The command did not end in time.
        Overflow: The command printed too much.
        Stopped: ``stop`` returned true.
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
    """Group lines into lists, so that the work on one list is short and takes little memory.

    Args:
        lines: The lines.
        most: The most lines in one list.
        most_bytes: A list ends once it has so many bytes.
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
    """Split the chunks of a stream into lines, without empty ones; only one chunk and one line are in memory.

    Args:
        chunks: The stream.
        longest: The most bytes of a line. A longer line is cut there, so it is no valid record any more.
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
