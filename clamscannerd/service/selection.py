"""From `actions` and `others` of disinfect_files to the steps of a task. Pure.

A path resolves only to a file on the list of infected files: absolute, or relative to the home, or absolute without its
first slash. Nothing is normalised: `..` and links simply are on no list.

What the account's ignore list covers is none of the others; who names it by its path means it.
"""

from collections.abc import Collection, Mapping, Sequence

from clamscannerd.errors import Refused
from clamscannerd.model import Action, Finding, Frozen
from clamscannerd.rpc.names import from_wire, to_wire
from clamscannerd.state.store import NewStep

_NAMED = 100  # paths named in warnings; the rest is counted


class Selection(Frozen, frozen=True, kw_only=True):
    """Steps in the order asked, and warnings about what was ignored."""

    steps: tuple[NewStep, ...]
    warnings: tuple[str, ...]


def select(
    home: bytes,
    findings: Sequence[Finding],
    actions: Mapping[str, str],
    others: str | None,
    ignored: Collection[int] = (),
) -> Selection:
    """`ignored`: ids of the findings that the ignore list covers.

    Raises Refused: unknown action, one file twice with different actions, nothing that matches.
    """
    listed = {finding.path: finding for finding in findings}
    chosen: dict[bytes, Action] = {}
    unlisted: list[str] = []
    for text, word in actions.items():
        action = _action(word)
        path = _resolve(home, text, listed)
        if path is None:
            unlisted.append(text)
        elif chosen.setdefault(path, action) is not action:
            raise Refused(f"cannot disinfect: {to_wire(path)} is named twice with different actions")
    if others is not None:
        rest = _action(others)
        for path, finding in listed.items():
            if finding.id not in ignored:
                chosen.setdefault(path, rest)
    spared = 0 if others is None else sum(one.id in ignored and one.path not in chosen for one in findings)
    if not chosen and spared:
        raise Refused(f"cannot disinfect: {_spared(spared)}, and nothing else was asked for")
    if not chosen:
        raise Refused("cannot disinfect: nothing that was named is on the list of infected files")
    return Selection(
        steps=tuple(_step(listed[path], action) for path, action in chosen.items()),
        warnings=(*_said(unlisted), *([_spared(spared)] if spared else [])),
    )


def _spared(number: int) -> str:
    if number == 1:
        return "1 file that the ignore list covers is left alone; name it to act on it"
    return f"{number} files that the ignore list covers are left alone; name them to act on them"


def _action(word: str) -> Action:
    try:
        return Action(word)
    except ValueError:
        known = ", ".join(Action)
        raise Refused(f"cannot disinfect: unknown action {word[:100]!r} (known: {known})") from None


def _resolve(home: bytes, text: str, listed: Mapping[bytes, Finding]) -> bytes | None:
    try:
        name = from_wire(text)
    except ValueError:
        return None
    prefix = home + b"/"
    candidates = [name.removeprefix(prefix)] if name.startswith(prefix) else []
    if not name.startswith(b"/"):
        candidates += [name, (b"/" + name).removeprefix(prefix)]
    return next((path for path in candidates if path in listed), None)


def _step(finding: Finding, action: Action) -> NewStep:
    return NewStep(
        path=finding.path,
        action=action,
        finding_id=finding.id,
        identity=finding.identity,
        signature=finding.signature,
    )


def _said(unlisted: Sequence[str]) -> list[str]:
    said = [f"ignored, not on the list of infected files: {text[:4096]}" for text in unlisted[:_NAMED]]
    if len(unlisted) > _NAMED:
        said.append(f"ignored, not on the list of infected files: {len(unlisted) - _NAMED} more")
    return said
