# SPDX-License-Identifier: BSD-3-Clause
"""The loop: keeps the slots of a job busy from its queue, and holds job and tasks to their limits.

What a task is, and where its result goes, is the business of a :class:`Job`: of the worker, or of the hook. How a
task's process starts is that of :class:`Starts`; :mod:`.forks` and :mod:`.steps` have other ways.
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

# How long a task that was ended by a signal waits for the worker's own SIGTERM before it is called failed:
# SLURM signals all processes of a job at once, and the worker may see its task's death first.
SETTLE_S = 0.3
ENDING = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP)
TICK_S = 1.0
TASK_KILL_S = 10.0
# SLURM ends a job up to a minute late, never early: a task that would need its whole time may end so late.
LATE_S = 30.0
# How long the worker waits where no task can be started.
RETRY_S = 1.0
# A wait that took so much longer than it should was no wait: the job was suspended.
SUSPENDED_S = 5.0
# What a full node or disk says. It passes, and is no task's fault.
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
        self.pid = 0  # whose end is the task's end: the task, or in a step of its own the srun
        self.step = 0  # the srun of its step
        self.forked = False  # whether its task runs in a fork of the nursery
        self.first = False  # whether its task is the job's first
        self.starved = False  # whether its step ran out of memory under the task
        self.taken_back = False  # whether its step was told to end before it took the task
        self.line = b""  # the task, as the script has it
        self.index = self.attempt = 0
        self.files = ("", "")
        self.began = self.began_clock = 0.0
        self.handed_over = 0.0  # when its step got the task
        self.kill_at: float | None = None  # when SIGKILL follows, once the task has been told to end
        self.verdict: tuple[str, str] | None = None  # why we end the task: (state, reason)


class Job:
    """What the loop asks of whoever knows what a task is."""

    def begin(self, slot: Slot) -> list[str]:
        """Make the files of the task in ``slot.line``. Returns its command line.

        Raises:
            OSError: They can't be made: the task did not start, and keeps its turn.
        """
        raise NotImplementedError

    def undo(self, slot: Slot) -> None:
        """Take away what :meth:`begin` made: the task did not start."""
        raise NotImplementedError

    def finish(
        self, slot: Slot, status: int | None, usage: tuple[float, float] | None, verdict: tuple[str, str] | None
    ) -> bool:
        """Keep the result of a task that ended.

        Args:
            slot: Where it ran.
            status: Its wait status; None if it never started.
            usage: Its peak memory in KiB, and its CPU seconds.
            verdict: (state, reason), or None if its exit code is to decide.

        Returns:
            Whether it has ended; False if it is to run again.
        """
        raise NotImplementedError

    def is_blocked(self) -> bool:
        """Whether results can't be written: then no further task starts."""
        return False

    def look(self, now: float) -> str | None:
        """Do what is due; about once a second. Returns why the job is to end, if it is."""
        return None

    def complain(self, text: str) -> None:
        """Say what is wrong, once."""


class Starts:
    """Each task is a new process, in a process group of its own.

    Args:
        pins: Whether slots have CPU sets of their own.

    Attributes:
        whose: Whose limit of memory a task is under, in words.
    """

    whose = "job"

    def __init__(self, pins: bool) -> None:
        self.null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.all_cpus = os.sched_getaffinity(0) if pins else None

    def start(self, loop: Loop, slot: Slot, words: list[str]) -> None:
        """Start a task.

        Raises:
            OSError: The node has no room for it: it did not start.
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
        """Start a task's process. Returns its pid."""
        return spawn(words, slot.env, self.null_fd, slot.log_fd)

    def is_waiting(self, loop: Loop, now: float) -> bool:
        """Whether slots stay free for a moment, since the next tasks start better then."""
        return False

    def look(self, loop: Loop) -> None:
        """Take note of tasks that are reported as ended otherwise than by the end of a child."""

    def rest(self, loop: Loop, now: float) -> None:
        """Do what is due, once all tasks that ended are noted."""

    def ended(self, loop: Loop, pid: int, status: int, usage: tuple[float, float]) -> None:
        """A child ended: a task, or what the script left to us."""
        slot = loop.running.pop(pid, None)
        if slot is not None:
            end_group(pid)
            loop.ended_with(slot, status, usage)

    def group(self, slot: Slot) -> int:
        """The process group of the task in a slot; 0 if there is none."""
        return slot.pid

    def signal(self, slot: Slot, number: int) -> None:
        """Signal the process group of the task in a slot."""
        group = self.group(slot)
        if group:
            signal_group(group, number)

    def is_untaken(self, slot: Slot) -> bool:
        """Whether a task waits for its step to begin."""
        return False

    def is_overdue(self, loop: Loop, slot: Slot, now: float) -> bool:
        """Whether a step should have begun long ago: then it is ended."""
        return False

    def take_back(self, slot: Slot) -> bool:
        """Take a task back from its step, if the step did not take it yet: it never began. Returns whether so."""
        return False

    def close(self, loop: Loop) -> None:
        """End what waits for further tasks."""


class Loop:
    """The slots of a job on one node.

    Args:
        job: What tasks are, and where results go.
        queue: The tasks.
        starts: How they start.
        slots: All slots, the first one last.
        deadline: When SLURM ends the job, by the monotonic clock; None if that is not known.
        task_time_s: How long a task may take, in seconds; 0 for any time.
        grace_s: How long tasks have to end when the job is ended, in seconds.
        watch: Over the memory of tasks, or None.

    Attributes:
        running: Slots by the process whose end is the end of their task.
        stopping: Why no further task is started.
        ending: Whether the running tasks were told to end, too.
        obstacle: Why the last try to start a task came to nothing.
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
        self.retry_at = 0.0  # until when no start is tried
        self.obstacle: str | None = None
        self.stopping: str | None = None
        self.ending = False

    def run(self) -> None:
        """Run the queue to its end."""
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
            # A SIGTERM that came together with the death of its task counts first.
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
        """Seconds until something is due, at the most."""
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
        """The job was suspended (gang scheduling), while the monotonic clock ran on; SLURM adds this to its limit."""
        for slot in self.running.values():
            slot.began += gap
            slot.handed_over += gap
            if slot.kill_at is not None:
                slot.kill_at += gap
        if self.deadline is not None:
            self.deadline += gap

    # -- the start of tasks ------------------------------------------------------------------------------

    def fill(self) -> None:
        """Give every free slot a task, as long as there are tasks that can end in time."""
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
            OSError: Its files can't be written, or the node has no room for a process: it did not start.
        """
        slot.verdict = slot.kill_at = None
        self.obstacle = "the files of its tasks could not be written"
        words = self.job.begin(slot)
        slot.began_clock = time.time()
        slot.began = time.monotonic()
        self.starts.start(self, slot, words)
        self.obstacle = None

    def began(self, slot: Slot) -> None:
        """A task runs, or will once its step has begun."""
        self.running[slot.pid] = slot

    def put_back(self, slot: Slot) -> None:
        """A task did not start: it keeps its turn, and its slot is free again."""
        self.job.undo(slot)
        self.release(slot)
        self.retry_at = time.monotonic() + RETRY_S

    def release(self, slot: Slot) -> None:
        """Free a slot, whose task keeps its turn."""
        slot.pid = 0
        self.queue.again.append(slot.line)
        self.free.append(slot)

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
            self.stopping = NO_RESULTS if self.job.is_blocked() else self.obstacle

    # -- the end of tasks --------------------------------------------------------------------------------

    def reap(self) -> None:
        """Take note of every task that ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self.starts.look(self)  # a task may have ended just before its step
            self.starts.ended(self, pid, status, (usage.ru_maxrss, usage.ru_utime + usage.ru_stime))

    def ended_with(self, slot: Slot, status: int, usage: tuple[float, float]) -> None:
        """A task ended; if by a signal, its verdict waits for a moment."""
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in ENDING and slot.verdict is None and not self.ending:
            self.undecided.append((time.monotonic() + SETTLE_S, slot, status, usage))
        else:
            # A task that was told to end and yet ended well has done its work.
            self.finish(slot, status, usage, slot.verdict if status else None)

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

    def finish(
        self, slot: Slot, status: int | None, usage: tuple[float, float] | None, verdict: tuple[str, str] | None
    ) -> None:
        """Keep the result of a task, and free its slot. Arguments as of :meth:`Job.finish`."""
        if self.job.finish(slot, status, usage, verdict):
            self.ended += 1
            slot.pid = 0
            self.free.append(slot)
        else:
            self.release(slot)

    # -- limits ------------------------------------------------------------------------------------------

    def enforce(self, now: float) -> None:
        """End the tasks whose time is over: TERM, and KILL when they do not heed it. End steps that do not begin."""
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
        """Ask a task to end, and note when it is to be made to."""
        slot.kill_at = time.monotonic() + grace_s
        self.starts.signal(slot, signal.SIGTERM)
        self.starts.signal(slot, signal.SIGCONT)

    def end_all(self, why: str) -> None:
        """The job is being ended: start nothing more, end what runs."""
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
    """What became of a task, by its wait status.

    Args:
        status: The wait status; None if it never started.
        verdict: (state, reason), if that is decided already.

    Returns:
        (state, reason) or None if it did well, its exit code, and the signal that ended it.
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
    """End what a task left behind in its process group: it would eat the next one's CPUs and memory."""
    signal_group(pid, signal.SIGKILL)
