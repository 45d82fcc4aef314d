"""Many changes prepared aside: nothing is visible before the commit, everything after it, and nothing is leaked."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import pytest

from config_sync import schema
from config_sync.cache import Change, ConfigStore
from tests.fakes.answers import Answers
from worker import staging
from worker.staging import SwitcherStaging
from worker.switcher import Switcher


def upstream(node: str) -> dict[str, object]:
    # Of a type that is built at once: there are no values in the store to build it of later.
    return {"type": "least_conn", "nodes": [{"host": node, "port": 80, "weight": 1}]}


def change(directory: str, id_: str, value: dict[str, object] | None) -> Change:
    kinds = {"routes": schema.Route, "upstreams": schema.Upstream, "services": schema.Service}
    if value is None:
        return Change(directory, id_, None)
    decoded, _ = schema.decoders()[directory](id_, msgspec.json.encode(value))
    assert isinstance(decoded, kinds[directory])
    return Change(directory, id_, decoded)


@dataclass
class Bench:
    answers: Answers = field(default_factory=Answers)

    def __post_init__(self) -> None:
        self.switcher = Switcher(ConfigStore(), self.answers.router, self.answers.builder)

    def stage(self, *changes: Change) -> SwitcherStaging:
        found = self.switcher.stage()
        for one in changes:
            found.add((one,))
        return found

    def take(self, *changes: Change) -> None:
        arriving = self.stage(*changes)
        exhaust(arriving.finish())
        arriving.commit()
        exhaust(arriving.clean())


def exhaust(steps: Iterator[None]) -> int:
    return sum(1 for _ in steps)


@pytest.fixture(params=[0, 1000], ids=["second router", "in place"])
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(staging, "IN_PLACE", request.param)
    yield Bench()
    assert gc.isenabled()
    gc.unfreeze()


def routes(count: int, node: str) -> list[Change]:
    return [change("routes", str(n), {"uri": f"/{n}", "upstream": upstream(node)}) for n in range(count)]


def test_nothing_is_visible_before_the_commit_and_all_behind_it(bench: Bench) -> None:
    bench.take(*routes(30, "10.0.0.1"))
    new = [*routes(20, "10.0.0.2"), *(change("routes", str(n), None) for n in range(20, 30))]
    arriving = bench.stage(*new, change("routes", "new", {"uri": "/new", "upstream": upstream("10.0.0.3")}))
    for _ in arriving.finish():
        assert bench.answers.to("/3") == ("3", ("10.0.0.1:80",))
        assert bench.answers.to("/new") is None
    router = bench.switcher.router
    arriving.commit()
    for _ in arriving.clean():
        assert bench.answers.to("/3") == ("3", ("10.0.0.2:80",))
        assert bench.answers.to("/25") is None
        assert bench.answers.to("/new") == ("new", ("10.0.0.3:80",))
    assert bench.switcher.router is router, "who has been given the router keeps it"
    assert bench.answers.pool_users() == {"10.0.0.2:80": 20, "10.0.0.3:80": 1}
    assert set(bench.switcher.routes) == {*map(str, range(20)), "new"}


def test_what_is_dropped_leaves_no_trace(bench: Bench) -> None:
    bench.take(*routes(5, "10.0.0.1"), change("upstreams", "u", upstream("10.0.0.9")))
    before = bench.answers.all(), bench.answers.pool_users()
    arriving = bench.stage(
        *routes(10, "10.0.0.2"),
        change("upstreams", "u", upstream("10.0.0.3")),
        change("services", "s", {"upstream": upstream("10.0.0.4")}),
    )
    exhaust(arriving.finish())
    arriving.drop()
    assert (bench.answers.all(), bench.answers.pool_users()) == before


def test_what_is_switched_off_is_told_of_from_the_commit_on(bench: Bench) -> None:
    off = {"uri": "/off", "plugins": {}, "status": 0}
    switcher = bench.switcher
    bench.take(*(change("routes", id_, off) for id_ in ("stays", "comes", "goes")))
    new = [
        change("routes", "comes", {"uri": "/on", "plugins": {}}),
        change("routes", "goes", None),
        change("routes", "new", off),
    ]
    dropped = bench.stage(*new, change("routes", "other", off))
    exhaust(dropped.finish())
    dropped.drop()
    assert set(switcher.disabled) == {"stays", "comes", "goes"}
    arriving = bench.stage(*new)
    exhaust(arriving.finish())
    assert set(switcher.disabled) == {"stays", "comes", "goes"}
    arriving.commit()
    assert set(switcher.disabled) == {"stays", "new"}
    exhaust(arriving.clean())


def test_upstreams_and_services_that_come_with_their_routes(bench: Bench) -> None:
    bench.take(
        change("routes", "1", {"uri": "/a", "service_id": "s"}),
        change("routes", "2", {"uri": "/b", "upstream_id": "u"}),
        change("services", "s", {"upstream_id": "u", "hosts": ["b.com"]}),
        change("upstreams", "u", upstream("10.0.0.1")),
    )
    assert bench.answers.to("/a", "b.com") == ("1", ("10.0.0.1:80",))
    assert bench.answers.to("/a", "a.com") is None
    assert bench.answers.to("/b") == ("2", ("10.0.0.1:80",))
    bench.take(change("upstreams", "u", None), change("services", "s", None))
    assert bench.answers.to("/a", "a.com") == ("1", ("ServiceMissing",)), "the hosts went with the service"
    assert bench.answers.to("/b") == ("2", ("UpstreamMissing",))
    assert bench.answers.pool_users() == {}


def test_a_service_with_new_hosts_takes_its_routes_along(bench: Bench) -> None:
    own = upstream("10.0.0.7")
    bench.take(
        change("services", "s", {"upstream": upstream("10.0.0.1"), "hosts": ["a.com"]}),
        *(change("routes", str(n), {"uri": f"/{n}", "service_id": "s", "upstream": own}) for n in range(5)),
        change("routes", "gone", {"uri": "/gone", "service_id": "s"}),
    )
    bench.take(
        change("services", "s", {"upstream": upstream("10.0.0.2"), "hosts": ["b.com"]}),
        change("routes", "gone", None),
        change("routes", "0", {"uri": "/0", "service_id": "s"}),
        change("routes", "new", {"uri": "/new", "service_id": "s"}),
    )
    assert bench.answers.to("/3", "a.com") is None
    assert bench.answers.to("/3", "b.com") == ("3", ("10.0.0.7:80",)), "with the upstream of its own"
    assert bench.answers.to("/0", "b.com") == ("0", ("10.0.0.2:80",))
    assert bench.answers.to("/new", "b.com") == ("new", ("10.0.0.2:80",))
    assert bench.answers.to("/gone", "b.com") is None
    assert bench.answers.pool_users() == {"10.0.0.2:80": 1, "10.0.0.7:80": 4}
    assert bench.switcher.routes_of_service == {"s": {"0", "1", "2", "3", "4", "new"}}


def test_changes_as_events_find_what_was_staged(bench: Bench) -> None:
    bench.take(*routes(10, "10.0.0.1"), change("services", "s", {"hosts": ["a.com"]}))
    bench.switcher.changed([change("routes", "3", None), *routes(1, "10.0.0.2")])
    bench.switcher.changed([change("routes", "x", {"uri": "/x", "service_id": "s", "upstream": upstream("10.0.0.3")})])
    bench.switcher.changed([change("services", "s", {"hosts": ["b.com"]})])
    assert bench.answers.to("/3") is None
    assert bench.answers.to("/0") == ("0", ("10.0.0.2:80",))
    assert bench.answers.to("/x", "b.com") == ("x", ("10.0.0.3:80",))
    assert bench.answers.pool_users() == {"10.0.0.1:80": 8, "10.0.0.2:80": 1, "10.0.0.3:80": 1}


def test_the_collector_rests_while_very_many_routes_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "IN_PLACE", 2)
    bench = Bench()
    try:
        for end in (SwitcherStaging.drop, lambda arriving: (arriving.commit(), exhaust(arriving.clean()))):
            arriving = bench.stage(*routes(5, "10.0.0.1"))
            assert not gc.isenabled()
            exhaust(arriving.finish())
            end(arriving)
            assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
