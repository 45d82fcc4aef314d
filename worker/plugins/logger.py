"""Logger: what plugins have in common that tell somebody of every request.

An entry is built when the request is over, and sent later, with others (``batch``). Configured are:

    log_format                       an object that takes the place of the default entry; ``$name`` is a variable
    log_format_extra                 members that are added to the default entry
    include_req_body, _expr          the request's body, where the expression is true; not when it is longer than
    max_req_body_bytes               this
    include_resp_body, _expr         the answer's body, up to
    max_resp_body_bytes
    batch_max_size, inactive_timeout, buffer_duration, max_retry_count, retry_delay

Metadata: log_format, log_format_extra, max_pending_entries.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.base import Plugin, Scope
from worker.plugins.batch import MAX_PENDING, AtLeastOne, BatchConfig, BatchProcessor
from worker.plugins.log_entry import Builder, check_format, compiled, default_entry, encoded, in_own_form
from worker.plugins.request_body import whole_body
from worker.routing.expressions import compile_expression

if TYPE_CHECKING:
    from worker.exchange import Exchange

BODY_BYTES = 524_288
Expression = Annotated[list[Any], msgspec.Meta(min_length=1)]


class ContentConfig(BatchConfig):
    """What an entry holds."""

    log_format: dict[str, Any] | None = None
    log_format_extra: dict[str, Any] | None = None
    include_req_body: bool = False
    include_req_body_expr: Expression | None = None
    include_resp_body: bool = False
    include_resp_body_expr: Expression | None = None
    max_req_body_bytes: AtLeastOne = BODY_BYTES
    max_resp_body_bytes: AtLeastOne = BODY_BYTES


class LoggerMetadata(msgspec.Struct):
    """What holds for all uses of a logger."""

    log_format: dict[str, Any] | None = None
    log_format_extra: dict[str, Any] | None = None
    max_pending_entries: AtLeastOne = MAX_PENDING


C = TypeVar("C", bound=ContentConfig)


class Content:
    """Builds entries as configured."""

    def __init__(self, config: ContentConfig, metadata: LoggerMetadata) -> None:
        own = config.log_format or metadata.log_format
        extra = config.log_format_extra or metadata.log_format_extra
        self._build: Builder = in_own_form(own) if own else default_entry
        self._is_own = bool(own)
        self._extra = compiled(extra) if extra and not own else None
        request_, response = config.include_req_body_expr, config.include_resp_body_expr
        self._wants_request = compile_expression(request_, "$.include_req_body_expr") if request_ else None
        self._wants_response = compile_expression(response, "$.include_resp_body_expr") if response else None

    def build(self, exchange: "Exchange", request_body: bytes | None, response_body: bytes | None) -> bytes:
        """Return an entry, encoded."""
        entry = self._build(exchange)
        if self._extra is not None:
            entry.update(self._extra(exchange))
        if request_body is not None:
            _place(entry, "request").update(body=_text(request_body))
        if response_body is not None and (self._wants_response is None or self._wants_response(exchange)):
            _place(entry, "response").update(body=_text(response_body))
        return encoded(entry)

    def wants_request_body(self, exchange: "Exchange") -> bool:
        """Tell whether the body of a request is to be told; BodyNeeded when that depends on it."""
        return self._wants_request is None or self._wants_request(exchange)


class Bodies:
    """What has been seen of the bodies of an exchange."""

    __slots__ = ("request", "response")

    def __init__(self) -> None:
        self.request: bytes | None = None
        self.response: bytes | None = None


class Logger(Plugin[C]):
    """Tells of requests by ``send``, which its kinds define."""

    Metadata = LoggerMetadata
    only_observes = True

    def __init__(self, config: C, scope: Scope) -> None:
        super().__init__(config, scope)
        metadata: LoggerMetadata = scope.metadata
        self._content = Content(config, metadata)
        unneeded = {"access": config.include_req_body, "body_filter": config.include_resp_body}
        self.unused = frozenset(hook for hook, is_needed in unneeded.items() if not is_needed)
        name = config.name or self.name
        route = scope.key.removeprefix("routes/") if scope.key.startswith("routes/") else ""
        self._batches = BatchProcessor(
            scope.services, config, self.send, name, metadata.max_pending_entries, (route, self.server())
        )

    @classmethod
    def check(cls, config: Any) -> None:
        """Check expressions and forms."""
        for name in ("include_req_body_expr", "include_resp_body_expr"):
            if getattr(config, name) is not None:
                compile_expression(getattr(config, name), f"$.{name}")
        for name in ("log_format", "log_format_extra"):
            if getattr(config, name) is not None:
                check_format(getattr(config, name), f"$.{name}")

    async def send(self, batch: Sequence[bytes]) -> None:
        """Send encoded entries; an exception means that they may be sent again."""
        raise NotImplementedError

    def server(self) -> str:
        """Return where entries go, for metrics."""
        return ""

    def access(self, exchange: "Exchange") -> None:
        """See the request's body."""
        if self._content.wants_request_body(exchange):
            body = whole_body(exchange, self.config.max_req_body_bytes)
            if body:
                self._bodies(exchange).request = body

    def body_filter(self, exchange: "Exchange", data: bytes, is_last: bool) -> bytes:
        """See the answer's body pass."""
        bodies = self._bodies(exchange)
        seen = bodies.response or b""
        bodies.response = seen + data[: self.config.max_resp_body_bytes - len(seen)]
        return data

    def log(self, exchange: "Exchange") -> None:
        """Put an entry into the batch."""
        self._batches.add(self.entry(exchange))

    def entry(self, exchange: "Exchange") -> bytes:
        """Return what there is to tell of an exchange, encoded."""
        bodies: Bodies | None = exchange.run.kept(self) if exchange.run is not None else None
        request, response = (bodies.request, bodies.response) if bodies is not None else (None, None)
        return self._content.build(exchange, request, response)

    def close(self) -> None:
        """Send what waits."""
        self._batches.close()

    def _bodies(self, exchange: "Exchange") -> Bodies:
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        bodies: Bodies | None = run.kept(self)
        if bodies is None:
            bodies = Bodies()
            run.keep(self, bodies)
        return bodies


def joined(batch: Sequence[bytes], is_single: bool) -> bytes:
    """Return a batch as one JSON text: an array, or the object itself where batches are of one."""
    return batch[0] if is_single and len(batch) == 1 else b"[" + b",".join(batch) + b"]"


def check_port(port: int) -> None:
    """Check a port; InvalidResource."""
    if not 1 <= port <= 65535:
        raise InvalidResource("$.port", "must be 1 to 65535")


def _place(entry: dict[str, Any], name: str) -> dict[str, Any]:
    found = entry.setdefault(name, {})
    if not isinstance(found, dict):
        found = entry[name] = {}
    return found


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")
