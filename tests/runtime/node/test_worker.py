# SPDX-License-Identifier: GPL-3.0-or-later
"""The worker's pure functions. What it does in a job is tested on a real SLURM."""

import os
import subprocess
import sys
from itertools import pairwise

import fractal_slurm.node
import pytest
from fractal_slurm.jobs.script import render
from fractal_slurm.node.limits import oom_counters
from fractal_slurm.node.placement import is_number, slot_environment, slots_of_node, split_cpus
from fractal_slurm.node.protocol import read_work
from fractal_slurm.node.task_queue import chunk_bounds
from hypothesis import given
from hypothesis import strategies as st
from samples import TOKEN, job_settings, slurm_config


def script(tasks, **changes):
    """A script with so many tasks."""
    lines = [(number, 0, "{}") for number in range(tasks)]
    return render(slurm_config(), job_settings(**changes), token=TOKEN, tasks=lines)


class TestReadWork:
    def test_notices_a_script_that_was_cut(self):
        whole = script(3)
        with pytest.raises(ValueError, match="the script holds 2 tasks, not 3: it was cut or changed"):
            read_work(whole[: whole.rindex(b"2\t0\t")])

    def test_notices_a_script_without_data(self):
        with pytest.raises(ValueError, match="not found"):
            read_work(b"#!/bin/sh\ntrue\n")

    def test_is_not_deceived_by_what_tasks_say(self):
        args = '{"a": "#FRACTAL-SLURM-DATA 1\\n\\ntasks\\t9"}'
        data = render(
            slurm_config(), job_settings(command=("a", "#FRACTAL-SLURM-DATA 1")), token=TOKEN, tasks=[(0, 0, args)]
        )
        header, words, lines = read_work(data)
        assert words == ["a", "#FRACTAL-SLURM-DATA 1"]
        assert header["tasks"] == "1"
        assert lines == [f"0\t0\t{args}".encode()]


class TestSlotsOfNode:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [("1", [1]), ("4", [4]), ("4,2", [4, 2]), ("4(x2),1", [4, 4, 1]), ("1(x3)", [1, 1, 1]), ("", [1]), (None, [1])],
    )
    def test_reads_slurms_way_to_write_it(self, value, expected):
        for node, slots in enumerate(expected):
            assert slots_of_node(value, node) == (expected, slots)

    def test_has_one_slot_on_a_node_that_is_not_listed(self):
        assert slots_of_node("4", 1) == ([4], 1)

    @given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 5)), min_size=1, max_size=4))
    def test_reads_any_list(self, groups):
        text = ",".join(f"{count}(x{times})" if times > 1 else str(count) for count, times in groups)
        assert slots_of_node(text, 0)[0] == [count for count, times in groups for _number in range(times)]


class TestChunkBounds:
    @given(st.integers(1, 20_000), st.integers(1, 256))
    def test_covers_every_task_once_with_chunks_that_shrink(self, tasks, slots):
        bounds = chunk_bounds(tasks, slots)
        sizes = [after - before for before, after in pairwise(bounds)]
        assert (bounds[0], bounds[-1]) == (0, tasks)
        assert min(sizes) >= 1
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] == 1

    def test_has_few_chunks_for_many_tasks(self):
        assert len(chunk_bounds(10**6, 64)) < 2_000


class TestSplitCpus:
    def test_pins_nothing_where_slurm_did_not_confine_the_job(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
        for granted in ("4", "", "x"):
            monkeypatch.setenv("SLURM_CPUS_ON_NODE", granted)
            assert split_cpus(2, 2) is None

    def test_gives_each_slot_cpus_of_its_own_where_it_did(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1_001, 1_003, 1_005, 1_007})
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4")
        assert split_cpus(2, 2) == [{1_001, 1_003}, {1_005, 1_007}]
        assert split_cpus(4, 1) == [{1_001}, {1_003}, {1_005}, {1_007}]

    def test_pins_nothing_where_there_are_fewer_cpus_than_the_slots_need(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1_001, 1_003})
        monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
        assert split_cpus(2, 2) is None


class TestSlotEnvironment:
    def test_sets_the_threads_of_libraries_unless_somebody_did(self, monkeypatch):
        monkeypatch.setenv("MKL_NUM_THREADS", "9")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        env = slot_environment(0, 4, 2)
        assert (env["OMP_NUM_THREADS"], env["MKL_NUM_THREADS"], env["SLURM_CPUS_PER_TASK"]) == ("2", "9", "2")

    @pytest.mark.parametrize(
        ("devices", "slots", "expected"),
        [
            ("0,1,2,3", 4, ["0", "1", "2", "3"]),
            ("0,1,2,3", 2, ["0,1", "2,3"]),
            ("0,1", 4, ["0", "1", "0", "1"]),
            ("0", 2, ["0", "0"]),
            ("", 2, ["", ""]),
        ],
    )
    def test_shares_the_gpus_of_the_job(self, monkeypatch, devices, slots, expected):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        assert [slot_environment(number, slots, 1)["CUDA_VISIBLE_DEVICES"] for number in range(slots)] == expected

    def test_tells_a_task_nothing_of_the_other_slots_and_of_the_step_of_the_worker(self, monkeypatch):
        around = {
            "NTASKS": "4", "NPROCS": "4", "PROCID": "1", "NODEID": "1", "TASKS_PER_NODE": "2(x2)",
            "NTASKS_PER_NODE": "1", "STEP_ID": "0", "STEPID": "0", "STEP_GPUS": "0,1", "CPUS_ON_NODE": "4",
            "GPUS_ON_NODE": "2", "JOB_ID": "7", "STEPMGR": "n1",
        }  # fmt: skip
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        for name, value in around.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        env = slot_environment(1, 2, 2)
        assert {name[6:]: value for name, value in env.items() if name.startswith("SLURM_")} == {
            "NTASKS": "1", "NPROCS": "1", "PROCID": "0", "NODEID": "0", "TASKS_PER_NODE": "1",
            "CPUS_ON_NODE": "2", "GPUS_ON_NODE": "1", "JOB_ID": "7", "CPUS_PER_TASK": "2", "STEPMGR": "n1",
        }  # fmt: skip


class TestImports:
    def test_needs_nothing_beside_the_standard_library(self):
        code = "import sys; sys.path.append(sys.argv[1]); import node.worker; print(*sorted(sys.modules))"
        folder = os.path.dirname(os.path.dirname(fractal_slurm.node.__file__))
        result = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, folder], capture_output=True, text=True, check=True
        )
        assert not {"pydantic", "json", "subprocess", "typing"} & set(result.stdout.split())


class TestOomCounters:
    V1 = "36 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
    OTHER = "22 28 0:20 / /proc rw,nosuid - proc proc rw\n"

    def test_finds_the_jobs_own_group_of_either_version(self):
        v1 = ["5:cpuset:/\n", "4:memory:/slurm/uid_7/job_42/step_batch\n", "0::/user.slice\n"]
        v2 = ["0::/system.slice/slurmstepd.scope/job_42/step_batch/user/task_0\n"]
        assert oom_counters(v1, [self.OTHER, self.V1, self.V2], "42") == [
            "/sys/fs/cgroup/memory/slurm/uid_7/job_42/step_batch/memory.oom_control"
        ]
        assert oom_counters(v2, [self.OTHER, self.V2], "42") == [
            "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_42/step_batch/user/task_0/memory.events"
        ]

    def test_finds_it_in_a_container_that_has_a_part_of_the_tree(self):
        group = ["4:memory:/pods/one/slurm/uid_7/job_42/step_batch\n"]
        mount = self.V1.replace(" / ", " /pods/one ", 1)
        assert oom_counters(group, [mount], "42") == [
            "/sys/fs/cgroup/memory/slurm/uid_7/job_42/step_batch/memory.oom_control"
        ]

    @pytest.mark.parametrize("path", ["/", "/system.slice/slurmd.service", "/slurm/uid_7/job_421/step_batch"])
    def test_finds_none_in_a_group_that_others_share(self, path):
        assert oom_counters([f"4:memory:{path}\n", f"0::{path}\n"], [self.V1, self.V2], "42") == []


class TestIsNumber:
    @pytest.mark.parametrize(
        ("text", "expected"), [("0", True), ("12", True), ("²", False), ("", False), ("9" * 20, False)]
    )
    def test_takes_ascii_digits_alone(self, text, expected):
        assert is_number(text) is expected
