"""Who is alive, from a scoreboard without processes."""

import json
import time
from typing import Any

import pytest

from config_sync.status import SyncStatus
from worker.api.messages import Answer, Request
from worker.api.processes import ProcessHandlers, digest_of_all
from worker.api.record import encode_status
from worker.published import MAX_RECORD_BYTES
from worker.scoreboard import Entry, Scoreboard, WorkerState
from worker.supervisor.record import RecordPublisher, read_record

SECOND = 1_000_000_000


class Node:
    """Workers that are as they are told to be, 100 s after the master began."""

    def __init__(self) -> None:
        self.board = Scoreboard(128)
        self.born = time.monotonic_ns()
        self.now = self.born + 100 * SECOND
        self.handlers = ProcessHandlers(self.board, 30.0, lambda: self.now)

    def worker(self, slot: int, generation: int, state: WorkerState, beat: float = 1.0) -> Entry:
        """Add one that was born 40 s ago and has last moved ``beat`` seconds ago."""
        entry = self.board.allocate(slot, generation)
        entry.pid, entry.state = 1000 * generation + slot, state
        entry.born_ns, entry.heartbeat_ns = self.now - 40 * SECOND, self.now - int(beat * SECOND)
        status = SyncStatus(7, 7, {"routes": 1}, {"routes": 1}, 0.0, "", "", "", 0, 0, False, None)
        entry.publish(encode_status(status))
        return entry

    def processes(self) -> Any:
        outcome = self.handlers.processes(Request("GET", "/v1/processes"))
        assert isinstance(outcome, Answer)
        assert outcome.status == 200
        return json.loads(outcome.body)


@pytest.fixture
def node() -> Node:
    return Node()


def test_a_worker_is_shown_with_all_its_figures(node: Node) -> None:
    node.board.set_slots(1)
    entry = node.worker(0, 1, WorkerState.READY)
    entry.idle, entry.active, entry.tunnels, entry.upstream_idle, entry.upstream_active = 1, 2, 3, 4, 5
    entry.accepted, entry.requests, entry.rss = 6, 7, 8
    node.board.count_restart(0)
    answer = node.processes()
    assert answer["slots"] == [{"slot": 0, "pid": 1000, "restarts": 1}]
    assert answer["generations"] == [
        {
            "generation": 1,
            "state": "ready",
            "workers": [
                {
                    "slot": 0,
                    "pid": 1000,
                    "generation": 1,
                    "state": "ready",
                    "age": 40.0,
                    "heartbeat_age": 1.0,
                    "revision": 7,
                    "digest": digest_of_all({"routes": 1}),
                    "connections": {"idle": 1, "active": 2, "tunnels": 3, "upstream_idle": 4, "upstream_active": 5},
                    "accepted": 6,
                    "requests": 7,
                    "rss": 8,
                    "restarts": 1,
                }
            ],
        }
    ]


def test_generations_are_told_apart_the_newest_first(node: Node) -> None:
    node.board.set_slots(3)
    node.worker(0, 1, WorkerState.DRAINING)
    node.worker(1, 1, WorkerState.READY)
    node.worker(0, 2, WorkerState.READY)
    node.worker(1, 2, WorkerState.STARTING)
    node.worker(2, 3, WorkerState.STARTING)
    node.worker(0, 0, WorkerState.DRAINING)
    answer = node.processes()
    shown = [(each["generation"], each["state"], len(each["workers"])) for each in answer["generations"]]
    assert shown == [(3, "starting", 1), (2, "ready", 2), (1, "ready", 2), (0, "draining", 1)]
    assert [slot["pid"] for slot in answer["slots"]] == [2000, 1001, None]


@pytest.mark.parametrize("state", [WorkerState.STARTING, WorkerState.READY, WorkerState.DRAINING])
def test_a_worker_that_does_not_move_is_hung(node: Node, state: WorkerState) -> None:
    node.worker(0, 1, state, beat=29.9)
    node.worker(1, 1, state, beat=30.1)
    workers = node.processes()["generations"][0]["workers"]
    assert [worker["state"] for worker in workers] == [state.name.lower(), "hung"]
    assert [worker["heartbeat_age"] for worker in workers] == [29.9, 30.1]


def test_one_that_has_never_moved_is_as_silent_as_it_is_old(node: Node) -> None:
    entry = node.worker(0, 1, WorkerState.STARTING)
    entry.heartbeat_ns = 0
    worker = node.processes()["generations"][0]["workers"][0]
    assert (worker["state"], worker["heartbeat_age"]) == ("hung", 40.0)


def test_the_master_is_shown_as_it_has_published(node: Node) -> None:
    assert node.processes()["master"]["pid"] == 0
    record = RecordPublisher(node.board, "1.2")
    record.publish("running", 3)
    master = node.processes()["master"]
    assert (master["phase"], master["generation"], master["version"]) == ("running", 3, "1.2")
    assert 90 < master["age"] <= 100
    assert master["rss"] > 1_000_000
    assert master["reload"] is None
    record.reloaded(False, "port in use", 3)
    record.publish("running", 3)
    told = node.processes()["master"]["reload"]
    assert (told["ok"], told["reason"], told["generation"]) == (False, "port in use", 3)


def test_the_longest_reason_fits_into_the_record(node: Node) -> None:
    record = RecordPublisher(node.board, "1.2")
    record.reloaded(False, "\N{GREEK SMALL LETTER PI}\N{PILE OF POO}" * 2000, 1 << 40)
    record.publish("running", 1 << 40)
    assert len(node.board.published_by_master()) < MAX_RECORD_BYTES
    assert read_record(node.board).generation == 1 << 40


def test_a_record_of_another_version_is_read_as_far_as_it_goes(node: Node) -> None:
    node.board.publish_master(b"\x82\xa3pid\x05\xa3new\xc0")
    assert node.processes()["master"]["pid"] == 5
    node.board.publish_master(b"\xc1")
    assert node.processes()["master"]["pid"] == 0


def test_equal_configurations_have_equal_digests() -> None:
    assert digest_of_all({"routes": 1, "services": 2}) == digest_of_all({"services": 2, "routes": 1})
    assert digest_of_all({"routes": 1, "services": 2}) != digest_of_all({"routes": 2, "services": 1})
    assert digest_of_all({}) == digest_of_all({"routes": 0}) == ""


def test_sixty_four_workers_are_counted_in_one_step(node: Node) -> None:
    node.board.set_slots(64)
    for slot in range(64):
        node.worker(slot, 1, WorkerState.READY)
    began = time.perf_counter()
    answer = node.processes()
    assert time.perf_counter() - began < 0.1  # about 2 ms on a quiet machine
    assert len(answer["generations"][0]["workers"]) == 64
