# SPDX-License-Identifier: BSD-3-Clause
"""A config for gunicorn that sets no option.

Use it with ``GUNICORN_CMD_ARGS="--config python:fractal_slurm_server.gunicorn_conf"``.
"""

from __future__ import annotations

from .switch import install, refuse_old_and_new

refuse_old_and_new()


def post_fork(server: object, worker: object) -> None:
    """Install the engine. gunicorn calls this in each worker process, before it loads the app."""
    install()
