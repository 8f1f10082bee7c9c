# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime's settings as the inventory gives them."""

from __future__ import annotations

import tempfile

import pytest
from ansible_collections.fractal.slurm.plugins.plugin_utils import settings_input


class TestFaults:
    @pytest.fixture(autouse=True)
    def _no_files(self, monkeypatch):
        def refuse(*_arguments, **_options):
            raise AssertionError("a file was made")

        for name in ("TemporaryDirectory", "NamedTemporaryFile", "mkstemp", "mkdtemp"):
            monkeypatch.setattr(tempfile, name, refuse)

    def test_has_none_of_what_the_runtime_takes(self):
        settings = {
            "slurm_bin_dir": "/opt/slurm/bin",
            "max_retries": "2",
            "fork_fallback": False,
            "task_logs": "joined",
        }
        assert settings_input.faults(settings) == []

    def test_names_each_with_the_variable_and_what_is_allowed(self):
        found = settings_input.faults({"slurm_bin": "/x", "max_retries": -1, "task_logs": "none", "sudo": None})
        assert found == [
            "fractal_slurm_runtime_settings: slurm_bin: unknown setting; did you mean 'slurm_bin_dir'?",
            "fractal_slurm_runtime_settings: max_retries: found -1; a whole number from 0 to 1000000000000 is allowed",
            "fractal_slurm_runtime_settings: task_logs: found 'none'; allowed are joined, separate",
            "fractal_slurm_runtime_settings: sudo: found nothing; a string is allowed",
        ]

    def test_takes_values_with_a_tag_of_ansible(self):
        tags = pytest.importorskip("ansible._internal._datatag._tags")
        tag = tags.Origin(path="/inventory").tag
        assert settings_input.faults({tag("task_logs"): tag("joined"), tag("sudo"): tag("/usr/bin/sudo")}) == []
