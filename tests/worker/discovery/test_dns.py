"""Nodes of SRV records, and names of services."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.schema import Node
from worker.discovery.dns import parse_service, service_nodes
from worker.upstream.dns import ServiceRecord


def test_names_of_services() -> None:
    assert parse_service("a.test") == ("a.test", None)
    assert parse_service("a.test:80") == ("a.test", 80)
    for wrong in ("", ":80", "a.test:", "a.test:0", "a.test:65536", "a.test:x"):
        with pytest.raises(ValueError, match="is no domain"):
            parse_service(wrong)


def test_nodes_of_service_records() -> None:
    records = [
        ServiceRecord(1, 60, 1980, "a.test"),
        ServiceRecord(2, 0, 0, "b.test"),
        ServiceRecord(1, 1, 1, "gone.test"),
    ]
    addresses = {"a.test": ["10.0.0.1"], "b.test": ["::1"]}
    assert service_nodes(records, addresses, None) == (Node("10.0.0.1", 60, 1980, -1), Node("[::1]", 1, None, -2))
    assert {node.port for node in service_nodes(records, addresses, 443)} == {443}


def test_addresses_of_a_target_share_its_weight() -> None:
    records = [ServiceRecord(1, 3, 80, "a.test"), ServiceRecord(1, 1, 80, "b.test")]
    addresses = {"a.test": ["10.0.0.1", "10.0.0.2"], "b.test": ["10.0.0.3"]}
    assert [node.weight for node in service_nodes(records, addresses, None)] == [3, 3, 2]


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 6)), min_size=1, max_size=8))
def test_shares_are_exact(parts: list[tuple[int, int]]) -> None:
    records = [ServiceRecord(1, weight, 80, f"{at}.test") for at, (weight, _) in enumerate(parts)]
    addresses = {f"{at}.test": [f"10.0.{at}.{n}" for n in range(count)] for at, (_, count) in enumerate(parts)}
    nodes = service_nodes(records, addresses, None)
    total = sum(max(1, weight) for weight, count in parts if count)
    for at, (weight, count) in enumerate(parts):
        share = sum(node.weight for node in nodes if node.host.startswith(f"10.0.{at}."))
        assert len([node for node in nodes if node.host.startswith(f"10.0.{at}.")]) == count
        if count:
            assert Fraction(share, sum(node.weight for node in nodes)) == Fraction(max(1, weight), total)
