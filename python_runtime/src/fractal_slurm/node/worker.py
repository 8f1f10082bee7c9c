# SPDX-License-Identifier: BSD-3-Clause
"""The worker: runs the tasks of one SLURM job, on one of its nodes, inside of the job.

The job's script ends in ``exec python … worker``, so that SLURM's signals reach the worker itself. It reads
its tasks from the script (or from standard input, where srun hands the script to several nodes), keeps every
slot busy from one queue, and appends one line to its result file for each task that ended.

Standard library only, no import that is not needed before the first task starts, and nothing from the rest of
this package: this file runs on compute nodes, as the user, with whatever Python >= 3.8 is there.

What is on disk, in the job's folder (made by the worker, private to the user):

``results-RESTART-NODE``    one record a task, each line begun and ended with a newline, so that a torn line
                            never swallows its neighbour
``log-RESTART-NODE``        what the tasks printed, one after the other; a record names offset and length
``slot-RESTART-NODE-SLOT``  what the task that runs in a slot has printed so far
``chunks-RESTART/``         jobs on several nodes: which chunk of tasks was taken by which node

Beside it, ``TOKEN.claim`` and ``TOKEN.claim.stop``; see docs/architecture.md.

Colleagues may write in a folder above the run's, and rename what is in it. So the worker opens the run's folder once,
proves by that descriptor that it is the user's own and private, and reaches all of the above through descriptors. Its
files are private by explicit modes: the umask is the tasks'.

With ``isolation = "step"`` each slot is a step of its own (one srun a slot, not a task), so that SLURM holds each
slot to its memory. A slot worker in the step (:func:`slot_main`) is handed one task after the other through files of
the scratch folder: ``slot-N.todo`` (what to run), ``slot-N.pid`` (what runs), ``slot-N.done`` (how it ended).
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import sys
import time

from .folders import EVERYBODY, NOBODY, UNKNOWN, Unsafe, look_above, open_own_folder, private, remove, whole_lines
from .limits import group_memory_mb, job_end, oom_kills
from .placement import is_number, slot_environment, slots_of_node, split_cpus
from .processes import WAITED, prepare_process, signal_group, signal_name, spawn
from .protocol import (
    BEAT_S,
    CLAIM,
    CLAIM_PREFIX,
    MAX_OUT_DEPTH,
    NO_FILES_EXIT,
    NO_RESULTS_EXIT,
    NO_STEPS,
    NO_STEPS_EXIT,
    OUTPUT,
    OWN_WORDS,
    STOP,
    UNSAFE_EXIT,
    is_deep,
    log_name,
    read_work,
    results_name,
    task_log_name,
)

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of the others
if TYPE_CHECKING:
    from typing import Any

    from .nursery import Nursery

# How long a task that was ended by a signal waits for the worker's own SIGTERM before it is called failed:
# SLURM signals all processes of a job at once, and the worker may see its task's death first.
SETTLE_S = 0.3
ENDING = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP)
TICK_S = 1.0
WATCH_S = 0.5
# How often a worker looks at the memory of steps, and how long it leaves one that has too much to SLURM.
STEP_WATCH_S, STEP_MEMORY_S = 5.0, 15.0
SYNC_S = 5.0
TASK_KILL_S = 10.0
# SLURM ends a job up to a minute late, never early: a task that would need its whole time may end so late.
LATE_S = 30.0
# How long the worker waits where no task can be started.
RETRY_S = 1.0
# A wait that took so much longer than it should was no wait: the job was suspended.
SUSPENDED_S = 5.0
MAX_STEP_FAILURES = 3
# How long a step may take to begin: slurmctld may be away for a while, but an srun that nodes do not reach never ends.
STEP_START_S = 300.0
# How long a job waits for room for its first files, of its time limit half at the most.
ROOM_WAIT_S = 300.0
# What a full node or disk says. It passes, and is no task's fault.
PASSING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT}
# Of what the script says, this much is kept.
PRINTED_BYTES = 1000


class Fenced(Exception):
    """The work of this job was given to another job."""


def chunk_bounds(tasks: int, slots: int) -> list[int]:
    """Cut the queue into chunks that shrink towards its end, for several nodes to take from.

    Large at first, so that few are taken (a file operation each, on a network file system); single tasks at
    the end, so that all nodes finish together.

    Returns:
        The start of each chunk, and the number of tasks as the last value.
    """
    bounds = [0]
    while bounds[-1] < tasks:
        bounds.append(bounds[-1] + max(1, (tasks - bounds[-1]) // (2 * slots)))
    return bounds


class Slot:
    """A place for one running task."""

    def __init__(self, number: int, env: dict[str, str], cpus: set[int] | None, log_path: str) -> None:
        self.number = number
        self.env = env
        self.cpus = cpus
        self.log_path = log_path
        self.log_fd = -1
        self.pid = 0  # whose end is the task's end: the task, or in a step of its own the srun
        self.step = 0  # the srun of its step
        self.forked = False  # whether its task runs in a fork of the nursery
        self.first = False  # whether its task is the job's first
        self.starved = False  # whether its step ran out of memory under the task
        self.over_since: float | None = None  # since when it has more memory than it may have
        self.taken_back = False  # whether its step was told to end before it took the task
        self.line = b""  # the task, as the script has it
        self.index = self.attempt = 0
        self.files = ("", "")
        self.began = self.began_clock = 0.0
        self.handed_over = 0.0  # when its step got the task
        self.kill_at: float | None = None  # when SIGKILL follows, once the task has been told to end
        self.verdict: tuple[str, str] | None = None  # why we end the task: (state, reason)


class Worker:
    """Runs the tasks; see the module's text."""

    def __init__(
        self,
        header: dict[str, str],
        command: list[str],
        lines: list[bytes],
        tasks_per_node: str,
        before_s: float = 0.0,
    ) -> None:
        self.header = header
        self.job = os.environ.get("SLURM_JOB_ID", "0")
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        self.node = int(os.environ.get("SLURM_NODEID") or 0)
        self.host = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        # The run's folder, as the script names it; begin() opens it, and goes by the descriptor.
        self.run_path, _slash, self.name = header["folder"].rpartition("/")
        self.run_folder = self.folder = ""
        self.shown: dict[str, str] = {}  # what such a path by descriptor is called in words
        self.above = UNKNOWN  # who else may put another in its place
        self.command = command
        self.cpus_per_task = int(header["cpus_per_task"])
        self.task_time_s = float(header["task_time_s"])
        self.watches = header["memory_limit"] == "watch"
        self.memory_mb = int(header["memory_mb"]) if self.watches or header["isolation"] == "step" else 0
        self.max_out_bytes = int(header["max_out_bytes"])
        self.in_steps = header["isolation"] == "step"
        self.srun = header["srun"]
        self.steps = 0
        self.separate_logs = header["task_logs"] == "separate"
        self.grace_s = max(0.5, min(float(header["kill_wait_s"]) - 1.0, 10.0))
        self.lines = lines
        all_slots, self.slot_count = slots_of_node(tasks_per_node, self.node)
        self.nodes = len(all_slots)
        self.total_slots = sum(all_slots)
        self.began = time.monotonic()
        self.deadline = job_end(float(header["job_limit_s"]), before_s)
        self.next_line = self.chunk = self.chunk_end = 0
        self.bounds = chunk_bounds(len(lines), self.total_slots) if self.nodes > 1 else None
        self.again: list[bytes] = []  # tasks that did not start, and keep their turn
        self.finished: set[int] = set()
        self.running: dict[int, Slot] = {}
        self.undecided: list[tuple[float, Slot, int, tuple[float, float]]] = []
        self.pending = b""  # records that could not be written yet
        self.unsynced = False
        self.started = self.ended = 0
        self.retry_at = 0.0  # until when no start is tried
        self.obstacle: str | None = None  # why the last try to start a task came to nothing
        self.step_failures = 0  # one after the other
        self.stopping: str | None = None  # why no further task is started
        self.ending = False  # whether the running tasks were told to end, too
        self.log_offset = 0
        self.oom_kills = 0  # those that a task was told of
        self.scratch = ""
        self.printed = ""  # the last of what the script printed before the worker
        self.fds: dict[str, int] = {}
        # How tasks start. Jobs of an earlier version do not say.
        self.forks = header.get("task_start") == "fork"
        self.fork_fallback = header.get("fork_fallback") == "1"
        self.nursery: Nursery | None = None
        self.fresh_why: str | None = None  # why no task is forked (any more)
        self.fork_off: str | None = None  # the same, where forks did harm: it holds for the whole run
        self.failed_in_fork: dict[int, str] = {}  # tasks that get a second try in a new process, and why
        self.forked = 0

    # -- the start ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take the token and make the job's files, and wait for a while where there is no room for them.

        Raises:
            Fenced: The work of this job was given to another job.
            Unsafe: The run's folder is not the user's own and private.
            OSError: The files can't be made.
        """
        self.run_folder = self.enter(self.run_path, self.run_path)
        self.folder = f"{self.run_folder}/{self.name}"
        self.above, words = look_above(self.run_path, os.geteuid())
        if self.above == EVERYBODY:
            raise Unsafe(words)
        give_up = self.began + ROOM_WAIT_S
        if self.deadline is not None:
            give_up = min(give_up, (self.began + self.deadline) / 2)
        while True:
            try:
                self.claim()
                self.prepare()
                return
            except OSError as error:
                if error.errno not in PASSING or time.monotonic() >= give_up:
                    raise
                self.complain(f"{error.filename} can't be made: {error.strerror}; waiting for room")
                info = signal.sigtimedwait(WAITED, RETRY_S)
                if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
                    raise

    def enter(self, path: str, name: str) -> str:
        """Open a folder. Returns the path that leads to it by descriptor, whatever is renamed meanwhile.

        The steps' processes go by it, too, and tasks where there is no other folder for their files.

        Args:
            path: The folder.
            name: What it is called in words.

        Raises:
            Unsafe: It is a link, another's, or open to others.
            OSError: It can't be opened.
        """
        fd = open_own_folder(path, name)
        by_descriptor = f"/proc/{os.getpid()}/fd/{fd}"
        self.shown[by_descriptor] = name
        return by_descriptor

    def claim(self) -> None:
        """Take this submission's token for this job, or learn that it was given away."""
        path = f"{self.run_folder}/{self.name}{CLAIM}"
        try:
            # It leads nowhere, whatever tasks make in their working directory: the server may not take it for a folder.
            os.symlink(CLAIM_PREFIX + self.job, path)
        except FileExistsError:
            try:
                owner = os.readlink(path)
            except OSError:
                raise Fenced("the server gave this work to another job") from None
            owner = (
                owner[len(CLAIM_PREFIX) :] if owner.startswith(CLAIM_PREFIX) else owner
            )  # older ones had the id alone
            if owner != self.job:
                raise Fenced(f"job {owner} does this work already") from None
        # A job that was requeued after the server gave its work away finds its own claim.
        if os.path.isdir(f"{self.run_folder}/{self.name}{STOP}"):
            raise Fenced("the server took this work back")

    def prepare(self) -> None:
        """Make the job's files, as far as they are not made."""
        try:
            os.mkdir(self.folder, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(self.folder).st_mode):
                raise
        name = f"{self.restart}-{self.node}"
        if self.restart:
            self.skip_finished()
        self.results_fd = self.open_file(f"{self.folder}/{results_name(self.restart, self.node)}")
        if not self.separate_logs:
            self.log_fd = self.open_file(f"{self.folder}/{log_name(self.restart, self.node)}")
            self.log_offset = os.fstat(self.log_fd).st_size
        if self.bounds:
            os.makedirs(f"{self.folder}/chunks-{self.restart}", mode=0o700, exist_ok=True)
        self.scratch = self.scratch or self.make_scratch()
        self.null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        cpu_sets = None if self.in_steps else split_cpus(self.slot_count, self.cpus_per_task)
        self.all_cpus = os.sched_getaffinity(0) if cpu_sets else None
        self.free: list[Slot] = []
        for number in reversed(range(self.slot_count)):
            slot = Slot(
                number,
                slot_environment(number, self.slot_count, self.cpus_per_task),
                cpu_sets[number] if cpu_sets else None,
                f"{self.folder}/slot-{name}-{number}",
            )
            if not self.separate_logs:
                slot.log_fd = self.open_file(slot.log_path, os.O_TRUNC | os.O_NOFOLLOW)
            self.free.append(slot)
        if self.forks and self.nursery is None and self.fresh_why is None:
            self.open_nursery()
        self.read_printed()
        printed = ""
        if self.printed and not self.node:
            import json

            printed = f',"printed":{json.dumps(self.printed)}'
        # By hand: json is imported only once tasks are running. None of the other values needs an escape.
        self.pending = (
            f'\n{{"begin":{time.time():.3f},"token":"{self.header["token"]}","job":"{self.job}",'
            f'"restart":{self.restart},"node":{self.node},"nodes":{self.nodes},"slots":{self.slot_count}{printed}}}\n'
        ).encode("ascii")
        self.flush()

    def read_printed(self) -> None:
        """Take note of what extra_lines said: a shell goes on where a command of theirs is not there, say."""
        try:
            fd = private(f"{self.run_folder}/{self.name}{OUTPUT}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        try:
            size = os.fstat(fd).st_size
            if size and not self.printed:
                text = os.pread(fd, PRINTED_BYTES, max(0, size - PRINTED_BYTES)).decode("utf-8", "replace")
                lines = [line.strip() for line in text.splitlines() if not line.startswith((OWN_WORDS, "srun: "))]
                self.printed = "\n".join(filter(None, lines))
        except OSError:
            pass
        finally:
            os.close(fd)

    def open_file(self, path: str, flags: int = 0) -> int:
        """Open a file of the job's for reading and appending, once."""
        if path not in self.fds:
            self.fds[path] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        return self.fds[path]

    def make_scratch(self) -> str:
        """A private folder for the args and out files of running tasks: on the node, else in the job's folder.

        It is made, never found: what has a name that can be foretold may be somebody else's.
        """
        name = f"fractal-{self.name}-{self.restart}-{self.node}-{os.urandom(8).hex()}"
        for parent in (os.environ.get("TMPDIR"), "/tmp"):  # noqa: S108 - made anew and private, or not used
            if parent and os.path.isabs(parent):
                try:
                    if look_above(f"{parent}/{name}", os.geteuid())[0] <= NOBODY:
                        os.mkdir(f"{parent}/{name}", 0o700)
                        return f"{parent}/{name}"
                except OSError:
                    pass
        name = f"files-{self.restart}-{self.node}-{os.urandom(8).hex()}"
        os.mkdir(f"{self.folder}/{name}", 0o700)
        path = f"{self.run_path}/{self.name}/{name}"
        return path if self.above <= NOBODY else self.enter(f"{self.folder}/{name}", path)

    def skip_finished(self) -> None:
        """A requeued job does not run again what an earlier start of it finished."""
        import json

        for name in os.listdir(self.folder):
            if not name.startswith("results-"):
                continue
            for line in whole_lines(f"{self.folder}/{name}", 16 * self.max_out_bytes + (1 << 16)):
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if not isinstance(record, dict) or record.get("token") != self.header["token"]:
                    continue
                if record.get("state") in ("succeeded", "failed", "timeout", "memory"):
                    task = record.get("task")
                    if isinstance(task, int) and not isinstance(task, bool):
                        self.finished.add(task)

    # -- tasks in forks ----------------------------------------------------------------------------------

    def open_nursery(self) -> None:
        """Start the Python of which tasks are forked, if there can be one."""
        if self.in_steps:
            self.fresh_why = 'each slot is a step of its own (isolation = "step")'
            return
        from .nursery import Nursery, Unfit

        slot = self.free[-1]
        try:
            self.nursery = Nursery(self.command, self.scratch, slot.env, slot.cpus, spawn, time.monotonic())
        except Unfit as reason:
            self.fresh_why = str(reason)
        except OSError as error:
            self.fresh_why = f"{self.command[0]} can't be started: {error.strerror}"

    def look_at_nursery(self, now: float) -> None:
        """Hear what the nursery says. Once it has ended, tasks start in new processes."""
        if self.nursery is None or self.fresh_why is not None:
            return
        self.nursery.look(now)
        if self.nursery.is_learning(now):
            for slot in self.running.values():
                if slot.forked:
                    self.nursery.learn(f"{slot.index}-{slot.attempt}", now)
        if self.nursery.state == "ended":
            self.fresh_why = self.nursery.why or "the nursery ended"
            self.complain(f"tasks start in new processes from here on: {self.fresh_why}")

    def fork(self, slot: Slot) -> int:
        """Start a task in a fork of the nursery. Returns its pid, or 0: it is to start in a new process."""
        nursery = self.nursery
        if nursery is None or self.fresh_why is not None or slot.index in self.failed_in_fork:
            return 0
        changes = {name: value for name, value in slot.env.items() if nursery.env.get(name) != value}
        key, now = f"{slot.index}-{slot.attempt}", time.monotonic()
        pid, socket = nursery.fork(*slot.files, slot.log_fd, changes, slot.cpus, key, now)
        if not pid or not nursery.begin(socket):
            return 0
        slot.forked = True
        self.forked += 1
        return pid

    def fork_ended(self, slot: Slot, state: str, reason: str | None) -> bool:
        """A task ended that had to do with forks. Returns whether it is to run again, in a new process.

        What fails in a fork may be the fork's fault, so it gets one more try. If that one succeeds, no task of the run
        is forked any more.

        Args:
            slot: Where it ran.
            state: What it came to.
            reason: Why, if it did not succeed.
        """
        if not slot.forked:
            if state == "succeeded" and slot.index in self.failed_in_fork and self.fork_off is None:
                why = self.failed_in_fork[slot.index]
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
            if self.has_tasks():
                self.nursery.learn(f"{slot.index}-{slot.attempt}", now)
        if state != "failed" or not self.fork_fallback or self.stopping or not self.in_time(now):
            return False
        self.failed_in_fork[slot.index] = (reason or "")[:200]
        for path in slot.files:
            remove(path)
        try:
            os.ftruncate(slot.log_fd, 0)  # the log is that of the second try
        except OSError:
            pass
        self.release(slot)
        return True

    # -- the queue ---------------------------------------------------------------------------------------

    def has_tasks(self) -> bool:
        """Whether tasks may be left for this node; next_task() knows."""
        if self.bounds is None:
            return bool(self.again) or self.next_line < len(self.lines)
        return bool(self.again) or self.next_line < self.chunk_end or self.chunk < len(self.bounds) - 1

    def next_task(self) -> bytes | None:
        """The next task's line, or None when there is none left for this node."""
        if self.again:
            return self.again.pop()
        while True:
            if self.bounds is None:
                if self.next_line >= len(self.lines):
                    return None
            elif self.next_line >= self.chunk_end and not self.take_chunk():
                return None
            line = self.lines[self.next_line]
            self.next_line += 1
            if self.finished and int(line[: line.index(b"\t")]) in self.finished:
                continue
            return line

    def take_chunk(self) -> bool:
        """Take the next chunk that no node has. Returns whether there was one.

        Raises:
            OSError: There is no room for the mark.
        """
        bounds = self.bounds or [0]
        while self.chunk < len(bounds) - 1:
            mark = f"{self.folder}/chunks-{self.restart}/{self.chunk}"
            try:
                os.symlink(str(self.node), mark)
                taken = True
            except FileExistsError:
                # It may be ours: an answer of a file server got lost on its way, and the call was made again.
                taken = os.readlink(mark) == str(self.node)
            self.chunk += 1
            if taken:
                self.next_line, self.chunk_end = bounds[self.chunk - 1], bounds[self.chunk]
                return True
        return False

    # -- one task ----------------------------------------------------------------------------------------

    def start(self, slot: Slot, line: bytes) -> None:
        """Start a task in a free slot.

        Raises:
            OSError: Its files can't be written, or the node has no room for a process: it did not start.
        """
        index, attempt, args = line.split(b"\t", 2)
        slot.line = line
        slot.index, slot.attempt = int(index), int(attempt)
        stem = f"{self.scratch}/{slot.index}-{slot.attempt}"
        slot.files = (f"{stem}-args.json", f"{stem}-out.json")
        slot.verdict = slot.kill_at = slot.over_since = None
        self.obstacle = "the files of its tasks could not be written"
        fd = private(slot.files[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        try:
            while args:
                args = args[os.write(fd, args) :]
        finally:
            os.close(fd)
        if self.separate_logs:
            slot.log_path = f"{self.folder}/{task_log_name(slot.index, slot.attempt)}"
            slot.log_fd = private(slot.log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        words = [*self.command, "--args-json", slot.files[0], "--out-json", slot.files[1]]
        slot.began_clock = time.time()
        slot.began = time.monotonic()
        if self.in_steps:
            self.hand_over(slot, words)
            self.obstacle = None
            return
        try:
            if slot.cpus:
                os.sched_setaffinity(0, slot.cpus)
            slot.pid = self.fork(slot) or spawn(words, slot.env, self.null_fd, slot.log_fd)
        except OSError as error:
            if error.errno in PASSING:
                self.obstacle = "its tasks could not be started"
                raise
            self.finish(slot, None, None, ("failed", f"{words[0]} can't be started: {error.strerror}"))
        else:
            self.running[slot.pid] = slot
        finally:
            if self.all_cpus:
                os.sched_setaffinity(0, self.all_cpus)
        self.obstacle = None

    def put_back(self, slot: Slot) -> None:
        """A task did not start: it keeps its turn, and its slot is free again."""
        remove(slot.files[0])
        self.release(slot)
        self.retry_at = time.monotonic() + RETRY_S

    def release(self, slot: Slot) -> None:
        """Free a slot, whose task keeps its turn."""
        if self.separate_logs and slot.log_fd >= 0:
            os.close(slot.log_fd)
            slot.log_fd = -1
        slot.pid = 0
        self.again.append(slot.line)
        self.free.append(slot)

    # -- steps -------------------------------------------------------------------------------------------

    def hand_over(self, slot: Slot, words: list[str]) -> None:
        """Give a task to the slot worker in the slot's step; start the step where there is none.

        Raises:
            OSError: As start().
        """
        self.write_todo(slot, {"words": words, "log": slot.log_path})
        slot.handed_over = slot.began
        if not slot.step:
            memory = self.header["memory_mb"]
            srun = [
                self.srun, "--quiet", "--exact", "--nodes=1", "--ntasks=1", f"--nodelist={self.host}",
                f"--cpus-per-task={self.cpus_per_task}", f"--mem={memory}M", "--export=ALL", "--input=none",
                "--chdir=/", sys.executable, "-I", "-S", "-c",
                "import sys; sys.path.append(sys.argv[1]); from node.worker import slot_main; slot_main(*sys.argv[2:])",
                os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                f"{self.scratch}/slot-{slot.number}", str(os.getpid()),
            ]  # fmt: skip
            umask = os.umask(0o077)
            os.umask(umask)
            try:
                # srun hands on the umask that sbatch had, or else its own.
                slot.step = spawn(srun, {**slot.env, "SLURM_UMASK": f"{umask:04o}"}, self.null_fd, 2)
            except OSError as error:
                remove(f"{self.scratch}/slot-{slot.number}.todo")
                if error.errno in PASSING:
                    self.obstacle = NO_STEPS
                    raise
                self.step_failed(slot, f"{self.srun} can't be started: {error.strerror}")
                return
            self.steps += 1
        slot.pid = slot.step
        self.running[slot.pid] = slot

    def step_failed(self, slot: Slot, why: str) -> None:
        """A step ended, or did not start, before it took its task. A few times in a row, and the worker gives up."""
        if time.monotonic() >= self.retry_at:  # slots that fail together fail once
            self.step_failures += 1
        self.put_back(slot)
        self.complain(f"a slot's step did not begin: {why}")
        if self.step_failures >= MAX_STEP_FAILURES and not self.stopping:
            self.stopping = NO_STEPS
            self.complain(f"{NO_STEPS}: {why}; this job ends")

    def write_todo(self, slot: Slot, todo: dict[str, Any]) -> None:
        import json

        stem = f"{self.scratch}/slot-{slot.number}"
        with open(f"{stem}.new", "w", encoding="utf-8", errors="surrogateescape", opener=private) as file:
            json.dump(todo, file)
        os.rename(f"{stem}.new", f"{stem}.todo")

    def look_at_steps(self) -> None:
        """Take note of the tasks that slot workers report as ended."""
        import json

        for slot in list(self.running.values()):
            try:
                with open(f"{self.scratch}/slot-{slot.number}.done", encoding="ascii") as file:
                    report = json.load(file)
            except FileNotFoundError:
                continue
            os.unlink(f"{self.scratch}/slot-{slot.number}.done")
            del self.running[slot.pid]
            self.step_failures = 0
            if "fault" in report:
                fault = f"{self.command[0]} can't be started: {report['fault']}"
                if report["errno"] in PASSING and slot.verdict is None:
                    self.obstacle = "its tasks could not be started"
                    self.put_back(slot)
                    self.complain(f"{fault}; waiting for room")
                    continue
                self.finish(slot, None, None, ("failed", fault))
                continue
            slot.starved = report["starved"]
            self.ended_with(slot, report["status"], (report["maxrss"], report["cpu_s"]))

    def step_ended(self, slot: Slot, status: int) -> None:
        """The step of a slot ended: before it took its task, or under it, for what it did. The next gets a new one."""
        slot.step = 0
        untaken = self.is_untaken(slot)
        for name in ("todo", "taken", "done", "pid"):
            remove(f"{self.scratch}/slot-{slot.number}.{name}")
        if slot.taken_back:
            slot.taken_back = False
            self.put_back(slot)
            return
        if untaken and slot.verdict is None and not self.ending:
            self.step_failed(slot, f"srun ended with status {status}; what it said is above")
            return
        self.step_failures = 0
        memory = self.header["memory_mb"]
        verdict = slot.verdict or (
            ("cut", self.stopping or "")
            if self.ending
            else ("memory", f"its step was ended by SLURM (status {status}): most likely over its mem of {memory} MB")
        )
        self.finish(slot, None, None, verdict)

    def is_untaken(self, slot: Slot) -> bool:
        """Whether a slot's step has not taken its task yet (srun waits until SLURM grants the step)."""
        return self.in_steps and os.path.exists(f"{self.scratch}/slot-{slot.number}.todo")

    def take_back(self, slot: Slot) -> bool:
        """Take a task back from its step, if the step did not take it yet: it never began. Returns whether so."""
        try:
            # Of this and the slot worker's own, one succeeds.
            os.unlink(f"{self.scratch}/slot-{slot.number}.todo")
        except OSError:
            return False
        slot.taken_back = True
        return True

    def task_group(self, slot: Slot) -> int:
        """The process group of the task in a slot; 0 if there is none."""
        if not self.in_steps:
            return slot.pid
        try:
            with open(f"{self.scratch}/slot-{slot.number}.pid", encoding="ascii") as file:
                return int(file.read() or 0)
        except (OSError, ValueError):
            return 0

    def signal_task(self, slot: Slot, number: int) -> None:
        """Signal the process group of the task in a slot; of its srun, where there is no task."""
        group = slot.pid if slot.taken_back else self.task_group(slot)
        if group:
            signal_group(group, number)

    def finish(
        self,
        slot: Slot,
        status: int | None,
        usage: tuple[float, float] | None,
        verdict: tuple[str, str] | None,
    ) -> None:
        """Write the record of a task that ended, and free its slot.

        Args:
            slot: Where it ran.
            status: Its wait status; None if it never started.
            usage: Its peak memory in KiB, and its CPU seconds.
            verdict: (state, reason), or None if its exit code is to decide.
        """
        now = time.monotonic()
        record: dict[str, Any] = {
            "task": slot.index,
            "attempt": slot.attempt,
            "token": self.header["token"],
            "job": self.job,
            "restart": self.restart,
            "node": self.node,
            "host": self.host,
            "start": round(slot.began_clock, 3),
            "seconds": round(now - slot.began, 4),
        }
        exit_code = signal_number = None
        if status is not None:
            if os.WIFSIGNALED(status):
                signal_number = os.WTERMSIG(status)
            else:
                exit_code = os.WEXITSTATUS(status)
            record["exit"] = exit_code
            record["signal"] = signal_number
        if usage is not None:
            record["peak_mb"] = round(usage[0] * 1024 / 1e6, 1)
            record["cpu_s"] = round(usage[1], 4)
        if verdict is None and signal_number is not None:
            verdict = ("failed", f"ended by signal {signal_number} ({signal_name(signal_number)})")
        if verdict is None and exit_code:
            verdict = ("failed", f"exit code {exit_code}")
        if verdict is not None and slot.verdict is None and status is not None and self.starved(slot):
            whose = "step" if self.in_steps else "job"
            verdict = ("memory", f"{verdict[1]}; the kernel ended a process of its {whose} for lack of memory")
        out, fault = self.read_out(slot.files[1])
        if verdict is None and fault:
            verdict = ("failed", fault)
        state, reason = verdict or ("succeeded", None)
        if self.forks and self.fork_ended(slot, state, reason):
            return
        record["state"] = state
        if reason and state == "failed" and self.printed:
            reason = f"{reason[:3000]}; before, the script of its job printed: {' '.join(self.printed.split())}"
        if slot.index in self.failed_in_fork:
            record["fork_failed"] = self.failed_in_fork[slot.index]
        elif slot.first and not self.forks:
            self.note_startup(slot, record)
        if reason:
            record["reason"] = reason[:4000]  # as much as of a log; a command's name may be longer
        if out is not None:
            record["out"] = out
        self.keep_log(slot, record, 400 if state == "succeeded" else 4000)
        for path in slot.files:
            remove(path)
        try:
            self.write_record(record)
        except RecursionError:
            # A Python with less room than the depth that read_out() allows.
            del record["out"]
            if state == "succeeded":
                record["state"], record["reason"] = "failed", "the out-JSON is nested too deeply"
            self.write_record(record)
        self.ended += 1
        slot.pid = 0
        self.free.append(slot)

    def note_startup(self, slot: Slot, record: dict[str, Any]) -> None:
        """How long a task took until it read its args: most of that is the start of Python and its imports.

        By the time at which the file was last read. A file system that keeps none (noatime) leaves it out.
        """
        if not self.command[0].rpartition("/")[2].startswith("python"):
            return
        try:
            status = os.stat(slot.files[0])
        except OSError:
            return
        if status.st_atime_ns > status.st_mtime_ns:
            record["startup_s"] = round(max(0.0, status.st_atime_ns / 1e9 - slot.began_clock), 3)

    def starved(self, slot: Slot) -> bool:
        """Whether the kernel ended a process for lack of memory, that no task was told of yet."""
        if self.in_steps:
            return slot.starved
        if oom_kills() <= self.oom_kills:
            return False
        self.oom_kills += 1
        return True

    def read_out(self, path: str) -> tuple[Any, str | None]:
        """The out-JSON of a task, and what is wrong with it."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None, None
        except OSError as error:
            return None, f"the out-JSON can't be read: {error.strerror}"
        try:
            size = os.fstat(fd).st_size
            if size > self.max_out_bytes:
                return None, f"the out-JSON has {size} bytes; allowed are {self.max_out_bytes}"
            data = os.read(fd, self.max_out_bytes + 1)
        except OSError as error:
            return None, f"the out-JSON can't be read: {error.strerror}"
        finally:
            os.close(fd)
        if not data:
            return None, None
        import json

        try:
            out = json.loads(data)
        except RecursionError:
            return None, "the out-JSON is nested too deeply"
        except ValueError as error:
            return None, f"the out-JSON is no JSON: {error}"
        if data.count(b"[") + data.count(b"{") > MAX_OUT_DEPTH and is_deep(out):
            return None, f"the out-JSON is nested too deeply: allowed are {MAX_OUT_DEPTH} levels"
        return out, None

    def keep_log(self, slot: Slot, record: dict[str, Any], tail_bytes: int) -> None:
        """Move what a task printed to the log of the job; the record says where, and holds the last of it."""
        try:
            size = os.fstat(slot.log_fd).st_size
            if self.separate_logs:
                record["log"] = [0, size]
            if size:
                tail = os.pread(slot.log_fd, tail_bytes, max(0, size - tail_bytes))
                record["tail"] = tail.decode("utf-8", "replace")
                if not self.separate_logs:
                    start = self.log_offset
                    try:
                        self.append_log(slot.log_fd, size)
                    finally:
                        # Kept or not: the next task's log begins here.
                        os.ftruncate(slot.log_fd, 0)
                        record["log"] = [start, self.log_offset - start]
        except OSError as error:
            record["log_fault"] = f"the log can't be kept: {error.strerror}"
        finally:
            if self.separate_logs and slot.log_fd >= 0:
                os.close(slot.log_fd)
                slot.log_fd = -1

    def append_log(self, fd: int, size: int) -> None:
        position = 0
        while position < size:
            data = os.pread(fd, min(1 << 20, size - position), position)
            if not data:
                break
            position += len(data)
            while data:
                written = os.write(self.log_fd, data)
                self.log_offset += written
                data = data[written:]

    # -- the result file ---------------------------------------------------------------------------------

    def write_record(self, record: dict[str, Any]) -> None:
        import json  # once the first tasks are running; see the module's text

        self.pending += b"\n" + json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"
        self.flush()

    def flush(self) -> None:
        """Write what is pending. On a full or absent file system it stays pending, and no further task starts."""
        try:
            while self.pending:
                written = os.write(self.results_fd, self.pending)
                self.pending = self.pending[written:]
                self.unsynced = True
        except OSError as error:
            self.complain(f"results can't be written: {error.strerror}; waiting for room")

    def sync(self) -> None:
        if self.unsynced:
            try:
                os.fdatasync(self.results_fd)
                self.unsynced = False
            except OSError as error:
                self.complain(f"results can't be written: {error.strerror}")

    said: str | None = None

    def complain(self, text: str) -> None:
        if text != self.said:
            self.said = text
            for path, name in self.shown.items():
                text = text.replace(path, name)
            try:
                os.write(2, f"{OWN_WORDS}{text}\n".encode())
            except OSError:
                pass  # the job's output may be on the file system that is full

    # -- the loop ----------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run the queue to its end.

        Returns:
            The exit code of the job: 0, or one of :data:`EXITS`.
        """
        next_tick = next_watch = self.began
        next_sync = self.began + SYNC_S
        next_beat = self.began + BEAT_S
        ended = 0
        while True:
            self.fill()
            if not self.running and not self.undecided:
                if self.stopping or not (self.pending or self.has_tasks()):
                    break
                self.give_up_late()
            timeout = self.pause()
            waits = time.monotonic()
            info = signal.sigtimedwait(WAITED, timeout)
            gap = time.monotonic() - waits - timeout
            if gap > SUSPENDED_S:
                self.shift_clocks(gap)
            if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
                self.end_all("the job was ended")
            # A SIGTERM that came together with the death of its task counts first.
            if signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
                self.end_all("the job was ended")
            if self.in_steps:
                self.look_at_steps()
            self.reap()
            now = time.monotonic()
            self.look_at_nursery(now)
            self.decide(now)
            self.enforce(now)
            if now >= next_tick:
                next_tick = now + TICK_S
                self.look_for_stop()
                if self.pending:
                    self.flush()
            if self.memory_mb and now >= next_watch:
                next_watch = now + (WATCH_S if self.watches else STEP_WATCH_S)
                self.watch_memory()
            if self.ended != ended:
                ended, next_beat = self.ended, now + BEAT_S
            elif now >= next_beat and not self.pending:
                next_beat = now + BEAT_S
                self.pending += f'\n{{"beat":{time.time():.0f},"token":"{self.header["token"]}"}}\n'.encode("ascii")
                self.flush()
            if now >= next_sync:
                next_sync = now + SYNC_S
                self.sync()
        return self.close()

    def pause(self) -> float:
        """Seconds until something is due, at the most."""
        if self.undecided:
            return 0.1
        timeout = WATCH_S if self.watches else TICK_S
        if self.task_time_s or self.ending:
            now = time.monotonic()
            for slot in self.running.values():
                due = slot.kill_at or (slot.began + self.task_time_s if self.task_time_s else None)
                if due is not None:
                    timeout = min(timeout, max(0.01, due - now))
        return timeout

    def shift_clocks(self, gap: float) -> None:
        """The job was suspended (gang scheduling), while the monotonic clock ran on; SLURM adds this to its limit."""
        for slot in self.running.values():
            slot.began += gap
            slot.handed_over += gap
            if slot.kill_at is not None:
                slot.kill_at += gap
        if self.deadline is not None:
            self.deadline += gap

    def fill(self) -> None:
        """Give every free slot a task, as long as there are tasks that can end in time."""
        while self.free and not self.stopping and self.has_tasks():
            now = time.monotonic()
            if self.pending or now < self.retry_at:
                return
            if self.nursery is not None and self.fresh_why is None and self.waits_for_nursery(now):
                return
            if not self.in_time(now):
                self.stopping = "no further task can end within the job's time limit"
                return
            try:
                line = self.next_task()
            except OSError as error:
                self.obstacle = "its next tasks could not be taken"
                self.retry_at = now + RETRY_S
                self.complain(f"{self.obstacle}: {error.strerror}; waiting for room")
                return
            if line is None:
                return
            slot = self.free.pop()
            slot.first = not self.started
            try:
                self.start(slot, line)
            except OSError as error:
                self.put_back(slot)
                self.complain(f"a task can't be started, {self.obstacle}: {error.strerror}; waiting for room")
                return
            self.started += 1

    def waits_for_nursery(self, now: float) -> bool:
        """Whether slots stay free for a moment, since what the nursery imports no task has to import.

        Where there is a slot for every task, each imports by itself: that is sooner done.
        """
        if self.nursery is None:
            return False
        left = len(self.lines) - self.next_line + len(self.again)
        return self.nursery.is_busy() or (left > len(self.free) and self.nursery.is_learning(now))

    def in_time(self, now: float) -> bool:
        """Whether a task that starts now can end before SLURM ends the job."""
        if self.deadline is None or self.started < self.slot_count:
            # The first task of a slot has what time there is: no other job would give it more.
            return True
        if not self.task_time_s:
            return now + 1.0 <= self.deadline
        # What short tasks could gain is little, and SLURM would end them as if they were at fault.
        return now + self.task_time_s <= self.deadline + min(LATE_S, self.task_time_s / 2)

    def give_up_late(self) -> None:
        """Nothing runs, and nothing can be started or written: not for longer than the job has time."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.stopping = "its results could not be written" if self.pending else self.obstacle

    def reap(self) -> None:
        """Take note of every task that ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self.in_steps:
                self.look_at_steps()  # a task may have ended just before its step
            slot = self.running.pop(pid, None)
            if self.nursery is not None and pid == self.nursery.pid:
                self.nursery.pid = 0
                self.nursery.end("the nursery ended by itself")
            elif slot is None:
                self.forget_step(pid)  # or a child that the script left to us
            elif self.in_steps:
                self.step_ended(slot, status)
            else:
                # What a task leaves behind in its process group would eat the next one's CPUs and memory.
                signal_group(pid, signal.SIGKILL)
                self.ended_with(slot, status, (usage.ru_maxrss, usage.ru_utime + usage.ru_stime))

    def forget_step(self, pid: int) -> None:
        """An idle step that ended: its slot's next task gets a new one."""
        for slot in [*self.free, *(entry[1] for entry in self.undecided)]:
            if slot.step == pid:
                slot.step = 0

    def ended_with(self, slot: Slot, status: int, usage: tuple[float, float]) -> None:
        """A task ended; if by a signal, its verdict waits for a moment."""
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in ENDING and slot.verdict is None and not self.ending:
            self.undecided.append((time.monotonic() + SETTLE_S, slot, status, usage))
        else:
            self.finish(slot, status, usage, self.final_verdict(slot, status))

    def final_verdict(self, slot: Slot, status: int) -> tuple[str, str] | None:
        if slot.verdict is not None:
            # A task that was told to end and yet ended well has done its work.
            return slot.verdict if status else None
        return None

    def decide(self, now: float) -> None:
        """Judge the tasks that were ended by a signal: cut short if the job is being ended, else failed."""
        waiting, self.undecided = self.undecided, []
        for due, slot, status, usage in waiting:
            if self.ending:
                self.finish(slot, status, usage, ("cut", self.stopping or ""))
            elif now >= due:
                self.finish(slot, status, usage, None)
            else:
                self.undecided.append((due, slot, status, usage))

    def enforce(self, now: float) -> None:
        """End the tasks whose time is over: TERM, and KILL when they do not heed it. End steps that do not begin."""
        for slot in self.running.values():
            if slot.kill_at is not None:
                if now >= slot.kill_at:
                    self.signal_task(slot, signal.SIGKILL)
                    slot.kill_at = now + 1.0
            elif self.in_steps and now >= slot.handed_over + STEP_START_S and self.is_untaken(slot):
                slot.handed_over = now
                self.complain(f"a slot's step did not begin within {STEP_START_S:g} s: {self.srun} is ended")
                signal_group(slot.step, signal.SIGKILL)
            elif self.task_time_s and now >= slot.began + self.task_time_s:
                if self.is_untaken(slot):
                    slot.began, slot.began_clock = now, time.time()
                    continue
                slot.verdict = ("timeout", f"over its time of {self.task_time_s:g} s")
                self.tell_to_end(slot, TASK_KILL_S)

    def tell_to_end(self, slot: Slot, grace_s: float) -> None:
        slot.kill_at = time.monotonic() + grace_s
        self.signal_task(slot, signal.SIGTERM)
        self.signal_task(slot, signal.SIGCONT)

    def end_all(self, why: str) -> None:
        """The job is being ended: start nothing more, end what runs."""
        if self.ending:
            return
        self.stopping, self.ending = why, True
        for slot in self.running.values():
            if slot.verdict is None and not (self.in_steps and self.take_back(slot)):
                slot.verdict = ("cut", why)
            self.tell_to_end(slot, self.grace_s)

    def look_for_stop(self) -> None:
        """The server's mark, made where it wants a job to end without SLURM's help."""
        if not self.ending and os.path.isdir(f"{self.run_folder}/{self.name}{STOP}"):
            self.end_all("the run was cancelled")

    def watch_memory(self) -> None:
        """End the task whose process group uses more memory than a task may have.

        In a step it is SLURM's to do so: where it has not after a while, as some sites and versions have it, we do.
        """
        now = time.monotonic()
        groups = {slot.number: self.task_group(slot) for slot in self.running.values()}
        used = group_memory_mb({group for group in groups.values() if group})
        for slot in self.running.values():
            peak = used.get(groups[slot.number], 0.0)
            if peak <= self.memory_mb or slot.verdict is not None:
                slot.over_since = None
                continue
            slot.over_since = slot.over_since or now
            if self.watches or now >= slot.over_since + STEP_MEMORY_S:
                slot.verdict = ("memory", f"used {peak:.0f} MB; its mem is {self.memory_mb} MB")
                slot.kill_at = now
                self.signal_task(slot, signal.SIGKILL)

    def end_steps(self) -> None:
        """End the slot workers, which wait for another task."""
        deadline = time.monotonic() + 5.0
        for slot in self.free:
            if slot.step:
                try:
                    self.write_todo(slot, {})
                except OSError:
                    pass  # a full disk: its srun is ended below
        for slot in self.free:
            while slot.step:
                if os.waitpid(slot.step, os.WNOHANG)[0]:
                    slot.step = 0
                elif time.monotonic() < deadline:
                    time.sleep(0.02)
                else:
                    signal_group(slot.step, signal.SIGKILL)
                    deadline += 1.0

    def close(self) -> int:
        """Write what is left, clean up, and say how the queue ended."""
        self.end_steps()
        left = self.bounds is None and len(self.lines) - self.next_line + len(self.again)
        record: dict[str, Any] = {
            "end": self.stopping or "the queue is empty",
            "token": self.header["token"],
            "job": self.job,
            "restart": self.restart,
            "node": self.node,
            "host": self.host,
            "ended": self.ended,
            "left": left,
            "steps": self.steps,
            "seconds": round(time.monotonic() - self.began, 3),
        }
        if self.nursery is not None:
            self.nursery.end(None)
        if self.forks:
            record.update(forked=self.forked, fresh_why=self.fresh_why, fork_off=self.fork_off)
        self.write_record(record)
        give_up = time.monotonic() + (self.grace_s if self.stopping else 600.0)
        while self.pending and time.monotonic() < give_up:
            info = signal.sigtimedwait(WAITED, 1.0)
            if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
                break
            self.flush()
        self.sync()
        for slot in self.free:
            if not self.separate_logs:
                remove(slot.log_path)
        self.remove_scratch()
        return NO_RESULTS_EXIT if self.pending else NO_STEPS_EXIT if self.stopping == NO_STEPS else 0

    def remove_scratch(self) -> None:
        if not self.scratch:
            return
        try:
            for name in os.listdir(self.scratch):
                os.unlink(f"{self.scratch}/{name}")
            os.rmdir(self.scratch)
        except OSError:
            pass


def slot_main(stem: str, worker_pid: str) -> None:
    """The slot worker, inside of a slot's step: runs what ``STEM.todo`` says, until that is nothing.

    Args:
        stem: Beginning of the slot's files.
        worker_pid: The worker, which is signalled when a task ended.
    """
    import json

    prepare_process()
    os.chdir(f"/proc/{worker_pid}/cwd")
    null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    while os.path.isdir(f"/proc/{worker_pid}"):
        try:
            os.rename(f"{stem}.todo", f"{stem}.taken")
        except FileNotFoundError:
            time.sleep(0.01)
            continue
        with open(f"{stem}.taken", encoding="utf-8", errors="surrogateescape") as file:
            todo = json.load(file)
        os.unlink(f"{stem}.taken")
        if not todo:
            return
        report = run_in_step(stem, todo, null_fd)
        while True:
            try:
                with open(f"{stem}.new", "w", encoding="ascii", opener=private) as file:
                    json.dump(report, file)
                break
            except OSError:
                time.sleep(RETRY_S)  # a full disk; the report must not be lost
        os.rename(f"{stem}.new", f"{stem}.done")
        os.kill(int(worker_pid), signal.SIGUSR1)


def run_in_step(stem: str, todo: dict[str, Any], null_fd: int) -> dict[str, Any]:
    """Run a task, in the slot's step. Returns the report for the worker."""
    log_fd = -1
    kills = oom_kills()
    try:
        log_fd = private(todo["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        with open(f"{stem}.pid", "w", encoding="ascii", opener=private) as file:
            # Room for the pid, before there is one: on a full disk no task is started that could not be ended.
            file.write("0".rjust(10))
            file.flush()
            pid = spawn(todo["words"], dict(os.environ), null_fd, log_fd)
            file.seek(0)
            file.write(str(pid).rjust(10))
    except OSError as error:
        return {"fault": error.strerror, "errno": error.errno}
    finally:
        if log_fd >= 0:
            os.close(log_fd)
    _pid, status, usage = os.wait4(pid, 0)
    signal_group(pid, signal.SIGKILL)
    remove(f"{stem}.pid")
    return {
        "status": status,
        "maxrss": usage.ru_maxrss,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "starved": oom_kills() > kills,
    }


def main(argv: list[str]) -> int:
    """Entry point: ``worker SCRIPT TASKS_PER_NODE``, or in a step ``worker - TASKS_PER_NODE SECONDS [FOLDER]``.

    Then the script comes on standard input, ``SECONDS`` (may be empty) is how long the job ran before the step, and
    ``FOLDER`` is the script's working directory, as the tasks are to have it.
    """
    prepare_process()
    path, tasks_per_node, *more = argv
    before = more[0].strip() if more else ""
    fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        header, command, lines = read_work(file.read())
    # Of a process that has just begun, procps 4.0.2 now and then says that it is 4123168608 s old.
    before_s = float(before) if is_number(before) and len(before) < 10 else 0.0
    worker = Worker(header, command, lines, tasks_per_node, before_s)
    try:
        worker.begin()
        if len(more) > 1:
            os.chdir(worker.run_folder if more[1] == worker.run_path else more[1])
    except Fenced as reason:
        worker.complain(f"{reason}: this job ends")
        return 0
    except Unsafe as reason:
        worker.complain(f"{reason}; this job ends before its first task")
        return UNSAFE_EXIT
    except OSError as error:
        worker.complain(f"{error.filename} can't be made: {error.strerror}; this job ends before its first task")
        worker.remove_scratch()
        return NO_FILES_EXIT
    return worker.run()
