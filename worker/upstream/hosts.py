"""The hosts file: names that need no server (hosts(5)), read aside whenever the file has changed."""

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

HOSTS_PATH = Path("/etc/hosts")
CHECK_INTERVAL = 5.0  # seconds between two looks at the file

Stamp = tuple[int, int, int]


def parse_hosts(text: str) -> dict[str, tuple[str, ...]]:
    """Return the addresses of every name, lower case; lines that are none are passed over."""
    found: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = str(ip_address(words[0]))
        except ValueError:
            continue
        for name in words[1:]:
            found.setdefault(name.lower().removesuffix("."), {})[address] = None
    return {name: tuple(addresses) for name, addresses in found.items()}


class HostsFile:
    """The names of a hosts file; the file is looked at in a thread, at most every ``CHECK_INTERVAL``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path = HOSTS_PATH) -> None:
        self._loop = loop
        self._path = path
        self._names: Mapping[str, tuple[str, ...]] = {}
        self._stamp: Stamp | None = None
        self._checked = -CHECK_INTERVAL

    async def addresses(self, name: str, ipv6: bool) -> tuple[str, ...]:
        """Return what the file says of a name, without IPv6 addresses when they are not wanted."""
        now = self._loop.time()
        if now - self._checked >= CHECK_INTERVAL:
            self._checked = now
            await self._loop.run_in_executor(None, self._refresh)
        addresses = self._names.get(name.lower().removesuffix("."), ())
        return addresses if ipv6 else tuple(address for address in addresses if ":" not in address)

    def _refresh(self) -> None:
        """Read the file if it is another than before; one that cannot be read has no names."""
        try:
            status = self._path.stat()
            stamp = status.st_mtime_ns, status.st_ino, status.st_size
            if stamp != self._stamp:
                self._names = parse_hosts(self._path.read_text(encoding="utf-8", errors="replace"))
                self._stamp = stamp
        except OSError:
            self._names, self._stamp = {}, None
