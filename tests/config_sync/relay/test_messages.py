"""Frames: what is written can be read, however the stream is cut; what is no message is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.cache import Deletion, Entry, Event
from config_sync.relay.messages import (
    MAX_FRAME_BYTES,
    Batch,
    Compare,
    Complete,
    FrameSplitter,
    FromLeader,
    Heartbeat,
    Hello,
    Page,
    Progress,
    Record,
    RelayError,
    Welcome,
    event_of,
    frame,
    pack_digest,
    read_from_follower,
    read_from_leader,
    record_of,
    split,
)
from tests.fakes.splitting import split as cut

DIGEST = pack_digest(7)
RECORDS = [Record(b"routes/1", 5, b"{}", 4, 2), Record(b"routes/2", 6), Record(b"routes/3", 7, b"{", 7, 1, b"{}")]
ALL: list[FromLeader] = [
    Welcome(4711),
    Heartbeat(),
    Batch(RECORDS, 7, DIGEST, more=True),
    Progress(9, DIGEST),
    Page(RECORDS, first=True),
    Complete(9, DIGEST),
    Compare(),
]

events = st.one_of(
    st.builds(
        Entry,
        st.binary(max_size=8).map(lambda key: key.decode("utf-8", "surrogateescape")),
        st.binary(max_size=40),
        st.integers(1, 2**62),
        st.integers(0, 2**62),
        st.integers(0, 2**62),
    ),
    st.builds(Deletion, st.text("ab/", max_size=8), st.integers(1, 2**62)),
)


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_what_a_leader_says_is_read(message: FromLeader) -> None:
    [payload] = FrameSplitter().feed(frame(message))
    assert read_from_leader(payload) == message


def test_what_a_follower_says_is_read() -> None:
    [payload] = FrameSplitter().feed(frame(Hello(12, DIGEST)))
    assert read_from_follower(payload) == Hello(12, DIGEST)


@given(events)
def test_an_event_comes_out_as_it_went_in(event: Event) -> None:
    assert event_of(record_of(event)) == event


@given(st.lists(st.binary(max_size=50)), st.data())
def test_cuts_do_not_matter(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads)
    cuts = data.draw(st.lists(st.integers(0, 5_000)))
    splitter = FrameSplitter()
    found = [payload for piece in cut(stream, cuts) for payload in splitter.feed(piece)]
    assert found == payloads


@given(st.lists(events), st.integers(1, 200))
def test_parts_are_the_whole_and_none_is_empty(whole: list[Event], limit: int) -> None:
    parts = split(whole, limit)
    assert [event for part in parts for event in part] == whole
    assert all(parts) or whole == []


def test_a_length_that_is_none_is_refused() -> None:
    with pytest.raises(RelayError, match="is announced"):
        FrameSplitter().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big"))


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x91\x63", b"\x93\x03\xa1x\xa1y", b'{"a": 1}'])
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(RelayError):
        read_from_leader(payload)
    with pytest.raises(RelayError):
        read_from_follower(payload)
