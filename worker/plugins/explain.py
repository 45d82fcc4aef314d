"""Which plugins a request runs through, in running order, and which that are configured for it do not run, and why."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from config_sync.cache import ConfigStore
from config_sync.schema import AUTHENTICATION
from config_sync.schema.plugins import is_disabled
from worker.consumers import AttachedConsumer
from worker.plugins.registry import phases_of
from worker.plugins.stand_ins import FailClosed, Missing

if TYPE_CHECKING:
    from worker.plugins.chain import Use
    from worker.plugins.host import PluginHost
    from worker.routing.route import Route

Layer = tuple[str, Any]  # the key of a record, and its plugins


def explained(
    host: "PluginHost", store: ConfigStore, route: "Route | None", consumer: AttachedConsumer | None = None
) -> Iterator[dict[str, Any]]:
    """Tell of the plugins of a route, or of a request without one; with a ``consumer``, as one of theirs."""
    chain = host.chain_of(route)
    if chain is not None and consumer is not None:
        chain = host.with_consumer(chain, consumer)
    running: set[tuple[str, str]] = set()
    for use in (*chain.global_uses, *chain.uses) if chain is not None else ():
        running.add((use.name, use.key))
        yield _shown(use)
    layers = list(_layers(store, route, consumer))
    first: dict[str, str] = {}
    for key, plugins in layers:
        for name in sorted(plugins):
            first.setdefault(name, key)
            if (name, key) not in running:
                reason = _reason(host, name, key, plugins[name], first[name])
                yield {"name": name, "from": key, "runs": False, "reason": reason}
    rules = [(f"global_rules/{id_}", store.value("global_rules", id_)) for id_ in store.caches["global_rules"].items]
    for key, rule in sorted(rules):
        for name, config in rule.plugins.items() if rule is not None else ():
            if (name, key) not in running:
                reason = _reason(host, name, key, config, key)
                if not reason:
                    twice = sum(other is not None and name in other.plugins for _, other in rules) > 1
                    reason = "it is in more than one global rule" if twice else "the route has one of its own"
                yield {"name": name, "from": key, "runs": False, "reason": reason}


def _shown(use: "Use") -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": use.name,
        "from": use.key,
        "runs": True,
        "priority": -use.order[0],
        "phases": phases_of(type(use.plugin)),
        "filtered": use.meta.filter is not None,
    }
    if isinstance(use.plugin, FailClosed):
        shown["reason"] = "it cannot run, so requests are refused with 503"
    elif isinstance(use.plugin, Missing):
        shown["reason"] = f"{use.plugin.reason}; requests get 503"
    return shown


def _layers(store: ConfigStore, route: "Route | None", consumer: AttachedConsumer | None) -> Iterator[Layer]:
    """Yield the records that have a say, the highest first (data-model.md section 15)."""
    config = store.value("routes", route.id) if route is not None else None
    places = []
    if consumer is not None:
        places += [("consumers", consumer.username), ("consumer_groups", consumer.group_id)]
    if config is not None and route is not None:
        places.append(("routes", route.id))
        places += [("plugin_configs", config.plugin_config_id), ("services", config.service_id)]
    for directory, id_ in places:
        value = store.value(directory, id_) if id_ is not None else None
        if value is not None:
            plugins = value.plugins
            if directory == "consumers":
                plugins = {name: plugins[name] for name in plugins.keys() - AUTHENTICATION}
            yield f"{directory}/{id_}", plugins


def _reason(host: "PluginHost", name: str, key: str, config: Any, first: str) -> str:
    """Return why a plugin does not run where it is configured; empty when none of this is so."""
    if first != key:
        return f"{first} has one of its own"
    if is_disabled(config):
        return "it is disabled"
    if name in host.suspended:
        return "it fails too often, and is passed over for the time being"
    if not host.is_enabled(name):
        return "it is not in the list of enabled plugins"
    if host.registry.get(name) is None:
        return "there is no such plugin"
    if host.is_unmade(name, key):
        return "it cannot be made, and requests do not need it"
    return ""
