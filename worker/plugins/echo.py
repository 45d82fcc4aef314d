"""Puts something before and after the body of answers, or in its place; for debugging.

``before_body``, ``body`` and ``after_body``, of which one is required; ``headers`` are set, in place of those of the
same name. ETag and Last-Modified of the answer go, and with ``body`` its Content-Encoding, too.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import check_field

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead


class EchoConfig(msgspec.Struct):
    """What is put where."""

    before_body: str | None = None
    body: str | None = None
    after_body: str | None = None
    headers: dict[str, str | int | float] = {}


class Echo(Plugin[EchoConfig]):
    """Changes fields and body of answers."""

    name = "echo"
    priority = 412
    Config = EchoConfig

    def __init__(self, config: EchoConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._replaces = config.body is not None
        self._first = f"{config.before_body or ''}{config.body or ''}".encode()
        self._last = (config.after_body or "").encode()
        self._fields = [(name.encode(), str(value).encode()) for name, value in config.headers.items()]

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that there is something to put somewhere, and that the fields can be sent."""
        if config.before_body is None and config.body is None and config.after_body is None:
            raise InvalidResource("$", "before_body, body or after_body must be given")
        for name, value in config.headers.items():
            check_field(name, str(value), f"$.headers[{name!r}]")

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Set fields."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        run.keep(self, False)
        head.body_changes()
        for name in (b"ETag", b"Last-Modified", b"Content-Encoding")[: 3 if self._replaces else 2]:
            head.fields.remove(name)
        for name, value in self._fields:
            head.fields.set(name, value)

    def body_filter(self, exchange: "Exchange", data: bytes, is_last: bool) -> bytes:
        """Put something before the first piece and after the last."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        if self._replaces:
            data = b""
        if not run.kept(self):
            run.keep(self, True)
            data = self._first + data
        return data + self._last if is_last else data
