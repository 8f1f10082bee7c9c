# SPDX-License-Identifier: BSD-3-Clause
"""Collect results: read the workers' result files, in one call for many jobs, and write them to the journal."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..errors import ClusterError, one_line
from ..jobs.layout import is_results_name, job_folder, results_path
from ..process import slices, split_lines
from ..sudo import Stalled
from .context import Run
from .model import UNFINISHED, JobRow, JobState, TaskState
from .records import Ending, Kind, classify
from .sight import Reading

# A record is an out-JSON, the end of a log, and little more.
_RECORD_BYTES = 64_000
# What workers of version 0.1 made of an out-JSON of 1 MB, at the most.
_LEAST_LONGEST = 6_000_000
# Result files of one job: one a node and start, and SLURM starts a job a few times. What else is there is left unread.
_FEW_FILES, _FILES_PER_NODE = 100, 20
# Records of some jobs: of each task one a start, and two of each worker; the signs of life are not counted. The files
# are the user's, who may write more.
_FEW_RECORDS, _RECORDS_PER_TASK = 200_000, 20
# A sign of life as the worker writes it.
_BEAT = re.compile(rb'\{"beat":[0-9]{1,12},"token":"([0-9a-f]{16})"\}')
# Words in the output of a script that a person wants to see while the run goes on. The events have all of the output.
_TROUBLE = re.compile(r"not found|no such|error|denied|cannot|can't|fail|invalid|unable", re.IGNORECASE)
# Records that came too late to count, each of which is named; and reasons that workers give for what they do.
_MOST_LATE, _MOST_REASONS = 1_000, 5


class _TooMany(Exception):
    """Result files hold more records than jobs write."""


# The start of a task is kept for so many jobs, to advise on forks.
_MOST_STARTUPS = 100


class Collector:
    """Reads result files and journals what they say.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.told_of_script = False  # whether trouble in extra_lines was told: all jobs have the same
        self.read_s = 0.0  # how long the last reading took
        self.reading: set[str] = set()  # tokens of the jobs whose files are read; others do not belong there
        self.reasons: set[str] = set()  # why tasks were not forks, said already
        self.late: set[tuple[str, int]] = set()  # records that came too late to count, named already

    def collect(self, jobs: Sequence[JobRow], now: float) -> None:
        """Read the results of jobs, in one call of cat, and journal them.

        A file that its user made unreadable is no error: it is noted with its job.

        Raises:
            ClusterError: The results can't be read now, so nothing is known about them.
        """
        files = self.start(jobs)
        unlisted = [job for job in jobs if self.is_unlisted(job, now)]
        for job in unlisted:
            self.run.readings[job.token].list_again = False
        began = time.monotonic()
        try:
            found = self.find_files(unlisted)
            for job in unlisted:
                self.run.readings[job.token].files = []
            for path, job in found.items():
                self.run.readings[job.token].files.append(path)
            files.update(found)
            odd = self.read_jobs(jobs, files)
        except ClusterError as error:
            raise ClusterError(f"results can't be read now: {error}") from None
        self.read_s = time.monotonic() - began
        if any(odd.values()) and all(job.state is JobState.ENDED for job in jobs):
            self.name_odd_lines(jobs, odd[Kind.TORN], odd[Kind.FOREIGN])
        for job in unlisted:
            self.run.readings[job.token].listed = True

    def start(self, jobs: Sequence[JobRow]) -> dict[str, JobRow]:
        """Begin to read the results of these jobs, all from their first line; return their files, with their jobs."""
        files: dict[str, JobRow] = {}
        self.reading = {job.token for job in jobs}
        for job in jobs:
            reading = self.run.readings[job.token]
            if reading.full:  # once is enough
                reading.listed = True
                continue
            reading.done = reading.lines = 0
            reading.closed = ""
            reading.most_nodes = self.run.most_nodes(job)
            nodes = range(min(max(job.nodes, reading.nodes), reading.most_nodes))
            for path in reading.files or (results_path(self.run.folder, job.token, node=node) for node in nodes):
                files[path] = job
        return files

    def is_unlisted(self, job: JobRow, now: float) -> bool:
        """Whether the result files of a job are to be looked for: SLURM may have started it more than once."""
        reading, ended_at = self.run.readings[job.token], self.run.sightings[job.token].ended_at
        if reading.full:
            return False
        return reading.list_again or (ended_at is not None and now - ended_at > 0.5 and not reading.listed)

    def may_read_ahead(self, job: JobRow, now: float) -> bool:
        """Whether the files of a job that has ended may be read in the turn of another run: nothing is odd with it."""
        reading = self.run.readings[job.token]
        return not (reading.ahead or reading.full or reading.closed or self.is_unlisted(job, now))

    def note_read_ahead(self, jobs: Sequence[JobRow]) -> None:
        """Note that files of jobs were read to the end after SLURM said that the jobs have ended."""
        for job in jobs:
            self.run.readings[job.token].ahead = True

    def was_read_ahead(self, job: JobRow) -> bool:
        """Whether the files of a job need not be read now. Once only: if something is missing, they are read again."""
        reading = self.run.readings[job.token]
        was, reading.ahead = reading.ahead, False
        return was

    def list_again(self, job: JobRow) -> None:
        """Look for the result files of a job once more, at the next reading."""
        self.run.readings[job.token].list_again = True

    def find_files(self, jobs: Sequence[JobRow]) -> dict[str, JobRow]:
        """Find the result files of jobs: if SLURM started a job twice, they are not where they were expected."""
        if not jobs:
            return {}
        folders = {job_folder(self.run.folder, job.token): job for job in jobs}
        most = max(_FEW_FILES + _FILES_PER_NODE * self.run.most_nodes(job) for job in jobs)
        listed = self.run.list_folders(list(folders), wanted=is_results_name, most=most)
        return {f"{folder}/{name}": folders[folder] for folder, names in listed.items() for name in names}

    def read_jobs(self, jobs: Sequence[JobRow], files: dict[str, JobRow]) -> dict[Kind, int]:
        """Read the result files of jobs into the journal; return how many lines were odd, by kind.

        Raises:
            ClusterError: They can't be read now.
        """
        closed: dict[str, str] = {}
        odd = {Kind.TORN: 0, Kind.FOREIGN: 0}
        try:
            lines = self.read(list(files), closed, longest=self.longest, room=self.room(jobs))
            self.take_lines(lines, jobs, odd)
        except (Stalled, _TooMany) as trouble:
            if len(jobs) > 1:
                # One file that never ends, or never begins, is no reason to leave the others unread.
                by_token: dict[str, dict[str, JobRow]] = {}
                for path, job in files.items():
                    by_token.setdefault(job.token, {})[path] = job
                odd = {Kind.TORN: 0, Kind.FOREIGN: 0}
                for some in by_token.values():
                    for kind, count in self.read_jobs([next(iter(some.values()))], some).items():
                        odd[kind] += count
            elif isinstance(trouble, _TooMany):
                self.run.readings[jobs[0].token].full = True
                self.run.say_once(f"the result files of job {_names(jobs)} {trouble}")
            else:
                closed[next(iter(files))] = str(trouble)
        for path, words in closed.items():
            if path in files:
                self.run.readings[files[path].token].closed = f"{path}: {one_line(words)}"
                self.run.say_once(f"results can't be read now: {path}: {one_line(words)}")
        return odd

    def take_lines(self, lines: Iterable[bytes], jobs: Sequence[JobRow], odd: dict[Kind, int]) -> None:
        """Journal the lines of jobs in groups; ``odd`` counts the odd lines, by kind.

        Raises:
            ClusterError: No more can be read.
            Interrupted: The driver has something else to do.
        """
        left = most_records(jobs)
        for some in slices(lines):
            self.run.heed()
            with self.run.journal.transaction():
                for line in some:
                    kind, record = sort_line(line, self.reading)
                    if kind in odd:
                        odd[kind] += 1
                    else:
                        self.take(kind, record, line)
                    left -= kind is not Kind.BEAT
            if left <= 0:
                raise _TooMany("hold more records than a job writes: the rest was not read")

    @property
    def longest(self) -> int:
        """Bytes of the longest line that a worker writes."""
        return max(self.run.job_settings.max_out_bytes, _LEAST_LONGEST) + _RECORD_BYTES

    def room(self, jobs: Sequence[JobRow]) -> int:
        """Bytes that the result files of jobs have at the most."""
        return sum(job.tasks for job in jobs) * self.longest + (1 << 26)

    def read(self, paths: Sequence[str], closed: dict[str, str], *, longest: int, room: int) -> Iterator[bytes]:
        """Yield the lines of result files.

        Args:
            paths: The files.
            closed: Receives the files that can't be read, with the reasons.
            longest: Bytes of the longest line.
            room: Bytes to read at the most.
        """
        timeout = self.run.settings.command_timeout_s
        chunks = self.run.sudo.read_files(self.run.user, paths, timeout=timeout, max_bytes=room, closed=closed)
        return split_lines(chunks, longest=longest)

    def name_odd_lines(self, jobs: Sequence[JobRow], torn: int, foreign: int) -> None:
        """Say that lines were skipped which no worker wrote, or only in part; once for each set of jobs."""
        which = _names(jobs)
        words = f"in the result files of job {which}, {torn} torn and {foreign} foreign lines were skipped"
        if self.run.say_once(words):
            self.run.journal.event("odd lines", which, words)

    def take(self, kind: Kind, record: dict[str, Any], line: bytes) -> None:
        """Journal one line of a result file, which is the worker's: not torn, and of a job that is read."""
        reading = self.run.readings[record["token"]]
        reading.began = True
        reading.lines += 1
        if kind is Kind.TASK:
            reading.done += 1
            self.take_record(record, line.decode("utf-8"))
        elif kind is not Kind.BEAT and record["restart"] >= reading.restart:
            if record["restart"] > reading.restart:
                reading.restart = record["restart"]
                reading.ends.clear()  # of a start that SLURM took back
            if kind is Kind.BEGIN:
                reading.nodes = max(reading.nodes, min(record["nodes"], reading.most_nodes))
                self.take_printed(record, reading)
            elif record["node"] < reading.most_nodes:
                reading.ends[record["node"]] = record["end"]
        if kind is Kind.END and record["node"] < reading.most_nodes:
            reading.steps[record["restart"], record["node"]] = record["steps"]
            reading.forked[record["restart"], record["node"]] = record.get("forked") or 0
            self.take_starts(record)

    def take_printed(self, record: dict[str, Any], reading: Reading) -> None:
        """Note what a job's script printed before its first task; say the first output that looks like trouble."""
        if record.get("printed") and not reading.printed:
            reading.printed = True
            self.run.journal.event("script printed", record["token"], record["printed"])
            line = next(filter(_TROUBLE.search, record["printed"].splitlines()), None)
            if line and not self.told_of_script:
                self.told_of_script = True
                self.run.say(f"job {record['job']}: before its first task its script printed: {one_line(line)}")

    def take_starts(self, record: dict[str, Any]) -> None:
        """Note why a worker started its tasks in new processes, if they were to be forks."""
        if record.get("fork_off") and self.run.job_settings.task_start == "fork":
            why = one_line(record["fork_off"])
            self.run.stop_forking(why)
            self.run.journal.event("no forks", record["token"], why)
            self.run.say(f"tasks of later jobs start in new processes: {why}")
        elif record.get("fresh_why"):
            words = f"tasks started in new processes: {one_line(record['fresh_why'])}"
            if len(self.reasons) < _MOST_REASONS and words not in self.reasons:
                self.reasons.add(words)
                self.run.say(words)
                self.run.journal.event("no forks", record["token"], words)

    def take_record(self, record: dict[str, Any], text: str) -> None:
        """Journal the end of a task: the first whole record of the valid attempt counts, others are noted."""
        index = record["task"]
        task = self.run.journal.task(index)
        if task is None:
            return
        if task.token != record["token"] or task.attempt != record["attempt"]:
            self.name_late("late record", record["token"], index, record["attempt"])
            return
        if task.state not in UNFINISHED:
            if task.record != text:
                self.name_late("second record", record["token"], index, task.attempt)
            return
        reason = record.get("reason")
        if record["state"] == Ending.SUCCEEDED:
            if record.get("startup_s") is not None and record.get("seconds") is not None:
                startups = self.run.record.startups
                if len(startups) < _MOST_STARTUPS:
                    startups = (*startups, (record["startup_s"], record["seconds"]))
                    self.run.journal.write(replace(self.run.record, startups=startups))
            self.run.journal.finish_task(index, TaskState.SUCCEEDED, None, text)
        elif record["state"] == Ending.CUT:
            if task.record != text:
                self.run.journal.finish_task(index, TaskState.CUT, reason, text)
        elif task.retries < self.run.settings.max_retries and not self.run.cancelled:
            self.run.journal.event("task again", record["token"], f"task {index}: {reason}")
            self.run.journal.try_again(index, own_fault=True)
        else:
            self.run.journal.finish_task(index, TaskState.FAILED, reason, text)

    def name_late(self, what: str, token: str, index: int, attempt: int) -> None:
        """Note a record that does not count: once for each task of a job, up to a limit."""
        if (token, index) in self.late or len(self.late) >= _MOST_LATE:
            return
        self.late.add((token, index))
        self.run.journal.event(what, token, f"task {index}, attempt {attempt}")


def sort_line(line: bytes, tokens: Container[str]) -> tuple[Kind, dict[str, Any]]:
    """What kind of line of a result file it is, and what it says.

    Args:
        line: The line.
        tokens: Those of the jobs whose files are read.
    """
    beat = _BEAT.fullmatch(line)  # there may be very many
    if beat is not None:
        token = beat[1].decode()
        return (Kind.BEAT if token in tokens else Kind.FOREIGN), {"token": token}
    return classify(line, tokens)


def most_records(jobs: Sequence[JobRow]) -> int:
    """How many records jobs write at the most."""
    return _FEW_RECORDS + _RECORDS_PER_TASK * sum(job.tasks for job in jobs)


def _names(jobs: Sequence[JobRow]) -> str:
    """The ids of jobs, as a message names them."""
    ids = [job.slurm_job_id or job.token for job in jobs]
    return ", ".join(ids[:10]) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
