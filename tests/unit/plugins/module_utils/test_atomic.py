# SPDX-License-Identifier: GPL-3.0-or-later
"""What takes its place in one step."""

from __future__ import annotations

import os

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils.atomic import replace_link, write_whole


class TestWriteWhole:
    def test_writes_a_file_of_the_callers(self, tmp_path):
        path = tmp_path / "file"
        write_whole(str(path), b"text")
        assert path.read_bytes() == b"text"
        assert oct(path.stat().st_mode) == "0o100600"

    def test_gives_owner_and_mode_before_it_is_seen(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")
        seen = []

        def prepare(temporary):
            seen.append((os.path.basename(temporary)[:3], path.read_text()))
            os.chmod(temporary, 0o640)

        write_whole(str(path), b"new", prepare, prefix=".x.")
        assert seen == [(".x.", "old")]
        assert (path.read_text(), oct(path.stat().st_mode)) == ("new", "0o100640")

    def test_leaves_what_was_there_and_nothing_else_where_it_fails(self, tmp_path):
        path = tmp_path / "file"
        path.write_text("old")

        def prepare(_temporary):
            raise OSError("no")

        with pytest.raises(OSError, match="no"):
            write_whole(str(path), b"new", prepare)
        assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]


class TestReplaceLink:
    def test_takes_the_place_of_a_link_or_a_file(self, tmp_path):
        path = tmp_path / "link"
        for target in ("a", "b"):
            replace_link(str(path), target)
            assert os.readlink(path) == target

    def test_leaves_nothing_where_it_fails(self, tmp_path):
        (tmp_path / "link").mkdir()
        with pytest.raises(OSError, match="link"):
            replace_link(str(tmp_path / "link"), "a")
        assert [entry.name for entry in tmp_path.iterdir()] == ["link"]
