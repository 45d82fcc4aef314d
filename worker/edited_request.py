"""EditedRequest: a request as plugins have changed it.

A ``Request`` is shared by all requests of a connection with the same head, so it is never changed: the first change
makes a copy for one exchange. What is sent to the upstream changes (method, target, Host, body); fields change both for
the upstream and for whoever asks for them later; how the request was matched and what it said at first does not.
"""

import re
from typing import TYPE_CHECKING

from worker.errors import PluginFailed
from worker.fields import FRAMING, FieldLines, field_line
from worker.messages import NO_BODY, OF_LENGTH, Request

if TYPE_CHECKING:
    from worker.exchange import Exchange

_UNSENDABLE = re.compile(rb"[\x00-\x20\x7f]")
_COPIED = tuple(slot for slot in Request.__slots__ if slot != "wire")


class EditedRequest(Request):
    """A request of one exchange; ``original`` is what the client sent."""

    __slots__ = ("original", "upstream_host", "upstream_method", "upstream_target")

    def __init__(self, original: Request) -> None:
        """Begin equal to another."""
        for slot in _COPIED:
            setattr(self, slot, getattr(original, slot))
        self.original = original
        self.matched_at = -1
        self.upstream_method = original.method
        self.upstream_target = original.target
        self.upstream_host: bytes | None = None

    @property
    def wire(self) -> bytes:  # type: ignore[override]  # composed when it is sent
        """What an upstream gets that is sent the client's Host."""
        return self.head_for(self.host)

    def head_for(self, host: bytes) -> bytes:
        """Compose the head that goes upstream; a Host that was set wins.

        Raises:
            PluginFailed: method or target would not stay one, or be another one, on the wire.
        """
        method, target = self.upstream_method, self.upstream_target
        if not method or target[:1] not in (b"/", b"*") or _UNSENDABLE.search(method + target) is not None:
            raise PluginFailed(f"plugins have made a request line that cannot be sent: {method!r} {target[:100]!r}")
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (
            method,
            target,
            host if self.upstream_host is None else self.upstream_host,
            self.upstream_fields,
        )

    def set_field(self, name: bytes, value: bytes | list[bytes]) -> None:
        """Let a field have this value, or these; ``Host`` is the one that goes upstream.

        Raises:
            ValueError: the value cannot be sent, or the field frames the message, which only a body changes.
        """
        values = [value] if isinstance(value, bytes) else value
        if name.lower() == b"host":
            for host in values[:1]:
                field_line(name, host)
                self.upstream_host = host
            return
        self._check(name)
        for fields in self._parts():
            fields.set(name, values)

    def add_field(self, name: bytes, value: bytes) -> None:
        """Let there be one more field of a name; ValueError as ``set_field``."""
        self._check(name)
        for fields in self._parts():
            fields.add(name, value)

    def remove_field(self, name: bytes) -> None:
        """Take all fields of a name away; ValueError as ``set_field``."""
        self._check(name)
        for fields in self._parts():
            fields.remove(name)

    def set_upstream_field(self, name: bytes, value: bytes) -> None:
        """Let a field have this value upstream, and for whoever asks the one it has; ValueError as ``set_field``."""
        self._check(name)
        _Part(self, "upstream_fields", 0).set(name, value)

    def replace_lines(self, old: "re.Pattern[bytes]", new: bytes) -> None:
        """Take away all field lines that a pattern matches, each with its CRLF, and add these lines."""
        for fields in self._parts():
            fields.lines = old.sub(b"", fields.lines) + new

    def set_body(self, exchange: "Exchange", body: bytes) -> None:
        """Send this body instead of the client's.

        Raises:
            ValueError: the client's has not been received whole: what is left of it would be taken for a request.
        """
        if exchange.body is not None:
            if not exchange.body.complete:
                raise ValueError("the client's body has not been received; see worker.plugins.request_body")
            exchange.body.close()
            exchange.body = None
        exchange.buffered_body = body
        fields = FieldLines(self.upstream_fields[:-2])
        fields.remove(b"Transfer-Encoding")
        fields.remove(b"Trailer")
        fields.set(b"Content-Length", b"%d" % len(body))
        self.upstream_fields = fields.lines + b"\r\n"
        self.content_length = len(body)
        self.framing = OF_LENGTH if body else NO_BODY

    def _check(self, name: bytes) -> None:
        if name.lower() in FRAMING:
            raise ValueError(f"field {name!r} frames the message and cannot be set")

    def _parts(self) -> "tuple[FieldLines, FieldLines]":
        """Return the fields for the upstream and those that are asked for; changes are written back."""
        return _Part(self, "upstream_fields", 0), _Part(self, "block", 2)


class _Part(FieldLines):
    """The field lines in an attribute of a request, from a place on to the empty line."""

    __slots__ = ("_attribute", "_request", "_start")

    def __init__(self, request: EditedRequest, attribute: str, start: int) -> None:
        self._request = request
        self._attribute = attribute
        self._start = start

    @property
    def lines(self) -> bytes:  # there, not here
        return bytes(getattr(self._request, self._attribute)[self._start : -2])

    @lines.setter
    def lines(self, lines: bytes) -> None:
        start = getattr(self._request, self._attribute)[: self._start]
        setattr(self._request, self._attribute, start + lines + b"\r\n")


def edit(exchange: "Exchange") -> EditedRequest:
    """Return the request of an exchange in a form that may be changed."""
    request = exchange.request
    if isinstance(request, EditedRequest):
        return request
    assert request is not None  # noqa: S101 - only requests that were read come to plugins
    edited = exchange.request = EditedRequest(request)
    return edited
