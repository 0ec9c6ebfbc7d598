"""Who may call what: (peer, rule, administrators) -> allowed or not. Pure; [daemon], one decision for each call.

The peer is the kernel's word (SO_PEERCRED at accept), so there is nothing to log in to. Decided before parameters are
looked at: who may not call learns nothing from how the parameters are judged. Whoever is no administrator is refused
for giving `user` at all, their own name included, with one and the same answer: it tells nobody which accounts exist.

Rejected: groups as administrators (they change behind the back of a running daemon), polkit (not on servers).
"""

from enum import StrEnum

import msgspec

from clamscannerd.errors import AccessDenied
from clamscannerd.model import Peer

ROOT_UID = 0


class Rule(StrEnum):
    """The access rule of a method; every row of the table has one."""

    ANYONE = "anyone"
    """Any local peer; touches no account (a version, a description)."""
    SELF = "self"
    """Acts for the peer's own account; for administrators also for the account that `user` names."""
    ADMIN = "admin"
    """Administrators alone."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The call is allowed."""

    is_admin: bool
    for_named: bool
    """It acts for the account that `user` names, not for the peer's own."""


def decide(peer: Peer, rule: Rule, *, admins: frozenset[int], user_named: bool) -> Decision:
    """Allowed, or AccessDenied. `admins` are uids, root always among them; `user_named`: `user` was given at all."""
    is_admin = peer.uid == ROOT_UID or peer.uid in admins
    if user_named and not is_admin:
        raise AccessDenied('cannot act for another account: "user" is for administrators')
    if rule is Rule.ADMIN and not is_admin:
        raise AccessDenied("cannot make this call: it is for administrators")
    return Decision(is_admin=is_admin, for_named=user_named)
