# SPDX-License-Identifier: GPL-3.0-or-later
import json

import jsonschema
import pytest
from fractal_slurm.config.file import config_warnings, dump_config, json_schema, load_config_file, parse_config
from fractal_slurm.errors import ConfigFileError
from hypothesis import given
from hypothesis import strategies as st
from samples import any_texts, config_data, config_file, json_values, outcome

FUZZED_KEYS = [
    "default_slurm_config",
    "gpu_slurm_config",
    "batching_config",
    "user_local_exports",
    "partition",
    "cpus_per_task",
    "mem",
    "time",
    "extra_lines",
    "max_num_jobs",
    "[key]",
]


def faults(data):
    """The lines of the error that a config gives."""
    with pytest.raises(ConfigFileError) as caught:
        parse_config(data, source="config.json")
    return caught.value.messages


def fault_of_option(name, value):
    """The one line of the error that a value of default_slurm_config gives, without where it is."""
    (line,) = faults(config_data({name: value}))
    path, _colon, words = line.removeprefix("config.json: $.default_slurm_config.").partition(": ")
    assert path.startswith(name)
    return words


class TestParseConfig:
    def test_takes_all_of_fractals_keys(self):
        config = parse_config(
            config_data(
                {
                    "constraint": "avx2&ssd",
                    "gres": "gpu:a100:2",
                    "gpus": 1,
                    "time": "10:00:00",
                    "account": "lab",
                    "nodes": 1,
                    "nodelist": "n[1-2]",
                    "exclude": "n3",
                    "extra_lines": ["#SBATCH --qos=high", "export A='b c'", "module load cuda"],
                    "pre_submission_commands": ["module load slurm"],
                    "shebang_line": "#!/bin/bash",
                    "use_mem_per_cpu": True,
                },
                gpu_slurm_config={"partition": "gpu", "mem": "1T", "cpus_per_task": "8"},
                user_local_exports={"CELLPOSE_LOCAL_MODELS_PATH": "models/cellpose"},
            ),
            source="config.json",
        )
        assert config.default_slurm_config.mem == 100
        assert config.default_slurm_config.gpus == config.default_slurm_config.nodes == "1"
        assert config.gpu_slurm_config.mem == 1_000_000
        assert config.gpu_slurm_config.cpus_per_task == 8
        assert config.batching_config.max_mem_per_job == 8_000

    @pytest.mark.parametrize("data", [None, [], "x", 3, True])
    def test_refuses_what_is_no_object(self, data):
        (line,) = faults(data)
        assert line.startswith("config.json: $: found ")
        assert "default_slurm_config" in line

    def test_names_every_fault_at_once_with_file_path_and_what_is_allowed(self):
        data = config_data(
            {
                "cpus_per_task": 0,
                "mem": "4 GB",
                "time": 36_000,
                "shebang_line": "bash",
                "extra_lines": ["ok", "#SBATCH -J x"],
            },
            gpu_slurm_config={"partitions": "gpu", "mem": "1X"},
            batching_config={"target_num_jobs": 11, "max_cpus_per_job": "many"},
            user_local_exports={"1BAD": "x", "GOOD": "/abs"},
            other={},
        )
        del data["default_slurm_config"]["partition"]
        lines = faults(data)
        assert all(line.startswith("config.json: $.") and "\n" not in line for line in lines)
        rest = {line.removeprefix("config.json: ").split(": ")[0] for line in lines}
        assert rest == {
            "$.default_slurm_config.partition",
            "$.default_slurm_config.cpus_per_task",
            "$.default_slurm_config.mem",
            "$.default_slurm_config.time",
            "$.default_slurm_config.shebang_line",
            "$.default_slurm_config.extra_lines[1]",
            "$.gpu_slurm_config.partitions",
            "$.gpu_slurm_config.mem",
            "$.batching_config.max_cpus_per_job",
            '$.user_local_exports["1BAD"]',
            "$.user_local_exports.GOOD",
            "$.other",
        }

    @pytest.mark.parametrize(
        ("data", "expected"),
        [
            (
                config_data({"partitoin": "x"}),
                "$.default_slurm_config.partitoin: unknown key; did you mean 'partition'?",
            ),
            (config_data({"cpus": 1}), "$.default_slurm_config.cpus: unknown key; did you mean 'gpus'?"),
            (config_data(user_local_export={}), "$.user_local_export: unknown key; did you mean 'user_local_exp"),
            (config_data(batching_config={"max_jobs": 1}), "did you mean 'max_num_jobs'?"),
            (config_data(zzz=1), "$.zzz: unknown key; known keys are default_slurm_config, gpu_slurm_config"),
            (config_data(**{"[key]": 1}), '$["[key]"]: unknown key; known keys are'),
            (config_data({"a\nb": 1}), r'$.default_slurm_config["a\nb"]: unknown key'),
        ],
    )
    def test_names_the_nearest_known_key_for_an_unknown_one(self, data, expected):
        (line,) = faults(data)
        assert expected in line

    @pytest.mark.parametrize("section", ["default_slurm_config", "batching_config"])
    def test_says_which_section_is_missing(self, section):
        data = config_data()
        del data[section]
        assert faults(data) == [f"config.json: $.{section}: missing; it is required"]

    def test_refuses_every_target_over_its_maximum(self):
        lines = faults(
            config_data(
                batching_config={"target_cpus_per_job": 9, "target_mem_per_job": "8001M", "target_num_jobs": 11}
            )
        )
        assert lines == [
            "config.json: $.batching_config: target_cpus_per_job (9) is over max_cpus_per_job (8): "
            "lower the one or raise the other",
            "config.json: $.batching_config: target_mem_per_job (8001) is over max_mem_per_job (8000): "
            "lower the one or raise the other",
            "config.json: $.batching_config: target_num_jobs (11) is over max_num_jobs (10): "
            "lower the one or raise the other",
        ]

    def test_tells_the_writer_of_an_integer_time_to_quote_it(self):
        assert "quote it, YAML reads 10:00:00 as 36000" in fault_of_option("time", 36_000)

    @pytest.mark.parametrize("value", ["4 GB", "1.5G", 0, -1, True, 1.5, [], "1P"])
    def test_refuses_other_ways_to_write_memory(self, value):
        assert fault_of_option("mem", value).startswith("memory ")

    @pytest.mark.parametrize(
        "value",
        [0, -1, True, "x", "1_0", "+1", 1.5, [], {}, "٣", 10**13, pytest.param(16**5000, id="huge"), "9" * 5000],
    )
    def test_refuses_what_is_no_number_of_cpus(self, value):
        assert len(fault_of_option("cpus_per_task", value)) < 200

    @pytest.mark.parametrize("name", ["partition", "constraint", "gres", "account", "nodelist", "exclude"])
    def test_refuses_values_that_sbatch_would_read_otherwise(self, name):
        plain = ["", "a b", "-x", "a#b", "a'b", 'a"b', "a\\b", "a\u3000b"]
        for value in [*plain, "a\nb", "a\0b", "a\x85b", "a\u2028b", "a\ud800b"]:
            assert fault_of_option(name, value).startswith(name)

    @pytest.mark.parametrize(
        "value", ["n[1-3,7]", "gpu:a100:2", "a&b|c*2", "[rack1*2&rack2*4]", "(a|b)&!c", "ä", "x=y", "50%"]
    )
    def test_takes_values_as_slurm_writes_them(self, value):
        assert config_file({"constraint": value}).default_slurm_config.constraint == value

    @pytest.mark.parametrize("value", ["0", "-1", "1-", "1 2", "one", "1-0", True, 0, "1\n"])
    def test_refuses_what_is_no_number_of_nodes(self, value):
        fault_of_option("nodes", value)

    @pytest.mark.parametrize(
        "value", ["", "bash", "#/bin/sh", "!/bin/sh", "#!sh", "#!/bin/sh\nrm", " #!/bin/sh", "#!/bin/sh\r"]
    )
    def test_refuses_what_is_no_shebang_line(self, value):
        assert fault_of_option("shebang_line", value).startswith("shebang_line")

    @pytest.mark.parametrize("value", ["#!/bin/sh", "#! /bin/bash -l", "#!/usr/bin/env bash"])
    def test_takes_shebang_lines(self, value):
        assert config_file({"shebang_line": value}).default_slurm_config.shebang_line == value

    @pytest.mark.parametrize("name", ["extra_lines", "pre_submission_commands"])
    @pytest.mark.parametrize("line", ["a\nb", "a\rb", "a\0b", "a\x1bb", "a\x7fb", "a\x85b", "a\u2029b", "a\udc80b"])
    def test_refuses_control_characters_in_lines(self, name, line):
        assert "control character" in fault_of_option(name, [line])

    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("/abs", "is absolute"),
            ("..", "has '..' in it"),
            ("a/../b", "has '..' in it"),
            ("../a", "has '..' in it"),
            ("", "is empty"),
            ("  ", "is empty"),
            ("a\nb", "control character"),
        ],
    )
    def test_refuses_export_paths_that_leave_the_cache_dir(self, path, words):
        (line,) = faults(config_data(user_local_exports={"A": path}))
        assert line.startswith("config.json: $.user_local_exports.A: ")
        assert words in line

    @pytest.mark.parametrize("path", ["a", "a/b.json", "a b/c'd", "..a", "a..", "a/...", "$HOME", "~", ".hidden", "é"])
    def test_takes_export_paths_below_the_cache_dir(self, path):
        assert config_file(user_local_exports={"A": path}).user_local_exports == {"A": path}

    @pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "A-B", "A;id", "$(id)", "Ä", "A\n", "[key]", "A[0]"])
    def test_refuses_names_that_no_environment_variable_has(self, name):
        (line,) = faults(config_data(user_local_exports={name: "x"}))
        assert "is no name of an environment variable" in line

    @given(
        st.recursive(
            json_values,
            lambda children: st.dictionaries(st.sampled_from(FUZZED_KEYS) | any_texts, children, max_size=4),
        )
    )
    def test_gives_lines_for_whatever_it_is_given(self, data):
        _config, lines = outcome(parse_config, data, source="config.json")
        assert all(line.startswith("config.json: $") and "\n" not in line for line in lines)


class TestDumpConfig:
    def test_gives_the_keys_that_were_set_with_memory_in_megabytes(self):
        dumped = dump_config(config_file({"mem": "1G", "time": " 1:00:00 "}))
        assert dumped["default_slurm_config"] == {
            "partition": "main", "cpus_per_task": 1, "mem": 1_000, "time": "1:00:00"
        }  # fmt: skip
        assert set(dumped) == {"default_slurm_config", "batching_config"}

    def test_is_valid_and_stays_the_same(self):
        config = config_file(
            {"gpus": 1, "extra_lines": ["export A=1"]}, gpu_slurm_config={"gres": "gpu:1", "time": None},
            user_local_exports={"A": "b"},
        )  # fmt: skip
        text = json.dumps(dump_config(config))
        assert parse_config(json.loads(text), source="again") == config
        assert json.dumps(dump_config(parse_config(json.loads(text), source="again"))) == text


class TestConfigWarnings:
    def test_says_nothing_of_a_plain_file(self):
        assert config_warnings(config_file({"extra_lines": ["#SBATCH --qos=x", "export A=1"]})) == []

    def test_says_that_pre_submission_commands_belong_to_ssh(self):
        warnings = config_warnings(
            config_file({"pre_submission_commands": ["a"]}, gpu_slurm_config={"pre_submission_commands": ["b"]})
        )
        words = "has no effect here: it belongs to submission over SSH"
        assert warnings == [
            f"$.default_slurm_config.pre_submission_commands: {words}",
            f"$.gpu_slurm_config.pre_submission_commands: {words}",
        ]

    def test_says_that_a_repeated_line_is_kept_once(self):
        lines = ["b", "a", "b", "a", "b", "c"]
        assert config_warnings(config_file({"extra_lines": lines})) == [
            "$.default_slurm_config.extra_lines: 'b' stands twice; the first is kept",
            "$.default_slurm_config.extra_lines: 'a' stands twice; the first is kept",
        ]

    def test_says_that_an_indented_directive_is_a_comment(self):
        (warning,) = config_warnings(config_file({"extra_lines": [" #SBATCH --qos=x"]}))
        assert "has no effect: sbatch honours #SBATCH in capitals, at the start of a line" in warning


class TestJsonSchema:
    def test_is_a_schema_with_a_description_of_every_key(self):
        schema = json_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        for model in (schema, *schema["$defs"].values()):
            assert model["description"]
            assert model["additionalProperties"] is False
            for name, option in model["properties"].items():
                assert option.get("description"), name

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                "cpus_per_task": st.sampled_from([1, "2", " 3 ", 4.0, "04", 0, True, "x", 10**13]),
                "mem": st.sampled_from([1, "1", " 4G ", "2T", "1X", 1.5, None]),
                "time": st.sampled_from(["90", "1:30:00", " 1-12 ", "1-1:1:1", 90, "x", None]),
                "gpus": st.sampled_from([1, "1", "a100:2", "a b", None]),
                "nodes": st.sampled_from([1, "1-2", "x", None]),
                "use_mem_per_cpu": st.sampled_from([True, "true", "False", "YES", 0, 1.0, "maybe", None]) | any_texts,
                "extra_lines": st.lists(st.sampled_from(["export A=1", "#SBATCH --qos=x", 3]), max_size=2) | st.none(),
                "shebang_line": st.sampled_from(["#!/bin/sh", "x", None]),
                "other": st.integers(),
            },
        ),
        st.none()
        | st.dictionaries(st.sampled_from(["A", "B_1", "1"]), st.sampled_from(["a", "b/c", "/d"]), max_size=2),
    )
    def test_takes_all_that_the_model_takes(self, options, exports):
        data = config_data(options, user_local_exports=exports)
        try:
            parse_config(data, source="config.json")
        except ConfigFileError:
            return
        jsonschema.validate(data, json_schema())

    @pytest.mark.parametrize(
        "data",
        [{}, [], config_data({"other": 1}), config_data({"mem": "4 GB"}), config_data({"cpus_per_task": 0}),
         config_data({"time": 36_000}), config_data({"extra_lines": "x"}), config_data(other=1)],
    )  # fmt: skip
    def test_refuses_what_is_plainly_wrong(self, data):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, json_schema())


class TestLoadConfigFile:
    def test_reads_a_file(self, tmp_path):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config_data()), encoding="utf-8")
        assert load_config_file(path) == config_file()

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "it is empty"),
            (b" \n", "it is empty"),
            (b"{", "no JSON"),
            (b'{"a": 1,}', "no JSON"),
            (b"a: 1", "no JSON"),
            (b"{\xff}", "it is not UTF-8: save it as UTF-8"),
            ("{}".encode("utf-16"), "it is UTF-16: save it as UTF-8"),
            (b'{"a": 1, "a": 2}', "the key 'a' stands twice in one object: keep one"),
            (b'{"a": {"b": 1, "b": 1}}', "the key 'b' stands twice"),
            (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
            (b"[" * 100_000, "nested too deeply"),
            (b"{}\0", "no JSON"),
        ],
    )
    def test_says_why_a_file_is_no_json(self, tmp_path, content, words):
        path = tmp_path / "config.json"
        path.write_bytes(content)
        with pytest.raises(ConfigFileError) as caught:
            load_config_file(path)
        (line,) = caught.value.messages
        assert line.startswith(str(path))
        assert words in line

    def test_takes_a_byte_order_mark(self, tmp_path):
        path = tmp_path / "config.json"
        path.write_bytes(b"\xef\xbb\xbf" + json.dumps(config_data()).encode())
        assert load_config_file(path) == config_file()

    def test_tells_line_and_column_of_broken_json(self, tmp_path):
        path = tmp_path / "config.json"
        path.write_text('{\n  "a": nothing\n}', encoding="utf-8")
        with pytest.raises(ConfigFileError, match=r"config\.json:2:8: no JSON"):
            load_config_file(path)

    def test_says_that_a_file_is_not_there(self, tmp_path):
        with pytest.raises(ConfigFileError, match="can't be read: No such file or directory"):
            load_config_file(tmp_path / "nowhere.json")
        with pytest.raises(ConfigFileError, match="can't be read: Is a directory"):
            load_config_file(tmp_path)


class TestBounds:
    def test_reads_no_more_than_a_config_can_have(self, tmp_path):
        path = tmp_path / "large.json"
        path.write_bytes(b" " * (1 << 24) + b"{}")
        _config, messages = outcome(load_config_file, path)
        assert messages == [f"{path}: can't be read: it is larger than {1 << 24} bytes"]

    def test_a_path_with_a_nul(self):
        _config, messages = outcome(load_config_file, "a\0b")
        assert messages == ["'a\\x00b': can't be read: embedded null byte"]
