"""UAPI's whole answer, which is the `result` of the six calls (contract: the envelope). Pure."""

from collections.abc import Sequence

Answer = dict[str, object]


def _envelope(func: str, data: object, status: int, errors: Sequence[str], warnings: Sequence[str]) -> Answer:
    return {
        "apiversion": 3,
        "func": func,
        "module": "ClamScanner",
        "result": {
            "data": data,
            "errors": list(errors) or None,
            "messages": None,
            "metadata": {},
            "status": status,
            "warnings": list(warnings) or None,
        },
    }


def done(func: str, data: object, warnings: Sequence[str] = ()) -> Answer:
    """`status` 1: done as asked, with what did not go through wholly in `warnings`."""
    return _envelope(func, data, 1, (), warnings)


def refused(func: str, error: str, warnings: Sequence[str] = ()) -> Answer:
    """`status` 0 and nothing done; `error` says what and why."""
    return _envelope(func, None, 0, (error,), warnings)
