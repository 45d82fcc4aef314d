"""Heads of answers: an upstream's, made ready to be passed on, and those of the answers we make ourselves."""

from mimetypes import MimeTypes

from worker.edited_request import sent_method
from worker.errors import InvalidResponse
from worker.http.framing import ResponseFields
from worker.messages import Framing, Request, Response

SERVER = b"propylon"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_TYPES = MimeTypes(()).types_map[True]
_TYPES_WITH_CHARSET = frozenset(("text/html", "text/xml", "text/plain", "application/javascript"))  # nginx's defaults


def read_response(head: bytes, status: int, version_11: bool, request: Request, date: bytes) -> Response:
    """Make a Response of an upstream's final head, which llhttp has validated.

    Args:
        head: status line to empty line.
        status: its code, as parsed.
        version_11: whether the upstream speaks HTTP/1.1, whose connections stay open by default.
        request: what it answers; the answer to HEAD has no body (RFC 9112 section 6.3).
        date: the Date line to add when the upstream sent none (RFC 9110 section 6.6.1).

    Raises:
        InvalidResponse: its framing is ambiguous.
    """
    line_end = head.index(b"\r\n")
    if not head.startswith(b"HTTP/1."):
        raise InvalidResponse("the peer does not speak HTTP/1")
    if b"\n" in head[:line_end]:
        raise InvalidResponse("bare LF in the status line")
    fields = ResponseFields(head[line_end:])
    keep_alive = not fields.close and (version_11 or fields.keep_alive)
    framing, length, length_line = Framing.NONE, fields.content_length, b""
    if request.head_only or status == 304:
        if length is not None:
            length_line = b"Content-Length: %d\r\n" % length
        if sent_method(request) != request.method:  # one of them is HEAD
            keep_alive = keep_alive and request.method != b"HEAD"  # a body follows that nobody asked for
            if request.method != b"HEAD" and status != 304:
                framing, length, length_line = Framing.LENGTH, 0, b""
    elif status == 204:
        keep_alive = keep_alive and not length and not fields.chunked  # bytes may follow that nobody asked for
    elif fields.chunked:
        framing = Framing.CHUNKED
        keep_alive = keep_alive and version_11  # HTTP/1.0 knows no chunks (RFC 9112 section 6.1)
    elif length is not None:
        framing = Framing.LENGTH
    else:
        framing, keep_alive = Framing.CLOSE, False
    lines = b"HTTP/1.1 %b\r\nServer: %b\r\n%b%b%b" % (
        head[9:line_end],
        SERVER,
        b"" if fields.has_date else date,
        fields.passed_on,
        length_line,
    )
    return Response(status, framing, length or 0, lines, keep_alive)


def response_head(response: Response, request: Request, keep_alive: bool) -> bytes:
    """Return the complete head for the client, with the framing that its version understands."""
    return b"%b%b%b\r\n" % (
        response.head,
        _framing_line(response, request),
        connection_line(request, keep_alive and is_delimited(response, request)),
    )


def switching_head(head: bytes) -> bytes:
    """Make of an upstream's 101 the head that the client gets (RFC 9110 section 7.8).

    Raises:
        InvalidResponse: it does not say to which protocol it has switched.
    """
    line_end = head.index(b"\r\n")
    fields = ResponseFields(head[line_end:])
    if not fields.upgrade:
        raise InvalidResponse("101 without an Upgrade field")
    return b"%b\r\nServer: %b\r\n%bUpgrade: %b\r\nConnection: upgrade\r\n\r\n" % (
        head[:line_end],
        SERVER,
        fields.passed_on,
        fields.upgrade,
    )


def is_delimited(response: Response, request: Request) -> bool:
    """Tell whether the client can see the end of the body without the connection being closed."""
    return response.framing <= Framing.LENGTH or request.version_11


def _framing_line(response: Response, request: Request) -> bytes:
    if response.framing is Framing.LENGTH:
        return b"Content-Length: %d\r\n" % response.content_length
    if response.framing is Framing.NONE or not request.version_11:
        return b""
    return b"Transfer-Encoding: chunked\r\n"


def connection_line(request: Request | None, keep_alive: bool) -> bytes:
    """Return the Connection line that a client needs, if any (RFC 9112 section 9.3)."""
    if not keep_alive:
        return b"Connection: close\r\n"
    return b"" if request is None or request.version_11 else b"Connection: keep-alive\r\n"


def content_type(path: bytes) -> bytes:
    """Return the type that nginx gives to an answer without one: by the extension, else plain text (routing.md 10)."""
    _, dot, extension = path.rpartition(b"/")[2].rpartition(b".")
    found = _TYPES.get(f".{extension.decode('latin-1').lower()}", "") if dot else ""
    kind = found or "text/plain"
    return (f"{kind}; charset=utf-8" if kind in _TYPES_WITH_CHARSET else kind).encode()


def attempts_line(attempts: list[int] | None) -> bytes:
    """Return the ``X-APISIX-Upstream-Status`` line for the tries so far (upstreams.md section 6)."""
    if not attempts:
        return b""
    return b"X-APISIX-Upstream-Status: %b\r\n" % ", ".join(map(str, attempts)).encode()
