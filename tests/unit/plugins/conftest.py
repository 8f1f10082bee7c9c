# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the collection importable for a plain pytest, from .build/collections; ansible-test has its own way."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

COLLECTIONS = Path(__file__).resolve().parents[3] / ".build" / "collections"

if "ansible_collections" not in sys.modules and importlib.util.find_spec("ansible_collections") is None:
    sys.path.insert(0, str(COLLECTIONS))
