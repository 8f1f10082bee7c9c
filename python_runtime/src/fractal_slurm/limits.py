# SPDX-License-Identifier: BSD-3-Clause
"""Our own limits on submissions, as the settings have them: of each user, of single users, and of all users together.

Each holds for all runs of all processes of one host. ``driver/ledger.py`` counts.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from .config.faults import found
from .errors import FractalSlurmError
from .sudo_rules import check_user_name

# Above any that makes sense. What was submitted is remembered for as long.
MOST_SUBMISSIONS, LONGEST_SPAN_S = 1_000_000, 7 * 86_400
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_RATE = re.compile(r"[ \t]*([0-9]{1,7})[ \t]+in[ \t]+([0-9]{1,6})[ \t]*([smhd])[ \t]*")
_ALLOWED_RATE = 'a number in a span such as "200 in 1h" is allowed; units are s, m, h, d, and 7 days are the most'


class Rate(NamedTuple):
    """So many submissions in each span of so many seconds."""

    most: int
    seconds: int


def parse_rate(text: str) -> Rate | None:
    """Read a rate such as ``200 in 1h``. None for the empty text, which means no limit.

    Raises:
        FractalSlurmError: It is something else.
    """
    if not text:
        return None
    match = _RATE.fullmatch(text)
    rate = Rate(int(match[1]), int(match[2]) * _UNITS[match[3]]) if match else Rate(0, 0)
    if not (0 < rate.most <= MOST_SUBMISSIONS and 0 < rate.seconds <= LONGEST_SPAN_S):
        raise FractalSlurmError(f"{found(text)}; {_ALLOWED_RATE}")
    return rate


def _as_number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_SUBMISSIONS:
        raise FractalSlurmError(f"{found(value)}; a whole number from 0 to {MOST_SUBMISSIONS} is allowed")
    return value


def _as_rate(value: object) -> str:
    if not isinstance(value, str):
        raise FractalSlurmError(f"{found(value)}; {_ALLOWED_RATE}")
    parse_rate(value)
    return value


def _as_seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 86_400:
        raise FractalSlurmError(f"{found(value)}; a number of seconds from 0 to 86400 is allowed")
    return float(value)


def _as_user(value: object) -> str:
    if not isinstance(value, str):
        raise FractalSlurmError(f"{found(value)}; the name of a user is allowed")
    return check_user_name(value)


def _as_truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise FractalSlurmError(f"{found(value)}; true or false are allowed")
    return value


def as_limits(value: object) -> object:
    """Take limits as a file has them, or as the environment has them: in JSON."""
    if isinstance(value, str):
        try:
            document = json.loads(value)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise FractalSlurmError(f"{found(value)}; an object in JSON is allowed")
        return document
    if not isinstance(value, (dict, LimitSettings)):
        raise FractalSlurmError(f"{found(value)}; a table is allowed")
    return value


class Limits(BaseModel):
    """The limits of one user, or of all together. What is not given is not limited, or as it is for each user."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_jobs_in_flight: Annotated[int, BeforeValidator(_as_number)] | None = Field(
        default=None, description="Jobs that SLURM may hold at the same time; 0: any number."
    )
    max_submissions: Annotated[str, BeforeValidator(_as_rate)] | None = Field(
        default=None, description='Submissions in any span of time, such as "200 in 1h"; "": any number.'
    )
    min_submission_interval: Annotated[float, BeforeValidator(_as_seconds)] | None = Field(
        default=None, description="Seconds between two submissions."
    )


class Scope(NamedTuple):
    """Limits, and whose submissions they count.

    Attributes:
        user: The user; empty for all users together.
        limits: The limits.
        names: Where in the settings each stands, by its name.
    """

    user: str
    limits: Limits
    names: dict[str, str]

    @property
    def of_whom(self) -> str:
        """Whose submissions are counted, in words."""
        return self.user or "all users"


class LimitSettings(BaseModel):
    """All limits on submissions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    each_user: Limits = Field(default_factory=Limits, description="Limits of each user.")
    all_users: Limits = Field(default_factory=Limits, description="Limits of all users together.")
    users: dict[Annotated[str, BeforeValidator(_as_user)], Limits] = Field(
        default_factory=dict,
        description="Other limits of single users, by name; the rest is as for each user.",
    )
    count_foreign_jobs: Annotated[bool, BeforeValidator(_as_truth)] = Field(
        default=False, description="Whether jobs that a user submitted without us count in max_jobs_in_flight."
    )

    def of(self, user: str) -> tuple[Scope, ...]:
        """The limits that hold for a submission of a user: those of the user, then those of all."""
        own: dict[str, Any] = {}
        names = {}
        exception = self.users.get(user)
        for name in Limits.model_fields:
            value = getattr(exception, name, None)
            names[name] = f"limits.users.{user}.{name}" if value is not None else f"limits.each_user.{name}"
            own[name] = value if value is not None else getattr(self.each_user, name)
        of_all = {name: f"limits.all_users.{name}" for name in Limits.model_fields}
        scopes = Scope(user, Limits.model_construct(**own), names), Scope("", self.all_users, of_all)
        return tuple(scope for scope in scopes if any(getattr(scope.limits, name) for name in Limits.model_fields))

    def counts_jobs(self, user: str) -> bool:
        """Whether a limit on jobs in flight holds for a user."""
        return any(scope.limits.max_jobs_in_flight for scope in self.of(user))
