"""What requests and answers say of caching (RFC 9111)."""

from email.utils import parsedate_to_datetime
from functools import lru_cache

from worker.fields import FieldLines

NOT_KEPT = ("private", "no-store", "no-cache")
FOR_EVER = 31_536_000.0  # seconds, a year


@lru_cache(maxsize=1024)
def directives(field: bytes | None) -> dict[str, str]:
    """Read a Cache-Control field: names in lower case, with their arguments."""
    found: dict[str, str] = {}
    for part in (field or b"").decode("latin-1").split(","):
        name, _, argument = part.strip().partition("=")
        if name:
            found.setdefault(name.strip().lower(), argument.strip().strip('"'))
    return found


def seconds(directive: str | None) -> float | None:
    """Read an argument that is a number of seconds; None when it is none."""
    return (
        min(float(directive), FOR_EVER)
        if directive is not None and directive.isascii() and directive.isdigit()
        else None
    )


def ttl_of(fields: FieldLines, now: float) -> float | None:
    """Return how long an answer may be kept as it says itself; None when it says nothing."""
    accelerated = fields.get(b"X-Accel-Expires")
    if accelerated is not None and accelerated.isdigit():
        return min(float(accelerated), FOR_EVER)
    said = directives(fields.get(b"Cache-Control"))
    for name in ("s-maxage", "max-age"):
        found = seconds(said.get(name))
        if found is not None:
            return found
    expires = fields.get(b"Expires")
    if expires is None:
        return None
    try:
        return max(0.0, min(parsedate_to_datetime(expires.decode("latin-1")).timestamp() - now, FOR_EVER))
    except (ValueError, TypeError, OverflowError):
        return 0.0  # what is no date is past


def may_be_kept(fields: FieldLines, keeps_cookies: bool) -> bool:
    """Tell whether an answer is for others, too."""
    said = directives(fields.get(b"Cache-Control"))
    if any(name in said for name in NOT_KEPT):
        return False
    if b"*" in (fields.get(b"Vary") or b""):
        return False
    return keeps_cookies or b"Set-Cookie" not in fields


def varies_by(fields: FieldLines) -> list[bytes]:
    """Return the names of the request's fields that an answer depends on, in lower case and order."""
    names = {name.strip().lower() for name in (fields.get(b"Vary") or b"").split(b",")}
    return sorted(names - {b""})


def matches(condition: bytes, tag: bytes) -> bool:
    """Tell whether an If-None-Match names an entity tag (RFC 9110 section 13.1.2)."""
    tags = [each.strip().removeprefix(b"W/") for each in condition.split(b",")]
    return b"*" in tags or tag.removeprefix(b"W/") in tags
