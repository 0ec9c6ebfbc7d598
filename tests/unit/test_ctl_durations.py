"""Times as people type them. Pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.ctl.durations import LONGEST_S, seconds

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@given(st.integers(1, 5_000), st.sampled_from(sorted(UNITS)))
def test_a_number_and_its_unit_are_seconds(number: int, unit: str) -> None:
    assert seconds(f"{number}{unit}") == number * UNITS[unit]


@given(st.text() | st.from_regex(r"-?[0-9]{0,20}(\.[0-9]{0,3})?[smhdwy]?"))
def test_any_text_is_a_time_within_bounds_or_refused_with_what_was_expected(text: str) -> None:
    said, number = "", 1.0
    try:
        number = seconds(text)
    except ValueError as error:
        said = str(error)
    assert said == "" or said.startswith('expected a time like "2d"')
    assert 0 < number <= LONGEST_S


@pytest.mark.parametrize(
    "text", ["", "2", "d", "0d", "0.0s", "-1d", "+1d", "1 d", " 1d", "1d ", "1D", "1y", "inf", "nan", "1e3s", "1d2h"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a time like"):
        seconds(text)


@pytest.mark.parametrize("text", ["\u0661d", "2\u0664h", "1\N{FULLWIDTH DIGIT TWO}d"])
def test_digits_are_those_that_everybody_reads(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        seconds(text)


@pytest.mark.parametrize("text", ["36500.1d", "999999999999w", "9" * 30 + "d"])
def test_a_time_beyond_all_dates_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        seconds(text)


def test_parts_of_a_unit_are_told() -> None:
    assert seconds("1.5d") == 129_600
    assert seconds("36500d") == LONGEST_S
