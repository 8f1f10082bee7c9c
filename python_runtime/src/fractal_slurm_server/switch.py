# SPDX-License-Identifier: BSD-3-Clause
"""Replace fractal-server's own runner by the engine, when the server process starts."""

from __future__ import annotations

import logging
import os

from .check import faults, version, version_faults

ENGINE_VARIABLE = "FRACTAL_SLURM_ENGINE"
# on: use the engine; if the server is not supported, it does not start. if-supported: use the engine if possible, else
# fractal-server's own runner. off: always use fractal-server's own runner.
MODES = ("on", "if-supported", "off")

# A logger of gunicorn: its messages are in the server's log from the start.
logger = logging.getLogger("gunicorn.error")


class NotSupported(RuntimeError):
    """The engine can't serve this fractal-server."""


def mode() -> str:
    """Return the mode that FRACTAL_SLURM_ENGINE sets: one of :data:`MODES`.

    Raises:
        NotSupported: The variable has a value that is not allowed.
    """
    value = os.environ.get(ENGINE_VARIABLE, "on").strip().lower() or "on"
    if value not in MODES:
        raise NotSupported(f"{ENGINE_VARIABLE}={value!r} is not allowed: allowed are {', '.join(MODES)}")
    return value


def refuse_old_and_new() -> None:
    """Refuse to start if the version of fractal-server is not supported. This imports nothing of fractal-server.

    Raises:
        NotSupported: The version is not supported, and fractal-server's own runner is not allowed.
    """
    if mode() == "on" and (found := version_faults()):
        raise NotSupported(_refusal(found))


def install() -> bool:
    """Run the slurm_sudo jobs of this process on the engine. Continue the jobs that an earlier process left.

    Returns:
        True if the jobs run on the engine. False if they run on fractal-server's own runner, as the mode allows.

    Raises:
        NotSupported: This fractal-server is not supported, and its own runner is not allowed.
    """
    wanted = mode()
    if wanted == "off":
        return False
    found = faults()
    if found and wanted == "on":
        raise NotSupported(_refusal(found))
    if found:
        for sentence in found:
            logger.warning("fractal-slurm: %s", sentence)
        logger.warning("fractal-slurm: jobs run on fractal-server's own runner (%s=%s)", ENGINE_VARIABLE, wanted)
        return False
    from fractal_server.runner.v2 import _slurm_sudo

    from .process import begin
    from .recover import take_up
    from .runner import EngineRunner

    begin()
    _slurm_sudo.SlurmSudoRunner = EngineRunner
    logger.info("fractal-slurm: slurm_sudo jobs of fractal-server %s run on the engine", version())
    take_up()
    return True


def _refusal(found: list[str]) -> str:
    return (
        f"fractal-slurm can't run the jobs of this fractal-server: {'; '.join(found)}. "
        f"{ENGINE_VARIABLE}=off starts it with its own runner; {ENGINE_VARIABLE}=if-supported does so where it has to"
    )
