# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose hands a path lies in."""

from __future__ import annotations

import os

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils.trusted_path import (
    fault_of_path,
    fault_of_tree,
    faults_of_path,
)

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="root's rights are needed")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("")
    return tmp_path


class TestPath:
    def test_is_trusted_where_it_is_ours(self, folder):
        assert fault_of_path(str(folder / "a" / "b" / "file")) is None

    def test_may_be_missing(self, folder):
        assert fault_of_path(str(folder / "a" / "new" / "er")) is None

    @pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o2775])
    @pytest.mark.parametrize("part", ["a", "a/b", "a/b/file"])
    def test_others_can_write_a_part(self, folder, part, mode):
        (folder / part).chmod(mode)
        assert str(folder / part) in fault_of_path(str(folder / "a" / "b" / "file"))

    def test_a_sticky_parent_is_fine_for_what_is_there(self, folder):
        (folder / "a").chmod(0o1777)
        assert fault_of_path(str(folder / "a" / "b")) is None
        assert "can be written by others" in fault_of_path(str(folder / "a" / "missing"))
        assert "can be written by others" in fault_of_path(str(folder / "a"))
        assert fault_of_path(str(folder / "a" / "missing"), is_made=True) is None
        assert "can be written by others" in fault_of_path(str(folder / "a"), is_made=True)

    @ROOT_ONLY
    @pytest.mark.parametrize("part", ["a", "a/b", "a/b/file"])
    def test_another_account_owns_a_part(self, folder, part):
        os.chown(folder / part, 12345, 0)
        assert f"{folder / part} belongs to uid 12345" in fault_of_path(str(folder / "a" / "b" / "file"))

    def test_both_ends_of_a_link_count(self, folder):
        (folder / "links").mkdir()
        (folder / "links" / "way").symlink_to("../a/b")
        path = str(folder / "links" / "way" / "file")
        assert fault_of_path(path) is None
        (folder / "a").chmod(0o777)
        assert str(folder / "a") in fault_of_path(path)
        (folder / "a").chmod(0o755)
        (folder / "links").chmod(0o777)
        assert str(folder / "links") in fault_of_path(path)

    @ROOT_ONLY
    def test_a_link_of_another_account_in_a_sticky_folder(self, folder):
        (folder / "a").chmod(0o1777)
        (folder / "a" / "way").symlink_to("b")
        os.lchown(folder / "a" / "way", 12345, 12345)
        assert "belongs to uid 12345" in fault_of_path(str(folder / "a" / "way" / "file"))

    def test_a_link_without_an_end(self, folder):
        (folder / "a" / "loop").symlink_to("loop")
        fault_of_path(str(folder / "a" / "loop"))
        for number in range(300):
            (folder / "a" / f"l{number}").symlink_to(f"l{number + 1}")
        assert "too many links" in fault_of_path(str(folder / "a" / "l0"))


class TestTree:
    def test_is_trusted_where_all_is_ours(self, folder):
        (folder / "a" / "python").symlink_to("/usr/bin/env")
        assert fault_of_tree(str(folder)) is None

    @pytest.mark.parametrize("part", ["a", "a/b", "a/b/file"])
    def test_others_can_write_a_part(self, folder, part):
        (folder / part).chmod(0o777)
        assert str(folder / part) in fault_of_tree(str(folder / "a"))

    def test_a_link_leads_to_where_others_can_write(self, folder):
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        (folder / "open" / "x").write_text("")
        (folder / "a" / "x").symlink_to("../open/x")
        assert str(folder / "open") in fault_of_tree(str(folder / "a"))

    def test_holds_files_folders_and_links_alone(self, folder):
        os.mkfifo(folder / "a" / "pipe")
        assert "neither a file" in fault_of_tree(str(folder))


class TestFaultsOfPath:
    def test_names_every_part_and_takes_no_sticky_bit_where_it_is_strict(self, folder):
        (folder / "a").chmod(0o1777)
        (folder / "a" / "b").chmod(0o775)
        found = list(faults_of_path(str(folder / "a" / "b" / "gone"), strict=True))
        assert [fault for fault in found if str(folder) in fault] == [
            f"{folder}/a/b/gone: No such file or directory",
            f"{folder}/a/b can be written by others (mode 0775): see what is in it, then run chmod go-w {folder}/a/b, "
            "or use another place",
            f"{folder}/a can be written by others (mode 1777): see what is in it, then run chmod go-w {folder}/a, or "
            "use another place",
        ]
