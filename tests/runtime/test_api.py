# SPDX-License-Identifier: GPL-3.0-or-later
import inspect
import json

import pytest
from fractal_slurm import api
from samples import config_data


class TestApi:
    def test_offers_every_name_with_a_docstring(self):
        assert api.__all__ == sorted(api.__all__)
        undocumented = [name for name in api.__all__ if not inspect.getdoc(getattr(api, name))]
        assert undocumented == []

    def test_goes_from_a_file_to_a_batching(self, tmp_path):
        file = tmp_path / "config.json"
        file.write_text(json.dumps(config_data()))
        config_file = api.load_config_file(file)
        assert config_file == api.parse_config(config_data(), source="a dict")
        resolution = api.resolve(config_file, task_name="a task", workflow_task_meta={"mem": "200M"}, tot_tasks=4)
        assert resolution.config.mem_per_task_MB == api.parse_memory("200M")
        assert resolution.batching.parallel_tasks_per_job == resolution.config.parallel_tasks_per_job

    def test_raises_one_family_of_errors(self):
        for name in api.__all__:
            member = getattr(api, name)
            if inspect.isclass(member) and issubclass(member, Exception):
                assert issubclass(member, api.FractalSlurmError)
        with pytest.raises(api.FractalSlurmError):
            api.parse_walltime("soon")
