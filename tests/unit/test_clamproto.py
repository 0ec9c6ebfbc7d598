"""engine/clamproto.py: any bytes give replies or RemoteProtocolError, and only an exact FOUND is an infection."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.engine import clamproto
from clamscannerd.engine.clamproto import FIRST_ID, Reply, ReplyKind, Session, classify
from clamscannerd.errors import LocalProtocolError, RemoteProtocolError
from clamscannerd.model import Reason, Verdict

NAMES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)
KINDS = st.sampled_from(list(ReplyKind))


def reply(kind: ReplyKind, text: str = "", number: int = FIRST_ID) -> Reply:
    return Reply(id=number, kind=kind, text=text)


def frame(number: int, kind: ReplyKind, text: str, what: str = "fd[9]") -> bytes:
    status = "OK" if kind is ReplyKind.OK else f"{text} {kind.name}"
    return f"{number}: {what}: {status}\0".encode()


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"2: fd[9]: OK\0", ReplyKind.OK, ""),
        (b"2: stream: OK\0", ReplyKind.OK, ""),
        (b"2: fd[123]: Eicar-Test.UNOFFICIAL FOUND\0", ReplyKind.FOUND, "Eicar-Test.UNOFFICIAL"),
        (b"2: stream: X FOUND\0", ReplyKind.FOUND, "X"),
        (b"2: fd[9]: two words FOUND\0", ReplyKind.FOUND, "two words"),
        (b"2: fd[9]: OK FOUND\0", ReplyKind.FOUND, "OK"),
        (b"2: fd[9]: X FOUND ERROR\0", ReplyKind.ERROR, "X FOUND"),
        (b"2: fd[9]: Gr\xfc\xc3\n FOUND\0", ReplyKind.FOUND, r"Gr\\xfc\\xc3\n"),
        (b"2: fd[9]: Not a regular file ERROR\0", ReplyKind.ERROR, "Not a regular file"),
        (b"2: No file descriptor received. ERROR\0", ReplyKind.ERROR, "No file descriptor received."),
        (b"2: INSTREAM size limit exceeded. ERROR\0", ReplyKind.ERROR, "INSTREAM size limit exceeded."),
    ],
)
def test_each_answer_of_clamd_is_read(data: bytes, kind: ReplyKind, text: str) -> None:
    session = Session()
    assert session.sent() == FIRST_ID
    assert session.receive_data(data) == [reply(kind, text)]
    assert session.outstanding == 0


@pytest.mark.parametrize(
    "data",
    [
        b"2: fd[9]: OK \0",
        b"2: fd[9]:OK\0",
        b"2: fd[9]: ok\0",
        b"2: fd[9]: OK\n\0",
        b"2: fd[]: OK\0",
        b"2: fd[9: OK\0",
        b"02: fd[9]: OK\0",
        b"2: /home/x: OK\0",
        b"2: fd[9]: FOUND\0",
        b"2: fd[9]:  FOUND\0",
        b"2: fd[9]: X found\0",
        b"2: OK\0",
        b"fd[9]: OK\0",
        b"OK\0",
        b"\0",
        b"2: PONG\0",
        b"1: PONG\0",
        b"3: fd[9]: OK\0",
        b"1: fd[9]: OK\0",
        b"2: fd[9]: OK\x002: fd[9]: OK\0",
        b"-2: fd[9]: OK\0",
        b"99999999999: fd[9]: OK\0",
        b"2: Command invalid inside IDSESSION. ERROR\0",
        b"2: Only nCMDS\\n and zCMDS\\0 are accepted inside IDSESSION. ERROR\0",
        b"2: Error processing command. ERROR\0",
        b"2: PROTOCOL ERROR: ancillary data sent without FILDES. ERROR\0",
        b"2: UNKNOWN COMMAND\0",
        b"UNKNOWN COMMAND\0",
        b"COMMAND READ TIMED OUT\n",
        b"\xff\xfe\0",
        b"x" * (clamproto.MAX_REPLY_BYTES + 1),
    ],
)
def test_anything_else_ends_the_session(data: bytes) -> None:
    session = Session()
    session.sent()
    with pytest.raises(RemoteProtocolError, match=r"^cannot "):
        session.receive_data(data)
    with pytest.raises(LocalProtocolError):
        session.receive_data(b"")
    with pytest.raises(LocalProtocolError):
        session.sent()


def test_the_first_id_follows_the_handshake() -> None:
    assert clamproto.HANDSHAKE == b"zIDSESSION\0zPING\0"
    assert clamproto.HANDSHAKE_REPLY == b"1: PONG\0"
    assert Session().sent() == 2
    assert Session(first_id=1).sent() == 1


def test_replies_come_in_any_order() -> None:
    session = Session()
    assert [session.sent() for _ in range(3)] == [2, 3, 4]
    replies = session.receive_data(b"4: fd[9]: OK\x002: fd[10]: A FOUND\0")
    assert [r.id for r in replies] == [4, 2]
    assert session.outstanding == 1
    assert [r.id for r in session.receive_data(b"3: fd[11]: OK\0")] == [3]


def test_a_pong_is_checked_and_is_no_file() -> None:
    session = Session()
    assert (session.sent(), session.sent_ping()) == (2, 3)
    assert session.receive_data(b"3: PONG\0") == []
    assert session.outstanding == 1
    with pytest.raises(RemoteProtocolError):
        session.receive_data(b"3: PONG\0")


def test_a_file_is_not_answered_by_a_pong_nor_a_ping_by_ok() -> None:
    session = Session()
    session.sent_ping()
    with pytest.raises(RemoteProtocolError):
        session.receive_data(b"2: fd[9]: OK\0")


def test_the_end_is_an_error_while_something_is_outstanding() -> None:
    session = Session()
    session.receive_eof()
    session = Session()
    session.sent()
    with pytest.raises(RemoteProtocolError, match="1 files unanswered"):
        session.receive_eof()
    session = Session()
    session.sent()
    assert session.receive_data(b"2: fd[9]: O") == []
    with pytest.raises(RemoteProtocolError, match="ends after"):
        session.receive_eof()


def test_instream_frames() -> None:
    assert clamproto.instream_header(0x01020304) == b"\1\2\3\4"
    for size in (0, -1, 1 << 32):
        with pytest.raises(LocalProtocolError):
            clamproto.instream_header(size)


@pytest.mark.parametrize(
    ("answer", "verdict", "reason"),
    [
        (reply(ReplyKind.OK), Verdict.CLEAN, None),
        (reply(ReplyKind.FOUND, "Win.Trojan.X-1"), Verdict.INFECTED, None),
        (reply(ReplyKind.FOUND, "Heuristics.Phishing.Email.SSL-Spoof"), Verdict.INFECTED, None),
        (reply(ReplyKind.FOUND, "Heuristics.Limits.Exceeded.MaxFileSize"), Verdict.NOT_SCANNED, Reason.LIMIT),
        (reply(ReplyKind.FOUND, "Heuristics.Limits.Exceeded.MaxScanTime"), Verdict.NOT_SCANNED, Reason.LIMIT),
        (reply(ReplyKind.FOUND, "Heuristics.Encrypted.Zip"), Verdict.NOT_SCANNED, Reason.ENCRYPTED),
        (reply(ReplyKind.FOUND, "Heuristics.Encrypted.PDF"), Verdict.NOT_SCANNED, Reason.ENCRYPTED),
        (reply(ReplyKind.ERROR, "Can't allocate memory"), Verdict.NOT_SCANNED, Reason.ENGINE_ERROR),
    ],
)
def test_what_a_reply_lets_us_say(answer: Reply, verdict: Verdict, reason: Reason | None) -> None:
    assert classify(answer) == (verdict, reason, answer.text)


def test_without_signatures_ok_is_not_clean_and_found_is_infected() -> None:
    assert classify(reply(ReplyKind.OK), signatures=False) == (Verdict.NOT_SCANNED, Reason.NO_SIGNATURES, "")
    assert classify(reply(ReplyKind.FOUND, "X"), signatures=False) == (Verdict.INFECTED, None, "X")


@given(st.data(), st.lists(st.tuples(KINDS, NAMES), min_size=1, max_size=20))
def test_any_chunking_gives_the_same_replies(data: st.DataObject, answers: list[tuple[ReplyKind, str]]) -> None:
    expected = [reply(k, "" if k is ReplyKind.OK else t, FIRST_ID + i) for i, (k, t) in enumerate(answers)]
    expected = data.draw(st.permutations(expected))
    stream = b"".join(frame(r.id, r.kind, r.text) for r in expected)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))) | {0, len(stream)})
    session = Session()
    for _ in answers:
        session.sent()
    got: list[Reply] = []
    for begin, end in itertools.pairwise(cuts):
        got += session.receive_data(stream[begin:end])
    assert got == expected
    assert session.outstanding == 0


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(0, 4))
def test_any_bytes_give_replies_or_a_protocol_error(chunks: list[bytes], sent: int) -> None:
    session = Session()
    for _ in range(sent):
        session.sent()
    try:
        for chunk in chunks:
            session.receive_data(chunk)
    except RemoteProtocolError:
        return
    assert session.outstanding <= sent


@given(NAMES, KINDS, st.integers(0, 200), st.binary(min_size=1, max_size=1))
def test_one_damaged_byte_never_turns_another_answer_into_ok(
    name: str, kind: ReplyKind, place: int, byte: bytes
) -> None:
    if kind is ReplyKind.OK:
        return
    whole = frame(FIRST_ID, kind, name)
    place %= len(whole)
    damaged = whole[:place] + byte + whole[place + 1 :]
    session = Session()
    session.sent()
    try:
        replies = session.receive_data(damaged)
    except RemoteProtocolError:
        return
    assert all(r.kind is not ReplyKind.OK for r in replies)
