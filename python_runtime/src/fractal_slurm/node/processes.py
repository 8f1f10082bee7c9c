# SPDX-License-Identifier: BSD-3-Clause
"""Wait for signals, start processes, and send signals to them."""

from __future__ import annotations

import os
import signal

# The signals that a worker waits for. They have no handler.
WAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}
# The signals that Python ignores by default. Tasks must not ignore them.
IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
# The signals that were blocked when this process began. They are blocked in the tasks, too.
inherited_mask: set[int] = set()


def prepare_process() -> None:
    """Block the signals that we wait for. Undo Python's changes of the environment, because tasks inherit it."""
    global inherited_mask
    inherited_mask = signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if it were ignored, we would not see that tasks end
    if "LC_CTYPE" in os.environ:  # Python sets it if the locale is C; see PEP 538
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
    """Start a process in its own process group.

    Args:
        words: The command line.
        env: The environment.
        stdin: The descriptor for standard input.
        output: The descriptor for standard output and standard error.
        more: Further descriptors, each with the number that it gets in the new process.

    Returns:
        The pid.

    Raises:
        OSError: The process can't be started.
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
    """Send a signal to a process group. It is no error if the group does not exist, or the signal is not allowed."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass
