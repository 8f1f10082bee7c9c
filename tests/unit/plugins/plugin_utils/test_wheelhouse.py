# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime's source, and the wheels that are made of it (pip itself is tried by the tests of the roles)."""

from __future__ import annotations

import re
import zipfile

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
    def wheel(self, tmp_path, lines):
        path = tmp_path / "fractal_slurm-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(
                "fractal_slurm-1.dist-info/METADATA", "\n".join(["Name: fractal-slurm", *lines, "", "text"])
            )
        return path

    def test_judges_markers_by_the_hosts_python(self, tmp_path):
        wheel = self.wheel(tmp_path, ["Requires-Dist: click>=8.1", "Requires-Dist: tomli>=2; python_version < '3.11'"])
        assert wheelhouse._requirements(wheel, Target("3.10", "x86_64", "2.36")) == ["click>=8.1", "tomli>=2"]
        assert wheelhouse._requirements(wheel, Target("3.12", "x86_64", "2.36")) == ["click>=8.1"]

    def test_leaves_out_extras(self, tmp_path):
        wheel = self.wheel(tmp_path, ["Requires-Dist: pytest; extra == 'test'"])
        assert wheelhouse._requirements(wheel, Target("3.12", "x86_64", "2.36")) == []


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
