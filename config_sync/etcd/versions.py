"""Which versions of etcd are known to lose watch events (etcd-http-gateway.md section 9)."""

import re

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
SOUND = (3, 5, 18)


def known_losses(version: str) -> str | None:
    """Return a warning about a server's version, None when nothing is known against it."""
    found = _VERSION.match(version)
    if found is None:
        return f"etcd calls its version {version!r}; 3.5.18 or newer is recommended"
    if tuple(map(int, found.groups())) >= SOUND:
        return None
    return f"etcd {version} is known to lose watch events in rare cases; audits heal that, 3.5.18 or newer mends it"
