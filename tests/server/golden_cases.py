# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflows that run twice: on fractal-server's own runner, and on the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCRIPT = "golden_task.py"
# Name of a task and the part of fractal-server's manifest that makes its type.
TASKS: tuple[dict[str, Any], ...] = (
    {"name": "Import", "executable_non_parallel": SCRIPT, "type": "converter_non_parallel"},
    {"name": "Import parts", "executable_non_parallel": SCRIPT, "executable_parallel": SCRIPT,
     "type": "converter_compound"},
    {"name": "Look at all", "executable_non_parallel": SCRIPT, "type": "non_parallel"},
    {"name": "Measure", "executable_parallel": SCRIPT, "type": "parallel"},
    {"name": "Register", "executable_non_parallel": SCRIPT, "executable_parallel": SCRIPT, "type": "compound"},
)  # fmt: skip
# A task whose interpreter is gone when it is to run.
GONE: tuple[dict[str, Any], ...] = ({"name": "Gone", "executable_parallel": SCRIPT, "type": "parallel"},)
LONG_S = 600
# A task that stays until its job is stopped; MARKS becomes a folder of the case's own.
MARKS = "MARKS"
STAYS = {"mark": MARKS, "sleep": LONG_S}

# Tasks in each SLURM job. fractal-server's own runner starts an srun for each of them at once: no more than a hundred.
HUNDREDS = {"tasks_per_job": 100, "parallel_tasks_per_job": 4}
ALONE = {"tasks_per_job": 1, "parallel_tasks_per_job": 1}


@dataclass(frozen=True)
class Step:
    """One task of a workflow.

    Attributes:
        task: Its name in ``TASKS`` or ``GONE``.
        all: Its arguments for what runs once.
        each: Its arguments for what runs for each image.
        meta: What it asks of SLURM where it runs for each image; or once, if that is all that it does.
    """

    task: str
    all: Mapping[str, Any] = field(default_factory=dict)
    each: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One workflow.

    Attributes:
        name: A name of its own.
        steps: Its tasks.
        images: How many images its dataset has before.
        stop_when: The job is stopped as soon as so many tasks have left their marks ...
        units_done: ... and so many units are done.
        body: What is sent with the submission.
        status: How the job ends.
        limit_s: The seconds after which it should have ended, however slow the machine is.
    """

    name: str
    steps: tuple[Step, ...]
    images: int = 0
    stop_when: int = 0
    units_done: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    status: str = "done"
    limit_s: float = 300.0


def cases(many: int) -> tuple[Case, ...]:
    """The workflows.

    Args:
        many: The number of items of the largest one.
    """
    measure = Step("Measure", each={"set": {"measured": True}})
    return (
        Case("converter_non_parallel", (Step("Import", {"make": 3}),)),
        Case("converter_compound", (Step("Import parts", {"list": 3}, {"set": {"part": 1}}),)),
        Case("non_parallel", (Step("Look at all", {"set": {"seen": True}}),), images=3),
        Case("parallel", (measure,), images=6),
        Case("compound", (Step("Register", {"list": 5}, {"set": {"registered": True}}),), images=5),
        Case(
            "all of them",
            (
                Step("Import", {"make": 4}),
                measure,
                Step("Look at all", {"set": {"seen": True}}),
                Step("Register", {"list": 4}, {"set": {"registered": True}}),
                Step("Import parts", {"list": 2}, {"silent": True}),
            ),
            body={"worker_init": "export GREETING='hello, you'"},
        ),
        Case("no output", (Step("Measure", each={"silent": True}), Step("Look at all", {"silent": True})), images=2),
        Case("warnings", (Step("Measure", each={"say": "Warning: careful", "only": ["W00001"]}),), images=3),
        Case("other characters", (Step("Measure", each={"say": "caf\u00e9 \u2013 \u65e5\u672c"}),), images=2),
        Case(
            "large log",
            (Step("Measure", each={"say": "x" * 70_000, "exit": 4, "only": ["W00001"]}),),
            images=2,
            status="failed",
        ),
        Case(
            "fails: parallel, two of them",
            (Step("Measure", each={"exit": 3, "only": ["W00001", "W00002"]}), measure),
            images=4,
            status="failed",
        ),
        Case("fails: parallel, all", (Step("Measure", each={"exit": 3}), measure), images=2, status="failed"),
        Case(
            "fails: parallel, output first",
            (Step("Measure", each={"exit_after": 3, "set": {"a": 1}}),),
            images=2,
            status="failed",
        ),
        Case(
            "fails: parallel, by a signal",
            (Step("Measure", each={"signal": "SIGSEGV", "only": ["W00001"]}),),
            images=2,
            status="failed",
        ),
        Case("fails: non_parallel", (Step("Look at all", {"exit": 3}), measure), images=2, status="failed"),
        Case("fails: converter", (Step("Import", {"exit": 3}),), status="failed"),
        Case("fails: compound, at first", (Step("Register", {"exit": 3}),), images=2, status="failed"),
        Case(
            "fails: compound, later",
            (Step("Register", {"list": 3}, {"exit": 3, "only": ["W00001"]}),),
            images=3,
            status="failed",
        ),
        Case("fails: converter_compound", (Step("Import parts", {"list": 2}, {"exit": 3}),), status="failed"),
        Case("fails: no such command", (Step("Gone"),), images=2, status="failed"),
        Case(
            "bad output: no JSON",
            (Step("Measure", each={"text": "{nothing", "only": ["W00001"]}),),
            images=2,
            status="failed",
        ),
        Case(
            "bad output: of another kind", (Step("Measure", each={"text": '{"colour": 1}'}),), images=2, status="failed"
        ),
        Case("bad output: null", (Step("Measure", each={"text": "null"}),), images=2),
        Case("bad output: init", (Step("Register", {"text": '{"colour": 1}'}),), images=2, status="failed"),
        Case("refused by SLURM", (Step("Measure", meta={"constraint": "nowhere"}),), images=2, status="failed"),
        Case(
            "refused by SLURM: non_parallel",
            (Step("Look at all", meta={"constraint": "nowhere"}),),
            images=2,
            status="failed",
        ),
        Case("empty list of images", (measure,), status="failed"),
        Case("empty parallelization list", (Step("Register", {"list": 0}), measure), images=2),
        Case("more than the cap", (Step("Register", {"list": 20_001}),), images=1, status="failed"),
        Case("stopped: non_parallel", (Step("Look at all", STAYS), measure), images=2, stop_when=1, status="failed"),
        Case("stopped: parallel", (Step("Measure", each=STAYS), measure), images=4, stop_when=4, status="failed"),
        Case(
            "stopped: parallel, half done",
            (Step("Measure", each={**STAYS, "only": ["W00002", "W00003"]}, meta=ALONE), measure),
            images=4,
            stop_when=2,
            units_done=2,
            status="failed",
        ),
        Case(
            "stopped: compound", (Step("Register", {"list": 4}, STAYS), measure), images=4, stop_when=4, status="failed"
        ),
        Case("many", (Step("Register", {"list": many}, meta=HUNDREDS),), images=1, limit_s=60 + many),
    )
