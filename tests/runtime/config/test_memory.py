# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from fractal_slurm.config.memory import MAX_MEMORY_MB, parse_memory
from fractal_slurm.errors import FractalSlurmError
from hypothesis import given
from hypothesis import strategies as st
from samples import outcome, vectors

FACTORS = {"": 1, "M": 1, "G": 1_000, "T": 1_000_000}


class TestParseMemory:
    @pytest.mark.parametrize("row", [row for row in vectors("memory") if row["input"] is not None])
    def test_agrees_with_the_vectors(self, row):
        if row["expected_mb"] == "ERROR":
            with pytest.raises(FractalSlurmError):
                parse_memory(row["input"])
        else:
            assert parse_memory(row["input"]) == row["expected_mb"]

    @given(amount=st.integers(1, 1_000), unit=st.sampled_from("MGT"))
    def test_reads_back_what_a_person_wrote(self, amount, unit):
        assert parse_memory(f"{amount}{unit}") == parse_memory(f" {amount}{unit}\t") == amount * FACTORS[unit]

    @given(st.integers(1, MAX_MEMORY_MB))
    def test_a_number_is_megabytes_however_it_is_written(self, amount):
        assert parse_memory(amount) == parse_memory(str(amount)) == parse_memory(f"{amount}M") == amount

    @given(
        st.tuples(st.integers(1, 1_000), st.sampled_from("MGT")),
        st.tuples(st.integers(1, 1_000), st.sampled_from("MGT")),
    )
    def test_grows_with_amount_and_unit(self, one, other):
        (a, unit_a), (b, unit_b) = sorted((one, other), key=lambda pair: (FACTORS[pair[1]], pair[0]))
        if unit_a == unit_b or a * FACTORS[unit_a] <= b * FACTORS[unit_b]:
            assert parse_memory(f"{a}{unit_a}") <= parse_memory(f"{b}{unit_b}")

    @given(st.text(max_size=8) | st.floats() | st.none() | st.lists(st.integers()) | st.booleans())
    def test_gives_a_positive_number_or_a_sentence(self, value):
        amount, messages = outcome(parse_memory, value)
        assert messages or 1 <= amount <= MAX_MEMORY_MB
        assert all(message.startswith("memory ") and "\n" not in message for message in messages)

    def test_refuses_more_than_a_petabyte(self):
        assert parse_memory("1000T") == MAX_MEMORY_MB
        for value in (MAX_MEMORY_MB + 1, "1001T", 10**30, 16**5000):
            with pytest.raises(FractalSlurmError, match="from 1 MB to 1000000000 MB"):
                parse_memory(value)

    def test_says_what_is_allowed(self):
        with pytest.raises(FractalSlurmError, match='"4000M", "4G", "1T"'):
            parse_memory("4 GB")
