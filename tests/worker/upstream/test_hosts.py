"""The hosts file: how it is read, and that changes are seen."""

import asyncio
from pathlib import Path

import pytest

from worker.upstream import hosts
from worker.upstream.hosts import HostsFile, parse_hosts


def test_lines_of_a_hosts_file() -> None:
    text = """
    # a comment
    127.0.0.1   localhost Local.Test.   # loopback
    ::1         localhost
    127.0.0.1   localhost
    10.0.0.1
    nonsense    a.test
    """
    assert parse_hosts(text) == {"localhost": ("127.0.0.1", "::1"), "local.test": ("127.0.0.1",)}


def test_changes_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "CHECK_INTERVAL", 0.0)
    path = tmp_path / "hosts"

    async def scenario() -> None:
        file = HostsFile(asyncio.get_running_loop(), path)
        assert await file.addresses("a.test", ipv6=True) == ()
        path.write_text("10.0.0.1 a.test\nfe80::1 a.test\n")
        assert await file.addresses("A.test.", ipv6=True) == ("10.0.0.1", "fe80::1")
        assert await file.addresses("a.test", ipv6=False) == ("10.0.0.1",)
        path.write_text("10.0.0.22 a.test\n")
        assert await file.addresses("a.test", ipv6=True) == ("10.0.0.22",)
        path.unlink()
        assert await file.addresses("a.test", ipv6=True) == ()

    asyncio.run(scenario())
