# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from fractal_slurm.slurm import Submitted, first_error, judge_submission
from hypothesis import given
from hypothesis import strategies as st


class TestJudgeSubmission:
    @pytest.mark.parametrize(
        ("stdout", "job_id"),
        [
            ("123\n", "123"),
            ("123;cluster\n", "123"),
            ("Welcome to the cluster\n123\nHave fun\n", "123"),
            ("Submitted batch job 123\n", "123"),
            ("  123  \n", "123"),
        ],
    )
    def test_finds_the_id_of_an_accepted_job(self, stdout, job_id):
        submission = judge_submission(0, stdout, "")
        assert (submission.outcome, submission.job_id) == (Submitted.ACCEPTED, job_id)

    @pytest.mark.parametrize(
        "stdout", ["", "\n", "ok", "1\n2\n", "job 1", "Submitted batch job 1\nSubmitted batch job 2"]
    )
    def test_takes_success_without_one_id_for_no_answer(self, stdout):
        assert judge_submission(0, stdout, "").outcome is Submitted.UNKNOWN

    @pytest.mark.parametrize(
        "stderr",
        [
            "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "sbatch: error: QOSMaxSubmitJobPerUserLimit",
            "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying.",
        ],
    )  # fmt: skip
    def test_takes_a_limit_of_the_site_for_back_pressure(self, stderr):
        assert judge_submission(1, "", stderr).outcome is Submitted.FULL

    @pytest.mark.parametrize(
        "stderr",
        [
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
        ],
    )
    def test_takes_silence_for_no_answer(self, stderr):
        assert judge_submission(1, "", stderr).outcome is Submitted.UNKNOWN

    def test_takes_a_killed_sbatch_for_no_answer(self):
        assert judge_submission(-9, "", "").outcome is Submitted.UNKNOWN

    @pytest.mark.parametrize(
        "stderr",
        [
            "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid "
            "partition name specified",
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "sbatch: error: Batch job submission failed: Pathname of a file, directory or other parameter too long",
            "sudo: a password is required",
            "",
        ],
    )  # fmt: skip
    def test_takes_other_words_for_a_refusal(self, stderr):
        submission = judge_submission(1, "", stderr)
        assert submission.outcome is Submitted.REFUSED
        assert submission.words

    @given(st.integers(-15, 255), st.text(max_size=30), st.text(max_size=30))
    def test_judges_anything(self, code, stdout, stderr):
        submission = judge_submission(code, stdout, stderr)
        assert (submission.outcome is Submitted.ACCEPTED) == bool(submission.job_id)
        assert not submission.job_id or submission.job_id.isdecimal()


class TestFirstError:
    def test_gives_the_first_two_of_slurms_own_words_each_once(self):
        words = first_error("sbatch: error: a b\n\nsbatch: error: a b\nsbatch: fatal: c\nplain\n")
        assert words == "a b; c"
        assert first_error(" \n") == "no reason given"
