# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs commands on a host: argv lists, a clean environment, a time limit. Standard library only.

AnsibleModule.run_command has no time limit and can't become another user.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from collections import namedtuple

Answer = namedtuple("Answer", "status out err")


def run(argv, timeout=60, user=None, environment=None, stdin=b""):
    """Run a command without a shell.

    Args:
        argv: The command line.
        timeout: Seconds after which it is ended.
        user: Name of the account to run it as; None for this one.
        environment: Variables in addition to PATH, HOME, USER and LC_ALL.
        stdin: What it reads on standard input.

    Returns:
        An :class:`Answer`; its status is 124 where the time ran out, and 127 where there is no such command.
    """
    account = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    variables = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
    }
    variables.update(environment or {})

    def become():
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    try:
        result = subprocess.run(  # pylint: disable=ansible-bad-function
            argv,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout,
            env=variables,
            cwd="/",
            preexec_fn=become if user else None,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stderr or b"").decode("utf-8", "replace").rstrip()
        return Answer(124, "", "%s\nno answer within %d seconds" % (said, timeout))
    except OSError as error:
        return Answer(127, "", "%s: %s" % (argv[0], error.strerror))
    return Answer(
        result.returncode, result.stdout.decode("utf-8", "replace"), result.stderr.decode("utf-8", "replace").strip()
    )
