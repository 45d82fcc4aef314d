"""Which request reaches which handler, and which reaches none."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from config_sync.cache import ConfigStore
from config_sync.settings import Settings
from worker.api.config import ConfigHandlers
from worker.api.control import ControlApi
from worker.api.explain import ExplainHandlers
from worker.api.health import HealthHandlers
from worker.api.messages import Answer, Pending, Portions, Request
from worker.api.plugins import PluginHandlers
from worker.api.processes import ProcessHandlers
from worker.api.sync import SyncHandlers
from worker.context import WorkerContext
from worker.scoreboard import Scoreboard, WorkerState


@pytest.fixture
def api() -> Iterator[ControlApi]:
    board = Scoreboard(2)
    entry = board.allocate(0, 1)
    entry.state = WorkerState.READY
    loop = asyncio.new_event_loop()
    store = ConfigStore()
    context = WorkerContext(Settings(access_log=False), loop, store)
    yield ControlApi(
        SyncHandlers(board, lambda: 0.0),
        ConfigHandlers(store, entry, "/apisix"),
        ExplainHandlers(context, store, entry),
        HealthHandlers(store, None, "/apisix"),
        ProcessHandlers(board, 30.0),
        PluginHandlers(context.plugins, entry),
        "gate.example",
    )
    loop.close()


def request(path: str, method: str = "GET", host: str = "127.0.0.1:9090", **other: Any) -> Request:
    path, _, query = path.partition("?")
    return Request(method, path, query, (host,), **other)


def status(api: ControlApi, asked: Request) -> int:
    outcome = api.handle(asked)
    return 0 if isinstance(outcome, Pending) else outcome.status


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/status", 200),
        ("/status/ready", 200),
        ("/v1/sync", 200),
        ("/v1/processes", 200),
        ("/v1/plugins", 200),
        ("/v1/plugins/none", 404),
        ("/v1/sync/wait?revision=1", 0),
        ("/v1/config", 200),
        ("/v1/config/errors", 200),
        ("/v1/config/routes", 200),
        ("/v1/config/routes/1", 404),
        ("/v1/config/errors/1", 404),
        ("/v1/routes", 200),
        ("/v1/services", 200),
        ("/v1/upstreams", 200),
        ("/v1/plugin_metadatas", 200),
        ("/v1/plugin_metadata/x", 404),
        ("/v1/sync/", 404),
        ("/", 404),
    ],
)
def test_paths(api: ControlApi, path: str, code: int) -> None:
    assert status(api, request(path)) == code


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/sync", "GET, HEAD"),
        ("DELETE", "/v1/config/routes/1", "GET, HEAD"),
        ("GET", "/v1/sync/confirm", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(api: ControlApi, method: str, path: str, allow: str) -> None:
    answer = api.handle(request(path, method))
    assert isinstance(answer, Answer)
    assert (answer.status, answer.fields) == (405, (("Allow", allow),))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:9090", "[::1]:9090", "[::1]", "localhost", "LOCALHOST:1", "10.0.0.1:80", "gate.example:1"],
)
def test_addresses_and_our_own_names_are_answered(api: ControlApi, host: str) -> None:
    assert status(api, request("/status", host=host)) == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9090", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_other_names_are_refused(api: ControlApi, host: str) -> None:
    answer = api.handle(request("/status", host=host))
    assert isinstance(answer, Answer)
    assert answer.status == 403
    assert "use an IP address" in json.loads(answer.body)["error_msg"]


def test_http_11_needs_exactly_one_host(api: ControlApi) -> None:
    assert status(api, Request("GET", "/status")) == 400
    assert status(api, Request("GET", "/status", hosts=("localhost", "localhost"))) == 400
    assert status(api, Request("GET", "/status", version_11=False)) == 200


@pytest.mark.parametrize(
    ("origin", "code"),
    [("", 409), ("http://127.0.0.1:9090", 409), ("https://evil.example", 403), ("null", 403)],
)
def test_a_page_of_another_origin_changes_nothing(api: ControlApi, origin: str, code: int) -> None:
    assert status(api, request("/v1/sync/confirm", "POST", origin=origin)) == code


def test_a_handler_that_fails_is_a_500(api: ControlApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Scoreboard) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Scoreboard, "living", broken)
    assert status(api, request("/v1/sync")) == 500


def test_lists_are_made_in_portions(api: ControlApi) -> None:
    assert isinstance(api.handle(request("/v1/config/routes")), Portions)
