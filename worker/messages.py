"""Request and Response: plain data, shared by all HTTP versions and by the plugins to come."""

import re
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.edited_request import RepeatedRequest
    from worker.plugins.chain import Chain
    from worker.routing.pattern import Pattern
    from worker.routing.route import Route
    from worker.variables.values import Value


@lru_cache(maxsize=2048)
def _values(name: bytes) -> Callable[[bytes], list[bytes]]:
    """Return what finds the values of a field in a block of lines."""
    return re.compile(rb"(?i)\n" + re.escape(name) + rb":[ \t]*([^\r]*?)[ \t]*(?=\r)").findall


class Framing(IntEnum):
    """How a body ends."""

    NONE = 0  # there is no body
    LENGTH = 1  # after a known number of bytes
    CHUNKED = 2  # with its last chunk
    CLOSE = 3  # with the connection


# Python 3.11 takes 0.1 us to find a member in its Enum.
NO_BODY, OF_LENGTH, CHUNKED, UNTIL_CLOSE = Framing


class Request:
    """A request head as received; names and values stay bytes, and fields are looked up only when asked for."""

    __slots__ = (
        "arguments",
        "block",
        "chain",
        "content_length",
        "cookies",
        "framing",
        "head_only",
        "host",
        "host_name",
        "is_repeatable",
        "matched_at",
        "method",
        "path",
        "path_matched",
        "pattern",
        "repeated",
        "route",
        "size",
        "target",
        "upgrade",
        "upstream_fields",
        "version_11",
        "wire",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        path: bytes,
        host: bytes,
        host_name: bytes,
        block: bytes,
        version_11: bool,
        framing: Framing,
        content_length: int,
        upstream_fields: bytes,
    ) -> None:
        self.method = method
        self.target = target  # origin-form, as it goes upstream
        self.path = path  # normalised: the variable ``uri``
        self.path_matched = path  # as it is matched; another one only with ``match_uri_encoded_slash``
        self.host = host  # with its port
        self.host_name = host_name  # lower case, without
        self.block = block  # CRLF, field lines, empty line
        self.version_11 = version_11
        self.framing = framing
        self.content_length = content_length
        self.upstream_fields = upstream_fields  # whole lines for the upstream, up to the empty line
        self.arguments: dict[str, Value] | None = None  # of the query, once a variable has asked for one …
        self.cookies: dict[str, str] | None = None  # … and likewise
        self.route: Route | None = None  # what the router said of it …
        self.chain: Chain | None = None  # the plugins that apply to it
        self.pattern: Pattern | None = None  # the one of the route's that matched
        self.matched_at = -1  # in which version of the router; -1: it must be asked again for the same head
        self.is_repeatable = True  # nothing but the head has been looked at; of interest to the router while it matches
        # See ``edited_request.repeat``: the change, when this was matched, and, once it repeats, what becomes of it.
        self.repeated: tuple[object, int, RepeatedRequest | None] | None = None
        self.head_only = method == b"HEAD"  # no body is answered
        self.size = 0  # of the head, once somebody has measured it
        self.upgrade = b""  # the protocols that the client offers to switch to
        self.wire = self.head_for(host)  # what an upstream gets that is sent the client's Host

    def head_for(self, host: bytes) -> bytes:
        """Compose the head that goes upstream with a Host of its own."""
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (self.method, self.target, host, self.upstream_fields)

    def measured(self) -> int:
        """Return the size of the head as it was received, in bytes; found out once."""
        self.size = len(self.method) + len(self.target) + len("  HTTP/1.1") + len(self.block)
        return self.size

    def with_upgrade(self, head: bytes) -> bytes:
        """Add to a head that goes upstream the offer to switch protocols, which is otherwise left out."""
        return b"%bConnection: upgrade\r\nUpgrade: %b\r\n\r\n" % (head[:-2], self.upgrade)

    def header(self, name: bytes) -> bytes | None:
        """Return a field's value, several joined by a comma, or None (RFC 9110 section 5.3)."""
        values = _values(name)(self.block)
        return b", ".join(values) if values else None

    def __repr__(self) -> str:
        """Show method, host and path."""
        return f"<Request {self.method!r} {self.host!r} {self.path!r}>"


class Response:
    """The head of an upstream's answer, ready to be passed on."""

    __slots__ = ("content_length", "framing", "head", "keep_alive", "lacks_names_of", "parts", "size", "status")

    def __init__(self, status: int, framing: Framing, content_length: int, head: bytes, keep_alive: bool) -> None:
        self.status = status
        self.framing = framing
        self.content_length = content_length  # with Framing.LENGTH
        self.head = head  # status line and end-to-end fields; no framing, no Connection, no empty line
        self.keep_alive = keep_alive  # whether the upstream connection may carry another request
        self.size = 0  # of the head as clients get it, once somebody has measured it
        self.lacks_names_of: Chain | None = None  # whose plugins add fields, none of which it has
        self.parts: tuple[bytes, bytes] | None = None  # reason and field lines, once somebody has asked for them

    def __repr__(self) -> str:
        """Show status and framing."""
        return f"<Response {self.status} {self.framing.name}>"
