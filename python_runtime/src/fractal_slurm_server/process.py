# SPDX-License-Identifier: BSD-3-Clause
"""The engines of one server process. An engine is made when the first job needs it. A forked process makes its own."""

from __future__ import annotations

import atexit
import os
import threading
import time

from fractal_slurm.api import Engine, Settings, load_settings

from .owner import Owner

_lock = threading.Lock()
_engines: dict[str, Engine] = {}
_owner: Owner | None = None
_pid = 0
_since = 0.0


def begin() -> None:
    """Note that this process begins. Call this before it takes any job."""
    with _lock:
        _forget_after_fork()


def engine(worker_python: str = "") -> Engine:
    """Return the engine of this process for a worker Python.

    Args:
        worker_python: The Python that runs our worker in jobs, unless our settings name one.

    Raises:
        SettingsError: Our settings are not valid.
    """
    with _lock:
        _forget_after_fork()
        if worker_python not in _engines:
            if not _engines:
                atexit.register(_leave)
            _engines[worker_python] = Engine(settings(worker_python))
        return _engines[worker_python]


def owner() -> Owner:
    """Return this process as the owner of jobs."""
    global _owner
    with _lock:
        _forget_after_fork()
        if _owner is None:
            _owner = Owner(settings().state_path() / "fractal-server", _since)
        return _owner


def settings(worker_python: str = "") -> Settings:
    """Return our settings, changed for jobs of fractal-server: its ``time`` is the time of a job, not of a task.

    Args:
        worker_python: The Python that runs our worker in jobs, unless our settings name one.

    Raises:
        SettingsError: Our settings are not valid.
    """
    own = load_settings()
    return own.model_copy(
        update={
            "time_scope": "job",
            "worker_python": own.worker_python or worker_python,
        }
    )


def _forget_after_fork() -> None:
    global _owner, _pid, _since
    if _pid != os.getpid():
        _engines.clear()
        _owner, _pid, _since = None, os.getpid(), time.time()


def _leave() -> None:
    """Leave the running jobs in SLURM at the end of this process. The next process continues them."""
    if _pid == os.getpid():
        for each in _engines.values():
            each.shutdown("leave", timeout=5)
