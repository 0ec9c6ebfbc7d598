"""What daemon and worker say to each other: any bytes are a lawful message or refused, in one short line."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.errors import RemoteProtocolError
from clamscannerd.worker.messages import (
    MAX_MESSAGE_BYTES,
    Hello,
    Message,
    Progress,
    Synced,
    decode_command,
    decode_reply,
    encode,
    hello_version,
)


def refused(packet: bytes) -> str:
    said = []
    for decode in (decode_command, decode_reply):
        with pytest.raises(RemoteProtocolError) as error:
            decode(packet)
        said.append(str(error.value))
    return max(said, key=len)


@pytest.mark.parametrize("word", ["no\nsuch\n<0>clamscannerd: done", "\x1b[2J", "x" * 100_000, "\u2028\U0001f4a9"])
@pytest.mark.parametrize("place", ["tag", "field"])
def test_what_a_worker_says_wrongly_is_quoted_in_one_short_line(word: str, place: str) -> None:
    said = refused(msgspec.msgpack.encode({"type": word} if place == "tag" else {"type": "Sync", word: 1}))
    assert said.startswith("cannot take a message: ")
    assert said.isascii()
    assert said.isprintable()
    assert len(said) < 400


@given(st.binary(max_size=200))
def test_no_bytes_but_a_hellos_have_a_version(packet: bytes) -> None:
    version = hello_version(packet)
    assert version == "" or b"Hello" in packet


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.booleans() | st.text(max_size=5)))
def test_the_version_is_read_whatever_else_a_hello_holds(version: str, more: dict[str, object]) -> None:
    packet = msgspec.msgpack.encode({**more, "type": "Hello", "version": version})
    assert hello_version(packet) == version


def test_every_other_reply_has_no_version() -> None:
    assert hello_version(encode(Synced())) == ""
    assert hello_version(encode(Hello(version="1", seals={}, home_error=""))) == "1"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(packet: bytes) -> None:
    for decode in (decode_command, decode_reply):
        with suppress(RemoteProtocolError):
            assert isinstance(decode(packet), Message)


def test_a_packet_beyond_the_bound_is_refused_unread() -> None:
    assert refused(b"x" * (MAX_MESSAGE_BYTES + 1)) == f"cannot take a message of {MAX_MESSAGE_BYTES + 1} bytes"


def test_a_field_of_another_type_is_named() -> None:
    packet = msgspec.msgpack.encode({"type": Progress.__name__, "counts": {"total_files": -1}, "current": b""})
    assert "$.counts.total_files" in refused(packet)
