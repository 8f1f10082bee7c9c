# SPDX-License-Identifier: GPL-3.0-or-later
import json

import pytest
from fractal_slurm.config.documents import parse_json, parse_yaml
from fractal_slurm.errors import ConfigFileError
from hypothesis import given
from samples import json_values


class TestParseJson:
    @given(json_values)
    def test_reads_all_that_json_can_say(self, value):
        assert parse_json(json.dumps(value), source="x") == value


class TestReadingJson:
    @pytest.mark.parametrize(
        ("text", "where"),
        [
            ('{\n  "a": 1,\n}', "x.json:2:9"),
            ('{"a": [1, 2, ]}', "x.json:1:12"),
            ('{"a": {"b": 1,}}', "x.json:1:14"),
            ("[1,\n\n]", "x.json:1:3"),
        ],
    )
    def test_a_comma_after_the_last_entry_is_told_in_words_and_where(self, text, where):
        with pytest.raises(ConfigFileError) as caught:
            parse_json(text, source="x.json")
        assert str(caught.value) == f"{where}: no JSON: a comma after the last entry: remove it"

    @pytest.mark.parametrize("text", ['{"a": ,}', "{,}", '{"a": 1 "b": 2}', ""])
    def test_other_faults_keep_the_words_of_the_reader(self, text):
        with pytest.raises(ConfigFileError, match=r"x\.json:1:[0-9]+: no JSON: "):
            parse_json(text, source="x.json")


class TestReadingYaml:
    def test_takes_a_kind_of_str_that_a_program_made(self):
        class Tagged(str):
            """As ansible-core hands strings over."""

        assert parse_yaml(Tagged('{"a": [1, "yes"]}'), source="x") == {"a": [1, "yes"]}
