"""What a follower is sent, as scripts: where it stands in, frames out."""

import pytest

from config_sync.cache import Entry, Item
from config_sync.relay.feed import AHEAD_SECONDS, TRANSITIONS, Feed, State
from config_sync.relay.history import History
from config_sync.relay.messages import (
    Batch,
    Compare,
    Complete,
    FrameSplitter,
    FromLeader,
    Hello,
    Page,
    Progress,
    Record,
    RelayError,
    Welcome,
    pack_digest,
    read_from_leader,
    record_of,
)


class Leader:
    """A leader's content; the digest after each revision is its double."""

    def __init__(self, *revisions: int) -> None:
        self.history = History()
        self.ready = True
        self.watching = True
        self.content: list[Item] = []
        for revision in revisions:
            self.put(revision)

    def put(self, revision: int) -> None:
        self.history.append([put(revision)], revision, 2 * revision)

    def replace(self, revision: int, digest: int) -> None:
        self.history.reset(revision, digest)

    def is_ready(self) -> bool:
        return self.ready

    def is_watching(self) -> bool:
        return self.watching

    def items(self) -> list[tuple[str, list[Item]]]:
        return [("routes", list(self.content)), ("plugins", [Item("", b"[]", b"[]", 2, 2, 1)])]


def put(revision: int) -> Entry:
    return Entry(f"routes/{revision}", b"{}", revision, revision, 1)


def hello(revision: int, digest: int | None = None) -> Hello:
    return Hello(revision, pack_digest(2 * revision if digest is None else digest))


def batch(revision: int) -> Batch:
    return Batch([record_of(put(revision))], revision, pack_digest(2 * revision))


def progress(revision: int, digest: int) -> Progress:
    return Progress(revision, pack_digest(digest))


def greeted(leader: Leader, said: Hello) -> Feed:
    """A follower that has said where it stands."""
    feed = Feed(leader, 4711)
    assert sent(feed) == [Welcome(4711)]
    feed.hello_received(said)
    return feed


def sent(feed: Feed, now: float = 0.0) -> list[FromLeader]:
    """Everything there is to send now."""
    splitter = FrameSplitter()
    found: list[FromLeader] = []
    while (data := feed.next_frame(now)) is not None:
        found += [read_from_leader(payload) for payload in splitter.feed(data)]
    return found


def snapshot(leader: Leader) -> list[FromLeader]:
    return [
        Page([Record(b"plugins", 2, b"[]", 2, 1)], first=True),
        Complete(leader.history.revision, pack_digest(leader.history.digest)),
    ]


def test_who_is_equal_hears_so_and_then_what_happens() -> None:
    leader = Leader(5, 7)
    feed = greeted(leader, hello(7))
    assert sent(feed) == [progress(7, 14)]
    leader.put(9)
    assert sent(feed) == [batch(9)]
    leader.history.advance(12)
    assert sent(feed) == [progress(12, 18)]
    assert sent(feed) == []


def test_who_lacks_batches_gets_them() -> None:
    feed = greeted(Leader(5, 7, 9), hello(5))
    assert sent(feed) == [batch(7), batch(9)]


def test_who_has_nothing_gets_everything() -> None:
    leader = Leader()
    leader.replace(9, 18)
    feed = greeted(leader, hello(0))
    assert sent(feed) == snapshot(leader)
    assert feed.state is State.STREAMING


def test_what_happens_while_a_snapshot_is_sent_comes_after_it() -> None:
    leader = Leader()
    leader.replace(9, 18)
    leader.content = [Item(str(at), b"x" * 1000, b"x" * 1000, 3, 3, 1) for at in range(1000)]
    feed = greeted(leader, hello(0))
    frames = [feed.next_frame(0.0), feed.next_frame(0.0)]
    leader.content.clear()
    leader.put(10)
    splitter = FrameSplitter()
    messages = [read_from_leader(payload) for data in frames for payload in splitter.feed(data or b"")]
    messages += sent(feed)
    pages = [message for message in messages if isinstance(message, Page)]
    assert [page.first for page in pages] == [True] + [False] * (len(pages) - 1)
    assert sum(len(page.records) for page in pages) == 1001
    assert messages[len(pages) :] == [Complete(9, pack_digest(18)), batch(10)]


def test_a_snapshot_has_the_last_good_value_of_what_is_not_valid() -> None:
    leader = Leader()
    leader.replace(9, 18)
    leader.content = [Item("1", b"{", b"{}", 8, 3, 2), Item("2", b"{", None, 9, 9, 1)]
    page = sent(greeted(leader, hello(0)))[0]
    assert isinstance(page, Page)
    assert page.records[:2] == [Record(b"routes/1", 8, b"{", 3, 2, b"{}"), Record(b"routes/2", 9, b"{", 9, 1)]


def test_nobody_is_told_anything_before_the_leader_knows_the_store() -> None:
    leader = Leader(5)
    leader.ready = False
    feed = greeted(leader, hello(0))
    assert sent(feed) == []
    leader.ready = True
    assert sent(feed) == [batch(5)]


def test_who_is_ahead_waits_until_we_have_come_as_far() -> None:
    leader = Leader(5)
    feed = greeted(leader, hello(9))
    assert sent(feed) == []
    leader.put(7)
    assert sent(feed) == []
    leader.put(9)
    leader.put(11)
    assert sent(feed) == [batch(11)]


def test_who_is_ahead_goes_back_with_the_store() -> None:
    leader = Leader(5)
    feed = greeted(leader, hello(9))
    assert sent(feed, 0.0) == []
    leader.watching = False
    assert sent(feed, AHEAD_SECONDS) == [], "a leader without a watch may be the one that lags"
    leader.watching = True
    assert sent(feed, 10.0) == []
    assert sent(feed, 10.0 + AHEAD_SECONDS) == snapshot(leader)


def test_who_is_ahead_by_what_was_on_disk_goes_back_at_once() -> None:
    leader = Leader(5)
    leader.watching = False
    feed = greeted(leader, Hello(9, pack_digest(18), stale=True))
    assert sent(feed) == [], "without a watch nobody knows better"
    leader.watching = True
    assert sent(feed) == snapshot(leader)


def test_who_is_ahead_goes_back_at_once_after_a_snapshot_from_the_store() -> None:
    leader = Leader(5)
    feed = greeted(leader, hello(9))
    assert sent(feed) == []
    leader.replace(6, 77)
    assert sent(feed) == snapshot(leader)


def test_after_a_replacement_followers_compare() -> None:
    leader = Leader(5)
    feed = greeted(leader, hello(5))
    assert sent(feed) == [progress(5, 10)]
    leader.replace(9, 10)
    assert sent(feed) == [progress(9, 10)], "the content is the same"
    leader.replace(11, 99)
    assert sent(feed) == [Compare()]
    assert feed.state is State.GREETING
    feed.hello_received(hello(9, 10))
    assert sent(feed) == snapshot(leader)


def test_who_is_too_slow_compares() -> None:
    leader = Leader(5)
    leader.history = History(max_batches=2)
    leader.put(5)
    feed = greeted(leader, hello(5))
    assert sent(feed) == [progress(5, 10)]
    for revision in (6, 7, 8):
        leader.put(revision)
    assert sent(feed) == [Compare()]


def test_hello_out_of_turn_is_refused() -> None:
    feed = greeted(Leader(5), hello(5))
    with pytest.raises(RelayError, match="without being asked"):
        feed.hello_received(hello(5))


def test_every_state_is_in_the_table_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {state for moves in TRANSITIONS.values() for state in moves.values()} == set(State)
