# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from fractal_slurm.errors import (
    BatchingError,
    ClusterError,
    ConfigFileError,
    FractalSlurmError,
    ImpersonationError,
    RunError,
    SettingsError,
    SpecError,
    shown,
)


class TestFractalSlurmError:
    def test_keeps_one_sentence(self):
        error = FractalSlurmError("it is wrong")
        assert error.messages == ["it is wrong"]
        assert str(error) == "it is wrong"

    def test_joins_the_lines_of_many_faults(self):
        error = FractalSlurmError(line for line in ("one", "two"))
        assert error.messages == ["one", "two"]
        assert str(error) == "one\ntwo"

    @pytest.mark.parametrize("kind", [ConfigFileError, SpecError, BatchingError, SettingsError, RunError])
    def test_bad_input_ends_a_command_with_2(self, kind):
        assert issubclass(kind, FractalSlurmError)
        assert kind.exit_code == 2

    @pytest.mark.parametrize("kind", [ClusterError, ImpersonationError])
    def test_a_refusal_ends_a_command_with_3(self, kind):
        assert issubclass(kind, FractalSlurmError)
        assert kind.exit_code == 3


class TestShown:
    def test_is_on_one_line(self):
        assert shown("a\nb") == r"'a\nb'"

    def test_cuts_what_is_long(self):
        assert shown("x" * 100, 20) == "'xxxxxxxxxxxxxxxx..."
        assert len(shown("x" * 1000)) == 80

    def test_survives_an_integer_that_python_refuses_to_print(self):
        assert len(shown(16**5000)) <= 80
