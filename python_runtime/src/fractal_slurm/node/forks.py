# SPDX-License-Identifier: BSD-3-Clause
"""Tasks in forks: the worker's side of the nursery, and when tasks start in new processes instead.

How a task is forked, so that it runs once or not at all, whoever dies on the way:

1. The worker sends the nursery one message: what to run, the log's descriptor, and one end of a socket of this task's.
2. The nursery forks twice. The middle process ends at once. The worker is the "subreaper" (prctl(2)) of all below it,
   so the new process becomes its child: the worker sees its end, exit code and use of memory and CPU as of any task.
3. The new process says its pid on the task's socket, and waits. The worker notes the pid and answers. Only then does
   the script begin. If the worker does not answer, the new process ends without having begun.
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

# How often a nursery learns more modules: its first task may have failed early.
MAX_ROUNDS = 3
# How long a nursery may take to start, and to import: it is on a network file system, perhaps.
START_S, IMPORT_S = 60.0, 180.0
# How long the other slots wait for the modules of the first task: scripts read their args once they have imported.
LEARN_S = 20.0
# How long it may take to fork a task.
FORK_S = 15.0
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def split_python(command: list[str]) -> tuple[list[str], str, list[str]] | None:
    """Take a command apart that has a Python script run.

    Args:
        command: The command's words.

    Returns:
        The interpreter with its options, the script, and the script's arguments. None for any other command, and for
        options other than ``-u``, ``-X`` and ``-W``: those change what a script sees.
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
    """Tasks can't be forked here; the message is the reason."""


class Nursery:
    """The nursery of a job on one node, as its worker sees it.

    Args:
        command: The command of the tasks.
        folder: A private folder of the worker's.
        env: The environment of a task.
        cpus: The CPU set of a task; modules count the CPUs when they are imported. None for all.

    Attributes:
        pid: The nursery's process; 0 once it has ended.
        state: ``starting``, ``ready``, ``importing``, or ``ended``.
        why: Why it ended, or None.
        busy_until: In the state starting or importing: when to give up, by the monotonic clock.
        rounds: How often it was told of modules.
        modules: How many modules it has imported.

    Raises:
        Unfit: There can be none.
        OSError: It can't be started.
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
        self.learns_until: float | None = None  # until when its first task may take to tell its modules
        become_subreaper()
        self.ours, theirs = _socket_pair()
        null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        printed_fd = os.open(f"{folder}/imports", flags, 0o600)
        allowed = os.sched_getaffinity(0)
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "nursery.py")
        # Not its own number: before glibc 2.29 dup2 to itself would leave it to be closed by exec.
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
        """Whether it starts or imports, so that waiting for it pays."""
        return self.state in ("starting", "importing")

    def is_learning(self, now: float) -> bool:
        """Whether its first task is about to tell its modules, so that waiting for these pays."""
        return self.state == "ready" and not self.rounds and now < (self.learns_until or 0.0)

    def end(self, why: str | None) -> None:
        """End it. Tasks that were forked of it go on."""
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
        """Hear what it says, and end it if it takes too long."""
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
        """Have a task forked. It begins when :meth:`begin` is called with the socket.

        Args:
            args: Its args file. The first task tells its modules when it opens that, and all tasks when they end.
            out: Its out-JSON.
            log_fd: Where its output goes.
            changes: Variables of the task's own, beside the nursery's environment.
            cpus: Its CPU set, or None.
            key: Names the file for the modules that it imported.
            now: The monotonic clock.

        Returns:
            Its pid, 0 if it could not be forked; and the socket.
        """
        import _socket
        import marshal

        ours, theirs = _socket_pair()
        try:
            report = f"{self.folder}/modules-{key}" if self.rounds < MAX_ROUNDS else ""
            watched = "" if self.learns_until else args
            # Format 2: every Python reads it.
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
        """Let a forked task begin. Returns whether it does: its process may have ended before."""
        try:
            return bool(socket.send(b"g") == 1)
        except OSError:
            return False
        finally:
            socket.close()

    def learn(self, key: str, now: float) -> None:
        """Have it import what a task reported, if it reported something."""
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
    """Two ends of a socket that keeps messages apart. Without the module socket, whose import takes a while."""
    import _socket

    # socketpair(2) of the C module: not inheritable, as every descriptor of Python's
    return _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)


def become_subreaper() -> None:
    """Make this process the parent of what is left below it by parents that ended (prctl(2)).

    Raises:
        Unfit: This Python or kernel can't.
    """
    try:
        import ctypes

        done = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError) as error:
        raise Unfit(f"the worker's Python can't call prctl: {error}") from None
    if not done:
        raise Unfit("the kernel knows no PR_SET_CHILD_SUBREAPER")


class ForkStarts(Starts):
    """Each task is a fork of the nursery; in a new process where that can't be.

    Args:
        pins: Whether slots have CPU sets of their own.
        command: The command of the tasks.
        folder: A private folder.
        first: The slot of the first task.
        complain: Says what is wrong.

    Attributes:
        nursery: The Python of which tasks are forked, if there is one.
        fresh_why: Why no task is forked (any more).
        fork_off: The same, where forks did harm: it holds for the whole run.
        failed: Tasks that get a second try in a new process, and why.
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
        """Start a task in a fork of the nursery. Returns its pid, or 0: it is to start in a new process."""
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
        """Whether the nursery is about to be ready: what it imports no task has to import.

        Where there is a slot for every task, each imports by itself: that is sooner done.
        """
        if self.nursery is None or self.fresh_why is not None:
            return False
        return self.nursery.is_busy() or (loop.queue.left() > len(loop.free) and self.nursery.is_learning(now))

    def rest(self, loop: Loop, now: float) -> None:
        """Hear what the nursery says. Once it has ended, tasks start in new processes."""
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
        """Note the end of a process, be it the nursery or a task."""
        if self.nursery is not None and pid == self.nursery.pid:
            self.nursery.pid = 0
            self.nursery.end("the nursery ended by itself")
        else:
            super().ended(loop, pid, status, usage)

    def task_ended(self, loop: Loop, slot: Slot, state: str, reason: str | None, may_repeat: bool) -> bool:
        """Learn from the end of a task. Returns whether it is to run again, in a new process.

        What fails in a fork may be the fork's fault, so it gets one more try. If that one succeeds, no task of the run
        is forked any more.

        Args:
            loop: The loop.
            slot: Where the task ran.
            state: What it came to.
            reason: Why, if it did not succeed.
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
