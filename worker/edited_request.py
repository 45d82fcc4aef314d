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


class EditedRequest(Request):
    """A request of one exchange; ``original`` is what the client sent."""

    __slots__ = ("original", "upstream_host", "upstream_method", "upstream_target")

    def __init__(self, original: Request) -> None:
        """Begin equal to another."""
        # One by one, for a loop over their names takes three times as long.
        self.arguments = original.arguments
        self.block = original.block
        self.chain = original.chain
        self.content_length = original.content_length
        self.cookies = original.cookies
        self.framing = original.framing
        self.head_only = original.head_only
        self.host = original.host
        self.host_name = original.host_name
        self.is_repeatable = original.is_repeatable
        self.method = original.method
        self.path = original.path
        self.path_matched = original.path_matched
        self.pattern = original.pattern
        self.route = original.route
        self.size = original.size or original.measured()
        self.target = original.target
        self.upgrade = original.upgrade
        self.upstream_fields = original.upstream_fields
        self.version_11 = original.version_11
        self.original: Request = original.original if isinstance(original, EditedRequest) else original
        self.matched_at = -1
        self.repeated = None
        self.upstream_method = sent_method(original)
        self.upstream_target = sent_target(original)
        self.upstream_host = sent_host(original)

    @property
    def wire(self) -> bytes:  # type: ignore[override]  # composed when it is sent
        """What an upstream gets that is sent the client's Host."""
        return self.head_for(self.upstream_host)

    def head_for(self, host: bytes) -> bytes:
        """Compose the head that goes upstream with a Host of its own, which wins over one that was set.

        Raises:
            PluginFailed: method or target would not stay one, or be another one, on the wire.
        """
        method, target = self.upstream_method, self.upstream_target
        if not method or target[:1] not in (b"/", b"*") or _UNSENDABLE.search(method + target) is not None:
            raise PluginFailed(f"plugins have made a request line that cannot be sent: {method!r} {target[:100]!r}")
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%b" % (
            method,
            target,
            host,
            self.upstream_fields,
        )

    def set_method(self, method: bytes) -> None:
        """Send another method upstream; the client's stays what it was matched by."""
        self.upstream_method = method
        self.head_only = b"HEAD" in (method, self.method)

    def set_field(self, name: bytes, value: bytes | list[bytes]) -> None:
        """Let a field have this value, or these; ``Host`` is for upstreams that are sent the client's.

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

    def replace_lines(self, old: "re.Pattern[bytes] | None", new: bytes) -> None:
        """Take away all field lines that a pattern matches, and add these lines.

        A match is a line with its CRLF, or, which is found faster, all from the LF before it to its CR.
        """
        fields, block = self.upstream_fields, self.block
        if old is not None:
            fields, block = old.sub(b"", b"\n" + fields)[1:], old.sub(b"", block)
        self.upstream_fields = b"%b%b\r\n" % (fields[:-2], new)
        self.block = b"%b%b\r\n" % (block[:-2], new)

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


class RepeatedRequest(EditedRequest):
    """A request that is changed in the same way whenever its head comes; it is shared, and not changed any more."""

    __slots__ = ("_wire",)

    def __init__(self, edited: EditedRequest) -> None:
        """Keep what another has become."""
        super().__init__(edited)
        self.matched_at = self.original.matched_at  # so that what is changed next may repeat as well
        self._wire = b""

    @property
    def wire(self) -> bytes:  # type: ignore[override]
        """What an upstream gets that is sent the client's Host."""
        if not self._wire:
            self._wire = self.head_for(self.upstream_host)
        return self._wire


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


def sent_method(request: Request) -> bytes:
    """Return the method that goes upstream."""
    return request.upstream_method if isinstance(request, EditedRequest) else request.method


def sent_target(request: Request) -> bytes:
    """Return the target that goes upstream."""
    return request.upstream_target if isinstance(request, EditedRequest) else request.target


def sent_host(request: Request) -> bytes:
    """Return the Host that goes to an upstream that is sent the client's; empty when there is none."""
    return request.upstream_host if isinstance(request, EditedRequest) else request.host


def repeat(exchange: "Exchange", change: object) -> bool:
    """Let a request become what the same change has made of the same head before; tell whether it has.

    A change is told from others by what it is equal to, and depends on nothing but that and the head.
    """
    request = exchange.request
    repeated = request.repeated if request is not None else None
    if repeated is None or repeated[2] is None:
        return False
    if repeated[1] != request.matched_at or repeated[0] != change:  # type: ignore[union-attr]  # there is one
        return False
    exchange.request = repeated[2]
    return True


def note_change(before: Request, change: object, after: EditedRequest) -> None:
    """Note what a change has made of a request; when it does so for the second time, it is kept for ``repeat``."""
    if before.matched_at < 0:
        return
    # They know each other, and the collector comes by rarely: not for a head that comes once.
    noted = before.repeated
    is_again = noted is not None and noted[1] == before.matched_at and noted[0] == change
    before.repeated = change, before.matched_at, RepeatedRequest(after) if is_again else None


def edit(exchange: "Exchange") -> EditedRequest:
    """Return the request of an exchange in a form that may be changed."""
    request = exchange.request
    if isinstance(request, EditedRequest) and not isinstance(request, RepeatedRequest):
        return request
    assert request is not None  # noqa: S101 - only requests that were read come to plugins
    edited = exchange.request = EditedRequest(request)
    return edited
