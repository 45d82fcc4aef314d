"""Metrics on their way into the table, and out of it."""

import time

import pytest

from config_sync import schema
from config_sync.cache import ConfigStore, Deletion, Entry
from config_sync.settings_metrics import MetricSettings, PrometheusSettings
from tests.worker.plugins.scraped import samples, value
from worker.observability.existence import Existence, Origin
from worker.observability.exposition import PORTION_SECONDS, Exposition
from worker.observability.families import Family, Histogram
from worker.observability.metrics import Metrics
from worker.shared_state.series import SharedSeries

ROUTE = b'{"uri": "/", "upstream": {"nodes": {"127.0.0.1:80": 1}}}'


class Bench:
    """Two workers with a table and a store."""

    def __init__(self, max_series: int = 100) -> None:
        self.table = SharedSeries(512)
        self.store = ConfigStore(schema.decoders())
        own = PrometheusSettings(metrics={"short": MetricSettings(expire=5)}, max_series=max_series)
        self.workers = [Metrics(own, Existence(self.store), self.table) for _ in range(2)]
        for metrics in self.workers:
            self.store.subscribe(metrics.changed, metrics.stage)
        self.family = Family("things", "Things", ("route", "code"))
        for metrics in self.workers:
            metrics.add_family(self.family)
        self.revision = 1

    def put(self, id_: str) -> None:
        self.revision += 1
        self.store.apply([Entry(f"routes/{id_}", ROUTE, self.revision, self.revision, 1)], self.revision)

    def delete(self, id_: str) -> None:
        self.revision += 1
        self.store.apply([Deletion(f"routes/{id_}", self.revision)], self.revision)

    def count(self, worker: int, route: str, code: str = "200") -> None:
        self.workers[worker].cells(self.family, (route, code), Origin(route))[0] += 1

    def shown(self, labels: dict[str, str], worker: int = 0) -> float:
        for metrics in self.workers:
            metrics.flush()
        return value(samples(Exposition(self.workers[worker]).text()), "apisix_things", labels)


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.put("a")
    made.put("b")
    return made


def test_workers_are_added_up(bench: Bench) -> None:
    bench.count(0, "a")
    bench.count(1, "a")
    bench.count(1, "b")
    assert [bench.shown({"route": "a"}, worker) for worker in (0, 1)] == [2, 2]
    assert bench.shown({}) == 3


def test_what_belongs_to_nothing_is_not_shown_and_loses_its_place(bench: Bench) -> None:
    bench.count(0, "a")
    bench.count(1, "b")
    assert bench.shown({}) == 2
    bench.delete("a")
    assert bench.shown({}) == 1
    bench.count(1, "a")  # a request that was under way
    assert bench.shown({}) == 1
    for metrics in bench.workers:
        metrics._prune_at = 0.001
        metrics.flush()
    assert bench.table.used == 1
    bench.put("a")
    bench.count(0, "a")
    assert bench.shown({"route": "a"}) >= 1


def test_nothing_is_lost_while_somebody_has_the_lock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.count(0, "a")
    with monkeypatch.context() as patched:
        patched.setattr(bench.table, "acquire", lambda: False)
        bench.workers[0].flush()
    assert bench.table.used == 0
    bench.count(0, "a")
    assert bench.shown({"route": "a"}) == 2


def test_others_are_counted_together() -> None:
    bench = Bench(max_series=2)
    for route in "abcde":
        bench.put(route)
        bench.count(0, route)
        bench.count(1, route, "404")
    assert bench.shown({}) == 10
    assert bench.shown({"route": "other"}) >= 6
    assert bench.shown({"route": "other", "code": "404"}) >= 3


def test_idle_series_expire(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Family("short", "Short", ())
    for metrics in bench.workers:
        metrics.add_family(short)
    bench.workers[0].cells(short)[0] += 1
    bench.workers[0].flush()
    exposition = Exposition(bench.workers[0])
    assert "apisix_short 1" in exposition.text()
    late = time.monotonic() + 10
    monkeypatch.setattr(time, "monotonic", lambda: late)
    assert "apisix_short" not in exposition.text()


def test_long_scrapes_come_in_portions(bench: Bench) -> None:
    latency = Histogram("lat", "Latency", range(1, 20), ("code",))
    for metrics in bench.workers:
        metrics.add_family(latency)
    for number in range(200):
        latency.observe(bench.workers[0].cells(latency, (str(number),)), number)
    bench.workers[0].flush()
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += PORTION_SECONDS / 10
        return now

    pieces = list(Exposition(bench.workers[0], clock=clock).portions())
    assert len(pieces) > 20
    found = samples(b"".join(pieces).decode())
    assert value(found, "apisix_lat_count") == 200
    assert value(found, "apisix_lat_sum") == sum(range(200))
    assert value(found, "apisix_lat_bucket", {"le": "+Inf", "code": "150"}) == 1
    assert value(found, "apisix_lat_bucket", {"le": "19", "code": "150"}) == 0
