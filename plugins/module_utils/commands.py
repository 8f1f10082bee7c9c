# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs commands on a host: from argv lists, in a clean environment, with a time limit. Standard library only.

AnsibleModule.run_command does not serve: it has no time limit, and can't become another user.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import selectors
import signal
import subprocess
import tempfile
import time
from typing import NamedTuple

TYPE_CHECKING = False  # what follows is read by type checkers alone
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, NoReturn


class Answer(NamedTuple):
    """What a command said: its exit status, and what it printed."""

    status: int
    out: str
    err: str


# Where commands are looked for. The caller's PATH does not count. The runtime has the same folders.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Bounds in bytes: a command of another account may print without end.
MAX_OUT, MAX_ERR = 1 << 26, 1 << 20


def clean_environment(account: pwd.struct_passwd) -> dict[str, str]:
    """The environment of a command. It holds no variable of the caller, since these could change what it does.

    Args:
        account: The account that the command runs as.
    """
    return {
        "PATH": PATH,
        "LC_ALL": "C",
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
    }


def run(
    argv: Sequence[str],
    timeout: float = 60,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
) -> Answer:
    """Run a command without a shell.

    Args:
        argv: The command line.
        timeout: Seconds after which the command is ended.
        user: Name of the account that it runs as; None for the caller's own.
        environment: Further variables, which replace those of :func:`clean_environment`.
        stdin: What it reads on standard input.

    Returns:
        What it said. The status is 124 where the time ran out or it printed too much. It is 127 where the command can't
        be started.
    """
    account = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    variables = dict(clean_environment(account), **(environment or {}))
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        try:
            process = subprocess.Popen(  # pylint: disable=ansible-bad-function,consider-using-with
                argv,
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=variables,
                cwd="/",
                preexec_fn=(lambda: _become(account)) if user else None,
                start_new_session=True,
            )
        except OSError as error:
            return Answer(127, "", "%s: %s" % (argv[0], error.strerror))
        try:
            texts, trouble = _read_both(process, timeout)
        finally:
            if process.poll() is None:
                _end(process)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
    out, err = (text.decode("utf-8", "replace") for text in texts)
    if trouble:
        return Answer(124, "", "%s\n%s" % (err.rstrip(), trouble))
    return Answer(process.returncode, out, err.strip())


def _read_both(process: subprocess.Popen[bytes], timeout: float) -> tuple[Iterable[bytearray], str | None]:
    """Read what a process prints, until it ends.

    Returns:
        Two values. The first holds standard output and standard error. The second says why the process must be ended,
        or is None.
    """
    texts: dict[Any, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    bounds: dict[Any, int] = {process.stdout: MAX_OUT, process.stderr: MAX_ERR}
    deadline = time.monotonic() + timeout
    trouble = None
    with selectors.DefaultSelector() as selector:
        for stream in texts:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                trouble = "no answer within %d seconds" % timeout
                break
            # Processes that it left behind may hold the pipes for ever. What itself printed has arrived by now.
            ready = selector.select(min(left, 0.5))
            if not ready and process.poll() is not None:
                break
            for key, _events in ready:
                stream = key.fileobj
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(stream)
                elif len(texts[stream]) < bounds[stream]:
                    texts[stream] += chunk
                elif stream is process.stdout:
                    return texts.values(), "it printed more than %d bytes" % MAX_OUT
    if trouble is None:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            trouble = "no answer within %d seconds" % timeout
    return texts.values(), trouble


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(2)
            break
        except (OSError, subprocess.TimeoutExpired):
            continue


def call_as(user: str, function: Callable[..., Any], *arguments: Any, **options: float) -> Any:
    """Call a function in a process of its own, as another user.

    Args:
        user: Name of the account.
        function: What to call. Its result must fit into 64 kB of JSON.
        arguments: The function's arguments.
        options: ``timeout``, the seconds after which the process is ended; 60 if left out.

    Returns:
        The function's result.

    Raises:
        OSError: The function raised one, or gave no answer in time.
    """
    timeout = options.pop("timeout", 60)
    account = pwd.getpwnam(user)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _call_in_child(account, writer, function, arguments)
    os.close(writer)
    text = b""
    deadline = time.monotonic() + timeout
    try:
        while len(text) <= 65536:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([reader], [], [], left)[0]:
                break
            chunk = os.read(reader, 65536)
            if not chunk:
                break
            text += chunk
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)  # the signal does no harm to one that has ended
        for _attempt in range(20):  # no endless wait: it may hang in a file system
            if os.waitpid(child, os.WNOHANG)[0]:
                break
            time.sleep(0.05)
    try:
        answer = json.loads(text.decode("ascii"))
    except ValueError:
        raise OSError("no answer as %s within %d seconds" % (user, timeout)) from None
    if "failed" in answer:
        raise OSError(answer["failed"])
    return answer["returned"]


def _call_in_child(
    account: pwd.struct_passwd, writer: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> NoReturn:
    """The forked half of :func:`call_as`; it never returns."""
    status = 1
    try:
        _become(account)
        os.chdir("/")
        os.umask(0o077)
        try:
            answer = {"returned": function(*arguments)}
        except OSError as error:
            answer = {"failed": "%s: %s" % (error.filename, error.strerror) if error.filename else str(error)}
        os.write(writer, json.dumps(answer).encode("ascii"))
        status = 0
    finally:
        os._exit(status)  # pylint: disable=protected-access


def _become(account: pwd.struct_passwd) -> None:
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
