# SPDX-License-Identifier: GPL-3.0-or-later
"""One real fractal-server for all tests of this folder."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(scope="session")
def real_server():
    """A real fractal-server. Its folder stays for the next time; GOLDEN_CLEAN=1 removes it."""
    from real_server import RealServer

    found = RealServer.set_up()
    print(f"fractal-server {found.version}")
    yield found
    found.take_down(remove=bool(os.environ.get("GOLDEN_CLEAN")))
