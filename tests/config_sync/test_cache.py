"""The store: in place, at one instant, and never worse than its last good values."""

import json
from collections.abc import Sequence

import pytest

from config_sync.cache import Change, ConfigStore, Deletion, Entry, place_of
from config_sync.schema import DIRECTORIES, Route, decode_route


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


def test_a_bad_value_keeps_the_last_good_one_and_heals() -> None:
    store = ConfigStore()
    listener = Listener(store)
    store.apply([put("routes/1", route("/a"), 2)], 2)
    store.apply([put("routes/1", b"{nonsense", 3), put("routes/2", route("/b"), 3)], 3)
    good = store.caches["routes"].items["1"].value
    assert isinstance(good, Route)
    assert good.uris == ("/a",)
    assert store.rejected["routes/1"].revision == 3
    assert [change.id for change in listener.batches[1]] == ["2"]
    store.apply([put("routes/1", route("/c"), 4)], 4)
    assert store.rejected == {}
    assert listener.batches[2][0].old is good


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
    store.replace({"routes/1": one, "routes/3": put("routes/3", route("/c"), 5)}, 6)
    assert store.caches["routes"].items["1"] is kept
    assert [(change.id, change.new is None) for change in listener.batches[0]] == [("2", True), ("3", False)]
    assert store.revision == 6


def test_a_record_of_a_wiped_store_is_another_in_spite_of_its_revision() -> None:
    store = ConfigStore()
    store.apply([put("routes/1", route("/old"), 5)], 9)
    listener = Listener(store)
    store.replace({"routes/1": put("routes/1", route("/new"), 5)}, 6)
    (change,) = listener.batches[0]
    assert (change.old.uris, change.new.uris) == (("/old",), ("/new",))
    assert store.revision == 6


def test_a_snapshot_prepared_in_parts_is_invisible_until_it_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ConfigStore()
    kept = put("routes/1", route("/a"), 2)
    store.apply([kept], 2)
    listener = Listener(store)
    decoded: list[str] = []

    def decode(id_: str, raw: bytes) -> tuple[Route, list[str]]:
        decoded.append(id_)
        return decode_route(id_, raw)

    monkeypatch.setitem(DIRECTORIES, "routes", decode)
    two, bad = put("routes/2", route("/b"), 3), put("routes/3", {"uri": 1}, 3)
    store.prepare([kept, two])
    store.prepare([bad, put("routes/", b"init_dir", 1)])
    assert decoded == ["2", "3"]
    assert listener.batches == []
    assert set(store.caches["routes"].items) == {"1"}
    assert store.rejected == {}
    store.replace({entry.key: entry for entry in (kept, two, bad)}, 4)
    assert decoded == ["2", "3"]
    assert [change.id for change in listener.batches[0]] == ["2"]
    assert set(store.rejected) == {"routes/3"}


def test_what_was_prepared_for_another_record_is_not_used() -> None:
    store = ConfigStore()
    store.prepare([put("routes/1", route("/given-up"), 2)])
    store.apply([put("routes/1", route("/a"), 3)], 3)
    assert store.caches["routes"].items["1"].value.uris == ("/a",)


def test_a_listener_that_fails_costs_the_others_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = ConfigStore()

    def broken(changes: Sequence[Change]) -> None:
        raise RuntimeError("broken")

    store.subscribe(broken)
    listener = Listener(store)
    store.apply([put("routes/1", route("/a"), 2)], 2)
    assert len(listener.batches) == 1
    assert "a listener failed" in caplog.text


def test_a_decoder_that_fails_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(id_: str, raw: bytes) -> tuple[Route, list[str]]:
        raise ZeroDivisionError

    monkeypatch.setitem(DIRECTORIES, "services", broken)
    store = ConfigStore()
    store.apply([put("services/1", {}, 2), put("routes/1", route("/a"), 2)], 2)
    assert set(store.rejected) == {"services/1"}
    assert store.caches["routes"].items["1"].value is not None


def test_placeholders_and_unknown_directories_are_no_changes() -> None:
    store = ConfigStore()
    listener = Listener(store)
    store.apply([put("routes/", b"init_dir", 2), put("gen_id", b"1", 3), Deletion("routes/none", 4)], 4)
    assert listener.batches == []
    assert store.rejected == {}
