"""Checks that several kinds share."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.errors import InvalidResource
from config_sync.schema.fields import check_addresses, check_pem, checked_hosts, shown

NETWORKS = ["10.0.0.1", "10.0.0.0/8", "::", "fe80::1/64", "::ffff:1.2.3.4", "0.0.0.0/0", "2001:db8::/128"]


@pytest.mark.parametrize("address", NETWORKS)
def test_addresses_and_networks(address: str) -> None:
    check_addresses([address], "$")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "",
            "/8",
            "10.0.0.1/",
            "10.0.0.1/33",
            "::1/129",
            "10.0.0.1/255.0.0.0",
            "10.0.0.1/-1",
            "10.0.0.1/8/8",
            "10.0.0",
        ),
        *("010.0.0.1", "::1%lo", "[::1]", "a.com", "10.0.0.1\0", "10.0.0.1/\u00b2", "\ud800", "1" * 10_000),
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidResource):
        check_addresses([address], "$.remote_addrs")


@given(st.sampled_from(NETWORKS), st.data())
def test_what_is_accepted_can_be_compiled(network: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(network)))
    address = network[:at] + data.draw(st.text("0123456789abcdef:./%", max_size=2)) + network[at + 1 :]
    try:
        check_addresses([address], "$")
    except InvalidResource:
        return
    ip_network(address, strict=False)


@pytest.mark.parametrize("host", ["*", "*.a.com", "*a", "a_b-c.COM", "[::1]", "a:80"])
def test_host_patterns(host: str) -> None:
    assert checked_hosts((host,), "$") == (host.lower(),)


@pytest.mark.parametrize("host", ["", "a b", "a.*", "**", "a\n", "\u00e9.com", "a" * 321])
def test_what_is_no_host_pattern(host: str) -> None:
    with pytest.raises(InvalidResource):
        checked_hosts((host,), "$.hosts")


def test_references_are_not_measured() -> None:
    check_pem("$env://CERT", (128, 65536), "$")
    with pytest.raises(InvalidResource):
        check_pem("short", (128, 65536), "$")


def test_long_texts_are_not_shown_in_full() -> None:
    assert shown("a'b") == repr("a'b")
    assert len(shown("x" * 1000)) < 100
