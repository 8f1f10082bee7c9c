# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Handles units of systemd: their state, their drop-ins, and whether they need a restart. Standard library only."""

from __future__ import annotations

import os
import re
import time

from .commands import run
from .faults import fail

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

UNIT_FOLDER = "/etc/systemd/system"
_UNIT = re.compile(r"[A-Za-z0-9:_\\][A-Za-z0-9:_.\\-]*(@[A-Za-z0-9:_.\\-]*)?")
_RESTART_S = 300


def unit_name(name: str) -> str:
    """The unit's whole name, as systemctl completes it."""
    return name if re.search(r"\.[a-z]+$", name) else name + ".service"


def unit_state(unit: str, more: Iterable[str] = ()) -> dict[str, str] | str:
    """Ask systemd for properties of a unit.

    Args:
        unit: The unit's whole name.
        more: Names of further properties.

    Returns:
        Property to value; or a sentence that says why systemd gave no answer.
    """
    names = ",".join(("LoadState", "ActiveState", "ActiveEnterTimestampMonotonic") + tuple(more))
    answer = run(["systemctl", "show", "--property", names, unit], timeout=30)
    found = dict(line.split("=", 1) for line in answer.out.splitlines() if "=" in line)
    if answer.status != 0 or "LoadState" not in found:
        return answer.err or "systemctl show gave no answer"
    return found


def unit_faults(variable: str, name: str, must_exist: bool) -> list[str]:
    """Why a unit can't be used, one sentence for each fault.

    Args:
        variable: The variable that names the unit, for messages.
        name: The unit's name, as the variable has it.
        must_exist: Whether systemd must know the unit.
    """
    if not _UNIT.fullmatch(name):
        return ["%s: found %r; the name of a systemd unit is allowed" % (variable, name)]
    unit = unit_name(name)
    state = unit_state(unit)
    if not isinstance(state, dict):
        return ["%s: systemd on this host can't be asked for %s: %s" % (variable, unit, state)]
    if not must_exist:
        return []
    if state["LoadState"] == "not-found":
        return [
            "%s: systemd knows no unit %s on this host: install the service first, or leave the variable out"
            % (variable, unit)
        ]
    if state["LoadState"] == "masked":
        return ["%s: the unit %s is masked on this host: run systemctl unmask %s" % (variable, unit, unit)]
    return []


def started_before(state: Mapping[str, str], moment: float) -> bool:
    """Whether a unit runs, and was started before a moment.

    Args:
        state: What :func:`unit_state` returned.
        moment: Seconds since 1970.
    """
    if state.get("ActiveState") != "active":
        return False
    since_boot = int(state.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    return time.time() - time.monotonic() + since_boot < moment


def drop_in_path(name: str, file: str) -> str:
    """The path of a drop-in of a unit."""
    return os.path.join(UNIT_FOLDER, unit_name(name) + ".d", file)


def drop_in_text(role: str, variables: Mapping[str, str]) -> str:
    """The text of a drop-in that sets environment variables.

    Args:
        role: Name of the role that keeps the drop-in.
        variables: Names to values. No value has more than one line.
    """
    # systemd reads % as a specifier, and %% as the sign.
    lines = [
        'Environment="%s"' % re.sub(r'(["\\])', r"\\\1", "%s=%s" % entry).replace("%", "%%")
        for entry in sorted(variables.items())
    ]
    return "# Managed by Ansible (role fractal.slurm.%s).\n[Service]\n%s\n" % (role, "\n".join(lines))


def act(module: Any, *words: str) -> None:
    """Run systemctl. If it fails, the module fails with its words."""
    answer = run(["systemctl"] + list(words), timeout=_RESTART_S)
    if answer.status != 0:
        fault = "systemctl %s failed: %s" % (" ".join(words), " ".join(answer.err.split()) or answer.status)
        fail(module, [fault])
