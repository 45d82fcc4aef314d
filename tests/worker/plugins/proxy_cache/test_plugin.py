"""proxy-cache (plugins.md section 6)."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.worker.plugins.proxy_cache.making import MEMORY, cached, numbered
from tests.worker.plugins.refusals import complaint
from worker.plugins.proxy_cache import zones
from worker.plugins.proxy_cache.zone import Zone
from worker.plugins.testing import OK, Outcome, PluginKit

STRATEGIES: dict[str, dict[str, Any]] = {"memory": MEMORY, "disk": {}}
BOTH = pytest.mark.parametrize("strategy", ["memory", "disk"])


def status(answer: Outcome) -> str | None:
    return answer.header("apisix-cache-status")


def ask(kit: PluginKit, *targets: str, **headers: str) -> list[tuple[str | None, bytes]]:
    """Return what becomes of requests one after the other; what is written in threads is waited for."""
    outcomes = []
    for target in targets:
        answer = kit.request(target=target, headers={name.replace("_", "-"): headers[name] for name in headers})
        settle(kit)
        outcomes.append((status(answer), answer.body))
    return outcomes


def settle(kit: PluginKit) -> None:
    """Wait for what is written in threads."""

    async def done() -> None:
        tasks = [task for task in kit.context.plugins.services._tasks if "_keep_later" in repr(task.get_coro())]
        await asyncio.gather(*tasks)
        await asyncio.gather(*[kit.loop.run_in_executor(None, time.sleep, 0.001) for _ in range(8)])

    kit.run(done())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass for the cache, and not by itself."""
    passed, began = [0.0], time.time()
    monkeypatch.setattr(time, "time", lambda: began + passed[0])

    def pass_by(seconds: float) -> None:
        passed[0] += seconds

    return pass_by


@BOTH
def test_an_answer_is_given_again(strategy: str, tmp_path: Path) -> None:
    with cached(tmp_path, STRATEGIES[strategy]) as kit:
        kit.upstream_answers = lambda _: numbered(kit, "Content-Type: text/x", "X-A: 1", "X-A: 2", "Date: then")
        first = kit.request(target="/a?x=1")
        settle(kit)
        again = kit.request(target="/a?x=1")
        assert (status(first), status(again)) == ("MISS", "HIT")
        assert (again.status, again.body, again.upstream) == (200, b"1", None)
        assert (again.header("content-type"), again.headers("x-a")) == ("text/x", ["1", "2"])
        assert len(again.headers("date")) == 1
        assert again.header("age") == ("0" if strategy == "memory" else None)
        assert first.header("age") is None
        assert ask(kit, "/a?x=2", "/a?x=2", "/a?x=1") == [("MISS", b"2"), ("HIT", b"2"), ("HIT", b"1")]


@BOTH
def test_what_is_kept_is_all_workers(strategy: str, tmp_path: Path) -> None:
    with cached(tmp_path, STRATEGIES[strategy]) as first, cached(tmp_path, STRATEGIES[strategy]) as second:
        assert ask(first, "/a") == [("MISS", b"1")]
        assert ask(second, "/a") == [("HIT", b"1")]


@BOTH
def test_head_is_answered_from_get(strategy: str, tmp_path: Path) -> None:
    with cached(tmp_path, STRATEGIES[strategy]) as kit:
        assert status(kit.request("HEAD", "/")) == "MISS"
        settle(kit)
        assert ask(kit, "/") == [("MISS", b"2")]
        answer = kit.request("HEAD", "/")
        assert (status(answer), answer.body, answer.header("content-length")) == ("HIT", b"", "1")


@BOTH
def test_age_and_end_in_memory_and_on_disk(strategy: str, tmp_path: Path, clock: Callable[[float], None]) -> None:
    lasts = 7 if strategy == "memory" else 20  # the settings' cache_ttl
    with cached(tmp_path, {**STRATEGIES[strategy], "cache_ttl": 7}) as kit:
        assert ask(kit, "/") == [("MISS", b"1")]
        clock(lasts - 1)
        answer = kit.request()
        assert (status(answer), answer.header("age")) == ("HIT", "6" if strategy == "memory" else None)
        clock(1)
        assert ask(kit, "/", "/") == [("EXPIRED", b"2"), ("HIT", b"2")]


@pytest.mark.parametrize(
    ("field", "lasts"),
    [
        ("Cache-Control: max-age=30", 30),
        ("Cache-Control: public, s-maxage=40, max-age=30", 40),
        ("X-Accel-Expires: 50", 50),
        ("Cache-Control: max-age=0", 0),
        ("Expires: Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Expires: 0", 0),
    ],
)
@pytest.mark.parametrize("config", [{}, {**MEMORY, "cache_control": True}])
def test_how_long_an_answer_says_itself(
    field: str, lasts: int, config: dict[str, Any], tmp_path: Path, clock: Callable[[float], None]
) -> None:
    with cached(tmp_path, config) as kit:
        kit.upstream_answers = lambda _: numbered(kit, field)
        ask(kit, "/")
        if not lasts:
            assert ask(kit, "/") == [("MISS", b"2")]
            return
        clock(lasts - 1)
        assert ask(kit, "/") == [("HIT", b"1")]
        clock(1)
        assert ask(kit, "/") == [("EXPIRED", b"2")]


def test_in_memory_without_cache_control_the_plugin_says_how_long(tmp_path: Path) -> None:
    with cached(tmp_path, MEMORY) as kit:
        kit.upstream_answers = lambda _: numbered(kit, "Cache-Control: max-age=0")
        assert ask(kit, "/", "/") == [("MISS", b"1"), ("HIT", b"1")]


@BOTH
@pytest.mark.parametrize(
    "fields",
    [
        ["Cache-Control: private"], ["Cache-Control: no-store"], ["Cache-Control: public, No-Cache"],
        ["Vary: *"], ["Set-Cookie: a=b"],
    ],
)  # fmt: skip
def test_what_is_not_kept(strategy: str, fields: list[str], tmp_path: Path) -> None:
    with cached(tmp_path, STRATEGIES[strategy]) as kit:
        kit.upstream_answers = lambda _: numbered(kit, *fields)
        assert ask(kit, "/", "/") == [("MISS", b"1"), ("MISS", b"2")]
        kit.upstream_answers = lambda _: numbered(kit)
        assert ask(kit, "/", "/") == [("MISS", b"3"), ("HIT", b"3")]


def test_cookies_may_be_kept(tmp_path: Path) -> None:
    with cached(tmp_path, {**MEMORY, "cache_set_cookie": True}) as kit:
        kit.upstream_answers = lambda _: numbered(kit, "Set-Cookie: a=b")
        assert ask(kit, "/", "/") == [("MISS", b"1"), ("HIT", b"1")]


@pytest.mark.parametrize(
    ("config", "code", "is_kept"),
    [({}, 200, True), ({}, 404, True), ({}, 301, True), ({}, 500, False), ({"cache_http_status": [500]}, 500, True),
     ({"cache_http_status": [500]}, 200, False), ({"cache_http_status": [206]}, 206, False)],
)  # fmt: skip
def test_statuses(config: dict[str, Any], code: int, is_kept: bool, tmp_path: Path) -> None:
    with cached(tmp_path, {**MEMORY, **config}) as kit:
        kit.upstream_answers = lambda _: numbered(kit).replace(b"200 OK", b"%d X" % code)
        kit.request()
        answer = kit.request()
        assert (answer.status, status(answer)) == (code, "HIT" if is_kept else "MISS")
        assert answer.headers("x-apisix-upstream-status") == (["500"] if code == 500 and not is_kept else [])


def test_methods(tmp_path: Path) -> None:
    with cached(tmp_path, {**MEMORY, "cache_method": ["POST"]}) as kit:
        kit.request("POST", "/")
        assert status(kit.request("POST", "/")) == "HIT"
        assert [status(kit.request("GET", "/")), status(kit.request("GET", "/"))] == ["MISS", "MISS"]


def test_key(tmp_path: Path) -> None:
    with cached(tmp_path, {**MEMORY, "cache_key": ["$uri", "-", "$http_x_user"]}) as kit:
        assert ask(kit, "/a?x=1", "/a?x=2", X_User="1") == [("MISS", b"1"), ("HIT", b"1")]
        assert ask(kit, "/a?x=1", X_User="2") == [("MISS", b"2")]


@pytest.mark.parametrize("isolated", [True, False])
def test_consumers_have_answers_of_their_own(isolated: bool, tmp_path: Path) -> None:
    consumers = {f"consumers/{name}": {"username": name, "plugins": {"key-auth": {"key": name}}} for name in ("a", "b")}
    config = {**MEMORY, "consumer_isolation": isolated}
    with cached(tmp_path, config, plugins={"key-auth": {}}, records=consumers) as kit:
        assert ask(kit, "/", "/", apikey="a") == [("MISS", b"1"), ("HIT", b"1")]
        assert ask(kit, "/", apikey="b") == ([("MISS", b"2")] if isolated else [("HIT", b"1")])


@BOTH
def test_bypass(strategy: str, tmp_path: Path) -> None:
    config = {**STRATEGIES[strategy], "cache_bypass": ["$arg_a", "$http_x_b"], "cache_key": ["$uri"]}
    with cached(tmp_path, config) as kit:
        assert ask(kit, "/", "/?a=0", "/?a=") == [("MISS", b"1"), ("HIT", b"1"), ("HIT", b"1")]
        assert ask(kit, "/?a=1") == [("BYPASS", b"2")]
        assert ask(kit, "/", X_B="yes") == [("BYPASS", b"3")]
        assert ask(kit, "/") == [("HIT", b"3" if strategy == "disk" else b"1")]


def test_no_cache(tmp_path: Path) -> None:
    with cached(tmp_path, {**MEMORY, "no_cache": ["$arg_n"], "cache_key": ["$uri"]}) as kit:
        assert ask(kit, "/?n=1", "/?n=0", "/?n=1") == [("MISS", b"1"), ("MISS", b"2"), ("HIT", b"2")]


def test_no_cache_by_what_the_body_says(tmp_path: Path) -> None:
    config = {**MEMORY, "cache_method": ["POST"], "no_cache": ["$post_arg_n"], "cache_key": ["$uri"]}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with cached(tmp_path, config) as kit:
        answers = []
        for sign in (b"1", b"0", b"1"):
            answers.append(kit.request("POST", "/", form, b"n=%b&x=" % sign + b"x" * 200_000))
            settle(kit)
    assert [(status(answer), answer.body) for answer in answers] == [("MISS", b"1"), ("MISS", b"2"), ("HIT", b"2")]


@pytest.mark.parametrize(
    ("cache_control", "expected"),
    [("no-cache", "BYPASS"), ("no-store", "BYPASS"), ("max-age=4", "STALE"), ("max-age=5", "HIT"),
     ("min-fresh=6", "STALE"), ("min-fresh=5", "HIT"), ("only-if-cached", "HIT"), ("max-age=x", "HIT")],
)  # fmt: skip
def test_what_requests_demand(
    cache_control: str, expected: str, tmp_path: Path, clock: Callable[[float], None]
) -> None:
    for heeds in (True, False):
        config = {**MEMORY, "cache_control": heeds, "cache_ttl": 10, "cache_key": ["$uri", str(heeds)]}
        with cached(tmp_path, config) as kit:
            ask(kit, "/")
            clock(5.5 if "max-age=5" not in cache_control else 4.5)
            if "min-fresh=5" in cache_control:
                clock(-1.0)
            answer = kit.request(headers={"Cache-Control": cache_control})
            assert status(answer) == (expected if heeds else "HIT")


def test_max_stale_and_only_if_cached(tmp_path: Path, clock: Callable[[float], None]) -> None:
    with cached(tmp_path, {**MEMORY, "cache_control": True, "cache_ttl": 10}) as kit:
        answer = kit.request(headers={"Cache-Control": "only-if-cached"})
        assert (answer.status, answer.upstream) == (504, None)
        assert ask(kit, "/") == [("MISS", b"1")]
        clock(15)
        assert ask(kit, "/", Cache_Control="max-stale=10") == [("HIT", b"1")]
        assert ask(kit, "/", Cache_Control="max-stale=3") == [("EXPIRED", b"2")]


@pytest.mark.parametrize("hides", [True, False])
def test_hide_cache_headers(hides: bool, tmp_path: Path) -> None:
    with cached(tmp_path, {**MEMORY, "hide_cache_headers": hides}) as kit:
        kit.upstream_answers = lambda _: numbered(kit, "Expires: x", "Cache-Control: max-age=9")
        for expected in ("MISS", "HIT"):
            answer = kit.request()
            assert status(answer) == expected
            shown = None if hides else "x", None if hides else "max-age=9"
            assert (answer.header("expires"), answer.header("cache-control")) == shown


@BOTH
def test_purge(strategy: str, tmp_path: Path) -> None:
    with cached(tmp_path, STRATEGIES[strategy]) as kit:
        assert kit.request("PURGE", "/a").status == 404
        ask(kit, "/a", "/b")
        answer = kit.request("PURGE", "/a")
        assert (answer.status, answer.upstream) == (200, None)
        assert ask(kit, "/a", "/b") == [("MISS", b"3"), ("HIT", b"2")]


@BOTH
def test_variants(strategy: str, tmp_path: Path) -> None:
    with cached(tmp_path, STRATEGIES[strategy]) as kit:
        kit.upstream_answers = lambda _: numbered(kit, "Vary: X-Lang, Accept-Encoding")
        assert ask(kit, "/", X_Lang="de") == [("MISS", b"1")]
        assert ask(kit, "/", X_Lang="fr") == [("MISS", b"2")]
        assert ask(kit, "/") == [("MISS", b"3")]
        assert ask(kit, "/", X_Lang="de") == [("HIT", b"1")]
        assert ask(kit, "/", X_Lang="fr") == [("HIT", b"2")]
        assert ask(kit, "/", X_Lang="") == [("MISS", b"4")]
        assert kit.request("PURGE", "/").status == 200
        assert ask(kit, "/", X_Lang="de") == [("MISS", b"5")]


def test_there_are_64_variants(tmp_path: Path) -> None:
    with cached(tmp_path, MEMORY) as kit:
        kit.upstream_answers = lambda _: numbered(kit, "Vary: X-Lang")
        for number in range(66):
            ask(kit, "/", X_Lang=str(number))
        statuses = [ask(kit, "/", X_Lang=str(number))[0][0] for number in (0, 63, 64, 65)]
        assert statuses == ["HIT", "HIT", "MISS", "MISS"]


def test_a_body_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    for length in (True, False):
        config = {**MEMORY, "max_resp_body_size": 1000, "cache_key": ["$uri", str(length)]}
        for size, expected in ((1000, "HIT"), (1001, "MISS")):
            with cached(tmp_path / f"{length}{size}", config) as kit:
                body = b"x" * size
                framed = b"Content-Length: %d\r\n\r\n%b" % (size, body)
                if not length:
                    framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, body)
                kit.upstream_answers = b"HTTP/1.1 200 OK\r\n" + framed
                answers = kit.request(target=f"/{size}"), kit.request(target=f"/{size}")
                assert [answer.body for answer in answers] == [body, body]
                assert status(answers[1]) == expected


@BOTH
def test_large_answers(strategy: str, tmp_path: Path) -> None:
    with cached(tmp_path, STRATEGIES[strategy]) as kit:
        body = bytes(range(256)) * 800
        kit.upstream_answers = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        assert ask(kit, "/", "/") == [("MISS", body), ("HIT", body)]


def test_an_answer_that_breaks_off_is_not_kept(tmp_path: Path) -> None:
    with cached(tmp_path, MEMORY) as kit:
        kit.upstream_answers = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nx"
        with pytest.raises(AssertionError, match="closed before"):
            kit.request()
        kit.upstream_answers = OK
        assert ask(kit, "/", "/") == [("MISS", b"ok"), ("HIT", b"ok")]


def test_conditions_are_answered_here(tmp_path: Path) -> None:
    with cached(tmp_path, MEMORY) as kit:
        kit.upstream_answers = lambda _: numbered(kit, 'ETag: "1"', "Content-Type: text/x")
        first = kit.request(headers={"If-None-Match": '"1"', "Range": "bytes=0-0", "If-Modified-Since": "x"})
        assert (first.status, first.body) == (200, b"1")
        assert first.upstream is not None
        assert [name for name, _ in first.upstream.fields if name.startswith(("if-", "range"))] == []
        again = kit.request(headers={"If-None-Match": 'W/"1", "2"'})
        assert (again.status, again.body, again.header("etag"), status(again)) == (304, b"", '"1"', "HIT")
        assert kit.request(headers={"If-None-Match": '"2"'}).status == 200


@BOTH
def test_one_request_goes_upstream_and_the_others_wait(strategy: str, tmp_path: Path) -> None:
    async def all_at_once(kit: PluginKit) -> list[Outcome]:
        return await asyncio.gather(*[kit.ask(target="/") for _ in range(20)])

    with cached(tmp_path, STRATEGIES[strategy]) as kit:
        answers = kit.run(all_at_once(kit))
        assert {answer.body for answer in answers} == {b"1"}
        assert sorted(str(status(answer)) for answer in answers) == ["HIT"] * 19 + ["MISS"]
        assert len(kit.received) == 1


@BOTH
def test_nobody_waits_for_what_is_not_kept(strategy: str, tmp_path: Path) -> None:
    async def all_at_once(kit: PluginKit) -> list[Outcome]:
        return await asyncio.gather(*[kit.ask(target="/") for _ in range(20)])

    with cached(tmp_path, STRATEGIES[strategy]) as kit:
        kit.upstream_answers = lambda _: numbered(kit, "Cache-Control: private")
        began = time.monotonic()
        answers = kit.run(all_at_once(kit))
        assert len({answer.body for answer in answers}) == 20
        assert time.monotonic() - began < 2
        settle(kit)
        assert locks(tmp_path) == []


def locks(directory: Path) -> list[tuple[Any, str]]:
    """Return the locks that are held in a directory."""
    places = directory.glob("*/lock/*")
    return [(Zone(place.parent.parent, 1000, is_in_memory=False), place.name) for place in places]


def test_an_upstream_that_fails_keeps_nobody_waiting(tmp_path: Path) -> None:
    with cached(tmp_path, MEMORY, route={"upstream": {"nodes": {"127.0.0.1:1": 1}}}) as kit:
        assert kit.request().status == 502
        assert locks(tmp_path) == []


def test_answers_of_the_gateway_are_not_kept(tmp_path: Path) -> None:
    abort = {"fault-injection": {"abort": {"http_status": 200, "body": "x", "vars": [[["arg_a", "==", "1"]]]}}}
    with cached(tmp_path, MEMORY, plugins=abort) as kit:
        assert status(kit.request(target="/?a=1")) is None
        assert kit.request(target="/").body == b"1"


def test_what_other_plugins_make_of_an_answer_is_not_kept_but_made_again(tmp_path: Path) -> None:
    rewriting = {"response-rewrite": {"headers": {"add": ["X-R: 1"]}, "filters": [{"regex": "^", "replace": ">"}]}}
    with cached(tmp_path, MEMORY, plugins=rewriting) as kit:
        for expected in ("MISS", "HIT"):
            answer = kit.request()
            assert (status(answer), answer.body, answer.headers("x-r")) == (expected, b">1", ["1"])


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"cache_strategy": "memory"}, "zone disk_cache_one is on disk, and cache_strategy is not"),
        ({"cache_zone": "memory_cache"}, "zone memory_cache is in memory, and cache_strategy is not"),
        ({"cache_zone": "nothing"}, "there is no zone nothing in the settings' proxy_cache.zones"),
    ],
)
def test_zones_of_another_kind_or_name_are_refused(tmp_path: Path, config: dict[str, Any], fault: str) -> None:
    assert complaint("proxy-cache", config) == f".cache_zone: {fault}"
    with cached(tmp_path, {}) as kit:  # whose route stays as it was
        with pytest.raises(AssertionError, match="zone"):
            kit.put("routes/kit", {"uri": "/*", "plugins": {"proxy-cache": config}})
        assert kit.request().status == 200


def test_a_directory_of_others_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk").chmod(0o777)
    with cached(tmp_path, {}) as kit:
        assert kit.request().status == 503


def test_a_worker_keeps_its_zones_tidy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "LOOK", 0.005)
    with cached(tmp_path, MEMORY) as kit:
        body = b"x" * 90_000
        kit.upstream_answers = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        for number in range(30):
            kit.request(target=f"/{number}")
            kit.run(asyncio.sleep(0.02))
        kept = sum(path.stat().st_size for path in tmp_path.glob("*/??/*"))
        assert 300_000 < kept <= 1_000_000
        for _ in range(500):  # until it has found room
            if ask(kit, "/29") == [("HIT", body)]:
                break
            kit.run(asyncio.sleep(0.01))
        else:
            pytest.fail("nothing is kept any more")
        assert status(kit.request(target="/0")) == "MISS"


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"cache_strategy": "redis"}, ".cache_strategy: "),
        ({"cache_zone": ""}, ".cache_zone: "),
        ({"cache_key": []}, ".cache_key: "),
        ({"cache_key": [""]}, ".cache_key[0]: "),
        ({"cache_method": []}, ".cache_method: "),
        ({"cache_method": ["PUT"]}, ".cache_method[0]: "),
        ({"cache_method": ["GET", "GET"]}, ".cache_method: "),
        ({"cache_http_status": []}, ".cache_http_status: "),
        ({"cache_http_status": [199]}, ".cache_http_status[0]: "),
        ({"cache_http_status": [600]}, ".cache_http_status[0]: "),
        ({"cache_ttl": 0}, ".cache_ttl: "),
        ({"cache_bypass": "x"}, ".cache_bypass: "),
        ({"no_cache": [1]}, ".no_cache[0]: "),
        ({"max_resp_body_size": 0}, ".max_resp_body_size: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("proxy-cache", config).startswith(fault)


def test_a_client_that_goes_away_meanwhile_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_go_on, lock = threading.Event(), threading.Event(), Zone.lock

    def late(zone: Zone, name: str) -> bool:
        begun.set()
        may_go_on.wait(10)
        return lock(zone, name)

    async def ask_and_go(kit: PluginKit) -> None:
        client = kit.connect()
        client.data_received(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n")
        await asyncio.to_thread(begun.wait, 10)
        client.connection_lost(None)
        await asyncio.sleep(0.01)
        may_go_on.set()

    with cached(tmp_path, {}) as kit:
        monkeypatch.setattr(Zone, "lock", late)
        kit.run(ask_and_go(kit))
        settle(kit)
        settle(kit)
        assert (kit.received, locks(tmp_path)) == ([], [])


@BOTH
def test_what_plugins_add_for_one_client_is_not_kept(strategy: str, tmp_path: Path) -> None:
    plugins = {"request-id": {}, "csrf": {"key": "k"}}
    with cached(tmp_path, {**STRATEGIES[strategy], "cache_set_cookie": True}, plugins=plugins) as kit:
        kit.upstream_answers = lambda _: numbered(kit, "Set-Cookie: own=1")
        answers = []
        for name in ("first", "second"):
            answers.append(kit.request(headers={"X-Request-Id": name}))
            settle(kit)
    assert [status(answer) for answer in answers] == ["MISS", "HIT"]
    assert [answer.headers("x-request-id") for answer in answers] == [["first"], ["second"]]
    for answer in answers:
        assert [cookie.partition("=")[0] for cookie in answer.headers("set-cookie")] == ["own", "apisix-csrf-token"]
