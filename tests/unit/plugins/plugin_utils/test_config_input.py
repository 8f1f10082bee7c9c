# SPDX-License-Identifier: GPL-3.0-or-later
"""Configurations from variables, files and templates."""

from __future__ import annotations

import json

import pytest
from ansible.errors import AnsibleError
from ansible_collections.fractal.slurm.plugins.plugin_utils import config_input

CONFIG = {
    "default_slurm_config": {"partition": "main", "cpus_per_task": "2", "mem": "1G", "time": "01:00:00"},
    "batching_config": {
        "target_cpus_per_job": 8,
        "max_cpus_per_job": 16,
        "target_mem_per_job": "16G",
        "max_mem_per_job": "32G",
        "target_num_jobs": 4,
        "max_num_jobs": 10,
    },
}


class TestParseText:
    def test_reads_yaml_and_json(self):
        assert config_input.parse_text("a: [1, 2]\n", "x.yml") == {"a": [1, 2]}
        assert config_input.parse_text('{"a": 1}', "x.json") == {"a": 1}

    @pytest.mark.parametrize("source", ["x.yml", "x.json"])
    def test_refuses_a_key_that_stands_twice(self, source):
        with pytest.raises(ValueError, match="'a' stands twice"):
            config_input.parse_text('{"a": 1, "a": 2}', source)

    def test_says_where_yaml_ends(self):
        with pytest.raises(ValueError, match=r"^x.yml:3:1: no YAML"):
            config_input.parse_text("a: 1\nb: [\n", "x.yml")

    def test_makes_no_objects(self):
        with pytest.raises(ValueError, match="no YAML"):
            config_input.parse_text("!!python/object/apply:os.system [id]", "x.yml")


class TestWithHook:
    HOOK = "/opt/fractal-slurm/current/share/fractal-slurm/node/fractal-job.sh"
    LINE = f"[ ! -r {HOOK} ] || . {HOOK}"

    def test_puts_its_line_first(self):
        config = {"default_slurm_config": {"extra_lines": ["module load x"]}, "gpu_slurm_config": {"gres": "gpu:1"}}
        changed = config_input.with_hook(config, self.HOOK)
        assert changed["default_slurm_config"]["extra_lines"] == [self.LINE, "module load x"]
        assert changed["gpu_slurm_config"] == {"gres": "gpu:1"}
        assert config["default_slurm_config"]["extra_lines"] == ["module load x"]

    def test_puts_it_where_lines_of_the_gpu_section_take_the_place_of_the_others(self):
        config = {"default_slurm_config": {}, "gpu_slurm_config": {"extra_lines": []}}
        changed = config_input.with_hook(config, self.HOOK)
        assert [section["extra_lines"] for section in changed.values()] == [[self.LINE]] * 2

    def test_puts_it_once(self):
        config = {"default_slurm_config": {"extra_lines": ["a", self.LINE, f". {self.HOOK}"]}}
        changed = config_input.with_hook(config, self.HOOK)
        assert changed["default_slurm_config"]["extra_lines"] == [self.LINE, "a"]
        assert config_input.with_hook(changed, self.HOOK) == changed

    def test_leaves_alone_what_has_none(self):
        config = {"default_slurm_config": {"extra_lines": [f". {self.HOOK}"]}}
        assert config_input.with_hook(config, "") is config

    @pytest.mark.parametrize(
        "config", [None, [], {"default_slurm_config": 5}, {"default_slurm_config": {"extra_lines": 5}}]
    )
    def test_leaves_faults_to_the_model(self, config):
        assert config_input.with_hook(config, self.HOOK) == config

    @pytest.mark.parametrize("path", ["fractal-job.sh", "/a b/fractal-job.sh", "/a;b", "/a\nb"])
    def test_refuses_a_path_that_a_shell_would_read_otherwise(self, path):
        with pytest.raises(ValueError, match="fractal_slurm_config_job_hook_path"):
            config_input.with_hook({}, path)


class TestCheck:
    def test_gives_the_models_own_dump(self):
        checked = config_input.check(CONFIG, "test")
        assert checked.config["default_slurm_config"]["mem"] == 1000
        assert checked.config["default_slurm_config"]["cpus_per_task"] == 2
        assert json.loads(checked.text) == checked.config
        assert checked.text.endswith("}\n")

    def test_text_and_mapping_come_to_the_same(self):
        assert config_input.check(json.dumps(CONFIG), "test").text == config_input.check(CONFIG, "test").text

    def test_reports_every_fault_with_its_path(self):
        with pytest.raises(ValueError, match=r"(?s)\$\.default_slurm_config.*\n.*\$\.batching_config"):
            config_input.check({"default_slurm_config": {"partition": "main"}}, "test")

    def test_says_to_quote_times(self):
        data = {**CONFIG, "default_slurm_config": {**CONFIG["default_slurm_config"], "time": 36000}}
        with pytest.raises(ValueError, match="quote it, YAML reads 10:00:00 as 36000"):
            config_input.check(data, "test")


class TestLoad:
    def load(self, arguments, **options):
        def unexpected(*_arguments):
            raise AssertionError("not asked for")

        hooks = {"find": unexpected, "real_file": unexpected, "render": unexpected, **options}
        return config_input.load(arguments, "host1", **hooks)

    def test_takes_a_variable(self):
        assert self.load({"content": CONFIG}).config["default_slurm_config"]["partition"] == "main"

    def test_takes_a_file(self, tmp_path):
        path = tmp_path / "slurm.yml"
        path.write_text(json.dumps(CONFIG))
        checked = self.load({"src": "slurm.yml"}, find=lambda _kind, _name: str(path), real_file=lambda name: name)
        assert checked.config["default_slurm_config"]["partition"] == "main"

    def test_takes_a_template(self):
        assert self.load({"template": "x.j2"}, render=lambda _name: json.dumps(CONFIG)).config

    @pytest.mark.parametrize("arguments", [{}, {"content": None}, {"content": CONFIG, "src": "x"}])
    def test_wants_exactly_one(self, arguments):
        with pytest.raises(ValueError, match="exactly one of content, src, template"):
            self.load(arguments)

    def test_names_the_host_in_faults(self):
        with pytest.raises(ValueError, match="the configuration of host1"):
            self.load({"content": {}})

    def from_file(self, tmp_path, content):
        path = tmp_path / "slurm.yml"
        path.write_bytes(content)
        return self.load({"src": "slurm.yml"}, find=lambda _kind, _name: str(path), real_file=lambda name: name)

    def test_takes_a_file_that_begins_with_the_mark_of_an_editor(self, tmp_path):
        assert self.from_file(tmp_path, b"\xef\xbb\xbf" + json.dumps(CONFIG).encode()).config

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
    def test_names_a_file_in_another_encoding(self, tmp_path, encoding):
        text = json.dumps({**CONFIG, "note": "ä"}, ensure_ascii=False)
        with pytest.raises(ValueError, match=r"slurm\.yml: is no UTF-8 text.*save it as UTF-8"):
            self.from_file(tmp_path, text.encode(encoding))

    def test_says_what_the_system_says_of_a_file(self, tmp_path):
        with pytest.raises(ValueError, match=r"host1: .*: Is a directory"):
            self.load({"src": "x"}, find=lambda _kind, _name: str(tmp_path), real_file=lambda name: name)

    def test_says_why_a_template_can_not_be_rendered(self):
        def render(_name):
            raise AnsibleError("'lab' is undefined")

        with pytest.raises(ValueError, match=r"host1: x\.j2: 'lab' is undefined"):
            self.load({"template": "x.j2"}, render=render)
