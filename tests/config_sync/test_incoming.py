"""Snapshots on their way in: one law for all ways in which a history comes, and the order of what happens."""

import gc
import json
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config_sync import cache, incoming, schema
from config_sync.cache import Change, ConfigStore, Deletion, Entry, Event, Incoming, Item
from config_sync.records import digest_of
from tests.fakes.answers import Answers
from worker import staging
from worker.switcher import Switcher

DECODERS = schema.decoders()
Way = Callable[[ConfigStore, Sequence[Event], dict[str, Entry], int], Iterator[None]]


def route(uri: str, **fields: object) -> bytes:
    led = fields if {"upstream", "upstream_id", "service_id"} & fields.keys() else {"upstream_id": "0", **fields}
    return json.dumps({"uri": uri, **led}).encode()


VALUES: dict[str, list[bytes]] = {
    "routes": [
        route("/a", upstream_id="0"),
        route("/a/*", upstream_id="1", priority=5),
        route("/*", service_id="0"),
        route("/a", service_id="1", priority=1),
        route("/b", service_id="0", hosts=["a.com"]),
        route("/a", hosts=["*.com"], upstream={"nodes": {"10.0.0.1:80": 1}}),
        route("/b", upstream={"nodes": {"10.0.0.1:80": 1, "10.0.0.2:80": 1}}, status=0),
        route("/b", upstream={"nodes": {"10.0.0.3:80": 1}}),
        b"{nonsense",
        route("/x", priority="high"),
    ],
    "services": [
        b'{"upstream_id": "0"}',
        b'{"upstream_id": "1", "hosts": ["a.com"]}',
        b'{"upstream": {"nodes": {"10.0.0.4:80": 1}}, "hosts": ["b.com", "*.com"]}',
        b"[]",
    ],
    "upstreams": [b'{"nodes": {"10.0.0.5:80": 1}}', b'{"nodes": {"10.0.0.6:80": 1}}', b'{"nodes": 5}'],
}
KEYS = [
    f"{directory}/{id_}"
    for directory, count in (("routes", 6), ("services", 2), ("upstreams", 2))
    for id_ in range(count)
]


def revisions(chance: random.Random, count: int) -> Iterator[tuple[list[Event], dict[str, Entry], int]]:
    """Make up a history: the events of each revision, what is live then, and the revision."""
    live: dict[str, Entry] = {}
    for revision in range(2, count + 2):
        events: list[Event] = []
        for key in chance.sample(KEYS, chance.choice((1, 1, 2, 5, len(KEYS)))):
            before = live.get(key)
            if before is not None and chance.random() < 0.3:
                del live[key]
                events.append(Deletion(key, revision))
                continue
            value = chance.choice(VALUES[key.partition("/")[0]])
            if before is not None and chance.random() < 0.1:
                value = before.value
            create, version = (before.create_revision, before.version + 1) if before else (revision, 1)
            live[key] = Entry(key, value, revision, create, version)
            events.append(live[key])
        yield events, dict(live), revision


def in_place(store: ConfigStore, events: Sequence[Event], live: dict[str, Entry], revision: int) -> Iterator[None]:
    store.apply(events, revision)
    return iter(())


def in_steps(store: ConfigStore, events: Sequence[Event], live: dict[str, Entry], revision: int) -> Iterator[None]:
    return store.applying(events, revision)


def as_snapshot(store: ConfigStore, events: Sequence[Event], live: dict[str, Entry], revision: int) -> Iterator[None]:
    arriving = store.receive()
    entries = list(live.values())
    half = len(entries) // 2
    yield from arriving.add(entries[:half])
    yield from arriving.add(entries[half:])
    yield from arriving.complete(revision)
    assert arriving.is_done


class Replica:
    """A store and what a worker makes of it."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.answers = Answers()
        self.store = ConfigStore(DECODERS)
        self.switcher = Switcher(self.store, self.answers.router, self.answers.builder)

    def follow(self, events: Sequence[Event], live: dict[str, Entry], revision: int) -> None:
        for _ in self.way(self.store, events, live, revision):
            pass

    def content(self) -> dict[str, dict[str, Item]]:
        return {directory: found.items for directory, found in self.store.caches.items()}


@settings(max_examples=80)
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_whichever_way_a_history_comes_the_end_is_the_same(chance: random.Random, count: int) -> None:
    """Caches with their last good values, digests, rejected values, and the router's answer to every request."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "AT_ONCE", chance.choice((0, 1, 4)))  # most revisions are staged
        patch.setattr(staging, "IN_PLACE", chance.choice((0, 2, 256)))  # with and without a second router
        replicas = [Replica(way) for way in (in_place, in_steps, as_snapshot)]
        replicas.append(Replica(lambda *now: chance.choice((in_place, in_steps, as_snapshot))(*now)))
        for events, live, revision in revisions(chance, count):
            for replica in replicas:
                replica.follow(events, live, revision)
            first = replicas[0]
            for other in replicas[1:]:
                assert other.content() == first.content()
                assert other.store.digests == first.store.digests
                assert other.store.rejected == first.store.rejected
                assert other.store.revision == first.store.revision == revision
                assert other.answers.all() == first.answers.all()
                assert other.answers.pool_users() == first.answers.pool_users()
            for directory, found in first.store.caches.items():
                assert first.store.digests[directory] == digest_of(directory, found.items.values())


@settings(max_examples=120)
@given(st.randoms(use_true_random=False), st.integers(0, 200), st.booleans())
def test_wherever_it_is_broken_off_all_or_nothing_is_in_place(chance: random.Random, cut: int, as_events: bool) -> None:
    """And the pools have exactly the users that this needs, also when it was broken off while old things were freed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "AT_ONCE", 0)
        patch.setattr(incoming, "COMPARED", 1)
        patch.setattr(incoming, "DECODED", 1)
        patch.setattr(staging, "PORTION", 1)
        patch.setattr(staging, "IN_PLACE", chance.choice((0, 2, 256)))
        before, after, broken = Replica(in_place), Replica(in_place), Replica(in_place)
        *history, (events, live, last) = revisions(chance, 3)
        for now in history:
            for replica in (before, after, broken):
                replica.follow(*now)
        after.follow(events, live, last)
        arriving = broken.store.receive()
        steps = broken.store.applying(events, last) if as_events else whole(arriving, live, last)
        for _ in range(cut):
            next(steps, None)
        cast("Generator[None, None, None]", steps).close()
        arriving.drop()
        expected = after if broken.store.revision == last else before
        assert broken.content() == expected.content()
        assert broken.store.digests == expected.store.digests
        assert broken.answers.all() == expected.answers.all()
        assert broken.answers.pool_users() == expected.answers.pool_users()
        assert gc.isenabled()


def whole(arriving: Incoming, live: dict[str, Entry], revision: int) -> Iterator[None]:
    yield from arriving.add(list(live.values()))
    yield from arriving.complete(revision)


def put(key: str, value: bytes, revision: int) -> Entry:
    return Entry(key, value, revision, revision, 1)


class Recorder:
    """A listener that prepares aside, and what it is told in which order; it can be made to fail."""

    def __init__(self, store: ConfigStore, name: str, told: list[str], fails_in: str = "") -> None:
        self._name = name
        self._told = told
        self._fails_in = fails_in
        store.subscribe(self.changed, lambda: self)

    def _tell(self, what: str) -> None:
        self._told.append(f"{self._name}: {what}")
        if what.partition(" ")[0] == self._fails_in:
            raise RuntimeError(self._fails_in)

    def changed(self, changes: Sequence[Change]) -> None:
        raise AssertionError("what is staged is not told as events")

    def add(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._tell(f"add {change.id}")

    def finish(self) -> Iterator[None]:
        self._tell("finish")
        yield

    def commit(self) -> None:
        self._tell("commit")

    def clean(self) -> Iterator[None]:
        self._tell("clean")
        yield

    def drop(self) -> None:
        self._tell("drop")


def test_listeners_prepare_then_switch_in_one_step_then_clean() -> None:
    store, told = ConfigStore(DECODERS), list[str]()
    for name in "ab":
        Recorder(store, name, told)
    arriving = store.receive()
    list(arriving.add([put("routes/1", route("/a"), 2)]))
    steps = arriving.complete(2)
    while not arriving.is_done:
        assert store.caches["routes"].items == {}
        assert "a: commit" not in told
        next(steps)
    assert told[-3:] == ["a: commit", "b: commit", "a: clean"]
    list(steps)
    assert told == [
        *("a: add 1", "b: add 1", "a: finish", "b: finish", "a: commit", "b: commit", "a: clean", "b: clean"),
    ]


@pytest.mark.parametrize("fails_in", ["add", "finish", "commit", "clean"])
def test_a_listener_that_fails_costs_neither_the_others_nor_the_store(
    fails_in: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, told = ConfigStore(DECODERS), list[str]()
    Recorder(store, "a", told, fails_in)
    Recorder(store, "b", told)
    arriving = store.receive()
    list(arriving.add([put("routes/1", route("/a"), 2)]))
    list(arriving.complete(2))
    assert arriving.is_done
    assert set(store.caches["routes"].items) == {"1"}
    assert [line for line in told if line[0] == "b"] == ["b: add 1", "b: finish", "b: commit", "b: clean"]
    assert "a listener failed" in caplog.text


def test_what_has_not_changed_is_neither_decoded_nor_told() -> None:
    decoded: list[str] = []

    def decode(id_: str, raw: bytes) -> tuple[object, list[str]]:
        decoded.append(id_)
        return DECODERS["routes"](id_, raw)[0], []

    store, told = ConfigStore({**DECODERS, "routes": decode}), list[str]()
    one, two = put("routes/1", route("/a"), 2), put("routes/2", b"{", 2)
    store.apply([one, two], 2)
    Recorder(store, "a", told)
    arriving = store.receive()
    list(arriving.add([one, two, put("routes/3", route("/c"), 3)]))
    list(arriving.complete(3))
    assert decoded == ["1", "2", "3"]
    assert told[0] == "a: add 3"
    assert set(store.rejected) == {"routes/2"}
    assert store.rejections == 1, "it was listed when it came"
    assert arriving.differences == 1


def test_a_value_that_went_bad_while_we_were_away_keeps_its_last_good_one_and_says_so() -> None:
    store, told = ConfigStore(DECODERS), list[str]()
    store.apply([put("routes/1", route("/a"), 2)], 2)
    Recorder(store, "a", told)
    arriving = store.receive()
    list(arriving.add([put("routes/1", b"{", 5)]))
    list(arriving.complete(5))
    value = store.value("routes", "1")
    assert value is not None
    assert value.uris == ("/a",)
    assert store.rejected["routes/1"].revision == 5
    assert not any("add" in line for line in told)


def test_the_revision_of_the_last_change_is_never_beyond_the_snapshot() -> None:
    store = ConfigStore(DECODERS)
    store.apply([put("routes/1", route("/a"), 900)], 1000)
    arriving = store.receive()
    list(arriving.add([put("routes/1", route("/a"), 3)]))
    list(arriving.complete(7))
    assert (store.revision, store.changed) == (7, 7), "a store that was restored counts from a lower revision again"


def test_last_good_values_of_who_has_seen_more_take_the_place_of_ours() -> None:
    """Also when the record itself has not changed: workers must not serve different values of one record."""
    store, told = ConfigStore(DECODERS), list[str]()
    store.apply([put("routes/1", route("/older"), 2)], 2)
    store.apply([put("routes/1", b"{", 5)], 5)
    Recorder(store, "a", told)
    digests = dict(store.digests)
    for _ in range(2):
        arriving = store.receive()
        list(arriving.add([put("routes/1", b"{", 5)], {"routes/1": route("/newer")}))
        list(arriving.complete(5))
        value = store.value("routes", "1")
        assert value is not None
        assert value.uris == ("/newer",)
        assert set(store.rejected) == {"routes/1"}
        assert store.digests == digests
    assert told.count("a: add 1") == 1
    arriving = store.receive()
    list(arriving.add([put("routes/1", b"{", 5)], {"routes/1": b"{is no better"}))
    list(arriving.complete(5))
    assert store.caches["routes"].items["1"].good == route("/newer")
