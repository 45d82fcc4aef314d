"""Sends parts of the requests to other upstreams.

    rules   an array of {match, weighted_upstreams}; the first counts of which one of the ``match`` is true, or that has
            none. A match is {vars}, an expression
            weighted_upstreams: at most 20 of {upstream_id or upstream, weight}; each gets ``weight`` (1) parts of the
            requests, in turn. One without an upstream stands for the route's own

Where no rule counts, and where all weights are 0, the route's own upstream is used. Each worker takes turns for itself.
A request for an ``upstream_id`` that does not exist gets 500 "failed to fetch upstream info by upstream id: …".
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from config_sync.errors import InvalidResource
from config_sync.schema.decoding import Context
from config_sync.schema.fields import Id
from config_sync.schema.upstreams import Upstream, check_upstream
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.routing.expressions import Condition, compile_expression

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.peer import UpstreamCell


class Match(msgspec.Struct):
    """When a rule counts."""

    vars: list[Any] = []


class WeightedUpstream(msgspec.Struct):
    """An upstream, and its part of the requests."""

    upstream_id: Id = None
    upstream: Upstream | None = None
    weight: Annotated[int, msgspec.Meta(ge=0)] = 1


class Rule(msgspec.Struct):
    """Which requests go where."""

    match: list[Match] = []
    weighted_upstreams: Annotated[list[WeightedUpstream], msgspec.Meta(min_length=1, max_length=20)] = msgspec.field(
        default_factory=lambda: [WeightedUpstream()]
    )


class TrafficSplitConfig(msgspec.Struct):
    """The rules."""

    rules: list[Rule] = []


class TrafficSplit(Plugin[TrafficSplitConfig]):
    """Chooses upstreams."""

    name = "traffic-split"
    priority = 966
    Config = TrafficSplitConfig

    def __init__(self, config: TrafficSplitConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._inline: list[UpstreamCell] = []
        self._rules = [
            (_condition(rule, f"$.rules[{number}]"), self._turns(rule, number))
            for number, rule in enumerate(config.rules)
        ]

    @classmethod
    def check(cls, config: Any) -> None:
        """Check the upstreams that are written here, and that expressions are some."""
        for number, rule in enumerate(config.rules):
            _condition(rule, f"$.rules[{number}]")
            for at, entry in enumerate(rule.weighted_upstreams):
                path = f"$.rules[{number}].weighted_upstreams[{at}]"
                if entry.upstream is not None:
                    if entry.upstream_id is not None:
                        raise InvalidResource(path, "upstream and upstream_id must not stand beside each other")
                    check_upstream(entry.upstream, f"{path}.upstream", Context(None))

    def _turns(self, rule: Rule, number: int) -> "Turns":
        cells = []
        for at, entry in enumerate(rule.weighted_upstreams):
            cell = None
            if entry.upstream_id is not None:
                cell = self.scope.services.upstream(entry.upstream_id)
            elif entry.upstream is not None:
                owner = f"{self.scope.key}#{self.name}[{number}][{at}]"
                cell = self.scope.services.upstream_of(owner, entry.upstream)
                self._inline.append(cell)
            cells.append(cell)
        return Turns(cells, [entry.weight for entry in rule.weighted_upstreams])

    def access(self, exchange: "Exchange") -> Answer | None:
        """Let the request go to the upstream whose turn it is."""
        for applies, turns in self._rules:
            if applies is None or applies(exchange):
                cell = turns.next()
                if cell is None:
                    return None
                if cell.used() is None:
                    text = f"failed to fetch upstream info by upstream id: {cell.id}"
                    return Answer(500, text.encode())
                assert exchange.run is not None  # noqa: S101 - hooks run in one
                exchange.run.upstream = cell
                return None
        return None

    def close(self) -> None:
        """Give back the upstreams that are written here; requests that are under way go on with theirs."""
        for cell in self._inline:
            self.scope.services.give_back(cell)
        self._inline = []


class Turns:
    """Smooth weighted turns: the weights are added up, and who has most is next and loses what all have got."""

    __slots__ = ("_cells", "_current", "_total", "_weights")

    def __init__(self, cells: "list[UpstreamCell | None]", weights: list[int]) -> None:
        self._cells = cells
        self._weights = weights
        self._total = sum(weights)
        self._current = [0] * len(weights)

    def next(self) -> "UpstreamCell | None":
        """Return whose turn it is; None: the route's own upstream."""
        if len(self._cells) == 1 or not self._total:
            return self._cells[0] if self._total else None
        current = self._current = [mine + weight for mine, weight in zip(self._current, self._weights, strict=True)]
        best = current.index(max(current))
        current[best] -= self._total
        return self._cells[best]


def _condition(rule: Rule, path: str) -> "Callable[[Exchange], bool] | None":
    """Compile when a rule counts; None: always."""
    conditions: list[Condition] = [
        compile_expression(match.vars, f"{path}.match[{at}].vars") for at, match in enumerate(rule.match)
    ]
    if not conditions:
        return None
    return conditions[0] if len(conditions) == 1 else lambda exchange: any(holds(exchange) for holds in conditions)
