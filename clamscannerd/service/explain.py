"""Scan.explain: why a path is scanned or not, and what was last said of it. [daemon]

From the configuration, the ignore list and the rows of scans alone: the daemon has no right to look at the path, and
does not need to. What only a look can tell (is it there, a link, larger than the limit, on another file system) is for
who asks and may look: `clamscannerctl explain` does, as the user.

Rejected: a worker for the look (it would cost a process for what the asker sees by `stat`, and every answer would wait
for a home that hangs).
"""

from typing import Literal

import msgspec

from clamscannerd.errors import InvalidParams
from clamscannerd.model import PATH_MAX_BYTES, Finding, FindingState, Reason, Scan, ScanState, is_beneath
from clamscannerd.rpc.names import from_wire, to_wire
from clamscannerd.service.accounts import Entry
from clamscannerd.service.context import Context
from clamscannerd.service.ignoring import as_found
from clamscannerd.service.scan_types import permitted
from clamscannerd.service.status import ignored_shown, shown
from clamscannerd.state.store_explain import Known
from clamscannerd.state.tasks import covers

Outcome = Literal["infected", "not_scanned", "nothing_found", "unknown"]


class Covering(msgspec.Struct, frozen=True, kw_only=True):
    """A scan type that looks at the path."""

    id: str
    message: str


class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """By which pattern of scans.exclude; `file`: what fits it, the path or a directory above it."""

    pattern: str
    file: str


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """`file`: the path or a directory above it."""

    file: str
    reason: Reason


class LastFinding(msgspec.Struct, frozen=True, kw_only=True):
    """The newest of this path. `state`: what became of it."""

    scan_id: int
    virus_type: str
    state: FindingState
    found_at: float


class LastScan(msgspec.Struct, frozen=True, kw_only=True):
    """The newest that ended and looked at the path. `nothing_found`: the path is on none of its lists, which are whole;
    `unknown`: it did not come to its end, or its lists do not have everything."""

    scan_id: int
    scan_type: str
    state: ScanState
    time_started: float | None
    time_ended: float | None
    outcome: Outcome
    not_scanned: Skipped | None


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """`ignored`: the entry of the ignore list that covers the finding that stands; without one, that would by the
    path."""

    file: str
    in_home: bool
    scan_types: list[Covering]
    excluded: Exclusion | None
    ignored: dict[str, int | str] | None
    max_file_size: int
    finding: LastFinding | None
    last_scan: LastScan | None


async def explain(context: Context, entry: Entry, text: str, *, directory: bool) -> Explained:
    """`text`: absolute, or relative to the home, in wire form. Raises InvalidParams."""
    account = entry.account
    path = _beneath(account.home, text)
    if path is None:
        return _nothing(context, text)
    async with context.heavy(account.uid):
        known = await context.store.about(account.uid, account.name, path)
    types = [kind for kind in permitted(context.settings.scan_types, entry) if covers(kind.paths, path)]
    excluded = await context.ignores.left_out(context.settings.excludes, path, directory=directory)
    then = known.scan.excludes if known.scan is not None else ()
    excluded_then = await context.ignores.left_out(then, path, directory=directory)
    finding = known.finding
    if finding is not None and finding.state is FindingState.STANDING:
        judged = (await context.ignores.of(account, as_found([finding]))).entries.get(finding.id)
    else:
        judged = await context.ignores.by_path(account, path)
    return Explained(
        file=shown(account.home, path).removesuffix("/."),
        in_home=True,
        scan_types=[Covering(id=kind.id, message=kind.message) for kind in types],
        excluded=excluded and Exclusion(pattern=to_wire(excluded[0]), file=shown(account.home, excluded[1])),
        ignored=ignored_shown(judged).get("ignored"),  # type: ignore[arg-type]
        max_file_size=context.engine().max_file_size,
        finding=_finding(finding),
        last_scan=_last(account.home, known, excluded_then),
    )


def _beneath(home: bytes, text: str) -> bytes | None:
    """Relative to the home, b"." for the home itself; None: it is elsewhere."""
    try:
        name = from_wire(text)
    except ValueError as error:
        raise InvalidParams(f"cannot explain the path: {error}") from None
    name = name.rstrip(b"/") or name[:1]
    if name in (home, b"", b"."):
        return b"."
    path = name.removeprefix(home + b"/")
    if len(path) > PATH_MAX_BYTES:
        raise InvalidParams(f"cannot explain the path: it has more than {PATH_MAX_BYTES} bytes")
    if not is_beneath(path.removeprefix(b"/")):
        raise InvalidParams('cannot explain the path: it has a NUL, an empty name, "." or ".." in it')
    return None if path.startswith(b"/") else path


def _nothing(context: Context, text: str) -> Explained:
    """Of what is outside of the home nothing is known, and nothing is said."""
    return Explained(
        file=text,
        in_home=False,
        scan_types=[],
        excluded=None,
        ignored=None,
        max_file_size=context.engine().max_file_size,
        finding=None,
        last_scan=None,
    )


def _finding(found: Finding | None) -> LastFinding | None:
    if found is None:
        return None
    return LastFinding(
        scan_id=found.scan_id,
        virus_type=found.signature or "unknown",
        state=found.state,
        found_at=found.found_at,
    )


def _last(home: bytes, known: Known, left_out: tuple[bytes, bytes] | None) -> LastScan | None:
    scan = known.scan
    if scan is None:
        return None
    outcome, skipped = _outcome(known, scan, left_out)
    return LastScan(
        scan_id=scan.id,
        scan_type=scan.scan_type,
        state=scan.state,
        time_started=scan.started_at,
        time_ended=scan.ended_at,
        outcome=outcome,
        not_scanned=skipped and Skipped(file=shown(home, skipped[0]), reason=skipped[1]),
    )


def _outcome(
    known: Known, scan: Scan, left_out: tuple[bytes, bytes] | None
) -> tuple[Outcome, tuple[bytes, Reason] | None]:
    if known.finding is not None and known.finding.scan_id == scan.id:
        return "infected", None
    if known.skipped is not None:
        return "not_scanned", known.skipped
    if left_out is not None:
        return "not_scanned", (left_out[1], Reason.EXCLUDED)
    if scan.state is ScanState.DONE and known.whole:
        return "nothing_found", None
    return "unknown", None
