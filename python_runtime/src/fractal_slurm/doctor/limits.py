# SPDX-License-Identifier: BSD-3-Clause
"""Our own limits on submissions: which there are, whether they can be kept, and for whom they would never count."""

from __future__ import annotations

from collections.abc import Iterator

from ..driver.ledger import NotShared, ledger_of
from ..errors import count_of
from ..limits import Limits
from ..settings import Settings
from ..sudo import is_known_user
from .findings import Code, Finding, failed, passed, warned

_CHECK = "limits"


def examine_limits(settings: Settings) -> Iterator[Finding]:
    """What holds, and what runs of all processes share. Nothing is made that is not there yet."""
    limits = settings.limits
    tables = {"each user": limits.each_user, **limits.users, "all users": limits.all_users}
    words = [f"{whom}: {', '.join(found)}" for whom, table in tables.items() if (found := list(_words(table)))]
    unknown = [user for user in limits.users if not is_known_user(user)]
    if unknown:
        yield warned(
            Code.LIMITS,
            _CHECK,
            f"limits.users has {', '.join(unknown)}: this host knows no such user, so the limits of each user hold for "
            "whoever was meant",
        )
    ledger = ledger_of(settings)
    in_flight = ""
    if ledger.file.exists():
        try:
            in_flight = f"; {count_of(ledger.in_flight(), 'job')} in flight now"
        except NotShared as trouble:
            what = "nothing is submitted where a limit holds" if words else "no limit is set, so runs go on without"
            yield (failed if words else warned)(Code.LIMITS, _CHECK, f"{trouble}; until then {what}")
            return
    yield passed(Code.LIMITS, _CHECK, f"{'; '.join(words) or 'none of our own on submissions'}{in_flight}")


def _words(table: Limits) -> Iterator[str]:
    for name in Limits.model_fields:
        value = getattr(table, name)
        if value is not None:
            yield f"{name} {value if value else 'any number'}"
