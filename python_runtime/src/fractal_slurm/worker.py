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

With ``isolation = "step"`` each slot is a step of its own (one srun a slot, not a task), so that SLURM holds each
slot to its memory. A slot worker in the step (:func:`slot_main`) is handed one task after the other through files of
the scratch folder: ``slot-N.todo`` (what to run), ``slot-N.pid`` (what runs), ``slot-N.done`` (how it ended).
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False  # as in typing, whose import takes longer than all of the others
if TYPE_CHECKING:
    from typing import Any

MAGIC = b"#FRACTAL-SLURM-DATA 1"
# The threads of the usual numerical libraries; each is set to cpus_per_task unless the job's environment has it.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")
# How long a task that was ended by a signal waits for the worker's own SIGTERM before it is called failed:
# SLURM signals all processes of a job at once, and the worker may see its task's death first.
SETTLE_S = 0.3
ENDING = (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP)
TICK_S = 1.0
WATCH_S = 0.5
SYNC_S = 5.0
# A worker with nothing to tell says so now and then: where SLURM hides jobs, it is the only sign of life.
BEAT_S = 30.0
TASK_KILL_S = 10.0
WAITED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}


class Fenced(Exception):
    """The work of this job was given to another job."""


def read_work(data: bytes) -> tuple[dict[str, str], list[str], list[bytes]]:
    """Split a script into the header of its data part and its task lines.

    Args:
        data: The whole script, bytes.

    Returns:
        The header by name, the command's words, and the task lines: index, attempt and args-JSON, split by tabs.
    """
    data = data[data.index(b"\n" + MAGIC) + 1 :]
    head, _blank, body = data.partition(b"\n\n")
    header: dict[str, str] = {}
    command: list[str] = []
    for line in head.decode("utf-8", "surrogateescape").split("\n")[1:]:
        key, _tab, value = line.partition("\t")
        if key == "command":
            command.append(value)
        else:
            header[key] = value
    if header["encoding"] == "zlib":
        import binascii
        import zlib

        body = zlib.decompress(binascii.a2b_base64(body))
    lines = body.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if len(lines) != int(header["tasks"]):
        raise ValueError(f"the script holds {len(lines)} tasks, not {header['tasks']}: it was cut or changed")
    return header, command, lines


def slots_of_node(tasks_per_node: str, node: int) -> tuple[list[int], int]:
    """The slots of one node, out of SLURM_TASKS_PER_NODE, e.g. ``4(x2),1``.

    Args:
        tasks_per_node: The variable's value.
        node: The node's number in the job (SLURM_NODEID).

    Returns:
        Slots of every node of the job, and of this one.
    """
    slots = []
    for part in (tasks_per_node or "1").split(","):
        count, _x, times = part.partition("(x")
        slots += [int(count)] * int(times.rstrip(")") or 1)
    return slots, slots[node] if node < len(slots) else 1


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


def split_cpus(slots: int, cpus_per_task: int) -> list[set[int]] | None:
    """A CPU set for each slot, or nothing where SLURM did not confine this job to the CPUs that it granted.

    Pinning by guess puts neighbouring jobs on the same CPUs, since without confinement every job sees all.
    """
    granted = os.environ.get("SLURM_CPUS_ON_NODE", "")
    cpus = sorted(os.sched_getaffinity(0))
    if not granted.isdigit() or len(cpus) != int(granted) or len(cpus) < slots * cpus_per_task:
        return None
    # Hardware threads of one core go to one slot.
    siblings: dict[int, str] = {}
    for cpu in cpus:
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as file:
                siblings[cpu] = file.read()
        except OSError:
            siblings[cpu] = ""
    first: dict[str | int, int] = {}
    for cpu in cpus:
        first.setdefault(siblings[cpu] or cpu, cpu)
    cpus.sort(key=lambda cpu: (first[siblings[cpu] or cpu], cpu))
    return [set(cpus[n * cpus_per_task : (n + 1) * cpus_per_task]) for n in range(slots)]


def slot_environment(number: int, slots: int, cpus_per_task: int) -> dict[str, str]:
    """The environment of the tasks of one slot: threads, its share of the job's GPUs."""
    env = dict(os.environ)
    env["SLURM_CPUS_PER_TASK"] = str(cpus_per_task)
    for name in THREAD_VARIABLES:
        env.setdefault(name, str(cpus_per_task))
    for name in GPU_VARIABLES:
        devices = [device for device in env.get(name, "").split(",") if device]
        if len(devices) > 1:
            share = len(devices) // slots
            mine = devices[number * share : (number + 1) * share] if share else [devices[number % len(devices)]]
            env[name] = ",".join(mine)
    return env


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
        self.index = self.attempt = 0
        self.files = ("", "")
        self.began = self.began_clock = 0.0
        self.kill_at: float | None = None  # when SIGKILL follows, once the task has been told to end
        self.verdict: tuple[str, str] | None = None  # why we end the task: (state, reason)


class Worker:
    """Runs the tasks; see the module's text."""

    def __init__(self, header: dict[str, str], command: list[str], lines: list[bytes], tasks_per_node: str) -> None:
        self.header = header
        self.job = os.environ.get("SLURM_JOB_ID", "0")
        self.restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        self.node = int(os.environ.get("SLURM_NODEID") or 0)
        self.host = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        self.folder = header["folder"]
        self.command = command
        self.cpus_per_task = int(header["cpus_per_task"])
        self.task_time_s = float(header["task_time_s"])
        self.memory_mb = int(header["memory_mb"]) if header["memory_limit"] == "watch" else 0
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
        # A minute's grain of SLURM's own: it ends a job up to a minute late, never early.
        self.deadline = self.began + float(header["job_limit_s"]) if float(header["job_limit_s"]) else None
        self.next_line = self.chunk = self.chunk_end = 0
        self.bounds = chunk_bounds(len(lines), self.total_slots) if self.nodes > 1 else None
        self.finished: set[int] = set()
        self.running: dict[int, Slot] = {}
        self.undecided: list[tuple[float, Slot, int, tuple[float, float]]] = []
        self.pending = b""  # records that could not be written yet
        self.unsynced = False
        self.ended = 0
        self.stopping: str | None = None  # why no further task is started
        self.ending = False  # whether the running tasks were told to end, too
        self.log_offset = 0

    # -- the start ---------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Take this submission's token for this job, or learn that it was given away (rule 7 of the design)."""
        path = self.header["claim"]
        try:
            os.symlink(self.job, path)
        except FileExistsError:
            try:
                owner = os.readlink(path)
            except OSError:
                raise Fenced("the server gave this work to another job") from None
            if owner != self.job:
                raise Fenced(f"job {owner} does this work already") from None

    def prepare(self) -> None:
        os.umask(0o077)
        os.makedirs(self.folder, exist_ok=True)
        name = f"{self.restart}-{self.node}"
        if self.restart:
            self.skip_finished()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.results_fd = os.open(f"{self.folder}/results-{name}", flags, 0o600)
        # By hand: json is imported only once tasks are running. None of the values needs an escape.
        self.pending = (
            f'\n{{"begin":{time.time():.3f},"token":"{self.header["token"]}","job":"{self.job}",'
            f'"restart":{self.restart},"node":{self.node},"nodes":{self.nodes},"slots":{self.slot_count}}}\n'
        ).encode("ascii")
        self.flush()
        if not self.separate_logs:
            self.log_fd = os.open(f"{self.folder}/log-{name}", flags, 0o600)
            self.log_offset = os.fstat(self.log_fd).st_size
        if self.bounds:
            os.makedirs(f"{self.folder}/chunks-{self.restart}", exist_ok=True)
        self.scratch = self.make_scratch()
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
                slot.log_fd = os.open(slot.log_path, flags | os.O_TRUNC, 0o600)
            self.free.append(slot)

    def make_scratch(self) -> str:
        """A private folder for the args and out files of running tasks: on the node, else in the job's folder."""
        name = f"fractal-{self.header['token']}-{self.restart}-{self.node}"
        for parent in (os.environ.get("TMPDIR"), "/tmp"):  # noqa: S108 - made anew, private, by a name that can't be guessed
            if parent and os.path.isabs(parent):
                try:
                    os.mkdir(f"{parent}/{name}", 0o700)
                    return f"{parent}/{name}"
                except OSError:
                    pass
        path = f"{self.folder}/files-{self.restart}-{self.node}"
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def skip_finished(self) -> None:
        """A requeued job does not run again what an earlier start of it finished."""
        import json

        for name in os.listdir(self.folder):
            if not name.startswith("results-"):
                continue
            with open(f"{self.folder}/{name}", "rb") as file:
                for line in file:
                    try:
                        record = json.loads(line)
                    except ValueError:
                        continue
                    ours = isinstance(record, dict) and record.get("token") == self.header["token"]
                    if ours and record.get("state") in ("succeeded", "failed", "timeout", "memory"):
                        self.finished.add(int(record.get("task", -1)))

    # -- the queue ---------------------------------------------------------------------------------------

    def next_task(self) -> bytes | None:
        """The next task's line, or None when there is none left for this node."""
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
        bounds = self.bounds or [0]
        while self.chunk < len(bounds) - 1:
            chunk, self.chunk = self.chunk, self.chunk + 1
            try:
                os.symlink(str(self.node), f"{self.folder}/chunks-{self.restart}/{chunk}")
            except FileExistsError:
                continue
            self.next_line, self.chunk_end = bounds[chunk], bounds[chunk + 1]
            return True
        return False

    # -- one task ----------------------------------------------------------------------------------------

    def start(self, slot: Slot, line: bytes) -> None:
        """Start a task in a free slot."""
        index, attempt, args = line.split(b"\t", 2)
        slot.index, slot.attempt = int(index), int(attempt)
        stem = f"{self.scratch}/{slot.index}-{slot.attempt}"
        slot.files = (f"{stem}-args.json", f"{stem}-out.json")
        slot.verdict = slot.kill_at = None
        fd = os.open(slot.files[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, args)
        finally:
            os.close(fd)
        if self.separate_logs:
            slot.log_path = f"{self.folder}/task-{slot.index}-{slot.attempt}.log"
            slot.log_fd = os.open(slot.log_path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        words = [*self.command, "--args-json", slot.files[0], "--out-json", slot.files[1]]
        slot.began_clock = time.time()
        slot.began = time.monotonic()
        try:
            if self.in_steps:
                self.hand_over(slot, words)
            else:
                if slot.cpus:
                    os.sched_setaffinity(0, slot.cpus)
                slot.pid = spawn(words, slot.env, self.null_fd, slot.log_fd)
        except OSError as error:
            slot.pid = 0
            self.finish(slot, None, None, ("failed", f"{words[0]} can't be started: {error.strerror}"))
        else:
            self.running[slot.pid] = slot
        finally:
            if self.all_cpus:
                os.sched_setaffinity(0, self.all_cpus)

    # -- steps -------------------------------------------------------------------------------------------

    def hand_over(self, slot: Slot, words: list[str]) -> None:
        """Give a task to the slot worker in the slot's step; start the step where there is none."""
        self.write_todo(slot, {"words": words, "log": slot.log_path})
        if not slot.step:
            memory = self.header["memory_mb"]
            srun = [
                self.srun, "--quiet", "--exact", "--nodes=1", "--ntasks=1", f"--nodelist={self.host}",
                f"--cpus-per-task={self.cpus_per_task}", f"--mem={memory}M", "--export=ALL", "--input=none",
                sys.executable, "-I", "-S", "-c",
                "import sys; sys.path.append(sys.argv[1]); import worker; worker.slot_main(*sys.argv[2:])",
                os.path.dirname(os.path.abspath(__file__)), f"{self.scratch}/slot-{slot.number}", str(os.getpid()),
            ]  # fmt: skip
            slot.step = spawn(srun, slot.env, self.null_fd, 2)
            self.steps += 1
        slot.pid = slot.step

    def write_todo(self, slot: Slot, todo: dict[str, Any]) -> None:
        import json

        stem = f"{self.scratch}/slot-{slot.number}"
        with open(f"{stem}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
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
            if "fault" in report:
                fault = f"{self.command[0]} can't be started: {report['fault']}"
                self.finish(slot, None, None, ("failed", fault))
                continue
            self.ended_with(slot, report["status"], (report["maxrss"], report["cpu_s"]))

    def step_ended(self, slot: Slot, status: int) -> None:
        """The step of a slot ended under its task, for what the task did; the next task gets a new step."""
        slot.step = 0
        for name in ("todo", "done", "pid"):
            remove(f"{self.scratch}/slot-{slot.number}.{name}")
        memory = self.header["memory_mb"]
        verdict = slot.verdict or (
            ("cut", self.stopping or "")
            if self.ending
            else ("memory", f"its step was ended by SLURM (status {status}): most likely over its mem of {memory} MB")
        )
        self.finish(slot, None, None, verdict)

    def signal_task(self, slot: Slot, number: int) -> None:
        """Signal the process group of the task in a slot."""
        pid = slot.pid
        if self.in_steps:
            try:
                with open(f"{self.scratch}/slot-{slot.number}.pid", encoding="ascii") as file:
                    pid = int(file.read() or 0)
            except (OSError, ValueError):
                return
        if pid:
            signal_group(pid, number)

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
        out, fault = self.read_out(slot.files[1])
        if verdict is None and fault:
            verdict = ("failed", fault)
        state, reason = verdict or ("succeeded", None)
        record["state"] = state
        if reason:
            record["reason"] = reason
        if out is not None:
            record["out"] = out
        self.keep_log(slot, record, 400 if state == "succeeded" else 4000)
        for path in slot.files:
            remove(path)
        self.write_record(record)
        self.ended += 1
        slot.pid = 0
        self.free.append(slot)

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
            return json.loads(data), None
        except (ValueError, RecursionError) as error:
            return None, f"the out-JSON is no JSON: {error}"

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
                    record["log"] = [self.log_offset, size]
                    self.append_log(slot.log_fd, size)
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
        os.ftruncate(fd, 0)

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
            try:
                os.write(2, f"fractal-slurm worker: {text}\n".encode())
            except OSError:
                pass  # the job's output may be on the file system that is full

    # -- the loop ----------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run the queue to its end. Returns the exit code of the job."""
        next_tick = next_watch = self.began
        next_sync = self.began + SYNC_S
        next_beat = self.began + BEAT_S
        ended = 0
        while True:
            self.fill()
            if not self.running and not self.undecided:
                break
            timeout = self.pause()
            info = signal.sigtimedwait(WAITED, timeout)
            if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
                self.end_all("the job was ended")
            # A SIGTERM that came together with the death of its task counts first.
            if signal.sigpending() & {signal.SIGTERM, signal.SIGINT}:
                self.end_all("the job was ended")
            if self.in_steps:
                self.look_at_steps()
            self.reap()
            now = time.monotonic()
            self.decide(now)
            self.enforce(now)
            if now >= next_tick:
                next_tick = now + TICK_S
                self.look_for_stop()
                if self.pending:
                    self.flush()
            if self.memory_mb and now >= next_watch:
                next_watch = now + WATCH_S
                self.watch_memory()
            if self.ended != ended:
                ended, next_beat = self.ended, now + BEAT_S
            elif now >= next_beat:
                next_beat = now + BEAT_S
                self.pending += f'\n{{"beat":{time.time():.0f},"token":"{self.header["token"]}"}}\n'.encode("ascii")
                self.flush()
            if now >= next_sync:
                next_sync = now + SYNC_S
                self.sync()
        return self.close()

    def pause(self) -> float:
        """Seconds until something is due, at the most."""
        if self.pending or self.undecided:
            return 0.1
        timeout = WATCH_S if self.memory_mb else TICK_S
        if self.task_time_s or self.ending:
            now = time.monotonic()
            for slot in self.running.values():
                due = slot.kill_at or (slot.began + self.task_time_s if self.task_time_s else None)
                if due is not None:
                    timeout = min(timeout, max(0.01, due - now))
        return timeout

    def fill(self) -> None:
        """Give every free slot a task, as long as there are tasks that can end in time."""
        while self.free and not self.stopping and not self.pending:
            if self.deadline and time.monotonic() + max(self.task_time_s, 1.0) > self.deadline:
                self.stopping = "no further task can end within the job's time limit"
                return
            line = self.next_task()
            if line is None:
                return
            slot = self.free.pop()
            try:
                self.start(slot, line)
            except OSError as error:
                # Neither the args file nor the log could be written: the task did not start, and keeps its turn.
                self.free.append(slot)
                self.complain(f"the files of a task can't be written: {error.strerror}; waiting for room")
                self.lines[self.next_line - 1] = line
                self.next_line -= 1
                if not self.running:
                    self.wait_for_room()
                return

    def wait_for_room(self) -> None:
        """Nothing runs and nothing can be written: look again in a while, unless the job is being ended."""
        info = signal.sigtimedwait(WAITED, 2.0)
        if info is not None and info.si_signo in (signal.SIGTERM, signal.SIGINT):
            self.stopping = "the job was ended"
            return
        self.look_for_stop()
        if self.deadline and time.monotonic() > self.deadline:
            self.stopping = "the files of its tasks could not be written"
            return
        self.fill()

    def reap(self) -> None:
        """Take note of every task that ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            slot = self.running.pop(pid, None)
            if slot is None:
                self.forget_step(pid)  # or a child that the script left to us
            elif self.in_steps:
                self.step_ended(slot, status)
            else:
                # What a task leaves behind in its process group would eat the next one's CPUs and memory.
                signal_group(pid, signal.SIGKILL)
                self.ended_with(slot, status, (usage.ru_maxrss, usage.ru_utime + usage.ru_stime))

    def forget_step(self, pid: int) -> None:
        """An idle step that ended: its slot's next task gets a new one."""
        for slot in self.free:
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
        """End the tasks whose time is over: TERM, and KILL when they do not heed it."""
        for slot in self.running.values():
            if slot.kill_at is not None:
                if now >= slot.kill_at:
                    self.signal_task(slot, signal.SIGKILL)
                    slot.kill_at = now + 1.0
            elif self.task_time_s and now >= slot.began + self.task_time_s:
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
            if slot.verdict is None:
                slot.verdict = ("cut", why)
            self.tell_to_end(slot, self.grace_s)

    def look_for_stop(self) -> None:
        """The server's mark, made where it wants a job to end without SLURM's help."""
        if not self.ending and os.path.isdir(f"{self.header['claim']}.stop"):
            self.end_all("the run was cancelled")

    def watch_memory(self) -> None:
        """End the task whose process group uses more memory than a task may have."""
        used = group_memory_mb({slot.pid for slot in self.running.values()})
        for slot in self.running.values():
            peak = used.get(slot.pid, 0.0)
            if peak > self.memory_mb and slot.verdict is None:
                slot.verdict = ("memory", f"used {peak:.0f} MB; its mem is {self.memory_mb} MB")
                slot.kill_at = time.monotonic()
                signal_group(slot.pid, signal.SIGKILL)

    def end_steps(self) -> None:
        """End the slot workers, which wait for another task."""
        deadline = time.monotonic() + 5.0
        for slot in self.free:
            if slot.step:
                self.write_todo(slot, {})
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
        left = self.bounds is None and len(self.lines) - self.next_line
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
        try:
            for name in os.listdir(self.scratch):
                os.unlink(f"{self.scratch}/{name}")
            os.rmdir(self.scratch)
        except OSError:
            pass
        return 74 if self.pending else 0  # EX_IOERR of sysexits.h


def spawn(words: list[str], env: dict[str, str], stdin: int, output: int) -> int:
    """Start a process in a process group of its own. Returns its pid.

    Raises:
        OSError: It can't be started.
    """
    return os.posix_spawnp(
        words[0],
        words,
        env,
        file_actions=(
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ),
        setpgroup=0,
        setsigmask=(),
        setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGPIPE),
    )


def slot_main(stem: str, worker_pid: str) -> None:
    """The slot worker, inside of a slot's step: runs what ``STEM.todo`` says, until that is nothing.

    Args:
        stem: Beginning of the slot's files.
        worker_pid: The worker, which is signalled when a task ended.
    """
    import json

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    null_fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    while os.path.isdir(f"/proc/{worker_pid}"):
        try:
            with open(f"{stem}.todo", encoding="utf-8", errors="surrogateescape") as file:
                todo = json.load(file)
        except FileNotFoundError:
            time.sleep(0.01)
            continue
        os.unlink(f"{stem}.todo")
        if not todo:
            return
        log_fd = os.open(todo["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            pid = spawn(todo["words"], dict(os.environ), null_fd, log_fd)
        except OSError as error:
            report: dict[str, Any] = {"fault": error.strerror}
        else:
            with open(f"{stem}.pid", "w", encoding="ascii") as file:
                file.write(str(pid))
            _pid, status, usage = os.wait4(pid, 0)
            signal_group(pid, signal.SIGKILL)
            remove(f"{stem}.pid")
            report = {"status": status, "maxrss": usage.ru_maxrss, "cpu_s": usage.ru_utime + usage.ru_stime}
        os.close(log_fd)
        with open(f"{stem}.new", "w", encoding="ascii") as file:
            json.dump(report, file)
        os.rename(f"{stem}.new", f"{stem}.done")
        os.kill(int(worker_pid), signal.SIGUSR1)


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def group_memory_mb(groups: set[int]) -> dict[int, float]:
    """Resident memory of process groups, in MB. Pages that processes share count once (Pss), where it matters."""
    page_mb = os.sysconf("SC_PAGE_SIZE") / 1e6
    members: dict[int, list[tuple[str, float]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            group = int(fields[2])
            if group in groups:
                members.setdefault(group, []).append((name, int(fields[21]) * page_mb))
    used = {}
    for group, processes in members.items():
        used[group] = sum(resident for _name, resident in processes)
        if len(processes) > 1:
            used[group] = sum(proportional_mb(name, resident) for name, resident in processes)
    return used


def proportional_mb(name: str, resident: float) -> float:
    try:
        with open(f"/proc/{name}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return resident


def main(argv: list[str]) -> int:
    """Entry point: ``worker SCRIPT TASKS_PER_NODE``; ``-`` for a script on standard input."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITED)
    path, tasks_per_node = argv
    fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        header, command, lines = read_work(file.read())
    worker = Worker(header, command, lines, tasks_per_node)
    try:
        worker.claim()
    except Fenced as reason:
        sys.stderr.write(f"fractal-slurm worker: {reason}: this job ends\n")
        return 0
    worker.prepare()
    return worker.run()
