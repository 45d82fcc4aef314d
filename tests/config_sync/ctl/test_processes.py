"""The table of processes."""

from typing import Any

import pytest

from config_sync.ctl.processes import duration, lines, size, table

WORKER: dict[str, Any] = {
    "slot": 0,
    "pid": 4711,
    "generation": 2,
    "state": "ready",
    "age": 75.0,
    "heartbeat_age": 0.5,
    "revision": 123,
    "digest": "",
    "connections": {"idle": 10, "active": 2, "tunnels": 1, "upstream_idle": 4, "upstream_active": 2},
    "accepted": 500,
    "requests": 12_000,
    "rss": 50 * 2**20,
    "restarts": 3,
}
MASTER: dict[str, Any] = {
    "pid": 4700,
    "age": 90_000.0,
    "heartbeat_age": 0.1,
    "generation": 2,
    "phase": "running",
    "version": "0.1.0",
    "rss": 20 * 2**20,
    "reload": None,
}


def test_a_gateway_is_shown() -> None:
    answer = {
        "master": MASTER,
        "slots": [{"slot": 0, "pid": 4711, "restarts": 3}, {"slot": 1, "pid": None, "restarts": 0}],
        "generations": [{"generation": 2, "state": "ready", "workers": [WORKER]}],
    }
    told = lines(answer)
    assert told[0] == "master 4700: propylon 0.1.0, running, generation 2, up 1d 1h, 20.0M"
    heads, row = told[2].split(), told[3].split()
    assert heads[:4] == ["slot", "pid", "generation", "state"]
    assert " ".join(row) == "0 4711 2 ready 1m 15s 123 10 2 1 4 2 500 12000 50.0M 3"
    assert told[-1] == "no worker accepts on slot 1"


def test_the_last_reload_and_a_hung_worker_are_pointed_out() -> None:
    answer = {
        "master": {**MASTER, "reload": {"ok": False, "reason": "port in use", "generation": 2, "age": 61.0}},
        "slots": [],
        "generations": [{"workers": [{**WORKER, "state": "hung", "heartbeat_age": 31.2}]}],
    }
    told = lines(answer)
    assert told[1] == "the last reload, 1m 1s ago, failed: port in use"
    assert "hung 31s" in told[4]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.9, "59s"), (60, "1m 0s"), (3_600, "1h 0m"), (3_725, "1h 2m"), (90_061, "1d 1h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes() -> None:
    assert size(1_572_864) == "1.5M"


def test_a_table_without_rows_has_its_heads() -> None:
    assert table(("a", "bb"), []) == ["a  bb"]
