# SPDX-License-Identifier: BSD-3-Clause
"""The loop that runs the tasks of a job on one node. It gives tasks from the queue to free slots, and enforces limits.

A :class:`Job` knows what a task is, and where its result goes: there is one in the worker, and one in the hook. A
:class:`Starts` starts the process of a task. :mod:`.forks` and :mod:`.steps` have other ways to start it.
"""

from __future__ import annotations

import errno
import os
import signal
import time

from .processes import WAITED, signal_group, signal_name, spawn

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of the others
if TYPE_CHECKING:
    from .limits import MemoryWatch
    from .task_queue import Queue

# If a signal ended a task, we wait so long for a SIGTERM to the worker. Only then the task counts as failed. SLURM
# signals all processes of a job at once, and the worker may see the end of its task first.
SETTLE_S = 0.3
ENDING = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP)
TICK_S = 1.0
TASK_KILL_S = 10.0
# SLURM ends a job up to a minute late, never early. So a task may start if it could end so many seconds too late.
LATE_S = 30.0
# How long the worker waits after a task could not be started.
RETRY_S = 1.0
# If a wait takes so much longer than it should, the job was suspended.
SUSPENDED_S = 5.0
# Errors of a full node or disk. They pass, and are not the fault of a task.
PASSING = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT}
NO_RESULTS = "its results could not be written"


class Slot:
    """A place for one running task."""

    def __init__(self, number: int, env: dict[str, str], cpus: set[int] | None) -> None:
        self.number = number
        self.env = env
        self.cpus = cpus
        self.log_path = ""
        self.log_fd = -1
        self.pid = 0  # the process whose end is the end of the task: the task, or the srun of its job step
        self.step = 0  # the srun of its job step
        self.forked = False  # whether its task runs in a fork of the nursery
        self.first = False  # whether its task is the first one of the job
        self.starved = False  # whether the job step ran out of memory while the task ran
        self.taken_back = False  # whether the task was taken back before the job step took it
        self.line = b""  # the line of the task in the script
        self.index = self.attempt = 0
        self.files = ("", "")
        self.began = self.began_clock = 0.0
        self.handed_over = 0.0  # when the task was given to the job step
        self.kill_at: float | None = None  # when to send SIGKILL, after the task got SIGTERM
        self.verdict: tuple[str, str] | None = None  # why we end the task: (state, reason)


class Job:
    """The part that knows what a task is. The loop calls these methods."""

    def begin(self, slot: Slot) -> list[str]:
        """Make the files of the task in ``slot.line``. Return its command line.

        Raises:
            OSError: The files can't be made. The task did not start, and is the next to start.
        """
        raise NotImplementedError

    def undo(self, slot: Slot) -> None:
        """Remove the files that :meth:`begin` made, because the task did not start."""
        raise NotImplementedError

    def finish(
        self, slot: Slot, status: int | None, usage: tuple[float, float] | None, verdict: tuple[str, str] | None
    ) -> bool:
        """Save the result of a task that ended.

        Args:
            slot: The slot in which it ran.
            status: Its wait status. None if it never started, or if the status is not known.
            usage: Its peak memory in KiB, and its CPU time in seconds. None if they are not known.
            verdict: (state, reason). None if the exit code decides.

        Returns:
            True if the task has ended. False if it must run again.
        """
        raise NotImplementedError

    def is_blocked(self) -> bool:
        """Return whether results can't be written at the moment. Then no further task starts."""
        return False

    def look(self, now: float) -> str | None:
        """Do what is due. This is called about once a second. Return why the job must end, or None."""
        return None

    def complain(self, text: str) -> None:
        """Print a message. Do not repeat it if it is the same as the last one."""


class Starts:
    """Starts each task as a new process, in its own process group.

    Args:
        pins: Whether each slot has its own CPU set.

    Attributes:
        whose: The word for what limits the memory of a task: the job, or the job step.
    """

    whose = "job"

    def __init__(self, pins: bool) -> None:
        self.null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.all_cpus = os.sched_getaffinity(0) if pins else None

    def start(self, loop: Loop, slot: Slot, words: list[str]) -> None:
        """Start a task.

        Raises:
            OSError: The node has no room for the process. The task did not start.
        """
        try:
            if slot.cpus:
                os.sched_setaffinity(0, slot.cpus)
            slot.pid = self.new_process(loop, slot, words)
        except OSError as error:
            if error.errno in PASSING:
                loop.obstacle = "its tasks could not be started"
                raise
            loop.finish(slot, None, None, ("failed", f"{words[0]} can't be started: {error.strerror}"))
        else:
            loop.began(slot)
        finally:
            if self.all_cpus:
                os.sched_setaffinity(0, self.all_cpus)

    def new_process(self, loop: Loop, slot: Slot, words: list[str]) -> int:
        """Start the process of a task. Return its pid."""
        return spawn(words, slot.env, self.null_fd, slot.log_fd)

    def is_waiting(self, loop: Loop, now: float) -> bool:
        """Return whether the next tasks should wait for a moment, because they can start faster then."""
        return False

    def look(self, loop: Loop) -> None:
        """Find tasks that ended, but that are not child processes of ours."""

    def rest(self, loop: Loop, now: float) -> None:
        """Do what is due. This is called after the loop handled all tasks that ended."""

    def ended(self, loop: Loop, pid: int, status: int, usage: tuple[float, float]) -> None:
        """Handle the end of a child process: a task, or a process that the script started before the worker."""
        slot = loop.running.pop(pid, None)
        if slot is not None:
            end_group(pid)
            loop.ended_with(slot, status, usage)

    def group(self, slot: Slot) -> int:
        """Return the process group of the task in a slot, or 0 if there is none."""
        return slot.pid

    def signal(self, slot: Slot, number: int) -> None:
        """Send a signal to the process group of the task in a slot."""
        group = self.group(slot)
        if group:
            signal_group(group, number)

    def is_untaken(self, slot: Slot) -> bool:
        """Return whether the task in a slot still waits for its job step to begin."""
        return False

    def is_overdue(self, loop: Loop, slot: Slot, now: float) -> bool:
        """Return whether the job step of a slot did not begin in time. If so, end it."""
        return False

    def take_back(self, slot: Slot) -> bool:
        """Take a task back from its job step, if the step has not begun it. Return whether that succeeded."""
        return False

    def close(self, loop: Loop) -> None:
        """End the processes that wait for further tasks."""


class Loop:
    """Runs tasks in the slots of a job on one node.

    Args:
        job: Knows what tasks are, and where results go.
        queue: The tasks.
        starts: Starts the tasks.
        slots: All slots. The first one is the last of the list.
        deadline: When SLURM ends the job, by the monotonic clock in seconds. None if that is not known.
        task_time_s: Seconds that a task may take. 0 for no limit.
        grace_s: Seconds that tasks have to end, when the job is ended.
        watch: Watches the memory of tasks. None if nothing does.

    Attributes:
        running: Pid -> slot. The end of this process is the end of the slot's task.
        stopping: Why no further task is started. None if tasks are started.
        ending: Whether the running tasks were told to end, too.
        obstacle: Why the last try to start a task failed. None if it did not fail.
    """

    def __init__(
        self,
        job: Job,
        queue: Queue,
        starts: Starts,
        slots: list[Slot],
        deadline: float | None,
        task_time_s: float,
        grace_s: float,
        watch: MemoryWatch | None = None,
    ) -> None:
        self.job, self.queue, self.starts, self.watch = job, queue, starts, watch
        self.free, self.slot_count = slots, len(slots)
        self.deadline, self.task_time_s, self.grace_s = deadline, task_time_s, grace_s
        self.running: dict[int, Slot] = {}
        self.undecided: list[tuple[float, Slot, int, tuple[float, float]]] = []
        self.started = self.ended = 0
        self.retry_at = 0.0  # no task is started before this time
        self.obstacle: str | None = None
        self.stopping: str | None = None
        self.ending = False

    def run(self) -> None:
        """Run tasks until the queue is empty, or the job must end."""
        next_tick = time.monotonic()
        while True:
            self.fill()
            if not self.running and not self.undecided:
                if self.stopping or not (self.job.is_blocked() or self.queue.has_tasks()):
                    return
                self.give_up_late()
            timeout = self.pause()
            waits = time.monotonic()
            info = signal.sigtimedwait(WAITED, timeout)
            gap = time.monotonic() - waits - timeout
            if gap > SUSPENDED_S:
                self.shift_clocks(gap)
            if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
                self.end_all("the job was ended")
            # If a SIGTERM arrived together with the end of a task, handle the SIGTERM first.
            if signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
                self.end_all("the job was ended")
            self.starts.look(self)
            self.reap()
            now = time.monotonic()
            self.starts.rest(self, now)
            self.decide(now)
            self.enforce(now)
            if now >= next_tick:
                next_tick = now + TICK_S
                why = self.job.look(now)
                if why is not None:
                    self.end_all(why)
            if self.watch is not None and now >= self.watch.next_look:
                self.watch_memory(self.watch, now)

    def pause(self) -> float:
        """Return how many seconds the loop may wait: until something is due, at the most."""
        if self.undecided:
            return 0.1
        timeout = min(TICK_S, self.watch.every_s) if self.watch is not None else TICK_S
        if self.task_time_s or self.ending:
            now = time.monotonic()
            for slot in self.running.values():
                due = slot.kill_at or (slot.began + self.task_time_s if self.task_time_s else None)
                if due is not None:
                    timeout = min(timeout, max(0.01, due - now))
        return timeout

    def shift_clocks(self, gap: float) -> None:
        """Add the time of a suspension of the job (gang scheduling) to all times.

        The monotonic clock goes on during a suspension, and SLURM adds this time to the job's limit.

        Args:
            gap: How long the job was suspended, in seconds.
        """
        for slot in self.running.values():
            slot.began += gap
            slot.handed_over += gap
            if slot.kill_at is not None:
                slot.kill_at += gap
        if self.deadline is not None:
            self.deadline += gap

    # -- the start of tasks ------------------------------------------------------------------------------

    def fill(self) -> None:
        """Start a task in each free slot, as long as there are tasks that can end in time."""
        while self.free and not self.stopping and self.queue.has_tasks():
            now = time.monotonic()
            if now < self.retry_at or self.job.is_blocked() or self.starts.is_waiting(self, now):
                return
            if not self.in_time(now):
                self.stopping = "no further task can end within the job's time limit"
                return
            try:
                line = self.queue.take()
            except OSError as error:
                self.obstacle = "its next tasks could not be taken"
                self.retry_at = now + RETRY_S
                self.job.complain(f"{self.obstacle}: {error.strerror}; waiting for room")
                return
            if line is None:
                return
            slot = self.free.pop()
            slot.first = not self.started
            slot.line = line
            try:
                self.start(slot)
            except OSError as error:
                self.put_back(slot)
                self.job.complain(f"a task can't be started, {self.obstacle}: {error.strerror}; waiting for room")
                return
            self.started += 1

    def start(self, slot: Slot) -> None:
        """Start a task in a free slot.

        Raises:
            OSError: Its files can't be written, or the node has no room for a process. The task did not start.
        """
        slot.verdict = slot.kill_at = None
        self.obstacle = "the files of its tasks could not be written"
        words = self.job.begin(slot)
        slot.began_clock = time.time()
        slot.began = time.monotonic()
        self.starts.start(self, slot, words)
        self.obstacle = None

    def began(self, slot: Slot) -> None:
        """Note that a task runs, or that it will run as soon as its job step has begun."""
        self.running[slot.pid] = slot

    def put_back(self, slot: Slot) -> None:
        """Put back a task that did not start. It is the next to start, and its slot is free again."""
        self.job.undo(slot)
        self.release(slot)
        self.retry_at = time.monotonic() + RETRY_S

    def release(self, slot: Slot) -> None:
        """Free a slot. Its task is the next to start."""
        slot.pid = 0
        self.queue.again.append(slot.line)
        self.free.append(slot)

    def in_time(self, now: float) -> bool:
        """Return whether a task that starts now can end before SLURM ends the job."""
        if self.deadline is None or self.started < self.slot_count:
            # The first task of each slot always starts: another job would not have more time for it.
            return True
        if not self.task_time_s:
            return now + 1.0 <= self.deadline
        # Short tasks get less extra time: it would gain little, and SLURM might end them as if they were too slow.
        return now + self.task_time_s <= self.deadline + min(LATE_S, self.task_time_s / 2)

    def give_up_late(self) -> None:
        """Stop after the job's time, if nothing runs, and nothing can be started or written."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.stopping = NO_RESULTS if self.job.is_blocked() else self.obstacle

    # -- the end of tasks --------------------------------------------------------------------------------

    def reap(self) -> None:
        """Handle all child processes that ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.starts.look(self)  # a task may have ended just before its job step
            self.starts.ended(self, pid, status, (usage.ru_maxrss, usage.ru_utime + usage.ru_stime))

    def ended_with(self, slot: Slot, status: int, usage: tuple[float, float]) -> None:
        """Handle the end of a task. If a signal ended it, wait a moment before it is judged."""
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in ENDING and slot.verdict is None and not self.ending:
            self.undecided.append((time.monotonic() + SETTLE_S, slot, status, usage))
        else:
            # A task that was told to end, but exits with 0, has done its work.
            self.finish(slot, status, usage, slot.verdict if status else None)

    def decide(self, now: float) -> None:
        """Judge the tasks that a signal ended. They are "cut" if the job is being ended, else they failed."""
        waiting, self.undecided = self.undecided, []
        for due, slot, status, usage in waiting:
            if self.ending:
                self.finish(slot, status, usage, ("cut", self.stopping or ""))
            elif now >= due:
                self.finish(slot, status, usage, None)
            else:
                self.undecided.append((due, slot, status, usage))

    def finish(
        self, slot: Slot, status: int | None, usage: tuple[float, float] | None, verdict: tuple[str, str] | None
    ) -> None:
        """Save the result of a task, and free its slot. Arguments: see :meth:`Job.finish`."""
        if self.job.finish(slot, status, usage, verdict):
            self.ended += 1
            slot.pid = 0
            self.free.append(slot)
        else:
            self.release(slot)

    # -- limits ------------------------------------------------------------------------------------------

    def enforce(self, now: float) -> None:
        """End tasks that are over their time, with SIGTERM and later SIGKILL. End job steps that do not begin."""
        for slot in self.running.values():
            if slot.kill_at is not None:
                if now >= slot.kill_at:
                    self.starts.signal(slot, signal.SIGKILL)
                    slot.kill_at = now + 1.0
            elif self.starts.is_overdue(self, slot, now):
                continue
            elif self.task_time_s and now >= slot.began + self.task_time_s:
                if self.starts.is_untaken(slot):
                    slot.began, slot.began_clock = now, time.time()
                    continue
                slot.verdict = ("timeout", f"over its time of {self.task_time_s:g} s")
                self.tell_to_end(slot, TASK_KILL_S)

    def tell_to_end(self, slot: Slot, grace_s: float) -> None:
        """Send SIGTERM to a task. Set the time for SIGKILL to ``grace_s`` seconds from now."""
        slot.kill_at = time.monotonic() + grace_s
        self.starts.signal(slot, signal.SIGTERM)
        self.starts.signal(slot, signal.SIGCONT)

    def end_all(self, why: str) -> None:
        """End the job: start no further task, and tell the running tasks to end.

        Args:
            why: The reason.
        """
        if self.ending:
            return
        self.stopping, self.ending = why, True
        for slot in self.running.values():
            if slot.verdict is None and not self.starts.take_back(slot):
                slot.verdict = ("cut", why)
            self.tell_to_end(slot, self.grace_s)

    def watch_memory(self, watch: MemoryWatch, now: float) -> None:
        """End the tasks whose process groups use more memory than a task may have."""
        groups = {self.starts.group(slot): slot for slot in self.running.values() if slot.verdict is None}
        for group, peak in watch.look(groups, now).items():
            slot = groups[group]
            slot.verdict = ("memory", f"used {peak:.0f} MB; its mem is {watch.memory_mb} MB")
            slot.kill_at = now
            self.starts.signal(slot, signal.SIGKILL)


def judge(status: int | None, verdict: tuple[str, str] | None) -> tuple[tuple[str, str] | None, int | None, int | None]:
    """Decide from its wait status how a task ended.

    Args:
        status: The wait status. None if the task never started, or if the status is not known.
        verdict: (state, reason), if that is decided already.

    Returns:
        (state, reason), or None if the task succeeded; its exit code; the number of the signal that ended it.
    """
    exit_code = signal_number = None
    if status is not None:
        if os.WIFSIGNALED(status):
            signal_number = os.WTERMSIG(status)
        else:
            exit_code = os.WEXITSTATUS(status)
    if verdict is None and signal_number is not None:
        verdict = ("failed", f"ended by signal {signal_number} ({signal_name(signal_number)})")
    if verdict is None and exit_code:
        verdict = ("failed", f"exit code {exit_code}")
    return verdict, exit_code, signal_number


def end_group(pid: int) -> None:
    """End the processes that a task left in its process group. They would use CPUs and memory of the next task."""
    signal_group(pid, signal.SIGKILL)
