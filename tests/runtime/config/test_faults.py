# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from fractal_slurm.config.faults import json_path
from fractal_slurm.config.file import BatchingConfig, parse_config
from fractal_slurm.errors import ConfigFileError


class TestJsonPath:
    @pytest.mark.parametrize(
        ("location", "expected"),
        [
            ((), "$"),
            (("a", 0, "b_1"), "$.a[0].b_1"),
            (("a b",), '$["a b"]'),
            (('"',), r'$["\""]'),
            (("\n",), r'$["\n"]'),
        ],
    )
    def test_writes_a_path(self, location, expected):
        assert json_path(location) == expected


class TestFaultsOf:
    def test_come_in_the_order_of_the_document(self):
        data = {
            "zzz": 1,
            "batching_config": {"max_num_jobs": 0},
            "default_slurm_config": {"time": 5, "partition": 5, "cpus_per_task": 1},
        }
        with pytest.raises(ConfigFileError) as caught:
            parse_config(data, source="c")
        assert [line.split(": ")[1] for line in caught.value.messages] == [
            "$.zzz",
            "$.batching_config.max_num_jobs",
            *(f"$.batching_config.{name}" for name in BatchingConfig.model_fields if name != "max_num_jobs"),
            "$.default_slurm_config.time",
            "$.default_slurm_config.partition",
            "$.default_slurm_config.mem",
        ]
