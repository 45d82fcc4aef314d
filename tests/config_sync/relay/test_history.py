"""What can be repeated to a sibling, and when only a snapshot helps."""

from hypothesis import given
from hypothesis import strategies as st

from config_sync.cache import Deletion, Entry, Event
from config_sync.digest import MODULUS, record_hash
from config_sync.relay.history import FRAME_BYTES, History, Standing
from config_sync.relay.messages import Batch, FrameSplitter, event_of, read_from_leader


def put(revision: int, size: int = 2) -> Entry:
    return Entry(f"routes/{revision}", b"x" * size, revision, revision, 1)


def hashed(key: str, digest: int) -> int:
    return (digest + record_hash(key, 1, b"")) % MODULUS


def history(*revisions: int, **limits: int) -> History:
    """One batch per revision; the digest after it is its double."""
    made = History(**limits)
    for revision in revisions:
        made.append([put(revision)], revision, 2 * revision)
    return made


def sent(made: History, number: int) -> list[Batch]:
    batch = made.batch(number)
    frames = b"".join(batch.frame(part) for part in range(batch.count()))
    messages = [read_from_leader(payload) for payload in FrameSplitter().feed(frames)]
    return [message for message in messages if isinstance(message, Batch)]


def test_equal_behind_ahead_apart() -> None:
    made = history(5, 7, 9)
    assert made.compare(9, 18) == (Standing.EQUAL, 3)
    assert made.compare(7, 14) == (Standing.BEHIND, 2)
    assert made.compare(8, 14) == (Standing.BEHIND, 2)  # nothing of ours happened at 8
    assert made.compare(0, 0) == (Standing.BEHIND, 0)
    assert made.compare(10, 18)[0] is Standing.AHEAD
    assert made.compare(7, 15)[0] is Standing.APART


def test_the_same_content_is_equal_whatever_its_revision() -> None:
    made = history(5, 7, 9)
    assert made.compare(6, 18) == (Standing.EQUAL, 3)


def test_progress_moves_the_revision_only() -> None:
    made = history(5)
    made.append((), 20, 10)
    assert (made.revision, made.next) == (20, 1)
    assert made.compare(12, 10) == (Standing.EQUAL, 1)


def test_a_sibling_in_the_middle_of_a_batch_gets_the_whole_batch() -> None:
    made = history(5)
    made.append([put(6), put(7), put(8)], 8, 16)
    assert made.compare(7, 99) == (Standing.BEHIND, 1)


def test_the_oldest_batches_are_forgotten_beyond_a_number() -> None:
    made = history(5, 7, 9, 11, max_batches=2)
    assert (made.first, made.next) == (2, 4)
    assert made.compare(7, 14) == (Standing.BEHIND, 2)
    assert made.compare(5, 10)[0] is Standing.APART


def test_the_oldest_batches_are_forgotten_beyond_a_size() -> None:
    made = history(max_bytes=1000)
    for revision in range(1, 10):
        made.append([put(revision, 300)], revision, revision)
    assert made.next - made.first == 2
    made.append([put(10, 2000)], 10, 10)
    assert made.first == made.next, "a batch beyond all bounds is not kept"
    assert made.compare(9, 9)[0] is Standing.APART


def test_after_a_replacement_no_place_is_left() -> None:
    made = history(5, 7)
    place = made.next
    made.reset(3, 1)
    assert made.first > place
    assert made.compare(7, 14)[0] is Standing.AHEAD
    assert made.compare(2, 14)[0] is Standing.APART
    assert made.compare(3, 1)[0] is Standing.EQUAL


def test_a_replacement_by_the_same_keeps_places() -> None:
    made = history(5, 7)
    place = made.next
    made.reset(30, 14)
    assert (made.first, made.next, made.revision) == (0, place, 30)
    assert made.resets == 1


@given(st.lists(st.integers(0, FRAME_BYTES), min_size=1, max_size=6))
def test_frames_of_a_batch_are_the_whole_batch(sizes: list[int]) -> None:
    events: list[Event] = [put(at + 1, size) for at, size in enumerate(sizes)]
    events.append(Deletion("routes/1", len(events) + 1))
    made = History()
    made.append(events, len(events), 1)
    batches = sent(made, 0)
    assert [event_of(record) for batch in batches for record in batch.records] == events
    assert [batch.more for batch in batches] == [True] * (len(batches) - 1) + [False]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=30), st.integers(1, 10), st.data())
def test_whoever_is_behind_becomes_equal_by_the_batches_it_is_given(
    steps: list[int], max_batches: int, data: st.DataObject
) -> None:
    made = History(max_batches=max_batches)
    digests = {0: 0}
    revision = 0
    for step in steps:
        events = [put(revision + at + 1) for at in range(step)]
        revision += step
        for event in events:
            digests[event.mod_revision] = hashed(event.key, digests[event.mod_revision - 1])
        made.append(events, revision, digests[revision])
    stands = data.draw(st.integers(0, revision))
    standing, number = made.compare(stands, digests[stands])
    if standing is Standing.APART:
        assert number == made.next
        assert stands < made.batch(made.first).begin
        return
    digest = digests[stands]
    for at in range(number, made.next):
        for record in sent(made, at)[0].records:
            if record.mod_revision > stands:
                digest = hashed(record.key.decode(), digest)
    assert digest == made.digest
