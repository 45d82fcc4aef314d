"""The client's address, and what upstreams are told: routing.md section 9, upstreams.md section 6."""

from typing import Any

import pytest

from config_sync.settings import Settings
from worker.http.client_address import Forwarded, Trusts, forwarded_lines
from worker.http.framing import RequestFields


def block_of(*lines: str) -> bytes:
    return "\r\n".join(["", "Host: a.com", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["X-Real-IP: 192.0.2.1"], ("192.0.2.1", 0)),
        (["x-real-ip:192.0.2.1 "], ("192.0.2.1", 0)),
        (["X-Real-IP: 192.0.2.1:81"], ("192.0.2.1", 81)),
        (["X-Real-IP: 2001:DB8::1"], ("2001:db8::1", 0)),
        (["X-Real-IP: [2001:db8::1]:81"], ("2001:db8::1", 81)),
        (["X-Real-IP: 192.0.2.1, 192.0.2.2"], ("192.0.2.2", 0)),
        (["X-Real-IP: 192.0.2.1", "X-Real-IP: 192.0.2.2"], ("192.0.2.2", 0)),
        (["X-Real-IP: unknown"], ("127.0.0.1", 4000)),
        (["X-Real-IP: 192.0.2.1, unknown"], ("127.0.0.1", 4000)),
        (["X-Real-IP:"], ("127.0.0.1", 4000)),
        (["X-Forwarded-For: 192.0.2.1"], ("127.0.0.1", 4000)),
        ([], ("127.0.0.1", 4000)),
    ],
)
def test_real_ip_as_it_comes(lines: list[str], client: tuple[str, int]) -> None:
    real_ip = Trusts(Settings()).of("127.0.0.1").real_ip
    assert real_ip is not None
    assert real_ip.client(block_of(*lines), "127.0.0.1", 4000) == client


@pytest.mark.parametrize(
    ("chain", "is_recursive", "client"),
    [
        ("192.0.2.1, 10.0.0.1, 10.0.0.2", False, "10.0.0.2"),
        ("192.0.2.1, 10.0.0.1, 10.0.0.2", True, "192.0.2.1"),
        ("198.51.100.9, 192.0.2.1, 10.0.0.2", True, "192.0.2.1"),
        ("10.0.0.1,10.0.0.2", True, "10.0.0.1"),
        ("192.0.2.1, spoofed, 10.0.0.2", True, "10.0.0.2"),
    ],
)
def test_chains(chain: str, is_recursive: bool, client: str) -> None:
    settings = Settings(real_ip_header="X-Forwarded-For", real_ip_from=("10.0.0.0/8",), real_ip_recursive=is_recursive)
    real_ip = Trusts(settings).of("10.9.9.9").real_ip
    assert real_ip is not None
    assert real_ip.client(block_of(f"X-Forwarded-For: {chain}"), "10.9.9.9", 1)[0] == client


@pytest.mark.parametrize(
    ("settings", "peer"),
    [
        ({}, "192.0.2.1"),
        ({"real_ip_header": ""}, "127.0.0.1"),
        ({"real_ip_from": ("unix:",)}, "127.0.0.1"),
        ({"real_ip_from": ()}, "127.0.0.1"),
    ],
)
def test_who_is_not_believed(settings: dict[str, Any], peer: str) -> None:
    assert Trusts(Settings(**settings)).of(peer).real_ip is None


@pytest.mark.parametrize(
    ("trusted", "peer", "expected"),
    [
        ((), "10.0.0.1", Forwarded.REPLACED),
        (("10.0.0.0/8",), "10.0.0.1", Forwarded.KEPT),
        (("10.0.0.0/8", "::1"), "::1", Forwarded.KEPT),
        (("10.0.0.0/8",), "192.0.2.1", Forwarded.DROPPED),
    ],
)
def test_trusted_addresses(trusted: tuple[str, ...], peer: str, expected: Forwarded) -> None:
    assert Trusts(Settings(trusted_addresses=trusted)).of(peer).forwarded is expected


SENT = (
    *("X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: b.com"),
    *("X-Forwarded-Port: 443", "Forwarded: for=198.51.100.1", "forwarded: for=10.0.0.1"),
)


def told(policy: Forwarded, *lines: str) -> list[str]:
    block = block_of(*lines)
    wire = forwarded_lines(RequestFields(block), block, policy, b"192.0.2.7", b"http", b"a.com:81", b"81")
    assert wire.endswith(b"\r\n")
    return wire.decode().split("\r\n")[:-1]


def test_what_upstreams_are_told() -> None:
    ours = ["X-Forwarded-Proto: http", "X-Forwarded-Host: a.com:81", "X-Forwarded-Port: 81"]
    alone = ["X-Real-IP: 192.0.2.7", "X-Forwarded-For: 192.0.2.7"]
    continued = ["X-Real-IP: 192.0.2.7", "X-Forwarded-For: 198.51.100.1, 192.0.2.7"]
    assert told(Forwarded.REPLACED, *SENT) == [*continued, *ours]
    assert told(Forwarded.DROPPED, *SENT) == [*alone, *ours]
    assert told(Forwarded.KEPT, *SENT) == [
        *continued,
        *("X-Forwarded-Proto: https", "X-Forwarded-Host: b.com", "X-Forwarded-Port: 443"),
        "Forwarded: for=198.51.100.1, for=10.0.0.1",
    ]
    assert told(Forwarded.KEPT) == [*alone, *ours]
