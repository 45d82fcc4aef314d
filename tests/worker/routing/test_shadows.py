"""Warnings of routes that can never win: found after each change, gone with the reason."""

import random
from collections.abc import Callable

import pytest

from tests.fakes.plain_matcher import PlainRoute
from tests.worker.routing.making import route
from tests.worker.routing.test_differential import Making
from worker.routing import shadows
from worker.routing.bucket import Candidate
from worker.routing.route import Route
from worker.routing.router import Mode, build_router
from worker.routing.shadows import Shadows, _takes_all

Edit = Callable[..., list[str]]


class Table:
    """A router with its routes and what is known of their shadows."""

    def __init__(self, mode: Mode = "radixtree_host_uri") -> None:
        self.router = build_router(mode)
        self.routes: dict[str, Route] = {}
        self.shadows = Shadows(self.router, lambda: self.routes)

    def put(self, plain: PlainRoute) -> None:
        self.delete(plain.id)
        entered = route(self.router, plain)
        self.router.add(entered)
        self.routes[plain.id] = entered
        self.shadows.touch(entered)

    def delete(self, id_: str) -> None:
        old = self.routes.pop(id_, None)
        if old is not None:
            self.router.remove(old)
            self.shadows.touch(old)

    def shadowed(self) -> list[str]:
        for _ in self.shadows.steps():
            pass
        return [warning.route for warning in sorted(self.shadows.warnings()) if warning.never_wins]


def plain(id_: str, *uris: str, priority: int = 0, **more: tuple[str, ...]) -> PlainRoute:
    return PlainRoute(id_, uris, priority=priority, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mode", "routes", "shadowed"),
    [
        ("radixtree_host_uri", [plain("1", "/a"), plain("2", "/a")], ["2"]),
        ("radixtree_host_uri", [plain("1", "/a"), plain("2", "/a", priority=1)], ["1"]),
        ("radixtree_host_uri", [plain("1", "/a", methods=("GET",)), plain("2", "/a")], []),
        ("radixtree_host_uri", [plain("1", "/a", methods=("GET", "PUT")), plain("2", "/a", methods=("PUT",))], ["2"]),
        ("radixtree_host_uri", [plain("1", "/a", addresses=("10.0.0.0/8",)), plain("2", "/a")], []),
        ("radixtree_host_uri", [plain("1", "/a", hosts=("x.com",)), plain("2", "/a", hosts=("x.com", "y.com"))], []),
        ("radixtree_host_uri", [plain("1", "/a", hosts=("x.com", "y.com")), plain("2", "/a", hosts=("x.com",))], ["2"]),
        ("radixtree_host_uri", [plain("1", "/a/*", priority=1), plain("2", "/a/*/b")], ["2"]),
        ("radixtree_host_uri", [plain("1", "/a/*"), plain("2", "/a/*/b")], []),
        ("radixtree_host_uri", [plain("1", "/a/*"), plain("2", "/a/b")], []),
        ("radixtree_host_uri", [plain("1", "/a"), plain("2", "/a", "/b")], []),
        ("radixtree_host_uri", [plain("1", "/a", hosts=("x.com:80",))], ["1"]),
        ("radixtree_host_uri", [plain("1", "a"), plain("2", "/a//b"), plain("3", "/a/../b")], ["1", "2", "3"]),
        ("radixtree_uri", [plain("1", "/a", hosts=("x.com:80",))], []),
        ("radixtree_uri", [plain("1", "/a", hosts=("*.x.com",)), plain("2", "/a", hosts=("a.x.com",))], ["2"]),
        ("radixtree_uri", [plain("1", "/a", hosts=("*.x.com",)), plain("2", "/a", hosts=("*.a.x.com",))], ["2"]),
        ("radixtree_uri", [plain("1", "/a", hosts=("*.x.com",)), plain("2", "/a", hosts=("x.com",))], []),
        ("radixtree_uri", [plain("1", "/a"), plain("2", "/a", hosts=("x.com",))], ["2"]),
        ("radixtree_uri_with_parameter", [plain("1", "/a/:x"), plain("2", "/a/:y")], ["2"]),
        ("radixtree_uri_with_parameter", [plain("1", "/a/:x"), plain("2", "/a/:y/z")], []),
    ],
)  # fmt: skip
def test_what_is_shadowed(mode: Mode, routes: list[PlainRoute], shadowed: list[str]) -> None:
    for order in (routes, routes[::-1]):
        table = Table(mode)
        for one in order:
            table.put(one)
            table.shadowed()
        assert table.shadowed() == shadowed


def test_a_warning_goes_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    table = Table()
    table.put(plain("1", "/a"))
    table.put(plain("2", "/a"))
    assert table.shadowed() == ["2"]
    assert [record.getMessage() for record in caplog.records] == [
        "routes/2: can never win: routes/1 (/a) comes before /a and takes all of it"
    ]
    table.put(plain("1", "/b"))
    assert table.shadowed() == []
    table.put(plain("1", "/a"))
    table.delete("2")
    assert table.shadowed() == []


def test_what_has_no_meaning_is_told(caplog: pytest.LogCaptureFixture) -> None:
    table = Table()
    table.put(plain("1", "/a/b*c"))
    assert table.shadowed() == []
    assert [warning.reason for warning in table.shadows.warnings()] == [
        "uri /a/b*c: 'c' has no meaning behind a wildcard inside a segment"
    ]


@pytest.mark.parametrize("mode", ["radixtree_host_uri", "radixtree_uri", "radixtree_uri_with_parameter"])
def test_changes_one_by_one_and_a_look_at_everything_agree(mode: Mode) -> None:
    making, chance = Making(mode), random.Random(mode)
    table = Table(mode)
    for at in range(400):
        id_ = str(chance.randrange(40))
        if chance.random() < 0.3:
            table.delete(id_)
        else:
            table.put(making.route(id_))
        if at % 20 == 0:
            by_change = table.shadowed()
            warnings = sorted(table.shadows.warnings())
            assert table.shadows.count == len(warnings)
            fresh = Shadows(table.router, lambda: table.routes)
            fresh.touch_all()
            for _ in fresh.steps():
                pass
            assert sorted(fresh.warnings()) == warnings
            table.shadows.touch_all()
            assert table.shadowed() == by_change


@pytest.mark.parametrize("mode", ["radixtree_host_uri", "radixtree_uri", "radixtree_uri_with_parameter"])
def test_a_shadowed_route_never_wins(mode: Mode) -> None:
    from tests.fakes.plain_matcher import winner

    making = Making(f"never {mode}")
    routes = {str(at): making.route(str(at)) for at in range(60)}
    table = Table(mode)
    for one in routes.values():
        table.put(one)
    shadowed = set(table.shadowed())
    assert shadowed
    for _ in range(3000):
        found = winner(mode, routes.values(), making.request())
        assert found is None or found[0].id not in shadowed


def test_hosts_that_all_routes_share_do_not_make_every_route_look_at_every_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0

    def counted(taker: Candidate, candidate: Candidate) -> bool:
        nonlocal compared
        compared += 1
        return _takes_all(taker, candidate)

    monkeypatch.setattr(shadows, "_takes_all", counted)
    table = Table("radixtree_uri")
    for at in range(400):
        table.put(PlainRoute(f"{at:03}", ("/*",), hosts=("shared.com", f"h{at}.com")))
    table.put(PlainRoute("z", ("/*",), hosts=("shared.com", "h7.com")))
    assert table.shadowed() == ["z"]
    assert compared < 10 * 400
