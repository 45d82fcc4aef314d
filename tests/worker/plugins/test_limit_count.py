"""limit-count (plugins.md section 5)."""

import logging
from collections.abc import Awaitable, Mapping
from typing import Any

import pytest

from tests.worker.plugins.counting import Counting
from tests.worker.plugins.refusals import complaint
from worker.exchange import Exchange
from worker.plugins.answer import Answer
from worker.plugins.limit_count import LimitCount
from worker.plugins.testing import Outcome, PluginKit
from worker.shared_state.locks import Busy

TWO = {"count": 2, "time_window": 60}


def quota(answer: Outcome, prefix: str = "X-") -> tuple[str | None, ...]:
    return tuple(answer.header(f"{prefix}RateLimit-{what}") for what in ("Limit", "Remaining", "Reset"))


def statuses(kit: PluginKit, times: int, **request: Any) -> list[int]:
    return [kit.request(**request).status for _ in range(times)]


def route(plugins: Mapping[str, Any], **members: Any) -> dict[str, Any]:
    upstream = {"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}}
    return {"uri": "/*", "upstream": upstream, "plugins": plugins, **members}


def test_a_key_may_hold_any_bytes_of_a_form() -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with PluginKit({"limit-count": {**TWO, "key": "post_arg.[*]"}}) as kit:
        bodies = (b"a=%ff", b"a=%ff", b"a=%fe", b"a=%ff")
        assert [kit.request("POST", "/", form, body).status for body in bodies] == [200, 200, 200, 503]


def test_a_window_begins_with_the_first_request_and_answers_say_what_is_left() -> None:
    counting = Counting()
    with counting.begin(PluginKit({"limit-count": TWO})) as kit:
        answer = kit.request()
        assert (answer.status, quota(answer)) == (200, ("2", "1", "60"))
        counting.clock.seconds += 20.5
        assert quota(kit.request()) == ("2", "0", "40")
        answer = kit.request()
        assert (answer.status, quota(answer), answer.upstream) == (503, ("2", "0", "40"), None)
        assert b"<h1>503 Service Unavailable</h1>" in answer.body
        counting.clock.seconds += 39.5
        assert quota(kit.request()) == ("2", "1", "60")


def test_rejection_is_as_configured() -> None:
    config = {**TWO, "count": 1, "rejected_code": 429, "rejected_msg": "too many"}
    with PluginKit({"limit-count": config}) as kit:
        kit.request()
        answer = kit.request()
        assert (answer.status, answer.body) == (429, b'{"error_msg":"too many"}\n')


def test_what_is_left_replaces_what_the_upstream_says() -> None:
    with PluginKit({"limit-count": TWO}) as kit:
        kit.upstream_answers = (
            b"HTTP/1.1 404 Not Found\r\nx-ratelimit-limit: 9\r\nX-RateLimit-Reset: 1\r\nContent-Length: 0\r\n\r\n"
        )
        answer = kit.request()
        said = answer.headers("x-ratelimit-limit"), answer.headers("x-ratelimit-reset")
        assert (answer.status, *said) == (404, ["2"], ["60"])


def test_answers_of_other_plugins_say_it_too() -> None:
    with PluginKit({"limit-count": TWO, "mocking": {"response_example": "x", "_meta": {"priority": 1}}}) as kit:
        answer = kit.request()
        assert (answer.upstream, quota(answer)) == (None, ("2", "1", "60"))


def test_what_is_left_may_stay_unsaid() -> None:
    with PluginKit({"limit-count": {**TWO, "show_limit_quota_header": False}}) as kit:
        assert quota(kit.request()) == (None, None, None)
        assert statuses(kit, 2) == [200, 503]


def test_metadata_name_the_fields() -> None:
    names = {"limit_header": "X-L", "remaining_header": "X-RateLimit-Rest", "reset_header": "X-T"}
    rules = [{**TWO, "key": "$uri"}]
    with PluginKit({"limit-count": TWO}, {"plugin_metadata/limit-count": names}) as kit:
        answer = kit.request()
        assert [answer.header(name) for name in names.values()] == ["2", "1", "60"]
        assert quota(answer) == (None, None, None)
        kit.put("routes/kit", route({"limit-count": {"rules": rules}}))
        answer = kit.request()
        assert [answer.header(name) for name in ("1-X-L", "X-1-RateLimit-Rest", "1-X-T")] == ["2", "1", "60"]


@pytest.mark.parametrize("names", [{"limit_header": "no name"}, {"limit_header": "x-ratelimit-reset"}])
def test_names_that_cannot_be_are_not_used(names: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.ERROR, "propylon.plugins"),
        PluginKit({"limit-count": TWO}, {"plugin_metadata/limit-count": names}) as kit,
    ):
        assert quota(kit.request()) == ("2", "1", "60")
    assert "plugin_metadata/limit-count" in caplog.text


@pytest.mark.parametrize(
    ("key", "same", "other"),
    [
        ({}, {"remote": "1.1.1.1"}, {"remote": "1.1.1.2"}),
        ({"key": "http_x_user"}, {"headers": {"X-User": "a"}}, {"headers": {"X-User": "b"}}),
        ({"key": "http_x_user"}, {"remote": "1.1.1.1"}, {"remote": "1.1.1.2"}),
        (
            {"key": "$http_a-$http_b", "key_type": "var_combination"},
            {"headers": {"A": "1"}, "remote": "1.1.1.1"},
            {"headers": {"B": "1"}, "remote": "1.1.1.1"},
        ),
        (
            {"key": "$http_a-$http_b", "key_type": "var_combination"},
            {"remote": "1.1.1.1"},
            {"remote": "1.1.1.2"},
        ),
    ],
)
def test_keys(key: Mapping[str, str], same: dict[str, Any], other: dict[str, Any]) -> None:
    with PluginKit({"limit-count": {**TWO, **key}}) as kit:
        assert statuses(kit, 3, **same) == [200, 200, 503]
        assert statuses(kit, 3, **other) == [200, 200, 503]


def test_a_constant_counts_everybody() -> None:
    with PluginKit({"limit-count": {**TWO, "key_type": "constant", "key": "remote_addr"}}) as kit:
        assert [kit.request(remote=f"1.1.1.{at}").status for at in range(3)] == [200, 200, 503]


def test_variables_of_the_body_are_waited_for() -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with PluginKit({"limit-count": {**TWO, "key": "post_arg_user"}}) as kit:
        for user in (b"a", b"b"):
            assert statuses(kit, 3, method="POST", headers=form, body=b"user=" + user) == [200, 200, 503]


def test_templates_say_how_many_and_how_long() -> None:
    config = {"count": "${http_x_count ?? 1}", "time_window": "$http_x_window", "key": "uri"}
    counting = Counting()
    with counting.begin(PluginKit({"limit-count": config})) as kit:
        asked = {"X-Count": "3", "X-Window": "5"}
        assert quota(kit.request(headers=asked)) == ("3", "2", "5")
        assert quota(kit.request(target="/other", headers={"X-Window": "7"})) == ("1", "0", "7")
        assert kit.request(target="/other", headers={"X-Window": "7"}).status == 503
        for wrong in ({}, {"X-Window": "0"}, {"X-Window": "x"}, {"X-Window": "-1"}, {"X-Window": "1.5"}):
            answer = kit.request(headers={"X-Count": "1", **wrong})
            assert (answer.status, answer.body) == (500, b'{"error_msg":"failed to limit count"}\n')
        kit.put("routes/kit", route({"limit-count": {**config, "allow_degradation": True}}))
        answer = kit.request()
        assert (answer.status, quota(answer)) == (200, (None, None, None))


def test_numbers_may_be_written_as_text() -> None:
    with PluginKit({"limit-count": {"count": "2", "time_window": "60"}}) as kit:
        assert quota(kit.request()) == ("2", "1", "60")


def test_rules_apply_in_order_where_their_key_has_a_value() -> None:
    rules = [
        {"count": 3, "time_window": 60, "key": "$http_x_user"},
        {"count": 2, "time_window": 30, "key": "$uri-$http_none", "header_prefix": "Path"},
    ]
    counting = Counting()
    with counting.begin(PluginKit({"limit-count": {"rules": rules}})) as kit:
        answer = kit.request(target="/a")
        assert (quota(answer, "X-1-"), quota(answer, "X-Path-")) == ((None, None, None), ("2", "1", "30"))
        answer = kit.request(target="/a", headers={"X-User": "u"})
        assert (quota(answer, "X-1-"), quota(answer, "X-Path-")) == (("3", "2", "60"), ("2", "0", "30"))
        answer = kit.request(target="/a", headers={"X-User": "u"})
        assert (answer.status, quota(answer, "X-1-"), quota(answer, "X-Path-")) == (
            503,
            ("3", "1", "60"),
            ("2", "0", "30"),
        )
        assert kit.request(target="/b", headers={"X-User": "u"}).status == 200
        answer = kit.request(target="/c", headers={"X-User": "u"})
        assert (answer.status, quota(answer, "X-1-"), quota(answer, "X-Path-")) == (
            503,
            ("3", "0", "60"),
            (None, None, None),
        )


def test_sliding_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting()
    now = 6_000.0
    monkeypatch.setattr("worker.plugins.limit_count.time", lambda: now)
    with counting.begin(PluginKit({"limit-count": {**TWO, "count": 4, "window_type": "sliding"}})) as kit:
        assert [quota(kit.request()) for _ in range(4)] == [("4", str(left), "60") for left in (3, 2, 1, 0)]
        answer = kit.request()
        assert (answer.status, quota(answer)) == (503, ("4", "0", "60"))
        now += 75  # 45 of the 60 s before reach into the last 60 s: 3 of the 4
        counting.clock.seconds += 75
        answer = kit.request()
        assert (answer.status, quota(answer)) == (200, ("4", "0", "45"))
        assert kit.request().status == 503


def test_workers_count_together() -> None:
    counting = Counting()
    with (
        counting.begin(PluginKit({"limit-count": TWO})) as one,
        counting.begin(PluginKit({"limit-count": TWO}), 1) as two,
    ):
        assert [kit.request().status for kit in (one, two, one, two)] == [200, 200, 503, 503]


def test_another_configuration_counts_anew_and_other_changes_do_not() -> None:
    with PluginKit({"limit-count": TWO}) as kit:
        assert statuses(kit, 3) == [200, 200, 503]
        kit.put("routes/kit", route({"limit-count": TWO, "echo": {"body": "x"}}, desc="x"))
        assert kit.request().status == 503
        kit.put("routes/kit", route({"limit-count": {**TWO, "count": 3}}))
        assert statuses(kit, 4) == [200, 200, 200, 503]


def test_a_plugin_made_of_it_may_have_a_hook_of_its_own() -> None:
    class Own(LimitCount):
        name = "own-limit"

        def access(self, exchange: Exchange) -> Answer | Awaitable[Answer | None] | None:
            return Answer(418) if exchange.request is not None else super().access(exchange)

    with PluginKit({"own-limit": TWO}, extra=(Own,)) as kit:
        assert kit.request().status == 418


def test_rules_that_say_it_in_the_same_fields_say_it_once() -> None:
    rule = {"count": 5, "time_window": 60, "header_prefix": "A"}
    rules = [{**rule, "key": "${remote_addr}"}, {**rule, "count": 9, "key": "${uri}"}]
    with PluginKit({"limit-count": {"rules": rules}}) as kit:
        assert kit.request().headers("x-a-ratelimit-limit") == ["9"]


def test_two_routes_count_apart_unless_they_are_a_group(caplog: pytest.LogCaptureFixture) -> None:
    for group, expected in (({}, [200, 200, 503, 200]), ({"group": "g"}, [200, 200, 503, 503])):
        plugins = {"limit-count": {**TWO, **group}}
        with PluginKit(plugins, {"routes/other": route(plugins, uri="/other")}) as kit:
            assert [*statuses(kit, 3), kit.request(target="/other").status] == expected
            if group:
                with caplog.at_level(logging.ERROR, "propylon.plugins"):
                    other = {"limit-count": {**TWO, **group, "count": 5}}
                    kit.put("routes/other", route(other, uri="/other"))
                    assert kit.request(target="/other").status == 200
                assert "group g: routes/other counts apart from routes/kit" in caplog.text


def test_a_request_waits_while_somebody_gives_out_places(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"count": 9, "time_window": 60, "key": "$uri"}, {"count": 9, "time_window": 60, "key": "$method"}]
    with PluginKit({"limit-count": {"rules": rules}}) as kit:
        counters = kit.context.plugins.services.counters
        busy = [False, True, True, False]
        take = type(counters).take

        def taken(self: Any, *arguments: Any) -> Any:
            if busy and busy.pop(0):
                raise Busy
            return take(self, *arguments)

        monkeypatch.setattr(type(counters), "take", taken)
        answer = kit.request()
        assert (answer.status, quota(answer, "X-1-")[1], quota(answer, "X-2-")[1], busy) == (200, "8", "8", [])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "count and time_window, or rules, must be given"),
        ({"count": 1}, "count and time_window"),
        ({"time_window": 1}, "count and time_window"),
        ({**TWO, "rules": [{**TWO, "key": "$uri"}]}, ".rules"),
        ({**TWO, "count": 0}, ".count"),
        ({**TWO, "count": "0"}, ".count"),
        ({**TWO, "count": "many"}, ".count"),
        ({**TWO, "time_window": 0}, ".time_window"),
        ({**TWO, "time_window": 1.5}, ".time_window"),
        ({"rules": []}, ".rules"),
        ({"rules": [{**TWO}]}, ".rules[0]"),
        ({"rules": [{**TWO, "key": "$uri"}, {**TWO, "key": "$uri"}]}, ".rules[1].key"),
        ({"rules": [{**TWO, "key": "$uri", "count": "-1"}]}, ".rules[0].count"),
        ({"rules": [{**TWO, "key": "$uri", "header_prefix": "a b"}]}, ".rules[0].header_prefix"),
        ({**TWO, "key_type": "other"}, "constant, var, var_combination"),
        ({**TWO, "window_type": "other"}, "fixed, sliding"),
        ({**TWO, "policy": "other"}, ".policy"),
        ({**TWO, "rejected_code": 199}, ".rejected_code"),
        ({**TWO, "rejected_code": 600}, ".rejected_code"),
        ({**TWO, "rejected_msg": ""}, ".rejected_msg"),
        ({**TWO, "policy": "redis"}, "policy redis needs redis_host"),
        ({**TWO, "policy": "redis-cluster", "redis_cluster_nodes": ["a:1"]}, "needs redis_cluster_name"),
        (
            {**TWO, "policy": "redis-cluster", "redis_cluster_nodes": ["a"], "redis_cluster_name": "c"},
            ".redis_cluster_nodes[0]: must be host:port",
        ),
        ({**TWO, "policy": "redis", "redis_host": "a", "redis_port": 0}, ".redis_port"),
        ({**TWO, "policy": "redis", "redis_host": "a", "redis_timeout": 0}, ".redis_timeout"),
        ({**TWO, "policy": "redis-sentinel", "redis_sentinels": []}, ".redis_sentinels"),
        ({**TWO, "policy": "redis-sentinel", "redis_master_name": "m"}, "needs redis_sentinels"),
        ({**TWO, "sync_interval": 1}, ".sync_interval"),
        ({**TWO, "policy": "redis", "redis_host": "a", "sync_interval": 0.05}, ".sync_interval"),
        (
            {**TWO, "policy": "redis", "redis_host": "a", "sync_interval": 1, "window_type": "sliding"},
            ".sync_interval",
        ),
    ],
)
def test_refusals(config: dict[str, Any], expected: str) -> None:
    assert expected in complaint("limit-count", config)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install propylon[redis]" in complaint("limit-count", {**TWO, "policy": "redis", "redis_host": "a"})
