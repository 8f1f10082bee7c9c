# SPDX-License-Identifier: BSD-3-Clause
"""The nursery: a Python process that has imported the modules of a task's script. Tasks are forks of it.

A small Fractal task needs most of its time for the start of Python and for imports. The nursery does both once in a
job.

This file is a program. The *task's* interpreter runs it, with the task's own options: ``PYTHON [-u] [-X ...] [-W ...]
nursery.py FD WORKER_PID SCRIPT``. It uses only the standard library, and runs on Python 3.8 or newer. It imports as few
modules as possible, because each task finds them in its ``sys.modules``. forks.py is the worker's side, and describes
how a task is forked.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of the others
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Limits of a list of modules: number of names, and bytes.
MAX_MODULES, MAX_NAMES_BYTES = 20_000, 1 << 20
# Each task prints what the imports printed, as if it had imported by itself. It prints this many bytes at most.
MAX_PRINTED_BYTES = 1 << 16
MESSAGE_BYTES = 1 << 17
# Threads that a forked process does not need, by their names in /proc (15 characters). jemalloc starts its thread again
# after a fork (pthread_atfork(3)). The thread of polars removes files that earlier processes left on the disk. The
# threads of OpenBLAS have no name; see thread_reason().
HARMLESS_THREADS = ("jemalloc_bg_thd", "polars-ooc-clea")


def serve(fd: int, worker: int, script: str) -> tuple[list[str], str, str] | None:
    """Import modules and fork tasks, as the worker asks, until the worker ends.

    Each answer comes with a signal, so that the worker wakes up.

    Args:
        fd: The descriptor of the socket to the worker.
        worker: The worker's pid.
        script: The task's script.

    Returns:
        In the nursery: None. In a forked process: the arguments of the script, the file for the names of its modules,
        and the args file (the task has done its imports when it opens that).
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
    """Make a forked process equal to a new one, and wait for the worker's permission. The process may end here.

    Args:
        log_fd: The descriptor for its output.
        task_fd: The descriptor of this task's socket.
        changes: Names and values of environment variables of this task.
        cpus: Its CPU set. An empty list: the CPU set of the nursery.
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
        os._exit(0)  # the task has not begun: the worker starts it again
    try:
        os.write(1, printed)
    except OSError:
        pass  # the disk is full: the task will see that, too


def reset_state() -> None:
    """Give each task its own state (such as random seeds) in modules where forks of one process would share it.

    ``random`` does so by itself (os.register_at_fork). So do ``secrets``, ``uuid4``, ``tempfile`` and OpenSSL.
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
    """Import the modules that a task wrote to a file, one name per line. Return the answer for the worker."""
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
            except BaseException:  # noqa: S112 - if we can't import a module, the task imports it itself
                continue
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # every task would print what stays in a buffer
        except (OSError, ValueError, AttributeError):
            pass
    fault = unfit_reason()
    if fault:
        return b"unfit " + fault.encode("utf-8", "replace")
    import gc

    gc.collect()
    gc.freeze()  # without this, the garbage collector of each task would copy all pages
    return b"imported %d" % len(sys.modules)


def unfit_reason() -> str:
    """Return why forks of this process may behave differently from new processes. Empty if no reason is known."""
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
    """Check whether a process uses an accelerator (GPU). The context of an accelerator does not work after a fork.

    Args:
        files: The files that the process has open.
        libraries: The libraries that it has mapped.

    Returns:
        The reason in words. Empty if it uses none.
    """
    held = sorted(path for path in files if path.startswith(("/dev/nvidia", "/dev/kfd", "/dev/dri/")))
    names = ("libcuda.so", "libhsa-", "libamdhip", "libze_")
    drivers = sorted(path for path in libraries if path.rpartition("/")[2].startswith(names))
    return f"an import opened {held[0]} ({drivers[0] if drivers else 'by a library that is not known'})" if held else ""


def thread_reason(libraries: set[str]) -> str:
    """Return a sentence on threads that a fork would lose. Empty if there are none.

    The threads of OpenBLAS do not count: it starts them again in a forked process.

    Args:
        libraries: The libraries that this process has mapped.
    """
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
    """Write down the modules of a task when it opens its args file: most tasks have done their imports by then.

    Args:
        path: The args file.
        before: Names of the modules before the task began.
        report: The file to write.
        worker: The worker's pid. It gets a signal.
    """
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
    """Run a script as ``PYTHON SCRIPT`` does. Return the exception that it raised, or None."""
    main = type(sys)("__main__")
    # Since Python 3.9 the path of a script (__file__) is absolute.
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
    """Write down the names of the modules that a task imported, in their order. Add them to ``before``.

    Args:
        before: Names of the modules that are known already.
        path: The file to write.
    """
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
    """Return an excepthook that leaves our own frames out: a traceback then begins with the script."""

    def excepthook(kind: Any, value: Any, trace: Any) -> None:
        trace = trace and trace.tb_next
        if value is not None:
            value.__traceback__ = trace
        hook(kind, value, trace)

    return excepthook


def main() -> BaseException | None:
    """Run the nursery. In a forked task, return the exception of its script, which is then raised again."""
    fd, worker, script = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    # sys.path begins with the folder of the script, as Python does it, and not with the folder of this file.
    if not getattr(sys.flags, "safe_path", False) and not sys.flags.isolated:
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    task = serve(fd, worker, script)
    if task is None:
        os._exit(0)  # run no exit handlers of modules: only tasks should do that
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
