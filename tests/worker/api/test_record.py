"""What a worker publishes is what the others read."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from config_sync.cache import ConfigStore, Entry
from config_sync.provider import ProviderState
from config_sync.schema import DIRECTORIES
from config_sync.status import Held, SyncStatus
from worker.api.record import Publisher, decode_status, encode_status
from worker.published import MAX_RECORD_BYTES
from worker.scoreboard import Scoreboard

NUMBER = st.integers(min_value=1, max_value=2**63 - 1)
NAME = st.sampled_from(sorted(DIRECTORIES))
STATUS = st.builds(
    SyncStatus,
    revision=NUMBER,
    changed=NUMBER,
    digests=st.dictionaries(NAME, st.integers(min_value=1, max_value=2**128 - 1)),
    counts=st.dictionaries(NAME, NUMBER),
    last_event=st.floats(min_value=0, max_value=1e11),
    last_error=st.text(st.characters(codec="utf-8"), max_size=50),
    stage=st.text(st.characters(codec="utf-8"), max_size=20),
    endpoint=st.text(st.characters(codec="utf-8"), max_size=20),
    incidents=NUMBER,
    rejected=NUMBER,
    stale=st.booleans(),
    held=st.none() | st.builds(Held, NUMBER, NUMBER, st.floats(min_value=0, max_value=1e11)),
)


@given(STATUS)
def test_a_status_is_read_as_it_was_written(status: SyncStatus) -> None:
    assert decode_status(encode_status(status)) == status


def test_the_longest_record_fits() -> None:
    names = [f"{at}".rjust(20, "d") for at in range(24)]
    wide = "\U0001f3db" * 10_000
    status = SyncStatus(
        2**63 - 1,
        2**63 - 1,
        dict.fromkeys(names, 2**128 - 1),
        dict.fromkeys(names, 2**63 - 1),
        1e10,
        wide,
        wide,
        wide,
        2**63 - 1,
        2**63 - 1,
        True,
        Held(2**63 - 1, 2**63 - 1, 1e10),
    )
    assert len(encode_status(status)) <= MAX_RECORD_BYTES


def test_a_record_of_another_version_is_read_as_far_as_it_is_understood() -> None:
    record = msgspec.msgpack.encode({"revision": 7, "something_new": [1, 2]})
    assert decode_status(record).revision == 7
    assert decode_status(b"\xc1").revision == 0
    assert decode_status(b"").stage == ""


def test_a_publisher_tells_what_the_store_holds() -> None:
    store = ConfigStore()
    entry = Scoreboard(1).allocate(0, 1)
    publisher = Publisher(entry, store, lambda: ProviderState("watching", "http://a:1", 5, "refused", 2))
    publisher.publish()
    assert decode_status(entry.published()).last_event == 0
    store.apply([Entry("routes/1", b'{"uri": "/x", "upstream_id": "1"}', 5), Entry("routes/2", b"{", 5)], 5)
    publisher.publish()
    status = decode_status(entry.published())
    assert entry.revision == status.revision == 5
    assert status.counts == {"routes": 2}
    assert (status.rejected, status.stage, status.last_error, status.incidents) == (1, "watching", "refused", 2)
    assert status.digests == {"routes": store.digests["routes"]}
    assert status.last_event > 1e9
