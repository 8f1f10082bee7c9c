# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime's own settings, as plugins on the controller get them: the runtime itself says what is wrong."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError

from .runtime import preload, runtime_module

preload("settings")


def faults(settings: Mapping[str, Any]) -> list[str]:
    """Why the runtime would refuse these settings, one sentence each.

    Args:
        settings: Names to values.

    Raises:
        AnsibleError: Python 3.10 needs a package to read them, and it is missing on the controller.
    """
    module = runtime_module("settings")
    text = "".join(
        f"{name} = {json.dumps(value, ensure_ascii=False, default=str)}\n" for name, value in settings.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fractal_slurm_runtime_settings"
        path.write_text(text, encoding="utf-8")
        try:
            module.load_settings(path, environ={})
        except ModuleNotFoundError as error:
            raise AnsibleError(
                f"{error.name} is missing on the controller (Python 3.10 needs it): install it"
            ) from error
        except ValueError as error:
            found = getattr(error, "messages", None) or [str(error)]
            return [fault.replace(str(path), path.name) for fault in found]
    return []
