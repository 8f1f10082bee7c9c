# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from fractal_slurm.config.options import (
    RESERVED_OPTIONS,
    check_extra_line,
    check_option_value,
    check_text,
    extra_line_warning,
)
from fractal_slurm.errors import FractalSlurmError
from hypothesis import given
from hypothesis import strategies as st
from samples import outcome


class TestCheckText:
    @given(st.text())
    def test_lets_nothing_through_that_ends_a_line_or_cannot_be_written(self, text):
        try:
            check_text(text, "it")
        except FractalSlurmError:
            return
        assert len(text.splitlines()) <= 1
        assert text.encode("utf-8").decode("utf-8") == text
        assert "\0" not in text
        assert "\r" not in text


class TestCheckOptionValue:
    @given(st.text())
    def test_lets_only_one_word_through(self, text):
        try:
            check_option_value(text, "it")
        except FractalSlurmError:
            return
        assert text.split() == [text]
        assert not set("\"'\\#") & set(text)
        assert not text.startswith("-")


class TestCheckExtraLine:
    """How sbatch reads such lines was tried with a real one (22.05)."""

    @pytest.mark.parametrize(
        "line",
        [
            "",
            "# a comment",
            "export A='b c' # with a comment",
            "\texport A=1",
            "module load cuda; ulimit -n 4096",
            "if [ -e /x ]; then . /x; fi",
            'export A="a\\"b" B=\\',
            "#SBATCH",
            "#SBATCH # a comment",
            "#SBATCH --qos=high",
            "#SBATCH -q high --nice=10",
            '#SBATCH --constraint="intel&ssd"',
            "#SBATCH --mem-bind=local --time-min=5 --gres-flags=enforce-binding",
            "#SBATCH -wnode-a1 -xnode-c2",  # the letters behind -w and -x are their values
            "#SBATCH --hold # --array=1-2",
            "#SBATCH --mail-user=a@b.c#--array=1-2",
            "#SBATCH --ntasks-per-node=4",
            "##SBATCH --array=1-2",
            "# SBATCH --array=1-2",
            " #SBATCH --array=1-2",  # a comment to sbatch, and worth a warning
            "#sbatch --array=1-2",
            "export A=1 #SBATCH --array=1-2",
        ],
    )
    def test_takes_shell_lines_comments_and_harmless_options(self, line):
        assert check_extra_line(line) == line

    @pytest.mark.parametrize("name", RESERVED_OPTIONS)
    def test_refuses_each_reserved_option_by_name(self, name):
        for line in (f"#SBATCH --{name}=x", f"#SBATCH --{name} x", f"#SBATCH --qos=x --{name}"):
            with pytest.raises(FractalSlurmError, match=f"is not allowed: --{name}: "):
                check_extra_line(line)

    @pytest.mark.parametrize(
        ("line", "name"),
        [
            ("#SBATCH -J x", "job-name"),
            ("#SBATCH -Jx", "job-name"),
            ("#SBATCH -a1-3", "array"),
            ("#SBATCH -o /dev/null", "output"),
            ("#SBATCH -e x", "error"),
            ("#SBATCH -D /", "chdir"),
            ("#SBATCH -M all", "clusters"),
            ("#SBATCH -n 4", "ntasks"),
            ("#SBATCH -c 4", "cpus-per-task"),
            ("#SBATCH -t 5", "time"),
            ("#SBATCH -p x", "partition"),
            ("#SBATCH -A x", "account"),
            ("#SBATCH -W", "wait"),
            ("#SBATCH -Hn4", "ntasks"),
            ("#SBATCH -HOa1-2", "array"),
            ("#SBATCH --ar 1-2", "array"),
            ("#SBATCH --arr=1-2", "array"),
            ("#SBATCH --ou=x", "output"),
            ("#SBATCH --wra=x", "wrap"),
            ("#SBATCH --ui=0", "uid"),
            ("#SBATCH --cluster=x", "clusters"),
            ("#SBATCH--array=1-2", "array"),
            ("#SBATCH\t--array=1-2", "array"),
            ('#SBATCH "--array=1-2"', "array"),
            ("#SBATCH '--array=1-2'", "array"),
            ('#SBATCH --ar"ray"=1-2', "array"),
            ("#SBATCH --qos='#' --array=1-2", "array"),
            ("#SBATCH --qos=x --array=1-2 # note", "array"),
        ],
    )
    def test_refuses_a_reserved_option_however_sbatch_would_read_it(self, line, name):
        with pytest.raises(FractalSlurmError, match=f"is not allowed: --{name}: "):
            check_extra_line(line)

    @pytest.mark.parametrize("line", ["#SBATCH -\\-array=1", "#SBATCH '--a\\rray=1-2'", "#SBATCH --qos=x \\"])
    def test_refuses_backslashes_in_directives(self, line):
        with pytest.raises(FractalSlurmError, match="remove the backslash"):
            check_extra_line(line)

    @pytest.mark.parametrize("line", ["#SBATCH --qos='x", '#SBATCH "--qos=x', "#SBATCH --qos=\"x'"])
    def test_refuses_a_quote_that_is_not_closed(self, line):
        with pytest.raises(FractalSlurmError, match="a quote that is not closed"):
            check_extra_line(line)

    @pytest.mark.parametrize("line", ["#SBATCH foo", "#SBATCHX --qos=x", "#SBATCH : --qos=x", '#SBATCH "hetjob"'])
    def test_refuses_a_directive_that_begins_with_no_option(self, line):
        with pytest.raises(FractalSlurmError, match="is no option of sbatch"):
            check_extra_line(line)

    @pytest.mark.parametrize(
        "line", ["#SBATCH hetjob", "#SBATCHhetjob", "#SBATCH  HETJOB", "#SBATCH packjob", "#SBATCH\thetjob"]
    )
    def test_refuses_heterogeneous_jobs(self, line):
        with pytest.raises(FractalSlurmError, match="heterogeneous jobs are not supported"):
            check_extra_line(line)

    @pytest.mark.parametrize(
        "line", ["#PBS -N x", "#BSUB -J x", " #PBS -N x", "#pbs -N x", "#BSUBX", "#PBS", "#SLURM -n 1"]
    )
    def test_refuses_directives_by_other_names(self, line):
        with pytest.raises(FractalSlurmError, match="sbatch honours #PBS, #BSUB and #SLURM, too; use #SBATCH"):
            check_extra_line(line)

    def test_refuses_the_mark_of_the_engines_own_data(self):
        with pytest.raises(FractalSlurmError, match="the engine marks its own data so"):
            check_extra_line("#FRACTAL-SLURM-DATA 1")

    @given(
        st.lists(
            st.sampled_from(
                ["#SBATCH", "--array=1", "-a", "--ar", "-Hn4", '"', "'", "\\", "#", " ", "\t", "=", "hetjob", "-J"]
            )
            | st.text(max_size=3),
            max_size=6,
        ).map("".join)
    )
    def test_gives_the_line_back_or_a_sentence(self, line):
        same, messages = outcome(check_extra_line, line)
        assert messages or same == line
        assert all(message.startswith("extra_lines ") and "\n" not in message for message in messages)


class TestExtraLineWarning:
    @pytest.mark.parametrize("line", [" #SBATCH --qos=x", "\t#SBATCH", "#sbatch --qos=x", "#Sbatch"])
    def test_warns_of_what_only_looks_like_a_directive(self, line):
        assert "has no effect" in extra_line_warning(line)

    @pytest.mark.parametrize("line", ["#SBATCH --qos=x", "##SBATCH --qos=x", "# SBATCH", "export A=1", ""])
    def test_says_nothing_of_other_lines(self, line):
        assert extra_line_warning(line) is None
