"""Discoveries by the name that ``discovery_type`` gives, and the services that upstreams ask them for.

A discovery is one module: see docs/how-to/write-a-discovery.md.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from config_sync import schema

if TYPE_CHECKING:
    from worker.exchange import Exchange

log = logging.getLogger("propylon.discovery")

PATIENCE = 5.0  # seconds that requests wait for the first nodes of a service

Nodes = tuple[schema.Node, ...]


class UnknownDiscovery(Exception):
    """There is no discovery of that type, or it is not enabled."""


class Service:
    """One service of one discovery, shared by all upstreams that ask for it; None: its nodes are not known."""

    def __init__(self, type_: str, name: str, args: Mapping[str, Any]) -> None:
        self.type = type_
        self.name = name
        self.args = args  # discovery_args
        self.nodes: Nodes | None = None
        self.problem = ""  # the last failure, until nodes come
        self.is_pending = True  # nothing has been said of it yet: requests wait
        self.listeners: set[Callable[[], None]] = set()
        self.waiting: list[Exchange] = []

    def publish(self, nodes: Iterable[schema.Node]) -> None:
        """Take the nodes there are now, all of them; an empty answer is an answer. Called by the discovery."""
        ordered = tuple(sorted(nodes, key=_order))
        if self.problem:
            log.info("%r is known again", self)
        self.problem = "" if ordered else "has no nodes"
        if ordered != self.nodes:
            if self.nodes is not None or not ordered:
                log.info("%r has %d nodes", self, len(ordered))
            self.nodes = ordered
            for listener in list(self.listeners):
                listener()
        self.settled()

    def fail(self, reason: str) -> None:
        """Note why nothing could be learnt; nodes that were known stay. Called by the discovery, at every failure."""
        if reason != self.problem:
            log.warning("%r: %s%s", self, reason, "; its last nodes stay" if self.nodes else "")
        self.problem = reason
        self.settled()

    def settled(self) -> None:
        """Let the requests that wait go on with what is known by now, be it nothing."""
        self.is_pending = False
        waiting, self.waiting = self.waiting, []
        for exchange in waiting:
            if exchange.waiting is self:
                exchange.resume()

    def __repr__(self) -> str:
        """Name it."""
        return f"{self.type} service {self.name}"


def _order(node: schema.Node) -> tuple[str, int, int, int]:
    return node.host, node.port or 0, -node.priority, node.weight


class Discovery(Protocol):
    """Where services are known."""

    def watch(self, service: Service) -> Callable[[], None]:
        """Tell ``service`` its nodes, now and whenever they change, until what is returned is called.

        It runs on the event loop and must not block. It calls ``service.publish`` with all nodes, or
        ``service.fail`` with a reason, and goes on trying by itself.
        """

    def close(self) -> None:
        """Stop everything."""


class DiscoveryRegistry:
    """The discoveries that the settings enable, and the services watched."""

    def __init__(self, loop: asyncio.AbstractEventLoop, discoveries: Mapping[str, Discovery]) -> None:
        self._loop = loop
        self._discoveries = discoveries
        self._services: dict[tuple[str, str, bytes], tuple[Service, Callable[[], None], asyncio.TimerHandle]] = {}

    def subscribe(self, config: schema.Upstream, listener: Callable[[], None]) -> Service:
        """Return the service of an upstream, watched from now on; ``listener`` hears of changes of its nodes.

        Raises:
            UnknownDiscovery: its ``discovery_type`` is not enabled, or the discovery cannot read ``service_name``.
        """
        type_, name = config.discovery_type or "", config.service_name or ""
        discovery = self._discoveries.get(type_)
        if discovery is None:
            enabled = ", ".join(sorted(self._discoveries)) or "none"
            raise UnknownDiscovery(f"discovery_type {type_} is not enabled; discovery of the settings has: {enabled}")
        args = config.discovery_args or {}
        key = type_, name, msgspec.json.encode(args, order="sorted")
        found = self._services.get(key)
        if found is None:
            service = Service(type_, name, args)
            try:
                stop = discovery.watch(service)
            except ValueError as error:
                raise UnknownDiscovery(f"service_name {name}: {error}") from error
            timer = self._loop.call_later(PATIENCE, self._out_of_patience, service)
            found = self._services[key] = service, stop, timer
        found[0].listeners.add(listener)
        return found[0]

    def _out_of_patience(self, service: Service) -> None:
        if service.is_pending:
            service.fail(f"nothing is known after {PATIENCE:g} s")

    def unsubscribe(self, service: Service, listener: Callable[[], None]) -> None:
        """Hear no more of a service, which is watched no more when nobody does."""
        service.listeners.discard(listener)
        if service.listeners:
            return
        key = service.type, service.name, msgspec.json.encode(service.args, order="sorted")
        _, stop, timer = self._services.pop(key)
        timer.cancel()
        stop()
        if service.waiting:
            # Nobody would say anything to them any more; what has taken the upstream's place is in place by then.
            self._loop.call_soon(service.settled)

    def close(self) -> None:
        """Watch nothing any more."""
        for _, stop, timer in self._services.values():
            timer.cancel()
            stop()
        self._services.clear()
        for discovery in self._discoveries.values():
            discovery.close()
