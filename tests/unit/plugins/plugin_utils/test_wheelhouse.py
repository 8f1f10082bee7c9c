# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime's source, and the wheels that are made of it (pip itself is tried by the tests of the roles)."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.fractal.slurm.plugins.plugin_utils import wheelhouse
from ansible_collections.fractal.slurm.plugins.plugin_utils.wheelhouse import Target


@pytest.fixture
def source(tmp_path):
    package = tmp_path / "src" / "fractal_slurm"
    package.mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (package / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (package / "cli.py").write_text("")
    return tmp_path


class TestReadSource:
    def test_finds_the_collections_own(self):
        assert wheelhouse.read_source().version[0].isdigit()

    def test_names_a_folder_for_the_content(self, source):
        before = wheelhouse.read_source(source)
        assert before.folder_name == f"1.2.3-{before.digest[:8]}"
        (source / "src" / "fractal_slurm" / "cli.py").write_text("changed")
        assert wheelhouse.read_source(source).folder_name != before.folder_name

    def test_another_lock_is_another_folder(self, source, tmp_path):
        lock = tmp_path / "lock.txt"
        lock.write_text("click==8.1.7\n")
        before = wheelhouse.read_source(source, lock)
        lock.write_text("click==8.1.8\n")
        names = {wheelhouse.read_source(source, which).folder_name for which in (lock, None)}
        assert len(names | {before.folder_name}) == 3

    def test_says_where_the_lock_is_not(self, source, tmp_path):
        with pytest.raises(AnsibleError, match=r"the lock .*gone\.txt can't be read"):
            wheelhouse.read_source(source, tmp_path / "gone.txt")

    def test_all_its_packages_count(self, source):
        before = wheelhouse.read_source(source)
        (source / "src" / "fractal_slurm_server").mkdir()
        (source / "src" / "fractal_slurm_server" / "__init__.py").write_text("")
        assert wheelhouse.read_source(source).digest != before.digest

    def test_does_not_heed_byte_code(self, source):
        before = wheelhouse.read_source(source)
        cache = source / "src" / "fractal_slurm" / "__pycache__"
        cache.mkdir()
        (cache / "cli.cpython-311.pyc").write_bytes(b"x")
        assert wheelhouse.read_source(source) == before

    def test_says_where_there_is_none(self, tmp_path):
        with pytest.raises(AnsibleError, match="the runtime's source is not in"):
            wheelhouse.read_source(tmp_path)


class TestTarget:
    def test_names_the_platforms_a_host_can_use(self):
        platforms = Target("3.11", "x86_64", "2.19").platforms()
        assert platforms == [
            "manylinux_2_19_x86_64",
            "manylinux_2_18_x86_64",
            "manylinux_2_17_x86_64",
            "manylinux2014_x86_64",
        ]

    def test_another_python_is_not_the_controllers(self):
        assert not Target("3.99", "x86_64", "2.36").is_controller


class TestRequirements:
    def project(self, source, lines):
        (source / "pyproject.toml").write_text(f"[project]\ndependencies = {json.dumps(lines)}\n")
        return source

    def test_judges_markers_by_the_hosts_python(self, source):
        folder = self.project(source, ["click>=8.1", "tomli>=2; python_version < '3.11'"])
        assert wheelhouse.requirements(folder, Target("3.10", "x86_64", "2.36")) == ["click>=8.1", "tomli>=2"]
        assert wheelhouse.requirements(folder, Target("3.12", "x86_64", "2.36")) == ["click>=8.1"]

    def test_leaves_out_extras(self, source):
        folder = self.project(source, ["pytest; extra == 'test'"])
        assert wheelhouse.requirements(folder, Target("3.12", "x86_64", "2.36")) == []


class TestOwnWheel:
    def test_is_the_same_whenever_and_wherever_it_is_made(self, tmp_path):
        version = wheelhouse.read_source().version
        copy = tmp_path / "python_runtime"
        shutil.copytree(wheelhouse.SOURCE, copy, ignore=shutil.ignore_patterns(".*"))
        for path in copy.rglob("*"):
            os.utime(path, (0, 0))
            path.chmod(0o700)
        assert wheelhouse.own_wheel(copy, version) == wheelhouse.own_wheel(wheelhouse.SOURCE, version)

    def test_holds_the_package_its_record_and_the_worker(self):
        version = wheelhouse.read_source().version
        name, content = wheelhouse.own_wheel(wheelhouse.SOURCE, version)
        assert name == f"fractal_slurm-{version}-py3-none-any.whl"
        with zipfile.ZipFile(io.BytesIO(content)) as wheel:
            held = {path: wheel.read(path) for path in wheel.namelist()}
        info = f"fractal_slurm-{version}.dist-info"
        source = wheelhouse.SOURCE / "src"
        package = {path.relative_to(source).as_posix() for path in source.rglob("*.py")}
        assert set(held) >= package
        assert {path.partition("/")[0] for path in package} == {"fractal_slurm", "fractal_slurm_server"}
        apart = f"fractal_slurm-{version}.data/data/share/fractal-slurm/"
        for path in (path for path in package if path.startswith("fractal_slurm/node/")):
            assert held[apart + path.partition("/")[2]] == held[path]
        recorded = [line.split(",")[0] for line in held[f"{info}/RECORD"].decode().splitlines()]
        assert sorted(recorded) == sorted(held)
        assert "Requires-Dist: pydantic<3,>=2.6" in held[f"{info}/METADATA"].decode().replace(">=2.6,<3", "<3,>=2.6")
        assert 'Requires-Dist: fractal-server>=2.18,<2.27; extra == "server"' in held[f"{info}/METADATA"].decode()
        assert b"fractal-slurm = fractal_slurm.cli:main" in held[f"{info}/entry_points.txt"]


class TestCache:
    @pytest.fixture
    def archive(self, source, tmp_path, monkeypatch):
        """Makes archives whose only wheel from elsewhere is one of click; counts the calls of pip."""
        (source / "pyproject.toml").write_text('[project]\nname = "fractal-slurm"\n')
        lock = tmp_path / "lock.txt"
        lock.write_text(f"pip==25.0 --hash=sha256:{hashlib.sha256(b'wheel of pip').hexdigest()}\n")
        calls = []

        def pip(arguments):
            calls.append(arguments)
            folder = arguments[arguments.index("--dest") + 1]
            (Path(folder) / "pip-25.0-py3-none-any.whl").write_bytes(b"wheel of pip")

        monkeypatch.setattr(wheelhouse, "_pip", pip)

        def make(cache, find_links=()):
            return wheelhouse.make_archive(
                wheelhouse.read_source(source, lock),
                Target("3.11", "x86_64", "2.36"),
                cache=cache,
                find_links=list(find_links),
                no_index=True,
                folder=source,
            )

        make.calls, make.lock = calls, lock
        return make

    def test_is_ours_alone_whatever_the_umask(self, archive, tmp_path):
        before = os.umask(0)
        try:
            archive(tmp_path / "a" / "cache")
        finally:
            os.umask(before)
        assert oct((tmp_path / "a" / "cache").stat().st_mode) == "0o40700"

    def test_makes_an_archive_once(self, archive, tmp_path):
        assert archive(tmp_path / "cache") == archive(tmp_path / "cache")
        assert len(archive.calls) == 1

    def test_may_be_made_in_a_folder_like_tmp(self, archive, tmp_path):
        (tmp_path / "tmp").mkdir()
        (tmp_path / "tmp").chmod(0o1777)
        assert archive(tmp_path / "tmp" / "cache").exists()
        assert archive(tmp_path / "tmp" / "cache").exists()

    @pytest.mark.parametrize("mode", [0o777, 0o757, 0o2775])
    def test_is_not_used_where_others_can_write(self, archive, tmp_path, mode):
        for folder in (tmp_path / "open" / "cache", tmp_path / "cache2"):
            open_to_all = tmp_path / "open" if folder.name == "cache" else folder
            open_to_all.mkdir()
            open_to_all.chmod(mode)
            with pytest.raises(AnsibleError, match=r"fractal_slurm_runtime_cache.*can be written by others"):
                archive(folder)
        assert archive.calls == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="root's rights are needed")
    def test_is_not_used_where_it_is_another_accounts(self, archive, tmp_path):
        (tmp_path / "cache").mkdir(mode=0o700)
        os.chown(tmp_path / "cache", 12345, 12345)
        with pytest.raises(AnsibleError, match="belongs to uid 12345"):
            archive(tmp_path / "cache")

    def replace(self, path, changes):
        """Put other members into an archive, with a manifest that fits them."""
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        members.update(changes)
        del members["manifest.json"]
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
        members["manifest.json"] = json.dumps(wheelhouse._manifest(digests)).encode()
        with tarfile.open(path, "w") as tar:
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))

    @pytest.mark.parametrize(
        "changes",
        [
            {"pip-25.0-py3-none-any.whl": b"planted"},
            {"fractal_slurm-1.2.3-py3-none-any.whl": b"planted"},
            {"evil-1-py3-none-any.whl": b"planted"},
        ],
    )
    def test_what_is_not_the_locks_or_the_sources_is_made_anew(self, archive, tmp_path, changes):
        path = archive(tmp_path / "cache")
        good = path.read_bytes()
        self.replace(path, changes)
        assert archive(tmp_path / "cache").read_bytes() == good
        assert len(archive.calls) == 2

    @pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 10240])
    def test_what_is_no_archive_is_made_anew(self, archive, tmp_path, content):
        path = archive(tmp_path / "cache")
        good = path.read_bytes()
        path.write_bytes(content)
        assert archive(tmp_path / "cache").read_bytes() == good

    def test_wheels_of_a_folder_that_others_can_write_need_checksums(self, archive, tmp_path):
        (tmp_path / "wheels").mkdir()
        (tmp_path / "wheels").chmod(0o777)
        for place in (str(tmp_path / "wheels"), f"file://{tmp_path}/wheels"):
            archive(tmp_path / "cache", [place])
        archive.lock.write_text("pip==25.0\n")
        urls = [f"file://{tmp_path}/wheels", f"file://localhost{tmp_path}/wheels", f"FILE://{tmp_path}/w%68eels"]
        for place in (str(tmp_path / "wheels"), *urls):
            with pytest.raises(AnsibleError, match=r"fractal_slurm_runtime_find_links.*can be written by others"):
                archive(tmp_path / "cache", [place])
        archive(tmp_path / "cache", ["https://wheels.invalid/"])

    def test_pip_is_not_looked_for_where_ansible_was_started(self, tmp_path, monkeypatch):
        (tmp_path / "pip").mkdir()
        (tmp_path / "pip" / "__main__.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
        monkeypatch.chdir(tmp_path)
        wheelhouse._pip(["--version"])
        assert not (tmp_path / "trace").exists()

    def test_says_where_no_cache_can_be_made(self, archive, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(AnsibleError, match=r"file.*fractal_slurm_runtime_cache"):
            archive(tmp_path / "file" / "cache")

    def test_says_what_the_disk_says(self, archive, tmp_path, monkeypatch):
        def full(_arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(wheelhouse, "_pip", full)
        with pytest.raises(AnsibleError, match=rf"No space left on device: {tmp_path}.*fractal_slurm_runtime_cache"):
            archive(tmp_path / "cache")


class TestLock:
    @pytest.fixture
    def lock(self, tmp_path):
        def write(text):
            path = tmp_path / "lock.txt"
            path.write_text(text)
            return path

        return write

    def test_chooses_by_the_hosts_python(self, lock):
        path = lock("click==8.1.7\npip==25.0\ntomli==2.0.1 ; python_full_version < '3.11'  # why\n# note\n")
        target = Target("3.12", "x86_64", "2.36")
        assert wheelhouse.locked_requirements(path, ["pip", "click>=8.1"], target) == ["click==8.1.7", "pip==25.0"]
        older = wheelhouse.locked_requirements(path, ["pip", "click>=8.1"], target._replace(python="3.10"))
        assert older == ["click==8.1.7", "pip==25.0", "tomli==2.0.1"]

    def test_keeps_checksums(self, lock):
        path = lock("Click==8.1.7 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n")
        found = wheelhouse.locked_requirements(path, ["click"], Target("3.12", "x86_64", "2.36"))
        assert found == ["click==8.1.7 --hash=sha256:aa --hash=sha256:bb"]

    def test_reports_every_fault(self, lock):
        path = lock("click==7.0\nrich>=13\n-e .\n")
        with pytest.raises(AnsibleError) as caught:
            wheelhouse.locked_requirements(path, ["pip", "click<9,>=8.1"], Target("3.12", "x86_64", "2.36"))
        for words in (
            "'rich>=13' names no exact version",
            "'-e .' is no package",
            "pip is missing",
            "it names click 7.0, and the runtime needs click<9,>=8.1",
        ):
            assert words in str(caught.value)

    @pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
    def test_the_bundled_one_has_what_the_runtime_asks_for(self, python):
        project = (wheelhouse.SOURCE / "pyproject.toml").read_text(encoding="utf-8")
        needed = re.findall(r'"(.*)",\n', project[project.index("dependencies = [") :].partition("]")[0])
        assert len(needed) > 3
        target = Target(python, "x86_64", "2.28")
        wanted = [text.partition(";")[0] for text in needed if ";" not in text or python == "3.10"]
        lines = wheelhouse.locked_requirements(wheelhouse.LOCK, ["pip", *wanted], target)
        assert all(" --hash=sha256:" in line for line in lines)
