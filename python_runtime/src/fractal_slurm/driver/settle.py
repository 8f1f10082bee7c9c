# SPDX-License-Identifier: BSD-3-Clause
"""The end of a job: decide what becomes of its unfinished tasks."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from dataclasses import replace

from ..cluster.commands import LAUNCH_FAILED, SlurmState
from ..errors import ClusterError, FractalSlurmError, count_of, one_line, quoted
from ..jobs.layout import claim_path, output_path, stop_path
from ..node.protocol import EXITS, PRELOAD_EXIT, UNSAFE_EXIT
from .collect import Collector
from .context import Run
from .model import UNFINISHED, JobRow, JobState, TaskRow, TaskState
from .outcome import DIED, LOST, NODES_THAT_AGREE, Action, judge
from .sight import Reading

_NEVER_BEGAN_S = 3.0
# After so many seconds, a job counts as one that came to its first task, even if its results can't be read yet.
_LIVES_AFTER_S = 10.0
# States of a job which do not say that memory was the cause, though it may have been: where SLURM itself watches the
# memory, or where only a step of the job had too much.
_MAY_BE_MEMORY = frozenset({SlurmState.FAILED, SlurmState.COMPLETED})
# slurmstepd: error: StepId=7.batch exceeded memory limit (138579968 > 104857600), being killed
_MEMORY = re.compile(
    r"^slurmstepd(?:-\S{1,255})?: error: (.{0,200}\bexceeded (?:virtual )?memory limit\b.*)$", re.MULTILINE
)


class Settler:
    """Decides on the unfinished tasks of jobs that have ended.

    Args:
        run: The run.
        collector: Has read the results of its jobs.
    """

    def __init__(self, run: Run, collector: Collector) -> None:
        self.run = run
        self.collector = collector
        self.closed_to: set[str] = set()  # tokens of jobs that were shut out: nothing new starts in them

    def settle(self, job: JobRow, now: float) -> None:
        """Decide on the tasks of a job that has ended, once its results are there or were waited for long enough."""
        reading = self.run.readings[job.token]
        unfinished = self.run.journal.tasks_of(job.token, *UNFINISHED)
        if unfinished:
            if not self.is_due(job, reading, now):
                return
            self.decide(job, reading, unfinished)
        # One step for a job that was spread over several nodes, and those of its slots where they have their own.
        record = self.run.record
        steps = record.srun_steps + sum(reading.steps.values()) + (job.nodes > 1)
        forked = record.forked + sum(reading.forked.values())
        self.run.journal.write(replace(record, srun_steps=steps, forked=forked))
        self.run.journal.update_job(job.token, "collected", state=JobState.COLLECTED)
        self.run.sightings.pop(job.token, None)
        self.run.readings.pop(job.token, None)
        self.closed_to.discard(job.token)
        self.run.full_until = time.monotonic()  # there is room for another: at once, not with the next look

    def is_due(self, job: JobRow, reading: Reading, now: float) -> bool:
        """Say whether to decide on a job now: its results came, none can come, or the time to wait for them is over.

        If results are missing, the job is shut out, and its folder is read once more: it can be read then, and nothing
        new comes into it.

        Raises:
            ClusterError: It can't be shut out.
        """
        if reading.listed and reading.workers_ended(job.nodes):
            return True
        waited = now - (self.run.sightings[job.token].ended_at or now)
        had_time = waited >= self.run.settings.results_wait_s
        if self.run.cancelled:
            if self.never_began(job, reading):
                return True
            if not had_time and waited > _NEVER_BEGAN_S:
                self.run.say_once(
                    f"waiting for the last results of job {job.slurm_job_id}, whose worker had begun, for up to "
                    f"{self.run.settings.results_wait_s} s: the file system may show them late"
                )
            return had_time
        if job.token in self.closed_to:
            return had_time
        began_not = (
            reading.listed and not reading.began and job.slurm_state == SlurmState.FAILED and waited > _NEVER_BEGAN_S
        )
        if not began_not and not had_time:
            return False
        if self.exit_code(job) in (UNSAFE_EXIT, PRELOAD_EXIT):
            return True  # it touched nothing, and nothing is to be touched
        # A script that failed before its worker leaves its claim free; else it is the file system that lags.
        if self.shut_out(job) or self.exit_words(job):
            return True
        self.collector.list_again(job)
        return False

    def decide(self, job: JobRow, reading: Reading, unfinished: Sequence[int]) -> None:
        """Decide what becomes of the unfinished tasks of a job."""
        if self.exit_code(job) == PRELOAD_EXIT and not self.run.cancelled:
            self.without_preload(job, unfinished)
            return
        if self.exit_code(job) == UNSAFE_EXIT and not self.run.cancelled:
            # The same words for all jobs: by them a resumed run finds the tasks.
            words = (
                f"{EXITS[UNSAFE_EXIT]}: look at the owner and mode of {self.run.folder}, and at who else may write in "
                "the folders above it"
            )
            self.run.journal.finish_tasks(unfinished, TaskState.NOT_RUN, words)
            if self.run.refusal != words:
                self.run.refuse(words)
            return
        slots = job.slots or min(self.run.config.parallel_tasks_per_job, job.tasks)
        cut = set(self.run.journal.tasks_of(job.token, TaskState.CUT))
        # The queue is in order, so what was running is among the first that have no end.
        running = cut
        if not reading.workers_ended(job.nodes):
            running = cut | set(unfinished if job.nodes > 1 else unfinished[:slots])
        printed, memory = None, ""
        if self.is_unexplained(job, reading):
            printed = self.job_output(job)
            memory = memory_words(printed or "")
            if memory:
                job = replace(job, slurm_state=SlurmState.OUT_OF_MEMORY)
        node, agreed = self.blamed(job, reading)
        verdict = judge(
            state=job.slurm_state or LOST,
            reason=job.reason or "",
            job=f"job {job.slurm_job_id}",
            slots=slots,
            began=reading.began,
            progress=reading.done > len(cut),
            worker_end=next(iter(reading.ends.values()), None) or self.exit_words(job),
            cancelled_by_us=self.run.cancelled,
            node=node,
        )
        # Of a job that could never start the refusal itself is the reason: by that a resumed run finds its tasks.
        refused = job.reason in self.run.record.refusals
        words = str(job.reason) if refused else verdict.words + (f" (SLURM: {memory})" if memory else "")
        if reading.closed and not reading.workers_ended(job.nodes):
            words += f"; results can't be read: {one_line(reading.closed)}"
        if not reading.began and not self.run.cancelled and (job.slurm_state or LOST) in (SlurmState.FAILED, LOST):
            printed = self.job_output(job) if printed is None else printed
            words += (agreed if verdict.running is Action.FAIL else "") + _last_of(printed)
        if node:
            self.run.leave_out(node, words)
        if job.token not in self.closed_to and {verdict.running, verdict.waiting} - {Action.NOT_RUN}:
            self.shut_out(job)
        alone: list[int] = []
        again = 0
        with self.run.journal.transaction():
            for index in unfinished:
                action = verdict.running if index in running else verdict.waiting
                task = self.run.journal.task(index)
                if task is None:
                    continue
                if action is Action.RETRY and task.node_retries >= self.run.settings.max_node_retries:
                    self.fail_after_retries(task, words)
                elif action is Action.FAIL and task.retries < self.run.settings.max_retries:
                    self.run.journal.try_again(index, own_fault=True)
                    again += 1
                elif action is Action.FAIL:
                    self.run.journal.finish_task(index, TaskState.FAILED, words, None)
                elif action is Action.NOT_RUN:
                    self.run.journal.finish_task(index, TaskState.NOT_RUN, words, None)
                elif action is Action.AGAIN:
                    if job.slots:
                        alone.append(index)
                    self.run.journal.release([index])
                    again += 1
                else:
                    if action is Action.ALONE:
                        alone.append(index)
                    self.run.journal.try_again(index, own_fault=False)
                    again += 1
            if alone:
                record = self.run.record
                self.run.journal.write(replace(record, alone=(*record.alone, *alone)))
            self.run.journal.event("left unfinished", job.token, f"{count_of(len(unfinished), 'task')}: {words}")
        if again:
            elsewhere = f", elsewhere than on {node}" if node else ""
            self.run.say(f"{words}: {again} of its tasks go into a new job{elsewhere}")
        elif not self.run.cancelled and not refused:  # that was said
            self.run.say(words)

    def fail_after_retries(self, task: TaskRow, words: str) -> None:
        """Let a task fail that was set up again, for faults of nodes and jobs, as often as the settings allow."""
        words = f"{words}; it was tried {task.node_retries + 1} times"
        self.run.journal.finish_task(task.index, TaskState.FAILED, words, None)

    def without_preload(self, job: JobRow, unfinished: Sequence[int]) -> None:
        """Set up again the tasks of a job that could start no program, because sudo had set LD_PRELOAD for it."""
        words = (
            f"job {job.slurm_job_id}: {EXITS[PRELOAD_EXIT]}. Jobs are submitted without that from now on. "
            "What prevents it: fractal-slurm doctor"
        )
        self.run.clear_preload()
        with self.run.journal.transaction():
            for index in unfinished:
                task = self.run.journal.task(index)
                if task is not None and task.node_retries >= self.run.settings.max_node_retries:
                    self.fail_after_retries(task, words)
                elif task is not None:
                    self.run.journal.try_again(index, own_fault=False)
            self.run.journal.event("left unfinished", job.token, f"{len(unfinished)} tasks: {words}")
        self.run.say(words)

    def blamed(self, job: JobRow, reading: Reading) -> tuple[str, str]:
        """Return the node to blame for a job that died before its first task; or words, if several nodes had such jobs.

        Raises:
            Silence: slurmctld does not answer.
        """
        if reading.began or self.run.cancelled or job.slurm_state not in DIED:
            return "", ""
        host = self.run.sightings[job.token].host or self.run.slurm.end_of(job.slurm_job_id or "")[1]
        if not host:
            return "", ""
        record = self.run.record
        hosts = sorted({*record.bad_nodes, *record.nodes_agree, host})
        if len(hosts) < NODES_THAT_AGREE or self.has_begun(job):
            return host, ""
        self.run.journal.write(replace(record, nodes_agree=tuple(hosts)))
        self.run.forgive_nodes(f"jobs died on {len(hosts)} nodes, and began on none")
        return "", f"; so did others, on {len(hosts)} nodes ({', '.join(hosts[:NODES_THAT_AGREE])})"

    def has_begun(self, but: JobRow) -> bool:
        """Say whether another job of the run came to its first task, or ran for longer than jobs that die early."""
        now = time.monotonic()
        sightings = [sighting for token, sighting in self.run.sightings.items() if token != but.token]
        readings = [reading for token, reading in self.run.readings.items() if token != but.token]
        return (
            self.run.journal.has_records()
            or any(reading.began for reading in readings)
            or any(
                sighting.state == SlurmState.RUNNING and now - (sighting.running_since or now) > _LIVES_AFTER_S
                for sighting in sightings
            )
        )

    def never_began(self, job: JobRow, reading: Reading) -> bool:
        """Say whether a job of a cancelled run surely came to no task: the driver has its claim."""
        if job.token in self.run.record.unclaimed:
            return True
        if reading.began or job.token in self.closed_to:
            return False
        self.closed_to.add(job.token)  # a cancelled run does not wait for a folder: it is tried once
        with contextlib.suppress(ClusterError):
            return self.shut_out(job)
        return False

    def is_unexplained(self, job: JobRow, reading: Reading) -> bool:
        """Return whether neither the worker nor its exit code says why a job left tasks unfinished."""
        is_told = self.run.cancelled or self.exit_words(job) or any(reading.ends.values())
        return job.slurm_state in _MAY_BE_MEMORY and not is_told and not reading.workers_ended(job.nodes)

    def exit_words(self, job: JobRow) -> str | None:
        """Return what the job's exit code says about its worker; None if the code is none of the worker's own."""
        if job.slurm_state != SlurmState.FAILED:
            return None
        reason = job.reason or ""
        if reason.rpartition("exit ")[2] == LAUNCH_FAILED:
            return f"SLURM could not start it in {self.run.folder} ({reason}): full, absent or closed on its node"
        return EXITS.get(self.exit_code(job) or 0)

    def exit_code(self, job: JobRow) -> int | None:
        """Return the exit code of a job that failed; None if a signal ended it."""
        number, _colon, number_of_signal = (job.reason or "").rpartition("exit ")[2].partition(":")
        failed = job.slurm_state == SlurmState.FAILED and re.fullmatch("[0-9]{1,3}", number) and number_of_signal == "0"
        return int(number) if failed else None

    def shut_out(self, job: JobRow) -> bool:
        """Shut a job out: if it starts late, or its worker still runs, it starts no further task.

        Returns:
            Whether the job never began.

        Raises:
            ClusterError: The marks can't be made. Then nothing is decided, and no task goes into another job.
        """
        paths = [claim_path(self.run.folder, job.token), stop_path(self.run.folder, job.token)]
        try:
            was_free, _stop = self.run.take_names(paths)
        except ClusterError:
            self.run.make_folder()  # it may be gone
            was_free, _stop = self.run.take_names(paths)
        self.closed_to.add(job.token)
        return was_free

    def job_output(self, job: JobRow) -> str | None:
        """Return what a job printed outside of its tasks. None if that can't be read."""
        try:
            chunks = self.run.sudo.read_files(
                self.run.user, [output_path(self.run.folder, job.token)], timeout=30, max_bytes=1_000_000
            )
            return b"".join(chunks).decode("utf-8", "replace").strip()
        except FractalSlurmError:
            return None


def memory_words(printed: str) -> str:
    """Return what SLURM's daemon wrote into the output of a job that had more memory than it may. Else empty."""
    found = _MEMORY.search(printed)
    return one_line(found[1]) if found else ""


def _last_of(printed: str | None) -> str:
    if printed is None:
        return ""
    return f"; it printed:{quoted(printed[-500:])}" if printed else "; it printed nothing"
