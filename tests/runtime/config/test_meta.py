# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from fractal_slurm.config.file import BatchingConfig, SlurmConfigSet
from fractal_slurm.config.meta import OPTIONS, REQUIRED, Meta, read_meta
from fractal_slurm.errors import SpecError
from hypothesis import given
from hypothesis import strategies as st
from samples import json_values, outcome

COMMON = sorted(set(OPTIONS) & set(SlurmConfigSet.model_fields))
VALUES = (
    json_values
    | st.sampled_from([5, "5", 5.0, " 5 ", "main", "4G", "1-2", "1:00:00", "a b", "true", ["export A=1"], [1]])
    | st.integers(1, 10)
)


def taken(model, name, value):
    """What a model makes of a value; "refused" where it takes it not."""
    try:
        return getattr(model.model_validate({name: value}), name)
    except ValueError:
        return "refused"


class TestMeta:
    @given(st.sampled_from(COMMON), VALUES)
    def test_takes_what_the_file_takes_and_nothing_else(self, name, value):
        if value is not None or name not in REQUIRED:
            assert taken(Meta, name, value) == taken(SlurmConfigSet, name, value)

    @pytest.mark.parametrize("name", ["partition", "constraint", "gres", "nodelist", "exclude"])
    def test_refuses_a_number_for_a_name_as_the_file_does(self, name):
        _options, messages = outcome(read_meta, {name: 5}, "task.meta", [])
        assert messages == [f"task.meta: $.{name}: found 5; a string is allowed: put it in quotes"]


class TestReadMeta:
    def test_passes_over_an_account_that_is_not_set(self):
        assert read_meta({"account": None, "mem": "1G"}, "task.meta", []) == {"mem": 1_000}

    @pytest.mark.parametrize("name", BatchingConfig.model_fields)
    def test_says_that_limits_of_the_batching_come_from_the_file(self, name):
        warnings = []
        assert read_meta({name: 4}, "task.meta", warnings) == {}
        assert warnings == [f"task.meta: $.{name}: has no effect: it is read from the config file only"]

    def test_names_the_line_that_is_wrong(self):
        with pytest.raises(SpecError, match=r"^task\.meta: \$\.extra_lines\[1\]: "):
            read_meta({"extra_lines": ["export A=1", "#SBATCH -J x"]}, "task.meta", [])
