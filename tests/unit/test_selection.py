"""From `actions` and `others` to steps: which paths mean which file, and that nothing else is ever chosen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.errors import Refused
from clamscannerd.model import Action, Finding, FindingState, Identity
from clamscannerd.rpc.names import to_wire
from clamscannerd.service.selection import Selection, select

HOME = b"/home/ann"


def found(*paths: bytes) -> list[Finding]:
    """Each with an identity of its own, to see that a step has its own finding's."""
    return [
        Finding(
            id=number,
            scan_id=1,
            path=path,
            identity=Identity(dev=1, ino=number, size=3, mtime_ns=4, sha256=b"h" * 32),
            signature=f"s{number}",
            state=FindingState.STANDING,
            found_at=1.0,
        )
        for number, path in enumerate(paths, start=1)
    ]


def chosen(selection: Selection) -> dict[bytes, Action]:
    return {step.path: step.action for step in selection.steps}


@pytest.mark.parametrize("text", ["/home/ann/a/bad", "a/bad", "home/ann/a/bad"])
def test_a_path_is_absolute_or_relative_or_absolute_without_its_first_slash(text: str) -> None:
    selection = select(HOME, found(b"a/bad"), {text: "delete"}, None)
    assert chosen(selection) == {b"a/bad": Action.DELETE}
    assert selection.warnings == ()


ON_NO_LIST = [
    "/a/bad", "./a/bad", "a//bad", "a/../a/bad", "a/bad/", "/home/ann/../ann/a/bad", "//home/ann/a/bad", "/home/ann",
    "ann/a/bad", "/home/bob/a/bad", "/home/anna/bad", "a/bad\0", "a/bad\\", "a/b\\x61d", "A/BAD", "\ud800", "/", "",
]  # fmt: skip


@pytest.mark.parametrize("text", ON_NO_LIST)
def test_everything_else_is_on_no_list(text: str) -> None:
    with pytest.raises(Refused, match="nothing that was named is on the list"):
        select(HOME, found(b"a/bad"), {text: "delete"}, None)


def test_a_relative_path_comes_before_one_that_lacks_its_slash() -> None:
    """A home may hold home/ann/x; the shorter reading is its own only if there is no such file."""
    both = found(b"home/ann/x", b"x")
    assert chosen(select(HOME, both, {"home/ann/x": "ignore"}, None)) == {b"home/ann/x": Action.IGNORE}
    assert chosen(select(HOME, both[1:], {"home/ann/x": "ignore"}, None)) == {b"x": Action.IGNORE}


def test_steps_come_in_the_order_asked_and_others_after_them_in_the_order_found() -> None:
    selection = select(HOME, found(b"a", b"b", b"c", b"d"), {"c": "delete", "a": "ignore"}, "quarantine")
    assert [(step.path, step.action.value) for step in selection.steps] == [
        (b"c", "delete"),
        (b"a", "ignore"),
        (b"b", "quarantine"),
        (b"d", "quarantine"),
    ]


def test_a_step_has_the_identity_and_signature_of_its_finding() -> None:
    (step,) = select(HOME, found(b"a", b"b"), {"b": "delete"}, None).steps
    assert (step.finding_id, step.identity.ino, step.signature) == (2, 2, "s2")


def test_one_file_by_two_names_is_one_step_or_a_contradiction() -> None:
    same = select(HOME, found(b"a"), {"a": "delete", "/home/ann/a": "delete"}, None)
    assert len(same.steps) == 1
    with pytest.raises(Refused, match="a is named twice with different actions"):
        select(HOME, found(b"a"), {"a": "delete", "/home/ann/a": "ignore"}, None)


@pytest.mark.parametrize("word", ["", "burn", "DELETE", " delete", "delete\n"])
def test_an_unknown_action_anywhere_refuses_everything(word: str) -> None:
    for actions, others in (({"a": word}, None), ({"a": "delete"}, word), ({"none": word, "a": "delete"}, "ignore")):
        with pytest.raises(Refused, match="unknown action"):
            select(HOME, found(b"a"), actions, others)


def test_an_error_quotes_only_so_much() -> None:
    with pytest.raises(Refused) as error:
        select(HOME, found(b"a"), {"a": "x" * 10_000}, None)
    assert len(str(error.value)) < 300


def test_what_is_ignored_is_named_up_to_a_hundred_and_then_counted() -> None:
    actions = {f"none{number}": "delete" for number in range(250)}
    warnings = select(HOME, found(b"a"), actions | {"a": "delete"}, None).warnings
    assert len(warnings) == 101
    assert warnings[0].endswith(": none0")
    assert warnings[-1].endswith(": 150 more")


def test_with_others_the_actions_may_be_empty_but_not_the_list() -> None:
    assert chosen(select(HOME, found(b"a"), {}, "delete")) == {b"a": Action.DELETE}
    with pytest.raises(Refused, match="nothing"):
        select(HOME, [], {}, "delete")


@given(st.binary(min_size=1, max_size=40).filter(lambda path: b"\0" not in path and not path.startswith(b"/")))
def test_any_name_in_its_wire_form_chooses_its_file(path: bytes) -> None:
    for text in (to_wire(path), to_wire(HOME + b"/" + path)):
        assert chosen(select(HOME, found(path), {text: "quarantine"}, None)) == {path: Action.QUARANTINE}


@given(st.dictionaries(st.text(max_size=12), st.sampled_from([*Action, "x"]), max_size=5))
def test_any_selection_chooses_from_the_list_alone(actions: dict[str, str]) -> None:
    listed = found(b"a", b"b/c")
    try:
        selection = select(HOME, listed, actions, None)
    except Refused:
        return
    assert chosen(selection).keys() <= {b"a", b"b/c"}


def test_what_is_ignored_is_none_of_the_others_and_can_be_named() -> None:
    three = found(b"a", b"b", b"c")
    selection = select(HOME, three, {"b": "delete"}, "quarantine", {2, 3})
    assert chosen(selection) == {b"b": Action.DELETE, b"a": Action.QUARANTINE}
    assert selection.warnings == ("1 file that the ignore list covers is left alone; name it to act on it",)
    assert chosen(select(HOME, three, {"b": "delete"}, None, {2, 3})) == {b"b": Action.DELETE}
    with pytest.raises(Refused, match="3 files that the ignore list covers"):
        select(HOME, three, {}, "delete", {1, 2, 3})
