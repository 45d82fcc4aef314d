"""The health of upstreams: ``/v1/healthcheck`` (admin-api.md section 10), answered by any worker for all."""

import time
from collections.abc import Callable, Iterable, Iterator
from html import escape

import msgspec

from config_sync.cache import ConfigStore
from worker.api.config import json_portions
from worker.api.messages import Answer, Outcome, Portions, Request, failure, json_answer
from worker.upstream.health.checker import Checker
from worker.upstream.health.registry import CheckRegistry

SOURCES = ("routes", "services", "upstreams", "stream_routes")
PREFIX = "/v1/healthcheck/"
HTML = "text/html; charset=utf-8"
_COLUMNS = ("upstream", "check type", "host", "status", "success", "http failures", "tcp failures", "time-outs")


class Counter(msgspec.Struct):
    """How many reports of each kind count towards a limit."""

    success: int
    http_failure: int
    tcp_failure: int
    timeout_failure: int


class Node(msgspec.Struct):
    """A target; ``port`` is the one that is probed."""

    ip: str
    port: int
    hostname: str
    status: str
    counter: Counter


class CheckerInfo(msgspec.Struct):
    """The health of an upstream; ``name`` is the key of what configures it."""

    name: str
    type: str
    nodes: list[Node]


class HealthHandlers:
    """Answers from the states that all workers share."""

    def __init__(
        self,
        store: ConfigStore,
        checks: CheckRegistry | None,
        prefix: str,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Show checkers, None: there are none; ``prefix`` is that of the keys in etcd."""
        self._store = store
        self._checks = checks
        self._prefix = prefix
        self._clock = clock

    def all(self, request: Request) -> Outcome:
        """Show every upstream that has health checks."""
        checkers = list(self._checks) if self._checks is not None else []
        if _wants_html(request):
            return Portions(200, self._html(checkers), HTML)
        if not checkers:
            return Answer(200, b"{}\n")  # as APISIX writes an empty list
        texts = (msgspec.json.encode(self._info(checker)) for checker in checkers)
        return Portions(200, json_portions(b"[", texts, b"]\n", self._clock))

    def one(self, request: Request) -> Outcome:
        """Show the upstream of a route, a service, or one of its own."""
        source, _, id_ = request.path.removeprefix(PREFIX).partition("/")
        if source not in SOURCES:
            return failure(400, f"invalid src type {source}; it must be one of {', '.join(SOURCES)}")
        if not id_:
            return failure(404, f"missing src id for src type {source}")
        item = self._store.caches[source].items.get(id_)
        if item is None or item.good is None:
            return failure(404, f"{source}[{id_}] not found")
        checker = self._checks.current(f"{source}/{id_}") if self._checks is not None else None
        if checker is None:
            return failure(404, f"no checker for {source}[{id_}]")
        if _wants_html(request):
            return Portions(200, self._html([checker]), HTML)
        return json_answer(200, self._info(checker))

    def _info(self, checker: Checker) -> CheckerInfo:
        return CheckerInfo(f"{self._prefix}/{checker.resource}", checker.active.type, self._nodes(checker))

    def _nodes(self, checker: Checker) -> list[Node]:
        assert self._checks is not None  # noqa: S101 - it has made the checker
        nodes = []
        for target in dict.fromkeys(target for _, target in checker.members):
            status = self._checks.status_of(target)
            counter = Counter(*status[1:])
            nodes.append(Node(target.host, target.port, target.hostname, status.state.name.lower(), counter))
        return nodes

    def _html(self, checkers: list[Checker]) -> Iterator[bytes]:
        yield (
            "<!DOCTYPE html><html><head><title>Upstream health</title></head><body><table border=1>"
            f"<tr>{''.join(f'<th>{name}</th>' for name in _COLUMNS)}</tr>\n"
        ).encode()
        for checker in checkers:
            info = self._info(checker)
            for node in info.nodes:
                counts = msgspec.structs.astuple(node.counter)
                yield _row((info.name, info.type, f"{node.ip}:{node.port}", node.status, *counts))
        yield b"</table></body></html>\n"


def _row(cells: Iterable[object]) -> bytes:
    return f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>\n".encode()


def _wants_html(request: Request) -> bool:
    return "text/html" in request.accept
