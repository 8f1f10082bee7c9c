# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that a module keeps: at no moment more open than it is meant to be, and faults in words."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import managed_file
from ansible_collections.fractal.slurm.plugins.module_utils.managed_file import ManagedFile, mode_fault


class Failed(Exception):
    """What fail_json said."""


class Module:
    """The part of AnsibleModule that a ManagedFile uses."""

    check_mode = False

    def __init__(self, mode="0644"):
        self.params = {"mode": mode}

    def fail_json(self, **result):
        raise Failed(result["msg"])

    def load_file_common_arguments(self, params, path):
        return {"path": path, "mode": params["mode"], "attributes": None}

    def set_fs_attributes_if_different(self, attributes, changed):
        mode = int(attributes["mode"], 8)
        if stat.S_IMODE(os.stat(attributes["path"]).st_mode) == mode:
            return changed
        os.chmod(attributes["path"], mode)
        return True


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


class TestWrite:
    @pytest.mark.parametrize("mode", ["0644", "0600", "0640"])
    def test_has_its_mode_from_its_first_moment_on(self, tmp_path, open_umask, monkeypatch, mode):
        path = tmp_path / "etc" / "file"
        seen = []

        def rename(source, target):
            seen.append((stat.S_IMODE(os.stat(source).st_mode), stat.S_IMODE(os.stat(tmp_path / "etc").st_mode)))
            os.replace(source, target)

        monkeypatch.setattr(managed_file.os, "rename", rename)
        result = ManagedFile(Module(mode), str(path), manage_directory=True).write("text")
        assert result["changed"]
        assert seen == [(int(mode, 8), 0o755)]
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        assert os.listdir(tmp_path / "etc") == ["file"]

    def test_a_copy_is_as_closed_as_the_file(self, tmp_path, open_umask):
        path = tmp_path / "file"
        path.write_text("old")
        path.chmod(0o600)
        result = ManagedFile(Module("0600"), str(path), backup=True).write("new")
        copy = result["backup_file"]
        assert stat.S_IMODE(os.stat(copy).st_mode) == 0o600
        assert (Path(copy).read_text(), path.read_text()) == ("old", "new")

    def test_a_link_is_replaced_and_not_written_through(self, tmp_path):
        (tmp_path / "target").write_text("theirs")
        (tmp_path / "file").symlink_to("target")
        ManagedFile(Module(), str(tmp_path / "file")).write("ours")
        assert (tmp_path / "target").read_text() == "theirs"
        assert not (tmp_path / "file").is_symlink()

    def test_a_pipe_keeps_nobody_waiting(self, tmp_path):
        os.mkfifo(tmp_path / "file")
        with pytest.raises(Failed, match="is no plain file"):
            ManagedFile(Module(), str(tmp_path / "file")).write("x")

    def test_what_the_system_says_is_told_with_the_path_and_leaves_nothing(self, tmp_path, monkeypatch):
        def full(_source, _target):
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(managed_file.os, "rename", full)
        path = tmp_path / "file"
        with pytest.raises(Failed, match=f"{path} can't be written: No space left on device .the_variable."):
            ManagedFile(Module(), str(path), variable="the_variable").write("x")
        assert os.listdir(tmp_path) == []


class TestModeFault:
    @pytest.mark.parametrize("mode", ["0644", "0600", "0440", "644", "440", "u=rw,g=r,o=r", "a+r"])
    def test_takes_what_is_a_mode(self, mode):
        assert mode_fault(mode) is None

    @pytest.mark.parametrize("mode", [420, 644, 416, "420", "416", "436", "432", "", "rw", "0999", "1", {}, None, True])
    def test_refuses_what_yaml_made_of_one(self, mode):
        assert "a mode in quotes is allowed" in mode_fault(mode)
