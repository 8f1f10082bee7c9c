# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller lacks for the runtime, in sentences."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleError
from ansible_collections.fractal.slurm.plugins.plugin_utils import runtime


class TestRuntimeModule:
    def raises(self, monkeypatch, error):
        def import_module(_name):
            raise error

        monkeypatch.setattr(runtime.importlib, "import_module", import_module)
        with pytest.raises(AnsibleError) as caught:
            runtime.runtime_module("config.file")
        return str(caught.value)

    def test_says_what_is_missing(self, monkeypatch):
        words = self.raises(monkeypatch, ModuleNotFoundError("No module named 'pydantic'", name="pydantic"))
        assert "the Python package pydantic is missing on the controller" in words

    def test_says_that_pydantic_is_too_old(self, monkeypatch):
        monkeypatch.setattr(runtime.importlib.metadata, "version", lambda _package: "1.10.14")
        words = self.raises(monkeypatch, ImportError("cannot import name 'ConfigDict' from 'pydantic'"))
        assert "pydantic 2.6 or newer is needed, and there is 1.10.14" in words
        assert "-m pip install 'pydantic>=2.6,<3'" in words
