"""The README's table of figures, as tests/bench/run writes it."""

import pytest

from tests.bench import readme
from tests.bench.common import HEADER, Row

PAGE = f"# A\n\nWords.\n\n{readme.BEGIN}\n{readme.END}\n\n## B\n"


def row(name: str, value: float) -> str:
    return Row(name, "the clock", 2, [value], "s").text()


def test_rows_stand_between_the_marks_and_nothing_else_is_touched() -> None:
    page = readme.with_rows(PAGE, [row("one", 1), row("two", 2)], "a machine", keep=True)
    assert page.startswith("# A\n\nWords.\n\n")
    assert page.endswith(f"{readme.END}\n\n## B\n")
    assert f"Measured on a machine.\n\n{HEADER}\n{row('one', 1)}\n{row('two', 2)}\n{readme.END}" in page


def test_a_bench_that_is_run_again_replaces_its_own_rows_where_they_stand() -> None:
    page = readme.with_rows(PAGE, [row("one", 1), row("two", 2), row("two", 2.5), row("three", 3)], "m", keep=True)
    page = readme.with_rows(page, [row("two", 4), row("four", 5), row("two", 4.5)], "n", keep=True)
    expected = [row("one", 1), row("two", 4), row("two", 4.5), row("three", 3), row("four", 5)]
    assert "\n".join([HEADER, *expected, readme.END]) in page
    assert "Measured on m" not in page
    assert f"{HEADER}\n{row('five', 6)}\n{readme.END}" in readme.with_rows(page, [row("five", 6)], "o", keep=False)


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no place marked"):
        readme.with_rows("# A\n", [row("one", 1)], "m", keep=True)


@pytest.mark.parametrize(("got", "at_least", "met"), [(1.9, False, True), (2.1, False, False), (2.1, True, True)])
def test_a_row_says_by_its_median_when_its_bound_is_not_met(got: float, at_least: bool, met: bool) -> None:
    line = Row("x", "y", 2, [0.0, got, 9.0], at_least=at_least).text()
    assert ("not met" not in line) is met


def test_this_readme_has_the_marks() -> None:
    from tests.bench.run import README

    assert readme.with_rows(README.read_text(), [], "m", keep=True)
