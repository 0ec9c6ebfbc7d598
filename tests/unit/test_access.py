"""rpc/access.py: the whole table of decisions."""

import itertools

import pytest

from clamscannerd.errors import AccessDenied
from clamscannerd.model import Peer
from clamscannerd.rpc.access import Decision, Rule, decide

ADMINS = frozenset({1001})
ROOT, ADMIN, PLAIN = (Peer(uid=uid, gid=uid) for uid in (0, 1001, 1002))


@pytest.mark.parametrize(("peer", "rule", "named"), list(itertools.product((ROOT, ADMIN), Rule, (False, True))))
def test_administrators_may_make_every_call_for_every_account(peer: Peer, rule: Rule, named: bool) -> None:
    expected = Decision(is_admin=True, for_named=named)
    assert decide(peer, rule, admins=ADMINS, user_named=named) == expected


def test_root_is_administrator_without_being_listed() -> None:
    assert decide(ROOT, Rule.ADMIN, admins=frozenset(), user_named=False).is_admin


@pytest.mark.parametrize("rule", [Rule.ANYONE, Rule.SELF])
def test_others_may_call_for_themselves(rule: Rule) -> None:
    expected = Decision(is_admin=False, for_named=False)
    assert decide(PLAIN, rule, admins=ADMINS, user_named=False) == expected


@pytest.mark.parametrize("named", [False, True])
def test_others_may_not_make_calls_of_administrators(named: bool) -> None:
    with pytest.raises(AccessDenied):
        decide(PLAIN, Rule.ADMIN, admins=ADMINS, user_named=named)


def test_others_get_one_answer_for_naming_a_user_whatever_the_call() -> None:
    answers = set()
    for rule in Rule:
        with pytest.raises(AccessDenied) as caught:
            decide(PLAIN, rule, admins=ADMINS, user_named=True)
        answers.add((str(caught.value), str(caught.value.data())))
    assert len(answers) == 1


def test_a_gid_is_never_taken_for_a_uid() -> None:
    with pytest.raises(AccessDenied):
        decide(Peer(uid=1002, gid=0), Rule.ADMIN, admins=ADMINS, user_named=False)
