# SPDX-License-Identifier: BSD-3-Clause
"""A run of one small task: what a node says of clocks, of the runtime there, and of folders."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..cluster.commands import Slurm
from ..config.file import SlurmConfigFile
from ..driver.journal import Journal, record_of
from ..driver.prepare import create_run
from ..driver.runner import Runner
from ..errors import FractalSlurmError, one_line
from ..settings import Settings
from ..spec import Spec
from .findings import Code, Finding, failed, passed, warned

# So long the probe may take, in seconds: a cluster that is full is no fault.
WAIT_S = 180.0
# A clock that is this far off makes tasks end early or go to another job; munge refuses five minutes.
_CLOCK_S, _CLOCK_WORST_S = 10.0, 240.0
# What the task does: by the shell alone, since a node may lack all else. Its arguments: the cache folder, the worker,
# and what each task gets, of which the fourth is its out-JSON.
_SCRIPT = (
    'if [ -d "$1" ] && [ -w "$1" ]; then c=true; else c=false; fi; s=$(sha256sum "$2" 2>/dev/null) || s=; '
    """printf '{"node": "%s", "time": %s, "cache": %s, "worker": "%s"}' """
    '"$(uname -n)" "$(date +%s)" $c "${s%% *}" > "$6"'
)


def probe(
    config: SlurmConfigFile, settings: Settings, slurm: Slurm, *, user: str, work_dir: str, cache_dir: str | None
) -> Iterator[Finding]:
    """Run one task as a user.

    Args:
        config: The config file.
        settings: Our own settings.
        slurm: The cluster.
        user: Whose job it is.
        work_dir: Where its run's folder is made; it stays there, since it is the user's.
        cache_dir: The user's cache_dir; None where that is not to be looked at.
    """
    check = f"probe job as {user}"
    worker = str(Path(settings.folder(), "node", "worker.py"))
    command = ("/bin/sh", "-c", _SCRIPT, "sh", cache_dir or "/", worker)
    spec = Spec(task_name="fractal-slurm doctor", command=command, parameters=["{}"], meta={"time": "00:05:00"})
    said: list[str] = []
    try:
        journal = create_run(
            config, spec, settings, slurm, user=user, cache_dir=cache_dir or "/", work_dir=work_dir, say=said.append
        )
    except FractalSlurmError as error:
        yield failed(Code.PROBE, check, str(error))
        return
    with journal:
        try:
            began = time.time()
            yield from _drive(journal, settings, slurm, check)
            out = _answer(journal)
        except FractalSlurmError as error:
            yield failed(Code.PROBE, check, str(error))
            return
        finally:
            # Nobody asked for this run: what we made of it here goes.
            shutil.rmtree(journal.folder, ignore_errors=True)
    if out is None:
        return
    node = one_line(str(out.get("node")), 80)
    yield passed(Code.PROBE, check, f"a task ran on {node}, after {time.time() - began:.0f} s")
    yield _clock(out, node, began)
    yield _runtime(out, node, worker)
    if cache_dir is not None:
        good = out.get("cache") is True
        words = "can be written" if good else "is not there, or can't be written"
        yield (passed if good else failed)(
            Code.PROBE_CACHE, f"cache folder of {user}", f"{cache_dir} {words} on {node}, by {user}"
        )


def _drive(journal: Journal, settings: Settings, slurm: Slurm, check: str) -> Iterator[Finding]:
    """Drive the run to its end, or to the end of our patience."""
    said: list[str] = []
    deadline = time.monotonic() + WAIT_S

    def show(_progress: object) -> None:
        if time.monotonic() > deadline and runner.run.cancel_at is None:
            runner.interrupt()

    runner = Runner(journal, settings, slurm, say=said.append, show=show)
    runner.drive()
    summary = runner.summary()
    if summary["succeeded"]:
        return
    if runner.run.cancelled:
        reasons = "; ".join(one_line(words) for words in said[-3:])
        yield warned(Code.PROBE, check, f"it did not end within {WAIT_S:.0f} s, and was cancelled: {reasons}")
        return
    reason = one_line(str(summary["failures"][0]["reason"])) if summary["failures"] else "no result came"
    yield failed(Code.PROBE, check, f"{reason}; {one_line(str(summary['refusal'] or ''))}".rstrip("; "))


def _answer(journal: Journal) -> dict[str, Any] | None:
    row = journal.task(0)
    out = record_of(row.record).get("out") if row else None
    return out if isinstance(out, dict) else None


def _clock(out: dict[str, Any], node: str, began: float) -> Finding:
    check, at = "clocks", out.get("time")
    if not isinstance(at, int):
        return warned(Code.PROBE_CLOCK, check, f"{node} did not say what time it is")
    # It was asked at some time between the begin of the probe and now.
    off = max(began - 1 - at, at - time.time() - 1, 0.0)
    if off <= _CLOCK_S:
        return passed(Code.PROBE_CLOCK, check, f"that of {node} agrees with this host's")
    words = f"that of {node} is off by {off:.0f} s: see to NTP or chrony there and here"
    return (failed if off > _CLOCK_WORST_S else warned)(Code.PROBE_CLOCK, check, words)


def _runtime(out: dict[str, Any], node: str, worker: str) -> Finding:
    check = "runtime on nodes"
    try:
        here = hashlib.sha256(Path(worker).read_bytes()).hexdigest()
    except OSError as error:
        return failed(Code.PROBE_RUNTIME, check, f"{worker}: {error.strerror}")
    if out.get("worker") == here:
        return passed(Code.PROBE_RUNTIME, check, f"{node} has the same worker as this host")
    return failed(
        Code.PROBE_RUNTIME,
        check,
        f"{node} has another worker than this host: run the playbook fractal.slurm.site for it",
    )
