"""ResponseHead: the head of an answer on its way through ``header_filter``."""

from http import HTTPStatus

from worker.fields import FieldLines


class ResponseHead:
    """Status and fields; those that frame the message are not among them.

    ``content_length`` is None when the length of the body is not known. A filter that changes the body's length calls
    ``body_changes``; it is then sent in chunks, unless the whole of it is at hand.
    """

    __slots__ = ("_received", "content_length", "fields", "has_body", "is_from_upstream", "length_changes", "status")

    def __init__(
        self,
        status: int,
        reason: bytes,
        fields: bytes,
        content_length: int | None,
        has_body: bool,
        is_from_upstream: bool,
    ) -> None:
        """Begin with whole field lines."""
        self.status = status
        self._received = status, reason
        self.fields = FieldLines(fields)
        self.content_length = content_length
        self.has_body = has_body  # False for the answer to HEAD, 204 and 304
        self.is_from_upstream = is_from_upstream
        self.length_changes = False

    def body_changes(self) -> None:
        """Say that the body will not be as long as it was."""
        self.length_changes = True

    def status_line(self) -> bytes:
        """Return the status line, with the reason of the status there is now."""
        status, reason = self._received
        return b"HTTP/1.1 %d %b\r\n" % (self.status, reason if status == self.status else reason_of(self.status))

    def __repr__(self) -> str:
        """Show the status."""
        return f"<ResponseHead {self.status}>"


def reason_of(status: int) -> bytes:
    """Return the usual reason phrase; empty when there is none."""
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
