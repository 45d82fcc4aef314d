"""A limit of a number of requests in a time, as it is configured: numbers that may be templates, and a key."""

import re
from typing import TYPE_CHECKING, Any

from config_sync.errors import InvalidResource
from worker.plugins.limiting.keys import encoded
from worker.plugins.limiting.quota_fields import QuotaFields
from worker.variables import Template

if TYPE_CHECKING:
    from worker.exchange import Exchange

MOST_REMEMBERED = 1_000  # names of the counters of a limit

Ask = tuple["Limit", bytes, int, int]
"""What a request asks of a limit: under which name, how many there are, in how many seconds."""

Quota = tuple["Limit", int, int, float]
"""What came of it: how many there are, how many are left (below 0: this one is too much), for how many seconds."""


class Number:
    """A positive whole number, or a template that becomes one."""

    __slots__ = ("_template", "constant")

    def __init__(self, value: int | str, path: str) -> None:
        self._template = Template(value) if isinstance(value, str) else None
        self.constant = value if isinstance(value, int) else 0
        if isinstance(value, str) and not Template(value).names:
            try:
                self.constant, self._template = _positive(value), None
            except ValueError as error:
                raise InvalidResource(path, str(error)) from error

    def of(self, exchange: "Exchange") -> int:
        """Return it; ValueError when the template becomes something else."""
        return self.constant if self._template is None else _positive(self._template.render(exchange))


class Limit:
    """One limit, compiled; ``most`` and ``window`` are 0 when they are templates."""

    __slots__ = ("_count", "_prefix", "_time_window", "fields", "key_of", "most", "names", "window")

    def __init__(self, count: Number, window: Number, key: Any, prefix: str, fields: QuotaFields) -> None:
        self._count = count
        self._time_window = window
        self.most = count.constant
        self.window = window.constant
        self.key_of = key
        self._prefix = prefix
        self.names: dict[str, bytes] = {}  # of the counters, by key, as far as they are remembered
        self.fields = fields

    def name(self, exchange: "Exchange") -> bytes:
        """Return the name of the counter for a request; empty when there is none."""
        key = self.key_of(exchange)
        name = self.names.get(key)
        if name is None:
            if key is None:
                return b""
            if len(self.names) >= MOST_REMEMBERED:
                self.names.clear()
            name = self.names[key] = encoded(f"{self._prefix}:{key}")
        return name

    def ask(self, exchange: "Exchange") -> Ask | None:
        """Return what is to be counted; None when it does not concern the request.

        Raises:
            ValueError: it cannot be said how many there are.
        """
        name = self.name(exchange)
        return (self, name, self._count.of(exchange), self._time_window.of(exchange)) if name else None


def _positive(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", text):
        raise ValueError(f"{text[:40]!r} is not a positive whole number")
    return int(text)
