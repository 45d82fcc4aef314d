"""Addresses in settings, and what follows from settings."""

from typing import Any

import pytest

from config_sync.errors import SettingsError
from config_sync.settings import Address, parse_address, parse_server
from config_sync.settings_file import read_settings


def test_servers_of_names() -> None:
    assert [parse_server(text) for text in ("10.0.0.1", "10.0.0.1:5353", "::1", "[::1]", "[::1]:5353")] == [
        ("10.0.0.1", 53),
        ("10.0.0.1", 5353),
        ("::1", 53),
        ("::1", 53),
        ("::1", 5353),
    ]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("[::1]:80", Address("::1", 80)),
        ("8080", Address("0.0.0.0", 8080)),
        ("localhost:1", Address("127.0.0.1", 1)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "a:80", "127.0.0.1", "127.0.0.1:x", "::1:80", "127.0.0.1:70000"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_address(text)


def test_a_store_is_known_by_its_provider_members_and_prefix() -> None:
    def identity(**tree: Any) -> int:
        return read_settings(tree, {}).store_identity()

    one = identity(etcd={"host": ["http://a:1", "http://b:1"]})
    assert identity(etcd={"host": ["http://b:1", "http://a:1"], "user": "x", "timeout": 3}) == one
    others = [
        identity(etcd={"host": ["http://a:1"]}),
        identity(etcd={"host": ["http://a:1", "http://b:1"], "prefix": "/b"}),
        identity(config_provider="yaml"),
        identity(config_provider="yaml", yaml={"path": "other.yaml"}),
    ]
    assert len({one, *others}) == 5
    assert all(0 <= number < 1 << 63 for number in others)
