"""What is written as frames is read as the same messages, however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reload.websocket import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    FrameError,
    Frames,
    accept_value,
    close_code,
    frame,
)

payloads = st.one_of(st.binary(max_size=200), st.integers(0, 70_000).map(bytes))
messages = st.lists(st.tuples(st.sampled_from([BINARY, CLOSE, PING, PONG]), payloads), max_size=4)


@given(messages, st.booleans(), st.data())
def test_messages_come_through(sent: list[tuple[int, bytes]], masked: bool, data: st.DataObject) -> None:
    raw = b"".join(frame(opcode, payload, masked) for opcode, payload in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    frames = Frames(masked)
    received = []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        received += frames.feed(raw[start:end])
    assert received == sent


@pytest.mark.parametrize("data", [b"\x00\x00", b"\xf2\x00", b"\x81\x00", b"\x82\x80\x00\x00\x00\x00"])
def test_what_is_no_frame_of_a_server(data: bytes) -> None:
    with pytest.raises(FrameError):
        Frames(masked=False).feed(data)


def test_the_handshake_of_the_standard() -> None:
    assert accept_value(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_code_of_a_close_frame() -> None:
    assert close_code(b"\x03\xf4restart") == 1012
    assert close_code(b"") is None
