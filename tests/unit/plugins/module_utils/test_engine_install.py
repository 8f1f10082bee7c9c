# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine in a virtual environment: real ones of this Python, with wheels of a few lines."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from ansible_collections.fractal.slurm.plugins.module_utils.engine_install import EngineError, Venv

# Does what pip does with --target, as far as it is used.
PIP = """
import sys, zipfile
words = sys.argv[1:]
target = words[words.index("--target") + 1]
for path in words[words.index("--target") + 2:]:
    zipfile.ZipFile(path).extractall(target)
"""


def wheel(name, version, **files):
    package = name.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    requires = files.pop("requires", "")
    contents = {
        **{path.replace("__slash__", "/") + ".py": text for path, text in files.items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
    }
    contents[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)
    return f"{package}-{version}-py3-none-any.whl", stream.getvalue()


def archive(path, says="", status=0, requires=""):
    """An archive as the controller makes it: pip, the engine, and a package that the server has in another version."""
    made = [
        ("pip", "26.3", wheel("pip", "26.3", pip__slash____main__=PIP)),
        ("click", "8.5", wheel("click", "8.5", click="version = 'ours'")),
        ("rich", "15.0", wheel("rich", "15.0", rich="")),
        (
            "fractal-slurm",
            "1.0",
            wheel(
                "fractal-slurm",
                "1.0",
                requires=requires,
                fractal_slurm__slash____init__="",
                fractal_slurm__slash__api="import click, rich",
                fractal_slurm_server__slash____init__="",
                fractal_slurm_server__slash____main__=f"import sys\nprint({says!r})\nsys.exit({status})",
            ),
        ),
    ]
    manifest = {
        file: {"name": name, "version": version, "sha256": hashlib.sha256(content).hexdigest()}
        for name, version, (file, content) in made
    }
    with tarfile.open(path, "w") as tar:
        for file, content in [*(entry[2] for entry in made), ("manifest.json", json.dumps(manifest).encode())]:
            member = tarfile.TarInfo(file)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return str(path)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("venv") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder


@pytest.fixture
def server(empty, tmp_path):
    """An environment with a fractal-server and a click of its own."""
    folder = tmp_path / "venv"
    subprocess.run(["cp", "-a", empty, folder], check=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    for name, version, code in (("fractal_server", "2.26.0", ""), ("click", "8.1", "version = 'theirs'")):
        (packages / f"{name}.py").write_text(code)
        info = packages / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def paths(folder):
    return sorted(str(path) for path in Path(folder).rglob("*"))


def python(server, code):
    return subprocess.run([server / "bin" / "python", "-c", code], capture_output=True, text=True, check=True).stdout


class TestVenv:
    def test_tells_what_is_there(self, server):
        venv = Venv(str(server))
        assert venv.faults() == []
        assert venv.found["distributions"]["fractal-server"] == "2.26.0"
        assert venv.target()["python"] == "{}.{}".format(*sys.version_info)

    def test_install_adds_what_is_missing_and_replaces_nothing(self, server, tmp_path):
        venv = Venv(str(server))
        assert venv.install("1.0-aaaaaaaa", "digest", archive(tmp_path / "wheels.tar")) == []
        assert venv.is_sound("1.0-aaaaaaaa", "digest")
        assert venv.check(venv.folder("1.0-aaaaaaaa")) == []
        said = python(server, "import click, rich, fractal_slurm_server; print(click.version, rich.__file__)")
        assert said.startswith("theirs ")
        assert "fractal-slurm-engine/1.0-aaaaaaaa" in said
        again = Venv(str(server))
        assert again.faults() == []  # what is ours is not taken for the server's
        assert not again.is_sound("1.0-aaaaaaaa", "another")

    def test_removal_leaves_no_trace(self, server, tmp_path):
        before = paths(server)
        venv = Venv(str(server))
        venv.install("1.0-aaaaaaaa", "digest", archive(tmp_path / "wheels.tar"))
        assert paths(server) != before
        venv.remove(venv.remnants())
        assert paths(server) == before
        assert venv.remnants() == []

    def test_trying_it_changes_nothing(self, server, tmp_path):
        before = paths(server)
        venv = Venv(str(server))
        assert venv.try_out(archive(tmp_path / "wheels.tar")) == []
        assert venv.try_out(archive(tmp_path / "wheels.tar", "2.30 is unknown\nand so is its runner", 3)) == [
            "2.30 is unknown",
            "and so is its runner",
        ]
        assert paths(server) == before

    def test_what_the_engine_does_not_support_is_not_installed(self, server, tmp_path):
        venv = Venv(str(server))
        venv.install("1.0-aaaaaaaa", "digest", archive(tmp_path / "wheels.tar"))
        before = paths(server)
        assert venv.install("1.1-bbbbbbbb", "other", archive(tmp_path / "wheels.tar", "no", 3)) == ["no"]
        (fault,) = venv.install("1.1-bbbbbbbb", "other", archive(tmp_path / "wheels.tar", "", 1))
        assert fault.startswith("the engine does not start in")
        assert paths(server) == before
        assert venv.current() == "1.0-aaaaaaaa"

    def test_an_upgrade_keeps_what_was_before_and_no_more(self, server, tmp_path):
        venv = Venv(str(server))
        for number, name in enumerate(("1.0-aaaaaaaa", "1.1-bbbbbbbb", "1.2-cccccccc")):
            venv.install(name, name, archive(tmp_path / "wheels.tar"))
            os.utime(venv.folder(name), (number, number))
        assert venv.current() == "1.2-cccccccc"
        assert venv.superfluous() == [venv.folder("1.0-aaaaaaaa")]

    def test_a_file_that_is_missing_is_found(self, server, tmp_path):
        venv = Venv(str(server))
        venv.install("1.0-aaaaaaaa", "digest", archive(tmp_path / "wheels.tar"))
        os.unlink(os.path.join(venv.folder("1.0-aaaaaaaa"), "rich.py"))
        assert "rich.py is missing" in venv.check(venv.folder("1.0-aaaaaaaa"))[0]

    def test_names_what_is_not_to_be_used(self, empty, tmp_path):
        with pytest.raises(EngineError, match="is no virtual environment"):
            Venv(str(tmp_path))
        (fault,) = Venv(str(empty)).faults()
        assert "there is no fractal-server in" in fault

    def test_a_package_of_ours_from_elsewhere_is_a_fault(self, server):
        info = next(server.glob("lib/python3*/site-packages")) / "fractal_slurm-0.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fractal_slurm\nVersion: 0.9\n")
        (fault,) = Venv(str(server)).faults()
        assert "-m pip uninstall fractal-slurm" in fault

    @pytest.mark.skipif(os.geteuid() != 0, reason="root's rights are needed")
    def test_root_runs_nothing_that_others_can_write(self, server):
        os.chmod(server / "bin", 0o777)  # noqa: S103 - that is the fault
        with pytest.raises(EngineError, match="is not safe to use as root"):
            Venv(str(server))

    @pytest.mark.skipif(os.geteuid() != 0, reason="root's rights are needed")
    def test_another_owners_environment_is_theirs_alone(self, server, tmp_path):
        probe = tmp_path / "probe"
        probe.mkdir(mode=0o777)
        os.chmod(probe, 0o777)  # noqa: S103 - whoever runs the environment's Python writes here
        for folder in (tmp_path, *tmp_path.parents):
            if Path(tempfile.gettempdir()) in folder.parents:
                os.chmod(folder, 0o755)  # noqa: S103 - for the owner to pass
        packages = next(server.glob("lib/python3*/site-packages"))
        (packages / "evil.pth").write_text(f"import os; open('{probe}/%d' % os.geteuid(), 'w').close()\n")
        subprocess.run(["chown", "-R", "nobody", server], check=True)
        venv = Venv(str(server))
        assert venv.install("1.0-aaaaaaaa", "digest", archive(tmp_path / "wheels.tar")) == []
        assert venv.is_sound("1.0-aaaaaaaa", "digest")
        owner = os.stat(server).st_uid
        assert {path.stat().st_uid for path in server.rglob("*") if not path.is_symlink()} == {owner}
        assert [path.name for path in probe.iterdir()] == [str(owner)]
