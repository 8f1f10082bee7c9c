# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths and names in a user's work folder."""

import pytest
from fractal_slurm.jobs import layout
from hypothesis import given
from hypothesis import strategies as st
from samples import TOKEN

COUNT = st.integers(0, 10**9 - 1)


class TestPaths:
    def test_lie_in_the_folder_of_the_run(self):
        folder = layout.run_folder("/work", "RUN")
        assert (folder, layout.work_dir_of(folder)) == ("/work/RUN", "/work")
        assert layout.claim_path(folder, TOKEN) == f"/work/RUN/{TOKEN}.claim"
        assert layout.stop_path(folder, TOKEN) == f"/work/RUN/{TOKEN}.claim.stop"
        assert layout.job_folder(folder, TOKEN) == f"/work/RUN/{TOKEN}"
        assert layout.output_path(folder, TOKEN) == f"/work/RUN/{TOKEN}.slurm.out"
        assert layout.log_path(folder, TOKEN, restart=1, node=2) == f"/work/RUN/{TOKEN}/log-1-2"
        assert layout.task_log_path(folder, TOKEN, index=3, attempt=1) == f"/work/RUN/{TOKEN}/task-3-1.log"

    @given(COUNT, COUNT)
    def test_of_records_are_told_from_others(self, restart, node):
        path = layout.results_path("/work/RUN", TOKEN, restart=restart, node=node)
        assert layout.is_results_name(path.rpartition("/")[2])
        assert not layout.is_results_name(path)

    @pytest.mark.parametrize("name", ["", "results-", "results-0", "results-0-0 ", "results-\u0663-0", "xresults-0-0"])
    def test_a_name_of_no_records(self, name):
        assert not layout.is_results_name(name)

    def test_tell_whose_output_it_is(self):
        assert layout.token_of_output(f"{TOKEN}.slurm.out") == TOKEN
        assert [layout.token_of_output(name) for name in (TOKEN, f"{TOKEN}.claim", "slurm.out")] == ["", "", ""]
