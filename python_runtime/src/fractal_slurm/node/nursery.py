# SPDX-License-Identifier: BSD-3-Clause
"""The nursery: a Python that has imported what a task's script imports, and of which tasks are forked.

Most of a small Fractal task's time goes into the start of Python and its imports. A nursery does that once a job.

This file is a program, run by the *task's* interpreter with the task's own options: ``PYTHON [-u] [-X ...] [-W ...]
nursery.py FD WORKER_PID SCRIPT``. Standard library only, Python 3.8 or newer, and as few modules as possible: every
task finds in ``sys.modules`` what is imported here. The worker's side is forks.py, which tells how a task is forked.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of the others
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# More names are no list of modules.
MAX_MODULES, MAX_NAMES_BYTES = 20_000, 1 << 20
# What imports print is printed by every task, as if it had imported: up to so much.
MAX_PRINTED_BYTES = 1 << 16
MESSAGE_BYTES = 1 << 17
# Threads that a forked process does well without, by their names in /proc (15 characters). jemalloc makes its own anew
# (pthread_atfork(3)). That of polars removes what earlier processes spilled to the disk. The pools of OpenBLAS have no
# name; see thread_reason().
HARMLESS_THREADS = ("jemalloc_bg_thd", "polars-ooc-clea")


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
        data, extra, _flags, _address = sock.recvmsg(MESSAGE_BYTES, _socket.CMSG_SPACE(8))
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
