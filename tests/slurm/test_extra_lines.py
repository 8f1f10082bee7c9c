# SPDX-License-Identifier: BSD-3-Clause
"""What extra_lines print, and a shell goes on after."""

from __future__ import annotations

import pytest
from conftest import ONE_JOB, Call


class TestTroubleInExtraLines:
    @pytest.mark.parametrize("options", [{}, {"nodes": 2}])
    @pytest.mark.parametrize("shebang", ["#!/bin/sh", "#!/bin/bash"])
    def test_is_told_with_what_failed(self, call: Call, shebang: str, options: dict[str, int]) -> None:
        lines = ["module load cuda/12", "true"]
        call.config(batching=ONE_JOB, shebang_line=shebang, extra_lines=lines, **options)
        outcome = call.run(call.spec(call.script("#!/bin/sh\nexit 3\n"), 2))
        assert outcome["failed"] == 2
        for failure in outcome["failures"]:
            assert failure["reason"].startswith("exit code 3; before, the script of its job printed: ")
            assert "module: " in failure["reason"]
            assert failure["reason"].endswith("not found")
        assert outcome.stderr.count("before its first task its script printed: ") == 1
        assert "script printed" in call.events()

    def test_is_told_where_nothing_failed(self, call: Call) -> None:
        call.config(batching=ONE_JOB, extra_lines=["source /no/such/file.sh || true", "modul load x"])
        outcome = call.run(call.spec("true", 2))
        assert outcome["succeeded"] == 2
        assert "its script printed: " in outcome.stderr
        assert "not found" in outcome.stderr

    def test_other_words_are_kept_and_not_said(self, call: Call) -> None:
        call.config(batching=ONE_JOB, extra_lines=["echo Loading cuda/12"])
        outcome = call.run(call.spec("true", 2))
        assert "Loading" not in outcome.stderr
        events = call("report", call.run_id(), "--events", "--json").document
        assert any("Loading cuda/12" in str(event) for event in events)
