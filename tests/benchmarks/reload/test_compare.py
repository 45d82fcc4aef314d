"""The table of the comparison."""

from benchmarks.reload.compare import table
from benchmarks.reload.tally import Client, Fault, Seen, Summary


def test_failures_are_told_of_ten_thousand_requests() -> None:
    clients = {
        Client.NEW: Seen(100, 995, {Fault.RESET: 4, Fault.REFUSED: 1}, None),
        Client.KEPT: Seen(10, 12_345, {}, None),
    }
    lines = table({"side": Summary(1.0, clients, [], [], 0)}).splitlines()
    assert lines[2] == "| side | 50.0 (4 reset, 1 refused of 1,000) | 0 of 12,345 | – | – | – |"
