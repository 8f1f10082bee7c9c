# SPDX-License-Identifier: BSD-3-Clause
"""Ask SLURM for the states of jobs. Several runs share one squeue, and one sacct for jobs that squeue does not know."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ..errors import ClusterError
from .commands import Silence, Slurm, SlurmJob

# Whoever asks for others, too, has so long, at the least, and so many times of what SLURM needed for the last answer.
# Then another may ask.
_HOLD_S, _HOLD_FACTOR = 5.0, 3.0
_LOOK_S = 0.05


@dataclass(frozen=True)
class Answer:
    """What SLURM said of jobs.

    Attributes:
        asked_at: When it was asked, as a monotonic time.
        asked: The ids of the jobs that it was asked for.
        states: Those that it knows.
        foreign: By user: the live jobs that are none of ours. Of users that are missing this is not known.
        named: By token: the ids of the jobs that were found by their names or comments.
        looked_for: The tokens of all jobs that were looked for so.
        trouble: Why there is no answer, if so.
        is_silence: Whether the trouble is that slurmctld did not answer.
    """

    asked_at: float = float("-inf")
    asked: frozenset[str] = frozenset()
    states: Mapping[str, SlurmJob] = field(default_factory=dict)
    foreign: Mapping[str, int] = field(default_factory=dict)
    named: Mapping[str, str] = field(default_factory=dict)
    looked_for: Collection[str] = ()
    trouble: str = ""
    is_silence: bool = False


@dataclass(frozen=True)
class Question:
    """What other processes want to know.

    Attributes:
        job_ids: The ids of their jobs.
        tokens: Tokens of jobs that are being submitted, and their users: their ids are not known yet.
        users: The users of all these.
        unsure: Users who have a job among those that are being submitted for long: its name and comment are
            looked for.
    """

    job_ids: frozenset[str] = frozenset()
    tokens: Mapping[str, str] = field(default_factory=dict)
    users: frozenset[str] = frozenset()
    unsure: frozenset[str] = frozenset()


class Shared(Protocol):
    """Where processes share answers. Whatever it raises as a ClusterError means that nothing can be shared now."""

    def answer(self, after: float) -> Answer | None:
        """The newest answer, if it was asked for after a monotonic time."""

    def claim(self, hold_s: float, seen: float) -> Question | None:
        """Be the one who asks, for so many seconds; None if somebody is, or has a newer answer than the one seen."""

    def publish(self, answer: Answer) -> None:
        """Let others have an answer."""


class Queue:
    """The states of jobs, as SLURM reports them.

    Several runs can share one object. If one run asks, it asks for the jobs of all runs. The other runs use the same
    answer if it is new enough. So slurmctld gets no more questions than from a single run. With ``shared`` this holds
    for the runs of other processes, too.

    Args:
        slurm: The cluster.
        fresh_s: Seconds for which other runs may use an answer. 0 if there is only one run.
        shared: Where processes share answers; None if they do not.
        foreign: Whether to count the jobs that users submitted without us.
    """

    def __init__(
        self, slurm: Slurm, *, fresh_s: float = 0.0, shared: Shared | None = None, foreign: bool = False
    ) -> None:
        self._slurm = slurm
        self._fresh_s = fresh_s
        self._shared = shared
        self._foreign = foreign
        self._lock = threading.Lock()
        self._wanted: dict[str, frozenset[str]] = {}  # by run
        self._users: dict[str, str] = {}  # by run
        self._served: dict[str, float] = {}  # by run: when the answer was asked for that it has
        self._answer = Answer()
        self.unshared = ""  # why the last answer could not be shared, if so

    @property
    def answer_s(self) -> float:
        """Seconds that slurmctld needs for an answer."""
        return self._slurm.squeue_s

    @property
    def calls(self) -> int:
        """Number of squeue calls so far."""
        return self._slurm.squeue_calls

    @property
    def age_s(self) -> float:
        """How old the answer is that there is, in seconds."""
        return time.monotonic() - self._answer.asked_at

    @property
    def foreign(self) -> Mapping[str, int]:
        """By user: the live jobs that are none of ours, as far as this is known."""
        return self._answer.foreign

    def over(self, run_id: str) -> frozenset[str]:
        """The jobs of a run that have ended, by the answer that there is. Asks nobody."""
        answer, wanted = self._answer, self._wanted.get(run_id, frozenset())
        found = ((job_id, answer.states.get(job_id)) for job_id in wanted)
        return frozenset(job_id for job_id, state in found if state is not None and state.is_final)

    def states(
        self, run_id: str, job_ids: Sequence[str], *, fresh_s: float = 0.0, user: str = ""
    ) -> dict[str, SlurmJob | None]:
        """Return the states of jobs. The state is None if neither squeue nor the accounting knows the job.

        Jobs that were submitted after the last question to SLURM are left out: nothing is known of them yet.

        Args:
            run_id: The run that asks.
            job_ids: The submitted jobs of this run that have not ended.
            fresh_s: Seconds for which this run may use an answer that it has not seen yet.
            user: The user of the run.

        Raises:
            ClusterError: slurmctld does not answer, or squeue can't be run.
        """
        called = time.monotonic()
        with self._lock:
            # Of these an answer must tell: the run asked for them before, so whoever asks knows of them.
            known = self._wanted.get(run_id, frozenset()) & frozenset(job_ids)
            self._wanted[run_id] = frozenset(job_ids)
            self._users[run_id] = user
            # If another run asked while this call waited for the lock, its answer is new enough.
            if self._answer.asked_at <= called - self._fresh_s or not self._tells_of(user, self._answer):
                after = max(called - fresh_s, self._served.get(run_id, float("-inf")))
                self._answer = self._new_answer(after, known, user)
            answer = self._answer
            self._served[run_id] = answer.asked_at
            if answer.trouble:
                raise (Silence if answer.is_silence else ClusterError)(answer.trouble)
            return {job_id: answer.states.get(job_id) for job_id in job_ids if job_id in answer.asked}

    def add(self, run_id: str, job_id: str) -> None:
        """Note that a run has submitted a job. The next question to SLURM includes this job.

        Args:
            run_id: The run.
            job_id: The job.
        """
        with self._lock:
            self._wanted[run_id] = self._wanted.get(run_id, frozenset()) | {job_id}

    def leave(self, run_id: str) -> None:
        """Note that a run asks no more."""
        with self._lock:
            for noted in (self._wanted, self._users, self._served):
                noted.pop(run_id, None)

    def _tells_of(self, user: str, answer: Answer) -> bool:
        """Whether an answer has what is to be known of a user beside the run's own jobs."""
        return not self._foreign or not user or user in answer.foreign or bool(answer.trouble)

    def _new_answer(self, after: float, known: frozenset[str], user: str) -> Answer:
        """An answer that was asked for after a time: ours, another process's, or a new one."""

        def serves(answer: Answer | None) -> bool:
            if answer is None or answer.asked_at <= after:
                return False
            return bool(answer.trouble) or (known <= answer.asked and self._tells_of(user, answer))

        if serves(self._answer):
            return self._answer
        question = Question()
        shared = self._shared
        if shared is not None:
            hold_s = max(_HOLD_S, _HOLD_FACTOR * self.answer_s)
            deadline = time.monotonic() + hold_s
            try:
                while True:
                    answer = shared.answer(after)
                    if answer is not None and serves(answer):
                        return answer
                    claimed = shared.claim(hold_s, after if answer is None else answer.asked_at)
                    if claimed is not None:
                        question = claimed
                        break
                    if time.monotonic() >= deadline:
                        break  # it hangs: this process asks for its own
                    time.sleep(_LOOK_S)
            except ClusterError as trouble:
                shared, self.unshared = None, str(trouble)
        answer = self._ask(question)
        if shared is not None:
            try:
                shared.publish(answer)
                self.unshared = ""
            except ClusterError as trouble:
                self.unshared = str(trouble)
        return answer

    def _ask(self, question: Question) -> Answer:
        job_ids = question.job_ids.union(*self._wanted.values())
        users = question.unsure
        if self._foreign:
            users = question.users.union(user for user in self._users.values() if user)
        asked_at = time.monotonic()
        # Where it can't be counted, for an unknown user or too long an answer, nothing is counted.
        foreign = dict.fromkeys(sorted(users), 0) if self._foreign else {}
        try:
            found = self._slurm.squeue_of(sorted(users)) if users else None
            has_all = self._foreign and found is not None
            states = {} if has_all else self._slurm.squeue(sorted(job_ids))
        except ClusterError as trouble:
            return Answer(asked_at, job_ids, trouble=str(trouble), is_silence=isinstance(trouble, Silence))
        named = {}
        for user, job_id, job in found or ():
            own = [token for token in job.tokens if question.tokens.get(token) == user]
            if job_id in job_ids:
                states[job_id] = replace(job, comment="")
            elif own:
                named[own[0]] = job_id
            elif user in foreign and not job.is_final:
                foreign[user] += 1
        looked_for = [token for token, user in question.tokens.items() if user in users and found is not None]
        missing = sorted(job_ids - set(states))
        if missing:
            # slurmctld forgets a job after MinJobAge. The accounting may know it. If not, the result files say more.
            states |= {job_id: state for job_id, state in self._slurm.sacct(missing).items() if state.is_final}
        return Answer(asked_at, job_ids, states, foreign, named, looked_for)
