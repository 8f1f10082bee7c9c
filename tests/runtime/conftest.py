# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the property tests, and what several test modules need.

The usual profile is quick and the same on every run, so that a red test means a change. For a search with
fresh examples: HYPOTHESIS_PROFILE=search.
"""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Under nohup and in the background of a script these are ignored, and so they would be in what the tests start.
for _number, _handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

_SLOW_MACHINE = [HealthCheck.too_slow]
settings.register_profile(
    "quick", max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile(
    "search", max_examples=2000, deadline=None, database=None, suppress_health_check=_SLOW_MACHINE
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for journals, which the command line takes for its own."""
    (tmp_path / "settings.toml").touch()
    monkeypatch.setenv("FRACTAL_SLURM_SETTINGS_FILE", str(tmp_path / "settings.toml"))
    monkeypatch.setenv("FRACTAL_SLURM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"
