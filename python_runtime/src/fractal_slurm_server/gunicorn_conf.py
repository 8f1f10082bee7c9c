# SPDX-License-Identifier: BSD-3-Clause
"""For gunicorn: ``GUNICORN_CMD_ARGS="--config python:fractal_slurm_server.gunicorn_conf"``. Sets no option."""

from __future__ import annotations

from .switch import install, refuse_old_and_new

refuse_old_and_new()


def post_fork(server: object, worker: object) -> None:
    """In each worker, before it loads the app."""
    install()
