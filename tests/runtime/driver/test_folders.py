# SPDX-License-Identifier: GPL-3.0-or-later
import grp
import os
import pwd
import re
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from fractal_slurm.driver import folders
from fractal_slurm.driver.folders import check_work_dir, slurm_may_write
from fractal_slurm.errors import RunError
from fractal_slurm.node import folders as node_folders
from fractal_slurm.node.folders import CLOSED, EVERYBODY, GROUP, NOBODY, UNKNOWN, folders_above, look_above
from fractal_slurm.sudo_rules import clean_path

ME = pwd.getpwuid(os.geteuid()).pw_name
UID, GID = 1000, 1000
TMP = "/tmp"  # noqa: S108 - what is looked at


@pytest.fixture
def public():
    """A folder that others can come to; those of pytest are below one that they can't."""
    folder = Path(tempfile.mkdtemp(dir=TMP))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


class TestFoldersAbove:
    def names(self, path):
        return [folder for folder, _status in folders_above(str(path))]

    def test_are_all_that_the_kernel_goes_through(self, public):
        (public / "a" / "b").mkdir(parents=True)
        assert self.names(public / "a" / "b" / "run") == ["/", TMP, str(public), f"{public}/a", f"{public}/a/b"]
        assert self.names("/run") == ["/"]

    def test_are_those_of_links_too(self, public):
        (public / "real" / "deep").mkdir(parents=True)
        (public / "hop").symlink_to("real/../real/deep")
        (public / "link").symlink_to(f"{public}/hop")
        found = self.names(public / "link" / "run")
        assert f"{public}/link" in found
        assert found[-1] == f"{public}/real/deep"
        assert f"{public}/real" in found

    def test_end_where_links_go_round(self, public):
        (public / "round").symlink_to("round")
        with pytest.raises(OSError, match="symbolic links"):
            self.names(public / "round" / "run")


class TestLookAbove:
    @pytest.mark.parametrize(
        ("mode", "uid", "gid", "who"),
        [
            (0o755, 0, 0, NOBODY),
            (0o755, UID, GID, NOBODY),
            (0o1777, 0, 0, NOBODY),
            (0o1777, UID, GID, NOBODY),
            (0o3775, 0, 5000, NOBODY),
            (0o700, UID, GID, CLOSED),
            (0o2700, UID, GID, CLOSED),
            (0o2775, 0, 5000, GROUP),
            (0o770, UID, 5000, GROUP),
            (0o755, 4321, 5000, GROUP),
            (0o700, 4321, 5000, GROUP),
            (0o1777, 4321, 5000, GROUP),
            (0o777, 0, 0, EVERYBODY),
            (0o2777, UID, GID, EVERYBODY),
            (0o703, UID, GID, EVERYBODY),
            (0o777, 4321, 5000, EVERYBODY),
            (0o775, UID, 77, NOBODY),  # of a group that is the user's own
        ],
    )
    def test_judges_owner_group_others_and_the_sticky_bit(self, monkeypatch, mode, uid, gid, who):
        status = SimpleNamespace(st_mode=0o40000 | mode, st_uid=uid, st_gid=gid)
        monkeypatch.setattr(node_folders, "folders_above", lambda _path: iter([("/a", status)]))
        found, words = look_above("/a/run", UID, 77)
        assert found == who
        assert ("/a (mode " in words) == (who in (GROUP, EVERYBODY))

    def test_what_is_open_below_a_closed_folder_is_open_to_nobody(self, tmp_path):
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o777)
        tmp_path.chmod(0o700)
        assert look_above(f"{tmp_path}/open/run", os.geteuid())[0] == CLOSED

    def test_what_is_open_above_a_closed_folder_is_open(self, public):
        (public / "mine").mkdir(mode=0o700)
        public.chmod(0o777)
        assert look_above(f"{public}/mine/run", os.geteuid())[0] == EVERYBODY

    @pytest.mark.parametrize(("uid", "who"), [(UID, NOBODY), (0, NOBODY), (4321, GROUP)])
    @pytest.mark.parametrize("closed", [False, True])
    def test_a_link_is_its_owners_to_exchange(self, monkeypatch, uid, who, closed):
        parts = [
            ("/a", SimpleNamespace(st_mode=0o41777, st_uid=0, st_gid=0)),
            ("/a/link", SimpleNamespace(st_mode=0o120777, st_uid=uid, st_gid=uid)),
            ("/home/anna", SimpleNamespace(st_mode=0o40700 if closed else 0o40755, st_uid=UID, st_gid=GID)),
        ]
        monkeypatch.setattr(node_folders, "folders_above", lambda _path: iter(parts))
        found, words = look_above("/a/link/run", UID)
        assert found == (CLOSED if closed and who == NOBODY else who)
        assert ("/a/link is a link" in words) == (who == GROUP)

    def test_what_can_not_be_looked_at_is_unknown(self, public):
        assert look_above(f"{public}/gone/run", os.geteuid())[0] == UNKNOWN
        public.chmod(0o777)
        assert look_above(f"{public}/gone/run", os.geteuid())[0] == EVERYBODY


class TestCheckWorkDir:
    def test_refuses_what_everybody_may_rename_and_names_the_remedy(self, public):
        public.chmod(0o777)
        with pytest.raises(RunError, match=rf"--work-dir {public}: not safe .*chmod \+t"):
            check_work_dir(str(public), ME)
        public.chmod(0o1777)
        assert check_work_dir(str(public), ME) is None

    def test_warns_of_a_group(self, public, monkeypatch):
        public.chmod(0o2775)
        monkeypatch.setattr(folders, "_own_group", lambda *_words: None)
        assert re.search(rf"{public} \(mode 2775\) lets its group .*chmod \+t", check_work_dir(str(public), ME))
        assert not slurm_may_write(f"{public}/run", ME)

    def test_a_group_with_no_other_member_is_the_user(self, public):
        account, group = pwd.getpwnam(ME), grp.getgrgid(os.getegid())
        if group.gr_name != ME or set(group.gr_mem) - {ME}:
            pytest.skip("this account has no group of its own")
        os.chown(public, -1, account.pw_gid)
        public.chmod(0o775)
        assert check_work_dir(str(public), ME) is None

    def test_leaves_a_user_that_nobody_knows_to_sudo(self):
        assert check_work_dir(TMP, "no-such-user-here") is None


class TestSlurmMayWrite:
    @pytest.mark.parametrize(("mode", "may"), [(0o700, True), (0o750, False), (0o777, False)])
    def test_where_the_folder_is_the_users_own_and_private(self, public, mode, may):
        (public / "run").mkdir()
        (public / "run").chmod(mode)
        assert slurm_may_write(f"{public}/run", ME) == may

    def test_not_through_a_link(self, public):
        (public / "real").mkdir(mode=0o700)
        (public / "run").symlink_to("real")
        assert not slurm_may_write(f"{public}/run", ME)


class TestCleanPath:
    @pytest.mark.parametrize(("path", "clean"), [("/a/", "/a"), ("/a//b///", "/a/b"), ("/a", "/a")])
    def test_leaves_out_slashes_that_mean_nothing(self, path, clean):
        assert clean_path(path, "it") == clean

    @pytest.mark.parametrize("path", ["/", "//", "", "a/", "/a/./b", "/a/../b/"])
    def test_refuses_what_check_path_refuses(self, path):
        with pytest.raises(Exception, match=r"it .* is not allowed"):
            clean_path(path, "it")
