# SPDX-License-Identifier: GPL-3.0-or-later
"""Versions of the runtime in a folder: which counts as installed, which is current, which may go."""

from __future__ import annotations

import json
import os
import tarfile
import time

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils import runtime_install
from ansible_collections.fractal.slurm.plugins.module_utils.runtime_install import InstallError, Prefix


@pytest.fixture
def prefix(tmp_path):
    (tmp_path / "bin").mkdir()
    return Prefix(str(tmp_path / "opt"), str(tmp_path / "bin" / "fractal-slurm"))


def pretend(prefix, version, age=0):
    """A folder that looks installed, without anything in it that could run."""
    folder = prefix.folder(version)
    os.makedirs(folder)
    marker = os.path.join(folder, runtime_install.MARKER)
    with open(marker, "w", encoding="utf-8") as stream:
        json.dump({"version": version, "digest": "d", "wheels": {}}, stream)
    moment = time.time() - age
    os.utime(marker, (moment, moment))


class TestPrefix:
    def test_knows_nothing_before_the_first_installation(self, prefix):
        assert prefix.versions() == []
        assert prefix.current() is None
        assert prefix.remnants() == []

    def test_a_folder_without_a_marker_is_no_version(self, prefix):
        os.makedirs(prefix.folder("1.0-00000000"))
        assert prefix.versions() == []
        assert not prefix.is_sound("1.0-00000000")

    def test_a_marker_without_an_environment_is_not_sound(self, prefix):
        pretend(prefix, "1.0-00000000")
        assert prefix.versions() == ["1.0-00000000"]
        assert not prefix.is_sound("1.0-00000000")

    @pytest.mark.parametrize("version", ["", ".", "..", "current", "../../etc", "1.0", "x-00000000"])
    def test_takes_no_other_folder_for_a_version(self, prefix, version):
        assert prefix.marker(version) is None

    def test_switching_sets_both_links(self, prefix, tmp_path):
        pretend(prefix, "1.0-00000000")
        assert prefix.links_differ("1.0-00000000")
        prefix.switch("1.0-00000000")
        assert not prefix.links_differ("1.0-00000000")
        assert prefix.current() == "1.0-00000000"
        assert os.readlink(tmp_path / "bin" / "fractal-slurm") == f"{prefix.path}/current/bin/fractal-slurm"

    def test_remembers_what_was_current_before(self, prefix):
        for version in ("1.0-00000000", "1.1-11111111"):
            pretend(prefix, version)
            prefix.switch(version)
        assert prefix.previous() == "1.0-00000000"

    def test_does_not_switch_to_a_version_that_has_gone_meanwhile(self, prefix):
        pretend(prefix, "1.0-00000000")
        prefix.switch("1.0-00000000")
        with pytest.raises(InstallError, match="1111 is no longer installed"):
            prefix.switch("1.1-11111111")
        assert prefix.current() == "1.0-00000000"

    OLDEST, OLD, NEW = "1.0-00000000", "1.1-11111111", "1.2-22222222"

    def test_going_back_twice_is_going_back_once(self, prefix):
        for version in (self.OLDEST, self.OLD, self.NEW):
            pretend(prefix, version)
            prefix.switch(version)
        for _attempt in range(3):
            version = prefix.previous(self.NEW)
            assert version == self.OLD
            prefix.switch(version, back=True)
        assert prefix.superfluous(1) == []  # what it came from is kept, too
        prefix.switch(self.NEW)  # forth again, and back
        assert prefix.previous(self.NEW) == self.OLD

    def test_a_host_that_an_upgrade_did_not_reach_stays_where_it_is(self, prefix):
        for version in (self.OLDEST, self.OLD):
            pretend(prefix, version)
            prefix.switch(version)
        assert prefix.previous(self.NEW) == self.OLD

    def test_a_host_that_went_back_by_the_first_release_stays_where_it_is(self, prefix):
        for version in (self.OLD, self.NEW):
            pretend(prefix, version)
            prefix.switch(version)
        prefix.switch(self.OLD)  # as 0.1.0 did it, without a note
        assert prefix.previous(self.NEW) == self.OLD

    def test_there_is_nothing_to_go_back_to(self, prefix):
        assert prefix.previous(self.NEW) is None
        pretend(prefix, self.NEW)
        prefix.switch(self.NEW)
        assert prefix.previous(self.NEW) is None

    def test_keeps_the_current_the_previous_and_the_newest(self, prefix):
        for number in range(5):
            version = f"1.{number}-{number:08d}"
            pretend(prefix, version, age=1000 - number)
            prefix.switch(version)
        assert prefix.superfluous(3) == ["1.1-00000001", "1.0-00000000"]
        assert prefix.superfluous(2) == ["1.2-00000002", "1.1-00000001", "1.0-00000000"]
        assert prefix.superfluous(9) == []

    def test_does_not_replace_a_file_of_others(self, prefix, tmp_path):
        (tmp_path / "bin" / "fractal-slurm").write_text("something else")
        assert "no link of ours" in prefix.link_fault()

    def test_removes_only_what_is_ours(self, prefix, tmp_path):
        pretend(prefix, "1.0-00000000")
        prefix.switch("1.0-00000000")
        os.makedirs(os.path.join(prefix.path, "something-else"))
        prefix.remove_all()
        assert os.listdir(prefix.path) == ["something-else"]
        assert not os.path.lexists(tmp_path / "bin" / "fractal-slurm")

    def test_removes_the_folder_once_it_is_empty(self, prefix):
        pretend(prefix, "1.0-00000000")
        prefix.remove_all()
        assert not os.path.exists(prefix.path)


class TestFindPython:
    def test_says_why_there_is_none(self):
        assert runtime_install.find_python("/nowhere/python3") == "/nowhere/python3 is not there"

    def test_refuses_one_that_other_users_can_not_reach(self, tmp_path):
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        (closed / "python3").write_text("#!/bin/sh\n")
        (closed / "python3").chmod(0o755)
        assert "can't be run by other users" in runtime_install.find_python(str(closed / "python3"))


class TestTargetOfPackage:
    def test_is_known_where_the_name_tells(self):
        assert runtime_install.target_of_package("python3.11")["python"] == "3.11"

    @pytest.mark.parametrize("package", ["python3", "", None, "pypy3"])
    def test_is_not_guessed(self, package):
        assert runtime_install.target_of_package(package) is None


class TestPythonPackage:
    @pytest.mark.parametrize(
        ("os_release", "expected"),
        [
            (
                'NAME="Rocky Linux"\nVERSION="9.4"\nID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n',
                "python3.11",
            ),
            ('ID="almalinux"\nID_LIKE="rhel centos fedora"\nVERSION_ID="8.10"\n', "python3.11"),
            ('ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="9.2"\n', "python3.11"),
            ('ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="10"\n', "python3"),
            ('ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="7"\n', None),
            ("ID=fedora\nVERSION_ID=42\n", "python3"),
            ('ID=debian\nVERSION_ID="12"\n', "python3"),
            ('ID=debian\nVERSION_ID="11"\n', None),
            ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n', "python3"),
            ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="20.04"\n', None),
            ("ID=arch\n", None),
            ("", None),
        ],
    )
    def test_is_the_distributions_own(self, os_release, expected):
        assert runtime_install.python_package(os_release) == expected


class TestToml:
    def test_writes_strings_numbers_and_truth_values(self):
        text = runtime_install.toml({"b": 3, "a": 'with "quotes" and \\', "c": True})
        assert text.splitlines()[1:] == ['a = "with \\"quotes\\" and \\\\"', "b = 3", "c = true"]

    def test_writes_tables_after_what_stands_by_itself(self):
        limits = {"users": {"a.b": {"max": 1}, "c": {}}, "each_user": {"rate": "200 in 1h", "pause": 0.5}, "on": True}
        assert runtime_install.toml({"limits": limits, "z": 1}).splitlines()[1:] == [
            "z = 1", "",
            "[limits]", "on = true", "",
            "[limits.each_user]", "pause = 0.5", 'rate = "200 in 1h"', "",
            "[limits.users]", "",
            '[limits.users."a.b"]', "max = 1", "",
            "[limits.users.c]",
        ]  # fmt: skip


class TestUnpack:
    def archive(self, tmp_path, files):
        path = tmp_path / "wheels.tar"
        with tarfile.open(path, "w") as tar:
            for name, content in files.items():
                (tmp_path / "member").write_bytes(content)
                tar.add(tmp_path / "member", arcname=name)
        return str(path)

    def test_refuses_a_wheel_that_is_not_as_stated(self, tmp_path):
        manifest = {"a.whl": {"name": "a", "version": "1", "sha256": "0" * 64}}
        archive = self.archive(tmp_path, {"a.whl": b"x", "manifest.json": json.dumps(manifest).encode()})
        work = tmp_path / "work"
        work.mkdir()
        with pytest.raises(InstallError, match="does not have the checksum"):
            runtime_install.unpack(archive, str(work))

    def test_refuses_a_member_outside(self, tmp_path):
        archive = self.archive(tmp_path, {"../evil": b"x"})
        with pytest.raises(InstallError, match="does not belong there"):
            runtime_install.unpack(archive, str(tmp_path))


class TestQueuedJobs:
    def squeue(self, tmp_path, text):
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "squeue").write_text(f"#!/bin/sh\n{text}\n")
        (folder / "squeue").chmod(0o755)
        return [str(folder)]

    def test_are_those_that_bear_our_mark(self, tmp_path):
        lines = (
            "12 anna fractal-slurm:0123456789abcdef\n13_[1-9] anna (null)\n"
            "14_2 ben fractal-slurm:20260101-000000-abcdef:fedcba9876543210\n"
        )
        found = runtime_install.queued_jobs(self.squeue(tmp_path, f"printf '{lines}'"))
        assert found == ["2 jobs in the queue need it (12 of anna, 14 of ben)"]

    @pytest.mark.parametrize("text", ["exit 1", "echo '12 anna fractal-slurm:xyz'", "exit 0"])
    def test_what_is_not_known_is_no_reason(self, tmp_path, text):
        assert runtime_install.queued_jobs(self.squeue(tmp_path, text)) == []

    def test_no_command_is_run_that_others_could_exchange(self, tmp_path):
        folders = self.squeue(tmp_path, f"touch {tmp_path}/trace; echo '12 anna fractal-slurm:0123456789abcdef'")
        (tmp_path / "bin").chmod(0o777)
        assert runtime_install.queued_jobs(folders) == []
        assert not (tmp_path / "trace").exists()


class TestJournals:
    def test_are_where_the_settings_say(self, tmp_path):
        state = tmp_path / "state"
        settings = tmp_path / "settings.toml"
        settings.write_text(f'max_retries = 1\nstate_dir = "{state}"\n')
        assert runtime_install.journals(str(settings), "root") == []
        state.mkdir()
        (state / "x").write_text("")
        assert runtime_install.journals(str(settings), None) == [str(state)]

    def test_nothing_is_known_of_accounts_that_are_not_there(self):
        assert runtime_install.journals("", "nobody-here") == []
