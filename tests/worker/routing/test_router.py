"""The router: the reference's tables, and agreement with a scan over all routes."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.messages import Framing, Request
from worker.routing.route import AddressCondition, Pattern, Route
from worker.routing.router import Router

ADDRESS = "10.1.2.3"
TEXTS: dict[Pattern, str] = {}  # what was written


def route(
    id_: str,
    *uris: str,
    hosts: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    priority: int = 0,
    addresses: tuple[str, ...] = (),
) -> Route:
    patterns = tuple(Pattern(uri) for uri in uris)
    TEXTS.update(zip(patterns, uris, strict=True))
    return Route(
        id_,
        patterns,
        hosts,
        frozenset(method.encode() for method in methods),
        priority,
        AddressCondition(addresses) if addresses else None,
    )


def request(path: str, host: str = "t.com", method: str = "GET") -> Request:
    target, name = path.encode(), host.encode()
    return Request(method.encode(), target, target, name, name, b"", True, Framing.NONE, 0, b"")


def winner(routes: list[Route], asked: Request) -> str | None:
    router = Router()
    for entered in routes:
        router.add(entered)
    found = router.match(asked, ADDRESS)
    return found.id if found else None


@pytest.mark.parametrize(
    ("routes", "asked", "id_"),
    [
        ([route("r1", "/hello"), route("r2", "/*")], request("/hello"), "r1"),
        ([route("r1", "/hello"), route("r2", "/*")], request("/hello/"), "r2"),
        ([route("r1", "/a/*", hosts=("x.com",)), route("r2", "/a/b", priority=10)], request("/a/b", "x.com"), "r1"),
        ([route("r1", "/*", hosts=("*.x.com",)), route("r2", "/only", hosts=("a.x.com",))],
         request("/z", "a.x.com"), "r1"),
        ([route("r1", "/v", priority=1, methods=("GET",)), route("r2", "/v", priority=9, methods=("POST",))],
         request("/v"), "r1"),
        ([route("r1", "/f/*", addresses=("192.0.2.0/24",)), route("r2", "/*")], request("/f/x"), "r2"),
        ([route("r1", "/f/*", addresses=("10.0.0.0/8",)), route("r2", "/*")], request("/f/x"), "r1"),
        ([route("r1", "/A")], request("/a"), None),
        ([route("r1", "/a b")], request("/a b"), "r1"),
        ([route("r1", "/a/*/c"), route("r2", "/a/*")], request("/a/b/c"), "r1"),
        ([route("r1", "/a/*/c"), route("r2", "/a/*")], request("/a/b/d"), "r2"),
        ([route("r1", "/a"), route("r2", "/*", priority=100)], request("/a"), "r1"),
        ([route("r1", "/a/*"), route("r2", "/*", priority=100)], request("/a/x"), "r1"),
        ([route("r1", "/a/*", methods=("POST",)), route("r2", "/*")], request("/a/x"), "r2"),
        ([route("r1", "/a/*", priority=1), route("r2", "/a/*", priority=5)], request("/a/x"), "r2"),
        ([route("r1", "/a/*"), route("r2", "/a*")], request("/ab"), "r2"),
        ([route("r1", "/*", hosts=("*",)), route("r2", "/a")], request("/a"), "r1"),
        ([route("r1", "/*", hosts=("*foo.com",))], request("/", "foo.com"), "r1"),
        ([route("r1", "/*", hosts=("*.foo.com",))], request("/", "foo.com"), None),
        ([route("r1", "/*", hosts=("*.foo.com",)), route("r2", "/*", hosts=("*.b.foo.com",))],
         request("/", "a.b.foo.com"), "r2"),
        ([route("b", "/x"), route("a", "/x")], request("/x"), "a"),
        ([route("r1", "/user/:id")], request("/user/7"), None),
        ([route("r1", "/foo/a*b")], request("/foo/axyz"), "r1"),
        ([route("r1", "*")], request("/anything"), "r1"),
        ([route("r1", "/g", methods=("GET",))], request("/g", method="HEAD"), None),
    ],
)  # fmt: skip
def test_reference_table(routes: list[Route], asked: Request, id_: str | None) -> None:
    assert winner(routes, asked) == id_
    assert winner(routes[::-1], asked) == id_


def scan(routes: list[Route], asked: Request) -> Route | None:
    """Judge every route by the letter of routing.md sections 4 and 5."""
    best: tuple[object, Route] | None = None
    for candidate in routes:
        if not candidate.accepts(asked, ADDRESS):
            continue
        ranks = [rank for host in candidate.hosts or ("",) if (rank := host_rank(host, asked.host_name.decode()))]
        for pattern in candidate.patterns:
            text = TEXTS[pattern]
            if not ranks or not covers(text, asked.path.decode()):
                continue
            key = (
                [-rank for rank in max(ranks)],
                not pattern.exact,
                -len(pattern.literal),
                -candidate.priority,
                -len(text),
                candidate.id,
            )
            if best is None or key < best[0]:  # type: ignore[operator]
                best = key, candidate
    return best[1] if best else None


def host_rank(pattern: str, host: str) -> tuple[int, int] | None:
    if not pattern:
        return 1, 0
    if pattern.startswith("*"):
        return (2, len(pattern)) if host.endswith(pattern[1:]) else None
    return (3, 0) if host == pattern else None


def covers(pattern: str, path: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), path) is not None


URIS = st.sampled_from(["/a", "/a/", "/a/*", "/a*", "/*", "*", "/a/b", "/a/*/c", "/b/*", "/a/b/*", "/b"])
HOSTS = st.sampled_from(["a.com", "b.a.com", "*.a.com", "*a.com", "*", "*.com"])
METHODS = st.sampled_from(["GET", "POST"])
ROUTES = st.builds(
    lambda uris, hosts, methods, priority: (tuple(uris), tuple(hosts), tuple(methods), priority),
    st.lists(URIS, min_size=1, max_size=2, unique=True),
    st.lists(HOSTS, max_size=2, unique=True),
    st.lists(METHODS, max_size=1),
    st.integers(0, 2),
)


@settings(max_examples=300)
@given(st.lists(ROUTES, max_size=12), st.randoms(use_true_random=False))
def test_router_agrees_with_a_scan_through_any_history(
    definitions: list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], int]], chance: random.Random
) -> None:
    router = Router()
    entered: dict[str, Route] = {}
    for uris, hosts, methods, priority in definitions:
        id_ = str(chance.randrange(6))
        if id_ in entered:
            router.remove(entered.pop(id_))
            if chance.random() < 0.3:
                continue
        entered[id_] = route(id_, *uris, hosts=hosts, methods=methods, priority=priority)
        router.add(entered[id_])
    for path in ("/a", "/a/", "/a/b", "/a/x/c", "/ab", "/", "/b/x", "/a/b/c"):
        for host in ("a.com", "b.a.com", "c.b.a.com", "x.org"):
            for method in ("GET", "POST"):
                asked = request(path, host, method)
                assert router.match(asked, ADDRESS) is scan(list(entered.values()), asked)
