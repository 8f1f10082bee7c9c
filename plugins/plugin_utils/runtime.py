# -*- coding: utf-8 -*-
# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime that comes with the collection, for plugins on the controller.

The one place that imports it: as a part of the collection, so that a checkout and an installed artifact
work alike, without changes to sys.path and without a second copy.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import sys
from types import ModuleType

from ansible.errors import AnsibleError

_PACKAGE = "ansible_collections.fractal.slurm.python_runtime.src.fractal_slurm"


def runtime_module(name: str) -> ModuleType:
    """A module of the runtime.

    Args:
        name: Its name in the package, e.g. ``config_file``.

    Raises:
        AnsibleError: Something that it needs is missing on the controller; the message says what to do.
    """
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "ansible_collections":
            raise
        raise AnsibleError(
            f"the Python package {missing} is missing on the controller, for the Python that runs Ansible "
            f"({sys.executable}): install the distribution's package of it, or run "
            f"`{sys.executable} -m pip install 'pydantic>=2.6,<3' pyyaml jinja2`"
        ) from error
    except ImportError as error:
        raise AnsibleError(
            f"a Python package on the controller, for the Python that runs Ansible ({sys.executable}), does not serve: "
            f"{error}: pydantic 2.6 or newer is needed, and there is {_version('pydantic')}: run "
            f"`{sys.executable} -m pip install 'pydantic>=2.6,<3'`, in a virtual environment with Ansible if need be"
        ) from error


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def preload(*names: str) -> None:
    """Import modules of the runtime that an action plugin will need.

    Ansible loads an action plugin once, and then forks a process for each host and task: what is imported before need
    not be imported by each of them. Where it can't be, whoever needs it gets the words of :func:`runtime_module`.

    Args:
        names: Their names in the package.
    """
    for name in names:
        with contextlib.suppress(AnsibleError, ImportError):
            runtime_module(name)
