# SPDX-License-Identifier: GPL-3.0-or-later
"""Where probe jobs work: what is made, and that nothing else is ever removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import probe_folder
from ansible_collections.fractal.slurm.plugins.module_utils.commands import call_as


class TestExpand:
    @pytest.mark.parametrize(
        ("template", "expected"),
        [
            ("HOME/fractal-slurm-verify", "/home/anna/fractal-slurm-verify"),
            ("/scratch/USER", "/scratch/anna"),
            ("/scratch/USER/x/", "/scratch/anna/x"),
            ("/data/USERS/x", "/data/USERS/x"),
            ("/data/MYUSER/HOMES", "/data/MYUSER/HOMES"),
            ("/mnt/HOME/x", "/mnt/home/anna/x"),
        ],
    )
    def test_replaces_whole_parts_only(self, template, expected):
        assert probe_folder.expand(template, "anna", "/home/anna") == expected

    def test_a_user_called_home_is_no_home(self):
        assert probe_folder.expand("/scratch/USER", "HOME", "/home/h") == "/scratch/HOME"

    @pytest.mark.parametrize("template", ["", "USER/x", "relative", "/scratch/../USER", "HOMES/x"])
    def test_refuses_what_is_no_absolute_path(self, template):
        with pytest.raises(ValueError, match="is not allowed: it must be absolute"):
            probe_folder.expand(template, "anna", "/home/anna")


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


class TestMakeAndRemove:
    def test_leaves_nothing_of_what_it_made(self, tmp_path):
        made = probe_folder.make(str(tmp_path / "a" / "b"))
        folder = Path(made[-1][0])
        assert folder.parent == tmp_path / "a" / "b"
        assert oct(folder.stat().st_mode) == "0o40700"
        (folder / "run" / "0").mkdir(parents=True)
        (folder / "run" / "0" / "out").write_text("x")
        (folder / "link").symlink_to(tmp_path)
        probe_folder.remove(made)
        assert everything(tmp_path) == []

    def test_keeps_a_folder_that_was_there(self, tmp_path):
        probe_folder.remove(probe_folder.make(str(tmp_path)))
        assert tmp_path.is_dir()

    def test_refuses_a_folder_with_something_in_it(self, tmp_path):
        (tmp_path / "data").write_text("precious")
        with pytest.raises(OSError, match="is not empty \\('data' is in it\\): nothing is tried in it"):
            probe_folder.make(str(tmp_path))
        assert everything(tmp_path) == ["data"]

    def test_leaves_another_probe_alone(self, tmp_path):
        first, second = probe_folder.make(str(tmp_path / "a")), probe_folder.make(str(tmp_path / "a"))
        probe_folder.remove(first)
        assert Path(second[-1][0]).is_dir()
        probe_folder.remove(second)

    def test_keeps_what_someone_else_put_beside(self, tmp_path):
        made = probe_folder.make(str(tmp_path / "a"))
        (tmp_path / "a" / "data").write_text("precious")
        probe_folder.remove(made)
        assert everything(tmp_path) == ["a", "a/data"]

    @pytest.mark.parametrize("kind", ["link", "folder"])
    def test_removes_no_folder_that_took_its_place(self, tmp_path, kind):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "data").write_text("precious")
        made = probe_folder.make(str(tmp_path / "a"))
        path = Path(made[-1][0])
        path.rename(tmp_path / "moved")
        if kind == "link":
            path.symlink_to(tmp_path / "other")
        else:
            (tmp_path / "other").rename(path)
        try:
            probe_folder.remove(made)
        except OSError:
            assert kind == "link"
        assert [path.read_text() for path in tmp_path.rglob("data")] == ["precious"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
class TestCallAs:
    def test_calls_as_the_user(self):
        assert call_as("nobody", os.getresuid)[0] == 65534

    def test_hands_on_what_went_wrong(self, tmp_path):
        tmp_path.chmod(0o700)
        with pytest.raises(OSError, match="ermission denied"):
            call_as("nobody", os.listdir, str(tmp_path))

    def test_ends_what_hangs(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(OSError, match="no answer as root within 0 seconds"):
            call_as("root", open, str(tmp_path / "fifo"), timeout=0.2)
