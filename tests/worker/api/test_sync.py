"""Who has applied what, from a scoreboard without processes."""

import json
import time
from datetime import datetime
from typing import Any

import pytest

from config_sync.cache import ConfigStore
from config_sync.provider import ProviderState
from config_sync.status import Held, SyncStatus
from worker.api.messages import Answer, Outcome, Pending, Request
from worker.api.record import Publisher, encode_status
from worker.api.sync import SyncHandlers, wait_arguments
from worker.scoreboard import Entry, Scoreboard, WorkerState


class Node:
    """Workers that publish what they are told to, and a clock that stands."""

    def __init__(self) -> None:
        self.board = Scoreboard(16)
        self.handlers = SyncHandlers(self.board, lambda: 100.0)

    def worker(
        self,
        slot: int,
        revision: int,
        digest: int = 1,
        generation: int = 1,
        state: WorkerState = WorkerState.READY,
        held: Held | None = None,
    ) -> Entry:
        entry = self.board.allocate(slot, generation)
        entry.pid, entry.state, entry.revision = 1000 + slot, state, revision
        digests, counts = {"routes": digest}, {"routes": 3}
        status = SyncStatus(revision, revision, digests, counts, 0.0, "", "", "", 0, 0, False, held)
        entry.publish(encode_status(status))
        return entry

    def sync(self) -> Any:
        return read(self.handlers.sync(Request("GET", "/v1/sync")))[1]

    def wait(self, revision: int, timeout: float = 5) -> Pending:
        outcome = self.handlers.wait(Request("GET", "/v1/sync/wait", f"revision={revision}&timeout={timeout}"))
        assert isinstance(outcome, Pending)
        return outcome


@pytest.fixture
def node() -> Node:
    return Node()


def read(outcome: Outcome | None) -> tuple[int, Any]:
    assert isinstance(outcome, Answer)
    return outcome.status, json.loads(outcome.body)


def test_workers_with_equal_digests_agree(node: Node) -> None:
    node.worker(0, 7)
    node.worker(1, 9)
    sync = node.sync()
    assert (sync["agree"], sync["revision"]) == (True, 7)
    assert sync["workers"][0] == {
        "slot": 0,
        "pid": 1000,
        "generation": 1,
        "state": "ready",
        "revision": 7,
        "changed": 7,
        "digests": {"routes": f"{1:032x}"},
        "counts": {"routes": 3},
        "last_event": "",
        "last_error": "",
        "stage": "",
        "endpoint": "",
        "incidents": 0,
        "rejected": 0,
        "stale": False,
        "held": None,
    }


def test_workers_with_other_digests_do_not_agree(node: Node) -> None:
    node.worker(0, 7, digest=1)
    node.worker(1, 7, digest=2)
    assert node.sync()["agree"] is False


def test_only_ready_workers_of_the_newest_generation_must_agree(node: Node) -> None:
    node.worker(0, 3, digest=9, generation=1)
    node.worker(0, 7, generation=2)
    node.worker(1, 1, digest=8, generation=2, state=WorkerState.STARTING)
    node.worker(1, 2, digest=7, generation=1, state=WorkerState.DRAINING)
    sync = node.sync()
    assert (sync["agree"], sync["revision"], len(sync["workers"])) == (True, 3, 4)


def test_nobody_agrees_when_nobody_is_ready(node: Node) -> None:
    node.worker(0, 3, state=WorkerState.STARTING)
    assert (node.sync()["agree"], node.sync()["revision"]) == (False, 0)


def test_wait_ends_with_the_last_worker(node: Node) -> None:
    node.worker(0, 7)
    late = node.worker(1, 6)
    waiting = node.wait(7)
    assert waiting.poll(100.0) is None
    late.revision = 8
    assert read(waiting.poll(100.1)) == (200, {"revision": 7})


def test_wait_names_those_that_have_not(node: Node) -> None:
    node.worker(0, 7)
    node.worker(1, 6)
    node.worker(2, 1, state=WorkerState.DRAINING)
    waiting = node.wait(7, 0.5)
    assert waiting.poll(100.4) is None
    status, answer = read(waiting.poll(100.5))
    assert status == 504
    assert answer == {
        "error_msg": "revision 7 has not been applied by all workers within 0.5 s",
        "revision": 7,
        "missing": [{"slot": 1, "pid": 1001, "generation": 1, "state": "ready", "revision": 6}],
    }


def test_what_a_wait_has_told_binds_workers_that_begin(node: Node) -> None:
    node.worker(0, 7)
    assert read(node.wait(6).poll(100.0))[0] == 200
    assert node.board.owed() == 6
    assert node.wait(8).poll(100.0) is None
    assert node.board.owed() == 6


def test_wait_sees_a_worker_that_begins_meanwhile(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.worker(0, 7)
    begins = node.worker(1, 6, state=WorkerState.STARTING)
    waiting = node.wait(7)
    # It asks what it owes just before the promise is written, and finds nothing.
    monkeypatch.setattr(Scoreboard, "promise", lambda *_: setattr(begins, "state", WorkerState.READY))
    assert waiting.poll(100.0) is None
    begins.revision = 7
    assert read(waiting.poll(100.1))[0] == 200


def test_wait_is_not_satisfied_by_nobody(node: Node) -> None:
    node.worker(0, 7, state=WorkerState.STARTING)
    status, answer = read(node.wait(1, 0).poll(100.0))
    assert (status, answer["missing"][0]["state"]) == (504, "starting")


@pytest.mark.parametrize(
    ("query", "argument"),
    [
        ("", "revision"),
        ("revision=", "revision"),
        ("revision=-1", "revision"),
        ("revision=1.5", "revision"),
        ("revision=99999999999999999999", "revision"),
        ("revision=1&revision=2", "revision"),
        ("revision=1&timeout=61", "timeout"),
        ("revision=1&timeout=-1", "timeout"),
        ("revision=1&timeout=nan", "timeout"),
        ("revision=1&timeout=soon", "timeout"),
        ("revision=1&timout=5", "timout"),
    ],
)
def test_bad_arguments_are_named(node: Node, query: str, argument: str) -> None:
    status, answer = read(node.handlers.wait(Request("GET", "/v1/sync/wait", query)))
    assert status == 400
    assert answer["error_msg"].startswith(f"{argument}: ")


def test_the_usual_time_out_is_five_seconds() -> None:
    assert wait_arguments("revision=3") == (3, 5.0)


def test_confirm_stamps_the_scoreboard_when_a_reload_is_held(node: Node) -> None:
    node.worker(0, 7)
    assert read(node.handlers.confirm(Request("POST", "/v1/sync/confirm")))[0] == 409
    assert node.board.confirmed_at == 0
    node.worker(1, 7, held=Held(90, 100, 100.0))
    held = node.sync()["workers"][1]["held"]
    assert (held["removes"], held["of"]) == (90, 100)
    assert abs(datetime.fromisoformat(held["since"]).timestamp() - time.time()) < 100
    assert read(node.handlers.confirm(Request("POST", "/v1/sync/confirm"))) == (200, {"confirmed": [1]})
    assert 0 < node.board.confirmed_at <= time.monotonic()


def test_ready_when_every_slot_has_a_worker_that_accepts(node: Node) -> None:
    node.board.set_slots(2)
    node.worker(0, 7)
    request = Request("GET", "/status/ready")
    assert read(node.handlers.ready(request)) == (
        503,
        {"status": "error", "error": "worker count: 2 but status report count: 1"},
    )
    starting = node.worker(1, 0, state=WorkerState.STARTING)
    error = "worker id: 1 has not received configuration"
    assert read(node.handlers.ready(request)) == (503, {"status": "error", "error": error})
    starting.state = WorkerState.READY
    assert read(node.handlers.ready(request)) == (200, {"status": "ok"})


@pytest.mark.parametrize(("is_stale", "held"), [(True, None), (False, Held(9, 10, 1.0)), (True, Held(9, 10, 1.0))])
def test_what_may_be_of_another_life_of_the_store_is_waited_for(node: Node, is_stale: bool, held: Held | None) -> None:
    node.worker(0, 900)
    entry = node.worker(1, 0)
    store = ConfigStore()
    store.apply((), 900)
    publisher = Publisher(entry, store, lambda: ProviderState("waiting", "", 900, ""))
    store.stale, store.held = is_stale, held
    publisher.publish()
    assert node.sync()["workers"][1]["revision"] == 900
    waiting = node.wait(7, 0.5)
    assert waiting.poll(100.4) is None
    [missing] = read(waiting.poll(100.5))[1]["missing"]
    assert (missing["slot"], missing["revision"]) == (1, 900)
    assert (missing.get("stale", False), missing.get("held", False)) == (is_stale, held is not None)
    store.stale, store.held = False, None
    publisher.publish()
    assert read(node.wait(7).poll(100.0))[0] == 200
