# SPDX-License-Identifier: BSD-3-Clause
"""The page of a run: one HTML file that needs no network.

What tasks and sites wrote is text in it, never markup, and its content security policy lets no script run but the
page's own, which is named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .. import __version__
from ..config.walltime import parse_walltime
from ..driver.folders import write_whole
from ..driver.journal import Journal
from ..driver.model import TaskState
from ..errors import FractalSlurmError
from ..jobs.script import render
from ..report import args_words, counts_words, failure_kinds, ranges, run_head, span, startup_advice, task_rows
from ..terminal import json_text, plain
from .facts import suggestions, task_table, timeline, uses
from .plots import cut_lanes, histogram_svg, timeline_svg

# More tasks are not listed one by one, but for those that failed.
_MOST_TASKS = 50_000
_MOST_EVENTS, _MOST_SCRIPT, _MOST_JOBS = 500, 20_000, 2_000


def write_page(journal: Journal, state: str, path: str | Path) -> None:
    """Write the page of a run: whole or not at all, for this account alone.

    Args:
        journal: The run's journal.
        state: What its state means, given who drives it.
        path: The file; one that is there is replaced.

    Raises:
        RunError: It can't be written.
    """
    write_whole(Path(path), page(journal, state), mode=0o600)


def page(journal: Journal, state: str) -> Iterator[str]:
    """The page of a run, in pieces."""
    environment = Environment(
        loader=PackageLoader("fractal_slurm.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    own = {name: _own(environment, name) for name in ("page.css", "page.js")}
    yield from environment.get_template("page.html.j2").generate(
        **_facts(journal, state),
        **{name.replace(".", "_"): Markup(text) for name, (text, _digest) in own.items()},  # noqa: S704 - our own files
        style_hash=own["page.css"][1],
        script_hash=own["page.js"][1],
        version=__version__,
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def _own(environment: Environment, name: str) -> tuple[str, str]:
    """A file of ours as it stands in the page, and its hash for the policy."""
    assert environment.loader is not None  # noqa: S101
    text = environment.loader.get_source(environment, name)[0]
    return text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(journal: Journal, state: str) -> dict[str, Any]:
    head = run_head(journal)
    run = journal.record
    config = asdict(run.config) if run.config.partition else {}  # without one it can't be read
    created = head["created"] or 0.0
    counts = journal.counts()
    total = sum(counts.values())
    lean = [_lean(task) for task in task_rows(journal)]
    kinds = failure_kinds(task_rows(journal, TaskState.FAILED, TaskState.NOT_RUN))
    rows = timeline(head["jobs"], lean, created)
    found = uses(lean, config, _time_s(config))
    listed = lean if total <= _MOST_TASKS else [task for task in lean if task["state"] != TaskState.SUCCEEDED]
    events = journal.events()
    ended = run.ended
    return {
        "head": head,
        "state": state,
        "began": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(created)),
        "took": span(max(1.0, ended - created)) if ended else "",
        "counts_words": counts_words(counts, ended=ended is not None),
        "kinds": [{**kind, "ranges": ranges(kind["indices"])} for kind in kinds],
        "args_words": args_words,
        "timeline": Markup(timeline_svg(rows)),  # noqa: S704 - made of numbers and of what plots escapes
        "timeline_cut": cut_lanes(rows),
        "timeline_sums": {
            "waited": sum(row.waited_s for row in rows),
            "startup": sum(row.startup_s for row in rows),
            "busy": sum(row.busy_s for row in rows),
            "idle": sum(row.idle_s for row in rows),
            "slots": sum(len(row.lanes) for row in rows),
        },
        "uses": [
            (name, title, use, Markup(histogram_svg(use, name)))  # noqa: S704 - made of numbers
            for name, title, use in (
                ("time", "Duration", found["time"]),
                ("mem", "Peak memory", found["mem"]),
                ("cpus", "CPUs kept busy", found["cpus"]),
            )
        ],
        "suggestions": suggestions(found, kinds),
        "advice": startup_advice(run.startups),
        "jobs": head["jobs"][:_MOST_JOBS],
        "jobs_cut": max(0, len(head["jobs"]) - _MOST_JOBS),
        "plan": next((event.detail for event in events if event.what == "run created"), ""),
        "config": {name: value for name, value in config.items() if value not in (None, [], {})},
        "sources": run.sources,
        "script": _script(journal, config),
        "events": [
            (time.strftime("%H:%M:%S", time.localtime(event.at)), event.what, event.subject, event.detail)
            for event in events[:_MOST_EVENTS]
        ],
        "events_cut": max(0, len(events) - _MOST_EVENTS),
        "damage": list(journal.damage),
        "tasks_listed": len(listed),
        "tasks_total": total,
        # In a script element text ends at "</script" and the like, so no "<" is left in it.
        "tasks_json": Markup(json_text(task_table(listed)).replace("<", "\\u003c")),  # noqa: S704
    }


def _lean(task: dict[str, Any]) -> dict[str, Any]:
    """A task without what may be large, since all of them are kept."""
    return {key: value for key, value in task.items() if key not in ("result", "log_tail")}


def _time_s(config: dict[str, Any]) -> int | None:
    try:
        return parse_walltime(config["time"]) if config.get("time") else None
    except FractalSlurmError:
        return None


def _script(journal: Journal, config: dict[str, Any]) -> str:
    """The script of the first job, as far as it is for people: its tasks are cut where they are many."""
    jobs = journal.jobs()
    run = journal.record
    if not jobs or not config or not run.job_settings.command:
        return ""
    try:
        rows = [row for row in journal.tasks() if row.token == jobs[0].token][:_MOST_TASKS]
        tasks = [(row.index, row.attempt, row.args) for row in rows]
        if not tasks:
            return ""
        text = render(run.config, run.job_settings, token=jobs[0].token, tasks=tasks).decode("utf-8", "replace")
    except FractalSlurmError:
        return ""
    if len(text) > _MOST_SCRIPT:
        text = f"{text[:_MOST_SCRIPT]}\n... cut: it has {len(text)} characters"
    return plain(text)
