# SPDX-License-Identifier: GPL-3.0-or-later
import importlib.metadata
import runpy
import subprocess
import sys

import pytest
from fractal_slurm_server import check, faults, install, switch


@pytest.fixture
def installed(monkeypatch):
    """Let a version of fractal-server be installed; its modules are not there."""

    def version(name):
        if installed.version is None or name != "fractal-server":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed.version

    class installed:  # noqa: N801
        version = None

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.delenv("FRACTAL_SLURM_ENGINE", raising=False)
    return installed


class TestFaults:
    def test_says_that_there_is_none(self, installed):
        assert faults() == [
            "fractal-server is not installed in this Python: install it, or use the Python that has it; "
            "2.18 to 2.26 are supported"
        ]

    @pytest.mark.parametrize("version", ["2.17.2", "2.27.0", "3.0.0", "1.4.10", "2.x", "2.9.9", "soon"])
    def test_says_which_versions_are_known(self, installed, version):
        installed.version = version
        assert faults() == [
            f"fractal-server {version} is not known to this version of fractal-slurm: 2.18 to 2.26 are supported"
        ]

    @pytest.mark.parametrize("version", ["2.18.0", "2.18.6", "2.26.0", "2.26.1a0", "2.26"])
    def test_looks_at_the_shape_of_those_that_are_known(self, installed, version):
        installed.version = version
        assert faults() == ["fractal-server can't be imported: ModuleNotFoundError: No module named 'fractal_server'"]

    @pytest.mark.parametrize(
        "does", ["import sys; sys.exit('settings are missing')", "raise OSError('settings are missing')"]
    )
    def test_says_what_ends_an_import(self, installed, monkeypatch, tmp_path, does):
        installed.version = "2.26.0"
        (tmp_path / "fractal_server").mkdir()
        (tmp_path / "fractal_server/__init__.py").write_text(does)
        monkeypatch.syspath_prepend(tmp_path)
        [sentence] = faults()
        assert sentence.startswith("fractal-server can't be imported: ")
        assert sentence.endswith(": settings are missing")

    def test_names_what_is_not_as_it_should_be(self, server, monkeypatch):
        module = sys.modules["fractal_server.runner.executors.slurm_common.base_slurm_runner"]
        monkeypatch.setattr(module, "create_accounting_record_slurm", lambda *, user_id, slurm_job_ids, colour: None)
        found = check.shape_faults()
        assert "accounting records of fractal-server have 'colour': what to put there is not known" in found
        submit = "fractal_server.runner.executors.slurm_sudo.runner.SlurmSudoRunner.submit"
        assert f"fractal-server has no {submit}" in found


class TestInstall:
    def test_does_nothing_where_it_is_off(self, installed, monkeypatch):
        monkeypatch.setenv("FRACTAL_SLURM_ENGINE", "off")
        assert install() is False
        switch.refuse_old_and_new()

    def test_refuses_to_start_what_it_does_not_know(self, installed):
        installed.version = "2.99.0"
        for start in (install, switch.refuse_old_and_new):
            with pytest.raises(switch.NotSupported, match=r"fractal-server 2\.99\.0 is not known.*=off starts it"):
                start()

    def test_leaves_fractal_servers_own_runner_if_that_was_allowed(self, installed, monkeypatch, caplog):
        monkeypatch.setenv("FRACTAL_SLURM_ENGINE", "if-supported")
        assert install() is False
        switch.refuse_old_and_new()
        assert "jobs run on fractal-server's own runner (FRACTAL_SLURM_ENGINE=if-supported)" in caplog.text

    def test_refuses_other_words(self, installed, monkeypatch):
        monkeypatch.setenv("FRACTAL_SLURM_ENGINE", "of")
        with pytest.raises(switch.NotSupported, match="'of' is not allowed: allowed are on, if-supported, off"):
            install()

    def test_gunicorn_finds_nothing_but_its_hook(self, installed):
        installed.version = "2.26.0"
        names = runpy.run_module("fractal_slurm_server.gunicorn_conf")
        assert "post_fork" in names


class TestMain:
    def test_prints_the_faults_and_exits_with_3(self):
        result = subprocess.run(
            [sys.executable, "-m", "fractal_slurm_server"], capture_output=True, text=True, check=False
        )
        assert result.returncode == 3
        assert result.stdout.startswith("fractal-server is not installed")
        assert result.stderr == ""
