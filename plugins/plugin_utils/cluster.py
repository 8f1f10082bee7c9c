# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""How actions look at a cluster: the module reads on the host, the runtime understands on the controller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .runtime import runtime_module


def look(
    execute: Callable[..., dict[str, Any]],
    *,
    users: list[str],
    bin_dirs: list[str],
    accounting: bool,
    timeout: int,
    task_vars: dict[str, Any] | None,
) -> tuple[dict[str, Any], Any]:
    """Look at the cluster from a host.

    Args:
        execute: Runs a module on the host, as an action plugin does.
        users: Users and %groups whose accounts are wanted; none for all.
        bin_dirs: Folders of SLURM's commands.
        accounting: Whether accounts are asked for.
        timeout: Seconds for each command.
        task_vars: The task's variables.

    Returns:
        The module's result without what the commands printed, and the runtime's Cluster (None if it failed).
    """
    cluster = runtime_module("cluster.facts")
    outcome = execute(
        module_name="fractal.slurm.cluster_info",
        module_args={
            # Who is in a group is found out on the host only: then all associations are asked for.
            "commands": cluster.commands(
                accounting=accounting, users=[] if any(name.startswith("%") for name in users) else users
            ),
            "users": users,
            "bin_dirs": bin_dirs,
            "accounting": accounting,
            "timeout": timeout,
        },
        task_vars=task_vars,
        wrap_async=False,
    )
    outputs = outcome.pop("outputs", {})
    if outcome.get("failed"):
        return outcome, None
    try:
        return outcome, cluster.parse(outputs)
    except ValueError as error:
        return {**outcome, "failed": True, "msg": str(error)}, None


def of_users(cluster: dict[str, Any], users: list[str]) -> dict[str, Any]:
    """The cluster with the associations of some users alone, and those of accounts themselves.

    Args:
        cluster: The runtime's Cluster as plain values.
        users: Names of users; none for all.
    """
    if not users or cluster["associations"] is None:
        return cluster
    kept = [entry for entry in cluster["associations"] if not entry["user"] or entry["user"] in users]
    return {**cluster, "associations": kept}
