"""What is live in one worker."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from config_sync.cache import ConfigStore, Entry
from worker.api.config import PORTION_SECONDS, ConfigHandlers, json_portions
from worker.api.messages import Answer, Outcome, Portions, Request
from worker.scoreboard import Scoreboard, WorkerState

ROUTE = {"uri": "/x", "upstream": {"nodes": {"127.0.0.1:80": 1}}}


@pytest.fixture
def store() -> ConfigStore:
    store = ConfigStore()
    credential = Entry("consumers/jack/credentials/1", b'{"plugins": {"key-auth": {"key": "hidden"}}}', 4, 4, 1)
    store.apply([entry("routes/1", ROUTE, 3), credential], 4)
    return store


@pytest.fixture
def handlers(store: ConfigStore) -> ConfigHandlers:
    line = Scoreboard(1).allocate(2, 1)
    line.pid, line.state = 77, WorkerState.READY
    return ConfigHandlers(store, line, "/apisix")


def entry(key: str, value: object, revision: int) -> Entry:
    return Entry(key, json.dumps(value).encode(), revision, revision, 1)


def read(outcome: Outcome) -> tuple[int, Any]:
    if isinstance(outcome, Portions):
        return outcome.status, json.loads(b"".join(outcome.pieces))
    assert isinstance(outcome, Answer)
    return outcome.status, json.loads(outcome.body)


def ask(handlers: ConfigHandlers, path: str) -> tuple[int, Any]:
    return read(handlers.below(Request("GET", path)))


def test_directories_are_counted(handlers: ConfigHandlers, store: ConfigStore) -> None:
    store.apply([entry("routes/2", {"uri": 1}, 5)], 5)
    _, answer = read(handlers.directories(Request("GET", "/v1/config")))
    assert (answer["slot"], answer["pid"], answer["revision"]) == (2, 77, 5)
    assert (answer["directories"]["routes"], answer["directories"]["services"]) == (2, 0)
    assert answer["rejected"] == 1


def test_an_item_is_shown_with_its_revisions(handlers: ConfigHandlers) -> None:
    assert ask(handlers, "/v1/config/routes/1") == (
        200,
        {
            "slot": 2,
            "pid": 77,
            "revision": 4,
            "key": "routes/1",
            "id": "1",
            "mod_revision": 3,
            "create_revision": 3,
            "version": 1,
            "valid": True,
            "value": ROUTE,
        },
    )


def test_an_id_may_have_slashes(handlers: ConfigHandlers) -> None:
    status, answer = ask(handlers, "/v1/config/consumers/jack/credentials/1")
    assert (status, answer["id"]) == (200, "jack/credentials/1")
    assert "hidden" not in json.dumps(answer)


def test_a_directory_is_listed(handlers: ConfigHandlers, store: ConfigStore) -> None:
    store.apply([entry(f"routes/{at}", ROUTE, at) for at in range(10, 60)], 60)
    _, answer = ask(handlers, "/v1/config/routes")
    assert (answer["directory"], answer["total"]) == ("routes", 51)
    assert [item["id"] for item in answer["items"]] == ["1", *map(str, range(10, 60))]
    assert ask(handlers, "/v1/config/protos")[1]["items"] == []


def test_an_answer_shows_the_instant_it_was_asked_at(handlers: ConfigHandlers, store: ConfigStore) -> None:
    outcome = handlers.below(Request("GET", "/v1/config/routes"))
    store.apply([entry("routes/2", ROUTE, 9)], 9)
    answer = read(outcome)[1]
    assert (answer["revision"], len(answer["items"])) == (4, 1)


def test_what_is_not_there_is_not_found(handlers: ConfigHandlers) -> None:
    assert ask(handlers, "/v1/config/routes/9") == (404, {"error_msg": "routes[9] not found"})
    assert ask(handlers, "/v1/config/roads")[0] == 404


def test_the_last_good_value_is_shown_for_one_that_is_not_valid(handlers: ConfigHandlers, store: ConfigStore) -> None:
    store.apply([entry("routes/1", {**ROUTE, "priority": "high"}, 7), entry("routes/3", {}, 8)], 8)
    shown = ask(handlers, "/v1/config/routes/1")[1]
    assert (shown["valid"], shown["value"], shown["mod_revision"]) == (False, ROUTE, 7)
    assert (shown["error"]["path"], shown["error"]["revision"]) == ("$.priority", 7)
    assert ask(handlers, "/v1/config/routes/3")[1]["value"] is None
    _, answer = read(handlers.errors(Request("GET", "/v1/config/errors")))
    assert answer["total"] == 2
    found = [(item["key"], item["revision"], item["serves_last_good"]) for item in answer["items"]]
    assert found == [("routes/1", 7, True), ("routes/3", 8, False)]


def test_a_dump_in_the_form_of_apisix(handlers: ConfigHandlers, store: ConfigStore) -> None:
    named = {"uri": "/n", "upstream": {"nodes": {"a.example:80": 1}}}
    store.apply([entry("routes/2", named, 6), entry("routes/3", {"uri": 1}, 7)], 7)
    _, routes = read(handlers.dump("routes")(Request("GET", "/v1/routes")))
    assert [route["key"] for route in routes] == ["/apisix/routes/1", "/apisix/routes/2"]
    assert [route["has_domain"] for route in routes] == [False, True]
    one = routes[0]
    assert (one["createdIndex"], one["modifiedIndex"], one["orig_modifiedIndex"]) == (3, 3, 3)
    node = one["value"]["upstream"]["nodes"][0]
    assert (node["host"], node["port"], node["weight"]) == ("127.0.0.1", 80, 1)
    handle = handlers.dump_one("routes", "/v1/route/", "route")
    assert read(handle(Request("GET", "/v1/route/1"))) == (200, one)
    assert read(handle(Request("GET", "/v1/route/zz"))) == (404, {"error_msg": "route[zz] not found"})


def test_plugin_metadata_is_dumped_as_values(handlers: ConfigHandlers, store: ConfigStore) -> None:
    store.apply([entry("plugin_metadata/file-logger", {"log_format": {"host": "$host"}}, 9)], 9)
    _, dumped = read(handlers.dump("plugin_metadata")(Request("GET", "/v1/plugin_metadatas")))
    assert [value["log_format"] for value in dumped] == [{"host": "$host"}]


def test_a_worker_without_configuration_says_so(store: ConfigStore) -> None:
    handlers = ConfigHandlers(store, Scoreboard(1).allocate(0, 1), "/apisix")
    assert ask(handlers, "/v1/config/routes") == (503, {"error_msg": "worker id: 0 has not received configuration"})


def test_a_long_list_is_written_in_portions_of_bounded_time() -> None:
    ticks = count()

    def clock() -> float:
        return next(ticks) * PORTION_SECONDS * 0.6

    def texts() -> Iterator[bytes]:
        for at in range(100):
            yield b"%d" % at

    pieces = list(json_portions(b"[", texts(), b"]", clock))
    assert len(pieces) == 51  # two texts each, and the end
    assert json.loads(b"".join(pieces)) == list(range(100))
