# SPDX-License-Identifier: BSD-3-Clause
"""The app of fractal-server, with its slurm_sudo jobs on the engine. It is for gunicorn, uvicorn and other servers."""

from __future__ import annotations

from .switch import install

install()

from fractal_server.main import app  # noqa: E402 - what it starts must find the engine in place

__all__ = ["app"]
