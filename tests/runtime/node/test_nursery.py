# SPDX-License-Identifier: GPL-3.0-or-later
"""Scripts that look at themselves: in a fork of a nursery they see, print and leave what they do in a new process."""

from __future__ import annotations

import os
import re
import resource
import signal
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from fractal_slurm.node import forks, nursery, processes

PYTHON = "/usr/bin/python3"


class End(NamedTuple):
    """How a task ended."""

    log: str
    out: str | None
    status: int
    peak_mb: float
    cpu_s: float
    pid: int


def reap(pid: int) -> tuple[int, resource.struct_rusage]:
    deadline = time.monotonic() + 60
    while True:
        try:
            found, status, usage = os.wait4(pid, os.WNOHANG)
        except ChildProcessError:  # its middle process has not ended yet, so it is not ours yet
            found = 0
        if found:
            return status, usage
        assert time.monotonic() < deadline, "the task did not end"
        time.sleep(0.002)


class Tasks:
    """Tasks of one command, started in either way as a worker does."""

    def __init__(self, folder: Path, command: list[str], env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.command = command
        self.env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        self.number = 0
        self.nursery: forks.Nursery | None = None

    def end(self, start) -> End:
        """Start a task by a function, and wait for its end."""
        self.number += 1
        stem = self.folder / f"task-{self.number}"
        log_fd = os.open(f"{stem}.log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        null_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        files = [f"{stem}.args", f"{stem}.out"]
        Path(files[0]).write_text("{}")
        try:
            pid = start(files, null_fd, log_fd)
            status, usage = reap(pid)
            processes.signal_group(pid, signal.SIGKILL)
        finally:
            os.close(log_fd)
            os.close(null_fd)
        out = Path(f"{stem}.out")
        text = Path(f"{stem}.log").read_text(encoding="utf-8", errors="replace").replace(str(stem), "STEM")
        # Addresses differ from start to start. A fork has three frames more below the script.
        text = re.sub("0x[0-9a-f]{8,}", "ADDRESS", re.sub("repeated [0-9]+ more times", "repeated", text))
        return End(
            text,
            out.read_text() if out.exists() else None,
            status,
            usage.ru_maxrss * 1024 / 1e6,
            usage.ru_utime + usage.ru_stime,
            pid,
        )

    def fresh(self) -> End:
        return self.end(self.spawned)

    def spawned(self, files: list[str], null: int, log: int) -> int:
        words = [*self.command, "--args-json", files[0], "--out-json", files[1]]
        return processes.spawn(words, self.env, null, log)

    def fork(self) -> End:
        """A task in a fork; the first call starts the nursery, and lets it learn from a task."""
        if self.nursery is None:
            self.open()
            self.end(self.forked)
            self.learn()
        return self.end(self.forked)

    def open(self) -> forks.Nursery:
        now = time.monotonic()
        self.nursery = forks.Nursery(self.command, str(self.folder), self.env, None, now)
        self.settle()
        return self.nursery

    def forked(self, files: list[str], _null: int, log: int) -> int:
        assert self.nursery is not None
        now = time.monotonic()
        pid, socket = self.nursery.fork(*files, log, {"ONE_MORE": "1"}, None, str(self.number), now)
        assert pid, self.nursery.why
        assert self.nursery.begin(socket)
        return pid

    def learn(self) -> None:
        assert self.nursery is not None
        self.nursery.learn(str(self.number), time.monotonic())
        self.settle()

    def settle(self) -> None:
        assert self.nursery is not None
        deadline = time.monotonic() + 60
        while self.nursery.state in ("starting", "importing"):
            self.nursery.look(time.monotonic())
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def tasks(tmp_path):
    """Makes tasks of a script's text; their nurseries are ended."""
    made = []
    # A worker blocks it and waits for it; pytest's own threads would be ended by it.
    before = signal.signal(signal.SIGUSR1, lambda *_: None)

    def make(text: str, *options: str, env: dict[str, str] | None = None) -> Tasks:
        folder = tmp_path / f"tasks-{len(made)}"
        folder.mkdir()
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(text), encoding="utf-8")
        made.append(Tasks(folder, [PYTHON, *options, str(script)], {"ONE_MORE": "1", **(env or {})}))
        return made[-1]

    yield make
    for each in made:
        if each.nursery is not None:
            each.nursery.end(None)
            reap(each.nursery.pid)
    signal.signal(signal.SIGUSR1, before)


# Each prints what it sees of itself. The words are those of which a task must not see a difference.
SCRIPTS = {
    "names of the script": """
        '''What it does.'''
        import sys
        print(sys.argv, __file__, __name__, __doc__, __spec__, __package__, type(__loader__).__name__)
        print(sys.path, getattr(sys, "orig_argv", None), sys.executable, sys.prefix)
        print(sys.modules["__main__"].__dict__.keys())
    """,
    "flags": "import sys; print(sys.flags, sys.warnoptions, sys._xoptions)",
    "process": """
        import os
        print(os.getpgid(0) == os.getpid(), os.getsid(0), os.getcwd(), os.getppid(), os.nice(0))
        print(oct(os.umask(0)), sorted(os.listdir("/proc/self/fd")), sorted(os.sched_getaffinity(0)))
        print(len(os.listdir("/proc/self/task")))
    """,
    "limits": "import resource; print([resource.getrlimit(number) for number in range(16)])",
    "environment": "import os; print(sorted(os.environ.items())); print(os.environb == os.environb)",
    "a child's environment": """
        import subprocess
        print(sorted(subprocess.run(["env", "-0"], capture_output=True).stdout.split(b"\\0")))
    """,
    "stdin": "import sys; print(repr(sys.stdin.read()), sys.stdin.fileno())",
    "output that stays in a buffer": """
        import sys
        sys.stdout.write("out without an end")
        sys.stderr.write("err without an end")
    """,
    "streams": """
        import sys
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            print(stream.name, stream.encoding, stream.errors, stream.line_buffering, stream.isatty(), stream.mode)
    """,
    "signals": """
        import signal
        for number in sorted(signal.valid_signals()):
            print(number, signal.getsignal(number))
        print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.set_wakeup_fd(-1))
        print(signal.getitimer(signal.ITIMER_REAL))
    """,
    "exit handlers": """
        import atexit, sys
        @atexit.register
        def first():
            print("at the end, after", sys.argv[0][-9:])
        atexit.register(print, "this one before")
        print("running")
    """,
    "an exit handler that fails": "import atexit; atexit.register(lambda: 1 / 0)",
    "exit with nothing": "import sys; print('x'); sys.exit()",
    "exit with a number": "import sys; sys.exit(7)",
    "exit with a large number": "import sys; sys.exit(1000)",
    "exit with words": "import sys; sys.exit('words for the log')",
    "exit with an object": "raise SystemExit(['a', 1])",
    "exit at once": "import os; print('lost in a buffer'); os._exit(9)",
    "an exception": "def f(n):\n    return 1 // n\n\nf(0)\n",
    "a chain of exceptions": """
        def f():
            try:
                {}["key"]
            except KeyError as error:
                raise RuntimeError("no such thing") from error
        try:
            f()
        except RuntimeError:
            raise ValueError("and then")
    """,
    "an exception with its own text": """
        class Odd(Exception):
            def __str__(self):
                raise ValueError("not even that")
        raise Odd
    """,
    "a deep recursion": "import sys\nsys.setrecursionlimit(120)\ndef f():\n    f()\nf()\n",
    "an error of syntax": "print('never')\nif True print('x')\n",
    "an import that fails": "import no_such_module_at_all",
    "an excepthook": """
        import sys
        def hook(kind, value, trace):
            print("hook", kind.__name__, value, trace.tb_lineno, trace.tb_next)
        sys.excepthook = hook
        1 / 0
    """,
    "an interrupt": "raise KeyboardInterrupt",
    "a signal": "import os, signal; print('x', flush=True); os.kill(os.getpid(), signal.SIGUSR2)",
    "a crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "an abort": "import os; os.abort()",
    "a handler of TERM": """
        import os, signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    """,
    "a child that outlives it": """
        import os, subprocess, sys
        child = subprocess.Popen(["sleep", "600"])
        print(os.getpgid(child.pid) == os.getpgid(0))
    """,
    "processes by fork": """
        import multiprocessing
        def square(n):
            return n * n
        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(2) as pool:
                print(pool.map(square, range(5)))
            print(multiprocessing.current_process().name, multiprocessing.parent_process())
    """,
    "processes by spawn": """
        import multiprocessing
        def square(n):
            return n * n
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(2) as pool:
                print(pool.map(square, range(5)))
    """,
    "processes of an executor": """
        from concurrent.futures import ProcessPoolExecutor
        def square(n):
            return n * n
        if __name__ == "__main__":
            with ProcessPoolExecutor(2) as pool:
                print(list(pool.map(square, range(5))))
    """,
    "threads": """
        import threading, time
        def late():
            time.sleep(0.2)
            print("late", threading.current_thread().name)
        threading.Thread(target=late).start()
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        print(threading.main_thread() is threading.current_thread())
        print(threading.main_thread().ident == threading.get_ident())
        print(threading.active_count())
    """,
    "an exception in a thread": """
        import threading
        thread = threading.Thread(target=lambda: 1 / 0, name="of its own")
        thread.start()
        thread.join()
        print("goes on")
    """,
    "logging": """
        import logging, sys
        logging.warning("before it is configured")
        logging.getLogger("a.b").addHandler(logging.StreamHandler(sys.stdout))
        logging.getLogger("a.b").error("by a handler")
        print(logging.getLogger().handlers, logging.root.level)
        record = logging.makeLogRecord({})
        print(0 <= record.relativeCreated < 60_000, record.processName, record.threadName)
    """,
    "warnings": """
        import warnings
        for _time in range(2):
            warnings.warn("by the script", DeprecationWarning)
            warnings.warn("of another kind", ResourceWarning)
        print(warnings.filters[:3], warnings.showwarning)
    """,
    "its own names in a pickle": """
        import pickle
        class Thing:
            def __init__(self, n): self.n = n
        def f(): return 3
        thing, g = pickle.loads(pickle.dumps((Thing(4), f)))
        print(thing.n, g(), Thing.__module__, f.__module__)
    """,
    "its own source": """
        import inspect, linecache
        def f():
            return "this line"
        print(inspect.getsource(f), linecache.getline(__file__, 2), inspect.getmodule(f))
    """,
    "annotations": """
        import dataclasses, typing
        x: int = 3
        @dataclasses.dataclass
        class Point:
            a: int
            b: "typing.Optional[Point]" = None
        print(Point(1), typing.get_type_hints(Point))
    """,
    "words that are not ASCII": "print('\\u00e4\\u4e2d'); import sys; print(sys.getfilesystemencoding())",
    "an out-JSON": """
        import argparse, json
        parser = argparse.ArgumentParser()
        parser.add_argument("--args-json")
        parser.add_argument("--out-json")
        arguments = parser.parse_args()
        print(parser.prog, json.load(open(arguments.args_json)))
        json.dump({"answer": 42}, open(arguments.out_json, "w"))
    """,
    "an argument that is wrong": """
        import argparse
        argparse.ArgumentParser().parse_args()
    """,
    "temporary files": """
        import os, tempfile
        with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory() as folder:
            print(os.path.exists(file.name), oct(os.stat(folder).st_mode))
    """,
    "an event loop": """
        import asyncio
        async def f():
            await asyncio.sleep(0)
            return 5
        print(asyncio.run(f()))
    """,
    "a subprocess": """
        import subprocess, sys
        print(subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True))
    """,
    "the end of modules": """
        class Last:
            def __del__(self):
                print("the last word", flush=True)
        last = Last()
    """,
    "the time of the process": "import time; print(time.process_time() < 5, time.thread_time() < 5)",
    "the garbage": """
        import gc, weakref
        class A: pass
        a = A()
        r = weakref.ref(a)
        del a
        print(r(), gc.isenabled(), gc.get_threshold())
    """,
}


class TestFork:
    @pytest.mark.parametrize("name", SCRIPTS)
    def test_a_script_sees_and_leaves_the_same(self, tasks, name):
        made = tasks(SCRIPTS[name])
        fresh, fork = made.fresh(), made.fork()
        assert (fork.log, fork.out, fork.status) == (fresh.log, fresh.out, fresh.status)

    @pytest.mark.parametrize(
        "options", [("-u",), ("-X", "dev"), ("-Xutf8", "-Werror"), ("-W", "ignore", "-u", "-X", "dev")]
    )
    @pytest.mark.parametrize(
        "name", ["flags", "streams", "warnings", "an exception", "a chain of exceptions", "threads"]
    )
    def test_options_of_python_are_passed_on(self, tasks, name, options):
        made = tasks(SCRIPTS[name], *options)
        fresh, fork = made.fresh(), made.fork()
        assert (fork.log, fork.out, fork.status) == (fresh.log, fresh.out, fresh.status)

    @pytest.mark.parametrize(
        "env", [{"LC_ALL": "C", "LANG": "C"}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONSAFEPATH": "1"}]
    )
    @pytest.mark.parametrize("name", ["streams", "words that are not ASCII", "names of the script", "flags"])
    def test_variables_of_python_hold(self, tasks, name, env):
        made = tasks(SCRIPTS[name], env=env)
        fresh, fork = made.fresh(), made.fork()
        assert (fork.log, fork.out, fork.status) == (fresh.log, fresh.out, fresh.status)

    def test_modules_beside_the_script_are_found(self, tasks, tmp_path):
        (tmp_path / "helper_of_it.py").write_text("NAME = __name__\nprint('imported')\n")
        made = tasks("import helper_of_it\nprint(helper_of_it.NAME, helper_of_it.__file__)\n")
        fresh, fork = made.fresh(), made.fork()
        assert fresh.log.startswith("imported\n")
        assert fork.log == fresh.log

    def test_no_two_tasks_share_what_is_random(self, tasks):
        made = tasks(
            """
            import multiprocessing, os, random, secrets, tempfile, uuid
            print(random.random(), secrets.token_hex(8), uuid.uuid4(), uuid.uuid1(), tempfile.mktemp())
            print(bytes(multiprocessing.current_process().authkey).hex())
            """
        )
        logs = [made.fork().log.split() for _number in range(4)]
        for values in zip(*logs, strict=True):
            assert len(set(values)) == 4, values

    def test_torch_is_seeded_anew(self, tasks, tmp_path):
        # Of torch, which is too large for this, only what is called: it draws its seed when it is imported.
        (tmp_path / "torch.py").write_text(
            "import os\nnumber = os.urandom(8)\ndef seed():\n    global number\n    number = os.urandom(8)\n"
        )
        made = tasks("import torch\nprint(torch.number)\n")
        assert len({made.fork().log for _number in range(3)}) == 3

    def test_memory_and_cpu_are_those_of_the_task(self, tasks):
        use = """
            import os, time
            held = bytearray(os.urandom(1 << 20) * 150) if os.environ.get("HOLD") else None
            while time.process_time() < (0.5 if held else 0):
                pass
        """
        idle, busy = tasks(use), tasks(use, env={"HOLD": "1"})
        assert idle.fork().peak_mb < 60
        fresh, fork = busy.fresh(), busy.fork()
        assert abs(fork.peak_mb - fresh.peak_mb) < 100  # of 300
        assert 0.4 < fork.cpu_s < 5

    def test_imports_are_done_once(self, tasks):
        made = tasks(
            "import sys, time\nprint('email.mime.text' in sys.modules)\nimport email.mime.text, unittest.mock\n"
        )
        assert made.fresh().log == "False\n"
        assert made.fork().log == "True\n"
        assert made.nursery.modules > 50

    def test_the_first_task_tells_its_modules_when_it_opens_its_args(self, tasks):
        made = tasks(
            """
            import email.mime.text, sys, time
            print("unittest.mock" in sys.modules)
            open(sys.argv[2])
            time.sleep(1)
            import unittest.mock
            """
        )
        nursery_ = made.open()
        assert not nursery_.is_learning(time.monotonic())

        def start(files, null, log):
            pid = made.forked(files, null, log)
            assert nursery_.is_learning(time.monotonic())
            while nursery_.is_learning(time.monotonic()):
                nursery_.learn(str(made.number), time.monotonic())
                time.sleep(0.01)
            assert nursery_.state == "importing"
            made.settle()
            assert os.path.exists(f"/proc/{pid}")  # it still runs
            return pid

        assert made.end(start).log == "False\n"
        assert (nursery_.state, nursery_.rounds) == ("ready", 1)
        made.learn()  # what it imported later
        assert nursery_.rounds == 2
        assert made.fork().log == "True\n"

    def test_a_nursery_learns_again_where_its_first_task_ended_early(self, tasks):
        made = tasks(
            """
            import os, sys
            print("email.mime.text" in sys.modules)
            if not os.path.exists(__file__ + ".been"):
                open(__file__ + ".been", "w").close()
                sys.exit(3)
            import email.mime.text
            """
        )
        assert made.fork().log == "False\n"
        made.learn()
        assert made.fork().log == "True\n"


class TestUnfit:
    """Where a fork could behave otherwise, there is none, and the reason is told."""

    def why(self, made: Tasks) -> str:
        made.open()
        made.end(made.forked)
        made.learn()
        assert made.nursery is not None
        assert made.nursery.state == "ended"
        return made.nursery.why or ""

    def test_threads_of_imports(self, tasks, tmp_path):
        (tmp_path / "with_thread.py").write_text(
            "import threading, time\n"
            "threading.Thread(target=time.sleep, args=(600,), daemon=True, name='pump').start()\n"
        )
        assert "started 1 threads (pump)" in self.why(tasks("import with_thread\n"))

    def test_an_import_that_ends_the_nursery(self, tasks, tmp_path):
        (tmp_path / "deadly.py").write_text("import os, sys\nif 'nursery' in sys.argv[0]: os._exit(1)\n")
        assert self.why(tasks("import deadly\n")) == "the nursery ended by itself"

    def test_an_import_that_takes_too_long(self, tasks, tmp_path, monkeypatch):
        monkeypatch.setattr(forks, "IMPORT_S", 0.3)
        (tmp_path / "slow.py").write_text("import sys, time\nif 'nursery' in sys.argv[0]: time.sleep(600)\n")
        assert "within 0.3 s" in self.why(tasks("import slow\n"))

    def test_a_device_that_an_import_holds(self, tmp_path):
        # The names of devices are looked at, and not what they are: no accelerator is needed for this.
        device = tmp_path / "dev" / "nvidia0"
        device.parent.mkdir()
        device.touch()
        assert nursery.held_device([str(device)], []) == ""
        assert nursery.held_device(["/dev/nvidia0", "/dev/null"], ["/usr/lib/libcuda.so.1"]) == (
            "an import opened /dev/nvidia0 (/usr/lib/libcuda.so.1)"
        )
        assert "/dev/kfd" in nursery.held_device(["/dev/kfd"], [])
        assert "/dev/dri/renderD128" in nursery.held_device(["/dev/dri/renderD128"], ["/lib/libze_loader.so.1"])

    @pytest.mark.parametrize(
        "command",
        [
            ["/bin/sh", "x.py"],
            ["python3"],
            ["python3", "-m", "module"],
            ["python3", "-c", "pass", "x.py"],
            ["python3", "-I", "{script}"],
            ["python3", "-W"],
            ["pythonista", "{script}"],
            ["python3", "/no/such/script.py"],
            ["python3", "{folder}"],
            ["{script}"],
        ],
    )
    def test_other_commands_start_as_ever(self, tmp_path, command):
        script = tmp_path / "script.py"
        script.touch()
        words = [word.format(script=script, folder=tmp_path) for word in command]
        assert forks.split_python(words) is None

    def test_a_command_is_taken_apart(self, tmp_path):
        script = tmp_path / "script.py"
        script.touch()
        words = ["/opt/v/bin/python3.12", "-u", "-X", "dev", "-Wignore", str(script), "measure", "-m"]
        assert forks.split_python(words) == (words[:5], str(script), ["measure", "-m"])


class TestExactlyOnce:
    def test_a_task_that_the_worker_does_not_confirm_never_begins(self, tasks, tmp_path):
        mark = tmp_path / "mark"
        made = tasks(f"open({str(mark)!r}, 'a').write('x')\n")
        made.open()
        log_fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        pid, socket = made.nursery.fork("args", "out", log_fd, {}, None, "1", time.monotonic())
        os.close(log_fd)
        socket.close()
        status, _usage = reap(pid)
        assert (status, mark.exists()) == (0, False)

    def test_a_task_lives_on_without_its_nursery(self, tasks, tmp_path):
        made = tasks("import time\ntime.sleep(1)\nprint('done')\n")
        made.open()

        def start(files, null, log):
            pid = made.forked(files, null, log)
            os.kill(made.nursery.pid, signal.SIGKILL)
            return pid

        assert made.end(start).log == "done\n"

    def test_a_dead_nursery_forks_nothing(self, tasks, tmp_path):
        made = tasks("print('x')\n")
        made.open()
        os.kill(made.nursery.pid, signal.SIGKILL)
        time.sleep(0.1)
        log_fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        assert made.nursery.fork("args", "out", log_fd, {}, None, "1", time.monotonic()) == (0, None)
        os.close(log_fd)
        assert made.nursery.state == "ended"
        assert made.nursery.why
