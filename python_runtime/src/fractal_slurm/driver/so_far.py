# SPDX-License-Identifier: BSD-3-Clause
"""What many tasks that run have printed so far, in one call as a rule.

The commands that are allowed read whole files only. One call of cat reads many of them, and nothing in its output says
where a file ends. So after each log comes the file of the worker that says which task runs in which slot. Its first
line has a random word, by which it is found again. It proves, too, that the log before it is still that of the same
task.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..jobs.layout import RunningFile, is_running_name, job_folder, running_files, task_log_path
from ..node.protocol import RUNNING_BYTES
from ..sudo import Impersonator
from .journal import Journal
from .model import TaskState

# Of each log so many bytes are read, and of all logs of one call. So many logs are read in one call.
MOST_SO_FAR_BYTES, MOST_TOGETHER_BYTES, _MOST_LOGS = 1_000_000, 16_000_000, 500
# Seconds without any answer. The logs are only to be looked at, and are read again and again.
_TIMEOUT_S = 20
# Workers of so many nodes are asked which task they run. So many bytes of their files are read.
_MOST_NODES, _MOST_RUNNING_BYTES = 1000, 1 << 23
# SLURM may start a job again: then it has other files. So what is known of them counts for so many seconds.
_KNOWN_S = 60.0


class _Pick(NamedTuple):
    """A log to read: the task and its attempt, the log, and the path and content of its worker's file."""

    task: tuple[int, int]
    log: str
    path: str
    file: RunningFile


class LogsSoFar:
    """Reads logs of running tasks of a run, again and again. It keeps what it learned of the workers' files.

    Args:
        most_together: Most bytes of one call, if one log alone is not allowed to have more.
    """

    def __init__(self, *, most_together: int = MOST_TOGETHER_BYTES) -> None:
        self._most_together = most_together
        self._files: dict[str, list[str]] = {}  # token -> the paths of the workers' files
        self._known: dict[str, RunningFile] = {}
        self._known_since = float("-inf")

    def read(
        self, journal: Journal, sudo: Impersonator, indices: Iterable[int], *, most_bytes: int = MOST_SO_FAR_BYTES
    ) -> dict[int, bytes]:
        """Return what tasks have printed so far, by task, in the order in which they are given.

        Left out are tasks that have printed nothing, do not run, or end meanwhile; and the last ones if all logs
        together are too long. None of these is an error: ask for them again later.

        Args:
            journal: The run's journal.
            sudo: Reads as the user.
            indices: The tasks.
            most_bytes: The first bytes of a log that is longer.

        Raises:
            ClusterError: sudo refused, or does not answer in time.
        """
        if time.monotonic() - self._known_since > _KNOWN_S:
            self._files, self._known, self._known_since = {}, {}, time.monotonic()
        rows = [(index, journal.task(index)) for index in dict.fromkeys(indices)]
        tasks = {
            (index, row.attempt): row.token
            for index, row in rows
            if row is not None and row.token is not None and row.state is TaskState.WAITING
        }
        new = dict.fromkeys(token for task, token in tasks.items() if self._pick(journal, task, token) is None)
        if new:
            self._learn(journal, sudo, list(new))
        picks = [pick for task, token in tasks.items() if (pick := self._pick(journal, task, token))]
        return self._read_logs(journal, sudo, picks[:_MOST_LOGS], most_bytes) if picks else {}

    def _pick(self, journal: Journal, task: tuple[int, int], token: str) -> _Pick | None:
        for path in self._files.get(token, ()):
            file = self._known.get(path)
            if file is not None and task in file.slots:
                run = journal.record
                if run.job_settings.task_logs == "separate":
                    log = task_log_path(run.run_folder, token, index=task[0], attempt=task[1])
                else:
                    log = f"{job_folder(run.run_folder, token)}/{file.slots[task]}"
                return _Pick(task, log, path, file)
        return None

    def _learn(self, journal: Journal, sudo: Impersonator, tokens: Sequence[str]) -> None:
        """Ask the workers of some jobs which tasks they run."""
        user, run = journal.record.user, journal.record.run_folder
        folders = {job_folder(run, token): token for token in tokens if token not in self._files}
        if folders:
            listed = sudo.list_folders(user, list(folders), timeout=_TIMEOUT_S, wanted=is_running_name)
            for folder, names in listed.items():
                starts = {name: int(name.split("-")[1]) for name in names}
                last = max(starts.values(), default=0)
                paths = [f"{folder}/{name}" for name in sorted(starts) if starts[name] == last]
                if paths and folder in folders:
                    self._files[folders[folder]] = paths[:_MOST_NODES]
        paths = [path for token in tokens for path in self._files.get(token, ())][:_MOST_NODES]
        found = self._keep(run, self._cat(sudo, user, paths, _MOST_RUNNING_BYTES)) if paths else set()
        for token in tokens:
            if found.isdisjoint(self._files.get(token, ())):
                self._files.pop(token, None)  # it is over, or has begun again

    def _keep(self, run: str, data: bytes) -> set[str]:
        """Keep what the files of workers say. Return their paths."""
        known = {f"{job_folder(run, file.token)}/{file.name}": file for file in running_files(data)}
        self._known.update(known)
        return set(known)

    def _read_logs(
        self, journal: Journal, sudo: Impersonator, picks: Sequence[_Pick], most_bytes: int
    ) -> dict[int, bytes]:
        user, run = journal.record.user, journal.record.run_folder
        paths = [path for pick in picks for path in (pick.log, pick.path)]
        # The first log fits in any case, and after it a head.
        most = max(self._most_together, most_bytes) + RUNNING_BYTES + sum(pick.file.size for pick in picks)
        data = self._cat(sudo, user, paths, most)
        texts: list[bytes] = []
        position = 0
        for pick in picks:
            at = data.find(pick.file.head, position)
            if at < 0 or at + pick.file.size > len(data):
                break
            texts.append(data[position : min(at, position + most_bytes)])
            self._keep(run, data[at : at + pick.file.size])
            position = at + pick.file.size
        rest, heads = data[position:], {pick.file.head for pick in picks}
        is_all = len(texts) == len(picks) and not rest
        is_cut = len(texts) < len(picks) and len(data) >= most
        if sum(map(data[:position].count, heads)) != len(texts) or not (is_all or is_cut):
            # A worker ended meanwhile, or a task printed such a file. Then nobody knows which part is whose.
            self._files, self._known = {}, {}
            return {}
        if is_cut:
            pick = picks[len(texts)]
            at = rest.find(pick.file.head)
            text = rest[: most_bytes if at < 0 else min(at, most_bytes)]
            is_its_own = at >= 0 or len(rest) >= most_bytes + RUNNING_BYTES  # else it may end with a part of the head
            is_its_own = is_its_own and not any(head in text for head in heads)
            if is_its_own and pick.path in self._keep(run, self._cat(sudo, user, [pick.path], pick.file.size)):
                texts.append(text)
        return {
            pick.task[0]: text
            for pick, text in zip(picks, texts, strict=False)
            if text and self._known[pick.path].slots.get(pick.task) == pick.file.slots[pick.task]
        }

    def _cat(self, sudo: Impersonator, user: str, paths: Sequence[str], most: int) -> bytes:
        data = bytearray()
        for chunk in sudo.read_files(user, paths, timeout=_TIMEOUT_S, max_bytes=most, closed={}):
            data += chunk
        return bytes(data[:most])
