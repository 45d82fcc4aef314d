"""The request target: its forms (RFC 9112 section 3.2) and the path that routes are matched with."""

import re
from urllib.parse import unquote_to_bytes

from worker.errors import BadRequest

_NOT_PLAIN = re.compile(rb"[%?#]|//|/\.")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_SLASHES = re.compile(rb"/{2,}")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]+)(.*)", re.DOTALL)


def split_absolute(target: bytes) -> tuple[bytes, bytes]:
    """Split an absolute-form target into its authority and the origin-form that is sent on.

    Raises:
        BadRequest: neither absolute-form nor any other form of a target.
    """
    found = _ABSOLUTE.fullmatch(target)
    if found is None or b"@" in found[1]:
        raise BadRequest("invalid request target")
    rest = found[2]
    return found[1], rest if rest.startswith(b"/") else b"/" + rest


def normalised_path(target: bytes) -> bytes:
    """Return the path of an origin-form target as routes see it.

    Query and fragment are cut off, escapes decoded once, repeated slashes merged, dot segments resolved
    (routing.md section 8).

    Raises:
        BadRequest: a broken escape, a NUL, or more ``..`` than there are segments.
    """
    if _NOT_PLAIN.search(target) is None:
        return target
    path = target.partition(b"?")[0].partition(b"#")[0]
    if b"%" in path:
        if _BAD_ESCAPE.search(path) is not None:
            raise BadRequest("invalid escape in the path")
        path = unquote_to_bytes(path)
        if b"\0" in path:
            raise BadRequest("NUL in the path")
    if b"//" in path:
        path = _SLASHES.sub(b"/", path)
    return _without_dots(path) if b"/." in path else path


def _without_dots(path: bytes) -> bytes:
    segments = path.split(b"/")
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            if len(kept) < 2:
                raise BadRequest("the path leads above the root")
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/".join(kept)
