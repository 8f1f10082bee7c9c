# SPDX-License-Identifier: BSD-3-Clause
"""The worker runs the tasks of one SLURM job, on one of its nodes, inside of the job.

The job's script ends with ``exec python … worker``. So SLURM's signals reach the worker itself. The worker reads its
tasks from the script. If the job has several nodes, srun passes the script to each worker on standard input. The worker
gives tasks from one queue to its slots. For each task that ended, it appends one line to its result file.

It uses only the standard library, and no other part of this package: this folder runs on nodes, as the user,
with any Python >= 3.8. It imports nothing before the first task that is not needed by then.

The worker makes these files in the job's folder, which is private to the user:

``results-RESTART-NODE``    one record for each task; each line begins and ends with a newline, so that a line that was
                            not written completely does not spoil the next one
``log-RESTART-NODE``        the output of the tasks, one after the other; each record has an offset and a length
``slot-RESTART-NODE-SLOT``  the output of the task that runs in a slot, up to now
``running-RESTART-NODE``    which task runs in which slot, for whoever reads along: one line for each slot, after a line
                            with a random word
``chunks-RESTART/``         if the job has several nodes: which node took which chunk of tasks

Beside the job's folder are ``TOKEN.claim`` and ``TOKEN.claim.stop``; see docs/architecture.md.
"""

from __future__ import annotations

import os
import signal
import time

from .folders import Unsafe, private, remove
from .job_folder import Fenced, JobFolder
from .limits import MemoryWatch, OomKills, job_end
from .loop import PASSING, RETRY_S, Job, Loop, Slot, Starts, judge
from .placement import gpus_of_node, is_number, slot_environment, slots_of_node, split_cpus
from .processes import WAITED, prepare_process
from .protocol import (
    NO_FILES_EXIT,
    NO_RESULTS_EXIT,
    NO_STEPS,
    NO_STEPS_EXIT,
    OWN_WORDS,
    RUNNING_BYTES,
    UNSAFE_EXIT,
    log_name,
    read_work,
    results_name,
    running_head,
    running_line,
    running_name,
    slot_log_name,
    task_log_name,
)
from .results import RECORD_BYTES, Logs, Results, TooLong, read_out
from .task_queue import Queue

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of the others
if TYPE_CHECKING:
    from typing import Any

    from .forks import ForkStarts
    from .steps import Steps

WATCH_S = 0.5
# How often a worker looks at the memory of job steps, and how long it waits for SLURM to end one that uses too much.
STEP_WATCH_S, STEP_MEMORY_S = 5.0, 15.0
# How long a job waits for room for its first files. It never waits longer than half of its time limit.
ROOM_WAIT_S = 300.0


class Worker(Job):
    """Runs the tasks. See the docstring of the module.

    Args:
        header: The header of the script's data, by name.
        command: The words of the command.
        lines: The lines of the tasks.
        tasks_per_node: The value of SLURM_TASKS_PER_NODE.
        before_s: Seconds that passed in the job before the job step of this process began.
    """

    def __init__(
        self,
        header: dict[str, str],
        command: list[str],
        lines: list[bytes],
        tasks_per_node: str,
        before_s: float = 0.0,
    ) -> None:
        self.header = header
        self.command = command
        self.token = header["token"]
        self.job = os.environ.get("SLURM_JOB_ID", "0")
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        self.node = int(os.environ.get("SLURM_NODEID") or 0)
        self.host = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        self.folder = JobFolder(header["folder"], self.job)
        self.cpus_per_task = int(header["cpus_per_task"])
        self.max_out_bytes = int(header["max_out_bytes"])
        self.in_steps = header["isolation"] == "step"
        # How tasks start. The scripts of an earlier version do not have this key.
        self.forks = header.get("task_start") == "fork"
        all_slots, self.slot_count = slots_of_node(tasks_per_node, self.node)
        self.step_gres: list[str] = []
        gres, gpus = header.get("gres"), gpus_of_node()
        if self.in_steps and gres == "gpu" and gpus is not None:
            self.slot_count = min(self.slot_count, gpus)  # SLURM gives a GPU to one step at a time
            self.step_gres = [f"--gpus={gpus // self.slot_count}"]
        elif self.in_steps and gres == "other":
            self.step_gres = ["--gres=none"]
        self.nodes = len(all_slots)
        self.queue = Queue(lines, self.nodes, sum(all_slots), self.node)
        self.began = time.monotonic()
        self.deadline = job_end(float(header["job_limit_s"]), before_s)
        self.grace_s = max(0.5, min(float(header["kill_wait_s"]) - 1.0, 10.0))
        self.oom_kills = OomKills()
        self.scratch = ""
        self.printed = ""  # the last output of the script before the worker
        self.said: str | None = None
        self.running_fd, self.running_path, self.mark = -1, "", os.urandom(8).hex()
        self.fork_starts: ForkStarts | None = None
        self.steps: Steps | None = None

    # -- the start ---------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Claim the work and make the job's files. If there is no room for them, wait for a while.

        Raises:
            Fenced: Another job has the work of this job, or the server took it back.
            Unsafe: The run's folder is not private, or does not belong to the user.
            OSError: The files can't be made.
        """
        self.folder.open()
        give_up = self.began + ROOM_WAIT_S
        if self.deadline is not None:
            give_up = min(give_up, (self.began + self.deadline) / 2)
        while True:
            try:
                self.folder.claim()
                self.make_files()
                break
            except OSError as error:
                if error.errno not in PASSING or time.monotonic() >= give_up:
                    raise
                self.complain(f"{error.filename} can't be made: {error.strerror}; waiting for room")
                info = signal.sigtimedwait(WAITED, RETRY_S)
                if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
                    raise
        slots = self.make_slots()
        self.loop = Loop(
            self,
            self.queue,
            self.choose_starts(slots),
            slots,
            self.deadline,
            float(self.header["task_time_s"]),
            self.grace_s,
            self.make_watch(),
        )
        self.printed = self.folder.read_printed()
        printed = ""
        if self.printed and not self.node:
            import json

            printed = f',"printed":{json.dumps(self.printed)}'
        # This JSON is written by hand, because json is imported only when tasks are running. No other value here needs
        # an escape.
        self.results.append(
            f'{{"begin":{time.time():.3f},"token":"{self.token}","job":"{self.job}","restart":{self.restart},'
            f'"node":{self.node},"nodes":{self.nodes},"slots":{self.slot_count}{printed}}}'
        )

    def make_files(self) -> None:
        """Make those of the job's files that do not exist yet.

        Raises:
            OSError: A file can't be made.
        """
        self.folder.make()
        if self.restart:
            self.skip_finished()
        self.results = Results(
            self.folder.open_file(results_name(self.restart, self.node)), self.token, self.max_out_bytes, self.complain
        )
        separate = self.header["task_logs"] == "separate"
        self.logs = Logs(-1 if separate else self.folder.open_file(log_name(self.restart, self.node)))
        if self.nodes > 1:
            self.queue.marks = f"{self.folder.path}/chunks-{self.restart}"
            os.makedirs(self.queue.marks, mode=0o700, exist_ok=True)
        self.scratch = self.scratch or self.folder.make_scratch(f"{self.restart}-{self.node}")
        if not separate:
            for number in range(self.slot_count):
                self.folder.open_file(self.slot_log(number), os.O_TRUNC | os.O_NOFOLLOW)
        name = running_name(self.restart, self.node)
        if self.running_fd < 0:
            self.running_path = f"{self.folder.path}/{name}"
            self.running_fd = private(self.running_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        os.ftruncate(self.running_fd, (1 + self.slot_count) * RUNNING_BYTES)  # its size is the same at all times
        os.pwrite(self.running_fd, running_head(self.token, name, self.slot_count, self.mark), 0)

    def slot_log(self, number: int) -> str:
        """Return the name of the file with the output of the task that runs in a slot."""
        return slot_log_name(self.restart, self.node, number)

    def skip_finished(self) -> None:
        """Skip the tasks that an earlier start of this job finished, before SLURM requeued it."""
        finished = set()
        for record in self.folder.records(self.token, self.max_out_bytes + 2 * RECORD_BYTES):
            task = record.get("task")
            is_number = isinstance(task, int) and not isinstance(task, bool)
            if is_number and record.get("state") in ("succeeded", "failed", "timeout", "memory"):
                finished.add(task)
        if finished:
            self.queue.is_done = lambda line: int(line[: line.index(b"\t")]) in finished

    def make_slots(self) -> list[Slot]:
        """Return the slots of this node. The first one is the last of the list."""
        cpu_sets = None if self.in_steps else split_cpus(self.slot_count, self.cpus_per_task)
        slots = []
        for number in reversed(range(self.slot_count)):
            environment = slot_environment(number, self.slot_count, self.cpus_per_task)
            slot = Slot(number, environment, cpu_sets[number] if cpu_sets else None)
            if not self.logs.separate:
                slot.log_path = f"{self.folder.path}/{self.slot_log(number)}"
                slot.log_fd = self.folder.open_file(self.slot_log(number))
            slots.append(slot)
        return slots

    def choose_starts(self, slots: list[Slot]) -> Starts:
        """Return what starts the tasks, as the script's header says."""
        pins = slots[-1].cpus is not None
        if self.in_steps:
            from .steps import Steps

            srun, memory_mb = self.header["srun"], self.header["memory_mb"]
            self.steps = Steps(
                srun, self.host, self.scratch, self.cpus_per_task, memory_mb, self.step_gres, self.complain
            )
            return self.steps
        if self.forks:
            from .forks import ForkStarts

            self.fork_starts = ForkStarts(pins, self.command, self.scratch, slots[-1], self.complain)
            return self.fork_starts
        return Starts(pins)

    def make_watch(self) -> MemoryWatch | None:
        """Return the watch over the memory of tasks. None if the script does not ask for it and slots are no steps."""
        memory_mb = int(self.header["memory_mb"])
        if not memory_mb:
            return None
        if self.header["memory_limit"] == "watch":
            return MemoryWatch(memory_mb, WATCH_S, 0.0)
        return MemoryWatch(memory_mb, STEP_WATCH_S, STEP_MEMORY_S) if self.in_steps else None

    # -- one task ----------------------------------------------------------------------------------------

    def begin(self, slot: Slot) -> list[str]:
        """Write the args file of a task. Return the task's command line."""
        index, attempt, args = slot.line.split(b"\t", 2)
        slot.index, slot.attempt = int(index), int(attempt)
        stem = f"{self.scratch}/{slot.index}-{slot.attempt}"
        slot.files = (f"{stem}-args.json", f"{stem}-out.json")
        fd = private(slot.files[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
        try:
            while args:
                args = args[os.write(fd, args) :]
        finally:
            os.close(fd)
        if self.logs.separate:
            slot.log_path = f"{self.folder.path}/{task_log_name(slot.index, slot.attempt)}"
            slot.log_fd = private(slot.log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self.note_running(slot)
        return [*self.command, "--args-json", slot.files[0], "--out-json", slot.files[1]]

    def note_running(self, slot: Slot) -> None:
        """Tell whoever reads along which task runs in a slot. Nothing depends on it."""
        line = running_line(self.slot_log(slot.number), slot.index, slot.attempt)
        try:
            os.pwrite(self.running_fd, line, (1 + slot.number) * RUNNING_BYTES)
        except OSError:
            pass

    def undo(self, slot: Slot) -> None:
        """Remove the files that :meth:`begin` made for a task that did not start."""
        remove(slot.files[0])
        self.close_log(slot)

    def close_log(self, slot: Slot) -> None:
        """Close the log of a task, if each task has its own."""
        if self.logs.separate and slot.log_fd >= 0:
            os.close(slot.log_fd)
            slot.log_fd = -1

    def finish(
        self, slot: Slot, status: int | None, usage: tuple[float, float] | None, verdict: tuple[str, str] | None
    ) -> bool:
        """Write the record of a task that ended. See :meth:`.loop.Job.finish`."""
        now = time.monotonic()
        record: dict[str, Any] = {
            "task": slot.index,
            "attempt": slot.attempt,
            "token": self.token,
            "job": self.job,
            "restart": self.restart,
            "node": self.node,
            "host": self.host,
            "start": round(slot.began_clock, 3),
            "seconds": round(now - slot.began, 4),
        }
        verdict, exit_code, signal_number = judge(status, verdict)
        if status is not None:
            record["exit"] = exit_code
            record["signal"] = signal_number
        if usage is not None:
            record["peak_mb"] = round(usage[0] * 1024 / 1e6, 1)
            record["cpu_s"] = round(usage[1], 4)
        if verdict is not None and slot.verdict is None and status is not None and self.starved(slot):
            whose = self.loop.starts.whose
            verdict = ("memory", f"{verdict[1]}; the kernel ended a process of its {whose} for lack of memory")
        out, fault = read_out(slot.files[1], self.max_out_bytes)
        if verdict is None and fault:
            verdict = ("failed", fault)
        state, reason = verdict or ("succeeded", None)
        if self.fork_starts is not None and self.is_to_repeat(self.fork_starts, slot, state, reason):
            return False
        record["state"] = state
        if reason and state == "failed" and self.printed:
            reason = f"{reason[:3000]}; before, the script of its job printed: {' '.join(self.printed.split())}"
        if self.fork_starts is not None and slot.index in self.fork_starts.failed:
            record["fork_failed"] = self.fork_starts.failed[slot.index]
        elif slot.first and not self.forks:
            self.note_startup(slot, record)
        if reason:
            record["reason"] = reason[:4000]  # the same limit as for a log; the name of a command may be longer
        if out is not None:
            record["out"] = out
        self.logs.keep(slot.log_fd, record, 400 if state == "succeeded" else 4000)
        self.close_log(slot)
        for path in slot.files:
            remove(path)
        try:
            self.results.write(record)
        except (RecursionError, TooLong) as error:
            # This Python allows less depth than read_out() does, or the escapes of JSON make the text too long.
            del record["out"]
            if state == "succeeded":
                deep = "the out-JSON is nested too deeply"
                record["state"], record["reason"] = "failed", str(error) if isinstance(error, TooLong) else deep
            self.results.write(record)
        return True

    def is_to_repeat(self, starts: ForkStarts, slot: Slot, state: str, reason: str | None) -> bool:
        """Return whether a task that failed in a fork runs again. If so, remove the files of its first try."""
        if not starts.task_ended(self.loop, slot, state, reason, self.header.get("fork_fallback") == "1"):
            return False
        for path in slot.files:
            remove(path)
        try:
            os.ftruncate(slot.log_fd, 0)  # keep only the log of the second try
        except OSError:
            pass
        self.close_log(slot)
        return True

    def note_startup(self, slot: Slot, record: dict[str, Any]) -> None:
        """Write into the record how many seconds passed until the task read its args.

        Most of this time is the start of Python and its imports. The access time of the file tells when it was read. If
        the file system has no access times (noatime), nothing is written.
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
        """Return whether the kernel ended a process for lack of memory, and no other task was told of it."""
        return slot.starved if self.in_steps else self.oom_kills.is_one_more()

    # -- between tasks -----------------------------------------------------------------------------------

    def is_blocked(self) -> bool:
        """Return whether results are not written yet. Then no task may start."""
        return bool(self.results.pending)

    def look(self, now: float) -> str | None:
        """Do what is due. Return why the job must end, or None."""
        self.results.look(now)
        return "the run was cancelled" if not self.loop.ending and self.folder.is_stopped() else None

    def complain(self, text: str) -> None:
        """Print a message into the job's output. Do not repeat it if it is the same as the last one."""
        if text != self.said:
            self.said = text
            try:
                os.write(2, f"{OWN_WORDS}{self.folder.in_words(text)}\n".encode())
            except OSError:
                pass  # the job's output may be on the file system that is full

    # -- the end -----------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run the tasks, write the last results, clean up, and write how the job ended.

        Returns:
            The exit code of the job: 0, or one of :data:`.protocol.EXITS`.
        """
        self.loop.run()
        self.loop.starts.close(self.loop)
        stopping = self.loop.stopping
        record: dict[str, Any] = {
            "end": stopping or "the queue is empty",
            "token": self.token,
            "job": self.job,
            "restart": self.restart,
            "node": self.node,
            "host": self.host,
            "ended": self.loop.ended,
            "left": self.nodes == 1 and self.queue.left(),
            "steps": self.steps.begun if self.steps is not None else 0,
            "seconds": round(time.monotonic() - self.began, 3),
        }
        if self.forks:
            starts = self.fork_starts
            record.update(
                forked=starts.forked if starts else 0,
                fresh_why=starts.fresh_why if starts else 'each slot is a step of its own (isolation = "step")',
                fork_off=starts.fork_off if starts else None,
            )
        self.results.write(record)
        give_up = time.monotonic() + (self.grace_s if stopping else 600.0)
        while self.results.pending and time.monotonic() < give_up:
            info = signal.sigtimedwait(WAITED, 1.0)
            if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
                break
            self.results.flush()
        self.results.sync()
        for slot in self.loop.free:
            if not self.logs.separate:
                remove(slot.log_path)
        if self.running_path:
            remove(self.running_path)
        self.remove_scratch()
        return NO_RESULTS_EXIT if self.results.pending else NO_STEPS_EXIT if stopping == NO_STEPS else 0

    def remove_scratch(self) -> None:
        """Remove the folder of the tasks' files."""
        if not self.scratch:
            return
        try:
            for name in os.listdir(self.scratch):
                os.unlink(f"{self.scratch}/{name}")
            os.rmdir(self.scratch)
        except OSError:
            pass


def main(argv: list[str]) -> int:
    """Entry point: ``worker SCRIPT TASKS_PER_NODE``, or in a job step ``worker - TASKS_PER_NODE SECONDS [FOLDER]``.

    In a job step, standard input has the script. ``SECONDS`` says how long the job ran before the step; it may be
    empty. ``FOLDER`` is the working directory of the script. The tasks get it, too.

    Returns:
        The exit code: 0, or one of :data:`.protocol.EXITS`.
    """
    prepare_process()
    path, tasks_per_node, *more = argv
    before = more[0].strip() if more else ""
    fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        header, command, lines = read_work(file.read())
    # procps 4.0.2 sometimes says that a process that has just begun is 4123168608 s old.
    before_s = float(before) if is_number(before) and len(before) < 10 else 0.0
    worker = Worker(header, command, lines, tasks_per_node, before_s)
    try:
        worker.prepare()
        if len(more) > 1:
            os.chdir(worker.folder.run if more[1] == worker.folder.run_path else more[1])
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
