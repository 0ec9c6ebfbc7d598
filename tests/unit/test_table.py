"""rpc/table.py: rows, look-up, and parameters by name or position becoming typed values."""

import re
from typing import Any

import msgspec
import pytest

from clamscannerd.errors import InvalidParams
from clamscannerd.model import Action
from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.jsonrpc import Params
from clamscannerd.rpc.table import Call, Method, UnknownMethod, bind, find, names_user, table


class Disinfect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    actions: dict[str, Action]
    others: Action | None = None


class Nothing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Lax(msgspec.Struct, frozen=True, kw_only=True):
    pass


class WithUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: str


async def handler(_call: Call, _params: msgspec.Struct) -> object:
    return None


def row(**changes: Any) -> Method:
    values: dict[str, Any] = {
        "name": "ClamScanner.disinfect_files",
        "params": Disinfect,
        "rule": Rule.SELF,
        "handler": handler,
    }
    return Method(**(values | changes))


ROW = row()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rule": None},
        {"rule": "self"},
        {"name": "no spaces"},
        {"name": "a.b.c"},
        {"name": ""},
        {"params": dict},
        {"params": Lax},
        {"params": WithUser},
    ],
)
def test_a_row_that_is_not_whole_cannot_be_made(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="cannot make method"):
        row(**wrong)


def test_a_row_without_a_rule_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="rule"):
        Method(name="A.b", params=Nothing, handler=handler)  # type: ignore[call-arg]


def test_a_name_stands_once_in_the_table() -> None:
    with pytest.raises(TypeError, match="twice"):
        table(row(), row())


def test_a_method_is_found_by_name_and_by_cpanels_spelling() -> None:
    methods = table(ROW, row(name="Scan.list"))
    assert find(methods, "ClamScanner.disinfect_files") is ROW
    assert find(methods, "ClamScanner::disinfect_files") is ROW


@pytest.mark.parametrize(
    "name",
    [
        "",
        "disinfect_files",
        "Scan::list",
        "ClamScanner::",
        "ClamScanner::ClamScanner::disinfect_files",
        "xClamScanner::disinfect_files",
        "clamscanner.disinfect_files",
        "Scan.list\0",
        "x" * 1000,
    ],
)
def test_any_other_name_is_unknown(name: str) -> None:
    with pytest.raises(UnknownMethod) as caught:
        find(table(ROW, row(name="Scan.list")), name)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    "params",
    [
        {"actions": {"a": "delete"}, "others": "ignore"},
        [{"a": "delete"}, "ignore"],
    ],
)
def test_parameters_go_by_name_or_by_position(params: Params) -> None:
    assert bind(ROW, params) == (None, Disinfect(actions={"a": Action.DELETE}, others=Action.IGNORE))


def test_parameters_with_a_default_may_be_left_out() -> None:
    assert bind(ROW, [{}]) == (None, Disinfect(actions={}))
    assert bind(row(params=Nothing), None) == bind(row(params=Nothing), []) == bind(row(params=Nothing), {})


def test_user_is_taken_out_of_any_call_and_leaves_the_given_parameters_alone() -> None:
    params: Params = {"actions": {}, "user": "bob"}
    assert names_user(params)
    assert bind(ROW, params) == ("bob", Disinfect(actions={}))
    assert params == {"actions": {}, "user": "bob"}
    assert bind(row(params=Nothing), {"user": "bob"}) == ("bob", Nothing())


def test_user_is_named_whatever_its_value_but_never_by_position() -> None:
    assert names_user({"user": None})
    assert not names_user(["user"])
    assert not names_user(None)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        (None, 'parameter "actions" is missing'),
        ({"others": "ignore"}, 'parameter "actions" is missing'),
        ({"actions": {}, "other": "ignore"}, "there is no parameter 'other'"),
        ({"actions": {}, "x - at `$.y`": 1}, "there is no parameter 'x - at `$.y`'"),
        ({"actions": []}, 'parameter "actions": expected object, got array'),
        ({"actions": {"a": "burn"}}, "parameter \"actions[...]\": invalid enum value 'burn'"),
        ({"actions": {"a": 1}}, 'parameter "actions[...]": expected str, got int'),
        ({"actions": {}, "others": True}, 'parameter "others": expected str | null, got bool'),
        ([{}, "ignore", 3], "it takes 2 parameters at most, not 3"),
        ({"actions": {}, "user": None}, 'parameter "user": expected str'),
        ({"actions": {}, "user": 0}, 'parameter "user": expected str'),
    ],
)
def test_wrong_parameters_are_named(params: Params, sentence: str) -> None:
    with pytest.raises(InvalidParams, match=f"^cannot call {ROW.name}: {re.escape(sentence)}$"):
        bind(ROW, params)


def test_a_huge_wrong_value_makes_no_huge_answer() -> None:
    huge: list[Params] = [{"actions": {"a": "x" * 100_000}}, {"actions": {}, "y" * 100_000: 1}]
    for params in huge:
        with pytest.raises(InvalidParams) as caught:
            bind(ROW, params)
        assert len(str(caught.value)) < 500
