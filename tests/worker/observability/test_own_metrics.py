"""What a worker tells of itself, as a scrape shows it."""

from collections.abc import Iterator

import pytest

from tests.worker.plugins.scraped import scrape, value
from worker.observability.own_metrics import OwnMetrics
from worker.plugins.testing import PluginKit
from worker.shared_state.memory import SharedState


@pytest.fixture
def kit() -> Iterator[PluginKit]:
    with PluginKit() as made:
        own = OwnMetrics(made.context, made.store, 0)
        own.start(made.loop)
        yield made
        own.stop()


def test_counts_that_are_given_up_for_want_of_room(kit: PluginKit) -> None:
    state = SharedState(counters=1)  # which makes room for a few hundred
    state.open(0)
    counters = kit.context.plugins.services.counters = state.counters(0)
    name = "propylon_shared_evicted_total"
    counters.take(b"one", 10, 60.0)
    assert value(scrape(kit), name) == 0
    for number in range(5_000):
        counters.take(b"%d" % number, 10, 60.0)
    assert 4_000 < value(scrape(kit), name) == counters.places.evicted < 5_000
    assert value(scrape(kit), name) == counters.places.evicted  # told once


def test_counts_that_are_begun_without_their_lock(kit: PluginKit, monkeypatch: pytest.MonkeyPatch) -> None:
    state = SharedState()
    state.open(0)
    counters = kit.context.plugins.services.counters = state.counters(0)
    monkeypatch.setattr(state.locks, "acquire", lambda number, patient=False: False)
    for _ in range(3):
        counters.take(b"one", 10, 60.0, patient=False)
    assert value(scrape(kit), "propylon_shared_unlocked_total") == 1
