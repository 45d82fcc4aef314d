"""What the fields of a head mean for the message around them (RFC 9112 sections 3.2, 6, 7 and 9).

llhttp has already validated the head it was given: names are tokens, values hold no control characters, no
line is folded, Content-Length is one number, and no request has both it and Transfer-Encoding. What is left
is to read the few fields that concern a proxy and to cut them out of what is passed on. One regular
expression finds them in a lower-cased copy of the head, so that the other fields are never looked at and
keep their bytes and their order.
"""

import re

from worker.errors import BadRequest, ExpectationFailed, InvalidResponse, NotImplementedCoding

_REQUEST_SPECIAL = re.compile(
    rb"\n(host|connection|content-length|transfer-encoding|expect|te|trailer|keep-alive|proxy-connection|upgrade"
    rb"|http2-settings|forwarded|x-forwarded-(?:for|proto|host|port)|x-real-ip):"
)
_RESPONSE_SPECIAL = re.compile(
    rb"\n(connection|content-length|transfer-encoding|server|keep-alive|proxy-connection|upgrade):"
)
_HOST = re.compile(rb"(?:\[[0-9a-f:.]+\]|[a-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([\t\x20-\x7e\x80-\xff]*)")

# Fields that frame or route a message must not arrive in its trailers (RFC 9110 section 6.5.1).
_NOT_IN_TRAILERS = frozenset(
    (
        *(b"host", b"connection", b"content-length", b"transfer-encoding", b"te", b"trailer", b"upgrade"),
        *(
            b"keep-alive",
            b"proxy-connection",
            b"authorization",
            b"set-cookie",
            b"cookie",
            b"expect",
            b"forwarded",
        ),
        *(b"x-real-ip", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port"),
    )
)
MAX_CHUNK_LINE_BYTES = 256  # nginx and Apache accept more; nobody sends more
MAX_TRAILER_BYTES = 16_384


def host_name(host: bytes) -> bytes:
    """Return a Host value lower-cased and without its port, as routes are keyed.

    Raises:
        BadRequest: it is not ``uri-host [":" port]`` (RFC 9110 section 7.2).
    """
    host = host.lower()
    if _HOST.fullmatch(host) is None:
        raise BadRequest(f"invalid Host {host!r}")
    if host.startswith(b"["):
        return host[: host.index(b"]") + 1]
    return host.partition(b":")[0]


class RequestFields:
    """The fields of one request head, read once; connections keep it for the next head with equal bytes."""

    __slots__ = (
        "chunked",
        "close",
        "content_length",
        "expects_continue",
        "forwarded_for",
        "has_host",
        "host",
        "host_name",
        "keep_alive",
        "passed_on",
        "trailer",
        "upgrade",
    )

    def __init__(self, block: bytes) -> None:
        """Read a block: the head from the CRLF that ends the request line to the empty line, included.

        Raises:
            BadRequest: two Host fields, or one that is no host; a coding list that does not end the message.
            NotImplementedCoding: a transfer coding besides chunked.
            ExpectationFailed: an expectation other than 100-continue.
        """
        self.host = b""
        self.host_name = b""
        self.has_host = False
        self.content_length: int | None = None
        self.chunked = False
        self.close = False  # the client asks for it
        self.keep_alive = False  # likewise; matters for HTTP/1.0
        self.expects_continue = False
        self.forwarded_for = b""
        self.trailer = b""
        self.upgrade = b""  # the protocols that the client offers to switch to
        lower = block.lower()
        pieces = []
        options = b""
        at = 2
        for found in _REQUEST_SPECIAL.finditer(lower):
            line = found.start() + 1
            end = lower.index(b"\r\n", line)
            value = block[found.end() : end].strip(b" \t")
            pieces.append(block[at:line])
            at = end + 2
            name = found[1]
            if name == b"host":
                if self.has_host:
                    raise BadRequest("more than one Host field")
                self.has_host = True
                self.host = value
                self.host_name = host_name(value)
            elif name == b"connection":
                options = options + b"," + value.lower() if options else value.lower()
            elif name == b"content-length":
                self.content_length = int(value)
            elif name == b"transfer-encoding":
                self._transfer_encoding(value.lower())
            elif name == b"expect":
                if value.lower() != b"100-continue":
                    raise ExpectationFailed("unknown expectation")
                self.expects_continue = True
            elif name == b"x-forwarded-for":
                self.forwarded_for += (b", " if self.forwarded_for else b"") + value
            elif name == b"trailer":
                self.trailer = value
            elif name == b"upgrade":
                self.upgrade += (b", " if self.upgrade else b"") + value
        pieces.append(block[at:-2])
        self.passed_on = b"".join(pieces)  # whole lines, each with its CRLF
        if options:
            self._connection(options)
        else:
            self.upgrade = b""

    def _transfer_encoding(self, value: bytes) -> None:
        if self.chunked:
            raise BadRequest("more than one Transfer-Encoding field")
        if value != b"chunked":
            codings = [coding.strip(b" \t") for coding in value.split(b",")]
            if codings.count(b"chunked") != 1 or codings[-1] != b"chunked":
                raise BadRequest("chunked is not the last transfer coding")
            raise NotImplementedCoding("a transfer coding other than chunked")
        self.chunked = True

    def _connection(self, options: bytes) -> None:
        names = connection_options(options)
        self.close = b"close" in names
        self.keep_alive = b"keep-alive" in names and not self.close
        self.passed_on = without(self.passed_on, names)
        if b"upgrade" not in names or b"h2c" in self.upgrade.lower():
            self.upgrade = b""  # h2c would carry further requests past us, unseen


_CLOSE = frozenset((b"close",))
_KEEP_ALIVE = frozenset((b"keep-alive",))


def connection_options(value: bytes) -> frozenset[bytes]:
    """Split a lower-cased Connection value into its options (RFC 9110 section 7.6.1)."""
    if value == b"keep-alive":
        return _KEEP_ALIVE
    if value == b"close":
        return _CLOSE
    return frozenset(option for part in value.split(b",") if (option := part.strip(b" \t")))


def without(lines: bytes, names: frozenset[bytes]) -> bytes:
    """Drop the field lines whose names a Connection field listed."""
    if names is _CLOSE or names is _KEEP_ALIVE:
        return lines
    names -= _CLOSE | _KEEP_ALIVE
    kept = [line for line in lines.split(b"\r\n") if line.partition(b":")[0].lower() not in names]
    return b"\r\n".join(kept)


class ResponseFields:
    """The fields of one response head that decide how its body ends and what is passed on."""

    __slots__ = ("chunked", "close", "content_length", "has_date", "keep_alive", "passed_on", "upgrade")

    def __init__(self, block: bytes) -> None:
        """Read a block: the head from the CRLF that ends the status line to the empty line, included.

        Raises:
            InvalidResponse: two lengths, a length beside a coding, or a coding besides chunked.
        """
        self.content_length: int | None = None
        self.chunked = False
        self.close = False
        self.keep_alive = False
        self.upgrade = b""
        lower = block.lower()
        self.has_date = b"\ndate:" in lower
        pieces = []
        options = b""
        at = 2
        for found in _RESPONSE_SPECIAL.finditer(lower):
            start, stop = found.span()
            end = lower.find(b"\r\n", stop)
            pieces.append(block[at : start + 1])
            at = end + 2
            name = found[1]
            if name == b"content-length":
                value = lower[stop:end].strip(b" \t")
                if self.content_length is not None or not value.isdigit():
                    raise InvalidResponse("invalid Content-Length")
                self.content_length = int(value)
            elif name == b"connection":
                value = lower[stop:end].strip(b" \t")
                options = options + b"," + value if options else value
            elif name == b"transfer-encoding":
                if self.chunked or lower[stop:end].strip(b" \t") != b"chunked":
                    raise InvalidResponse("a transfer coding other than chunked")
                self.chunked = True
            elif name == b"upgrade":
                self.upgrade = block[stop:end].strip(b" \t")
        pieces.append(block[at:-2])
        self.passed_on = b"".join(pieces)
        if self.chunked and self.content_length is not None:
            raise InvalidResponse("both Content-Length and Transfer-Encoding")
        if options:
            names = connection_options(options)
            self.close = b"close" in names
            self.keep_alive = b"keep-alive" in names
            self.passed_on = without(self.passed_on, names)


class ChunkedError(Exception):
    """A chunked body breaks RFC 9112 section 7.1; the side that reads it knows whose fault that is."""


class ChunkedDecoder:
    """Takes a chunked body apart, strictly: no bare LF, no sign, prefix or space around a size."""

    __slots__ = ("_line", "_remaining", "_state", "_trailer_bytes", "finished", "trailers")

    _SIZE, _DATA, _DATA_END, _TRAILERS = range(4)

    def __init__(self) -> None:
        """Expect the first chunk's size."""
        self._state = self._SIZE
        self._line = b""  # a line cut by the end of a read
        self._remaining = 0
        self._trailer_bytes = 0  # with those that are dropped
        self.trailers = b""  # whole lines that may be passed on, each with its CRLF
        self.finished = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take the next bytes of the connection.

        Returns:
            The body bytes among them, and what follows the end of the body (empty until ``finished``).

        Raises:
            ChunkedError: the coding is broken; nothing after it on the connection can be trusted.
        """
        body: list[bytes] = []
        at = 0
        size = len(data)
        while at < size and not self.finished:
            if self._state == self._DATA:
                piece = data[at : at + self._remaining]
                body.append(piece)
                at += len(piece)
                self._remaining -= len(piece)
                if not self._remaining:
                    self._state = self._DATA_END
                continue
            if self._state == self._SIZE and not self._line:
                at = _whole_chunks(data, at, body)
                if at == size:
                    break
            end = data.find(b"\n", at)
            self._line += data[at : end + 1] if end >= 0 else data[at:]
            at = end + 1 if end >= 0 else size
            if len(self._line) > (MAX_TRAILER_BYTES if self._state == self._TRAILERS else MAX_CHUNK_LINE_BYTES):
                raise ChunkedError("chunk line too long")
            if end >= 0:
                line, self._line = self._line, b""
                self._line_received(line)
            elif self._state == self._DATA_END and not b"\r\n".startswith(self._line):
                raise ChunkedError("chunk data longer than its size")
        return (body[0] if len(body) == 1 else b"".join(body)), data[at:]

    def _line_received(self, line: bytes) -> None:
        if not line.endswith(b"\r\n"):
            raise ChunkedError("bare LF in chunked coding")
        line = line[:-2]
        if self._state == self._SIZE:
            found = _CHUNK_SIZE.fullmatch(line)
            if found is None:
                raise ChunkedError("invalid chunk size")
            self._remaining = int(found[1], 16)
            self._state = self._DATA if self._remaining else self._TRAILERS
        elif self._state == self._DATA_END:
            if line:
                raise ChunkedError("chunk data longer than its size")
            self._state = self._SIZE
        elif not line:
            self.finished = True
        else:
            self._trailer_received(line)

    def _trailer_received(self, line: bytes) -> None:
        found = _FIELD_LINE.fullmatch(line)
        if found is None:
            raise ChunkedError("invalid trailer field")
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            raise ChunkedError("trailers too large")
        if found[1].lower() not in _NOT_IN_TRAILERS:
            self.trailers += line + b"\r\n"


def _whole_chunks(data: bytes, at: int, body: list[bytes]) -> int:
    """Take the ordinary chunks from ``at`` that are there as a whole; returns where the first that is not begins.

    Very small chunks keep the loop busy a third as long so: 64 KiB hold eleven thousand of one byte.
    """
    match = _PLAIN_SIZE.match
    while (found := match(data, at)) is not None:
        start = found.end()
        end = start + int(found[1], 16)
        if end == start or data[end : end + 2] != b"\r\n":
            break
        body.append(data[start:end])
        at = end + 2
    return at


def chunk(data: bytes) -> bytes:
    """Encode one chunk (RFC 9112 section 7.1); data must not be empty, for that would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: bytes) -> bytes:
    """Encode the end of a chunked body, with whole trailer lines."""
    return b"0\r\n" + trailers + b"\r\n"
