"""FieldLines: header fields as the lines they are on the wire, looked at and changed by name.

What nobody asks for is never taken apart. Names are matched in any case; a value is refused that would end its line.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"trailer", b"keep-alive", b"upgrade"))
"""Fields that say where a message ends, or what becomes of the connection, in lower case."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@lru_cache(maxsize=2048)
def _line(name: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"(?im)^" + re.escape(name) + rb":[ \t]*([^\r\n]*)\r\n")


def field_line(name: bytes, value: bytes) -> bytes:
    """Compose a line.

    Raises:
        ValueError: the name is no token, or the value holds a control character (RFC 9110 section 5).
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not the name of a field")
    if _NOT_IN_VALUE.search(value) is not None:
        raise ValueError(f"the value for field {name!r} holds a control character")
    return b"%b: %b\r\n" % (name, value.strip(b" \t"))


class FieldLines:
    """Whole lines, each with its CRLF; no empty line at the end."""

    __slots__ = ("lines",)

    def __init__(self, lines: bytes = b"") -> None:
        self.lines = lines

    def get(self, name: bytes) -> bytes | None:
        """Return a field's value, several joined by a comma; None when there is none."""
        values = self.get_all(name)
        return b", ".join(values) if values else None

    def get_all(self, name: bytes) -> list[bytes]:
        """Return the values of all fields of a name."""
        return [value.rstrip(b" \t") for value in _line(name).findall(self.lines)]

    def set(self, name: bytes, value: bytes | Iterable[bytes]) -> None:
        """Let a field have this value, or these, and no other; ValueError as ``field_line``."""
        values = (value,) if isinstance(value, bytes) else value
        added = b"".join([field_line(name, each) for each in values])
        self.lines = _line(name).sub(b"", self.lines) + added

    def add(self, name: bytes, value: bytes) -> None:
        """Let there be one more field; ValueError as ``field_line``."""
        self.lines += field_line(name, value)

    def remove(self, name: bytes) -> None:
        """Take all fields of a name away."""
        self.lines = _line(name).sub(b"", self.lines)

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return names and values, in order."""
        pairs = [line.partition(b":") for line in self.lines.split(b"\r\n")[:-1]]
        return [(name, value.strip(b" \t")) for name, _, value in pairs]

    def __contains__(self, name: bytes) -> bool:
        return _line(name).search(self.lines) is not None

    def __repr__(self) -> str:
        """Show the names; values may be secret."""
        return f"<FieldLines {[name for name, _ in self.items()]}>"
