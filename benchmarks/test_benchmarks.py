# SPDX-License-Identifier: BSD-3-Clause
"""The parts of the benchmarks that need no SLURM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import figure, table_line
from benchmarks.environment import REPOSITORY, BenchmarkError, Environment
from benchmarks.rows import ROWS, Result, slurm_span, write_spec

# As slurmctld 22.05 writes them: started at once, or by the backfill scheduler; ended; and a job that is not asked for.
LOG = """\
[2026-11-24T20:38:10.500] sched: Allocate JobId=7 NodeList=n1 #CPUs=4 Partition=main
[2026-11-24T20:38:11.000] sched/backfill: _start_job: Started JobId=8 in main on n2
[2026-11-24T20:38:12.000] sched: Allocate JobId=9 NodeList=n3 #CPUs=4 Partition=main
[2026-11-24T20:38:14.250] _job_complete: JobId=7 WEXITSTATUS 0
[2026-11-24T20:38:14.251] _job_complete: JobId=7 done
[2026-11-24T20:38:16.750] _job_complete: JobId=8 done
"""


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A folder that has nothing but slurmctld's log."""
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "slurmctld.log").write_text(LOG)
    return Environment(tmp_path)


class TestSlurmSpan:
    def test_is_from_the_first_start_to_the_last_end(self, environment: Environment) -> None:
        assert slurm_span(environment, {7, 8}) == 6.25

    def test_refuses_a_job_that_has_not_ended(self, environment: Environment) -> None:
        with pytest.raises(BenchmarkError, match=r"says nothing of the jobs \[9\]"):
            slurm_span(environment, {7, 9})


class TestResult:
    def test_less_time_is_better(self) -> None:
        assert Result("x", "s", 2.0, 8.0, "peer", "", True).ratio == 4.0

    def test_more_tasks_a_second_are_better(self) -> None:
        assert Result("x", "tasks/s", 8.0, 2.0, "peer", "", True).ratio == 4.0

    def test_without_a_peer_there_is_no_ratio(self) -> None:
        result = Result("x", "s", 2.0, None, "", "<= 3 s", True)
        assert result.ratio is None
        assert result.as_json()["times_better"] is None


class TestTable:
    @pytest.mark.parametrize(
        ("value", "unit", "text"),
        [
            (None, "s", "-"),
            (1510, "tasks", "1,510"),
            (98.43, "s", "98.4 s"),
            (207.6, "s", "208 s"),
            (0.512, "s", "0.512 s"),
        ],
    )
    def test_figures_are_short(self, value: float | None, unit: str, text: str) -> None:
        assert figure(value, unit) == text

    def test_a_missed_goal_is_marked(self) -> None:
        assert " MISS " in table_line(Result("x", "s", 2.0, 1.0, "peer", "<= 1 s", False))


class TestWriteSpec:
    def test_has_one_parameter_set_a_task(self, tmp_path: Path) -> None:
        write_spec(tmp_path / "spec.json", "true", 10, 4)
        spec = json.loads((tmp_path / "spec.json").read_text())
        assert len(spec["parameters"]) == 10
        assert spec["meta"] == {"tasks_per_job": 3, "parallel_tasks_per_job": 4}


class TestCommandLine:
    def test_an_unknown_row_is_refused_before_anything_starts(self) -> None:
        completed = subprocess.run(
            [sys.executable, "-m", "benchmarks", "no-such-row"],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=dict(os.environ),
            check=False,
        )
        assert completed.returncode == 2
        assert "no such row: no-such-row; the rows are" in completed.stderr

    def test_every_row_says_what_it_measures(self) -> None:
        assert all((row.__doc__ or "").endswith(".") for row in ROWS.values())
