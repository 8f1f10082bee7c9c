# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job of fractal-server left: rows of its database, files, zip, logs by the API. And how two of them differ.

A picture is flat: a path, such as ``units/2/status``, and a value. What must differ from one run to the next is put
into words that do not:

- times of the clock, and the stamps in names and logs that come from them;
- the ids of job, project, dataset, workflow and of their rows: each row is named by its place in its job, and what
  refers to a row names that place, so that a reference to another row is seen;
- the ids of SLURM jobs: how many there were is compared;
- the folders of a job, and those below them: ``JOB``, ``JOB_USER`` and ``ZARR`` stand for them;
- the host name;
- blank lines at the end of a text.

Then each picture is rewritten as the list of differences by design says.
"""

from __future__ import annotations

import fnmatch
import io
import json
import os
import re
import stat
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Picture = dict[str, Any]
_STAMP = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?")
# Texts of fractal-server that name ids.
_IDS = re.compile(r"(Fractal job |\bWF|_job|job\.id[:=] ?|job_id=|history_run_id=|history_unit_id=|\bdataset )\d+")
_OTHERS = {"timestamp", "start_timestamp", "end_timestamp", "timestamp_created", "timestamp_started",
           "timestamp_last_used", "timestamp_lastused"}  # fmt: skip
# Of so many tasks of a step the texts of files are compared, the first ones. Of all of them: names, modes and statuses.
MOST_TEXTS = 100
_COMPONENT = re.compile(r"-([0-9]{7})-")


@dataclass(frozen=True)
class Words:
    """Puts what must differ into words that do not.

    Attributes:
        texts: What stands for what, the longest first.
        ids: For each name of a column, its values and the words for them.
    """

    texts: Sequence[tuple[str, str]]
    ids: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def text(self, text: str) -> str:
        """Return a text in such words."""
        for found, word in self.texts:
            text = text.replace(found, word)
        return _IDS.sub(r"\1ID", _STAMP.sub("TIME", text)).rstrip("\n")

    def value(self, value: Any, key: str = "") -> Any:
        """Return a value of JSON in such words."""
        if isinstance(value, dict):
            return {name: self.value(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [self.value(each, key) for each in value]
        if key in _OTHERS:
            return value if value is None else "TIME"
        if isinstance(value, int) and not isinstance(value, bool) and key in self.ids:
            return self.ids[key].get(value, value)
        return self.text(value) if isinstance(value, str) else value


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of JSON with its path."""
    if isinstance(value, dict) and value:
        for name, each in value.items():
            yield from flat(each, f"{path}/{name}" if path else str(name))
    elif isinstance(value, list) and value:
        yield f"{path}/number", len(value)
        for number, each in enumerate(value):
            yield from flat(each, f"{path}/{number}")
    else:
        yield path, value


def of_zip(content: bytes, words: Words) -> dict[str, Any]:
    """Return the files of a zip: each one's mode, its text, and how often it is in the zip."""
    found: dict[str, Any] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        for entry in file.infolist():
            name = entry.filename.replace("/", ":")
            times = found[name]["times"] + 1 if name in found else 1
            found[name] = {"mode": f"{stat.S_IMODE(entry.external_attr >> 16):04o}", "times": times}
            component = _COMPONENT.search(name)
            if component is None or int(component[1]) < MOST_TEXTS:
                found[name]["text"] = words.text(file.read(entry).decode("utf-8", "replace"))
    return found


def of_folder(folder: Path) -> list[str]:
    """Return the names of the files in a folder; none where it is not there."""
    return sorted(str(path.relative_to(folder)).replace("/", ":") for path in folder.rglob("*") if path.is_file())


# --- differences


@dataclass(frozen=True)
class Difference:
    """One path at which two pictures differ; ``None`` where a picture has no such path."""

    case: str
    path: str
    own: Any
    engine: Any

    def __str__(self) -> str:
        return f"{self.case}: {self.path}\n    own runner: {_short(self.own)}\n    engine:     {_short(self.engine)}"


@dataclass(frozen=True)
class Known:
    """A difference by design.

    Attributes:
        path: Pattern of paths.
        reason: Why it is so.
        cases: Pattern of cases.
        own: What fractal-server's own runner has must match this regular expression.
        engine: The same for the engine. ``None`` stands for a path that is not there.
        before: The difference is only there in versions of fractal-server before this one, such as ``2.22``.
    """

    path: str
    reason: str
    cases: str = "*"
    own: str = r"[\s\S]*"
    engine: str = r"[\s\S]*"
    before: str = ""

    def covers(self, difference: Difference) -> bool:
        """Return whether this is the reason of a difference."""
        return (
            fnmatch.fnmatchcase(difference.case, self.cases)
            and fnmatch.fnmatchcase(difference.path, self.path)
            and re.fullmatch(self.own, str(difference.own)) is not None
            and re.fullmatch(self.engine, str(difference.engine)) is not None
        )


@dataclass(frozen=True)
class Rewrite:
    """A part of texts that one of the two has by design, and that is taken out before the rest is compared.

    Attributes:
        text: The part: a regular expression.
        reason: Why it is so.
        before: As in :class:`Known`.
    """

    text: str
    reason: str
    before: str = ""


def read(path: Path, version: str) -> tuple[list[Known], list[Rewrite]]:
    """Read the differences by design that a version of fractal-server has."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    with path.open("rb") as file:
        found = tomllib.load(file)

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".")[:2]]

    def holds(entry: Known | Rewrite) -> bool:
        return not entry.before or numbers(version) < numbers(entry.before)

    known = [Known(**entry) for entry in found["difference"]]
    rewrites = [Rewrite(**entry) for entry in found["rewrite"]]
    return list(filter(holds, known)), list(filter(holds, rewrites))


def rewritten(picture: Picture, rewrites: Sequence[Rewrite]) -> tuple[Picture, set[str]]:
    """Return a picture without the parts to take out, and the reasons of those that it had."""
    found, used = dict(picture), set()
    for path, value in picture.items():
        for each in rewrites if isinstance(value, str) else ():
            changed, number = re.subn(each.text, "", found[path])
            if number:
                found[path] = changed
                used.add(each.reason)
    return found, used


def compare(case: str, own: Picture, engine: Picture) -> list[Difference]:
    """Return each path at which two pictures differ."""
    missing = object()
    return [
        Difference(case, path, own.get(path), engine.get(path))
        for path in sorted({*own, *engine})
        if own.get(path, missing) != engine.get(path, missing)
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 1500 else f"{text[:700]} ... {text[-700:]}"


# --- a job


def of_job(server: Any, workflow: Any, job: Mapping[str, Any], before: Mapping[str, int], marks: str) -> Picture:
    """Return all that a job left.

    Args:
        server: The server, a ``LocalServer``.
        workflow: The workflow, with its dataset.
        job: What the API says of the job.
        before: For each table of accounting, the highest id before the job.
        marks: The folder of the case's marks.
    """
    number, dataset = job["id"], workflow.dataset
    runs = rows(server, f"historyrun where job_id = {number}")
    ids = ", ".join(str(run["id"]) for run in runs) or "0"
    units = rows(server, f"historyunit where history_run_id in ({ids})")
    steps = rows(server, f"workflowtaskv2 where workflow_id = {workflow.workflow}")
    (dataset_row,) = rows(server, f"datasetv2 where id = {dataset}")

    def places(found: Sequence[Mapping[str, Any]], name: str) -> dict[int, str]:
        return {row["id"]: f"{name} {place}" for place, row in enumerate(found)}

    words = Words(
        sorted(
            ((str(job["working_dir"]), "JOB"), (str(job["working_dir_user"]), "JOB_USER"),
             (str(dataset_row["zarr_dir"]), "ZARR"), (marks, "MARKS"), (os.uname().nodename, "HOST")),
            key=lambda pair: -len(pair[0]),
        ),
        {
            "job_id": {number: "job"}, "fractal_job_id": {number: "job"}, "dataset_id": {dataset: "dataset"},
            "workflow_id": {workflow.workflow: "workflow"}, "project_id": {workflow.project: "project"},
            "history_run_id": places(runs, "run"), "history_unit_id": places(units, "unit"),
            "latest_history_unit_id": places(units, "unit"), "workflowtask_id": places(steps, "step"),
        },
    )  # fmt: skip

    def table(found: Sequence[Mapping[str, Any]], *, leave: Sequence[str] = ()) -> list[Any]:
        """Return rows without their ids: a row's place says which it is."""
        return [words.value({key: row[key] for key in row if key != "id" and key not in leave}) for row in found]

    accounts = {name: table(rows(server, f"{name} where id > {since}")) for name, since in before.items()}
    for account in accounts["accountingrecordslurm"]:
        account["slurm_job_ids"] = len(account["slurm_job_ids"])
    (job_row,) = rows(server, f"jobv2 where id = {number}")
    folder = Path(job["working_dir"])
    files = of_zip(workflow.download(number), words)
    logs = [
        {"run": words.ids["history_run_id"].get(run["id"]), "unit": words.ids["history_unit_id"].get(unit["id"]),
         "log": words.text(workflow.log(run, unit["id"]))}
        for run in workflow.runs()
        for unit in sorted(workflow.units_of(run, 50), key=lambda unit: int(unit["id"]))
    ]  # fmt: skip
    return dict(
        flat(
            {
                "job": table([job_row], leave=("project_dump", "dataset_dump", "workflow_dump"))[0],
                "runs": table(runs, leave=("workflowtask_dump", "task_group_dump")),
                "units": table(units),
                "image cache": sorted(
                    table(rows(server, f"historyimagecache where dataset_id = {dataset}", order="zarr_url")),
                    key=lambda row: (row["workflowtask_id"], row["zarr_url"]),
                ),
                "dataset": table([dataset_row], leave=("name", "history"))[0],
                **accounts,
                "files": files,
                "folder": "as the zip" if of_folder(folder) == sorted(files) else of_folder(folder),
                "logs by the API": logs,
            }
        )
    )


def rows(server: Any, what: str, *, order: str = "id") -> list[dict[str, Any]]:
    """Return rows of the database."""
    said = server.query(f"select row_to_json(t) from (select * from {what} order by {order}) t")  # noqa: S608 - our own
    return [json.loads(line) for line in said.splitlines() if line]
