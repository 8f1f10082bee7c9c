# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads and writes the resources of a fractal-server, by its API or by the Python beside its fractalctl."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from urllib.error import HTTPError
from urllib.parse import urlencode

from ansible.module_utils.urls import open_url

from .commands import run

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

CONNECTION_SPEC = {
    "api_url": {"type": "str", "default": "http://127.0.0.1:8000"},
    "token": {"type": "str", "no_log": True},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "validate_certs": {"type": "bool", "default": True},
    "ca_path": {"type": "path"},
    "fractalctl": {"type": "path"},
    "fractalctl_dir": {"type": "path"},
    "fractalctl_user": {"type": "str"},
    "timeout": {"type": "int", "default": 30},
}
CONNECTION_RULES = {
    "mutually_exclusive": [("token", "username"), ("token", "fractalctl"), ("username", "fractalctl")],
    "required_together": [("username", "password")],
    "required_one_of": [("token", "username", "fractalctl")],
    "required_by": {"fractalctl_dir": "fractalctl", "fractalctl_user": "fractalctl"},
}
SLURM_TYPES = ("slurm_sudo", "slurm_ssh")
# What to add to the server's words, where an administrator is needed.
_HINTS = {
    401: " (the token or the password is wrong, or too old: get a new one)",
    403: " (an administrator of fractal-server may do this: use the token of one)",
    404: " (resources have been there since fractal-server 2.17)",
}
# Answers that send us on to another address. The token goes to this one alone.
_SENT_ON = (301, 302, 303, 307, 308)
_MAX_BYTES = 16 * 1024 * 1024
# The server adds these by itself. They are not sent back.
_OF_THE_SERVER = ("id", "timestamp_created")
# The server fills these in for options that were left out.
_DEFAULTS = {"shebang_line": "#!/bin/sh", "use_mem_per_cpu": False}
# The server's own Python runs this program, with the settings that its fractalctl has. It reads one JSON object, and
# prints one.
_PROGRAM = r"""
import json, os, sys
asked = json.load(sys.stdin)
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever the server prints is no answer
try:
    from fractal_server.app.db import get_sync_db
    from fractal_server.app.models.v2 import Resource
    from fractal_server.app.schemas.v2.resource import ResourceRead, cast_serialize_resource
    from fractal_server.config import get_settings
    from sqlalchemy import select
    with next(get_sync_db()) as db:
        found = db.execute(select(Resource).order_by(Resource.id)).scalars().all()
        if asked["do"] == "list":
            fields = [name for name in ResourceRead.model_fields if name != "timestamp_created"]
            told = [{name: getattr(entry, name) for name in fields} for entry in found]
        else:
            entry = next((entry for entry in found if entry.id == asked.get("id")), None)
            if asked["do"] == "remove":
                db.delete(entry)
                told = None
            else:
                values = cast_serialize_resource(asked["body"])
                backend = getattr(get_settings(), "FRACTAL_RUNNER_BACKEND", values["type"])
                if backend != values["type"]:
                    raise ValueError("FRACTAL_RUNNER_BACKEND is %s, and the resource %s" % (backend, values["type"]))
                if entry is None:
                    entry = Resource(**values)
                    db.add(entry)
                for name, value in values.items():
                    setattr(entry, name, value)
                told = values
            db.commit()
    json.dump({"told": told}, answer)
except Exception as error:
    json.dump({"failed": "%s: %s" % (type(error).__name__, error)}, answer)
"""


class ServerError(Exception):
    """Why the server does not do what it is asked for, in one sentence.

    Attributes:
        status: The status of its answer, or None.
    """

    def __init__(self, words: str, status: int | None = None) -> None:
        super().__init__(words)
        self.status = status


class Unanswered(ServerError):
    """There is no answer that can be read. Whether the server did what it was asked for is not known."""


def connect(params: Mapping[str, Any]) -> Fractalctl | Api:
    """Connect to the server that a module's parameters name.

    Args:
        params: The parameters of ``CONNECTION_SPEC``.

    Raises:
        ServerError: No server can be reached in this way.
    """
    return Fractalctl(params) if params["fractalctl"] else Api(params)


class Client:
    """One user of a fractal-server, by its API. Each answer is bounded in bytes and in time.

    Args:
        url: The address of the server.
        token: The user's token. None as long as there is none.
        timeout: Seconds for each question, the whole answer included.
        validate_certs: Whether the certificate of the server is checked.
        ca_path: A file with certificates of authorities that are trusted, or None.
        hints: What to add to the server's words, by the status of its answer.
        option: What the user calls the address, for messages.

    Raises:
        ServerError: The address or the token is not allowed.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout: float,
        validate_certs: bool = True,
        ca_path: str | None = None,
        hints: Mapping[int, str] | None = None,
        option: str = "api_url",
    ) -> None:
        self._url = url.rstrip("/")
        self._option = option
        self._hints = dict(hints or {})
        self._timeout = timeout
        self._options: dict[str, Any] = {
            "timeout": timeout,
            "validate_certs": validate_certs,
            "ca_path": ca_path,
            "follow_redirects": "none",  # the token goes to this server alone
        }
        if not self._url.startswith(("http://", "https://")):
            raise ServerError(
                "%s: found %r; an address that begins with http:// or https:// is allowed" % (option, self._url)
            )
        if "@" in re.split("[/?#]", self._url.split("://", 1)[1], maxsplit=1)[0]:  # messages show the address
            raise ServerError("%s: has a user name or a password in it: give these as options of their own" % option)
        if timeout <= 0:
            raise ServerError("timeout: found %g; a number of seconds above zero is allowed" % timeout)
        # Whoever makes a header of such a text would show it in the message.
        if token is not None and not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ServerError("%s: its token has signs that no token has, or is empty: get a new one" % self._url)
        self._token = token

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the server.

        Args:
            method: As in HTTP.
            path: What follows the address.
            body: What is sent, as JSON. None for nothing.

        Returns:
            Its answer. None where the answer is empty.

        Raises:
            ServerError: It refuses, gives no answer or not in time, or answers something else than JSON.
        """
        return self._call(method, path, None if body is None else json.dumps(body))

    def _call(self, method: str, path: str, data: str | None = None, content_type: str = "application/json") -> Any:
        headers = {"Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = content_type
        if self._token is not None:
            headers["Authorization"] = "Bearer %s" % self._token
        where = "%s %s%s" % (method, self._url, path)
        try:
            with _within(self._timeout):
                answer = open_url(self._url + path, method=method, headers=headers, data=data, **self._options)
                text = answer.read(_MAX_BYTES + 1)
        except HTTPError as error:
            kind = ServerError if error.code < 500 else Unanswered  # a proxy's words, where the server is slow
            words = "%s: %s" % (where, _words_of(error, self._hints, self._timeout))
            if error.code in _SENT_ON:
                words += " It sends us on to another address: is %s right?" % self._option
            raise kind(words, error.code) from None
        except Exception as error:  # by urllib, ssl, http.client or the system: each means that there is no answer
            raise Unanswered(
                "%s: no answer: %s: does the server run, and is %s right?" % (where, _line(error), self._option)
            ) from None
        if len(text) > _MAX_BYTES:
            raise Unanswered("%s: answers more than %d MB" % (where, _MAX_BYTES // 2**20))
        try:
            return json.loads(text.decode("utf-8")) if text else None
        except (ValueError, RecursionError):
            raise Unanswered("%s: its answer is no JSON: is this a fractal-server?" % where) from None


class Api(Client):
    """The resources in the server's API, used with an administrator's token or password.

    Args:
        params: A module's parameters.

    Raises:
        ServerError: The server can't be reached, or does not accept the token or the password.
    """

    _RESOURCES = "/admin/v2/resource/"

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__(
            params["api_url"],
            params["token"],
            timeout=params["timeout"],
            validate_certs=params["validate_certs"],
            ca_path=params["ca_path"],
            hints=_HINTS,
        )
        if self._token is None:
            form = urlencode({"username": params["username"], "password": params["password"]})
            answer = self._call("POST", "/auth/token/login/", form, "application/x-www-form-urlencoded")
            if not isinstance(answer, dict) or not isinstance(answer.get("access_token"), str):
                raise ServerError("%s: gives no token for %s" % (self._url, params["username"]))
            self._token = answer["access_token"]

    def resources(self) -> list[dict[str, Any]]:
        """All resources, as the server tells them."""
        return _resources(self.call("GET", self._RESOURCES), self._url + self._RESOURCES)

    def create(self, body: Mapping[str, Any]) -> Any:
        """Make a resource. Returns the resource as the server tells it."""
        return self.call("POST", self._RESOURCES, body)

    def update(self, number: int, body: Mapping[str, Any]) -> Any:
        """Give the resource of this id other values. Returns the resource as the server tells it."""
        return self.call("PUT", "%s%d/" % (self._RESOURCES, number), body)

    def remove(self, number: int) -> None:
        """Remove the resource of this id."""
        self.call("DELETE", "%s%d/" % (self._RESOURCES, number))


def _resources(found: Any, where: str) -> list[dict[str, Any]]:
    """Accept an answer as a list of resources.

    Args:
        found: The answer.
        where: Whose answer it is.

    Raises:
        ServerError: It is something else, or two resources have the same name.
    """
    if not isinstance(found, list) or not all(
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("id"), int)
        and not isinstance(entry["id"], bool)
        for entry in found
    ):
        raise ServerError("%s: gives no list of resources: is this a fractal-server?" % where)
    names = [entry["name"] for entry in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ServerError("%s: has several resources with the same name: %s" % (where, _line(", ".join(twice))))
    return found


def _line(text: object) -> str:
    """Words of others in one line, without characters that a terminal would obey."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """End what is done inside after this time.

    The time limit of a socket is for each of its reads. A server that sends a byte now and then would hold us for ever.

    Raises:
        TimeoutError: The time is over.
    """
    if threading.current_thread() is not threading.main_thread():  # no other thread gets signals
        yield
        return

    def end(_number: int, _frame: object) -> None:
        raise TimeoutError("not within %g seconds" % seconds)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _words_of(error: HTTPError, hints: Mapping[int, str], timeout: float) -> str:
    """What the server says when it refuses a request, in one line."""
    try:
        with _within(timeout):
            text = error.read(65536).decode("utf-8", "replace")
    except Exception:  # the status alone says enough
        text = ""
    try:
        detail = json.loads(text)["detail"]
        if isinstance(detail, list):  # messages of pydantic, each with its place
            detail = "; ".join(
                "%s: %s" % (".".join(map(str, entry.get("loc", [])[1:])), entry.get("msg")) for entry in detail
            )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        detail = text[:500]
    hint = hints.get(error.code, "")
    if detail == "LOGIN_BAD_CREDENTIALS":
        hint = " (is the password that of the username?)"
    return _line("status %d: %s%s" % (error.code, detail, hint))


class Fractalctl:
    """The server's own code. The Python beside its fractalctl runs it, with the settings that fractalctl would find.

    Args:
        params: A module's parameters.

    Raises:
        ServerError: There is no such Python.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        path: str = params["fractalctl"]
        self._python = os.path.join(os.path.dirname(path), "python")
        self._timeout: int = params["timeout"]
        self._user: str | None = params["fractalctl_user"]
        self._folder: str = params["fractalctl_dir"] or "/"
        if not os.path.isfile(path) or not os.access(self._python, os.X_OK):
            raise ServerError("fractalctl: %s is not there, or no python beside it: name the one of the server" % path)
        if not os.path.isdir(self._folder):
            raise ServerError("fractalctl_dir: the folder %s is not there" % self._folder)

    def resources(self) -> list[dict[str, Any]]:
        """All resources, as the server tells them."""
        return _resources(self._ask({"do": "list"}), self._python)

    def create(self, body: Mapping[str, Any]) -> Any:
        """Make a resource. Returns its values."""
        return self._ask({"do": "write", "body": body})

    def update(self, number: int, body: Mapping[str, Any]) -> Any:
        """Give the resource of this id other values. Returns these."""
        return self._ask({"do": "write", "id": number, "body": body})

    def remove(self, number: int) -> None:
        """Remove the resource of this id."""
        self._ask({"do": "remove", "id": number})

    def _ask(self, question: Mapping[str, Any]) -> Any:
        # fractal-server reads .fractal_server.env in its folder. The program enters it with its user's rights.
        program = "import os\nos.chdir(%r)\n%s" % (self._folder, _PROGRAM)
        given = {name: value for name, value in os.environ.items() if name.startswith(_SETTINGS)}
        try:
            answer = run(
                [self._python, "-I", "-c", program],
                timeout=self._timeout,
                user=self._user,
                environment=given,
                stdin=json.dumps(question).encode("utf-8"),
            )
        except KeyError:
            raise ServerError("fractalctl_user: the user %s is unknown on this host" % self._user) from None
        try:
            told = json.loads(answer.out)
        except ValueError:
            said = (answer.err or answer.out).strip().splitlines()
            words = _line(said[-1]) if said else "status %d" % answer.status
            raise ServerError("%s: %s" % (self._python, words)) from None
        if not isinstance(told, dict) or "told" not in told:
            failed = told.get("failed") if isinstance(told, dict) else None
            raise ServerError("%s: %s" % (self._python, _line(failed or "it does not answer as fractal-server does")))
        return told["told"]


_SETTINGS = ("FRACTAL_", "POSTGRES_", "JWT_", "OAUTH_", "PG")


def body_of(resource: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a resource that are sent to the server. Those that it adds by itself are left out."""
    return {name: value for name, value in resource.items() if name not in _OF_THE_SERVER}


def settled(config: Any) -> Any:
    """A ``jobs_runner_config`` without values that are not set, and without the server's own defaults.

    Two configurations that mean the same are then equal.

    Args:
        config: A configuration that was read from the server, or that is to be written.
    """
    if not isinstance(config, dict):
        return config
    kept = {name: settled(value) for name, value in config.items() if value is not None}
    return {
        name: value
        for name, value in kept.items()
        if value not in ([], {}) and not (name in _DEFAULTS and value == _DEFAULTS[name])
    }


def text_of(config: Any) -> str:
    """A settled configuration as text, for a diff."""
    return json.dumps(settled(config), indent=2, sort_keys=True) + "\n"
