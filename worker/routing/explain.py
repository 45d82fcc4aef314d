"""Why does a request get the route it gets? The index's own walk once more, slowly, with every reason kept.

It looks at the live tables as they are, in steps between which they may change: whoever asks compares
``Router.version`` before and after.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from worker.routing.bucket import Candidate
from worker.routing.hosts import HostCondition
from worker.routing.route import Route
from worker.routing.router import Router

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.messages import Request

PORTION = 16  # candidates or routes between two steps


class Outcome(Enum):
    """What became of a candidate."""

    WINS = "wins"
    LOSES = "loses"


class Verdict(NamedTuple):
    """What became of a candidate, and why."""

    candidate: Candidate
    host: str  # the pattern of the table it stands in; empty where the host is no key, or none is bound
    outcome: Outcome
    reason: str


ConditionReason = Callable[[Route, "Exchange"], str]


def candidates(router: Router, exchange: "Exchange", of_condition: ConditionReason) -> Iterator[Verdict | None]:
    """Walk the candidates in the order in which they are tried, and further on, behind the winner; None: a step.

    Args:
        router: where to look.
        exchange: what asks; nothing is noted in it.
        of_condition: returns why ``vars`` of a route do not hold, empty when they do.
    """
    request: Request = exchange.request  # type: ignore[assignment]  # only requests that were read are asked about
    winner: Verdict | None = None
    for host, table in list(router.tables(request.host_name)):
        for bucket in table.buckets(request.path_matched):
            for at, candidate in enumerate(list(bucket), 1):
                reason = _refusal(candidate, exchange, request, of_condition)
                if not reason and winner is not None:
                    reason = _behind(Verdict(candidate, host, Outcome.LOSES, ""), winner)
                verdict = Verdict(candidate, host, Outcome.LOSES if reason else Outcome.WINS, reason)
                if not reason:
                    winner = verdict
                yield verdict
                if at % PORTION == 0:
                    yield None
        yield None


def _refusal(candidate: Candidate, exchange: "Exchange", request: "Request", of_condition: ConditionReason) -> str:
    """Say why a candidate does not match; empty when it does."""
    route = candidate.route
    if candidate.methods and request.method not in candidate.methods:
        return f"method: takes {_joined(method.decode() for method in candidate.methods)}"
    if candidate.hosts is not None and not candidate.hosts.holds(request):
        return f"host: takes {' '.join(route.hosts)}"
    if candidate.pattern.rest is not None and not candidate.pattern.rest.fits(request.path_matched):
        return "uri: the path has the prefix, but not the rest of the pattern"
    if route.addresses is not None and not route.addresses.holds(exchange.downstream.remote_address):
        return f"remote_addr: takes {route.addresses!r}"
    return of_condition(route, exchange) if route.condition is not None else ""


def _behind(verdict: Verdict, winner: Verdict) -> str:
    """Say why a candidate that would match comes after the winner."""
    mine, best = verdict.candidate, winner.candidate
    if verdict.host != winner.host:
        return f"host: {verdict.host or 'without a host'} comes after {winner.host}"
    if mine.pattern.exact != best.pattern.exact:
        return "uri: a prefix comes after the exact path"
    if mine.pattern.size != best.pattern.size:
        return "uri: its literal prefix is shorter"
    if mine.route.priority != best.route.priority:
        return f"priority: {mine.route.priority} is below {best.route.priority}"
    if len(mine.pattern.text) != len(best.pattern.text):
        return "uri: its pattern is shorter"
    return f"id: {mine.route.id} comes after {best.route.id}"


def others(
    router: Router, disabled: Mapping[str, Route], seen: set[str], request: "Request"
) -> Iterator[tuple[Route, str] | None]:
    """Walk the routes that have the path, but were no candidates, with the reason; None: a step.

    ``seen`` holds the ids of those that were, and of all that have been told.
    """
    path = request.path_matched
    for at, (_, table) in enumerate(router.all_tables(), 1):
        for bucket in table.buckets(path):
            for nth, candidate in enumerate(list(bucket), 1):
                route = candidate.route
                if route.id not in seen and candidate.pattern.covers(path):
                    seen.add(route.id)
                    yield route, f"host: takes {' '.join(route.hosts)}"
                if nth % PORTION == 0:
                    yield None
        if at % PORTION == 0:
            yield None
    for at, route in enumerate(list(disabled.values()), 1):
        # Nobody tells it when its service gets other hosts.
        hosts = route.service.hosts if route.inherits_hosts and route.service is not None else route.hosts
        covers = any(pattern.covers(path) for pattern in route.patterns)
        if covers and (not hosts or HostCondition(hosts).holds(request)):
            yield route, "status: 0, it is disabled"
        if at % PORTION == 0:
            yield None


def _joined(words: Iterator[str]) -> str:
    return " ".join(sorted(words))
