"""ResponseHead: the head of an answer on its way through ``header_filter``."""

from collections.abc import Iterable
from http import HTTPStatus

from worker.fields import FRAMING, FieldLines

BODILESS = frozenset((204, 304))


class ResponseHead:
    """Status and fields; those that frame the message are not among them, and cannot be set.

    ``content_length`` is None when the length of the body is not known. A filter that changes the body's length calls
    ``body_changes``; it is then sent in chunks, unless the whole of it is at hand.
    """

    __slots__ = (
        "_answers_head",
        "_received",
        "_status",
        "content_length",
        "fields",
        "is_from_upstream",
        "length_changes",
        "received_fields",
    )

    def __init__(
        self,
        status: int,
        reason: bytes,
        fields: bytes,
        content_length: int | None,
        answers_head: bool,
        is_from_upstream: bool,
    ) -> None:
        """Begin with whole field lines; ``answers_head``: of the answer to a HEAD request."""
        self._status = status
        self._received = status, reason
        self.fields: FieldLines = ResponseFields(fields)
        self.received_fields = fields  # before any filter
        self.content_length = content_length
        self._answers_head = answers_head
        self.is_from_upstream = is_from_upstream
        self.length_changes = False

    @property
    def status(self) -> int:
        """The status; one that ends no exchange cannot be set (ValueError)."""
        return self._status

    @status.setter
    def status(self, status: int) -> None:
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError(f"{status!r} is not a status from 200 to 599")
        self._status = int(status)

    @property
    def has_body(self) -> bool:
        """Whether a body is sent, which may be empty: not for the answer to HEAD, 204 and 304."""
        return not self._answers_head and self._status not in BODILESS

    def body_changes(self) -> None:
        """Say that the body will not be as long as it was."""
        self.length_changes = True

    def status_line(self) -> bytes:
        """Return the status line, with the reason of the status there is now."""
        status, reason = self._received
        return b"HTTP/1.1 %d %b\r\n" % (self._status, reason if status == self._status else reason_of(self._status))

    def __repr__(self) -> str:
        """Show the status."""
        return f"<ResponseHead {self._status}>"


class ResponseFields(FieldLines):
    """Fields of an answer; those that frame it are the gateway's."""

    __slots__ = ()

    def set(self, name: bytes, value: bytes | Iterable[bytes]) -> None:
        """Let a field have this value, or these, and no other; ValueError also for one that frames the message."""
        _refuse_framing(name)
        super().set(name, value)

    def add(self, name: bytes, value: bytes) -> None:
        """Let there be one more field; ValueError likewise."""
        _refuse_framing(name)
        super().add(name, value)


def _refuse_framing(name: bytes) -> None:
    if name.lower() in FRAMING:
        raise ValueError(f"field {name!r} frames the message and cannot be set; see body_changes")


def reason_of(status: int) -> bytes:
    """Return the usual reason phrase; empty when there is none."""
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b""
