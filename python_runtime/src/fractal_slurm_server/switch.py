# SPDX-License-Identifier: BSD-3-Clause
"""Put the engine in the place of fractal-server's own runner, when the server's process starts."""

from __future__ import annotations

import logging
import os

from .check import faults, version, version_faults

ENGINE_VARIABLE = "FRACTAL_SLURM_ENGINE"
# on: the engine, or no server. if-supported: else fractal-server's own runner. off: that one in any case.
MODES = ("on", "if-supported", "off")

# One of gunicorn's own, so that it is in the server's log from the first second on.
logger = logging.getLogger("gunicorn.error")


class NotSupported(RuntimeError):
    """The engine can't serve this fractal-server."""


def mode() -> str:
    """What FRACTAL_SLURM_ENGINE says.

    Raises:
        NotSupported: It has another value than it may have.
    """
    value = os.environ.get(ENGINE_VARIABLE, "on").strip().lower() or "on"
    if value not in MODES:
        raise NotSupported(f"{ENGINE_VARIABLE}={value!r} is not allowed: allowed are {', '.join(MODES)}")
    return value


def refuse_old_and_new() -> None:
    """Refuse to start where the version alone tells that it is not supported. Imports nothing of fractal-server.

    Raises:
        NotSupported: It is not, and the administrator did not allow fractal-server's own runner.
    """
    if mode() == "on" and (found := version_faults()):
        raise NotSupported(_refusal(found))


def install() -> bool:
    """Let the slurm_sudo jobs of this process run on the engine, and take up what an earlier process left.

    Returns:
        Whether they do; False where fractal-server's own runner stays, since the administrator said so.

    Raises:
        NotSupported: This fractal-server is not supported, and its own runner was not allowed.
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

    from .recover import take_up
    from .runner import EngineRunner

    _slurm_sudo.SlurmSudoRunner = EngineRunner
    logger.info("fractal-slurm: slurm_sudo jobs of fractal-server %s run on the engine", version())
    take_up()
    return True


def _refusal(found: list[str]) -> str:
    return (
        f"fractal-slurm can't run the jobs of this fractal-server: {'; '.join(found)}. "
        f"{ENGINE_VARIABLE}=off starts it with its own runner; {ENGINE_VARIABLE}=if-supported does so where it has to"
    )
