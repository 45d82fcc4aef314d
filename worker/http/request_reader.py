"""The heads of one client's requests: what is said in them, and what is remembered of them.

The end of a head is looked for before, so that llhttp is given one head and nothing behind it; it validates, and none
of its callbacks are used. What the fields mean (``framing``) is computed once for a block of field lines and kept for
the next request with the same bytes, and so is a whole head: clients that stay repeat themselves
(docs/decisions/0002-heads-that-repeat.md).

A reader knows both ends of the connection, but not the connection, which could not be freed at once otherwise.
"""

from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from worker.errors import BadRequest, HeadersTooLarge, MethodNotAllowed, VersionNotSupported
from worker.http.client_address import Forwarded, forwarded_lines
from worker.http.framing import RequestFields, host_name
from worker.http.http1_client import NO_CALLBACKS
from worker.http.target import normalised_path, split_absolute
from worker.messages import CHUNKED, NO_BODY, OF_LENGTH, Request

if TYPE_CHECKING:
    from worker.context import WorkerContext


class RequestReader:
    """Reads the request heads of one connection."""

    __slots__ = (
        "_block",
        "_client",
        "_fields",
        "_forwarded",
        "_forwarded_host",
        "_last_head",
        "_limit",
        "_parser",
        "_rules",
        "_scheme",
        "_trust",
        "_upstream_fields",
        "asks_keep_alive",
        "head",
        "local_address",
        "local_port",
        "peer_address",
        "peer_port",
        "remote_address",
        "remote_port",
        "request",
    )

    def __init__(self, context: "WorkerContext", scheme: str, peer: tuple[str, int], local: tuple[str, int]) -> None:
        """Expect the first request of a peer; both ends are an address and a port."""
        self._limit = context.settings.large_client_header_buffers
        self._rules = context.path_rules
        self._scheme = scheme.encode()
        self.peer_address, self.peer_port = peer  # at the other end of the connection …
        self.remote_address, self.remote_port = peer  # … and the client's, which a peer that is believed may name
        self.local_address, self.local_port = local
        self._trust = context.trusts.of(self.peer_address)
        self._client = self.remote_address.encode()
        self._parser = HttpRequestParser(NO_CALLBACKS)
        self._last_head = b""
        self.head = b""  # the last one, too, unless a body follows it: to compare all that was received with
        self.request: Request  # what was read in the last head
        self.asks_keep_alive = False
        self._block: bytes | None = None  # the field lines of the last head …
        self._fields: RequestFields
        self._upstream_fields = b""  # … and what is sent on of them
        self._forwarded_host: bytes | None = None  # the last Host that was told an upstream …
        self._forwarded = b""  # … and how, if it depends on nothing else

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits to be asked for the body of the last request."""
        return self._fields.expects_continue and self.request.version_11

    @property
    def keeps_forwarded_for(self) -> bool:
        """Whether the client's own X-Forwarded-For counts."""
        return self._trust.forwarded is not Forwarded.DROPPED

    def read(self, head: bytes) -> Request:
        """Read a head, from the request line to the empty line; ``request`` is what it said, and stays.

        Raises:
            DownstreamError: it must be refused. Nothing more can be read then.
        """
        if head == self._last_head:
            return self.request
        self.head = self._last_head = b""
        if len(head) > self._limit:
            raise HeadersTooLarge(f"request head of {len(head)} bytes")
        try:
            self._parser.feed_data(head)
        except HttpParserUpgrade:
            self._parser = HttpRequestParser(NO_CALLBACKS)
        except HttpParserError as error:
            raise BadRequest(f"{error}") from error
        line_end = head.find(b"\r\n")
        parts = head[:line_end].split(b" ")
        if len(parts) != 3:
            raise BadRequest("invalid request line")
        method, target, version = parts
        block = head[line_end:]
        if block != self._block:
            self._block_received(block)
        fields = self._fields
        version_11 = version == b"HTTP/1.1"
        if not version_11 or not fields.has_host:
            _check_version(version, fields)
        self.asks_keep_alive = not fields.close and (version_11 or fields.keep_alive)
        host, name = fields.host, fields.host_name
        if target[:1] != b"/" or method == b"CONNECT":
            host, name, target = self._other_form(method, target, host, name)
        path = matched = normalised_path(target)
        if self._rules is not None:
            target, path, matched = self._rules.apply(target, path)
        length = fields.content_length or 0
        framing = CHUNKED if fields.chunked else OF_LENGTH if length else NO_BODY
        upstream_fields = self._upstream_fields
        request = Request(method, target, path, host, name, block, version_11, framing, length, upstream_fields)
        if matched is not path:
            request.path_matched = matched
        if fields.upgrade and version_11:
            request.upgrade = fields.upgrade
        self.request = request
        self._last_head = head
        if framing is NO_BODY:
            self.head = head
        else:
            self._parser = HttpRequestParser(NO_CALLBACKS)  # the other stands at the body, which it is not to see
        return request

    def _block_received(self, block: bytes) -> None:
        """Read field lines that are not those of the request before."""
        self._block = None
        self._fields = fields = RequestFields(block)
        real_ip = self._trust.real_ip
        if real_ip is not None:
            address, self.remote_port = real_ip.client(block, self.peer_address, self.peer_port)
            if address != self.remote_address:
                self.remote_address, self._client = address, address.encode()
                self._forwarded_host = None
        self._upstream_fields = self._fields_for_upstream(fields, block, fields.host)
        self._block = block

    def _fields_for_upstream(self, fields: RequestFields, block: bytes, host: bytes) -> bytes:
        """Compose the field lines that go upstream (upstreams.md section 6), up to the empty line."""
        if host == self._forwarded_host and not fields.forwarded_for:
            forwarded = self._forwarded
        else:
            forwarded = self._forwarded_lines(fields, block, host)
        if fields.chunked:
            trailer = b"Trailer: %b\r\n" % fields.trailer if fields.trailer else b""
            return b"%b%bTransfer-Encoding: chunked\r\n%b\r\n" % (fields.passed_on, forwarded, trailer)
        if fields.content_length is not None:
            return b"%b%bContent-Length: %d\r\n\r\n" % (fields.passed_on, forwarded, fields.content_length)
        return b"%b%b\r\n" % (fields.passed_on, forwarded)

    def _forwarded_lines(self, fields: RequestFields, block: bytes, host: bytes) -> bytes:
        """Compose the lines that tell who the client is, and remember them when only Host shapes them."""
        policy = self._trust.forwarded
        local = f"[{self.local_address}]" if ":" in self.local_address else self.local_address
        asked, port = host or local.encode(), port_of(host) or b"%d" % self.local_port
        lines = forwarded_lines(fields, block, policy, self._client, self._scheme, asked, port)
        if policy is not Forwarded.KEPT and not fields.forwarded_for:
            self._forwarded_host, self._forwarded = host, lines
        return lines

    def _other_form(self, method: bytes, target: bytes, host: bytes, name: bytes) -> tuple[bytes, bytes, bytes]:
        """Read a target that is not in origin-form; the authority in it replaces Host (RFC 9112 section 3.2.2)."""
        if method == b"CONNECT":
            raise MethodNotAllowed("CONNECT")
        if target == b"*":
            if method != b"OPTIONS":
                raise BadRequest("target * with a method other than OPTIONS")
            return host, name, target
        authority, target = split_absolute(target)
        name = host_name(authority)
        self._upstream_fields = self._fields_for_upstream(self._fields, self._block or b"", authority)
        self._block = None  # what is sent on holds for this target only
        return authority, name, target

    def __repr__(self) -> str:
        """Show the client and the last head."""
        return f"<RequestReader {self.remote_address} {self._last_head[:80]!r}>"


def port_of(host: bytes) -> bytes:
    """Return the port in a Host value, empty when there is none."""
    return host.rpartition(b"]")[2].partition(b":")[2]


def _check_version(version: bytes, fields: RequestFields) -> None:
    if version == b"HTTP/1.1":
        raise BadRequest("no Host field")
    if version != b"HTTP/1.0":
        raise (VersionNotSupported(f"{version!r}") if version.startswith(b"HTTP/") else BadRequest("invalid version"))
    if fields.chunked:
        raise BadRequest("Transfer-Encoding in an HTTP/1.0 request")
