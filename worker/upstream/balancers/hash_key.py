"""What consistent hashing hashes of an exchange: ``hash_on`` and ``key`` (upstreams.md section 3)."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker.variables import Accessor, Template, accessor
from worker.variables.values import shown

if TYPE_CHECKING:
    from config_sync import schema
    from worker.exchange import Exchange

log = logging.getLogger("propylon.upstream")


def hash_key(id_: str, config: "schema.Upstream") -> "Callable[[Exchange], bytes]":
    """Compile what an upstream hashes on; an exchange that has no such value is known by its client's address.

    The function raises BodyNeeded when the key is a variable of a body that has not been read.
    """
    lookup = _lookup(config)
    warned = False

    def key(exchange: "Exchange") -> bytes:
        nonlocal warned
        value = lookup(exchange)
        if value is None:
            if not warned:
                warned = True
                log.warning(
                    "upstream %s: a request has no %s %s to hash on; remote_addr is taken for such requests",
                    *(id_, config.hash_on, config.key or "name"),
                )
            value = exchange.remote_address
        return shown(value).encode("utf-8", "surrogateescape")

    return key


def _lookup(config: "schema.Upstream") -> Accessor:
    key = config.key or ""
    if config.hash_on == "header":
        return accessor(f"http_{key.lower().replace('-', '_')}")
    if config.hash_on == "cookie":
        return accessor(f"cookie_{key}")
    if config.hash_on == "consumer":
        return accessor("consumer_name")
    if config.hash_on == "vars_combinations":
        return _combination(Template(key))
    return accessor(key)


def _combination(template: Template) -> Accessor:
    """Take the text of a template in which at least one variable has a value."""

    def combine(exchange: "Exchange") -> str | None:
        text, resolved = template.resolve(exchange)
        return text if resolved else None

    return combine
