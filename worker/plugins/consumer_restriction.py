"""consumer-restriction: who may use a route, by consumer, consumer group, service or route.

Fields: ``type`` (``consumer_name``; ``consumer_group_id``, ``service_id``, ``route_id``), what is looked at;
``whitelist``, ``blacklist``, ``allowed_by_methods`` (a list of ``user`` and ``methods``); ``rejected_code`` (403, from
200 on), ``rejected_msg``.

Refused is what the blacklist has, what a whitelist has not, and who is in ``allowed_by_methods`` without this method,
unless the whitelist has them; whom that does not name is free. Answers ``rejected_code`` with ``{"message":"The <type>
is forbidden."}`` or ``rejected_msg`` in its place; 401 ``The request is rejected, please check the <type> for this
request`` when there is nothing to look at.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from worker.plugins.answer import Answer, message
from worker.plugins.base import Plugin, Scope

if TYPE_CHECKING:
    from worker.exchange import Exchange

Method = Literal["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"]
Names = Annotated[tuple[str, ...], Meta(min_length=1)]


class AllowedMethods(msgspec.Struct):
    """The methods that somebody may use."""

    user: str
    methods: tuple[Method, ...]


class ConsumerRestrictionConfig(msgspec.Struct):
    """Who may, and who may not."""

    type: Literal["consumer_name", "consumer_group_id", "service_id", "route_id"] = "consumer_name"
    whitelist: Names | None = None
    blacklist: Names | None = None
    allowed_by_methods: tuple[AllowedMethods, ...] = ()
    rejected_code: Annotated[int, Meta(ge=200, le=999)] = 403
    rejected_msg: str | None = None


class ConsumerRestriction(Plugin[ConsumerRestrictionConfig]):
    """Looks at whom a request is from, or where it goes."""

    name = "consumer-restriction"
    priority = 2400
    Config = ConsumerRestrictionConfig

    def __init__(self, config: ConsumerRestrictionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._identity = IDENTITIES[config.type]
        self._black = frozenset(config.blacklist or ())
        self._white = frozenset(config.whitelist) if config.whitelist is not None else None
        methods: dict[str, set[bytes]] = {}
        for entry in config.allowed_by_methods:
            methods.setdefault(entry.user, set()).update(method.encode() for method in entry.methods)
        self._methods = methods
        told = f"The {config.type} is forbidden." if config.rejected_msg is None else config.rejected_msg
        self._forbidden = message(config.rejected_code, told)
        self._unknown = message(401, f"The request is rejected, please check the {config.type} for this request")

    def access(self, exchange: "Exchange") -> Answer | None:
        """Refuse whom it must."""
        identity = self._identity(exchange)
        if identity is None:
            return self._unknown
        if identity in self._black:
            return self._forbidden
        if self._white is not None:
            return None if identity in self._white else self._forbidden
        methods = self._methods.get(identity)
        if methods is not None and exchange.request.method not in methods:  # type: ignore[union-attr]  # there is one
            return self._forbidden
        return None


def _consumer(exchange: "Exchange") -> str | None:
    consumer = exchange.run.consumer if exchange.run is not None else None
    return consumer.username if consumer is not None else None


def _group(exchange: "Exchange") -> str | None:
    consumer = exchange.run.consumer if exchange.run is not None else None
    return consumer.group_id if consumer is not None else None


def _service(exchange: "Exchange") -> str | None:
    route = exchange.route
    return route.service.id if route is not None and route.service is not None else None


def _route(exchange: "Exchange") -> str | None:
    return exchange.route.id if exchange.route is not None else None


IDENTITIES: "Mapping[str, Callable[[Exchange], str | None]]" = {
    "consumer_name": _consumer,
    "consumer_group_id": _group,
    "service_id": _service,
    "route_id": _route,
}
