# SPDX-License-Identifier: BSD-3-Clause
"""The hook runs the tasks of fractal-server's own job scripts, with the loop of the worker.

``fractal-job.sh`` in this folder calls :func:`check`. If the script is known, its shell is replaced by :func:`main`
(exec). For each task, fractal-server starts an srun and its program ``remote``. The hook does the work of that program
itself: it runs the command with its log file, and writes the output file in the same form. If a task's input file has
an unknown form, the program ``remote`` runs this task. After the tasks, this process is replaced by a shell, which runs
the rest of the script.

If the job has several nodes, one srun step runs :func:`main` on each node. The nodes share the tasks by marks in a
folder beside the output files. If something fails before a task has begun, the script's own lines run unchanged.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from . import processes
from .folders import remove
from .limits import OomKills, job_end
from .loop import PASSING, Job, Loop, Slot, Starts
from .placement import gpus_of_node, is_number, slot_environment, slots_of_node, split_cpus
from .processes import WAITED, prepare_process, signal_group, spawn
from .protocol import MAGIC
from .server_script import CACHE_KEY, Script, Unknown, plain_words, read_input, read_script, read_task, split_command
from .task_queue import Queue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# How long tasks have to end when SLURM ends the job. After KillWait (30 s by default) SLURM kills all of them.
GRACE_S = 10.0
# If a job is ended so many seconds before its time limit, or later, the time limit is the reason.
LIMIT_S = 1.0
# If a log has more characters, fractal-server shows only its length.
MAX_STDERR = 100_000
# The bytes of a log whose characters we count for that, and of what a task writes for the server. To read more would
# keep the other tasks waiting, and the end of the job as well.
MAX_READ = 256_000_000
# Variables by which a script gives more to each srun. We start none for each task.
OF_SRUN = (
    "SLURM_PROLOG",
    "SLURM_EPILOG",
    "SLURM_TASK_PROLOG",
    "SLURM_TASK_EPILOG",
    "SLURM_CONTAINER",
    "SRUN_CONTAINER",
)
ERROR = "fractal_server.runner.exceptions.TaskExecutionError"


def check(path: str) -> int:
    """Check whether a script, and the input of its first task, are known. If not, print the reason.

    Returns:
        0 if they are known. 3 if the script must run unchanged. Python itself exits with other codes if it fails.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
        if b"\n" + MAGIC in data:
            return 3  # a job of our own engine, which has the same configuration
        read_known_input(read_script(data).tasks[0].decode())
    except Unknown as reason:
        print(f"fractal-slurm: this job runs as fractal-server wrote it: {reason}", flush=True)
        return 3
    return 0


def read_known_input(line: str) -> dict[str, Any]:
    """Read the input of a task.

    Args:
        line: The task's line in the script.

    Raises:
        Unknown: The input file can't be read, or has an unknown form.
    """
    try:
        with open(read_task(line)[2], encoding="utf-8", opener=open_at_once) as file:
            return read_input(json.load(file))
    except (OSError, ValueError, RecursionError) as error:
        raise Unknown(f"a task's input file can't be read: {error}") from None


class ServerStarts(Starts):
    """Starts tasks as new processes. fractal-server's own program prints to the output of the job."""

    def __init__(self, pins: bool) -> None:
        super().__init__(pins)
        self.error_fd = os.dup(2)

    def new_process(self, loop: Loop, slot: Slot, words: list[str]) -> int:
        if slot.log_fd >= 0:
            return super().new_process(loop, slot, words)
        return spawn(words, slot.env, self.null_fd, 1, ((self.error_fd, 2),))


class ServerJob(Job):
    """The tasks of a script of fractal-server.

    Args:
        script: The script.
        tasks_per_node: The value of SLURM_TASKS_PER_NODE.
        marks: If the job has several nodes, the folder in which they mark the tasks that they took.
        before_s: Seconds that passed in the job before the job step of this process began.
    """

    def __init__(self, script: Script, tasks_per_node: str, marks: str, before_s: float) -> None:
        node = int(os.environ.get("SLURM_NODEID") or 0)
        cpus = os.environ.get("SLURM_CPUS_PER_TASK", "")
        self.cpus_per_task = int(cpus) if is_number(cpus) else 1
        all_slots, slot_count = slots_of_node(tasks_per_node, node)
        slot_count = slots_with_gpus(script, slot_count)
        self.limit = job_end(script.time_s, before_s)
        self.oom_kills = OomKills()
        self.unwritten: list[tuple[str, bytes]] = []
        self.said: str | None = None
        self.document: dict[int, dict[str, Any]] = {}  # number of the slot -> input of its task, if that is known
        self.outputs: dict[int, str] = {}  # number of the slot -> output file of its task
        queue = Queue(script.tasks, len(all_slots), sum(all_slots), node)
        queue.marks = marks
        cpu_sets = split_cpus(slot_count, self.cpus_per_task)
        slots = [
            Slot(
                number,
                slot_environment(number, slot_count, self.cpus_per_task),
                cpu_sets[number] if cpu_sets else None,
            )
            for number in reversed(range(slot_count))
        ]
        # There is no deadline: as without the hook, tasks may begin as long as the job runs.
        self.loop = Loop(self, queue, ServerStarts(cpu_sets is not None), slots, None, 0.0, GRACE_S)

    def begin(self, slot: Slot) -> list[str]:
        line = slot.line.decode()
        self.outputs[slot.number] = read_task(line)[3]
        slot.env.pop("FRACTAL_CACHE_DIR", None)
        if "FRACTAL_CACHE_DIR" in os.environ:
            slot.env["FRACTAL_CACHE_DIR"] = os.environ["FRACTAL_CACHE_DIR"]
        try:
            document = read_known_input(line)
            words = split_command(document["full_command"])
            if not is_program(words[0]):
                raise Unknown("its command is not there, which fractal-server says in its own words")
        except Unknown:
            self.document.pop(slot.number, None)
            return plain_words(line)
        if CACHE_KEY in document:
            slot.env["FRACTAL_CACHE_DIR"] = document[CACHE_KEY]
        try:
            slot.log_fd = open_at_once(document["log_file_remote"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.set_blocking(slot.log_fd, True)
        except OSError as error:
            if error.errno in PASSING:
                raise
            self.document.pop(slot.number, None)
            return plain_words(line)
        self.document[slot.number] = document
        return words

    def undo(self, slot: Slot) -> None:
        self.close_log(slot)

    def close_log(self, slot: Slot) -> None:
        """Close the log of the task in a slot."""
        if slot.log_fd >= 0:
            os.close(slot.log_fd)
            slot.log_fd = -1

    def finish(
        self, slot: Slot, status: int | None, usage: tuple[float, float] | None, verdict: tuple[str, str] | None
    ) -> bool:
        """Write the output file of a task that ended. See :meth:`.loop.Job.finish`."""
        self.close_log(slot)
        document = self.document.pop(slot.number, None)
        output = self.outputs[slot.number]
        words = None
        if verdict is not None and verdict[0] == "cut":
            # If the job was cancelled, write no output file: fractal-server knows that it cancelled the job.
            words = self.cut_words() if self.is_at_limit() else None
        elif status:
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            starved = self.oom_kills.is_one_more()
            if document is not None:
                words = f"Task failed with returncode={code}.\nSTDERR: {stderr_of(document['log_file_remote'])}"
            elif starved:
                words = f"Task failed with returncode={code}."
            if starved:
                words = f"{words}\nThe kernel ended a process of this job for lack of memory: ask for more (mem)."
        elif status is None:
            words = verdict[1] if verdict is not None else "it could not be started"
        elif document is not None:
            self.keep(output, outcome_of(document["metadiff_file_remote"]))
            return True
        if words is not None:
            self.keep(output, failure(words))
        return True

    def is_at_limit(self) -> bool:
        """Return whether the job has reached its time limit. SLURM ends it then, or up to a minute later."""
        return self.limit is not None and time.monotonic() >= self.limit - LIMIT_S

    def cut_words(self) -> str:
        """Return the error of a task that was ended by the time limit of its job."""
        return "The job was over its time limit (time), which is for all of its tasks together."

    def keep(self, path: str, result: list[Any]) -> None:
        """Write an output file, as fractal-server's own program does. If there is no room, write it later."""
        self.unwritten.append((path, json.dumps(result, indent=2).encode()))
        self.write()

    def write(self) -> None:
        """Write the output files that are not written yet."""
        while self.unwritten:
            path, data = self.unwritten[0]
            try:
                fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
                try:
                    while data:
                        data = data[os.write(fd, data) :]
                finally:
                    os.close(fd)
                os.rename(f"{path}.new", path)
            except OSError as error:
                if error.errno in PASSING:
                    self.complain(f"{path} can't be written: {error.strerror}; waiting for room")
                    return
                self.complain(f"{path} can't be written: {error.strerror}")
            del self.unwritten[0]

    def is_blocked(self) -> bool:
        return bool(self.unwritten)

    def look(self, now: float) -> str | None:
        self.write()
        return None

    def complain(self, text: str) -> None:
        if text != self.said:
            self.said = text
            try:
                os.write(2, f"fractal-slurm: {text}\n".encode("utf-8", "surrogateescape"))
            except OSError:
                pass

    def run(self) -> bool:
        """Run all tasks. Return whether all of them have run."""
        self.loop.run()
        give_up = time.monotonic() + GRACE_S
        while self.unwritten and (time.monotonic() < give_up or not self.loop.ending):
            info = signal.sigtimedwait(WAITED, 1.0)
            if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
                self.loop.ending = True
            self.write()
        if self.loop.ending and self.is_at_limit():
            while True:
                line = self.loop.queue.take()
                if line is None:
                    break
                self.keep(read_task(line.decode())[3], failure(f"It did not begin. {self.cut_words()}"))
        return not self.loop.ending


def failure(words: str) -> list[Any]:
    """Return the result of a failed task, in the form that fractal-server reads."""
    return [False, {"exc_type_name": "TaskExecutionError", "traceback_string": f"{ERROR}: {words}\n"}]


def open_at_once(path: str, flags: int) -> int:
    """Open a file of a task, and never wait for it: if it is a pipe, nobody may be at its other end.

    A task that waited so would hold all others, and this process could not hear that the job is ended.
    """
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)


def slots_with_gpus(script: Script, slots: int) -> int:
    """Return how many slots of this node have a GPU of their own, if the script asks for GPUs. Else return ``slots``.

    SLURM gives the GPUs of a job to one srun at a time. So tasks need not expect that another one uses their GPU.
    """
    gpus = gpus_of_node() if script.has_gpus else None
    return slots if gpus is None else min(slots, gpus)


def is_program(word: str) -> bool:
    """Return whether a command exists and may be executed."""
    places = [word] if "/" in word else [f"{folder}/{word}" for folder in os.get_exec_path()]
    return any(os.path.isfile(place) and os.access(place, os.X_OK) for place in places)


def outcome_of(path: str) -> list[Any]:
    """Return the result of a successful task: what it wrote for the server, if it wrote anything.

    Args:
        path: The file that the task wrote.
    """
    try:
        with open(path, encoding="utf-8", opener=open_at_once) as file:
            if os.fstat(file.fileno()).st_size > MAX_READ:
                raise ValueError(f"it has more than {MAX_READ} bytes")
            return [True, json.load(file)]
    except FileNotFoundError:
        return [True, None]
    except (OSError, ValueError, RecursionError) as error:
        name = type(error).__name__
        return [False, {"exc_type_name": name, "traceback_string": f"{name}: {path}: {error}\n"}]


def stderr_of(path: str) -> str:
    """Return the output of a task as fractal-server shows it. If it is too long, return a sentence with its length."""
    try:
        with open(path, encoding="utf-8", errors="replace", opener=open_at_once) as file:
            text = file.read(MAX_STDERR + 1)
            length = len(text)
            size = os.fstat(file.fileno()).st_size
            if size > MAX_READ:
                length = size  # about as many characters
            while MAX_STDERR < length < MAX_READ:
                more = len(file.read(1 << 20))
                if not more:
                    break
                length += more
    except OSError as error:
        return f"(its log can't be read: {error.strerror})"
    if length > MAX_STDERR:
        return (
            f"Cannot display stderr of length {length}. You can find the "
            "detailed logs by downloading the job-log folder."
        )
    return text


def run_on_nodes(path: str, script: Script, tasks_per_node: str) -> bool | None:
    """Run a script's tasks on several nodes, with one srun step.

    Returns:
        Whether all tasks have run. None if no task has begun.

    Raises:
        OSError: The step could not be started.
    """
    output = read_task(script.tasks[0].decode())[3]
    job, restart = os.environ.get("SLURM_JOB_ID", "0"), os.environ.get("SLURM_RESTART_COUNT", "0")
    marks = f"{os.path.dirname(output)}/.fractal-slurm-{job}-{restart}-{os.urandom(4).hex()}"
    nodes = os.environ["SLURM_JOB_NUM_NODES"]
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    code = "import sys; sys.path.append(sys.argv[1]); from node import hook\nsys.exit(hook.main(sys.argv[2:]))"
    umask = os.umask(0o077)
    os.umask(umask)
    # srun overwrites SLURM_TASKS_PER_NODE. It uses SLURM_UMASK, which sbatch has set, and not its own umask.
    environment = {**os.environ, "SLURM_UMASK": f"{umask:04o}"}
    # sbatch --export=NONE sets this variable. With it, the step would have no PATH.
    environment.pop("SLURM_EXPORT_ENV", None)
    words = [
        "srun", "--quiet", "--export=ALL", "--input=all", f"--nodes={nodes}", f"--ntasks={nodes}",
        "--ntasks-per-node=1", "--mem=0", "--overlap", *unbound(), "--mpi=none", "--kill-on-bad-exit=0", "--wait=0",
        sys.executable, "-I", "-S", "-c", code, folder, "-", tasks_per_node, marks, f"{script_age_s():.0f}",
    ]  # fmt: skip
    os.mkdir(marks, 0o700)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        pid = spawn(words, environment, fd, 1, ((os.dup(2), 2),))
        os.close(fd)
        ending, kill_at = False, 0.0
        while True:
            info = signal.sigtimedwait(WAITED, 1.0)
            if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT) and not ending:
                ending, kill_at = True, time.monotonic() + GRACE_S + 5.0
                signal_group(pid, signal.SIGTERM)
            if ending and time.monotonic() > kill_at:
                signal_group(pid, signal.SIGKILL)
            ended, _status = os.waitpid(pid, os.WNOHANG)
            if ended:
                # Each task that began has left a mark.
                return None if not ending and not os.listdir(marks) else not ending
    finally:
        for name in os.listdir(marks):
            remove(f"{marks}/{name}")
        os.rmdir(marks)


def unbound() -> list[str]:
    """Return the option of srun that lets a step use all CPUs of its job.

    Without TaskPlugin=task/affinity no CPUs are bound, and no option is needed. srun would then print an error about
    the option, and fractal-server would take this for a fault.
    """
    import subprocess

    try:
        words = ["scontrol", "show", "config"]
        said = subprocess.run(words, capture_output=True, timeout=20, check=True, stdin=subprocess.DEVNULL).stdout
    except (OSError, subprocess.SubprocessError):
        return ["--cpu-bind=none"]
    lines = [line for line in said.splitlines() if line.split(b"=")[0].strip() == b"TaskPlugin"]
    return [] if lines and b"affinity" not in lines[0] else ["--cpu-bind=none"]


def script_age_s() -> float:
    """Return the seconds since the script began. This process replaced it, so this is the age of the process."""
    from .limits import process_age_s

    return process_age_s()


def become_shell(path: str, line: int) -> NoReturn:
    """Replace this process by a shell that runs the rest of a script, with the signals as they were at its begin.

    Args:
        path: The script.
        line: The number of the first line that is to run.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, processes.inherited_mask)
    # The rest may have many tasks. As a word of a command line it would be too long for the kernel.
    text = 'eval "$(tail -n "+$1" -- "$0")"'
    os.execv("/bin/sh", ("sh", "-c", text, path, str(line)))  # noqa: S606 - it is one


def die() -> NoReturn:
    """End by SIGTERM, as the script does when SLURM ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITED)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1.0)
    os._exit(128 + signal.SIGTERM)


def wait_for_others(pids: list[int] | None) -> bool:
    """Wait for the processes that the script started, as its own ``wait`` does. Return False if the job is ended.

    Args:
        pids: These processes. None for all that are left.
    """
    waiting = [-1] if pids is None else list(pids)
    while waiting:
        try:
            if not os.waitpid(waiting[-1], os.WNOHANG)[0]:
                info = signal.sigtimedwait(WAITED, 1.0)
                if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
                    return False
        except ChildProcessError:
            del waiting[-1]
    return True


def main(argv: list[str]) -> int:
    """Entry point: ``hook SCRIPT TASKS_PER_NODE OTHERS``, or in a job step ``hook - TASKS_PER_NODE MARKS SECONDS``.

    ``OTHERS`` are the pids that the script would wait for, or ``all``. In a job step, standard input has the script,
    and ``SECONDS`` says how long the job ran before the step.
    """
    prepare_process()
    path, tasks_per_node, others, *more = argv
    if path == "-":
        script = read_script(sys.stdin.buffer.read())
        job = ServerJob(script, tasks_per_node, others, float(more[0]))
        job.run()
        return 0
    with open(path, "rb") as file:
        data = file.read()
    script = read_script(data)
    try:
        nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
        all_slots = slots_of_node(tasks_per_node, 0)[0]
        if min(all_slots) < 1:
            raise ValueError(f"SLURM_TASKS_PER_NODE is {tasks_per_node[:40]!r}")
        for name in OF_SRUN:
            if name in os.environ:
                raise ValueError(f"{name} is set, which is for each srun")
        if nodes != "1" and "SLURM_GPUS_PER_TASK" in os.environ:
            # SLURM counts our processes as the tasks. So each would get the GPUs of one slot.
            raise ValueError("it has several nodes, and GPUs for each task (--gpus-per-task)")
        slots = sum(slots_with_gpus(script, count) for count in all_slots)
        print(
            f"fractal-slurm: {len(script.tasks)} tasks in {slots} slots on {nodes} nodes, without an srun a task",
            flush=True,
        )
        whole: bool | None = None
        if nodes == "1":
            job = ServerJob(script, tasks_per_node, "", 0.0)
        else:
            whole = run_on_nodes(path, script, tasks_per_node)
            if whole is None:
                raise OSError("srun could not start its step")
    except Exception as error:
        print(f"fractal-slurm: this job runs as fractal-server wrote it: {error}", flush=True)
        become_shell(path, script.first)
    if nodes == "1":
        whole = job.run()
    if not whole or not wait_for_others(None if others == "all" else [int(pid) for pid in others.split()]):
        die()
    become_shell(path, script.after)
