# SPDX-License-Identifier: GPL-3.0-or-later
"""The scripts in tools/, which have no ending, as modules."""

from __future__ import annotations

import importlib.util
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"


def load(name: str) -> ModuleType:
    """Import a script of tools/ by its name, without leaving compiled files beside it."""
    loader = SourceFileLoader(name.replace("-", "_"), str(TOOLS / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    exec(compile((TOOLS / name).read_text(encoding="utf-8"), str(TOOLS / name), "exec"), module.__dict__)  # noqa: S102
    return module
