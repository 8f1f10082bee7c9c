# SPDX-License-Identifier: BSD-3-Clause
"""Processes: how this one waits for signals, and how others are started and signalled."""

from __future__ import annotations

import os
import signal

# What a worker waits for, and no handler takes.
WAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
# What Python ignores by itself, and no task should.
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
# The signals that were blocked when this process began: tasks begin with these.
inherited_mask: set[int] = set()


def prepare_process() -> None:
    """Block the signals that are waited for, and undo what Python changed in the environment, for the tasks' sake."""
    global inherited_mask
    inherited_mask = signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would hide the ends of tasks
    if "LC_CTYPE" in os.environ:  # Python sets it where the locale is C; see PEP 538
        try:
            with open("/proc/self/environ", "rb") as file:
                before = [entry for entry in file.read().split(b"\0") if entry.startswith(b"LC_CTYPE=")]
        except OSError:
            return
        if before:
            os.environb[b"LC_CTYPE"] = before[0][9:]
        else:
            del os.environ["LC_CTYPE"]


def spawn(
    words: list[str], env: dict[str, str], stdin: int, output: int, more: tuple[tuple[int, int], ...] = ()
) -> int:
    """Start a process in a process group of its own. Returns its pid.

    Args:
        words: Its command line.
        env: Its environment.
        stdin: The descriptor of its standard input.
        output: That of its standard output and standard error.
        more: Pairs of another descriptor and the number that it gets.

    Raises:
        OSError: It can't be started.
    """
    return os.posix_spawnp(
        words[0],
        words,
        env,
        file_actions=(
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            *((os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in more),
        ),
        setpgroup=0,
        setsigmask=inherited_mask,
        setsigdef=IGNORED,
    )


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGTERM."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def signal_group(pid: int, number: int) -> None:
    """Signal a process group, if it is there and may be signalled."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass
