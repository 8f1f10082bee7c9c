# SPDX-License-Identifier: GPL-3.0-or-later
import importlib
import json
import types

import pytest
from fractal_slurm.api import ClusterError, RunEnd, TaskEnd

CONFIG = {
    "partition": "main", "cpus_per_task": 1, "mem_per_task_MB": 100, "prefix": "#SBATCH", "shebang_line": "#!/bin/sh",
    "use_mem_per_cpu": False, "job_name": None, "constraint": None, "gres": None, "gpus": None, "time": "01:00:00",
    "account": "acc", "nodelist": None, "nodes": 2, "exclude": None, "needs_gpu": False,
    "extra_lines": [
        "#SBATCH -q x", "", ". /opt/share/fractal-job.sh", "[ ! -r /o/fractal-job.sh ] || . /o/fractal-job.sh",
    ], "user_local_exports": {"A": "b"},
    "tasks_per_job": 3, "parallel_tasks_per_job": 2, "target_cpus_per_job": 1, "max_cpus_per_job": 1,
    "target_mem_per_job": 1, "max_mem_per_job": 1, "target_num_jobs": 1, "max_num_jobs": 1,
}  # fmt: skip


class Config(types.SimpleNamespace):
    def model_dump(self):
        return dict(vars(self))


class Engine:
    """Ends each task as it is told to."""

    def __init__(self, ends=(), error=None, waits=0):
        self.ends, self.error, self.waits, self.requests, self.labels = ends, error, waits, [], {}
        self.cancelled = False

    def start(self, request, *, on_task_end, say):
        self.requests.append(request)
        if self.error:
            raise self.error
        self.on_task_end = on_task_end
        say(self.says)
        return self

    run_id = "RUN"
    settings = types.SimpleNamespace(task_logs="joined")
    says = "a sentence"
    end = RunEnd("RUN", "done", 0, 0, 0, (4, 5))

    def wait(self, _seconds):
        self.waits -= 1
        if self.waits >= 0:
            raise TimeoutError
        for end in self.ends:
            self.on_task_end(end)
        return self.end

    def cancel(self):
        self.cancelled = True

    def job_ids(self):
        return (4, 5)

    def running(self):
        return []

    def script(self):
        return "#!/bin/sh\n"

    def logs(self, tasks):
        return dict.fromkeys(tasks, b"log")

    def set_labels(self, run_id, labels):
        self.labels = labels


def files(tmp_path, component):
    return types.SimpleNamespace(
        wftask_subfolder_local=tmp_path / "jobs/1_measure", wftask_subfolder_remote="/cache/.fractal_cache/j/1_measure",
        prefix_component=f"par-000000-{component}",
    )  # fmt: skip


@pytest.fixture
def begin(server, tmp_path, monkeypatch):
    """A runner on an engine of the test's own."""
    module = importlib.import_module("fractal_slurm_server.runner")
    monkeypatch.setattr(module, "owner", lambda: types.SimpleNamespace(name="me", note=server.statuses.append))

    def begin(engine):
        monkeypatch.setattr(module, "engine", lambda _python: engine)
        runner = module.EngineRunner(
            root_dir_local=tmp_path / "jobs", root_dir_remote=tmp_path / "remote", user_cache_dir="/cache/an a",
            profile=types.SimpleNamespace(username="ann"),
            resource=types.SimpleNamespace(jobs_slurm_python_worker="/usr/bin/python3", id=3), fractal_job_id=7,
        )  # fmt: skip
        assert server.statuses.pop() == 7  # noted, so that it is found after a crash
        return runner

    return begin


def multisubmit(runner, tmp_path, number, **changes):
    arguments = {
        "base_command": "/usr/bin/python3 /opt/measure.py", "workflow_task_order": 1, "workflow_task_id": 22,
        "task_name": "Measure it", "list_parameters": [{"zarr_url": f"/z/{n}"} for n in range(number)],
        "history_unit_ids": list(range(100, 100 + number)),
        "list_task_files": [files(tmp_path, n) for n in range(number)], "task_type": "parallel",
        "config": Config(**CONFIG), "user_id": 5,
    }  # fmt: skip
    return runner.multisubmit(**{**arguments, **changes})


def submit(runner, tmp_path, **changes):
    arguments = {
        "base_command": "true", "workflow_task_order": 0, "workflow_task_id": 22, "task_name": "Convert",
        "parameters": {"zarr_dir": "/z"}, "history_unit_id": 9, "task_files": files(tmp_path, ""),
        "config": Config(**CONFIG), "task_type": "converter_non_parallel", "user_id": 5,
    }  # fmt: skip
    return runner.submit(**{**arguments, **changes})


class TestEngineRunner:
    def test_maps_what_fractal_server_resolved_and_resolves_nothing(self, begin, server, tmp_path):
        engine = Engine([TaskEnd("RUN", n, "succeeded", out={"n": n}) for n in range(2)])
        assert multisubmit(begin(engine), tmp_path, 2) == ({0: {"n": 0}, 1: {"n": 1}}, {})
        (request,) = engine.requests
        assert (request.user, request.command) == ("ann", "/usr/bin/python3 /opt/measure.py")
        assert request.work_dir == str(tmp_path / "remote")  # of the job, not of one of its tasks
        config = request.config
        assert (config.tasks_per_job, config.parallel_tasks_per_job, config.time) == (3, 2, "01:00:00")
        assert (config.account, config.job_name) == ("acc", "Measure_it")
        assert config.extra_lines == ["#SBATCH -q x"]
        assert request.cache_dir == "/cache/an a"
        assert json.loads((tmp_path / "jobs/1_measure/par-000000-1-args.json").read_text()) == {"zarr_url": "/z/1"}
        assert server.accounting == [(5, [4, 5], 7, 3)]
        assert engine.labels == {"taken": True}

    @pytest.mark.parametrize(
        ("changes", "at_once"),
        [
            ({"gres": "gpu:1"}, 1),
            ({"gres": "gpu"}, 1),
            ({"gres": "disk:9,gpu:a100:2(S:0)"}, 2),
            ({"gres": "gpu:a100:1,gpu:v100:2"}, 3),
            ({"gres": "gpu:1", "nodes": 2}, 2),
            ({"gpus": "a100:1,v100:2"}, 3),
            ({"extra_lines": ["#SBATCH --qos=x --gres=gpu:2"]}, 2),
            ({"extra_lines": ["#SBATCH --gpus 1"]}, 1),
            ({"gres": "gpu:9"}, 4),
            ({"gres": "gpu:0"}, 4),
            ({"gres": "disk:1", "extra_lines": ["echo --gres=gpu:1"]}, 4),
        ],
    )
    def test_runs_no_more_tasks_at_once_than_a_job_has_gpus(self, begin, server, tmp_path, changes, at_once):
        config = Config(**{**CONFIG, "nodes": None, "tasks_per_job": 6, "parallel_tasks_per_job": 4, **changes})
        engine = Engine([TaskEnd("RUN", 0, "succeeded")])
        multisubmit(begin(engine), tmp_path, 1, config=config)
        found = engine.requests[0].config
        assert (found.tasks_per_job, found.parallel_tasks_per_job) == (6, at_once)

    def test_runs_one_task_alone(self, begin, server, tmp_path):
        engine = Engine([TaskEnd("RUN", 0, "succeeded")])
        assert submit(begin(engine), tmp_path) == (None, None)
        assert engine.requests[0].config.parallel_tasks_per_job == 1
        assert server.statuses == [([9], {"status": "done", "has_warnings": False})]

    def test_stops_where_the_job_is_stopped(self, begin, server, tmp_path):
        engine = Engine([TaskEnd("RUN", 0, "not_run", reason="cancelled")], waits=3)
        runner = begin(engine)
        (tmp_path / "jobs").mkdir()
        waits = engine.wait

        def wait(seconds):
            (tmp_path / "jobs/shutdown").touch()
            return waits(seconds)

        engine.wait = wait
        _results, errors = multisubmit(runner, tmp_path, 1)
        assert engine.cancelled
        assert str(errors[0]) == "Failed due to job-execution shutdown."

    def test_begins_nothing_of_a_job_that_is_stopped(self, begin, server, tmp_path):
        engine = Engine()
        runner = begin(engine)
        (tmp_path / "jobs").mkdir()
        (tmp_path / "jobs/shutdown").touch()
        results, errors = multisubmit(runner, tmp_path, 2)
        assert (results, [str(errors[n]) for n in (0, 1)]) == ({}, ["Failed due to job-execution shutdown."] * 2)
        assert str(submit(runner, tmp_path)[1]) == "Failed due to job-execution shutdown."
        assert engine.requests == []

    @pytest.mark.parametrize("changes", [{"base_command": "a $(b)"}, {"history_unit_ids": [1]}])
    def test_refuses_what_fractal_server_refuses(self, begin, server, tmp_path, changes):
        results, errors = multisubmit(begin(Engine()), tmp_path, 2, **changes)
        assert (results, len(errors)) == ({}, 2)
        assert server.statuses[-1][1] == {"status": "failed"}

    def test_says_why_the_engine_refuses(self, begin, server, tmp_path):
        _results, errors = multisubmit(begin(Engine(error=ClusterError("no such partition"))), tmp_path, 1)
        assert str(errors[0]) == "no such partition"
        assert server.accounting == [(5, [], 7, 3)]

    def test_a_refusal_is_the_error_of_each_task_and_names_no_command_that_would_not_go_on(
        self, begin, server, tmp_path
    ):
        engine = Engine([TaskEnd("RUN", 0, "not_run", reason="SLURM refused the job: no")])
        engine.end = RunEnd("RUN", "refused", 0, 0, 1, (), "SLURM refused the job: no")
        engine.says = "SLURM refused the job: no; once the cause is gone: fractal-slurm resume RUN"
        runner = begin(engine)
        _results, errors = multisubmit(runner, tmp_path, 1)
        assert (str(errors[0]), runner.executor_error_log) == ("SLURM refused the job: no", None)
        said = (tmp_path / "jobs/1_measure/par-engine.txt").read_text()
        assert said.splitlines()[-1] == "SLURM refused the job: no"
        assert (tmp_path / "jobs/1_measure/par-engine-slurm.sh").read_text() == "#!/bin/sh\n"

    def test_the_end_of_this_process_is_no_end_of_its_tasks(self, begin, server, tmp_path, monkeypatch):
        class TheEnd(BaseException):
            """As the process ends."""

        def end():
            raise TheEnd

        engine = Engine()
        engine.end = RunEnd("RUN", "left", 0, 0, 0, (4, 5))
        runner = begin(engine)
        monkeypatch.setattr(importlib.import_module("fractal_slurm_server.runner"), "wait_for_the_end", end)
        with pytest.raises(TheEnd):
            multisubmit(runner, tmp_path, 1)
        assert (server.statuses, server.accounting, engine.labels, engine.cancelled) == ([], [], {}, False)

    def test_leaves_no_task_without_an_end(self, begin, server, tmp_path):
        results, errors = multisubmit(begin(Engine([TaskEnd("RUN", 1, "succeeded")])), tmp_path, 2)
        assert (results, str(errors[0])) == ({1: None}, "a sentence")
        assert server.statuses[-1] == ([100], {"status": "failed"})
