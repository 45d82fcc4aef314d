"""What is a complaint, and what is not."""

import os
import socket

import pytest

from benchmarks.reload import judge
from benchmarks.reload.rig import Reload
from benchmarks.reload.scenarios.crash import Kill, accepted, unexplained
from benchmarks.reload.scenarios.leak import grown
from benchmarks.reload.tally import Client, Closing, Failure, Fault

RELOADS = [Reload(float(second), second + 0.5) for second in range(10, 20)]


def failure(port: int = 1, opened: float = 0.0, at: float = 1.0) -> Failure:
    return Failure("all", Client.KEPT, Fault.EOF, "head", "", opened, at, port)


def test_failures_of_a_kind_are_one_complaint() -> None:
    complaints = judge.failures([failure(1), failure(2)])
    assert len(complaints) == 1
    assert complaints[0].startswith("2 keep-alive: EOF before a response (head)")


def test_a_request_on_a_connection_that_was_silent_for_a_second_may_be_lost() -> None:
    late = Failure("all", Client.KEPT, Fault.EOF, "head", "", 0.0, 5.0, 1, quiet=1.1)
    assert judge.failures([late]) == []
    soon = Failure("all", Client.KEPT, Fault.EOF, "head", "", 0.0, 5.0, 1, quiet=0.9)
    truncated = Failure("all", Client.KEPT, Fault.TRUNCATED, "body", "", 0.0, 5.0, 1, quiet=1.1)
    assert len(judge.failures([soon, truncated])) == 2


@pytest.mark.parametrize(
    ("opened", "at", "code", "count"),
    [
        (9.0, 13.2, 1012, 0),  # the fourth reload is under way, and three old generations may live
        (9.0, 12.9, 1012, 1),  # the third
        (10.2, 13.2, 1012, 0),  # opened while a reload was under way: perhaps on its old generation
        (18.9, 30.0, 1001, 0),  # ten seconds after the last reload
        (18.9, 26.0, 1001, 1),
        (30.0, 60.0, 1001, 1),  # no reload at all
        (9.0, 13.2, 1006, 1),
        (9.0, 13.2, None, 1),
    ],
)
def test_websockets_are_closed_at_their_deadline(opened: float, at: float, code: int | None, count: int) -> None:
    closing = Closing(opened, at, code, 1)
    assert len(judge.closings([closing], RELOADS, max_generations=3, timeout=10.0)) == count


@pytest.mark.parametrize(
    ("port", "opened", "at", "explained"),
    [(5, 1.0, 3.1, True), (6, 1.0, 3.1, False), (5, 3.05, 3.1, False), (5, 1.0, 2.9, False), (5, 1.0, 9.0, False)],
)
def test_a_kill_explains_the_end_of_what_the_worker_had_accepted(
    port: int, opened: float, at: float, explained: bool
) -> None:
    found = unexplained([failure(port, opened, at)], [Kill(3.0, 0.001, frozenset({5}))])
    assert (found == []) is explained


def test_connections_that_a_process_has_accepted_are_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        address = server.getsockname()
        with socket.create_connection(address) as taken, socket.create_connection(address):
            accepted_here, _ = server.accept()
            with accepted_here, socket.create_connection(other.getsockname()):
                there, _ = other.accept()
                with there:
                    assert accepted(os.getpid(), address[1]) == {taken.getsockname()[1]}


def test_growth_beyond_five_per_cent_is_a_leak() -> None:
    first = {"reloads": 0, "master": 1000, "worker": 1000}
    assert grown([first, {"reloads": 9, "master": 1050, "worker": 900}]) == []
    assert grown([first, {"reloads": 9, "master": 1051, "worker": 900}]) == [
        "RSS of the master after 9 reloads: 1051 bytes, 1000 at the start"
    ]
