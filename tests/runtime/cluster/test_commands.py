# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from fractal_slurm.cluster.commands import (
    Slurm,
    SlurmJob,
    Submitted,
    first_error,
    judge_submission,
    read_exit_code,
    read_sacct,
    read_squeue,
    read_squeue_of,
)
from fractal_slurm.errors import ClusterError
from fractal_slurm.sudo import Impersonator
from hypothesis import given
from hypothesis import strategies as st

FAILED = "sbatch: error: Batch job submission failed: "


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
        ("outcome", "stderr"),
        [
            (
                Submitted.REFUSED,
                "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid "
                "partition name specified",
            ),
            (Submitted.REFUSED, f"{FAILED}Invalid account or account/partition combination specified"),
            (Submitted.TOO_LARGE, f"{FAILED}Pathname of a file, directory or other parameter too long"),
            (Submitted.NOT_NOW, f"{FAILED}Required partition not available (inactive or drain)"),
            (Submitted.REFUSED, "sudo: a password is required"),
            (Submitted.NOT_NOW, "sudo: /usr/bin/sbatch: command not found"),
            (Submitted.NOT_NOW, "The cluster is closed."),
            (Submitted.NOT_NOW, ""),
        ],
    )
    def test_takes_for_final_only_what_is_known_to_be(self, outcome, stderr):
        submission = judge_submission(1, "", stderr)
        assert submission.outcome is outcome
        assert submission.words
        assert submission.by_sudo == stderr.startswith("sudo")

    def test_leaves_open_whether_there_is_a_job_where_a_script_of_the_site_speaks(self):
        assert judge_submission(1, "", f"{FAILED}Unspecified error").exists_not
        assert judge_submission(1, "", "sudo: /usr/bin/sbatch: command not found").exists_not
        assert not judge_submission(1, "", "The log is full.").exists_not

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

    def test_is_one_short_line_whatever_a_user_wrote_into_it(self):
        words = first_error("scancel: error: " + "x" * 4_000_000 + "\x1b[2K\n")
        assert len(words) <= 500
        assert first_error("scancel: error: \x1b[2Ka\x85b").isprintable()


MARK = "0123456789abcdef"


def squeue_row(*fields):
    return f"<{MARK}>" + f"|{MARK}|".join(fields) + "\n"


class TestReadSqueue:
    ROW = ("7", "RUNNING", "2", "1:00", "0:30", "main", "None", "n1", "a.token")

    def test_gives_a_job_a_row(self):
        (state,) = read_squeue(squeue_row(*self.ROW), MARK)
        assert state == SlurmJob("7", "RUNNING", "None", 2, "a.token", "1:00", "main", elapsed_s=30, node="n1")

    @pytest.mark.parametrize(
        "name", ["a\n8|COMPLETED|1|1:00|0:30|main|None|n1|b.token", "a\n8\nCOMPLETED", "a|b", "", "a\0b"]
    )
    def test_takes_a_name_for_a_name_whatever_stands_in_it(self, name):
        (first, second) = read_squeue(squeue_row(*self.ROW[:-1], name) + squeue_row("9", *self.ROW[1:]), MARK)
        assert (first.job_id, first.state, first.name) == ("7", "RUNNING", name)
        assert second.job_id == "9"

    @pytest.mark.parametrize("nodes", ["²", "-1", "", "x", "9" * 5_000])
    def test_takes_no_odd_number_of_nodes(self, nodes):
        (state,) = read_squeue(squeue_row("7", "RUNNING", nodes, *self.ROW[3:]), MARK)
        assert state.nodes == 1

    @pytest.mark.parametrize(
        "change", [("7;8", "RUNNING"), ("", "RUNNING"), ("7", "running on"), ("\u0663", "RUNNING")]
    )
    def test_passes_over_what_is_no_job(self, change):
        assert list(read_squeue(squeue_row(*change, *self.ROW[2:]), MARK)) == []

    def test_gives_users_too_and_the_tasks_of_arrays(self):
        rows = squeue_row(*self.ROW, "a:b", "anna") + squeue_row("8_1", *self.ROW[1:-1], "x\n9", "", "ben")
        found = list(read_squeue_of(rows + squeue_row(*self.ROW) + squeue_row(), MARK))
        assert [(user, job_id, job.name, job.comment, job.tokens) for user, job_id, job in found] == [
            ("anna", "7", "a.token", "a:b", ("token", "b")), ("ben", "8_1", "x\n9", "", ("x\n9", "")),
        ]  # fmt: skip

    @given(st.text(max_size=60))
    def test_reads_anything(self, text):
        list(read_squeue_of(text.replace("0", f"<{MARK}>").replace("x", f"|{MARK}|"), MARK))
        list(read_squeue(text.replace("0", f"<{MARK}>").replace("x", f"|{MARK}|"), MARK))
        list(read_sacct(text.replace("x", MARK), MARK))
        read_exit_code(text, "7")


class TestReadSacct:
    def test_gives_state_and_who_cancelled(self):
        text = MARK.join(("7", "CANCELLED by 1000", "0:0", "1", "a.token")) + "\n"
        (state,) = read_sacct(text, MARK)
        assert (state.state, state.reason, state.name) == ("CANCELLED", "by 1000", "a.token")

    def test_takes_no_line_of_a_name_for_a_job(self):
        text = MARK.join(("7", "RUNNING", "0:0", "1", "a\n8|COMPLETED|0:0|1|b")) + "\n"
        assert [state.job_id for state in read_sacct(text, MARK)] == ["7"]


class TestReadExitCode:
    @pytest.mark.parametrize(
        ("said", "code"),
        [("18688", "73:0"), ("0", "0:0"), ("9", "0:9"), ("4021", "0:53"), ("65280", "255:0"), ("73:0", "73:0")],
    )
    def test_reads_a_wait_status_as_scontrol_shows_it(self, said, code):
        assert read_exit_code(f"7   {said}  \n", "7") == code

    @pytest.mark.parametrize("text", ["", "7", "8 0", "7 x", "7 0 0", "7 ²"])
    def test_says_nothing_where_it_is_not_said(self, text):
        assert read_exit_code(text, "7") == ""


class TestAsk:
    def test_is_bounded(self, tmp_path):
        (tmp_path / "squeue").write_text("#!/bin/sh\nexec yes\n")
        (tmp_path / "squeue").chmod(0o755)
        with pytest.raises(ClusterError, match="squeue was ended: it printed more than"):
            Slurm(str(tmp_path), Impersonator()).squeue(["7"])

    @pytest.mark.parametrize("command", ["exec yes", "echo 'error: Invalid user: gone' >&2; exit 1"])
    def test_jobs_of_users_are_unknown_where_squeue_does_not_tell_them(self, tmp_path, command):
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / "squeue").chmod(0o755)
        assert Slurm(str(tmp_path), Impersonator()).squeue_of(["gone"]) is None

    def test_believes_no_answer_that_was_not_asked_for(self, tmp_path):
        script = """#!/bin/sh
fields=$(printf %s "$SQUEUE_FORMAT" | sed "s/%i/$ID/;s/%T/RUNNING/;s/%./1/g")
printf '%s\\n' "$fields"
"""
        (tmp_path / "squeue").write_text(script)
        (tmp_path / "squeue").chmod(0o755)
        for job_id, found in (("7", {"7"}), ("8", set())):
            (tmp_path / "squeue").write_text(script.replace("$ID", job_id))
            assert set(Slurm(str(tmp_path), Impersonator()).squeue(["7"])) == found
