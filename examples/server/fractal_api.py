# SPDX-License-Identifier: BSD-3-Clause
"""A small client of fractal-server's API, of versions 2.18 to 2.26. Standard library only."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_MAX_BYTES = 64 * 1024 * 1024


class ApiError(Exception):
    """What the server said, or that it said nothing; one sentence."""


@dataclass
class Client:
    """A user of a fractal-server.

    Attributes:
        url: The server's address.
        email: Who this is.
        password: Their password.
        timeout: Seconds for each question.
    """

    url: str
    email: str
    password: str = field(repr=False)
    timeout: float = 60.0
    _token: str | None = field(default=None, repr=False)

    def call(self, method: str, path: str, body: Any = None, *, form: bool = False, raw: bool = False) -> Any:
        """Ask the server.

        Args:
            method: As in HTTP.
            path: What follows the address.
            body: What is sent, as JSON.
            form: Send it as a form instead.
            raw: Give the answer as bytes; else it is JSON.

        Raises:
            ApiError: It refused, or did not answer.
        """
        headers = {"Content-Type": "application/x-www-form-urlencoded" if form else "application/json"}
        if not form:
            headers["Authorization"] = f"Bearer {self.token()}"
        data = None
        if body is not None:
            data = (urllib.parse.urlencode(body) if form else json.dumps(body)).encode()
        # whoever makes a client names the address
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:  # noqa: S310
                text = answer.read(_MAX_BYTES)
        except urllib.error.HTTPError as error:
            said = error.read(4000).decode("utf-8", "replace")
            raise ApiError(f"{method} {path}: status {error.code}: {said}") from None
        except OSError as error:
            raise ApiError(f"{method} {self.url}{path}: no answer: {error}") from None
        if raw:
            return text
        return json.loads(text) if text else None

    def token(self) -> str:
        """The user's token, for which their password is sent once."""
        if self._token is None:
            login = {"username": self.email, "password": self.password}
            self._token = str(self.call("POST", "/auth/token/login/", login, form=True)["access_token"])
        return self._token

    def version(self) -> tuple[int, ...]:
        """The server's version."""
        text = str(self.call("GET", "/api/alive/")["version"])
        return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())

    def tasks(self, label: str) -> dict[str, int]:
        """Tasks that were collected under a label: name to id."""
        found: dict[str, int] = {}
        for group in self.call("GET", "/api/v2/task-group/"):
            # a pair of a name and a list of groups since 2.15
            for each in group[1] if isinstance(group, list) else [group]:
                if each["pkg_name"] == label:
                    found.update({task["name"]: task["id"] for task in each["task_list"]})
        return found

    def collect(self, label: str, python: str, folder: str, tasks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """Make scripts in a folder known as tasks, where they are not yet.

        Args:
            label: A name for all of them.
            python: The interpreter that runs them.
            folder: Where the scripts are.
            tasks: As in a manifest of tasks.

        Returns:
            Name to id.
        """
        found = self.tasks(label)
        if not found:
            body = {
                "manifest": {"manifest_version": "2", "task_list": list(tasks)},
                "python_interpreter": python,
                "label": label,
                "package_root": folder,
                "version": "1",
            }
            made = self.call("POST", "/api/v2/task/collect/custom/", body)
            found = {task["name"]: task["id"] for task in made}
        return found

    def workflow(self, name: str, steps: Sequence[tuple[int, Mapping[str, Any]]]) -> Workflow:
        """Make a project with a dataset and a workflow.

        Args:
            name: The project's name, which no other of this user has.
            steps: For each task its id, and its arguments as ``args_parallel`` and ``args_non_parallel``.
        """
        project = self.call("POST", "/api/v2/project/", {"name": name})["id"]
        dataset = self.call("POST", f"/api/v2/project/{project}/dataset/", {"name": "plate"})["id"]
        workflow = self.call("POST", f"/api/v2/project/{project}/workflow/", {"name": "workflow"})["id"]
        path = f"/api/v2/project/{project}/workflow/{workflow}/wftask/"
        listed = self.version() >= (2, 21)
        for task, arguments in steps:
            if listed:
                self.call("POST", path, [{"task_id": task, **arguments}])
            else:
                self.call("POST", f"{path}?task_id={task}", dict(arguments))
        return Workflow(self, project, dataset, workflow)


@dataclass(frozen=True)
class Workflow:
    """A workflow with its dataset, and what became of it."""

    client: Client
    project: int
    dataset: int
    workflow: int

    def submit(self, body: Mapping[str, Any] | None = None) -> int:
        """Start it; returns the id of the job.

        Args:
            body: What the request says of the job, such as ``worker_init``.
        """
        path = f"/api/v2/project/{self.project}/job/submit/?workflow_id={self.workflow}&dataset_id={self.dataset}"
        return int(self.client.call("POST", path, dict(body or {}))["id"])

    def job(self, number: int) -> dict[str, Any]:
        """What the server says of a job."""
        found: dict[str, Any] = self.client.call("GET", f"/api/v2/project/{self.project}/job/{number}/")
        return found

    def download(self, number: int) -> bytes:
        """The zip of a job's folder."""
        found: bytes = self.client.call("GET", f"/api/v2/project/{self.project}/job/{number}/download/", raw=True)
        return found

    def stop(self, number: int) -> None:
        """Ask the server to stop a job."""
        self.client.call("GET", f"/api/v2/project/{self.project}/job/{number}/stop/")

    def wait(
        self,
        number: int,
        timeout: float,
        look: Callable[[dict[str, int]], None] = lambda _units: None,
        interval: float = 0.2,
    ) -> dict[str, Any]:
        """Wait until a job has ended.

        Args:
            number: Its id.
            timeout: Seconds after which that is an error.
            look: Called now and then with the number of units by status.
            interval: Seconds between two looks.

        Raises:
            ApiError: It has not ended in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            state = self.job(number)
            if state["status"] != "submitted":
                return state
            if time.monotonic() > deadline:
                raise ApiError(f"job {number} has not ended within {timeout:.0f} seconds")
            look(self.units())
            time.sleep(interval)

    def runs(self) -> list[dict[str, Any]]:
        """What the server says of each run of each of its tasks, with ``task`` as the task's name."""
        found = []
        path = f"/api/v2/project/{self.project}"
        for step in self.client.call("GET", f"{path}/workflow/{self.workflow}/")["task_list"]:
            query = f"dataset_id={self.dataset}&workflowtask_id={step['id']}"
            for run in self.client.call("GET", f"{path}/status/run/?{query}"):
                found.append({"task": step["task"]["name"], "query": query, **run})
        return found

    def units(self) -> dict[str, int]:
        """The number of units by status: done, failed and submitted."""
        counts = {"done": 0, "failed": 0, "submitted": 0}
        for run in self.runs():
            for name in counts:
                counts[name] += run.get(f"num_{name}_units") or 0
        return counts

    def log(self, run: Mapping[str, Any], unit: int) -> str:
        """The log of a unit."""
        path = f"/api/v2/project/{self.project}/status/unit-log/"
        return str(self.client.call("GET", f"{path}?history_run_id={run['id']}&history_unit_id={unit}&{run['query']}"))

    def units_of(self, run: Mapping[str, Any], most: int = 100) -> list[dict[str, Any]]:
        """The first units of a run."""
        path = f"/api/v2/project/{self.project}/status/run/{run['id']}/units/?page_size={most}&{run['query']}"
        found: list[dict[str, Any]] = self.client.call("GET", path)["items"]
        return found

    def images(self) -> int:
        """The number of images in the dataset."""
        path = f"/api/v2/project/{self.project}/dataset/{self.dataset}/images/query/?page_size=1"
        return int(self.client.call("POST", path, {})["total_count"])
