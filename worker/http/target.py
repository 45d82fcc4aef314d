"""The request target: its forms (RFC 9112 section 3.2) and the path that routes are matched with."""

import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

from config_sync.settings import RouterSettings
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


class PathRules:
    """The options of path normalisation (routing.md section 8), for gateways that have any of them switched on."""

    __slots__ = ("_as_servlet", "_keeps_encoded_slash", "_without_tail_slash")

    def __init__(self, without_tail_slash: bool, as_servlet: bool, keeps_encoded_slash: bool) -> None:
        """Take ``delete_uri_tail_slash``, ``normalize_uri_like_servlet`` and ``match_uri_encoded_slash``."""
        self._without_tail_slash = without_tail_slash
        self._as_servlet = as_servlet
        self._keeps_encoded_slash = keeps_encoded_slash

    def apply(self, target: bytes, path: bytes) -> tuple[bytes, bytes, bytes]:
        """Return the target to send upstream, the path that later steps see, and the path to match.

        Args:
            target: in origin-form, as received.
            path: its normalised path.

        Raises:
            BadRequest: a segment that is nothing, ``.`` or ``..`` but has parameters.
        """
        matched = path
        if self._keeps_encoded_slash and (b"%2F" in target or b"%2f" in target):
            matched = _with_encoded_slashes(target, path)
        if self._as_servlet and b";" in path:
            stripped = _without_parameters(path)
            # Servlets get their parameters, but in the very path that was matched: not ``/a;/../b`` for ``/b``.
            _, mark, query = target.partition(b"#")[0].partition(b"?")
            target = quoted(path) + mark + query
            matched = stripped if matched is path else _without_parameters(matched)
            path = stripped
        if self._without_tail_slash:
            path, matched = path.removesuffix(b"/"), matched.removesuffix(b"/")
        return target, path, matched


def path_rules(settings: RouterSettings) -> PathRules | None:
    """Return what applies besides the ordinary normalisation; None when nothing does."""
    rules = PathRules(
        settings.delete_uri_tail_slash, settings.normalize_uri_like_servlet, settings.match_uri_encoded_slash
    )
    return None if settings == RouterSettings(http=settings.http, verify_interval=settings.verify_interval) else rules


def _with_encoded_slashes(target: bytes, path: bytes) -> bytes:
    """Return the path in which encoded slashes are ``%2F``; the ordinary one when that cannot be told apart."""
    try:
        kept = normalised_path(re.sub(rb"%2[Ff]", b"%252F", target))
    except BadRequest:
        return path  # with fewer segments, ``..`` leads further up
    return kept if kept.replace(b"%2F", b"/") == path else path


def _without_parameters(path: bytes) -> bytes:
    segments = []
    for segment in path.split(b"/"):
        name, semicolon, _ = segment.partition(b";")
        if semicolon and name in (b"", b".", b".."):
            raise BadRequest("a path segment of parameters alone")
        segments.append(name)
    return b"/".join(segments)


def quoted(path: bytes) -> bytes:
    """Write a decoded path so that it can stand in a request target (RFC 3986 section 3.3)."""
    return quote_from_bytes(path, safe="/!$&'()*+,;=:@~").encode()
