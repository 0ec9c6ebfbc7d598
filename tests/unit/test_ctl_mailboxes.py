"""What the command line does about mailboxes, from the list of infected files alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.ctl.mailboxes import Json, Plan, params, plan, question, refusal, said
from tests.fakes.answers import mailbox

PLAIN: Json = {"file": "/h/a.php", "virus_type": "Eicar"}
MAILDIR: Json = {"file": "/h/Maildir/cur/1", "virus_type": "Eicar", "message_id": "<1@x>", "subject": "s"}
INBOX = mailbox("/h/mail/inbox", 120, 7)
LONELY = mailbox("/h/mail/one", 1, 1)
UNKNOWN = mailbox("/h/mail/uncounted", None)
ALL = [PLAIN, INBOX, MAILDIR, LONELY, UNKNOWN]
NAMES = [str(found["file"]) for found in ALL]


def test_all_cleanses_each_mailbox_whatever_its_number_of_messages() -> None:
    assert plan(ALL, None, whole=False) == Plan(cleansed=[INBOX, LONELY, UNKNOWN])


def test_all_of_it_whole_asks_about_those_of_more_than_one_message() -> None:
    assert plan(ALL, None, whole=True) == Plan(taken=[INBOX, UNKNOWN])


@given(named=st.sets(st.sampled_from([*NAMES, "/h/not/listed"])))
def test_of_what_is_named_nothing_else_is_asked_about(named: set[str]) -> None:
    chosen = plan(ALL, named, whole=False)
    assert not chosen.cleansed
    assert [box["file"] for box in chosen.taken] == [name for name in NAMES if name in named & {NAMES[1], NAMES[4]}]
    assert params("delete", named, chosen) == {"actions": dict.fromkeys(named, "delete")}


def test_what_is_cleansed_is_named_and_the_rest_is_the_others() -> None:
    chosen = plan(ALL, None, whole=False)
    cleansed = dict.fromkeys([NAMES[1], NAMES[3], NAMES[4]], "cleanse_mailbox")
    assert params("quarantine", None, chosen) == {"actions": cleansed, "others": "quarantine"}
    assert said("quarantine", chosen).startswith("3 mailboxes are cleansed: ")
    assert said("quarantine", Plan(cleansed=[INBOX])).startswith("1 mailbox is cleansed: ")
    assert said("quarantine", Plan(taken=[INBOX])) == ""


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([INBOX], "/h/mail/inbox with all its 120 messages"),
        ([UNKNOWN], "/h/mail/uncounted with all its messages"),
        ([mailbox("/h/\u202ex\n", 2, 1)], "/h/\\xe2\\x80\\xaex\\x0a with all its 2 messages"),
        ([INBOX, UNKNOWN], "2 mailboxes with all their messages"),
    ],
)
def test_the_question_and_the_refusal_say_what_would_go(boxes: list[Json], words: str) -> None:
    assert question("delete", Plan(taken=boxes)) == f"Delete {words}?"
    assert refusal("delete", Plan(taken=boxes)).startswith(f"cannot delete {words} unasked: say --yes")
