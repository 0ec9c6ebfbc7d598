"""The rows of SECURITY.md: each has tests, each of them a mutation, and the document says what they gave."""

import re
from pathlib import Path

import pytest

from tests import claims, mutate

SYSTEM = Path(__file__).parents[1] / "system"
TESTS = [path for folder in ("attacks", "faults", "load") for path in sorted((SYSTEM / folder).glob("test_*.py"))]
EVERYWHERE = "".join(
    path.read_text() for path in sorted(claims.ROOT.glob("tests/*/**/test_*.py")) if path.name != Path(__file__).name
)


def test_the_document_has_the_table_of_the_latest_figures() -> None:
    assert claims.DOCUMENT.read_text() == claims.document(), "write it afresh: python -m tests.claims"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_each_test_names_its_row_and_its_mutation(path: Path) -> None:
    for head, name in re.findall(r"((?:^@.*\n|^[ )].*\n)*)^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE):
        assert "mark.row(" in head or "\npytestmark" in path.read_text(), name
        assert "mark.fails_with(" in head, name


@pytest.mark.parametrize("mutation", mutate.mutations(), ids=lambda mutation: mutation.name)
def test_each_mutation_fits_the_tree_and_is_some_tests(mutation: mutate.Mutation) -> None:
    assert mutate.mutated(mutation)
    assert f'"{mutation.name}"' in EVERYWHERE


def test_no_test_names_a_mutation_that_is_not_there() -> None:
    named = {
        name
        for given in re.findall(r"mark\.fails_with\(([^)]*)\)", EVERYWHERE)
        for name in re.findall(r'"([^"]+)"', given)
    }
    assert named == {mutation.name for mutation in mutate.mutations()}
