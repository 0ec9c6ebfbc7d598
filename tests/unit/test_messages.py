"""What daemon and worker say to each other: any bytes are a lawful message or refused, in one short line."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clamscannerd.errors import RemoteProtocolError
from clamscannerd.worker.messages import MAX_MESSAGE_BYTES, Message, Progress, decode_command, decode_reply


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
def test_any_bytes_are_a_message_or_refused(packet: bytes) -> None:
    for decode in (decode_command, decode_reply):
        with suppress(RemoteProtocolError):
            assert isinstance(decode(packet), Message)


def test_a_packet_beyond_the_bound_is_refused_unread() -> None:
    assert refused(b"x" * (MAX_MESSAGE_BYTES + 1)) == f"cannot take a message of {MAX_MESSAGE_BYTES + 1} bytes"


def test_a_field_of_another_type_is_named() -> None:
    packet = msgspec.msgpack.encode({"type": Progress.__name__, "counts": {"total_files": -1}, "current": b""})
    assert "$.counts.total_files" in refused(packet)
