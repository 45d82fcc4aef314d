"""FieldLines: header fields as the lines they are on the wire, looked at and changed by name.

What nobody asks for is never taken apart. Names are matched in any case; a value is refused that would end its line.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"trailer", b"keep-alive", b"upgrade"))
"""Fields that say where a message ends, or what becomes of the connection, in lower case."""

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUE = bytes((*range(9), *range(10, 32), 127))


@lru_cache(maxsize=2048)
def _line(name: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"(?im)^" + re.escape(name) + rb":[ \t]*([^\r\n]*)\r\n")


@lru_cache(maxsize=2048)
def _is_name(name: bytes) -> bool:
    return _NAME.fullmatch(name) is not None


def field_line(name: bytes, value: bytes) -> bytes:
    """Compose a line.

    Raises:
        ValueError: the name is no token, or the value holds a control character (RFC 9110 section 5).
    """
    if not _is_name(name):
        raise ValueError(f"{name!r} is not the name of a field")
    if len(value.translate(None, _NOT_IN_VALUE)) != len(value):
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
        if name not in self:
            return []
        return [value.rstrip(b" \t") for value in _line(name).findall(self.lines)]

    def set(self, name: bytes, value: bytes | Iterable[bytes]) -> None:
        """Let a field have this value, or these, and no other; ValueError as ``field_line``."""
        values = (value,) if isinstance(value, bytes) else value
        added = b"".join([field_line(name, each) for each in values])
        self.lines = (_line(name).sub(b"", self.lines) if name in self else self.lines) + added

    def add(self, name: bytes, value: bytes) -> None:
        """Let there be one more field; ValueError as ``field_line``."""
        self.lines += field_line(name, value)

    def remove(self, name: bytes) -> None:
        """Take all fields of a name away."""
        if name in self:
            self.lines = _line(name).sub(b"", self.lines)

    def items(self) -> list[tuple[bytes, bytes]]:
        """Return names and values, in order."""
        pairs = [line.partition(b":") for line in self.lines.split(b"\r\n")[:-1]]
        return [(name, value.strip(b" \t")) for name, _, value in pairs]

    def __contains__(self, name: bytes) -> bool:
        # Mostly it is not there, and this takes a fifth of the time that the pattern does.
        return b"\n%b:" % name.lower() in (b"\n" + self.lines).lower()

    def __repr__(self) -> str:
        """Show the names; values may be secret."""
        return f"<FieldLines {[name for name, _ in self.items()]}>"
