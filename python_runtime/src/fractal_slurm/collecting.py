# SPDX-License-Identifier: BSD-3-Clause
"""Bring results home: the workers' result files, read in one call for many jobs, into the journal."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from .errors import ClusterError
from .journal import Job
from .results import Kind, classify, split_lines
from .run import Run, Watch
from .script import job_folder

# A record is an out-JSON, the end of a log, and little more.
_RECORD_BYTES = 16_000
# Result files of one job: one a node and start. The folder is the user's, who may make more than any job does.
_MOST_FILES = 10_000


class Collector:
    """Reads result files and journals what they say.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.read_s = 0.0  # how long the last reading took
        self.late: set[tuple[str, int]] = set()  # records that came too late to count, named already

    def collect(self, jobs: Sequence[Job], now: float) -> None:
        """Read the results of jobs, in one call of cat, and journal them.

        Raises:
            ClusterError: They can't be read now; nothing follows from that.
        """
        paths: list[str] = []
        unlisted = []
        for job in jobs:
            watch = self.run.watches.setdefault(job.token, Watch())
            watch.done = watch.lines = 0
            watch.most_nodes = job.tasks
            if watch.files:
                paths += watch.files
            else:
                paths += [self.predicted_file(job, node) for node in range(max(job.nodes, watch.nodes))]
            if watch.list_again or (watch.ended_at is not None and now - watch.ended_at > 0.5 and not watch.listed):
                watch.list_again = False
                unlisted.append(job)
        odd = {Kind.TORN: 0, Kind.FOREIGN: 0}
        began = time.monotonic()
        try:
            if unlisted:
                # Not all came from where it was expected: a job that was requeued has other files, too.
                folders = {job_folder(self.run.folder, job.token): job for job in unlisted}
                listed = self.run.list_folders(list(folders))
                for folder, names in listed.items():
                    watch = self.run.watches[folders[folder].token]
                    ours = (f"{folder}/{name}" for name in names if is_result_file(name))
                    watch.files = list(islice(ours, _MOST_FILES))
                    paths += [path for path in watch.files if path not in paths]
            with self.run.journal.transaction():
                for line in self.read(paths):
                    kind = self.take_line(line)
                    if kind in odd:
                        odd[kind] += 1
        except ClusterError as error:
            raise ClusterError(f"results can't be read now: {error}") from None
        self.read_s = time.monotonic() - began
        if any(odd.values()) and all(job.state == "ended" for job in jobs):
            self.name_odd_lines(jobs, odd[Kind.TORN], odd[Kind.FOREIGN])
        for job in unlisted:
            self.run.watches[job.token].listed = True
        for job in jobs:
            watch = self.run.watches[job.token]
            if watch.running_since is not None and watch.done:
                rate = watch.done / max(0.5, now - watch.running_since)
                watch.predicted_end = now + max(0, job.tasks - watch.done) / rate

    def read(self, paths: Sequence[str]) -> Iterator[bytes]:
        """The lines of result files."""
        room = sum(job.tasks for job in self.run.journal.jobs()) * (self.run.settings.max_out_bytes + _RECORD_BYTES)
        return split_lines(
            self.run.sudo.read_files(self.run.user, paths, timeout=self.run.settings.command_timeout_s, max_bytes=room),
            # What json makes of a byte takes six at the most.
            longest=6 * self.run.settings.max_out_bytes + 4 * _RECORD_BYTES,
        )

    def predicted_file(self, job: Job, node: int = 0) -> str:
        return f"{job_folder(self.run.folder, job.token)}/results-0-{node}"

    def name_odd_lines(self, jobs: Sequence[Job], torn: int, foreign: int) -> None:
        """Lines that no worker of ours wrote whole: passed over, and said once for each set of jobs."""
        which = ", ".join(job.slurm_job_id or job.token for job in jobs)
        words = f"in the result files of job {which}, {torn} torn and {foreign} foreign lines were passed over"
        if self.run.say_once(words):
            self.run.journal.event("odd lines", which, words)

    def take_line(self, line: bytes) -> Kind:
        """One line of a result file; returns what it is."""
        kind, record = classify(line, self.run.tokens)
        if kind in (Kind.TORN, Kind.FOREIGN):
            return kind
        watch = self.run.watches.setdefault(record["token"], Watch())
        watch.began = True
        watch.lines += 1
        if kind is Kind.TASK:
            watch.done += 1
            self.take_record(record, line.decode("utf-8", "replace"))
        elif kind is not Kind.BEAT and record["restart"] >= watch.restart:
            if record["restart"] > watch.restart:
                watch.restart = record["restart"]
                watch.ends.clear()  # of a start that SLURM took back
            if kind is Kind.BEGIN:
                watch.nodes = max(watch.nodes, min(record["nodes"], watch.most_nodes))
            elif record["node"] < watch.most_nodes:
                watch.ends[record["node"]] = record["end"]
        if kind is Kind.END and record["node"] < watch.most_nodes:
            watch.steps[record["restart"], record["node"]] = record["steps"]
        return kind

    def take_record(self, record: dict[str, Any], text: str) -> None:
        """The end of a task. The first whole record of the valid attempt counts; others are named."""
        index = record["task"]
        row = self.run.journal.task_row(index)
        if row is None:
            return
        attempt, token, state, retries, _node_retries, stored = row
        if token != record["token"] or attempt != record["attempt"]:
            if (record["token"], index) not in self.late:
                self.late.add((record["token"], index))
                self.run.journal.event("late record", record["token"], f"task {index}, attempt {record['attempt']}")
            return
        if state not in ("waiting", "cut"):
            if stored != text and (record["token"], index) not in self.late:
                self.late.add((record["token"], index))
                self.run.journal.event("second record", record["token"], f"task {index}, attempt {attempt}")
            return
        reason = record.get("reason")
        if record["state"] == "succeeded":
            self.run.journal.finish_task(index, "succeeded", None, text)
        elif record["state"] == "cut":
            if stored != text:
                self.run.journal.finish_task(index, "cut", reason, text)
        elif retries < self.run.settings.max_retries and not self.run.cancelled:
            self.run.journal.event("task again", record["token"], f"task {index}: {reason}")
            self.run.journal.try_again(index, own_fault=True)
        else:
            self.run.journal.finish_task(index, "failed", reason, text)


def is_result_file(name: str) -> bool:
    return re.fullmatch(r"results-[0-9]{1,9}-[0-9]{1,9}", name) is not None
