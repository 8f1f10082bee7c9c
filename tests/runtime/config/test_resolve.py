# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from fractal_slurm.config.batching import Branch
from fractal_slurm.config.file import parse_config
from fractal_slurm.config.resolve import (
    BATCHING_CONFIG,
    BUILT_IN,
    DEFAULT_SLURM_CONFIG,
    GPU_SLURM_CONFIG,
    HEURISTICS,
    TASK_META,
    USER_SETTINGS,
    WORKFLOW_TASK_META,
    resolve,
)
from fractal_slurm.errors import BatchingError, SpecError
from hypothesis import given
from hypothesis import strategies as st
from samples import config_data, config_file, json_objects, json_values, outcome, vectors


def merge(file=None, *, task=None, workflow=None, **kwargs):
    """Resolve a small task."""
    return resolve(
        file or config_file(),
        **{"task_name": "Measure", "tot_tasks": 4, "task_meta": task, "workflow_task_meta": workflow, **kwargs},
    )


def faults(**kwargs):
    """The lines with which a merge is refused."""
    with pytest.raises(SpecError) as caught:
        merge(**kwargs)
    return caught.value.messages


class TestResolve:
    @pytest.mark.parametrize("name", ["merge", "merge-2.26"])
    def test_agrees_with_the_vectors(self, name):
        wrong = []
        for row in vectors(name):
            file = parse_config(row["config_file"], source="config.json")
            names = ("task_name", "task_meta", "workflow_task_meta", "tot_tasks")
            resolution, messages = outcome(resolve, file, **{name: row[name] for name in names})
            expected = row["expected"]
            if "error" in expected:
                found = {"error": expected["error"]} if messages else vars(resolution.config)
            else:
                found = {name: getattr(resolution.config, name) for name in expected}
                # fractal-server loses the order of these
                for lines in (found, expected):
                    lines["extra_lines"] = sorted(lines.get("extra_lines", []))
            if found != expected:
                wrong.append((row, found))
        assert wrong == []

    def test_follows_the_order_of_priority_and_names_each_source(self):
        file = config_file(
            {"constraint": "a", "gres": "a", "exclude": "a", "nodelist": "a"},
            gpu_slurm_config={"partition": "gpu", "gres": "b", "exclude": "b", "nodelist": "b"},
        )
        resolution = merge(
            file,
            task={"needs_gpu": True, "exclude": "c", "nodelist": "c", "cpus_per_task": 2},
            workflow={"nodelist": "d", "mem": "200M"},
        )
        config, sources = resolution.config, resolution.sources
        assert (config.constraint, sources["constraint"]) == ("a", DEFAULT_SLURM_CONFIG)
        assert (config.gres, sources["gres"]) == ("b", GPU_SLURM_CONFIG)
        assert (config.partition, sources["partition"]) == ("gpu", GPU_SLURM_CONFIG)
        assert (config.exclude, sources["exclude"]) == ("c", TASK_META)
        assert (config.cpus_per_task, sources["cpus_per_task"]) == (2, TASK_META)
        assert (config.nodelist, sources["nodelist"]) == ("d", WORKFLOW_TASK_META)
        assert (config.mem_per_task_MB, sources["mem_per_task_MB"]) == (200, WORKFLOW_TASK_META)
        assert (config.max_num_jobs, sources["max_num_jobs"]) == (10, BATCHING_CONFIG)
        assert (config.tasks_per_job, sources["tasks_per_job"]) == (2, HEURISTICS)
        assert (config.shebang_line, sources["shebang_line"]) == ("#!/bin/sh", BUILT_IN)
        assert set(sources) >= set(vars(config))

    def test_tells_what_lost_against_each_value_the_highest_first(self):
        file = config_file(
            {"gres": "a", "extra_lines": ["export A=1"], "account": "lab", "time": "1:00:00"},
            gpu_slurm_config={"gres": "b", "extra_lines": ["export B=1"]},
        )
        resolution = merge(
            file,
            task={"needs_gpu": True, "gres": "c", "extra_lines": ["export C=1"], "mem": "2G"},
            workflow={"gres": None, "extra_lines": ["export D=1"], "time": "10", "parallel_tasks_per_job": 2,
                      "tasks_per_job": 2},
            account="mine",
        )  # fmt: skip
        assert resolution.overridden == {
            "gres": [(TASK_META, "c"), (GPU_SLURM_CONFIG, "b"), (DEFAULT_SLURM_CONFIG, "a")],
            "extra_lines": [(TASK_META, ["export C=1"]), (DEFAULT_SLURM_CONFIG, ["export A=1"])],
            "mem_per_task_MB": [(DEFAULT_SLURM_CONFIG, 100)],
            "time": [(DEFAULT_SLURM_CONFIG, "1:00:00")],
            "account": [(DEFAULT_SLURM_CONFIG, "lab")],
            "parallel_tasks_per_job": [(WORKFLOW_TASK_META, 2)],
        }
        assert merge().overridden == {}

    def test_takes_the_partition_from_a_meta(self):
        assert merge(task={"partition": "a"}, workflow={"partition": "b"}).config.partition == "b"

    def test_shows_the_example_of_the_specification(self):
        config = merge(task={"cpus_per_task": 2, "mem": "4G"}, workflow={"cpus_per_task": 3}).config
        assert (config.cpus_per_task, config.mem_per_task_MB) == (3, 4_000)

    @given(data=st.data())
    def test_the_highest_layer_that_sets_a_value_wins_and_is_named(self, data):
        words = st.sampled_from(["a", "b", "c", "d"])
        option = st.sampled_from(["partition", "constraint", "gres", "nodelist", "exclude"])
        default, gpu, task, workflow = (
            data.draw(st.dictionaries(option, words, max_size=5), label=name)
            for name in ("default", "gpu", "task", "workflow")
        )
        gpu_by = data.draw(st.sampled_from([None, "task", "workflow", "workflow refuses"]), label="needs_gpu")
        task_meta, workflow_meta = dict(task), dict(workflow)
        if gpu_by is not None:
            (task_meta if gpu_by == "task" else workflow_meta)["needs_gpu"] = gpu_by != "workflow refuses"
        if gpu_by == "workflow refuses":
            task_meta["needs_gpu"] = True
        resolution = merge(config_file(default, gpu_slurm_config=gpu), task=task_meta, workflow=workflow_meta)
        layers = [(WORKFLOW_TASK_META, workflow), (TASK_META, task)]
        if gpu_by in ("task", "workflow"):
            layers.append((GPU_SLURM_CONFIG, gpu))
        layers += [(DEFAULT_SLURM_CONFIG, {"partition": "main"} | default), (BUILT_IN, {})]
        for name in ("partition", "constraint", "gres", "nodelist", "exclude"):
            source, layer = next((s, layer) for s, layer in layers if name in layer or s == BUILT_IN)
            assert getattr(resolution.config, name) == layer.get(name)
            assert resolution.sources[name] == source

    @pytest.mark.parametrize("meta", ["task", "workflow"])
    def test_refuses_an_account_in_a_meta(self, meta):
        (line,) = faults(**{meta: {"account": "x"}})
        assert line.endswith(
            "$.account: account is not allowed in a meta: the account comes from the user's settings or from the "
            "config file"
        )

    def test_takes_the_account_from_the_users_settings_or_else_from_the_file(self):
        file = config_file({"account": "lab"})
        assert merge().config.account is None
        assert (merge(file).config.account, merge(file).sources["account"]) == ("lab", DEFAULT_SLURM_CONFIG)
        resolution = merge(file, account="mine")
        assert (resolution.config.account, resolution.sources["account"]) == ("mine", USER_SETTINGS)

    @pytest.mark.parametrize("account", ["a b", "a\nb", "", "-x", "a#b"])
    def test_refuses_an_account_that_is_no_word(self, account):
        assert faults(account=account)[0].startswith("account ")

    def test_warns_where_a_gpu_is_needed_and_the_file_has_no_gpu_slurm_config(self):
        resolution = merge(task={"needs_gpu": True})
        assert resolution.warnings == [
            "needs_gpu is set, but the config file has no gpu_slurm_config: the default one is used"
        ]
        assert resolution.config.partition == "main"
        assert merge(task={"needs_gpu": False}).warnings == []

    @pytest.mark.parametrize(("value", "needed"), [("true", True), ("True", True), ("FALSE", False), ("false", False)])
    def test_reads_needs_gpu_as_a_string_too(self, value, needed):
        file = config_file(gpu_slurm_config={"partition": "gpu"})
        config = merge(file, workflow={"needs_gpu": value}).config
        assert (config.needs_gpu, config.partition) == (needed, "gpu" if needed else "main")

    @pytest.mark.parametrize("value", ["yes", "1", "", 1, 0, [True]])
    def test_refuses_what_is_no_answer_to_needs_gpu(self, value):
        assert "$.needs_gpu" in faults(task={"needs_gpu": value})[0]

    def test_warns_where_given_parallel_tasks_would_share_a_gpu(self):
        given = {"tasks_per_job": 4, "parallel_tasks_per_job": 2}
        resolution = merge(config_file(gpu_slurm_config={}), task={"needs_gpu": True}, workflow=given)
        assert (resolution.config.tasks_per_job, resolution.config.parallel_tasks_per_job) == (4, 1)
        assert resolution.warnings == [
            "parallel_tasks_per_job (2, WorkflowTask.meta) has no effect: with needs_gpu a job runs one task at a time"
        ]

    def test_does_without_the_gpu_slurm_config_where_no_gpu_is_needed(self):
        file = config_file(gpu_slurm_config={"partition": "gpu"})
        assert merge(file).config.partition == "main"
        assert merge(file, task={"needs_gpu": True}, workflow={"needs_gpu": False}).config.partition == "main"
        assert merge(file, task={"needs_gpu": None}).config.partition == "main"

    def test_null_unsets_an_optional_value_and_leaves_a_required_one(self):
        file = config_file(
            {"time": "1:00:00", "gres": "x"},
            gpu_slurm_config={"partition": None, "mem": None, "cpus_per_task": None, "gres": None},
        )
        resolution = merge(file, workflow={"time": None, "needs_gpu": True, "tasks_per_job": None})
        config = resolution.config
        assert (config.time, config.gres) == (None, None)
        assert resolution.sources["time"] == WORKFLOW_TASK_META
        assert (config.partition, config.mem_per_task_MB, config.cpus_per_task) == ("main", 100, 1)
        assert resolution.sources["partition"] == DEFAULT_SLURM_CONFIG

    @pytest.mark.parametrize("name", ["partition", "cpus_per_task", "mem"])
    def test_refuses_null_for_what_a_job_cannot_do_without(self, name):
        assert "it is required: leave it out" in faults(task={name: None})[0]

    def test_keeps_the_files_lines_before_the_metas_each_at_its_first_place(self):
        file = config_file({"extra_lines": ["export B=1", "export A=1", "export B=1"]})
        resolution = merge(file, workflow={"extra_lines": ["export C=1", "export A=1"]})
        assert resolution.config.extra_lines == ["export B=1", "export A=1", "export C=1"]
        assert resolution.sources["extra_lines"] == f"{DEFAULT_SLURM_CONFIG}, {WORKFLOW_TASK_META}"

    def test_takes_lines_of_the_higher_layer_of_the_file_and_of_the_metas(self):
        file = config_file({"extra_lines": ["a"]}, gpu_slurm_config={"extra_lines": ["b"]})
        resolution = merge(file, task={"extra_lines": ["c"], "needs_gpu": True}, workflow={"extra_lines": ["d"]})
        assert resolution.config.extra_lines == ["b", "d"]
        assert merge().sources["extra_lines"] == BUILT_IN

    @given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("cdef")))
    def test_merges_any_lines_without_losing_their_order(self, in_file, in_meta):
        merged = merge(config_file({"extra_lines": in_file}), task={"extra_lines": in_meta}).config.extra_lines
        everything = in_file + in_meta
        assert sorted(merged) == sorted(set(everything))
        assert merged == sorted(merged, key=everything.index)

    def test_names_every_fault_of_both_metas_at_once(self):
        lines = faults(
            task={
                "mem": "4 GB",
                "time": 36_000,
                "account": "x",
                "cpus_per_task": 0,
                "partition": "a b",
                "nodes": "one",
                "extra_lines": ["#SBATCH -J x"],
            },
            workflow={"gpus": True, "needs_gpu": "yes", "extra_lines": "export A=1", "tasks_per_job": 1.5},
            task_name=" ",
        )
        assert [line.split(": ")[:2] for line in lines] == [
            *(["task.meta", f"$.{name}"] for name in ("mem", "time", "account", "cpus_per_task", "partition", "nodes")),
            ["task.meta", "$.extra_lines[0]"],
            *(["WorkflowTask.meta", f"$.{name}"] for name in ("gpus", "needs_gpu", "extra_lines", "tasks_per_job")),
            ["task", "$.name"],
        ]
        assert "quote it, YAML reads 10:00:00 as 36000" in lines[1]

    @pytest.mark.parametrize("meta", [[], "x", 3, True])
    def test_refuses_a_meta_that_is_no_object(self, meta):
        assert faults(task=meta)[0].endswith("an object is allowed")

    @pytest.mark.parametrize("name", ["partition", "constraint", "gres", "gpus", "nodelist", "exclude", "nodes"])
    def test_refuses_values_that_could_change_a_script(self, name):
        words = ["a\nb", "a\0b", "a\u2028b", "a\ud800b", "a b", "-x", "x#y", ""]
        for value in [*words, 16**5000, [], {}, True, 1.5]:
            (line,) = faults(task={name: value})
            assert line.startswith(f"task.meta: $.{name}: ")
            assert "\n" not in line

    @pytest.mark.parametrize("name", ["a\nb", "a\0", "\ud800", "", " "])
    def test_refuses_a_task_name_with_control_characters_or_none(self, name):
        assert faults(task_name=name)[0].startswith("task: $.name:")

    @pytest.mark.parametrize(
        "value", [10**13, "9" * 5000, pytest.param(16**5000, id="huge"), "٣", -1, "1.0", "", "1\x1f"]
    )
    def test_refuses_numbers_beyond_reason(self, value):
        assert "an integer from 1 to" in faults(task={"cpus_per_task": value})[0]

    def test_passes_over_keys_that_are_not_ours_and_warns_of_near_ones(self):
        resolution = merge(
            task={"plate": 3, "cpus_per_tasks": 2, "use_mem_per_cpu": True, "a\nb": 1},
            workflow={"user_local_exports": {}, 3: 4},
        )
        assert resolution.warnings == [
            "task.meta: $.cpus_per_tasks: unknown key, ignored; did you mean 'cpus_per_task'?",
            "task.meta: $.use_mem_per_cpu: has no effect: it is read from the config file only",
            "WorkflowTask.meta: $.user_local_exports: has no effect: it is read from the config file only",
        ]

    def test_warns_of_lines_that_only_look_like_directives(self):
        (warning,) = merge(task={"extra_lines": [" #SBATCH --qos=x"]}).warnings
        assert warning.startswith("task.meta: $.extra_lines: ' #SBATCH --qos=x' has no effect")

    def test_warns_where_gpus_are_asked_for_twice(self):
        (warning,) = merge(task={"gres": "gpu:1", "gpus": 1}).warnings
        assert "SLURM adds them up" in warning

    def test_keeps_given_batching_values_and_their_sources(self):
        resolution = merge(task={"tasks_per_job": "4"}, workflow={"parallel_tasks_per_job": 2})
        assert resolution.batching.branch is Branch.GIVEN
        assert (resolution.config.tasks_per_job, resolution.config.parallel_tasks_per_job) == (4, 2)
        assert resolution.sources["tasks_per_job"] == TASK_META
        assert resolution.sources["parallel_tasks_per_job"] == WORKFLOW_TASK_META

    def test_refuses_one_batching_value_without_the_other(self):
        with pytest.raises(BatchingError, match="together or not at all"):
            merge(task={"tasks_per_job": 4})

    def test_makes_a_job_name_without_blanks(self):
        assert merge(task_name="Convert to OME-Zarr").config.job_name == "Convert_to_OME-Zarr"

    def test_reads_options_of_the_file_only_from_the_file(self):
        file = config_file(
            {"use_mem_per_cpu": True, "shebang_line": "#!/bin/bash", "pre_submission_commands": ["x"]},
            user_local_exports={"A": "b"},
        )
        config = merge(file).config
        assert (config.use_mem_per_cpu, config.shebang_line) == (True, "#!/bin/bash")
        assert config.user_local_exports == {"A": "b"}
        assert merge(file).sources["user_local_exports"] == "user_local_exports"

    @given(json_objects | st.dictionaries(st.sampled_from(["mem", "time", "gpus", "extra_lines"]), json_values))
    def test_merges_any_meta_or_refuses_in_words(self, meta):
        _resolution, lines = outcome(merge, task=meta)
        assert all(line.startswith("task.meta: $.") and "\n" not in line for line in lines)

    def test_leaves_the_config_file_as_it_was(self):
        file = config_file({"extra_lines": ["a"]}, user_local_exports={"A": "b"})
        config = merge(file, task={"extra_lines": ["b"]}).config
        config.extra_lines.append("c")
        config.user_local_exports["B"] = "c"
        assert file == parse_config(
            config_data({"extra_lines": ["a"]}, user_local_exports={"A": "b"}), source="config.json"
        )


class TestTimeS:
    def test_gives_the_time_of_a_task_in_seconds(self):
        assert merge(task={"time": "1:30:00"}).config.time_s == 5_400
        assert merge().config.time_s is None
