# SPDX-License-Identifier: BSD-3-Clause
"""What a driver knows of a job in flight, beside the journal: what SLURM said, and what the job's files said.

Each has one writer. Both are lost with the driver; the next one learns them again. Times are those of
:func:`time.monotonic`, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..cluster.commands import SlurmState


@dataclass
class Sighting:
    """What SLURM said of a job, and what follows from it. The tracker alone writes it.

    Attributes:
        state: SLURM's last word for its state. Of a job that SLURM hides: what its files let us think.
        seen: Whether SLURM showed it once.
        missing_since: Since when SLURM does not know it.
        hopeless_since: Since when it waits for a reason that no waiting cures.
        running_since: Since when it runs.
        ended_at: When it was seen to be over.
        predicted_end: When it will be over, by what is known.
        host: The node of its script, once it ended.
        lines_heard: Of a hidden job: how many lines its files had at the last look.
        heard_at: Of a hidden job: when that number last grew.
    """

    state: str = SlurmState.PENDING
    seen: bool = False
    missing_since: float | None = None
    hopeless_since: float | None = None
    running_since: float | None = None
    ended_at: float | None = None
    predicted_end: float | None = None
    host: str = ""
    lines_heard: int = 0
    heard_at: float | None = None


@dataclass
class Reading:
    """What the result files of a job said. The collector alone writes it.

    Attributes:
        files: Their paths, once they were looked for.
        listed: Whether they were looked for since the job ended.
        list_again: Whether they are to be looked for anew.
        full: Whether they hold more records than any job writes; then they are not read again.
        ahead: Whether they were read in the turn of another run, after the job had ended, and not looked at since.
        closed: Which of them can't be read, and why; empty where all can.
        began: Whether a worker began.
        lines: How many lines of the job's own they had, at the last reading.
        done: How many tasks ended, by these.
        restart: The last start of the job that they tell of; SLURM may start a job again.
        ends: Why its workers ended by themselves, in that start, by node.
        nodes: On how many nodes it runs.
        most_nodes: On how many it can run, by what was asked for.
        printed: Whether it was told what its script printed.
        steps: How many steps it had, by start and node.
        forked: How many of its tasks were forks, by start and node.
    """

    files: list[str] = field(default_factory=list)
    listed: bool = False
    list_again: bool = False
    full: bool = False
    ahead: bool = False
    closed: str = ""
    began: bool = False
    lines: int = 0
    done: int = 0
    restart: int = 0
    ends: dict[int, str] = field(default_factory=dict)
    nodes: int = 1
    most_nodes: int = 1
    printed: bool = False
    steps: dict[tuple[int, int], int] = field(default_factory=dict)
    forked: dict[tuple[int, int], int] = field(default_factory=dict)

    def workers_ended(self, nodes: int) -> bool:
        """Whether the workers on all nodes of the job ended by themselves, in its last start."""
        return len(self.ends) >= nodes
