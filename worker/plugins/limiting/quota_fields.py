"""The fields that say what is left of a limit."""

import re
from collections.abc import Sequence
from math import ceil
from os.path import commonprefix

from config_sync.errors import InvalidResource
from worker.plugins.guard_checks import check_field

NAMES = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


class QuotaFields:
    """How many there are, how many are left, and the seconds until there are all again."""

    __slots__ = ("_lines", "_mark", "_old", "names")

    def __init__(self, names: Sequence[str], prefix: str = "") -> None:
        """Name the three, with a prefix before ``RateLimit-``, or before all of the name when that is not in it."""
        names = [_prefixed(name, prefix) if prefix else name for name in names]
        encoded = [name.encode() for name in names]
        self.names = tuple(name.lower() for name in encoded)
        self._lines = b"".join(b"%b: %%d\r\n" % name.replace(b"%", b"%%") for name in encoded)
        self._mark = commonprefix([name.lower() for name in names]).encode()  # noqa: RUF071 - they are no paths
        self._old = re.compile(rb"(?im)^(?:%b):[^\r\n]*\r\n" % b"|".join(map(re.escape, encoded)))

    def lines(self, most: int, left: int, seconds: float) -> bytes:
        """Return these fields."""
        return self._lines % (most, left if left > 0 else 0, ceil(seconds))

    def removed(self, lines: bytes) -> bytes:
        """Return lines without those of these fields that the upstream may have sent."""
        return self._old.sub(b"", lines) if self._mark in lines.lower() else lines


def check_names(names: Sequence[str], prefix: str = "") -> None:
    """Check that fields can have these names; InvalidResource."""
    for name in names:
        check_field(_prefixed(name, prefix) if prefix else name, "", "$")
    if len({name.lower() for name in names}) < len(names):
        raise InvalidResource("$", "two fields have the same name")


def _prefixed(name: str, prefix: str) -> str:
    if "RateLimit-" in name:
        return name.replace("RateLimit-", f"{prefix}-RateLimit-", 1)
    return f"{prefix}-{name}"
