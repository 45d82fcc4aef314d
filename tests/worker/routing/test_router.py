"""The routers: the tables of routing.md sections 4, 5 and 14, and what is remembered with a head."""

from typing import get_args

import pytest

from tests.fakes.plain_matcher import PlainRequest, PlainRoute
from tests.fakes.plain_matcher import winner as plain_winner
from tests.worker.routing.making import ask, exchange, has_query, route
from worker.exchange import Exchange
from worker.routing.route import Route
from worker.routing.router import Mode, Router, build_router

DEFAULT: Mode = "radixtree_host_uri"
BY_URI: Mode = "radixtree_uri"
WITH_PARAMETERS: Mode = "radixtree_uri_with_parameter"


def plain(
    id_: str,
    *uris: str,
    hosts: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    priority: int = 0,
    addresses: tuple[str, ...] = (),
    argument: str | None = None,
) -> PlainRoute:
    return PlainRoute(id_, uris, hosts, methods, priority, addresses, argument)


def get(
    path: str, host: str = "t.com", method: str = "GET", address: str = "10.1.2.3", query: str = ""
) -> PlainRequest:
    return PlainRequest(method, host, path, query, address)


def filled(mode: Mode, routes: list[PlainRoute]) -> Router:
    router = build_router(mode)
    for one in routes:
        router.add(route(router, one))
    return router


def winner(mode: Mode, routes: list[PlainRoute], request: PlainRequest) -> str | None:
    found = filled(mode, routes).match(exchange(request))
    return found.id if found else None


R1_HELLO = [plain("r1", "/hello"), plain("r2", "/*")]
ANY_MODE = [
    (R1_HELLO, get("/hello"), "r1"),
    (R1_HELLO, get("/hello/"), "r2"),
    ([plain("r1", "/v", argument="id=7"), plain("r2", "/v")], get("/v", query="id=7"), "r1"),
    ([plain("r1", "/v", argument="id=7"), plain("r2", "/v")], get("/v", query="id=abc"), "r2"),
    ([plain("r1", "/v", argument="id=7"), plain("r2", "/v")], get("/v"), "r2"),
    ([plain("r1", "/v", priority=1, methods=("GET",)), plain("r2", "/v", priority=9, methods=("POST",))],
     get("/v"), "r1"),
    ([plain("r1", "/f/*", addresses=("10.0.0.0/8",)), plain("r2", "/*")], get("/f/x", address="192.0.2.1"), "r2"),
    ([plain("r1", "/f/*", addresses=("10.0.0.0/8",)), plain("r2", "/*")], get("/f/x"), "r1"),
    ([plain("r1", "/f/*", addresses=("2001:db8::/32", "1.1.1.1"))], get("/f/x", address="2001:db8::5"), "r1"),
    ([plain("r1", "/f/*", addresses=("0.0.0.0/0",))], get("/f/x", address="unix:"), None),
    ([plain("r1", "/A")], get("/a"), None),
    ([plain("r1", "/a b")], get("/a b"), "r1"),
    ([plain("r1", "/a/*/c"), plain("r2", "/a/*")], get("/a/b/c"), "r1"),
    ([plain("r1", "/a/*/c"), plain("r2", "/a/*")], get("/a/b/d"), "r2"),
    ([plain("r1", "/a"), plain("r2", "/*", priority=100)], get("/a"), "r1"),
    ([plain("r1", "/a/*"), plain("r2", "/*", priority=100)], get("/a/x"), "r1"),
    ([plain("r1", "/a/*", methods=("POST",)), plain("r2", "/*")], get("/a/x"), "r2"),
    ([plain("r1", "/a/*", priority=1), plain("r2", "/a/*", priority=5)], get("/a/x"), "r2"),
    ([plain("r1", "/a/*"), plain("r2", "/a*")], get("/a/x"), "r1"),
    ([plain("r1", "/a/*"), plain("r2", "/a*")], get("/ab"), "r2"),
    ([plain("b", "/x"), plain("a", "/x")], get("/x"), "a"),
    ([plain("10", "/x"), plain("2", "/x")], get("/x"), "10"),
    ([plain("r1", "/foo/a*b")], get("/foo/axyz"), "r1"),
    ([plain("r1", "*")], get("/anything"), "r1"),
    ([plain("r1", "/g", methods=("GET",))], get("/g", method="HEAD"), None),
    ([plain("r1", "/g", methods=("GET",)), plain("r2", "/g")], get("/g", method="MOVE"), "r2"),
    ([plain("r1", "/p", hosts=("s.com",))], get("/p", "s.com"), "r1"),
    ([plain("r1", "/p", hosts=("s.com",))], get("/p", "t.com"), None),
    ([plain("r1", "/*", hosts=("*foo.com",))], get("/", "foo.com"), "r1"),
    ([plain("r1", "/*", hosts=("*foo.com",))], get("/", "xfoo.com"), "r1"),
    ([plain("r1", "/*", hosts=("*.foo.com",))], get("/", "foo.com"), None),
    ([plain("r1", "/*", hosts=("*.foo.com",))], get("/", "a.b.foo.com:8080"), "r1"),
    ([plain("r1", "/*", hosts=("*",))], get("/", "any.thing"), "r1"),
]  # fmt: skip

HOSTS_FIRST = [
    ([plain("r1", "/a/*", hosts=("x.com",)), plain("r2", "/a/b", priority=10)], get("/a/b", "x.com"), "r1"),
    ([plain("r1", "/*", hosts=("*.x.com",)), plain("r2", "/only", hosts=("a.x.com",))], get("/z", "a.x.com"), "r1"),
    ([plain("r1", "/*", hosts=("*",)), plain("r2", "/a")], get("/a"), "r1"),
    ([plain("r1", "/*", hosts=("*.foo.com",)), plain("r2", "/*", hosts=("*.b.foo.com",))],
     get("/", "a.b.foo.com"), "r2"),
    ([plain("r1", "/*", hosts=("foo.com:9080",))], get("/", "foo.com:9080"), None),
    ([plain("r1", "/user/:id")], get("/user/7"), None),
    ([plain("r1", "/user/:id")], get("/user/:id"), "r1"),
]  # fmt: skip

PATHS_FIRST = [
    ([plain("r1", "/a/*", hosts=("x.com",)), plain("r2", "/a/b", priority=10)], get("/a/b", "x.com"), "r2"),
    ([plain("r1", "/*", hosts=("x.com",)), plain("r2", "/*", priority=1)], get("/a", "x.com"), "r2"),
    ([plain("r1", "/*", hosts=("x.com",), priority=2), plain("r2", "/*", priority=1)], get("/a", "x.com"), "r1"),
    ([plain("r1", "/*", hosts=("*.x.com",)), plain("r2", "/only", hosts=("a.x.com",))], get("/z", "a.x.com"), "r1"),
    ([plain("r1", "/*", hosts=("foo.com:9080",))], get("/", "foo.com:9080"), "r1"),
    ([plain("r1", "/*", hosts=("foo.com:9080",))], get("/", "foo.com"), None),
    ([plain("r1", "/*", hosts=("*.com:9080",))], get("/", "Foo.com:9080"), "r1"),
]

PARAMETERS = [
    ([plain("r1", "/user/:id"), plain("r2", "/user/7")], get("/user/7"), "r2"),
    ([plain("r1", "/user/:id"), plain("r2", "/user/*")], get("/user/8"), "r1"),
    ([plain("r1", "/user/:id"), plain("r2", "/user/*")], get("/user/8/x"), "r2"),
    ([plain("r1", "/user/:id"), plain("r2", "/user/*", priority=1)], get("/user/8"), "r2"),
    ([plain("r1", "/:any/x"), plain("r2", "/user/:id")], get("/user/x"), "r2"),
]

TABLE = [
    *((mode, *row) for mode in get_args(Mode) for row in ANY_MODE),
    *((DEFAULT, *row) for row in HOSTS_FIRST),
    *((mode, *row) for mode in (BY_URI, WITH_PARAMETERS) for row in PATHS_FIRST),
    *((WITH_PARAMETERS, *row) for row in PARAMETERS),
]


@pytest.mark.parametrize(("mode", "routes", "request_", "id_"), TABLE)
def test_reference_table(mode: Mode, routes: list[PlainRoute], request_: PlainRequest, id_: str | None) -> None:
    assert winner(mode, routes, request_) == id_
    assert winner(mode, routes[::-1], request_) == id_
    found = plain_winner(mode, routes, request_)
    assert (found[0].id if found else None) == id_


def matched(router: Router, asked: Exchange) -> tuple[str | None, bool]:
    """Match; returns the id, and whether the answer is remembered with the head."""
    found = router.match(asked)
    assert asked.request is not None
    return found.id if found else None, asked.request.matched_at == router.version


def test_an_answer_is_remembered_when_it_depends_on_the_head_alone() -> None:
    router = filled(DEFAULT, [plain("1", "/a", methods=("GET",)), plain("2", "/b", addresses=("10.0.0.0/8",))])
    assert matched(router, ask("/a")) == ("1", True)
    assert matched(router, ask("/c")) == (None, True)
    assert matched(router, ask("/b")) == ("2", False)


def test_an_answer_is_not_remembered_when_a_candidate_lost_for_another_reason_than_the_head() -> None:
    router = filled(DEFAULT, [plain("1", "/a", addresses=("192.0.2.1",)), plain("2", "/a")])
    assert matched(router, ask("/a")) == ("2", False)
    assert matched(router, ask("/a", address="192.0.2.1")) == ("1", False)
    router = filled(DEFAULT, [plain("1", "/a", addresses=("192.0.2.1",))])
    assert matched(router, ask("/a")) == (None, False)


def test_a_candidate_that_was_not_reached_does_not_count() -> None:
    router = filled(DEFAULT, [plain("1", "/a", addresses=("192.0.2.1",), methods=("POST",)), plain("2", "/a")])
    assert matched(router, ask("/a")) == ("2", True)


def test_conditions_say_whether_they_look_at_the_head_alone() -> None:
    for repeatable in (True, False):
        router = build_router(DEFAULT)
        router.add(route(router, plain("1", "/a", argument="x"), repeatable))
        assert matched(router, ask("/a")) == (None, repeatable)


def test_a_failed_match_leaves_nothing_behind() -> None:
    router = build_router(DEFAULT)
    works = has_query("x")

    def condition(asked: Exchange) -> bool:
        if not works(asked):
            raise LookupError
        return True

    router.add(Route("1", (router.pattern("/a"),), (), frozenset(), 0, condition=condition, repeatable=False))
    asked = ask("/a")
    with pytest.raises(LookupError):
        router.match(asked)
    assert asked.request is not None
    assert asked.request.matched_at == -1
    assert matched(router, ask("/a", query="x")) == ("1", False)


def test_deep_trees_and_long_keys() -> None:
    router = build_router(DEFAULT)
    routes = [route(router, plain(str(size), "/" + "a" * size + "*")) for size in range(4000)]
    for one in routes:
        router.add(one)
    found = router.match(ask("/" + "a" * 3500 + "b"))
    assert found is routes[3500]
    for one in routes:
        router.remove(one)
    assert router.match(ask("/aaa")) is None


def test_a_router_is_taken_apart_in_steps() -> None:
    for mode in get_args(Mode):
        router = filled(mode, [plain(str(at), f"/{at}/*", f"/{at}", hosts=("a.com", "*.b")) for at in range(300)])
        assert sum(1 for _ in router.dismantle()) > 1
        assert [bucket for _, table in router.all_tables() for bucket in table] == []
