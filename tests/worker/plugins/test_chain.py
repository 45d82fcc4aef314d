"""The chain: phases, order, ``_meta``, failures, and what applies to which request (plugins.md section 1)."""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from worker.edited_request import edit
from worker.exchange import Exchange
from worker.plugins.answer import Answer, message
from worker.plugins.base import Plugin, Scope
from worker.plugins.response_head import ResponseHead
from worker.plugins.testing import PluginKit

calls: list[str] = []


class NoteConfig(msgspec.Struct):
    """What the noting plugins take."""

    tag: str = ""
    answer: int = 0
    fails: str = ""


class Noting(Plugin[NoteConfig]):
    """Notes each call of a hook; may answer, or fail."""

    Config = NoteConfig

    def note(self, phase: str) -> None:
        calls.append(f"{self.config.tag or type(self).name}.{phase}")
        if self.config.fails == phase:
            raise RuntimeError("on purpose")

    def rewrite(self, exchange: Exchange) -> Answer | None:
        self.note("rewrite")
        return message(self.config.answer, "no") if self.config.answer else None

    def access(self, exchange: Exchange) -> Answer | None:
        self.note("access")
        return None

    def before_proxy(self, exchange: Exchange) -> Answer | None:
        self.note("before_proxy")
        return None

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        self.note("header_filter")
        head.fields.add(b"X-Seen-By", self.config.tag.encode() or type(self).name.encode())

    def body_filter(self, exchange: Exchange, data: bytes, is_last: bool) -> bytes:
        if is_last:
            self.note("body_filter")
        return data

    def log(self, exchange: Exchange) -> None:
        self.note("log")


class First(Noting):
    """The higher priority."""

    name = "first"
    priority = 20


class Second(Noting):
    """The lower priority."""

    name = "second"
    priority = 10


class Waiting(Plugin[NoteConfig]):
    """Awaits something in access."""

    name = "waiting"
    Config = NoteConfig

    async def access(self, exchange: Exchange) -> Answer | None:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        if self.config.fails:
            raise RuntimeError("on purpose")
        return message(self.config.answer, "waited") if self.config.answer else None


class Shouting(Plugin[NoteConfig]):
    """Makes bodies longer."""

    name = "shouting"
    Config = NoteConfig

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        head.body_changes()

    def body_filter(self, exchange: Exchange, data: bytes, is_last: bool) -> bytes:
        return data.upper() + (b"!" if is_last else b"")


class Editing(Plugin[NoteConfig]):
    """Changes what goes upstream."""

    name = "editing"
    Config = NoteConfig

    def rewrite(self, exchange: Exchange) -> None:
        request = edit(exchange)
        request.set_field(b"X-Tag", self.config.tag.encode())
        request.remove_field(b"X-Gone")
        request.upstream_target = b"/edited?" + request.target.partition(b"?")[2]


EXTRA = (First, Second, Waiting, Shouting, Editing)


@pytest.fixture(autouse=True)
def nothing_called() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


def kit(plugins: dict[str, Any], **more: Any) -> PluginKit:
    return PluginKit(plugins, more.pop("records", None), extra=EXTRA, **more)


def test_hooks_run_phase_by_phase_and_by_priority() -> None:
    with kit({"second": {}, "first": {}}) as worker:
        answer = worker.request()
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers("x-seen-by") == ["first", "second"]
    assert answer.header("content-length") == "2"
    assert calls == [
        f"{name}.{phase}"
        for phase in ("rewrite", "access", "before_proxy", "header_filter", "body_filter", "log")
        for name in ("first", "second")
    ]


def test_meta_priority_reorders_within_a_list_and_disable_leaves_out() -> None:
    with kit({"second": {"_meta": {"priority": 99}}, "first": {}}) as worker:
        assert worker.request().headers("x-seen-by") == ["second", "first"]
    with kit({"second": {"_meta": {"disable": True}, "tag": 7}, "first": {}}) as worker:
        assert worker.request().headers("x-seen-by") == ["first"]


def test_meta_filter_is_asked_once_for_all_phases() -> None:
    with kit({"first": {"_meta": {"filter": [["arg_x", "==", "1"]]}}}) as worker:
        assert worker.request(target="/?x=2").headers("x-seen-by") == []
        assert calls == []
        assert worker.request(target="/?x=1").headers("x-seen-by") == ["first"]


def test_an_answer_ends_the_request_phases_and_response_phases_still_run() -> None:
    with kit({"first": {"answer": 403}, "second": {}}) as worker:
        answer = worker.request()
    assert (answer.status, answer.body, answer.upstream) == (403, b'{"message":"no"}\n', None)
    assert answer.header("content-type") == "text/plain; charset=utf-8"
    assert answer.headers("x-seen-by") == ["first", "second"]
    assert calls[0] == "first.rewrite"
    assert not any(call.endswith((".access", ".before_proxy")) for call in calls)
    assert calls[-2:] == ["first.log", "second.log"]


def test_meta_error_response_replaces_the_body_of_errors_alone() -> None:
    with kit({"first": {"answer": 403, "_meta": {"error_response": {"e": 1}}}}) as worker:
        assert worker.request().body == b'{"e":1}\n'
    with kit({"first": {"answer": 201, "_meta": {"error_response": "gone"}}}) as worker:
        assert worker.request().body == b'{"message":"no"}\n'


def test_global_rules_come_first_in_each_phase_and_run_without_a_route() -> None:
    rules = {"global_rules/1": {"plugins": {"second": {"tag": "global"}}}}
    with kit({"first": {}}, records=rules) as worker:
        assert worker.request().headers("x-seen-by") == ["global", "first"]
        worker.put("routes/kit", None)
        answer = worker.request()
        assert (answer.status, answer.body) == (404, b'{"error_msg":"404 Route Not Found"}\n')
        assert answer.headers("x-seen-by") == ["global"]
        worker.put("global_rules/1", None)
        assert worker.request().headers("x-seen-by") == []


def test_global_rules_that_cannot_be_put_together_let_nobody_through(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(Noting):
        name = "odd"

        def __init__(self, config: NoteConfig, scope: Scope) -> None:
            super().__init__(config, scope)
            self.priority = "high"  # type: ignore[assignment,misc]  # which nothing can be sorted by

    rule: dict[str, Any] = {"plugins": {"odd": {}, "first": {}}}
    with PluginKit(records={"global_rules/1": rule}, extra=(Odd, First)) as working:
        assert working.request().status == 503
        assert "the global rules cannot be put together" in caplog.text
        working.put("global_rules/1", {"plugins": {"first": {}}})
        assert working.request().status == 200


def test_a_plugin_in_two_global_rules_does_not_run() -> None:
    rules: dict[str, Any] = {
        "global_rules/1": {"plugins": {"second": {}}},
        "global_rules/2": {"plugins": {"second": {}, "first": {}}},
    }
    with kit({}, records=rules) as worker:
        assert worker.request().headers("x-seen-by") == ["first"]


@pytest.mark.parametrize(
    ("service", "plugin_config", "route", "seen"),
    [
        ("s", None, None, ["s"]),
        ("s", "p", None, ["p"]),
        ("s", "p", "r", ["r"]),
        (None, "p", None, ["p"]),
    ],
)
def test_the_route_wins_over_plugin_config_and_service(
    service: str | None, plugin_config: str | None, route: str | None, seen: list[str]
) -> None:
    def of(tag: str | None) -> dict[str, Any]:
        return {"first": {"tag": tag}} if tag else {}

    records = {"services/s": {"plugins": of(service)}, "plugin_configs/p": {"plugins": of(plugin_config)}}
    more = {"service_id": "s", "plugin_config_id": "p"}
    with kit(of(route), records=records, route=more) as worker:
        assert worker.request().headers("x-seen-by") == seen


def test_changes_take_effect_with_the_next_request_and_spare_other_plugins() -> None:
    with kit({"first": {}}, records={"services/s": {"plugins": {"second": {"tag": "a"}}}}) as worker:
        worker.put("routes/2", {"uri": "/2", "service_id": "s", "plugins": {"first": {"tag": "x"}}})
        messages: list[tuple[str, str, dict[str, str], bytes]] = [("GET", "/2", {}, b"")]
        worker.requests(messages)
        before = worker.context.plugins.maker.made["routes/2"]["first"].plugin
        worker.put("services/s", {"plugins": {"second": {"tag": "b"}}})
        assert worker.request(target="/2").headers("x-seen-by")[0] == "x"
        assert worker.context.plugins.maker.made["routes/2"]["first"].plugin is before
        worker.put("services/s", {"plugins": {}})
        assert worker.request(target="/2").headers("x-seen-by") == ["x"]
        assert "services/s" not in worker.context.plugins.maker.made
        worker.put("routes/2", {"uri": "/2", "plugins": {"first": {"tag": "y"}}})
        assert worker.request(target="/2").headers("x-seen-by") == ["y"]


def test_a_missing_plugin_config_is_503() -> None:
    with kit({}, route={"plugin_config_id": "none"}) as worker:
        assert worker.request().status == 503
        worker.put("plugin_configs/none", {"plugins": {}})
        assert worker.request().status == 200


@pytest.mark.parametrize("phase", ["rewrite", "access", "before_proxy", "header_filter"])
def test_a_plugin_that_fails_is_a_500_or_is_passed_over(phase: str) -> None:
    with kit({"first": {"fails": phase}}) as worker:
        answer = worker.request()
        assert answer.status == 500
        assert b"500 Internal Server Error" in answer.body
        assert worker.context.plugins.failures["first"] >= 1
    with kit({"first": {"fails": phase}, "second": {}}, settings={"plugins": {"on_failure": "bypass"}}) as worker:
        answer = worker.request()
        assert (answer.status, answer.body) == (200, b"ok")
        assert "second" in answer.headers("x-seen-by")


def test_a_plugin_that_fails_in_log_is_counted_and_costs_nobody_anything() -> None:
    with kit({"first": {"fails": "log"}, "second": {}}) as worker:
        assert worker.request().status == 200
        assert worker.context.plugins.failures == {"first": 1}
    assert calls[-1] == "second.log"


def test_an_unknown_plugin_is_passed_over_unless_it_keeps_somebody_out() -> None:
    with kit({"no-such-plugin": {}}) as worker:
        assert worker.request().status == 200
    with kit({"openid-connect": {}}) as worker:
        assert worker.request().status == 503
    with kit({"openid-connect": {"_meta": {"disable": True}}}) as worker:
        assert worker.request().status == 200


@pytest.mark.parametrize(("config", "status"), [({}, 200), ({"answer": 418}, 418), ({"fails": "x"}, 500)])
def test_a_hook_may_wait(config: dict[str, Any], status: int) -> None:
    with kit({"waiting": config, "first": {}}) as worker:
        assert worker.request().status == status
        messages: list[tuple[str, str, dict[str, str], bytes]] = [("GET", "/", {}, b""), ("POST", "/", {}, b"abc")]
        assert [answer.status for answer in worker.requests(messages)] == [status, status]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
    ],
)
def test_a_body_filter_may_change_the_length(answer: bytes) -> None:
    with kit({"shouting": {}}) as worker:
        worker.upstream_answers = answer
        assert worker.request().body == b"HELLO!"
        head = worker.request("HEAD")
        assert (head.status, head.body) == (200, b"")


def test_body_filters_see_answers_of_the_gateway() -> None:
    with kit({"shouting": {}, "first": {"answer": 401}}) as worker:
        answer = worker.request()
        assert answer.body == b'{"MESSAGE":"NO"}\n!'
        assert answer.header("content-length") == str(len(answer.body))


def test_what_is_edited_goes_upstream_and_the_next_request_is_as_it_was() -> None:
    with kit({"editing": {"tag": "t"}}) as worker:
        message_: tuple[str, str, dict[str, str], bytes] = ("GET", "/x?q=1", {"X-Gone": "1", "X-Kept": "2"}, b"")
        for answer in worker.requests([message_, message_]):
            assert answer.upstream is not None
            assert answer.upstream.target == "/edited?q=1"
            assert answer.upstream.header("x-tag") == "t"
            assert answer.upstream.header("x-gone") is None
            assert answer.upstream.header("x-kept") == "2"
            assert answer.upstream.header("host") == "a.com"


def test_a_bad_configuration_is_refused_with_its_path() -> None:
    with kit({}) as worker:
        assert '$.plugins["first"].answer' in worker.refuses({"first": {"answer": "x"}}).replace("'", '"')
        assert worker.refuses({"first": {"answer": "x", "_meta": {"disable": True}}}) == ""


def test_the_body_that_chooses_a_peer_is_waited_for_and_no_plugin_runs_twice() -> None:
    upstream = {"type": "chash", "hash_on": "vars_combinations", "key": "$post_arg_a", "nodes": {"127.0.0.1:1980": 1}}
    form = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": "20000"}
    with kit({"first": {}}, route={"upstream": upstream}) as worker:
        answer = worker.request("POST", "/", form, b"a=1&b=" + b"x" * 19_994)
        assert answer.status == 200
        assert answer.upstream is not None
        assert len(answer.upstream.body) == 20_000
    assert calls.count("first.rewrite") == 1
    assert calls.count("first.access") == 1


def test_a_filter_on_the_body_waits_for_it_before_any_hook() -> None:
    meta = {"filter": [["post_arg_a", "==", "1"]]}
    form = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": "20000"}
    with kit({"first": {"_meta": meta}, "shouting": {"_meta": meta}}) as worker:
        assert worker.request("POST", "/", form, b"a=1&b=" + b"x" * 19_994).headers("x-seen-by") == ["first"]
        assert worker.request("POST", "/", form, b"a=2&b=" + b"x" * 19_994).headers("x-seen-by") == []
    with kit({"shouting": {"_meta": meta}}) as worker:
        assert worker.request("POST", "/", form, b"a=1&b=" + b"x" * 19_994).body == b"ok"


def test_of_routes_that_come_and_go_nothing_stays() -> None:
    with kit({"first": {}}, records={"services/s": {"plugins": {"second": {}}}}) as worker:
        host = worker.context.plugins
        for number in range(50):
            plugins = {"first": {"tag": str(number)}}
            worker.put(f"routes/{number}", {"uri": f"/{number}", "service_id": "s", "plugins": plugins})
            assert worker.request(target=f"/{number}").headers("x-seen-by") == [str(number), "second"]
            worker.put(f"routes/{number}", None)
        assert set(host.maker.made) <= {"routes/kit", "services/s"}
        assert set(host._chains) <= {"kit"}
        assert host._parts == {}


def test_the_client_may_leave_while_a_hook_waits() -> None:
    with kit({"waiting": {}}) as worker:
        connection = worker.connect()
        connection.data_received(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n")
        connection.connection_lost(None)
        worker.run(asyncio.sleep(0.01))
        assert worker.received == []
        assert worker.request().status == 200
