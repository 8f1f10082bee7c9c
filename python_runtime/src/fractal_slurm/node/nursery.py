# SPDX-License-Identifier: BSD-3-Clause
"""A nursery: a Python that has imported what a task's script imports, and of which tasks are forked.

Most of a small Fractal task's time goes into the start of Python and its imports. A nursery does that once a job.

The file has two halves. :class:`Nursery` is used by the worker. The rest runs as a program of its own, by the *task's*
interpreter with the task's own options: ``PYTHON [-u] [-X ...] [-W ...] nursery.py FD WORKER_PID SCRIPT``. Standard
library only, Python 3.8 or newer, and as few modules as possible: every task finds in ``sys.modules`` what is imported
here.

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

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of the others
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# How often a nursery learns more modules: its first task may have failed early.
MAX_ROUNDS = 3
# How long a nursery may take to start, and to import: it is on a network file system, perhaps.
START_S, IMPORT_S = 60.0, 180.0
# How long the other slots wait for the modules of the first task: scripts read their args once they have imported.
LEARN_S = 20.0
# How long it may take to fork a task.
FORK_S = 15.0
# More names are no list of modules.
MAX_MODULES, MAX_NAMES_BYTES = 20_000, 1 << 20
# What imports print is printed by every task, as if it had imported: up to so much.
MAX_PRINTED_BYTES = 1 << 16
_MESSAGE_BYTES = 1 << 17
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
# Threads that a forked process does well without, by their names in /proc (15 characters). jemalloc makes its own anew
# (pthread_atfork(3)). That of polars removes what earlier processes spilled to the disk. The pools of OpenBLAS have no
# name; see thread_reason().
HARMLESS_THREADS = ("jemalloc_bg_thd", "polars-ooc-clea")


# -- the worker's half ---------------------------------------------------------------------------------------


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

    def __init__(
        self, command: list[str], folder: str, env: dict[str, str], cpus: set[int] | None, spawn: Any, now: float
    ) -> None:
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
        program = os.path.abspath(__file__)
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
            said = self.ours.recv(_MESSAGE_BYTES)
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


# -- the nursery's half --------------------------------------------------------------------------------------


def serve(fd: int, worker: int, script: str) -> tuple[list[str], str, str] | None:
    """Import and fork as the worker says, until it ends. Each answer comes with a signal that wakes the worker.

    Returns:
        In the nursery None. In a forked process the arguments of the script, the file for its modules, and the args
        file whose opening is to be watched.
    """
    import _signal  # type: ignore[import-not-found, unused-ignore]
    import _socket
    import marshal

    def answer(text: bytes) -> None:
        sock.send(text)
        if os.getppid() == worker:
            os.kill(worker, _signal.SIGUSR1)

    sock = _socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    if sys.version_info < (3, 9) and sys.flags.dev_mode:
        answer(b"unfit a fork of Python 3.8 crashes at its end with -X dev")
        return None
    answer(b"ready")
    printed = b""
    while True:
        data, extra, _flags, _address = sock.recvmsg(_MESSAGE_BYTES, _socket.CMSG_SPACE(8))
        if not data:
            return None
        request = marshal.loads(data)  # noqa: S302 - the worker is of the same user, and our parent
        if request[0] == "import":
            answer(import_modules(request[1]))
            printed = os.pread(1, MAX_PRINTED_BYTES, 0)
            continue
        rights = extra[0][2]
        log_fd, task_fd = (int.from_bytes(rights[at : at + 4], sys.byteorder) for at in (0, 4))
        middle = os.fork()
        if middle:
            os.close(log_fd)
            os.close(task_fd)
            os.waitpid(middle, 0)
            continue
        if os.fork():
            os._exit(0)
        sock.close()
        _kind, arguments, changes, cpus, report, watched = request
        prepare_task(log_fd, task_fd, changes, cpus, printed)
        return [script, *arguments], report, watched


def prepare_task(log_fd: int, task_fd: int, changes: list[tuple[str, str]], cpus: list[int], printed: bytes) -> None:
    """Make a forked process what a new one would be, and wait for the worker's word. It may end here.

    Args:
        log_fd: Where its output goes.
        task_fd: The socket of this task.
        changes: Names and values of its own variables.
        cpus: Its CPU set; none for that of the nursery.
        printed: What the imports printed.
    """
    import _socket

    try:
        os.setpgid(0, 0)
        for fd in (1, 2):
            os.dup2(log_fd, fd)
        os.close(log_fd)
        if cpus:
            os.sched_setaffinity(0, cpus)
        for name, value in changes:
            os.environ[name] = value
        reset_state()
        task = _socket.socket(fileno=task_fd)
        task.send(b"%d" % os.getpid())
        if task.recv(1) != b"g":
            os._exit(0)
        task.close()
    except BaseException:
        os._exit(0)  # it has not begun: the worker starts the task anew
    try:
        os.write(1, printed)
    except OSError:
        pass  # a full disk, which the task sees for itself


def reset_state() -> None:
    """Give each task a state of its own where processes of one parent would share it.

    ``random`` sees to itself (os.register_at_fork), and so do ``secrets``, ``uuid4``, ``tempfile`` and OpenSSL.
    """
    modules = sys.modules
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if hasattr(modules.get("torch"), "seed"):
        modules["torch"].seed()
    if "uuid" in modules:
        modules["uuid"]._last_timestamp = None  # type: ignore[attr-defined]
    if "multiprocessing.process" in modules:
        process = modules["multiprocessing.process"]
        config = getattr(process.current_process(), "_config", {})
        if "authkey" in config:
            config["authkey"] = process.AuthenticationString(os.urandom(32))
    if "logging" in modules:
        import time

        began = modules["logging"]._startTime
        now = time.time_ns() if isinstance(began, int) else time.time()
        modules["logging"]._startTime = now  # type: ignore[attr-defined]


def import_modules(path: str) -> bytes:
    """Import the modules whose names a task left, one a line. Returns the answer for the worker."""
    try:
        with open(path, encoding="utf-8") as file:
            names = file.read(MAX_NAMES_BYTES).split("\n")[:MAX_MODULES]
        os.unlink(path)
    except (OSError, ValueError) as error:
        return b"unfit the list of modules can't be read: %s" % str(error).encode("utf-8", "replace")
    for name in names:
        if name and name not in sys.modules:
            try:
                __import__(name)
            except BaseException:  # noqa: S112 - what a task could import and we can't, it imports itself
                continue
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # what stays in a buffer would be printed by every task
        except (OSError, ValueError, AttributeError):
            pass
    fault = unfit_reason()
    if fault:
        return b"unfit " + fault.encode("utf-8", "replace")
    import gc

    gc.collect()
    gc.freeze()  # so that the garbage collector of a task does not copy all pages
    return b"imported %d" % len(sys.modules)


def unfit_reason() -> str:
    """Why forks of this process could behave otherwise than new processes; empty if nothing is known."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        libraries = {line.split(None, 5)[-1].strip() for line in file if ".so" in line}
    devices = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            devices.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            pass
    return held_device(devices, libraries) or thread_reason(libraries)


def held_device(files: Iterable[str], libraries: Iterable[str]) -> str:
    """Whether a process holds an accelerator: its context does not survive a fork.

    Args:
        files: The files that it has open.
        libraries: Those that it has mapped.

    Returns:
        The reason in words; empty if it holds none.
    """
    held = sorted(path for path in files if path.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri/")))
    names = ("libcuda.so", "libhsa-", "libamdhip", "libze_")
    drivers = sorted(path for path in libraries if path.rpartition("/")[2].startswith(names))
    return f"an import opened {held[0]} ({drivers[0] if drivers else 'by a library that is not known'})" if held else ""


def thread_reason(libraries: set[str]) -> str:
    """Which threads would not survive a fork, in words. OpenBLAS makes its threads anew in a forked process."""
    others = 0
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/comm", encoding="utf-8", errors="replace") as file:
                others += thread != str(os.getpid()) and file.read().strip() not in HARMLESS_THREADS
        except OSError:
            pass  # it has ended
    if not others:
        return ""
    import ctypes

    known = 0
    for path in libraries:
        if "openblas" in path.rpartition("/")[2]:
            try:
                library = ctypes.CDLL(path)
            except OSError:
                continue
            for prefix in ("", "scipy_"):
                for suffix in ("", "64_", "_64"):
                    ask = getattr(library, f"{prefix}openblas_get_num_threads{suffix}", None)
                    if ask is not None:
                        known += max(0, int(ask()) - 1)
                        break
    if others <= known:
        return ""
    names = []
    threading = sys.modules.get("threading")
    if threading is not None:
        names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    which = f" ({', '.join(names)[:200]})" if names else ""
    return f"the imports started {others - known} threads{which}, which a forked process does not have"


def tell_when_opened(path: str, before: set[str], report: str, worker: int) -> None:
    """Leave the modules of a task once it opens its args file: by then it has imported what it needs, mostly."""
    opened = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        if event == "open" and not opened and arguments[0] == path:
            opened = True
            import _signal

            report_modules(before, report)
            if os.getppid() == worker:
                os.kill(worker, _signal.SIGUSR1)

    sys.addaudithook(hook)


def run_script(script: str, argv: list[str], before: set[str], report: str) -> BaseException | None:
    """Run a script as ``PYTHON SCRIPT`` does. Returns what it raised, if it did."""
    main = type(sys)("__main__")
    # Since Python 3.9 the path of a script is absolute; before it was as given.
    path = os.path.abspath(script) if sys.version_info >= (3, 9) else script
    loader = sys.modules["_frozen_importlib_external"].SourceFileLoader
    names: dict[str, Any] = {"__loader__": loader("__main__", path), "__annotations__": {}}
    if sys.version_info >= (3, 14):
        del names["__annotations__"]
    vars(main).update(names, __builtins__=sys.modules["builtins"], __file__=path, __cached__=None)
    sys.modules["__main__"] = main
    sys.argv[:] = argv
    try:
        with open(path, "rb") as file:
            source = file.read()
        exec(compile(source, path, "exec", dont_inherit=True), vars(main))  # noqa: S102 - it is what was asked for
    except BaseException as error:
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
        return error
    finally:
        if report:
            report_modules(before, report)
    return None


def report_modules(before: set[str], path: str) -> None:
    """Leave the names of the modules that a task imported, in their order, and add them to those before."""
    names = [
        name
        for name, module in list(sys.modules.items())
        if name not in before
        and name not in ("__main__", "__mp_main__")
        and "\n" not in name
        and getattr(module, "__spec__", None) is not None
    ]
    if not names:
        return
    before.update(names)
    try:
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write("\n".join(names))
        os.rename(f"{path}.new", path)
    except (OSError, ValueError):
        pass  # the next task reports


def hide_own_frames(hook: Any) -> Any:
    """An excepthook for which a traceback begins with the script."""

    def excepthook(kind: Any, value: Any, trace: Any) -> None:
        trace = trace and trace.tb_next
        if value is not None:
            value.__traceback__ = trace
        hook(kind, value, trace)

    return excepthook


def main() -> BaseException | None:
    """The program. Returns what the script of a forked task raised; it is raised again at the top."""
    fd, worker, script = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    # The folder of this file is no task's; a script's own folder comes first, as Python sets it.
    if not getattr(sys.flags, "safe_path", False) and not sys.flags.isolated:
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    task = serve(fd, worker, script)
    if task is None:
        os._exit(0)  # what its modules would do at the end is for tasks to do
    argv, report, watched = task
    if hasattr(sys, "orig_argv"):
        position = sys.orig_argv.index(os.path.abspath(__file__))
        sys.orig_argv[position:] = argv
    before = set(sys.modules)
    if report and watched:
        tell_when_opened(watched, before, report, worker)
    error = run_script(script, argv, before, report)
    sys.excepthook = hide_own_frames(sys.excepthook) if error is not None else sys.excepthook
    return error


if __name__ == "__main__":
    _error = main()
    if _error is not None:
        raise _error
