# SPDX-License-Identifier: BSD-3-Clause
"""Run the jobs of fractal-server on our engine. When the server starts, its runner for ``slurm_sudo`` is replaced.

No file of fractal-server is changed. There are two ways to switch the engine on:

- Set ``GUNICORN_CMD_ARGS="--config python:fractal_slurm_server.gunicorn_conf"``, and keep the start command.
- Start the app ``fractal_slurm_server.app:app`` instead of ``fractal_server.main:app``.

``FRACTAL_SLURM_ENGINE=off`` starts fractal-server with its own runner. ``python -m fractal_slurm_server`` says whether
the fractal-server of this Python is supported. An import of this package imports nothing of fractal-server.
"""

from .check import SUPPORTED, faults
from .switch import ENGINE_VARIABLE, install

__all__ = ["ENGINE_VARIABLE", "SUPPORTED", "faults", "install"]
