"""A record of the log is one printable line, whatever names it has, and the same record for whoever reads JSON."""

import json

from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.state.store_rows import record_line


@given(st.text())
def test_a_record_is_one_printable_line_that_says_the_same(name: str) -> None:
    line = record_line({"type": "step", "id": 1, "file": name}).decode()
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {"type": "step", "id": 1, "file": name}


def test_what_is_not_printable_is_escaped_and_letters_are_not() -> None:
    line = record_line({"file": "\u00e9\u2028\u202e\x7f\x9b\U000e0001"}).decode()
    assert line == '{"file":"\u00e9\\u2028\\u202e\\u007f\\u009b\\udb40\\udc01"}'
