# SPDX-License-Identifier: BSD-3-Clause
"""Start tasks as forks of the nursery. This is the worker's side. It also decides when tasks need new processes.

A task is forked in these steps. It runs once or not at all, even if one of the processes dies:

1. The worker sends one message to the nursery: what to run, the descriptor of the log, and one end of a socket for this
   task.
2. The nursery forks twice, and the middle process ends at once. The worker is the "subreaper" (prctl(2)) of all
   processes below it. So the new process becomes a child of the worker. As with any task, the worker sees its end, its
   exit code, and its use of memory and CPU.
3. The new process sends its pid on the task's socket, and waits. The worker notes the pid and answers. Only then the
   script begins. If the worker does not answer, the new process ends, and the script never begins.
"""

from __future__ import annotations

import os
import sys
import time

from .loop import Starts
from .nursery import MESSAGE_BYTES
from .processes import spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .loop import Loop, Slot

# How often a nursery may import more modules. Once may not be enough: the first task may have failed early.
MAX_ROUNDS = 3
# How long a nursery may take to start, and to import. Its Python may be on a network file system.
START_S, IMPORT_S = 60.0, 180.0
# How long the other slots wait until the first task has reported its modules. Scripts read their args after imports.
LEARN_S = 20.0
# How long the fork of a task may take.
FORK_S = 15.0
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def split_python(command: list[str]) -> tuple[list[str], str, list[str]] | None:
    """Split a command that runs a Python script.

    Args:
        command: The words of the command.

    Returns:
        The interpreter with its options, the script, and the script's arguments. None for any other command, and for
        options other than ``-u``, ``-X`` and ``-W``: other options change what a script sees.
    """
    name = command[0].rpartition("/")[2]
    if not name.startswith("python") or name[6:].strip("0123456789.t"):
        return None
    position = 1
    while position < len(command) and command[position].startswith("-"):
        word = command[position]
        if word[:2] not in ("-X", "-W") and word != "-u":
            return None
        position += 2 if word in ("-X", "-W") else 1
    if position >= len(command) or not command[position].endswith(".py"):
        return None
    script = command[position]
    if not os.path.isfile(script):
        return None
    return command[:position], script, command[position + 1 :]


class Unfit(Exception):
    """Tasks can't be forked here. The message is the reason."""


class Nursery:
    """The nursery of a job on one node, as the worker sees it.

    Args:
        command: The command of the tasks.
        folder: A private folder of the worker.
        env: The environment of a task.
        cpus: The CPU set of a task, None for all CPUs. Some modules count the CPUs when they are imported.
        now: Time of the monotonic clock, in seconds.

    Attributes:
        pid: The pid of the nursery. 0 after it has ended.
        state: ``starting``, ``ready``, ``importing``, or ``ended``.
        why: Why it ended, or None.
        busy_until: In the states starting and importing: when to give up, by the monotonic clock in seconds.
        rounds: How often it was told to import modules.
        modules: How many modules it has imported.

    Raises:
        Unfit: Tasks can't be forked here.
        OSError: The nursery can't be started.
    """

    def __init__(self, command: list[str], folder: str, env: dict[str, str], cpus: set[int] | None, now: float) -> None:
        parts = split_python(command)
        if parts is None:
            raise Unfit("the command is not PYTHON SCRIPT.py")
        python, script, self.arguments = parts
        self.folder = folder
        self.env = env
        self.state = "starting"
        self.why: str | None = None
        self.rounds = self.modules = 0
        self.busy_until = now + START_S
        self.learns_until: float | None = None  # how long to wait until the first task has reported its modules
        become_subreaper()
        self.ours, theirs = _socket_pair()
        null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        printed_fd = os.open(f"{folder}/imports", flags, 0o600)
        allowed = os.sched_getaffinity(0)
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nursery.py")
        # Use another number than it has: before glibc 2.29, after dup2 to the same number, exec would close it.
        fd = 3 if theirs.fileno() != 3 else 4
        try:
            if cpus:
                os.sched_setaffinity(0, cpus)
            words = [*python, program, str(fd), str(os.getpid()), script]
            self.pid: int = spawn(words, env, null_fd, printed_fd, ((theirs.fileno(), fd),))
        finally:
            if cpus:
                os.sched_setaffinity(0, allowed)
            os.close(null_fd)
            os.close(printed_fd)
            theirs.close()
        self.ours.setblocking(False)

    def is_busy(self) -> bool:
        """Return whether it starts or imports at the moment. Then tasks should wait for it."""
        return self.state in ("starting", "importing")

    def is_learning(self, now: float) -> bool:
        """Return whether the first task will soon report its modules. Then other tasks should wait for that."""
        return self.state == "ready" and not self.rounds and now < (self.learns_until or 0.0)

    def end(self, why: str | None) -> None:
        """End the nursery. Tasks that were forked from it go on.

        Args:
            why: The reason, or None.
        """
        if self.state == "ended":
            return
        self.state, self.why = "ended", why
        self.ours.close()
        if self.pid:
            try:
                os.kill(self.pid, 9)
            except OSError:
                pass

    def look(self, now: float) -> None:
        """Read an answer of the nursery. End the nursery if it takes too long."""
        if not self.is_busy():
            return
        try:
            said = self.ours.recv(MESSAGE_BYTES)
        except BlockingIOError:
            if now >= self.busy_until:
                what = "its Python did not start" if self.state == "starting" else "its imports did not end"
                self.end(f"{what} within {START_S if self.state == 'starting' else IMPORT_S:g} s")
            return
        except OSError as error:
            self.end(f"the nursery can't be reached: {error.strerror}")
            return
        words = said.decode("utf-8", "replace").split(" ", 2)
        if words[0] == "ready":
            self.state = "ready"
        elif words[0] == "imported" and len(words) == 2 and words[1].isdigit():
            self.state = "ready"
            self.modules = int(words[1])
        elif words[0] == "unfit":
            self.end(said.decode("utf-8", "replace")[6:])
        else:
            self.end("the nursery ended by itself")

    def fork(
        self, args: str, out: str, log_fd: int, changes: dict[str, str], cpus: set[int] | None, key: str, now: float
    ) -> tuple[int, Any]:
        """Tell the nursery to fork a task. The task begins when :meth:`begin` is called with the socket.

        Args:
            args: Its args file. The first task reports its modules when it opens this file. All tasks report them when
                they end.
            out: The file for its out-JSON.
            log_fd: The descriptor for its output.
            changes: Environment variables of this task that differ from those of the nursery.
            cpus: Its CPU set, or None.
            key: Part of the name of the file for its modules.
            now: Time of the monotonic clock, in seconds.

        Returns:
            The pid and the socket. The pid is 0 if the task could not be forked.
        """
        import _socket
        import marshal

        ours, theirs = _socket_pair()
        try:
            report = f"{self.folder}/modules-{key}" if self.rounds < MAX_ROUNDS else ""
            watched = "" if self.learns_until else args
            # Every Python can read format 2.
            message = marshal.dumps(
                (
                    "fork",
                    [*self.arguments, "--args-json", args, "--out-json", out],
                    list(changes.items()),
                    sorted(cpus or ()),
                    report,
                    watched,
                ),
                2,
            )
            rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (log_fd, theirs.fileno()))
            self.ours.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
            theirs.close()
            ours.settimeout(FORK_S)
            pid = ours.recv(32)
            ours.settimeout(1.0)
            if not pid.isdigit():
                raise OSError(32, "it ended while a task was forked")
            self.learns_until = self.learns_until or now + LEARN_S
            return int(pid), ours
        except OSError as error:
            ours.close()
            self.end(f"no task could be forked: {error.strerror or error}")
            return 0, None
        finally:
            theirs.close()

    def begin(self, socket: Any) -> bool:
        """Let a forked task begin. Return whether it begins: its process may have ended already."""
        try:
            return bool(socket.send(b"g") == 1)
        except OSError:
            return False
        finally:
            socket.close()

    def learn(self, key: str, now: float) -> None:
        """Tell the nursery to import the modules that a task reported, if it reported any."""
        path = f"{self.folder}/modules-{key}"
        if self.state != "ready" or self.rounds >= MAX_ROUNDS or not os.path.exists(path):
            return
        import marshal

        try:
            self.ours.sendmsg([marshal.dumps(("import", path), 2)])
        except OSError as error:
            self.end(f"the nursery can't be reached: {error.strerror}")
            return
        self.rounds += 1
        self.state, self.busy_until = "importing", now + IMPORT_S


def _socket_pair() -> tuple[Any, Any]:
    """Return two ends of a socket with separate messages. The module socket is not used: its import takes time."""
    import _socket

    # socketpair(2) of the C module; child processes do not inherit these descriptors
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


def become_subreaper() -> None:
    """Make this process the new parent of processes below it whose parents have ended (prctl(2)).

    Raises:
        Unfit: This Python or this kernel can't do that.
    """
    try:
        import ctypes

        done = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError) as error:
        raise Unfit(f"the worker's Python can't call prctl: {error}") from None
    if not done:
        raise Unfit("the kernel knows no PR_SET_CHILD_SUBREAPER")


class ForkStarts(Starts):
    """Starts each task as a fork of the nursery, or as a new process if it can't be forked.

    Args:
        pins: Whether each slot has its own CPU set.
        command: The command of the tasks.
        folder: A private folder.
        first: The slot of the first task.
        complain: Prints a message.

    Attributes:
        nursery: The process from which tasks are forked, if there is one.
        fresh_why: Why no task is forked, or no further task. None if tasks are forked.
        fork_off: The same, if a fork made a task fail. It holds for the whole run.
        failed: Number of a task -> why it failed. These tasks get a second try in a new process.
        forked: How many tasks were forked.
    """

    def __init__(
        self, pins: bool, command: list[str], folder: str, first: Slot, complain: Callable[[str], None]
    ) -> None:
        super().__init__(pins)
        self.complain = complain
        self.nursery: Nursery | None = None
        self.fresh_why: str | None = None
        self.fork_off: str | None = None
        self.failed: dict[int, str] = {}
        self.forked = 0
        try:
            self.nursery = Nursery(command, folder, first.env, first.cpus, time.monotonic())
        except Unfit as reason:
            self.fresh_why = str(reason)
        except OSError as error:
            self.fresh_why = f"{command[0]} can't be started: {error.strerror}"

    def new_process(self, loop: Loop, slot: Slot, words: list[str]) -> int:
        """Start a task in a fork if that is possible, else in a new process; return its pid."""
        return self._fork(slot) or super().new_process(loop, slot, words)

    def _fork(self, slot: Slot) -> int:
        """Start a task as a fork of the nursery. Return its pid, or 0 if it must start as a new process."""
        nursery = self.nursery
        if nursery is None or self.fresh_why is not None or slot.index in self.failed:
            return 0
        changes = {name: value for name, value in slot.env.items() if nursery.env.get(name) != value}
        key, now = f"{slot.index}-{slot.attempt}", time.monotonic()
        pid, socket = nursery.fork(*slot.files, slot.log_fd, changes, slot.cpus, key, now)
        if not pid or not nursery.begin(socket):
            return 0
        slot.forked = True
        self.forked += 1
        return pid

    def is_waiting(self, loop: Loop, now: float) -> bool:
        """Return whether tasks should wait for the nursery, because they need not import what it imports.

        If there is a free slot for each task, they do not wait for the first one: importing by themselves is faster.
        """
        if self.nursery is None or self.fresh_why is not None:
            return False
        return self.nursery.is_busy() or (loop.queue.left() > len(loop.free) and self.nursery.is_learning(now))

    def rest(self, loop: Loop, now: float) -> None:
        """Read the answers of the nursery. After it has ended, tasks start as new processes."""
        if self.nursery is None or self.fresh_why is not None:
            return
        self.nursery.look(now)
        if self.nursery.is_learning(now):
            for slot in loop.running.values():
                if slot.forked:
                    self.nursery.learn(f"{slot.index}-{slot.attempt}", now)
        if self.nursery.state == "ended":
            self.fresh_why = self.nursery.why or "the nursery ended"
            self.complain(f"tasks start in new processes from here on: {self.fresh_why}")

    def ended(self, loop: Loop, pid: int, status: int, usage: tuple[float, float]) -> None:
        """Handle the end of a process: the nursery, or a task."""
        if self.nursery is not None and pid == self.nursery.pid:
            self.nursery.pid = 0
            self.nursery.end("the nursery ended by itself")
        else:
            super().ended(loop, pid, status, usage)

    def task_ended(self, loop: Loop, slot: Slot, state: str, reason: str | None, may_repeat: bool) -> bool:
        """Handle the end of a task. Return whether it must run again, as a new process.

        If a task fails in a fork, the fork may be the cause. So the task gets a second try as a new process. If that
        succeeds, no further task of the run is forked.

        Args:
            loop: The loop.
            slot: The slot in which the task ran.
            state: How the task ended.
            reason: Why it did not succeed, or None.
            may_repeat: Whether a task may run again.
        """
        if not slot.forked:
            if state == "succeeded" and slot.index in self.failed and self.fork_off is None:
                why = self.failed[slot.index]
                self.fork_off = f"task {slot.index} failed in a fork ({why}), and succeeded in a new process"
                self.fresh_why = self.fork_off
                if self.nursery is not None:
                    self.nursery.end(self.fork_off)
                self.complain(self.fork_off)
            return False
        slot.forked = False
        now = time.monotonic()
        if self.nursery is not None:
            self.nursery.learns_until = now
            if loop.queue.has_tasks():
                self.nursery.learn(f"{slot.index}-{slot.attempt}", now)
        if state != "failed" or not may_repeat or loop.stopping or not loop.in_time(now):
            return False
        self.failed[slot.index] = (reason or "")[:200]
        return True

    def close(self, loop: Loop) -> None:
        """End the nursery."""
        if self.nursery is not None:
            self.nursery.end(None)
