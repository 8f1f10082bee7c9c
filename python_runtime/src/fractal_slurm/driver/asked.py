# SPDX-License-Identifier: BSD-3-Clause
"""What a program asks of the engine, checked before anything is made. All faults are reported at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config.faults import found
from ..config.resolve import Resolution, SlurmConfig
from ..errors import SpecError, shown

_TEXTS = ("user", "task_name", "cache_dir", "work_dir")


@dataclass(frozen=True)
class RunRequest:
    """What is to be run, all decided: nothing is resolved again.

    Attributes:
        user: As whom.
        task_name: The tasks' name; it becomes part of the jobs' name.
        command: The command that runs one task, as one string (split without a shell) or as words. It is given
            ``--args-json FILE --out-json FILE``.
        parameters: What stands in the args file of each task.
        config: A resolved config, or what :func:`~fractal_slurm.api.resolve` returned.
        cache_dir: The user's cache_dir, base of user_local_exports.
        work_dir: A folder that the user can write, on the nodes too; the run makes a folder in it.
        labels: What the caller wants to find with the run later, in this process or another; JSON values by name.
    """

    user: str
    task_name: str
    command: str | Sequence[str]
    parameters: Sequence[Mapping[str, Any]]
    config: SlurmConfig | Resolution
    cache_dir: str
    work_dir: str
    labels: Mapping[str, Any] = field(default_factory=dict)


def check_request(request: RunRequest) -> None:
    """Accept the types of a request's values. Later checks look at the values themselves.

    Raises:
        SpecError: Some are not allowed, or the labels are not JSON.
    """
    faults = [
        f"{name}: {found(value)}; a text is allowed"
        for name in _TEXTS
        if not isinstance(value := getattr(request, name), str)
    ]
    if not _is_command(request.command):
        faults.append(f"command: {found(request.command)}; a text or a list of texts is allowed, and not an empty one")
    if not isinstance(request.parameters, Iterable):
        faults.append(f"parameters: {found(request.parameters)}; a list with an object for each task is allowed")
    if not isinstance(request.config, SlurmConfig | Resolution):
        faults.append(f"config: {found(request.config)}; a SlurmConfig is allowed, or what resolve() returned")
    faults += _label_faults(request.labels)
    if faults:
        raise SpecError(faults)


def check_labels(labels: object) -> None:
    """Accept labels: JSON values by name.

    Raises:
        SpecError: They are not.
    """
    if faults := _label_faults(labels):
        raise SpecError(faults)


def check_listeners(**listeners: Callable[..., Any] | None) -> None:
    """Accept functions that are told of something.

    Raises:
        TypeError: One can't be called.
    """
    for name, listener in listeners.items():
        if listener is not None and not callable(listener):
            raise TypeError(f"{name}: found {shown(listener)}; a function is allowed")


def _is_command(command: object) -> bool:
    if isinstance(command, str):
        return True  # whoever splits it says what is wrong
    if isinstance(command, bytes) or not isinstance(command, Sequence):
        return False
    return all(isinstance(word, str) for word in command) and bool(command) and bool(command[0])


def _label_faults(labels: object) -> list[str]:
    if not isinstance(labels, Mapping) or not all(isinstance(name, str) for name in labels):
        return [f"labels: {found(labels)}; an object whose names are texts is allowed"]
    faults = []
    for name, value in labels.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            faults.append(f"labels: the value of {shown(name)} can't be written as JSON: {error}")
    return faults
