"""``/v1/explain``: which route a request would get and why, which plugins and which node; and what is to be warned of.

The request is made of the arguments and read like any other; then the live tables are asked. Nothing is sent, no
balancer is moved. It is done in portions, so that the worker goes on serving.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec

from config_sync.cache import ConfigStore
from worker.api.config import PORTION_SECONDS, json_portions
from worker.api.messages import Outcome, Portions, Request, failure, json_answer
from worker.consumers import AttachedConsumer
from worker.errors import ProxyError
from worker.http.http1_server import read_request
from worker.http.serve import upstream_of
from worker.plugins.explain import explained
from worker.routing.conditions import compile_condition
from worker.routing.explain import Outcome as Result
from worker.routing.explain import Verdict, candidates, others
from worker.routing.route import Route
from worker.scoreboard import Entry, WorkerState

if TYPE_CHECKING:
    from worker.context import WorkerContext
    from worker.exchange import Exchange

ARGUMENTS = frozenset(("method", "host", "uri", "header", "remote_addr", "limit", "consumer"))
DEFAULT_LIMIT = 100  # candidates, and others, that are listed
MOST_LISTED = 10_000
MOST_CONDITIONS = 100  # routes whose ``vars`` are taken apart to find the expression at fault


@dataclass(frozen=True)
class Question:
    """What is asked."""

    head: bytes
    remote_address: str
    limit: int
    consumer: str = ""  # as whose the request is explained


def read_question(query: str) -> Question:
    """Read the arguments of an explanation.

    Raises:
        ValueError: with what is wrong.
    """
    given = parse_qs(query, keep_blank_values=True)
    for name, values in given.items():
        if name not in ARGUMENTS:
            raise ValueError(f"{name}: is no argument; there are {', '.join(sorted(ARGUMENTS))}")
        if len(values) > 1 and name != "header":
            raise ValueError(f"{name}: is given {len(values)} times")
    if "uri" not in given:
        raise ValueError("uri: is missing, as in ?method=GET&host=a.example&uri=/x&header=Name:value")
    lines = [f"{given.get('method', ['GET'])[0]} {given['uri'][0]} HTTP/1.1"]
    lines += [f"Host: {given.get('host', ['localhost'])[0]}", *given.get("header", ())]
    if any(character in line for line in lines for character in "\r\n\0"):
        raise ValueError("an argument holds a line break")
    limit = given.get("limit", [str(DEFAULT_LIMIT)])[0]
    if not (limit.isascii() and limit.isdigit() and int(limit) <= MOST_LISTED):
        raise ValueError(f"limit: must be 0 to {MOST_LISTED}")
    head = "\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape")
    consumer = given.get("consumer", [""])[0]
    return Question(head, given.get("remote_addr", ["127.0.0.1"])[0], int(limit), consumer)


class ExplainHandlers:
    """Answers from the live tables of this worker."""

    def __init__(
        self,
        context: "WorkerContext",
        store: ConfigStore,
        entry: Entry,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Explain what a context would do; ``clock`` (seconds) measures the portions."""
        self._context = context
        self._store = store
        self._entry = entry
        self._clock = clock

    def warnings(self, _: Request) -> Outcome:
        """Show the routes that can never win, and what else has no effect, plugins included."""
        shadows = self._context.switcher.shadows
        of_plugins = list(islice(self._context.plugins.warnings(), MOST_LISTED))
        about = {**self._who(), "total": shadows.count + len(of_plugins), "complete": shadows.is_current()}
        items = chain(
            ({"key": key, "reason": reason, "never_wins": False} for key, reason in of_plugins),
            (
                {"key": f"routes/{one.route}", "reason": one.reason, "never_wins": one.never_wins}
                for one in islice(shadows.warnings(), MOST_LISTED)
            ),
        )
        texts = map(msgspec.json.encode, items)
        head = msgspec.json.encode(about)[:-1] + b',"items":['
        return Portions(200, json_portions(head, texts, b"]}\n", self._clock))

    def explain(self, request: Request) -> Outcome:
        """Explain what would become of a request."""
        if self._entry.state == WorkerState.STARTING:
            return failure(503, f"worker id: {self._entry.slot} has not received configuration")
        try:
            question = read_question(request.query)
        except ValueError as error:
            return failure(400, str(error))
        try:
            exchange = read_request(self._context, question.head, question.remote_address)
        except ProxyError as error:
            return json_answer(200, {**self._who(), "winner": None, "answer": _answer(error)})
        consumer = self._context.plugins.consumers.attached(question.consumer) if question.consumer else None
        if question.consumer and consumer is None:
            return failure(400, f"consumer: there is none called {question.consumer!r}")
        explanation = Explanation(self._context, self._store, exchange, question.limit, consumer)
        return Portions(200, self._portions(explanation))

    def _who(self) -> dict[str, Any]:
        return {"slot": self._entry.slot, "pid": self._entry.pid, "revision": self._store.revision}

    def _portions(self, explanation: "Explanation") -> Iterator[bytes]:
        who = self._who()
        until = self._clock() + PORTION_SECONDS
        for _ in explanation.steps():
            if self._clock() >= until:
                yield b""
                until = self._clock() + PORTION_SECONDS
        yield b""
        yield from _encoded({**who, **explanation.result()})


def _encoded(answer: dict[str, Any]) -> Iterator[bytes]:
    """Write an answer member by member, and long lists in parts."""
    mark = b"{"
    for name, value in answer.items():
        yield mark + msgspec.json.encode(name) + b":"
        mark = b",\n"
        if not isinstance(value, list):
            yield msgspec.json.encode(value)
            continue
        yield b"["
        for at in range(0, len(value), 100):
            yield (b",\n" if at else b"") + b",\n".join(map(msgspec.json.encode, value[at : at + 100]))
        yield b"]"
    yield b"}\n"


class Explanation:
    """One request's way through the live tables."""

    def __init__(
        self,
        context: "WorkerContext",
        store: ConfigStore,
        exchange: "Exchange",
        limit: int,
        consumer: AttachedConsumer | None = None,
    ) -> None:
        self._context = context
        self._store = store
        self._exchange = exchange
        self._limit = limit
        self._version = context.router.version
        self._winner: Verdict | None = None
        self._listed: list[dict[str, Any]] = []
        self._others: list[dict[str, Any]] = []
        self._omitted = 0
        self._conditions = 0
        self._consumer = consumer

    def steps(self) -> Iterator[None]:
        """Do it, in steps."""
        context, seen = self._context, set[str]()
        assert self._exchange.request is not None  # noqa: S101 - it has been read
        for verdict in candidates(context.router, self._exchange, self._condition_reason):
            if verdict is None:
                yield
                continue
            seen.add(verdict.candidate.route.id)
            if verdict.outcome is Result.WINS:
                self._winner = verdict
            if len(self._listed) < self._limit or verdict.outcome is Result.WINS:
                self._listed.append({**_place(verdict), "result": verdict.outcome.value, "reason": verdict.reason})
            else:
                self._omitted += 1
        switcher = context.switcher
        for other in others(context.router, switcher.disabled, seen, self._exchange.request):
            if other is None:
                yield
            elif len(self._others) < self._limit:
                self._others.append({"route": other[0].id, "reason": other[1]})
            else:
                self._omitted += 1

    def _condition_reason(self, route: Route, exchange: "Exchange") -> str:
        """Say which expression does not hold."""
        assert route.condition is not None  # noqa: S101 - it is asked of those that have one
        try:
            if route.condition(exchange):
                return ""
        except Exception as error:
            return f"vars: cannot be told here: {type(error).__name__}: {error}"
        self._conditions += 1
        config = self._store.value("routes", route.id) if self._conditions <= MOST_CONDITIONS else None
        members = config.vars if config is not None else ()
        if members and isinstance(members[0], list):
            members = next((member for member in members if not _holds(member, exchange)), members)
        return f"vars: {msgspec.json.encode(members).decode()} does not hold" if members else "vars: do not hold"

    def result(self) -> dict[str, Any]:
        """Return all there is to say."""
        exchange, router = self._exchange, self._context.router
        request = exchange.request
        assert request is not None  # noqa: S101 - it has been read
        about: dict[str, Any] = {
            "mode": self._context.settings.router.http,
            "request": {
                "method": _text(request.method),
                "host": _text(request.host_name),
                "uri": _text(request.target),
                "path": _text(request.path_matched),
                "remote_addr": exchange.downstream.remote_address,
            },
            "winner": None,
            "answer": None,
            "plugins": [],
            "upstream": None,
            "candidates": self._listed,
            "others": self._others,
            "omitted": self._omitted,
            "changed_meanwhile": router.version != self._version,
        }
        winner, plugins = self._winner, self._context.plugins
        if winner is None:
            about["plugins"] = list(explained(plugins, self._store, None, self._consumer))
            about["answer"] = {"status": 404, "reason": "no route matches"}
            return about
        route = winner.candidate.route
        exchange.route, request.pattern = route, winner.candidate.pattern
        about["winner"] = {**_place(winner), "captures": exchange.captures}
        about["plugins"] = list(explained(plugins, self._store, route, self._consumer))
        try:
            about["upstream"] = _upstream(route, exchange)
        except ProxyError as error:
            about["answer"] = _answer(error)
        return about


def _holds(member: Any, exchange: "Exchange") -> bool:
    try:
        condition, _ = compile_condition([member])
        return condition is None or condition(exchange)
    except Exception:
        return False


def _place(verdict: Verdict) -> dict[str, Any]:
    pattern, route = verdict.candidate.pattern, verdict.candidate.route
    return {
        "route": route.id,
        "uri": _text(pattern.text),
        "host": verdict.host or (" ".join(route.hosts) if verdict.candidate.hosts is not None else ""),
        "match": "exact" if pattern.exact else "prefix" if pattern.rest is None else "pattern",
        "priority": route.priority,
    }


def _upstream(route: Route, exchange: "Exchange") -> dict[str, Any]:
    """Show the upstream of a route, and the node that its balancer would choose now."""
    upstream = upstream_of(route)
    node = upstream.balancer.peek(exchange) if upstream.balancer is not None else None
    own = route.upstream is not None
    nodes: Iterable[dict[str, Any]] = (
        {"node": f"{peer!r}", "weight": peer.weight, "priority": peer.priority} for peer in upstream.peers
    )
    return {
        "id": upstream.id,
        "from": f"routes/{route.id}" if own else f"services/{route.service.id}" if route.service else "",
        "node": f"{node!r}" if node is not None else None,
        "nodes": list(islice(nodes, MOST_LISTED)),
    }


def _answer(error: ProxyError) -> dict[str, Any]:
    return {"status": error.status, "reason": str(error)}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
