# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime's own settings, as plugins on the controller get them: the runtime itself says what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .runtime import preload, runtime_module

preload("settings")


def faults(settings: Mapping[str, Any]) -> list[str]:
    """Why the runtime would refuse these settings, one sentence each.

    Args:
        settings: Names to values.

    Raises:
        AnsibleError: A package that the runtime needs is missing on the controller.
    """
    try:
        runtime_module("settings").check_settings(settings, source="fractal_slurm_runtime_settings")
    except ValueError as error:
        return getattr(error, "messages", None) or [str(error)]
    return []
