# SPDX-License-Identifier: BSD-3-Clause
"""fractal-server's jobs on this engine: its runner for ``slurm_sudo`` resources, replaced when the server starts.

Nothing of fractal-server is changed on disk. Two ways in:

- ``GUNICORN_CMD_ARGS="--config python:fractal_slurm_server.gunicorn_conf"`` leaves the start command as it is;
- the app ``fractal_slurm_server.app:app`` in place of ``fractal_server.main:app``.

``FRACTAL_SLURM_ENGINE=off`` starts fractal-server with its own runner; ``python -m fractal_slurm_server`` tells whether
the fractal-server of this Python is supported. Importing this package imports nothing of fractal-server.
"""

from .check import SUPPORTED, faults
from .switch import ENGINE_VARIABLE, install

__all__ = ["ENGINE_VARIABLE", "SUPPORTED", "faults", "install"]
