# SPDX-License-Identifier: BSD-3-Clause
"""The parts of the demo's driver that need neither SLURM nor a second user."""

from __future__ import annotations

import io
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import demo
import plate_page

ME = pwd.getpwuid(os.geteuid())


@pytest.fixture
def share(tmp_path: Path) -> demo.Share:
    """A share of two wells, one with its picture."""
    wells = [{"well": name, "condition": "untreated", "planted_spots": [3, 4]} for name in ("A01", "A02")]
    share = demo.Share(ME, wells, tmp_path / "work", tmp_path / "cache")
    share.previews.mkdir(parents=True)
    (share.previews / "A01.png").write_bytes(b"png")
    return share


def finished(share: demo.Share, script: str) -> demo.Running:
    """Run a line of Python in place of `fractal-slurm run`, to its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    running = demo.Running(share, process)
    running.wait()
    return running


class TestShareOut:
    def test_gives_each_well_to_one_user(self) -> None:
        layout = [{"well": str(number)} for number in range(97)]
        shares = demo.share_out(layout, [ME, ME, ME])
        assert [well for share in shares for well in share.wells] == layout
        assert [len(share.wells) for share in shares] == [33, 33, 31]


class TestRunning:
    def test_reads_the_summary_and_keeps_the_messages(self, share: demo.Share) -> None:
        summary = '{"run_id": "r", "tasks": 2, "succeeded": 2, "wall_s": 1.0, "sudo_calls": 3}'
        running = finished(share, f"import sys; print('on its way', file=sys.stderr); print('''{summary}''')")
        assert running.summary()["run_id"] == "r"
        assert running.messages == ["on its way"]
        assert running.seconds is not None

    @pytest.mark.parametrize("output", ["", "no JSON", "[]", '{"run_id": "r"}'])
    def test_a_refused_run_is_told_in_its_own_words(self, share: demo.Share, output: str) -> None:
        running = finished(share, f"import sys; print('''{output}'''); sys.exit('sudo refuses plate-anna')")
        with pytest.raises(demo.DemoError, match="ended with exit code 1:\nsudo refuses plate-anna"):
            running.summary()


class TestScreen:
    def test_adds_a_line_only_when_something_changed_if_there_is_no_terminal(self, share: demo.Share) -> None:
        running = finished(share, "")
        stream = io.StringIO()
        screen = demo.Screen(stream)
        for _time in range(3):
            screen.show([running], time.time() - 60, 1.0)
        assert stream.getvalue().count("\n") == 1
        assert "1 of 2 wells" in stream.getvalue()
        assert "\x1b" not in stream.getvalue()

    def test_redraws_a_bar_for_each_run_on_a_terminal(self, share: demo.Share, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "80")
        stream = Terminal()
        running = finished(share, "")
        with demo.Screen(stream) as screen:
            for _time in range(3):
                screen.show([running], time.time() - 60, 1.0)
        text = stream.getvalue()
        assert f"  {share.user} " in text
        assert "1 of 2 wells" in text
        assert "\x1b" in text

    def test_does_not_count_the_pictures_of_an_earlier_run(self, share: demo.Share) -> None:
        assert demo.measured_since(share, time.time() + 60) == 0
        assert demo.measured_since(share, time.time() - 60) == 1


class TestChecks:
    def test_missing_pictures_are_counted(self, share: demo.Share, capsys: pytest.CaptureFixture[str]) -> None:
        checks = demo.Checks()
        demo.check_owners(checks, share, time.time() - 60)
        assert checks.failed == 1
        assert "1 of 2 pictures are there" in capsys.readouterr().out

    def test_a_file_that_is_not_the_users_is_noticed(
        self, share: demo.Share, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stranger = demo.Share(
            pwd.struct_passwd(("nobody-else", "x", ME.pw_uid + 1, ME.pw_gid, "", "/", "/bin/sh")),
            share.wells,
            share.work_dir,
            share.cache_dir,
        )
        checks = demo.Checks()
        demo.check_owners(checks, stranger, time.time() - 60)
        assert checks.failed == 2
        assert "some belong to others" in capsys.readouterr().out

    def test_wrong_counts_are_named(self, share: demo.Share, capsys: pytest.CaptureFixture[str]) -> None:
        report = {
            "tasks": [
                {"index": 0, "state": "succeeded", "result": {"spots": 7, "measured_by": share.user}},
                {"index": 1, "state": "failed", "reason": "exit code 1", "log_tail": "a\nwhy\n"},
            ]
        }
        wells, strangers = demo.read_wells(share, report)
        assert strangers == []
        assert [(well.name, well.spots, well.error) for well in wells] == [
            ("A01", 7, None),
            ("A02", None, "exit code 1: why"),
        ]
        checks = demo.Checks()
        demo.check_plate(checks, wells, share.wells)
        assert (
            "1 of 2 wells measured, each with as many spots as were planted in it: not so A02"
            in capsys.readouterr().out
        )

    def test_a_task_that_ran_as_somebody_else_is_noticed(self, share: demo.Share) -> None:
        report = {"tasks": [{"index": 0, "state": "succeeded", "result": {"spots": 7, "measured_by": "mallory"}}]}
        wells, strangers = demo.read_wells(share, report)
        assert strangers == ["A01"]
        assert isinstance(wells[0], plate_page.Well)

    def test_root_follows_no_link_in_place_of_a_picture(self, share: demo.Share, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        (share.previews / "A02.png").symlink_to(tmp_path / "secret")
        assert demo.read_preview(share, "A02") is None
        assert demo.read_preview(share, "A01") == b"png"
