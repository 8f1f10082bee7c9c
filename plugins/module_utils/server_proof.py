# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves that a fractal-server runs work as its users: a workflow of one tiny task, as each of them, by its API.

All that is made for it is removed again: in the server, in the user's probe folder, and what the server wrote for the
job. Nothing else is touched.
"""

from __future__ import annotations

import functools
import json
import os
import pwd
import re
import secrets
import stat
import time

from . import probe_folder
from .commands import call_as
from .fractal_server import Client, ServerError, Unanswered

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

HINTS = {
    401: " (the token is wrong or too old, or this user of fractal-server is not verified: get a new token)",
    404: " (fractal-server has had this since version 2.17)",
}
# Its fourth argument is the path of the out-JSON. What it writes beside itself says who ran it: the file's owner is the
# kernel's word.
TASK = """#!/bin/sh
printf '{"uid": "%s", "host": "%s"}' "$(id -u)" "$(hostname)" > "$(dirname "$0")/ran"
echo '{}' > "$4"
"""
# fractal-server takes no other signs in a task's command.
_PATH = re.compile(r"[A-Za-z0-9_./@%+=:,^~-]+")
_MOST_BYTES = 4096
_LOOK_S = 1.0
# After its end a job's folder is packed, and a task group is removed in the background.
_AFTER_S = 20.0
# A job that is stopped ends with one of the runner's next looks.
_STOP_S = 60.0
# A new file may be seen on another host only after some seconds.
_FILE_S = 10.0


class Proof:
    """The workflow of one user: made, watched, judged, and removed again.

    Args:
        client: The user of the server.
        account: The account of this host that the server's jobs must run as.
        service_user: The account of the server.
        template: The probe folder, with USER and HOME.

    Attributes:
        fault: Why it did not work, or None.
        left: What could not be removed, one text each.
    """

    def __init__(self, client: Client, account: str, service_user: str, template: str) -> None:
        self._client = client
        self._account = account
        self._service_user = service_user
        self._template = template
        self._name = "fractal-slurm-verify-" + secrets.token_hex(8)
        self._home = ""
        self._made: list[Any] = []  # the probe folders
        self._asked: set[str] = set()  # what the server was asked to make, whatever it answered
        self._ids: dict[str, int] = {}
        self._job: dict[str, Any] = {}
        self._began = 0.0
        self._wall_s = 0.0
        self._version = ""
        self.fault: str | None = None
        self.left: list[str] = []

    # --- making

    def begin(self) -> None:
        """Make the workflow and start it. A fault is kept."""
        try:
            self._begin()
        except (ServerError, OSError, ValueError) as error:
            self.fault = str(error)

    def _begin(self) -> None:
        try:
            self._home = pwd.getpwnam(self._account).pw_dir
        except KeyError:
            raise ServerError(
                "this host has no user of this name: name the account that the server's jobs run as"
            ) from None
        self._version = str(_field(self._client.call("GET", "/api/alive/"), "version", str))
        # The server is asked whom its jobs would run as, before anything is made in it.
        profile = self._client.call("GET", "/auth/current-user/profile-info/")
        if not _field(profile, "has_profile", bool):
            raise ServerError("this user of fractal-server has no profile: an administrator gives one")
        name = profile.get("username")
        if name != self._account:
            raise ServerError("the token is of a user whose jobs run as %s: nothing is tried" % name)
        folder = probe_folder.expand(self._template, self._account, self._home)
        if not _PATH.fullmatch(folder):
            raise ServerError("the probe folder %s has signs that fractal-server takes in no command" % folder)
        self._made = call_as(self._account, probe_folder.make, folder)
        script = os.path.join(self._made[-1][0], "task.sh")
        call_as(self._account, _write, script, TASK)
        task = {
            "name": self._name,
            "version": "1",
            "type": "converter_non_parallel",
            "command_non_parallel": "/bin/sh " + script,
        }
        made = self._make("task group", "/api/v2/task/?private=true", task, "taskgroupv2_id")
        task_id = _field(made, "id", int)
        project = "/api/v2/project/%d" % _field(
            self._make("project", "/api/v2/project/", {"name": self._name}, "id"), "id", int
        )
        dataset = _field(self._client.call("POST", project + "/dataset/", {"name": "verify"}), "id", int)
        workflow = _field(self._client.call("POST", project + "/workflow/", {"name": "verify"}), "id", int)
        step = "%s/workflow/%d/wftask/" % (project, workflow)
        if _numbers(self._version) >= (2, 21):
            self._client.call("POST", step, [{"task_id": task_id}])
        else:
            self._client.call("POST", "%s?task_id=%d" % (step, task_id), {})
        path = "%s/job/submit/?workflow_id=%d&dataset_id=%d" % (project, workflow, dataset)
        self._ids["workflow"] = workflow
        self._began = time.monotonic()
        self._job = self._make("job", path, {}, "id")

    def _make(self, kind: str, path: str, body: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Let the server make something, and remember that it was asked to."""
        self._asked.add(kind)
        try:
            made = self._client.call("POST", path, body)
        except Unanswered:
            raise
        except ServerError:
            self._asked.remove(kind)  # it refused
            raise
        self._ids[kind] = _field(made, key, int)
        found: dict[str, Any] = made
        return found

    # --- watching and judging

    def look(self) -> bool:
        """Look at the job once. Returns whether there is nothing more to wait for."""
        if self.fault is not None or self._ended():
            return True
        try:
            return self._ask_for_job()
        except ServerError as error:
            self.fault = str(error)
        return True

    def _ended(self) -> bool:
        return self._job.get("status") not in (None, "submitted")

    def _ask_for_job(self) -> bool:
        """Ask what became of the job. Returns whether it has ended."""
        path = "/api/v2/project/%d/job/%d/" % (self._ids["project"], self._ids["job"])
        job = self._client.call("GET", path)
        _field(job, "status", str)
        self._job = job
        self._wall_s = time.monotonic() - self._began
        return self._ended()

    def give_up(self, seconds: float) -> None:
        """Say that the job has not ended in time."""
        if self.fault is None and not self._ended():
            self.fault = "its job has not ended within %d seconds: does it wait for room (squeue -u %s)?" % (
                seconds,
                self._account,
            )

    def row(self) -> tuple[str, bool, str]:
        """Judge it, before it is removed. Returns the account, whether all is as it must be, and a sentence."""
        if self.fault is None and self._job.get("status") != "done":
            self.fault = "its job is %s: %s" % (self._job.get("status"), str(self._job.get("log") or "no log")[-1500:])
        if self.fault is not None:
            return self._account, False, self.fault
        try:
            owner, text = call_as(self._account, _read, os.path.join(self._made[-1][0], "ran"), timeout=_FILE_S + 20)
            told = json.loads(text)
            uid, host = _field(told, "uid", str), _field(told, "host", str)
        except (ServerError, OSError, ValueError) as error:
            return self._account, False, "its job is done, and its task left no result: %s" % error
        wanted = pwd.getpwnam(self._account).pw_uid
        if owner != wanted or uid != str(wanted):
            return self._account, False, "its task ran as uid %s, and its file belongs to uid %d" % (uid, owner)
        words = "ran as %s on %s in %.1f s, by fractal-server %s"
        return self._account, True, words % (self._account, host, self._wall_s, self._version)

    # --- removing

    def remove(self) -> None:
        """Remove all that was made. What is left is told in :attr:`left`."""
        self._try("its job", self._stop)
        self._try("project %s" % self._name, self._remove_project)
        self._try("task group %s" % self._name, self._remove_group)
        if "job" in self._asked and not self._ended():
            self.left.append("its job may still run: project %s, %s" % (self._name, self._folder() or "no folder yet"))
            return
        self._try("the folders of its job", self._remove_job_folders)
        if self._made:
            self._try(self._made[-1][0], lambda: call_as(self._account, probe_folder.remove, self._made))

    def _try(self, what: str, step: Callable[[], None]) -> None:
        try:
            step()
        except (ServerError, OSError, ValueError) as error:
            self.left.append("%s: %s" % (what, error))

    def _stop(self) -> None:
        if "job" not in self._asked or self._ended():
            return
        if "job" not in self._ids:
            found = _entries(self._client.call("GET", "/api/v2/project/%d/job/" % self._ids["project"]))
            if not found:
                self._asked.remove("job")
                return
            self._ids["job"] = _field(found[0], "id", int)
        if self._ask_for_job():
            return
        self._client.call("GET", "/api/v2/project/%d/job/%d/stop/" % (self._ids["project"], self._ids["job"]))
        _wait(_STOP_S, self._ask_for_job)

    def _remove_project(self) -> None:
        if "project" in self._asked and "project" not in self._ids:
            self._find("project", "/api/v2/project/", "name")
        if "project" in self._ids:
            self._client.call("DELETE", "/api/v2/project/%d/" % self._ids["project"])

    def _remove_group(self) -> None:
        if "task group" in self._asked and "task group" not in self._ids:
            self._find("task group", "/api/v2/task-group/?args_schema=false", "pkg_name")
        if "task group" not in self._ids:
            return
        path = "/api/v2/task-group/%d/" % self._ids["task group"]
        self._client.call("POST", path + "delete/")

        def gone() -> bool:
            try:
                self._client.call("GET", path)
            except ServerError as error:
                if error.status == 404:
                    return True
                raise
            return False

        if not _wait(_AFTER_S, gone):
            raise ServerError("fractal-server has not removed it within %d seconds" % _AFTER_S)

    def _find(self, kind: str, path: str, key: str) -> None:
        """Look for what the server was asked to make, where it gave no answer."""
        for each in _entries(self._client.call("GET", path)):
            if each.get(key) == self._name:
                self._ids[kind] = _field(each, "id", int)

    def _folder(self) -> str:
        return str(self._job.get("working_dir") or "")

    def _remove_job_folders(self) -> None:
        if "job" not in self._ids:
            return
        begin = "proj_v2_%07d_wf_%07d_job_%07d_" % (self._ids["project"], self._ids["workflow"], self._ids["job"])
        for key, owner in (("working_dir_user", self._account), ("working_dir", self._service_user)):
            path = str(self._job.get(key) or "")
            if not os.path.isabs(path) or not os.path.basename(path).startswith(begin):
                continue  # it got no further
            if key == "working_dir" and os.path.lexists(path):  # the server packs it when the job has ended
                _wait(_AFTER_S, functools.partial(os.path.lexists, path + ".zip"))
            call_as(owner, remove_job_folder, path)


def prove(proofs: list[Proof], seconds: float) -> list[tuple[str, bool, str]]:
    """Run the workflows side by side, and remove them, whatever happens.

    Args:
        proofs: One for each user.
        seconds: The time that the jobs have.

    Returns:
        For each its account, whether all is as it must be, and a sentence.
    """
    rows = []
    try:
        for proof in proofs:
            proof.begin()
        _wait(seconds, lambda: not [proof for proof in proofs if not proof.look()])  # each is looked at
        for proof in proofs:
            proof.give_up(seconds)
        rows = [proof.row() for proof in proofs]
    finally:
        for proof in proofs:
            proof.remove()
    return [
        (account, ok and not proof.left, "; left behind: ".join([words] + proof.left))
        for proof, (account, ok, words) in zip(proofs, rows)
    ]


def remove_job_folder(path: str) -> None:
    """Remove a job's folder, or the archive that it was packed into. Call this as its owner: others' are left alone.

    Args:
        path: Of the folder, which begins as those of our job do.
    """
    for each in (path, path + ".zip"):
        try:
            info = os.lstat(each)
        except FileNotFoundError:
            continue
        if info.st_uid != os.geteuid():
            raise OSError("%s belongs to uid %d: it stays" % (each, info.st_uid))
        if stat.S_ISDIR(info.st_mode):
            probe_folder.remove([(each, info.st_dev, info.st_ino)])
        elif stat.S_ISREG(info.st_mode):
            os.unlink(each)


def _write(path: str, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as stream:
        stream.write(text)


def _read(path: str) -> tuple[int, str]:
    """The owner and the text of the file that the task wrote. Call this as the user."""
    found: list[int] = []

    def look() -> bool:
        try:
            found.append(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
        except FileNotFoundError:
            return False
        return True

    if not _wait(_FILE_S, look):
        raise OSError("%s is not there" % path)
    with open(found[0], "rb") as stream:
        return os.fstat(stream.fileno()).st_uid, stream.read(_MOST_BYTES).decode("utf-8", "replace")


def _wait(seconds: float, done: Callable[[], Any]) -> bool:
    """Look now and then whether something is done. Returns whether it was in time."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _field(answer: Any, name: str, kind: type) -> Any:
    """A value of an answer of the server.

    Raises:
        ServerError: The answer has none, or one of another type.
    """
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise ServerError("an answer of the server has no %s: is this a fractal-server?" % name)
    return value


def _entries(answer: Any) -> list[dict[str, Any]]:
    """What the server lists. It puts some lists into pairs with a name."""
    if isinstance(answer, dict):
        return [answer]
    return [entry for each in answer for entry in _entries(each)] if isinstance(answer, list) else []


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
