"""The answer of rpc.discover: an OpenRPC document made from the method table and described.py. Pure; [daemon].

Names, order, types and defaults of parameters come from the rows themselves, and access from their rules, so none of it
can be told otherwise than it is. OpenRPC has no word for access and for a parameter by name only: hence `x-access` of a
method, and `x-parameters-by-name` of the whole.

Specification: https://spec.open-rpc.org/ 1.3.2. Its errors are told apart by code and ours by kind, so they stand by
kind in `components`, and a method refers to those that it can be answered with.

Rejected: a file made beforehand (it would be true for another version), and one schema for all parameters of a method
(OpenRPC wants each by itself).
"""

from typing import Any

import msgspec

from clamscannerd import __version__
from clamscannerd.rpc.access import Rule
from clamscannerd.rpc.described import DESCRIBED, KINDS, SIX
from clamscannerd.rpc.describing import Described, Example
from clamscannerd.rpc.table import USER, Method, Methods

Json = dict[str, Any]

_ALWAYS = ("invalid_params", "denied", "too_many_calls", "shutting_down", "internal", "fault")
"""What any call can be answered with."""
_OF_ACCOUNTS = ("unknown_account", "timed_out")
_SCHEMAS = "#/components/schemas/{name}"

_SAYS = """JSON-RPC 2.0 on a Unix stream socket, one message a line. Who is asking is the kernel's word \
(SO_PEERCRED): a call speaks of the files of that user. Administrators may add "user" to the parameters of any call.

File names are bytes: in JSON UTF-8 text in which every backslash is doubled and each byte that is no part of valid \
UTF-8 is \\xNN. Trouble is a JSON-RPC error, and data.kind the word to switch on. The calls of ClamScanner have the \
form of cPanel's public UAPI: trouble with what was asked is status 0 and errors there."""

_ENVELOPE: Json = {
    "type": "object",
    "description": "status 1: done as asked. status 0: nothing was done, errors say why, data is null.",
    "properties": {
        "apiversion": {"const": 3},
        "func": {"type": "string"},
        "module": {"const": "ClamScanner"},
        "result": {
            "type": "object",
            "properties": {
                "data": {},
                "status": {"enum": [0, 1]},
                "metadata": {"type": "object"},
                **{
                    name: {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
                    for name in ("errors", "messages", "warnings")
                },
            },
            "required": ["data", "errors", "messages", "metadata", "status", "warnings"],
        },
    },
    "required": ["apiversion", "func", "module", "result"],
}


def document(methods: Methods) -> Json:
    """Of these rows. A row that is not described is named all the same."""
    known = [described.answer for name, described in DESCRIBED.items() if name in methods]
    schemas, components = msgspec.json.schema_components(known, ref_template=_SCHEMAS)
    answers = dict(zip((name for name in DESCRIBED if name in methods), schemas, strict=True))
    return {
        "openrpc": "1.3.2",
        "info": {"title": "clamscannerd", "version": __version__, "description": _SAYS},
        "servers": [
            {
                "name": "system",
                "url": "unix:///run/clamscannerd/clamscannerd.sock",
                "description": "The socket of the system's daemon; or that which this document came from.",
            }
        ],
        "methods": [_method(row, DESCRIBED.get(name), answers.get(name, {})) for name, row in methods.items()],
        "components": {
            "schemas": {"Envelope": _ENVELOPE, **components},
            "errors": {kind: _error(kind) for kind in KINDS},
        },
        "x-parameters-by-name": {
            USER: {"schema": {"type": "string"}, "description": "For this user; administrators only, in any call."}
        },
    }


def _method(row: Method, described: Described | None, answer: Json) -> Json:
    says = described.params if described else {}
    kinds = [*_ALWAYS, *(_OF_ACCOUNTS if row.rule is Rule.SELF else ()), *(described.errors if described else ())]
    result: Json = {"name": "result", "schema": _enveloped(answer) if row.name in SIX else answer}
    if described and described.answer_says:
        result["description"] = described.answer_says
    return {
        "name": row.name,
        "summary": described.summary if described else "",
        "tags": [{"name": row.name.partition(".")[0]}],
        "x-access": row.rule.value,
        "paramStructure": "either",
        "params": _params(row, says),
        "result": result,
        "errors": [{"$ref": f"#/components/errors/{kind}"} for kind in kinds],
        "examples": [_example(row, example) for example in described.examples] if described else [],
    }


def _params(row: Method, says: Any) -> list[Json]:  # noqa: ANN401
    whole = msgspec.json.schema(row.params)
    schema = whole["$defs"][row.params.__name__]
    return [
        {
            "name": name,
            "required": name in schema["required"],
            "schema": schema["properties"][name],
            **({"description": says[name]} if name in says else {}),
        }
        for name in row.params.__struct_encode_fields__
    ]


def _enveloped(data: Json) -> Json:
    """UAPI's whole answer around `data`."""
    inner = {"type": "object", "properties": {"data": {"anyOf": [data, {"type": "null"}]}}}
    return {"allOf": [{"$ref": _SCHEMAS.format(name="Envelope")}, {"type": "object", "properties": {"result": inner}}]}


def _example(row: Method, example: Example) -> Json:
    """OpenRPC has no word for what an example needs, but for its description."""
    answer = example.answer
    if row.name in SIX:
        inner = {"data": answer, "errors": None, "messages": None, "metadata": {}, "status": 1, "warnings": None}
        answer = {"apiversion": 3, "func": row.name.partition(".")[2], "module": "ClamScanner", "result": inner}
    made: Json = {
        "name": example.name,
        "params": [{"name": name, "value": value} for name, value in example.params.items()],
        "result": {"name": "result", "value": answer},
    }
    return {**made, "description": f"There has to be {example.needs}."} if example.needs else made


def _error(kind: str) -> Json:
    code, message = KINDS[kind]
    return {"code": code, "message": message, "data": {"kind": kind}}
