# SPDX-License-Identifier: BSD-3-Clause
"""One line of the table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        what: What was measured, of both.
        unit: Of both figures; smaller is better for all but "tasks/s".
        ours: Our figure, the median where there are several samples.
        peer: The peer's figure, or the ideal; None where there is nothing to compare with.
        peer_name: What the peer is.
        goal: What ours is to reach, in words.
        reached: Whether it did.
        details: The raw figures.
    """

    what: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str
    goal: str
    reached: bool
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Say how many times better ours is than the peer; below 1 it is worse."""
        if not self.peer or not self.ours:
            return None
        return self.ours / self.peer if self.unit == "tasks/s" else self.peer / self.ours

    def as_json(self) -> dict[str, Any]:
        """Give the row as it goes into the JSON document."""
        return asdict(self) | {"times_better": self.ratio}
