"""etcd's JSON gateway: what is asked and what is answered (reference: etcd-http-gateway.md)."""

from base64 import b64encode
from typing import Annotated, TypeVar

import msgspec

from config_sync.errors import StoreError

T = TypeVar("T")

Revision = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Header(msgspec.Struct, gc=False):
    """Who answered, and where the store stands; ``revision`` is not a position in a stream (section 4.4)."""

    cluster_id: int = 0
    member_id: int = 0
    revision: Revision = 0
    raft_term: int = 0


class KeyValue(msgspec.Struct, gc=False):
    """A record; absent fields are zero or empty (section 1)."""

    key: bytes = b""
    value: bytes = b""
    mod_revision: Revision = 0
    create_revision: Revision = 0
    version: Revision = 0
    lease: int = 0


class WatchEvent(msgspec.Struct, gc=False):
    """A change; a put has no type."""

    kv: KeyValue
    type: str = "PUT"


class WatchResult(msgspec.Struct):
    """One message of a watch."""

    header: Header = msgspec.field(default_factory=Header)
    watch_id: int = 0
    created: bool = False
    canceled: bool = False
    compact_revision: Revision = 0
    cancel_reason: str = ""
    fragment: bool = False
    events: list[WatchEvent] = []


class WatchError(msgspec.Struct):
    """How a stream ends that did not end well."""

    grpc_code: int = 0
    message: str = ""


class WatchLine(msgspec.Struct):
    """One line of the stream."""

    result: WatchResult | None = None
    error: WatchError | None = None


class RangeAnswer(msgspec.Struct):
    """One page of a list."""

    header: Header = msgspec.field(default_factory=Header)
    kvs: list[KeyValue] = []
    more: bool = False
    count: int = 0


class UnaryError(msgspec.Struct):
    """Why a call failed; decide by code and text, not by HTTP status."""

    code: int = 0
    message: str = ""
    error: str = ""


class VersionAnswer(msgspec.Struct):
    """What ``/version`` returns."""

    etcdserver: str = ""


class TokenAnswer(msgspec.Struct):
    """What authenticate returns."""

    token: str = ""


WATCH_ID = 1  # of our only watch on a stream

# Code numbers of gRPC that matter here.
INVALID_ARGUMENT = 3
PERMISSION_DENIED = 7
FAILED_PRECONDITION = 9
OUT_OF_RANGE = 11
UNAUTHENTICATED = 16

_LINE = msgspec.json.Decoder(WatchLine, strict=False)
_RANGE = msgspec.json.Decoder(RangeAnswer, strict=False)
_ERROR = msgspec.json.Decoder(UnaryError, strict=False)
_TOKEN = msgspec.json.Decoder(TokenAnswer, strict=False)
_VERSION = msgspec.json.Decoder(VersionAnswer, strict=False)


def prefix_end(prefix: bytes) -> bytes:
    """Return the end of the range of all keys with a prefix that does not end in 0xff."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def range_body(key: bytes, range_end: bytes, limit: int, revision: int = 0) -> bytes:
    """Ask for a page of keys; linearizable, since nothing else is said (section 6)."""
    body: dict[str, object] = {"key": _base64(key), "range_end": _base64(range_end), "limit": limit}
    if revision:
        body["revision"] = str(revision)
    return msgspec.json.encode(body)


def revision_body(key: bytes) -> bytes:
    """Ask where the store stands: a linearizable read whose header is all that matters."""
    return msgspec.json.encode({"key": _base64(key), "count_only": True})


def keys_body(
    key: bytes, range_end: bytes, limit: int, revision: int, min_mod_revision: int, with_values: bool
) -> bytes:
    """Ask for a page of keys not older than a revision; ``count`` counts the older ones too (section 2)."""
    body: dict[str, object] = {"key": _base64(key), "range_end": _base64(range_end), "limit": limit}
    if revision:
        body["revision"] = str(revision)
    if min_mod_revision:
        body["min_mod_revision"] = str(min_mod_revision)
    if not with_values:
        body["keys_only"] = True
    return msgspec.json.encode(body)


def key_body(key: bytes) -> bytes:
    """Ask for one key, linearizably."""
    return msgspec.json.encode({"key": _base64(key)})


def watch_body(key: bytes, range_end: bytes, start_revision: int) -> bytes:
    """Ask for a watch with fragments, under our own id (rule 6)."""
    return msgspec.json.encode(
        {
            "create_request": {
                "key": _base64(key),
                "range_end": _base64(range_end),
                "start_revision": str(start_revision),
                "watch_id": str(WATCH_ID),
                "fragment": True,
                "progress_notify": True,
            }
        }
    )


def authenticate_body(user: str, password: str) -> bytes:
    """Ask for a token."""
    return msgspec.json.encode({"name": user, "password": password})


def read_line(line: bytes) -> WatchLine:
    """Decode one line of a watch.

    Raises:
        StoreError: it is none.
    """
    return _decode(_LINE, line)


def read_range(body: bytes) -> RangeAnswer:
    """Decode a page; raises StoreError."""
    return _decode(_RANGE, body)


def read_token(body: bytes) -> str:
    """Decode a token; raises StoreError."""
    return _decode(_TOKEN, body).token


def read_version(body: bytes) -> str:
    """Decode the version of a server; raises StoreError."""
    return _decode(_VERSION, body).etcdserver


def read_error(body: bytes) -> UnaryError:
    """Decode why a call failed; a body that is no JSON becomes the message."""
    try:
        return _ERROR.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return UnaryError(message=body[:200].decode("utf-8", "replace").strip())


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StoreError(f"etcd sent what is no message: {error}") from error


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


class LineSplitter:
    """Cuts a stream into lines; chunks are no messages (section 4.1), and the last line may lack its newline."""

    __slots__ = ("_buffer", "_searched")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0  # up to here there is no newline: a line of 27 MB is searched once

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the lines they complete."""
        self._buffer += data
        end = self._buffer.rfind(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._buffer)
            return []
        lines = bytes(self._buffer[:end]).split(b"\n")
        del self._buffer[: end + 1]
        self._searched = len(self._buffer)
        return [line for line in lines if line]

    def rest(self) -> bytes:
        """Return the bytes after the last newline: a whole message when the stream has ended in order."""
        return bytes(self._buffer)
