# SPDX-License-Identifier: BSD-3-Clause
"""Run each slot in its own job step (``isolation = "step"``): one srun for each slot. SLURM limits the slot's memory.

In the job step runs a slot worker (:func:`slot_main`). It gets one task after the other by files in the scratch folder:
``slot-N.todo`` (what to run), ``slot-N.pid`` (the running process), ``slot-N.done`` (how the task ended).
"""

from __future__ import annotations

import os
import signal
import sys
import time

from .folders import private, remove
from .limits import oom_kills
from .loop import PASSING, RETRY_S, Starts, end_group
from .processes import prepare_process, signal_group, spawn
from .protocol import NO_STEPS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .loop import Loop, Slot

MAX_STEP_FAILURES = 3
# How long a job step may take to begin. slurmctld may be away for a while. But an srun that the nodes can't reach never
# ends by itself.
STEP_START_S = 300.0


class Steps(Starts):
    """Runs each slot as a job step. In the step, one task runs after the other.

    Args:
        srun: The command srun.
        host: SLURM's name for this node.
        scratch: A private folder that the job steps can reach.
        cpus_per_task: Number of CPUs of a slot.
        memory_mb: Memory of a slot, in MB.
        gres: Words for srun: which GPUs of the job, and what else it got by gres, are for a slot. Without such words, a
            step takes all of them, and the next step waits until it has ended.
        complain: Prints a message.

    Attributes:
        begun: How many job steps were started.
        failures: How many job steps in a row did not begin.
    """

    whose = "step"

    def __init__(
        self,
        srun: str,
        host: str,
        scratch: str,
        cpus_per_task: int,
        memory_mb: str,
        gres: list[str],
        complain: Callable[[str], None],
    ) -> None:
        super().__init__(False)
        self.srun, self.host, self.scratch = srun, host, scratch
        self.cpus_per_task, self.memory_mb, self.gres = cpus_per_task, memory_mb, gres
        self.complain = complain
        self.begun = 0
        self.failures = 0

    def start(self, loop: Loop, slot: Slot, words: list[str]) -> None:
        """Give a task to the slot worker in the slot's job step. Start the job step if there is none.

        Raises:
            OSError: See :meth:`.loop.Starts.start`.
        """
        self._write_todo(slot, {"words": words, "log": slot.log_path})
        slot.handed_over = slot.began
        if not slot.step:
            srun = [
                self.srun, "--quiet", "--exact", "--nodes=1", "--ntasks=1", f"--nodelist={self.host}",
                f"--cpus-per-task={self.cpus_per_task}", f"--mem={self.memory_mb}M",
                *self.gres, "--export=ALL", "--input=none",
                "--chdir=/", sys.executable, "-I", "-S", "-c",
                "import sys; sys.path.append(sys.argv[1]); from node.steps import slot_main; slot_main(*sys.argv[2:])",
                os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                f"{self.scratch}/slot-{slot.number}", str(os.getpid()),
            ]  # fmt: skip
            umask = os.umask(0o077)
            os.umask(umask)
            try:
                # srun uses SLURM_UMASK, which sbatch has set, and not its own umask.
                slot.step = spawn(srun, {**slot.env, "SLURM_UMASK": f"{umask:04o}"}, self.null_fd, 2)
            except OSError as error:
                remove(f"{self.scratch}/slot-{slot.number}.todo")
                if error.errno in PASSING:
                    loop.obstacle = NO_STEPS
                    raise
                self._failed(loop, slot, f"{self.srun} can't be started: {error.strerror}")
                return
            self.begun += 1
        slot.pid = slot.step
        loop.began(slot)

    def _failed(self, loop: Loop, slot: Slot, why: str) -> None:
        """Handle a job step that ended, or did not start, before it took its task. After a few in a row, give up."""
        if time.monotonic() >= loop.retry_at:  # slots that fail at the same time count as one failure
            self.failures += 1
        loop.put_back(slot)
        self.complain(f"a slot's step did not begin: {why}")
        if self.failures >= MAX_STEP_FAILURES and not loop.stopping:
            loop.stopping = NO_STEPS
            self.complain(f"{NO_STEPS}: {why}; this job ends")

    def _write_todo(self, slot: Slot, todo: dict[str, Any]) -> None:
        import json

        stem = f"{self.scratch}/slot-{slot.number}"
        with open(f"{stem}.new", "w", encoding="utf-8", errors="surrogateescape", opener=private) as file:
            json.dump(todo, file)
        os.rename(f"{stem}.new", f"{stem}.todo")

    def look(self, loop: Loop) -> None:
        """Handle the tasks that slot workers report as ended."""
        import json

        for slot in list(loop.running.values()):
            try:
                with open(f"{self.scratch}/slot-{slot.number}.done", encoding="ascii") as file:
                    report = json.load(file)
            except FileNotFoundError:
                continue
            os.unlink(f"{self.scratch}/slot-{slot.number}.done")
            del loop.running[slot.pid]
            self.failures = 0
            if "fault" in report:
                fault = f"{report['word']} can't be started: {report['fault']}"
                if report["errno"] in PASSING and slot.verdict is None:
                    loop.obstacle = "its tasks could not be started"
                    loop.put_back(slot)
                    self.complain(f"{fault}; waiting for room")
                    continue
                loop.finish(slot, None, None, ("failed", fault))
                continue
            slot.starved = report["starved"]
            loop.ended_with(slot, report["status"], (report["maxrss"], report["cpu_s"]))

    def ended(self, loop: Loop, pid: int, status: int, usage: tuple[float, float]) -> None:
        """Handle the end of a job step, or of another child process."""
        slot = loop.running.pop(pid, None)
        if slot is not None:
            self._step_ended(loop, slot, status)
            return
        # It is an idle job step: the next task of its slot gets a new one. Or it is a process that the script started.
        for idle in [*loop.free, *(entry[1] for entry in loop.undecided)]:
            if idle.step == pid:
                idle.step = 0

    def _step_ended(self, loop: Loop, slot: Slot, status: int) -> None:
        """Handle the end of a slot's job step, before it took its task, or while the task ran.

        The next task of the slot gets a new job step.
        """
        slot.step = 0
        untaken = self.is_untaken(slot)
        for name in ("todo", "taken", "done", "pid"):
            remove(f"{self.scratch}/slot-{slot.number}.{name}")
        if slot.taken_back:
            slot.taken_back = False
            loop.put_back(slot)
            return
        if untaken and slot.verdict is None and not loop.ending:
            self._failed(loop, slot, f"srun ended with status {status}; what it said is above")
            return
        self.failures = 0
        memory = self.memory_mb
        verdict = slot.verdict or (
            ("cut", loop.stopping or "")
            if loop.ending
            else ("memory", f"its step was ended by SLURM (status {status}): most likely over its mem of {memory} MB")
        )
        loop.finish(slot, None, None, verdict)

    def is_untaken(self, slot: Slot) -> bool:
        """Return whether a slot's job step has not taken its task yet. srun waits until SLURM grants the step."""
        return os.path.exists(f"{self.scratch}/slot-{slot.number}.todo")

    def is_overdue(self, loop: Loop, slot: Slot, now: float) -> bool:
        """Return whether a slot's job step did not take its task in time. If so, kill its srun."""
        if now < slot.handed_over + STEP_START_S or not self.is_untaken(slot):
            return False
        slot.handed_over = now
        self.complain(f"a slot's step did not begin within {STEP_START_S:g} s: {self.srun} is ended")
        signal_group(slot.step, signal.SIGKILL)
        return True

    def take_back(self, slot: Slot) -> bool:
        """Take a task back from a job step that has not begun it. Return whether that succeeded."""
        try:
            # The slot worker renames the same file. Only one of the two can succeed.
            os.unlink(f"{self.scratch}/slot-{slot.number}.todo")
        except OSError:
            return False
        slot.taken_back = True
        return True

    def group(self, slot: Slot) -> int:
        """Return the process group of the task in a slot, or 0 if it is not known."""
        try:
            with open(f"{self.scratch}/slot-{slot.number}.pid", encoding="ascii") as file:
                return int(file.read() or 0)
        except (OSError, ValueError):
            return 0

    def signal(self, slot: Slot, number: int) -> None:
        """Send a signal to the process group of the task in a slot, or of its srun if the task was taken back."""
        group = slot.pid if slot.taken_back else self.group(slot)
        if group:
            signal_group(group, number)

    def close(self, loop: Loop) -> None:
        """End the slot workers, which wait for another task."""
        deadline = time.monotonic() + 5.0
        for slot in loop.free:
            if slot.step:
                try:
                    self._write_todo(slot, {})
                except OSError:
                    pass  # the disk is full: its srun is ended below
        for slot in loop.free:
            while slot.step:
                if os.waitpid(slot.step, os.WNOHANG)[0]:
                    slot.step = 0
                elif time.monotonic() < deadline:
                    time.sleep(0.02)
                else:
                    signal_group(slot.step, signal.SIGKILL)
                    deadline += 1.0


def slot_main(stem: str, worker_pid: str) -> None:
    """Run the slot worker inside of a slot's job step. It runs the tasks of ``STEM.todo``, until that file is empty.

    Args:
        stem: The beginning of the names of the slot's files.
        worker_pid: The pid of the worker. It gets a signal when a task has ended.
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
                time.sleep(RETRY_S)  # the disk is full, but the report must not be lost
        os.rename(f"{stem}.new", f"{stem}.done")
        os.kill(int(worker_pid), signal.SIGUSR1)


def run_in_step(stem: str, todo: dict[str, Any], null_fd: int) -> dict[str, Any]:
    """Run a task in the slot's job step. Return the report for the worker."""
    log_fd = -1
    kills = oom_kills()
    try:
        log_fd = private(todo["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        with open(f"{stem}.pid", "w", encoding="ascii", opener=private) as file:
            # Reserve room in the file before the task starts. If the disk is full, no task starts: without its pid we
            # could not end it.
            file.write("0".rjust(10))
            file.flush()
            pid = spawn(todo["words"], dict(os.environ), null_fd, log_fd)
            file.seek(0)
            file.write(str(pid).rjust(10))
    except OSError as error:
        return {"fault": error.strerror, "errno": error.errno, "word": todo["words"][0]}
    finally:
        if log_fd >= 0:
            os.close(log_fd)
    _pid, status, usage = os.wait4(pid, 0)
    end_group(pid)
    remove(f"{stem}.pid")
    return {
        "status": status,
        "maxrss": usage.ru_maxrss,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "starved": oom_kills() > kills,
    }
