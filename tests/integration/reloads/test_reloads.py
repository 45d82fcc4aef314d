"""The short forms of what ``python -m benchmarks.reload`` does at length."""

import os
from pathlib import Path

import pytest

from benchmarks.reload.outcome import Limits
from benchmarks.reload.scenarios import crash, leak, listeners, reload, resize, upgrade, writes

FEW = 0.4  # of the clients
SLOW = (1.0, 2.0)  # seconds that slow bodies take: they outlive a reload or two
GRACE = 0.05

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("mode", ["slot", "all"])
def test_reloads_lose_nothing(mode: str, tmp_path: Path) -> None:
    outcome = reload.run(tmp_path, Limits(8), mode=mode, grace=GRACE, share=FEW, transfer=SLOW)
    assert outcome.complaints == []
    assert outcome.rounds == 8
    assert outcome.summary.answered() > 500


@pytest.mark.timeout(900)
@pytest.mark.skipif("PROPYLON_LONG_TESTS" not in os.environ, reason="takes four minutes: make long")
def test_two_hundred_reloads_lose_nothing(tmp_path: Path) -> None:
    outcome = reload.run(
        tmp_path, Limits(200), mode="all", workers=1, grace=0.0, share=FEW / 2, transfer=(0.3, 0.6), timeout=3.0
    )
    assert outcome.complaints == []
    assert outcome.rounds == 200


@pytest.mark.parametrize("by_signal", [False, True])
def test_fewer_and_more_workers_lose_nothing(by_signal: bool, tmp_path: Path) -> None:
    outcome = resize.run(tmp_path, Limits(6), by_signal=by_signal, grace=GRACE, share=FEW, transfer=SLOW)
    assert outcome.complaints == []
    assert outcome.rounds == 6


def test_an_address_more_and_less_loses_nothing(tmp_path: Path) -> None:
    outcome = listeners.run(tmp_path, Limits(8), grace=GRACE, share=FEW, transfer=SLOW)
    assert outcome.complaints == []
    assert outcome.rounds == 8


def test_configuration_cuts_nobody_off(tmp_path: Path) -> None:
    outcome = writes.run(tmp_path, Limits(1500), websockets=100)
    assert outcome.complaints == []
    assert all(count > 10 for count in outcome.figures["writes"].values())


def test_killed_workers_take_only_their_own_connections_with_them(tmp_path: Path) -> None:
    outcome = crash.run(tmp_path, Limits(8), workers=3, undisturbed=0.5, share=FEW, transfer=SLOW)
    assert outcome.complaints == []
    assert outcome.figures["connections_on_killed_workers"] > 0


def test_reloads_leak_nothing(tmp_path: Path) -> None:
    outcome = leak.run(tmp_path, Limits(8), mode="all", grace=GRACE)
    assert outcome.complaints == []
    assert outcome.figures["most_old_generations"] > 1


def test_upgrades_lose_nothing(tmp_path: Path) -> None:
    outcome = upgrade.run(tmp_path, Limits(2), share=FEW)
    assert outcome.complaints == []
    assert outcome.rounds == 2
