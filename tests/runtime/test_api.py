# SPDX-License-Identifier: GPL-3.0-or-later
import dataclasses
import inspect
import json
from pathlib import Path

import pytest
from fractal_slurm import api
from samples import config_data, slurm_config


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

    @pytest.mark.parametrize(
        "call",
        [
            lambda config: api.resolve(config, task_name=None, tot_tasks=1),
            lambda config: api.resolve(config, task_name="a task", account=5, tot_tasks=1),
            lambda config: api.resolve({}, task_name="a task", tot_tasks=1),
            lambda config: api.resolve(config, task_name="a task", task_meta="x", tot_tasks=1),
            lambda _config: api.load_config_file(None),
            lambda _config: api.format_walltime("1"),
            lambda _config: api.format_walltime(-1),
            lambda _config: api.heuristics(**NUMBERS, needs_gpu="false"),
            lambda _config: api.Engine(5),
            lambda _config: api.Engine(max_runs=0),
        ],
    )
    def test_says_what_it_can_not_use(self, call):
        config = api.parse_config(config_data(), source="a dict")
        with pytest.raises(api.FractalSlurmError) as raised:
            call(config)
        assert "allowed" in str(raised.value) or "must be" in str(raised.value)


NUMBERS = {
    "tot_tasks": 1, "cpus_per_task": 1, "mem_per_task": 1, "target_cpus_per_job": 1, "max_cpus_per_job": 1,
    "target_mem_per_job": 1, "max_mem_per_job": 1, "target_num_jobs": 1, "max_num_jobs": 1,
}  # fmt: skip


class TestEngine:
    """What the engine refuses before it makes anything. Runs on a real SLURM are in tests/slurm/test_engine.py."""

    @pytest.fixture
    def engine(self, tmp_path):
        return api.Engine(api.Settings(state_dir=str(tmp_path / "state"), slurm_bin_dir=str(tmp_path)))

    @pytest.fixture
    def request_(self):
        return api.RunRequest("anna", "a task", "true", [{}], slurm_config(), "/cache", "/work")

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"user": None}, ["user: found nothing; a text is allowed"]),
            ({"task_name": 5, "cache_dir": Path("/x")}, ["task_name: found 5; ", "cache_dir: found PosixPath('/x'); "]),
            ({"work_dir": None}, ["work_dir: found nothing; a text is allowed"]),
            *(({"command": command}, ["command: found "]) for command in (None, [], [""], [1], b"true", {"a": 1})),
            ({"parameters": None}, ["parameters: found nothing; "]),
            ({"config": {}}, ["config: found {}; a SlurmConfig is allowed, "]),
            ({"labels": None}, ["labels: found nothing; "]),
            ({"labels": {1: 2}}, ["labels: found {1: 2}; "]),
            ({"labels": {"a": {1}}}, ["labels: the value of 'a' can't be written as JSON: "]),
            (
                {"labels": {"a": object(), "b": float("nan")}},
                ["labels: the value of 'a' ", "labels: the value of 'b' "],
            ),
        ],
    )
    def test_says_which_value_of_a_request_has_a_wrong_type(self, engine, request_, tmp_path, values, words):
        with pytest.raises(api.SpecError) as raised:
            engine.start(dataclasses.replace(request_, **values))
        assert len(raised.value.messages) == len(words)
        assert all(message.startswith(each) for message, each in zip(raised.value.messages, words, strict=True))
        assert not (tmp_path / "state").exists()

    def test_says_what_else_it_can_not_use(self, engine, request_):
        for call in (
            lambda: engine.start({}),
            lambda: engine.start(request_, on_task_end=5),
            lambda: engine.start(request_, say=5),
            lambda: engine.resume("20261127-041608-5faa1d", on_end=5),
        ):
            with pytest.raises(TypeError, match="allowed"):
                call()
        for run_id in (None, 5, "", "../x", "a/b"):
            with pytest.raises(api.RunError, match="is no id of a run"):
                engine.resume(run_id)
            with pytest.raises(api.RunError, match="is no id of a run"):
                engine.set_labels(run_id, {})
        with pytest.raises(api.SpecError, match="labels: "):
            engine.set_labels("20261127-041608-5faa1d", {"a": {1}})

    def test_refuses_words_that_are_no_way_to_end_and_takes_runs_after_that(self, engine):
        for how in ("", "now", None):
            with pytest.raises(ValueError, match="allowed are wait, cancel, leave"):
                engine.shutdown(how)
        with pytest.raises(api.RunError):
            engine.resume("20261127-041608-5faa1d")
        assert engine.shutdown("leave")
        with pytest.raises(RuntimeError, match="was shut down"):
            engine.resume("20261127-041608-5faa1d")

    def test_says_in_a_child_process_that_it_is_its_parents(self, engine, request_, monkeypatch):
        monkeypatch.setattr(engine, "_pid", 1)
        for call in (lambda: engine.start(request_), lambda: engine.resume("x"), engine.shutdown):
            with pytest.raises(RuntimeError, match="made by another process"):
                call()
