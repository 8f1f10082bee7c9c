# SPDX-License-Identifier: GPL-3.0-or-later
import pytest
from fractal_slurm.config.walltime import MAX_SECONDS, format_walltime, parse_walltime
from fractal_slurm.errors import FractalSlurmError
from hypothesis import assume, given
from hypothesis import strategies as st
from samples import outcome

days, hours, minutes, seconds = (st.integers(0, most) for most in (30, 23, 59, 59))


class TestParseWalltime:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("90", 5_400),
            ("90:30", 5_430),
            ("01:30:00", 5_400),
            ("1-12", 129_600),
            ("1-12:30", 131_400),
            ("1-12:30:15", 131_415),
            ("0:01", 1),
            ("  10:00 ", 600),
            ("100:00:00", 360_000),
            ("007", 420),
        ],
    )
    def test_reads_the_six_formats_of_slurm(self, text, expected):
        assert parse_walltime(text) == expected

    @given(days, hours, minutes, seconds)
    def test_agrees_between_the_formats(self, d, h, m, s):
        total = ((d * 24 + h) * 60 + m) * 60 + s
        assume(total)
        whole = f"{d}-{h:02d}:{m:02d}:{s:02d}"
        assert parse_walltime(whole) == parse_walltime(f"{d * 24 + h}:{m}:{s}") == total
        assert parse_walltime(f"{(d * 24 + h) * 60 + m}:{s}") == total
        if not s and total:
            assert parse_walltime(f"{d}-{h}:{m}") == parse_walltime(str(total // 60)) == total
        if not s and not m:
            assert parse_walltime(f"{d}-{h}") == total

    @pytest.mark.parametrize("value", [36_000, 90, 0, -1])
    def test_tells_the_writer_of_an_integer_to_quote_it(self, value):
        with pytest.raises(
            FractalSlurmError, match=f"time {value} is an integer: quote it, YAML reads 10:00:00 as 36000"
        ):
            parse_walltime(value)

    @pytest.mark.parametrize(
        "value",
        ["", "abc", "1:2:3:4", "1-", "-1", "1-1-1", "1.5", "1h", "UNLIMITED", "٣", "1:", ":1", "1 2", "1-2:", True, 1.5,
         None, [], "9" * 40],
    )  # fmt: skip
    def test_refuses_anything_else_and_names_the_formats(self, value):
        with pytest.raises(FractalSlurmError, match='"days-hours:minutes:seconds"'):
            parse_walltime(value)

    @pytest.mark.parametrize("value", ["0", "0:0", "0-0", "00:00:00", "999999999", "40000-0"])
    def test_refuses_no_time_and_more_than_a_hundred_years(self, value):
        with pytest.raises(FractalSlurmError, match="above zero and below a hundred years"):
            parse_walltime(value)

    @given(st.text(max_size=12) | st.text("0123456789:-", max_size=12))
    def test_gives_a_number_of_seconds_or_a_sentence(self, value):
        amount, messages = outcome(parse_walltime, value)
        assert messages or 0 < amount <= MAX_SECONDS
        assert all(message.startswith("time ") and "\n" not in message for message in messages)


class TestFormatWalltime:
    @pytest.mark.parametrize(
        ("given_s", "expected"),
        [(1, "00:01:00"), (60, "00:01:00"), (61, "00:02:00"), (86_399, "1-00:00:00"), (90_000, "1-01:00:00")],
    )
    def test_writes_whole_minutes_rounded_up(self, given_s, expected):
        assert format_walltime(given_s) == expected

    @given(st.integers(1, MAX_SECONDS // 60))
    def test_minutes_survive_the_round_trip(self, count):
        assert parse_walltime(format_walltime(count * 60)) == count * 60

    @given(st.integers(1, MAX_SECONDS - 60))
    def test_is_never_short_and_less_than_a_minute_over(self, given_s):
        assert 0 <= parse_walltime(format_walltime(given_s)) - given_s < 60
