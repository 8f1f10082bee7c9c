# SPDX-License-Identifier: GPL-3.0-or-later
import json

import pytest
from fractal_slurm.errors import ConfigFileError
from fractal_slurm.executor import SlurmExecutor
from samples import config_data


class TestSlurmExecutor:
    @pytest.fixture(autouse=True)
    def _settings(self, monkeypatch, tmp_path):
        (tmp_path / "settings.toml").touch()
        monkeypatch.setenv("FRACTAL_SLURM_SETTINGS_FILE", str(tmp_path / "settings.toml"))

    def test_reads_the_config_file_that_the_environment_names(self, monkeypatch, tmp_path):
        path = tmp_path / "config.json"
        monkeypatch.setenv("FRACTAL_SLURM_CONFIG_FILE", str(path))
        with pytest.raises(ConfigFileError, match=f"^{path}: can't be read"):
            SlurmExecutor("anna", cache_dir="/cache", work_dir="/work")
        path.write_text(json.dumps(config_data()))
        with SlurmExecutor("anna", cache_dir="/cache", work_dir="/work"):
            pass

    def test_reads_the_config_file_that_it_is_given_before_that(self, monkeypatch, tmp_path):
        monkeypatch.setenv("FRACTAL_SLURM_CONFIG_FILE", "/nowhere.json")
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config_data()))
        with SlurmExecutor("anna", cache_dir="/cache", work_dir="/work", config=path):
            pass
