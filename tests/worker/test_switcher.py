"""The switcher: what a change touches, and what it leaves alone."""

import json
import logging

import pytest

from config_sync.cache import ConfigStore, Deletion, Entry, Event
from tests.fakes.answers import Answers
from worker.errors import UpstreamMissing
from worker.http.serve import upstream_of
from worker.switcher import Switcher

ONE = {"nodes": {"10.0.0.1:80": 1}}
TWO = {"nodes": {"10.0.0.2:80": 1}}


def entry(key: str, value: object, revision: int) -> Entry:
    return Entry(key, json.dumps(value).encode(), revision, revision, 1)


class Gate:
    """A store, and a switcher that listens to it."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.store = ConfigStore()
        self.switcher = Switcher(self.store, self.answers.router, self.answers.builder)
        self._revision = 1

    def put(self, **values: object) -> None:
        """Write ``routes_1={…}`` and the like, or delete with None, in one revision."""
        self._revision += 1
        events: list[Event] = []
        for name, value in values.items():
            key = "/".join(name.rsplit("_", 1))
            events.append(Deletion(key, self._revision) if value is None else entry(key, value, self._revision))
        self.store.apply(events, self._revision)

    def to(self, path: str, host: str = "a.com") -> tuple[str, tuple[str, ...]] | None:
        return self.answers.to(path, host)


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_a_route_comes_changes_and_goes(gate: Gate) -> None:
    gate.put(routes_1={"uri": "/a", "upstream": ONE})
    assert gate.to("/a") == ("1", ("10.0.0.1:80",))
    gate.put(routes_1={"uri": "/b", "upstream": TWO})
    assert gate.to("/a") is None
    assert gate.to("/b") == ("1", ("10.0.0.2:80",))
    assert gate.answers.pool_users() == {"10.0.0.2:80": 1}
    gate.put(routes_1=None)
    assert gate.to("/b") is None
    assert gate.answers.pool_users() == {}
    assert gate.switcher.routes == {}


def test_an_inline_upstream_is_built_when_it_is_wanted(gate: Gate) -> None:
    checked = {**TWO, "checks": {"active": {"healthy": {}, "unhealthy": {}}}}
    gate.put(routes_1={"uri": "/a", "upstream": ONE}, routes_2={"uri": "/b", "upstream": checked})
    assert gate.answers.pool_users() == {"10.0.0.2:80": 1}
    assert gate.to("/a") == ("1", ("10.0.0.1:80",))
    assert gate.to("/a") == ("1", ("10.0.0.1:80",))
    assert gate.answers.pool_users() == {"10.0.0.1:80": 1, "10.0.0.2:80": 1}
    gate.put(routes_1={"uri": "/a", "upstream": ONE, "desc": "changed"})
    assert gate.answers.pool_users() == {"10.0.0.1:80": 1, "10.0.0.2:80": 1}, "it keeps its connections"
    gate.put(routes_1=None, routes_2=None)
    assert gate.answers.pool_users() == {}


def test_an_inline_upstream_of_a_route_that_has_been_replaced_is_not_built(gate: Gate) -> None:
    gate.put(routes_1={"uri": "/a", "upstream": ONE})
    replaced = gate.switcher.routes["1"]
    gate.put(routes_1={"uri": "/a", "upstream": TWO})
    with pytest.raises(UpstreamMissing):
        upstream_of(replaced)
    assert gate.answers.pool_users() == {}


def test_a_changed_upstream_is_one_assignment(gate: Gate) -> None:
    routes = {f"routes_{n}": {"uri": f"/{n}", "upstream_id": "u"} for n in range(5)}
    gate.put(upstreams_u=ONE, **routes)
    before, version = dict(gate.switcher.routes), gate.answers.router.version
    gate.put(upstreams_u=TWO)
    assert [gate.to(f"/{n}") for n in range(5)] == [(str(n), ("10.0.0.2:80",)) for n in range(5)]
    assert gate.switcher.routes == before
    assert gate.answers.router.version == version


def test_order_and_absence_of_what_is_referred_to_do_not_matter(gate: Gate) -> None:
    gate.put(routes_1={"uri": "/a", "upstream_id": "u"}, routes_2={"uri": "/b", "service_id": "s"})
    assert gate.to("/a") == ("1", ("UpstreamMissing",))
    assert gate.to("/b") == ("2", ("ServiceMissing",))
    gate.put(services_s={"upstream_id": "u"})
    assert gate.to("/b") == ("2", ("UpstreamMissing",))
    gate.put(upstreams_u=ONE)
    assert gate.to("/a") == ("1", ("10.0.0.1:80",))
    assert gate.to("/b") == ("2", ("10.0.0.1:80",))
    gate.put(upstreams_u=None, services_s=None)
    assert gate.to("/a") == ("1", ("UpstreamMissing",))
    assert gate.to("/b") == ("2", ("ServiceMissing",))


def test_a_request_that_has_begun_keeps_what_it_has_found(gate: Gate) -> None:
    gate.put(routes_1={"uri": "/a", "upstream_id": "u"}, upstreams_u=ONE)
    found = upstream_of(gate.switcher.routes["1"])
    gate.put(routes_1=None, upstreams_u=None)
    assert [str(peer) for peer in found.peers] == ["10.0.0.1:80"]
    assert found.peers[0].pool.retired, "its connection is not kept when it is done"


def test_peers_that_stay_keep_their_pools(gate: Gate) -> None:
    both = {"nodes": {**ONE["nodes"], **TWO["nodes"]}}
    gate.put(upstreams_u=both, routes_1={"uri": "/a", "upstream_id": "u"}, routes_2={"uri": "/b", "upstream": ONE})
    assert gate.to("/b") == ("2", ("10.0.0.1:80",))
    pools = {str(peer): peer.pool for peer in upstream_of(gate.switcher.routes["1"]).peers}
    gate.put(upstreams_u=ONE)
    (stays,) = upstream_of(gate.switcher.routes["1"]).peers
    assert stays.pool is pools["10.0.0.1:80"]
    assert gate.answers.pool_users() == {"10.0.0.1:80": 2}
    assert pools["10.0.0.2:80"].retired


def test_routes_inherit_the_hosts_of_their_service(gate: Gate) -> None:
    gate.put(
        services_s={"upstream": ONE, "hosts": ["b.com"]},
        routes_1={"uri": "/a", "service_id": "s"},
        routes_2={"uri": "/b", "service_id": "s", "host": "a.com"},
    )
    assert (gate.to("/a", "a.com"), gate.to("/a", "b.com")) == (None, ("1", ("10.0.0.1:80",)))
    assert (gate.to("/b", "a.com"), gate.to("/b", "b.com")) == (("2", ("10.0.0.1:80",)), None)
    gate.put(services_s={"upstream": ONE, "hosts": ["c.org"]})
    assert (gate.to("/a", "b.com"), gate.to("/a", "c.org")) == (None, ("1", ("10.0.0.1:80",)))
    gate.put(services_s={"upstream": ONE})
    assert gate.to("/a", "z.net") == ("1", ("10.0.0.1:80",))
    assert gate.answers.pool_users() == {"10.0.0.1:80": 1}


def test_other_hosts_of_a_service_with_many_routes_come_in_steps_and_at_one_instant(gate: Gate) -> None:
    gate.put(services_s={"upstream": ONE, "hosts": ["b.com"]}, services_few={"upstream": ONE})
    for first in range(0, 600, 50):
        gate.put(**{f"routes_{n}": {"uri": f"/{n}", "service_id": "s"} for n in range(first, first + 50)})
    own = {"uri": "/own", "service_id": "s", "host": "own.com"}
    gate.put(routes_own=own, routes_few={"uri": "/few", "service_id": "few"})
    assert gate.store.fits_one_step([entry("services/few", {}, 100), entry("routes/1", own, 100)])
    events = [entry("services/s", {"upstream": TWO, "hosts": ["c.com"]}, 100)]
    assert not gate.store.fits_one_step(events)
    seen = []
    for _ in gate.store.applying(events, 100):
        seen.append([(gate.to(f"/{n}", "b.com"), gate.to(f"/{n}", "c.com")) for n in (0, 300, 599)])
        assert gate.store.revision == 100 or seen[-1] == seen[0]
    old, new = ("10.0.0.1:80",), ("10.0.0.2:80",)
    assert seen[0] == [((n, old), None) for n in ("0", "300", "599")]
    assert seen[-1] == [(None, (n, new)) for n in ("0", "300", "599")]
    assert [one for one in seen if one not in (seen[0], seen[-1])] == []
    assert len(seen) > 600 / 16
    assert gate.to("/own", "own.com") == ("own", new)


def test_a_service_that_keeps_its_hosts_leaves_the_router_alone(gate: Gate) -> None:
    gate.put(services_s={"upstream": ONE, "hosts": ["b.com"]}, routes_1={"uri": "/a", "service_id": "s"})
    version = gate.answers.router.version
    gate.put(services_s={"upstream": TWO, "hosts": ["b.com"]})
    assert gate.answers.router.version == version
    assert gate.to("/a", "b.com") == ("1", ("10.0.0.2:80",))
    assert gate.answers.pool_users() == {"10.0.0.2:80": 1}


def test_a_route_that_moves_from_one_service_to_another(gate: Gate) -> None:
    gate.put(
        services_s={"upstream": ONE, "hosts": ["a.com"]},
        services_t={"upstream": TWO, "hosts": ["b.com"]},
        routes_1={"uri": "/a", "service_id": "s"},
    )
    gate.put(routes_1={"uri": "/a", "service_id": "t"})
    assert (gate.to("/a", "a.com"), gate.to("/a", "b.com")) == (None, ("1", ("10.0.0.2:80",)))
    gate.put(services_s={"upstream": ONE, "hosts": ["c.org"]})
    assert gate.to("/a", "c.org") is None
    gate.put(routes_1=None)
    assert gate.switcher.routes_of_service == {}


def test_a_route_that_is_switched_off_takes_no_part(gate: Gate) -> None:
    gate.put(routes_1={"uri": "/a", "upstream": ONE}, routes_2={"uri": "/*", "upstream": TWO})
    gate.put(routes_1={"uri": "/a", "upstream": ONE, "status": 0})
    assert gate.to("/a") == ("2", ("10.0.0.2:80",))
    assert gate.answers.pool_users() == {"10.0.0.2:80": 1}


def test_directories_that_no_request_uses_are_passed_over(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    gate.put(routes_1={"uri": "/a", "upstream": ONE}, plugin_configs_1={"plugins": {}})
    assert gate.to("/a") == ("1", ("10.0.0.1:80",))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_of_upstreams_and_services_that_come_and_go_nothing_stays(gate: Gate) -> None:
    for at in range(20):
        upstream, service, route = f"upstreams_u{at}", f"services_s{at}", f"routes_{at}"
        gate.put(**{upstream: ONE, service: {"upstream_id": f"u{at}"}, route: {"uri": "/a", "service_id": f"s{at}"}})
        gate.put(**{upstream: None, service: None})
        assert gate.to("/a") is not None, "the route is there still, and leads nowhere"
        gate.put(**{upstream: TWO, service: {"upstream_id": f"u{at}"}})
        assert gate.to("/a") == (str(at), ("10.0.0.2:80",))
        gate.put(**{route: None, upstream: None, service: None})
    switcher = gate.switcher
    assert (len(switcher._upstreams), len(switcher._services), switcher._existing) == (0, 0, {})
