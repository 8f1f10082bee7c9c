# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of the property tests.

The usual profile is quick and the same on every run, so that a red test means a change. For a search with
fresh examples: HYPOTHESIS_PROFILE=search.
"""

import os

from hypothesis import HealthCheck, settings

_SLOW_MACHINE = [HealthCheck.too_slow]
settings.register_profile(
    "quick", max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=_SLOW_MACHINE
)
settings.register_profile(
    "search", max_examples=2000, deadline=None, database=None, suppress_health_check=_SLOW_MACHINE
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
