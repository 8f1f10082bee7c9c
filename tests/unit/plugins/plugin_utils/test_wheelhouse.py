# SPDX-License-Identifier: GPL-3.0-or-later
"""The runtime's source, and the wheels that are made of it (pip itself is tried by the tests of the roles)."""

from __future__ import annotations

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
