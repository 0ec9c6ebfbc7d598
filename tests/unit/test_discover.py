"""The document of rpc.discover: it is OpenRPC, it says what the table says, and its examples fit its schemas."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest

from clamscannerd import errors
from clamscannerd.rpc import jsonrpc
from clamscannerd.rpc.described import DESCRIBED, KINDS
from clamscannerd.rpc.discover import document
from clamscannerd.rpc.methods import build
from clamscannerd.rpc.table import UnknownMethod
from clamscannerd.service.context import Context

Json = dict[str, Any]
METHODS = build(cast("Context", SimpleNamespace()))
DOCUMENT: Json = json.loads(json.dumps(document(METHODS)))
META = jsonschema.Draft7Validator(json.loads(Path(__file__).parents[1].joinpath("openrpc.schema.json").read_text()))
ROWS = {row["name"]: row for row in DOCUMENT["methods"]}


def fits(value: object, schema: object) -> None:
    """References of the document's schemas start at its root."""
    jsonschema.Draft7Validator({"allOf": [schema], "components": DOCUMENT["components"]}).validate(value)


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for part in node.values():
            yield from references(part)
    elif isinstance(node, list):
        for part in node:
            yield from references(part)


def find(reference: str) -> Any:
    found: Any = DOCUMENT
    for word in reference.removeprefix("#/").split("/"):
        found = found[word]
    return found


def classes(root: type[errors.ClamscannerdError]) -> Iterator[type[errors.ClamscannerdError]]:
    for below in root.__subclasses__():
        yield below
        yield from classes(below)


def test_the_document_is_openrpc() -> None:
    META.validate(DOCUMENT)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: document.pop("info"),
        lambda document: document.update(openrpc="3.0.0"),
        lambda document: document.update(paths={}),
        lambda document: document["methods"][0].pop("result"),
        lambda document: document["methods"][0].update(access="self"),
        lambda document: document["methods"][1]["params"][0].pop("schema"),
        lambda document: document["methods"][1]["params"][0]["schema"].update(type="text"),
        lambda document: document["methods"][0]["examples"][0]["result"].pop("value"),
        lambda document: document["components"]["errors"]["denied"].update(code="-32003"),
        lambda document: document["components"]["schemas"].update({"a b": {}}),
    ],
)
def test_what_is_not_openrpc_would_be_noticed(spoil: Callable[[Json], object]) -> None:
    spoilt = copy.deepcopy(DOCUMENT)
    spoil(spoilt)
    assert not META.is_valid(spoilt)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert "#/components/schemas/Envelope" in found
    for reference in found:
        assert find(reference)


def test_every_method_is_described_and_no_other() -> None:
    assert DESCRIBED.keys() == METHODS.keys() == ROWS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_told_as_its_row_has_it(name: str) -> None:
    told, row = ROWS[name], METHODS[name]
    assert told["summary"]
    assert told["x-access"] == row.rule.value
    assert [param["name"] for param in told["params"]] == list(row.params.__struct_encode_fields__)
    assert set(DESCRIBED[name].params) == set(row.params.__struct_encode_fields__)
    required = [param["required"] for param in told["params"]]
    assert required == sorted(required, reverse=True), "by position, what may be left out comes last"


@pytest.mark.parametrize("name", METHODS)
def test_the_errors_of_a_method_have_codes_of_their_own(name: str) -> None:
    codes = [find(error["$ref"])["code"] for error in ROWS[name]["errors"]]
    assert len(codes) == len(set(codes))


def test_every_kind_of_error_is_told_with_its_code() -> None:
    answered = {errors.CallError.kind: errors.CallError.code, errors.Refused.kind: errors.Refused.code}
    answered[errors.ConfigError.kind] = errors.ConfigError.code
    answered |= {error.kind: error.code for error in classes(errors.CallError)}
    answered |= {"parse_error": jsonrpc.PARSE_ERROR, "invalid_request": jsonrpc.INVALID_REQUEST}
    answered |= {"internal": jsonrpc.INTERNAL_ERROR}
    assert {kind: code for kind, (code, _) in KINDS.items()} == answered
    assert UnknownMethod.kind in answered


@pytest.mark.parametrize("name", METHODS)
def test_examples_fit_the_schemas(name: str) -> None:
    told = ROWS[name]
    assert told["examples"]
    for example in told["examples"]:
        given = {param["name"]: param["value"] for param in example["params"]}
        schemas = {param["name"]: param["schema"] for param in told["params"]}
        for word, value in given.items():
            fits(value, schemas[word])
        assert {param["name"] for param in told["params"] if param["required"]} <= given.keys()
        fits(example["result"]["value"], told["result"]["schema"])


def test_an_answer_of_another_shape_does_not_fit() -> None:
    told = ROWS["ClamScanner.start_scan"]
    answer = copy.deepcopy(told["examples"][0]["result"]["value"])
    answer["result"]["data"].pop("scan_id")
    with pytest.raises(jsonschema.ValidationError):
        fits(answer, told["result"]["schema"])
