"""Which parts of a home may be scanned, and by whom. Pure."""

from collections.abc import Mapping

from clamscannerd.model import Frozen
from clamscannerd.service.accounts import Entry


class ScanType(Frozen, frozen=True, kw_only=True):
    """config.ScanType as values; `paths` beneath the home."""

    id: str
    message: str
    paths: tuple[bytes, ...]
    users: frozenset[str]
    groups: frozenset[str]


def permitted(types: Mapping[str, ScanType], entry: Entry) -> list[ScanType]:
    """Those that the administrator permits to this account, in the configuration's order."""
    return [
        kind
        for kind in types.values()
        if "*" in kind.users or entry.account.name in kind.users or kind.groups & entry.groups
    ]
