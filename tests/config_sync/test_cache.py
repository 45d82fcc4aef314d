"""The store: in place, at one instant, and never worse than its last good values."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.cache import AT_ONCE, Change, ConfigStore, Deletion, Entry, Event, Incoming, place_of
from config_sync.guard import Guard
from config_sync.records import digest_of
from config_sync.schema import Route, decoders
from config_sync.settings import GuardSettings
from config_sync.status import Held


def put(key: str, value: object, revision: int) -> Entry:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Entry(key, raw, revision, revision, 1)


def route(uri: str) -> dict[str, object]:
    return {"uri": uri, "upstream": {"nodes": {"127.0.0.1:80": 1}}}


class Listener:
    def __init__(self, store: ConfigStore) -> None:
        self.batches: list[list[Change]] = []
        self.seen: list[int] = []
        self._store = store
        store.subscribe(self)

    def __call__(self, changes: Sequence[Change]) -> None:
        self.batches.append(list(changes))
        self.seen.append(len(self._store.caches["routes"].items))


@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("routes/1", ("routes", "1")),
        ("routes/", None),
        ("plugins", ("plugins", "")),
        ("plugins/", None),
        ("gen_id", None),
        ("data_plane/server_info/x", None),
        ("consumers/jack/credentials/c1", ("consumers", "jack/credentials/c1")),
        ("services/1/graphql_cost_decorations/2", None),
        ("proto/1", ("proto", "1")),
    ],
)
def test_places(key: str, place: tuple[str, str] | None) -> None:
    assert place_of(key) == place


def test_a_batch_is_complete_before_anyone_is_told() -> None:
    store = ConfigStore()
    listener = Listener(store)
    store.apply([put("routes/1", route("/a"), 2), put("routes/2", route("/b"), 2)], 2)
    assert listener.seen == [2]
    assert [change.id for change in listener.batches[0]] == ["1", "2"]
    assert store.revision == 2


def uris(store: ConfigStore, id_: str) -> tuple[str, ...] | None:
    """The paths of a route's last good value."""
    value = store.value("routes", id_)
    return None if value is None else value.uris


def snapshot(store: ConfigStore, entries: Sequence[Entry], revision: int) -> Incoming:
    """Take a complete snapshot over."""
    incoming = store.receive()
    list(incoming.add(entries))
    list(incoming.complete(revision))
    return incoming


def test_a_bad_value_keeps_the_last_good_one_and_heals() -> None:
    store = ConfigStore()
    listener = Listener(store)
    store.apply([put("routes/1", route("/a"), 2)], 2)
    store.apply([put("routes/1", b"{nonsense", 3), put("routes/2", route("/b"), 3)], 3)
    assert uris(store, "1") == ("/a",)
    assert store.caches["routes"].items["1"].raw == b"{nonsense"
    assert store.rejected["routes/1"].revision == 3
    assert [change.id for change in listener.batches[1]] == ["2"]
    store.apply([put("routes/1", route("/c"), 4)], 4)
    assert store.rejected == {}
    assert uris(store, "1") == ("/c",)


def test_a_value_written_again_unchanged_is_no_change() -> None:
    store = ConfigStore()
    listener = Listener(store)
    store.apply([put("routes/1", route("/a"), 2)], 2)
    store.apply([put("routes/1", route("/a"), 3)], 3)
    assert len(listener.batches) == 1
    assert store.caches["routes"].items["1"].mod_revision == 3
    snapshot(store, [put("routes/1", route("/a"), 7)], 8)
    assert len(listener.batches) == 1
    assert (store.revision, store.changed) == (8, 7)


def test_a_value_that_was_never_good_is_absent() -> None:
    store = ConfigStore()
    listener = Listener(store)
    store.apply([put("routes/1", {"uri": 5}, 2)], 2)
    store.apply([Deletion("routes/1", 3)], 3)
    assert listener.batches == []
    assert store.rejected == {}
    assert store.rejections == 1


def test_a_list_changes_only_what_has_changed() -> None:
    store = ConfigStore()
    one, two = put("routes/1", route("/a"), 2), put("routes/2", route("/b"), 3)
    store.apply([one, two], 3)
    kept = store.caches["routes"].items["1"]
    listener = Listener(store)
    incoming = snapshot(store, [one, put("routes/3", route("/c"), 5)], 6)
    assert incoming.differences == 2
    assert store.caches["routes"].items["1"] is kept
    assert [(change.id, change.new is None) for change in listener.batches[0]] == [("3", False), ("2", True)]
    assert store.revision == 6


def test_a_record_of_a_wiped_store_is_another_in_spite_of_its_revision() -> None:
    store = ConfigStore()
    store.apply([put("routes/1", route("/old"), 5)], 9)
    listener = Listener(store)
    snapshot(store, [put("routes/1", route("/new"), 5)], 6)
    (change,) = listener.batches[0]
    assert change.new.uris == ("/new",)
    assert store.revision == 6


def test_a_snapshot_is_invisible_until_it_is_complete() -> None:
    store = ConfigStore()
    kept, gone = put("routes/1", route("/a"), 2), put("routes/9", route("/z"), 2)
    store.apply([kept, gone], 2)
    listener = Listener(store)
    digests = dict(store.digests)
    incoming = store.receive()
    list(incoming.add([kept, put("routes/2", route("/b"), 3)]))
    list(incoming.add([put("routes/3", {"uri": 1}, 3), put("routes/", b"init_dir", 1)]))
    steps = incoming.complete(4)
    while not incoming.is_done:
        assert listener.batches == []
        assert set(store.caches["routes"].items) == {"1", "9"}
        assert (store.rejected, store.digests, store.revision) == ({}, digests, 2)
        next(steps, None)
    assert [(change.id, change.new is None) for change in listener.batches[0]] == [("2", False), ("9", True)]
    assert set(store.caches["routes"].items) == {"1", "2", "3"}
    assert set(store.rejected) == {"routes/3"}


def test_a_snapshot_that_is_dropped_leaves_no_trace() -> None:
    store = ConfigStore()
    store.apply([put("routes/1", route("/a"), 2)], 2)
    listener = Listener(store)
    incoming = store.receive()
    steps = incoming.add([put(f"routes/{n}", route("/b"), 3) for n in range(100)])
    next(steps)
    incoming.drop()
    list(steps)
    list(incoming.complete(4))
    assert not incoming.is_done
    assert listener.batches == []
    assert set(store.caches["routes"].items) == {"1"}


def test_a_snapshot_brings_last_good_values_of_what_is_not_valid() -> None:
    store = ConfigStore()
    incoming = store.receive()
    good = json.dumps(route("/good")).encode()
    list(incoming.add([put("routes/1", b"{", 3), put("routes/2", b"{", 3)], {"routes/1": good, "routes/2": b"["}))
    list(incoming.complete(4))
    assert uris(store, "1") == ("/good",)
    assert uris(store, "2") is None
    assert set(store.rejected) == {"routes/1", "routes/2"}


def guarded(hold: float = 0.0) -> tuple[ConfigStore, list[float]]:
    """A store with 20 routes under a guard; the list holds now and when somebody has confirmed."""
    times = [100.0, 0.0]
    store = ConfigStore(guard=Guard(GuardSettings(hold=hold), lambda: times[0], lambda: times[1]))
    snapshot(store, [put(f"routes/{n}", route("/a"), 2) for n in range(20)], 2)
    return store, times


def test_an_emptied_store_is_held_back_until_it_is_confirmed() -> None:
    store, times = guarded()
    snapshot(store, [], 3)
    assert store.held == Held(20, 20, 100.0)
    assert len(store.caches["routes"].items) == 20
    assert store.revision == 2
    times[0] = 10_000.0
    snapshot(store, [], 4)
    assert store.held == Held(20, 20, 100.0)
    times[1] = 9_000.0
    snapshot(store, [], 5)
    assert store.held is None
    assert store.caches["routes"].items == {}


def test_what_is_held_back_passes_in_time_when_so_configured() -> None:
    store, times = guarded(hold=60.0)
    snapshot(store, [], 3)
    times[0] = 159.0
    snapshot(store, [], 3)
    assert store.held is not None
    times[0] = 160.0
    snapshot(store, [], 3)
    assert store.caches["routes"].items == {}


def test_a_store_that_comes_back_is_no_longer_held_back() -> None:
    store, times = guarded(hold=60.0)
    snapshot(store, [], 3)
    snapshot(store, [put(f"routes/{n}", route("/a"), 2) for n in range(20)], 4)
    assert store.held is None
    times[0] = 1_000.0
    snapshot(store, [], 5)
    assert store.held == Held(20, 20, 1_000.0)


def test_half_of_the_routes_and_deletes_as_events_pass() -> None:
    store, _ = guarded()
    snapshot(store, [put(f"routes/{n}", route("/a"), 2) for n in range(10)], 3)
    assert store.held is None
    store.apply([Deletion(f"routes/{n}", 4) for n in range(10)], 4)
    assert store.caches["routes"].items == {}


@pytest.mark.parametrize("size", [3, AT_ONCE + 1, 300])
def test_a_revision_of_any_size_becomes_visible_at_one_instant(size: int) -> None:
    store = ConfigStore()
    store.apply([put(f"routes/{n}", route("/a"), 2) for n in range(size)], 2)
    listener = Listener(store)
    one: list[Event] = [put(f"routes/{n}", route("/b"), 3) for n in range(1, size)]
    steps = store.applying([*one, Deletion("routes/0", 3), put("routes/last", route("/c"), 4)], 4)
    for _ in steps:
        pass
    assert [len(batch) for batch in listener.batches] in ([size, 1], [size + 1])
    assert (store.revision, store.changed) == (4, 4)
    assert set(store.caches["routes"].items) == {*map(str, range(1, size)), "last"}


EVENTS = st.lists(
    st.tuples(st.sampled_from(["routes/1", "routes/2", "services/1", "plugins", "gen_id", "routes/"]), st.booleans()),
    max_size=30,
)


@given(EVENTS, st.integers(0, 30))
def test_the_incremental_digest_equals_the_recomputed_one(history: list[tuple[str, bool]], cut: int) -> None:
    store, live = ConfigStore(), dict[str, Entry]()
    for revision, (key, is_put) in enumerate(history, 2):
        if is_put:
            live[key] = put(key, route(f"/{revision}"), revision)
        else:
            live.pop(key, None)
        if revision == cut:
            snapshot(store, list(live.values()), revision)
        elif revision > cut:
            store.apply([live[key] if is_put else Deletion(key, revision)], revision)
    if len(history) >= cut - 1:
        for directory, cache in store.caches.items():
            assert store.digests[directory] == digest_of(directory, cache.items.values())
    other = ConfigStore()
    snapshot(other, list(reversed(live.values())), 99)
    if cut <= len(history) + 1:
        assert store.digests == other.digests


def test_a_listener_that_fails_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = ConfigStore()

    def broken(changes: Sequence[Change]) -> None:
        raise RuntimeError("broken")

    store.subscribe(broken)
    listener = Listener(store)
    store.apply([put("routes/1", route("/a"), 2)], 2)
    assert len(listener.batches) == 1
    assert "a listener failed" in caplog.text


def test_a_decoder_that_fails_costs_the_others_nothing() -> None:
    def broken(id_: str, raw: bytes) -> tuple[Route, list[str]]:
        raise ZeroDivisionError

    store = ConfigStore({**decoders(), "services": broken})
    store.apply([put("services/1", {}, 2), put("routes/1", route("/a"), 2)], 2)
    assert set(store.rejected) == {"services/1"}
    assert uris(store, "1") == ("/a",)


def test_placeholders_and_unknown_directories_are_no_changes() -> None:
    store = ConfigStore()
    listener = Listener(store)
    store.apply([put("routes/", b"init_dir", 2), put("gen_id", b"1", 3), Deletion("routes/none", 4)], 4)
    assert listener.batches == []
    assert store.rejected == {}
