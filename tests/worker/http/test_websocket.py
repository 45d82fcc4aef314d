"""Where the frames of a WebSocket end, however its bytes are cut."""

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.http.websocket import (
    FRAMES_PER_STEP,
    GOING_AWAY,
    MAX_BEHIND_BYTES,
    SERVICE_RESTART,
    FrameCursor,
    close_frame,
)

LENGTHS = st.one_of(st.integers(0, 200), st.sampled_from([125, 126, 127, 65_535, 65_536, 70_000]))
FRAMES = st.lists(st.tuples(st.sampled_from([0, 1, 2, 9, 10]), LENGTHS, st.booleans()), min_size=1, max_size=8)


def frame(opcode: int, length: int, masked: bool) -> bytes:
    mask = 128 if masked else 0
    head = bytes((0x80 | opcode,))
    if length < 126:
        head += bytes((mask | length,))
    elif length < 65_536:
        head += struct.pack(">BH", mask | 126, length)
    else:
        head += struct.pack(">BQ", mask | 127, length)
    return head + (b"mask" if masked else b"") + b"\x88" * length


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(at)]


@given(FRAMES, st.lists(st.integers(0, 1 << 20), max_size=12))
def test_it_stands_between_frames_exactly_where_one_ends(frames: list[tuple[int, int, bool]], cuts: list[int]) -> None:
    wires = [frame(*one) for one in frames]
    ends = {0}
    for wire in wires:
        ends.add(max(ends) + len(wire))
    cursor, at = FrameCursor(), 0
    for piece in pieces(b"".join(wires), cuts):
        cursor.feed(piece)
        at += len(piece)
        assert cursor.is_between_frames == (at in ends)
        assert not cursor.has_closed


@given(FRAMES, st.integers(0, 1 << 20))
def test_the_rest_of_a_frame_is_found_in_what_follows(frames: list[tuple[int, int, bool]], cut: int) -> None:
    wires = [frame(*one) for one in frames]
    data = b"".join(wires)
    cut %= len(data) + 1
    end = 0
    for wire in wires:
        if end >= cut:
            break
        end += len(wire)
    cursor = FrameCursor()
    cursor.feed(data[:cut])
    assert cut + cursor.feed_frame(data[cut:]) == max(end, cut)
    assert cursor.is_between_frames


@given(FRAMES, st.booleans(), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_a_close_frame_is_seen(frames: list[tuple[int, int, bool]], masked: bool, cuts: list[int]) -> None:
    close = close_frame(GOING_AWAY, b"mask" if masked else b"")
    cursor = FrameCursor()
    cursor.feed(b"".join(frame(*one) for one in frames))
    for piece in pieces(close, cuts):
        assert not cursor.has_closed
        cursor.feed(piece)
    assert cursor.has_closed
    cursor.feed(b"")
    assert cursor.has_closed


def test_close_frames() -> None:
    assert close_frame(SERVICE_RESTART) == b"\x88\x02\x03\xf4"
    assert close_frame(GOING_AWAY, b"\x01\x02\x03\x04") == b"\x88\x82\x01\x02\x03\x04\x02\xeb"


def test_many_frames_are_looked_at_in_steps() -> None:
    cursor = FrameCursor()
    cursor.feed(frame(1, 0, masked=False) * (FRAMES_PER_STEP + 1) + frame(8, 0, masked=False))
    assert not cursor.is_between_frames
    cursor.feed(b"")
    assert cursor.has_closed


def test_what_cannot_be_caught_up_with_is_given_up() -> None:
    cursor = FrameCursor()
    cursor.feed(frame(1, 0, masked=False) * MAX_BEHIND_BYTES)
    assert cursor.is_adrift
    cursor.feed(b"")
    assert not cursor.is_between_frames
