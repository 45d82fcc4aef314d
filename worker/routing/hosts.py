"""Host patterns as a condition on a candidate: in the modes where the path is the first key (routing.md section 5)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.messages import Request


def names_port(host: str) -> bool:
    """Tell whether a host pattern is to be compared with the Host as sent, port included."""
    return ":" in host.rpartition("]")[2]


class HostCondition:
    """The hosts of a route; any may match."""

    __slots__ = ("looks_at_port", "names", "raw_names", "raw_suffixes", "suffixes")

    def __init__(self, hosts: tuple[str, ...]) -> None:
        """Compile lower-case patterns: a name, or a suffix behind a star."""
        plain = [host.encode() for host in hosts if not names_port(host)]
        raw = [host.encode() for host in hosts if names_port(host)]
        self.names = frozenset(host for host in plain if not host.startswith(b"*"))
        self.suffixes = tuple({host[1:] for host in plain if host.startswith(b"*")})
        self.raw_names = frozenset(host for host in raw if not host.startswith(b"*"))
        self.raw_suffixes = tuple({host[1:] for host in raw if host.startswith(b"*")})
        self.looks_at_port = bool(raw)

    def holds(self, request: "Request") -> bool:
        """Tell whether the host of a request is covered; names with a port look at the Host as sent."""
        name = request.host_name
        if name in self.names or (self.suffixes and name.endswith(self.suffixes)):
            return True
        if not self.looks_at_port:
            return False
        raw = request.host.lower()
        return raw in self.raw_names or raw.endswith(self.raw_suffixes)
