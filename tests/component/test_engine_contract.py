"""What this program relies on in clamd, held against the fake clamd and the real one alike."""

import io
import os
import socket
import zipfile
from collections.abc import Iterator

import pytest

from clamscannerd.engine import clamproto, control
from clamscannerd.engine.clamproto import FIRST_ID, ReplyKind, Session, classify
from clamscannerd.errors import EngineLost, RemoteProtocolError
from clamscannerd.model import Reason, Verdict
from tests.fakes.clamd import FakeClamd, Fault
from tests.fakes.clamdclient import open_session, receive, send_content, send_fd
from tests.fakes.realclamd import EICAR, EICAR_NAME, MARKER, MARKER_NAME, RealClamd, ndb

Clamd = FakeClamd | RealClamd


@pytest.fixture(params=[FakeClamd, RealClamd], scope="module")
def clamd(request: pytest.FixtureRequest) -> Iterator[Clamd]:
    with request.param() as running:
        yield running


@pytest.fixture
def sock(clamd: Clamd) -> Iterator[socket.socket]:
    with open_session(clamd.socket_path) as opened:
        yield opened


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        (b"", ReplyKind.OK, ""),
        (b"nothing bad", ReplyKind.OK, ""),
        (EICAR, ReplyKind.FOUND, EICAR_NAME),
        (EICAR + b"\n", ReplyKind.FOUND, EICAR_NAME),
        (b"before" * 100 + MARKER + b"after", ReplyKind.FOUND, MARKER_NAME),
    ],
    ids=["empty", "clean", "eicar", "eicar and newline", "marker"],
)
def test_a_file_gets_its_verdict(sock: socket.socket, content: bytes, kind: ReplyKind, text: str) -> None:
    session = Session()
    number = send_content(sock, session, content)
    (reply,) = receive(sock, session, 1)
    assert (reply.id, reply.kind, reply.text) == (number, kind, text)


def test_ids_count_on_from_the_handshake_and_each_file_is_answered_once(sock: socket.socket) -> None:
    session = Session()
    sent = {send_content(sock, session, EICAR if i % 3 == 0 else b"%d" % i): i for i in range(30)}
    assert min(sent) == FIRST_ID
    replies = receive(sock, session, 30)
    assert {reply.id for reply in replies} == set(sent)
    assert all((reply.kind is ReplyKind.FOUND) == (sent[reply.id] % 3 == 0) for reply in replies)
    assert session.outstanding == 0


def test_a_ping_keeps_a_session_alive_between_files(sock: socket.socket) -> None:
    session = Session()
    for content in (b"one", EICAR):
        sock.sendall(clamproto.PING)
        session.sent_ping()
        number = send_content(sock, session, content)
        assert [reply.id for reply in receive(sock, session, 1)] == [number]


def test_the_offset_of_the_fd_does_not_matter(sock: socket.socket) -> None:
    session = Session()
    fd = os.memfd_create("offset", os.MFD_CLOEXEC)
    try:
        os.write(fd, EICAR)
        assert os.lseek(fd, 0, os.SEEK_CUR) == len(EICAR)
        send_fd(sock, session, fd)
        assert receive(sock, session, 1)[0].kind is ReplyKind.FOUND
    finally:
        os.close(fd)


def test_what_is_no_regular_file_is_an_error_and_the_session_goes_on(sock: socket.socket) -> None:
    session = Session()
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        send_fd(sock, session, fd)
    finally:
        os.close(fd)
    (reply,) = receive(sock, session, 1)
    assert classify(reply) == (Verdict.NOT_SCANNED, Reason.ENGINE_ERROR, "Not a regular file")
    send_content(sock, session, EICAR)
    assert receive(sock, session, 1)[0].kind is ReplyKind.FOUND


def test_an_unreadable_fd_is_ok_which_is_why_fds_are_ours(sock: socket.socket) -> None:
    session = Session()
    target = os.memfd_create("write only", os.MFD_CLOEXEC)
    try:
        os.write(target, EICAR)
        writable = os.open(f"/proc/self/fd/{target}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            send_fd(sock, session, writable)
        finally:
            os.close(writable)
    finally:
        os.close(target)
    assert receive(sock, session, 1)[0].kind is ReplyKind.OK


def test_a_command_without_its_fd_is_an_error_and_ends_the_session(sock: socket.socket) -> None:
    session = Session()
    sock.sendall(clamproto.FILDES_MESSAGE)
    session.sent()
    (reply,) = receive(sock, session, 1)
    assert classify(reply) == (Verdict.NOT_SCANNED, Reason.ENGINE_ERROR, "No file descriptor received.")
    assert receive(sock, session, 1) == []


@pytest.mark.parametrize(("content", "kind"), [(b"", ReplyKind.OK), (b"clean", ReplyKind.OK), (EICAR, ReplyKind.FOUND)])
def test_a_stream_gets_its_verdict(sock: socket.socket, content: bytes, kind: ReplyKind) -> None:
    session = Session()
    for _ in range(2):
        chunks = [clamproto.instream_header(1) + content[i : i + 1] for i in range(len(content))]
        sock.sendall(clamproto.INSTREAM + b"".join(chunks) + clamproto.INSTREAM_END)
        number = session.sent()
        (reply,) = receive(sock, session, 1)
        assert (reply.id, reply.kind) == (number, kind)


def test_end_answers_what_is_outstanding_and_closes(sock: socket.socket) -> None:
    session = Session()
    for _ in range(5):
        send_content(sock, session, EICAR)
    sock.sendall(clamproto.END)
    assert len(receive(sock, session, 6)) == 5


@pytest.mark.parametrize(
    "command", [b"zSHUTDOWN\0", b"zRELOAD\0", b"zIDSESSION\0", b"zNONSENSE\0", b"zCONTSCAN /etc\0"]
)
def test_a_session_refuses_what_is_not_for_sessions(clamd: Clamd, sock: socket.socket, command: bytes) -> None:
    sock.sendall(command)
    with pytest.raises(RemoteProtocolError, match="Command invalid inside IDSESSION"):
        receive(sock, Session(), 1)
    assert sock.recv(1) == b""
    control.ping(clamd.socket_path, 10)


def test_the_control_plane_answers(clamd: Clamd) -> None:
    control.ping(clamd.socket_path, 10)
    version = control.version(clamd.socket_path, 10)
    assert version.version[0].isdigit()
    assert (version.database, version.database_time) == (0, 0.0)
    assert "POOLS: 1" in control.stats(clamd.socket_path, 10)
    control.reload(clamd.socket_path, 10)
    control.ping(clamd.socket_path, 30)


@pytest.mark.parametrize("version", [b"ClamAV 1.4.6\xff", b"\x80" * 5_000, b"", b"nothing"])
def test_what_is_no_version_is_engine_lost(version: bytes) -> None:
    with FakeClamd() as fake:
        fake.version = version
        with pytest.raises(EngineLost, match="its version is") as lost:
            control.version(fake.socket_path, 10)
        assert len(str(lost.value)) < 1_000


def test_nobody_there_is_engine_lost(clamd: Clamd) -> None:
    del clamd
    for call in (control.ping, control.version, control.stats, control.reload):
        with pytest.raises(EngineLost, match=r"^cannot .* clamd at /nonexistent: No such file or directory$"):
            call("/nonexistent", 1)


def archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return stream.getvalue()


def encrypted(packed: bytes) -> bytes:
    """The same archive with the flag "encrypted" in its headers."""
    flagged = bytearray(packed)
    flagged[flagged.find(b"PK\x03\x04") + 6] |= 1
    flagged[flagged.find(b"PK\x01\x02") + 8] |= 1
    return bytes(flagged)


@pytest.mark.parametrize(
    ("content", "verdict", "reason", "text"),
    [
        (archive(a=EICAR), Verdict.INFECTED, None, EICAR_NAME),
        (encrypted(archive(a=b"x" * 100)), Verdict.NOT_SCANNED, Reason.ENCRYPTED, "Heuristics.Encrypted.Zip"),
        (b"\0" * ((1 << 20) + 1), Verdict.NOT_SCANNED, Reason.LIMIT, "Heuristics.Limits.Exceeded.MaxFileSize"),
        (
            archive(a=b"\0" * (2 << 20) + MARKER),
            Verdict.NOT_SCANNED,
            Reason.LIMIT,
            "Heuristics.Limits.Exceeded.MaxScanSize",
        ),
    ],
    ids=["zip", "encrypted", "too big", "big member"],
)
def test_with_equal_limits_and_both_alerts_nothing_passes_in_silence(
    content: bytes, verdict: Verdict, reason: Reason | None, text: str
) -> None:
    with (
        RealClamd(options={"MaxFileSize": "1M", "MaxScanSize": "1M"}) as clamd,
        open_session(clamd.socket_path) as sock,
    ):
        session = Session()
        send_content(sock, session, content)
        assert classify(receive(sock, session, 1)[0]) == (verdict, reason, text)


def test_a_session_outlives_a_reload_and_sees_the_new_signatures() -> None:
    with RealClamd() as clamd, open_session(clamd.socket_path) as sock:
        session = Session()
        clamd.add("new.ndb", ndb("Test.New", b"something new"))
        control.reload(clamd.socket_path, 10)
        for _ in range(2000):
            send_content(sock, session, b"something new")
            (reply,) = receive(sock, session, 1)
            if reply.kind is ReplyKind.FOUND:
                return
        raise AssertionError("never found")


def test_a_session_without_commands_is_ended_with_a_sentence() -> None:
    with RealClamd(options={"ReadTimeout": "1"}) as clamd, open_session(clamd.socket_path) as sock:
        session = Session()
        with pytest.raises(RemoteProtocolError, match="COMMAND READ TIMED OUT"):
            receive(sock, session, 1)


@pytest.mark.parametrize(
    "fault",
    [Fault.GARBAGE, Fault.PARTIAL, Fault.DOUBLED, Fault.FOREIGN, Fault.CLOSE, Fault.ENDLESS, Fault.TIMED_OUT],
)
def test_a_misbehaving_engine_gives_no_verdict_beyond_its_right_ones(fault: Fault) -> None:
    with FakeClamd() as clamd, open_session(clamd.socket_path) as sock:
        clamd.faults[2] = fault
        session = Session()
        send_content(sock, session, b"first")
        assert receive(sock, session, 1)[0].kind is ReplyKind.OK
        send_content(sock, session, b"second")
        with pytest.raises(RemoteProtocolError):
            receive(sock, session, 2)


def test_the_fake_can_be_late_and_out_of_order_and_silent() -> None:
    with FakeClamd() as clamd, open_session(clamd.socket_path) as sock:
        clamd.faults |= {1: Fault.REORDER, 3: Fault.DELAY, 4: Fault.SILENCE}
        clamd.content_faults[b"bad"] = Fault.ERROR
        session = Session()
        first, second = send_content(sock, session, b"1"), send_content(sock, session, b"2")
        assert [reply.id for reply in receive(sock, session, 2)] == [second, first]
        late, silent, bad = (send_content(sock, session, part) for part in (b"3", b"4", b"bad"))
        (reply,) = receive(sock, session, 1)
        assert (reply.id, reply.kind, reply.text) == (bad, ReplyKind.ERROR, "Can't allocate memory")
        clamd.release()
        assert [reply.id for reply in receive(sock, session, 1)] == [late]
        assert (session.outstanding, silent not in (first, second, late, bad)) == (1, True)
        assert clamd.contents == [b"1", b"2", b"3", b"4", b"bad"]
