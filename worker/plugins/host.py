"""PluginHost: which plugins apply to a request, kept equal to the configuration.

A route's chain is compiled at its first request after a change of anything that it is made of, and a route to which
no plugin applies has none. What is compiled is kept by route; a change throws away the chains that it concerns, and
no others. The plugins themselves are kept by the record they are written in: as long as configuration and metadata
stay the same, a new chain has the old object.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec

from config_sync import schema
from config_sync.cache import Change, ConfigStore
from config_sync.errors import ConfigError
from config_sync.merge import Merged, PluginUse, Stored, laid_over, merge
from config_sync.schema.plugins import PluginMeta, is_disabled
from config_sync.secrets import Place, places_in
from worker.consumers import AttachedConsumer, Consumers
from worker.plugins.base import FAILURES, Plugin, Scope
from worker.plugins.chain import Chain, Meta, Use
from worker.plugins.references import Referring
from worker.plugins.registry import Registered, Registry
from worker.plugins.services import PluginServices
from worker.plugins.stand_ins import FailClosed, Missing
from worker.plugins.statistics import PluginStatistics
from worker.routing.expressions import compile_expression

if TYPE_CHECKING:
    from worker.routing.route import Route
    from worker.routing.router import Router

log = logging.getLogger("propylon.plugins")

MISSING = object()
MOST_CONSUMER_CHAINS = 10_000
_PLUGIN_BEARING = frozenset(("routes", "services", "plugin_configs", "consumers", "consumer_groups", "global_rules"))
_CONCERNED = _PLUGIN_BEARING | {"plugin_metadata", "plugins"}


class _Made:
    """A plugin object, and what it was made of."""

    __slots__ = ("config", "metadata", "places", "plugin")

    def __init__(
        self, config: Mapping[str, Any], metadata: Mapping[str, Mapping[str, Any]], plugin: Plugin[Any]
    ) -> None:
        self.places = places_in(config)  # the secrets it refers to
        self.config = config
        self.metadata = metadata
        self.plugin = plugin


class PluginHost:
    """The plugins of one worker."""

    def __init__(
        self, store: ConfigStore, router: "Router", registry: Registry, services: PluginServices, bypass: bool = False
    ) -> None:
        """Listen to a store that is still empty; for ``bypass`` see ``Chain``."""
        self.registry = registry
        self.services = services
        self.consumers: Consumers = services.consumers
        self.no_route: Chain | None = None  # of the global rules alone
        self._global_uses: tuple[Use, ...] = ()
        self._store = store
        self._router = router
        self._bypass = bypass
        settings = services.settings.plugins
        self.statistics = PluginStatistics(settings.failure_budget, settings.failure_window, self._suspend)
        self._window = settings.failure_window
        self._suspended: dict[str, asyncio.TimerHandle] = {}  # plugins that fail too often
        self._follows_list = settings.listed_only
        self._listed: frozenset[str] | None = None  # the plugins that are enabled; None: all
        self._chains: dict[str, Chain | None] = {}  # by route
        self._of_consumers: dict[tuple[Chain, str], Chain] = {}  # by the chain before, and consumer
        self._parts: dict[str, set[str]] = {}  # the routes whose chains a record is part of …
        self._parts_of: dict[str, tuple[str, ...]] = {}  # … and the other way round
        self._made: dict[str, dict[str, _Made]] = {}  # by record and plugin
        self._metadata: dict[str, Mapping[str, Any]] = {}
        self._rules: dict[str, schema.GlobalRule] = {}
        self._referring = Referring()  # the records with plugins that refer to secrets
        self._unknown: dict[str, tuple[str, ...]] = {}  # by record, plugins that are not there
        self._unmade: dict[str, dict[str, str]] = {}  # by record, plugins that are passed over, and why
        store.subscribe(self.consumers.changed, self.consumers.stage)
        store.subscribe(self.changed, self.stage)

    # requests

    def chain_of(self, route: "Route | None") -> Chain | None:
        """Return what applies to a route, or to a request without one; None when nothing does."""
        if route is None:
            return self.no_route
        if not route.has_plugins and (route.service is None or not route.service.has_plugins):
            return self.no_route
        try:
            return self._chains[route.id]
        except KeyError:
            return self._compiled(route)

    def with_consumer(self, chain: Chain, consumer: AttachedConsumer) -> Chain:
        """Return what applies to a request once it is known who it is from (data-model.md section 15).

        It is made of the ``chain`` that applies so far: the configuration may have changed since the request came.
        """
        if not consumer.has_plugins and consumer.group_id is None:
            return chain
        found = self._of_consumers.get((chain, consumer.username))
        if found is None:
            found = self._with_consumer(chain, consumer)
            found.brought = found.consumer_rewrite(chain)
            if len(self._of_consumers) >= MOST_CONSUMER_CHAINS:
                self._of_consumers.clear()
            self._of_consumers[chain, consumer.username] = found
        return found

    def metadata(self, name: str) -> msgspec.Struct | None:
        """Return the metadata of a plugin, with defaults; None when there is no such plugin."""
        registered = self.registry.get(name)
        return registered.metadata(self._metadata.get(name, {}), "$", []) if registered is not None else None

    # compiling

    def _compiled(self, route: "Route") -> Chain | None:
        merged = self._merged(route)
        if merged is not None:
            uses = self._uses(merged.plugins)
        else:  # whatever was to keep somebody out, is not known
            uses = [_missing(f"what is configured for route {route.id} is not known")]
        if route.plugin_config_id is not None and self._stored("plugin_configs", route.plugin_config_id) is None:
            uses.append(_missing(f"plugin config {route.plugin_config_id} of route {route.id} does not exist"))
        chain = self._chain(uses) if uses else self.no_route
        self._chains[route.id] = chain
        keys = []
        if route.service is not None:
            keys.append(f"services/{route.service.id}")
        if route.plugin_config_id is not None:
            keys.append(f"plugin_configs/{route.plugin_config_id}")
        for key in keys:
            self._parts.setdefault(key, set()).add(route.id)
        self._parts_of[route.id] = tuple(keys)
        return chain

    def _drop(self, route_id: str) -> None:
        """Throw the chain of a route away."""
        if self._chains.pop(route_id, MISSING) is MISSING:
            return
        for key in self._parts_of.pop(route_id):
            routes = self._parts[key]
            routes.discard(route_id)
            if not routes:
                del self._parts[key]

    def _with_consumer(self, chain: Chain, attached: AttachedConsumer) -> Chain:
        uses = {use.name: use for use in chain.uses}
        group = None
        if attached.group_id is not None:
            group = self._stored("consumer_groups", attached.group_id)
            if group is None:
                missing = _missing(f"consumer group {attached.group_id} of {attached.username} does not exist")
                return self._chain((*chain.uses, missing), chain.global_uses)
        consumer = self._stored("consumers", attached.username)
        for name, use in laid_over(consumer, group, self.registry.credentials).items():
            made = self._use(name, use.config, use.key) if not use.is_disabled else None
            if made is not None:
                uses[name] = made
            else:
                uses.pop(name, None)
        return self._chain(tuple(uses.values()), chain.global_uses)

    def _chain(self, uses: Sequence[Use], global_uses: Sequence[Use] | None = None) -> Chain:
        return Chain(self._global_uses if global_uses is None else global_uses, uses, self.statistics, self._bypass)

    def _merged(self, route: "Route") -> Merged | None:
        stored = self._stored("routes", route.id)
        if stored is None:
            return None
        config_id, service = route.plugin_config_id, route.service
        return merge(
            stored,
            self._stored("plugin_configs", config_id) if config_id is not None else None,
            self._stored("services", service.id) if service is not None else None,
        )

    def _stored(self, directory: str, id_: str) -> Stored[Any] | None:
        item = self._store.caches[directory].items.get(id_)
        value = self._store.value(directory, id_)
        return (
            Stored(f"{directory}/{id_}", item.mod_revision, value) if item is not None and value is not None else None
        )

    def _uses(self, plugins: Mapping[str, PluginUse]) -> list[Use]:
        uses = []
        for name, use in plugins.items():
            if not use.is_disabled:
                made = self._use(name, use.config, use.key)
                if made is not None:
                    uses.append(made)
        return uses

    def _use(self, name: str, config: Mapping[str, Any], key: str) -> Use | None:
        """Return a plugin in its place; None for one that is not known and whose absence opens nothing."""
        registered = self.registry.get(name) if self.is_enabled(name) else None
        if registered is None:
            if not self.registry.keeps_out(name):
                log.warning("%s: there is no plugin %s; it does not run", key, name)
                return None
            log.error(
                "%s: there is no plugin %s, so requests are refused; remove it, or set its _meta.disable", key, name
            )
            return Use(name, FailClosed(name), Meta(), key)
        if name in self._suspended:
            return None
        try:
            use = Use(name, self._plugin(registered, config, key), compiled_meta(config, registered.fails_closed), key)
        except ConfigError as error:
            return self._stand_in(registered, key, error)
        except FAILURES as error:
            self.statistics.failed(name, error)
            return self._stand_in(registered, key, error)
        self._unmade.get(key, {}).pop(name, None)
        return use

    def _stand_in(self, registered: Registered, key: str, error: BaseException) -> Use | None:
        """Return what is in the place of a plugin that cannot be made; None where requests do not need it."""
        name = registered.name
        reason = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        if not registered.only_observes:
            log.error("%s: plugin %s cannot be made, so requests are refused: %s", key, name, reason)
            return Use(name, FailClosed(name), Meta(), key)
        log.error("%s: plugin %s cannot be made, so requests go on without it: %s", key, name, reason)
        self._unmade.setdefault(key, {})[name] = reason
        return None

    def is_enabled(self, name: str) -> bool:
        """Tell whether a plugin runs where it is configured, as far as the list of the configuration says."""
        return self._listed is None or name in self._listed

    def _plugin(self, registered: Registered, config: Mapping[str, Any], key: str) -> Plugin[Any]:
        name, known = registered.name, self._metadata
        metadata = {each: known[each] for each in (name, *registered.plugin.reads_metadata_of) if each in known}
        of_record = self._made.setdefault(key, {})
        made = of_record.get(name)
        if made is not None and made.config == config and made.metadata == metadata:
            return made.plugin
        if made is not None:
            del of_record[name]
            self._close(made)
        typed = registered.metadata(metadata.get(name, {}), "$", [])
        scope = Scope(name, key, fingerprint(config), typed, self.services, name in metadata, metadata)
        plain = self.registry.plain(name, config, key)
        plugin = registered.plugin(registered.config(plain, "$", []), scope)
        of_record[name] = _Made(config, metadata, plugin)
        return plugin

    # changes

    def changed(self, changes: Sequence[Change]) -> None:
        """Throw away what changes concern; called by the store, between two requests."""
        self.note_unknown(self.find_unknown(changes))
        concerned = [change for change in changes if change.directory in _CONCERNED]
        if not concerned:
            return
        rules_changed = False
        for directory, id_, new in concerned:
            key = f"{directory}/{id_}"
            if directory in ("global_rules", "plugin_metadata"):
                rules_changed = True
                self._note(directory, id_, new)
            elif directory == "plugins":
                if self._follows_list:
                    rules_changed = True
                    self._list_changed(new)
            else:
                self._drop_all_of(directory, id_)
            if key in self._made:
                self._forget(key, new)
            self._unmade.pop(key, None)
            self._referring.note(key, _places_of(directory, new))
        self._of_consumers.clear()
        if rules_changed:
            self._rules_changed()
        self._router.version += 1  # what was found for a head is found again, with its chain

    def _note(self, directory: str, id_: str, new: Any) -> None:
        """Know a global rule, or a plugin's metadata, or do not know it any more."""
        if directory == "global_rules":
            self._rules.pop(id_, None)
            if new is not None:
                self._rules[id_] = new
        else:
            self._metadata.pop(id_, None)
            if new is not None:
                self._metadata[id_] = new.config

    def _drop_all_of(self, directory: str, id_: str) -> None:
        """Throw away the chains of routes that a record is part of."""
        if directory == "routes":
            self._drop(id_)
        for route_id in list(self._parts.get(f"{directory}/{id_}", ())):
            self._drop(route_id)

    def uses_secret(self, place: Place) -> bool:
        """Tell whether a secret is referred to; see ``SecretUser``."""
        return place in self._referring

    def secret_changed(self, place: Place) -> Iterator[None]:
        """Throw away, in steps, what was made with a secret that is another one now."""
        for key in self._referring.keys_of(place):
            of_record = self._made.get(key, {})
            for name in [name for name, made in of_record.items() if place in made.places]:
                self._close(of_record.pop(name))
            directory, _, id_ = key.partition("/")
            if directory == "global_rules":
                self._rules_changed()
            self._drop_all_of(directory, id_)
            self._of_consumers.clear()
            self._router.version += 1
            yield

    def _forget(self, key: str, new: Any) -> None:
        """Close the plugins of a record that are not in it any more, or not as they were."""
        plugins = new.plugins if new is not None else {}
        of_record = self._made[key]
        for name, made in list(of_record.items()):
            config = plugins.get(name)
            if config is None or config != made.config or is_disabled(config):
                del of_record[name]
                self._close(made)
        if not of_record:
            del self._made[key]

    def _list_changed(self, new: "Sequence[schema.ListedPlugin] | None") -> None:
        """Enable the plugins of a list alone, and close the others."""
        self._listed = None if new is None else frozenset(listed.name for listed in new if not listed.stream)
        for key, of_record in list(self._made.items()):
            for name in [name for name in of_record if not self.is_enabled(name)]:
                self._close(of_record.pop(name))
            if not of_record:
                del self._made[key]

    def _close(self, made: _Made) -> None:
        """Let a plugin give back what it holds; whatever it does, the rest goes on."""
        try:
            made.plugin.close()
        except FAILURES as error:
            name = type(made.plugin).name
            self.statistics.failed(name, error)

    def _rules_changed(self) -> None:
        self._chains = {}
        self._parts = {}
        self._parts_of = {}
        self._unmade = {}
        uses = []
        for name, keys in _places(self._rules).items():
            key = keys[0]
            if len(keys) > 1:
                log.error("plugin %s is in more than one global rule (%s); %s", name, ", ".join(keys), self._lost(name))
                if self.registry.keeps_out(name):
                    uses.append(Use(name, FailClosed(name), Meta(), key))
                continue
            config = self._rules[key.partition("/")[2]].plugins[name]
            use = self._use(name, config, key) if not is_disabled(config) else None
            if use is not None:
                uses.append(use)
        self._global_uses = tuple(uses)
        self.no_route = self._chain(()) if uses else None

    def stage(self) -> "_Staging":
        """Begin to collect the changes of a snapshot."""
        return _Staging(self)

    # what goes wrong in plugins

    def find_unknown(self, changes: Sequence[Change]) -> dict[str, tuple[str, ...]]:
        """Return by record which plugins in it are not there, as far as that was not known before."""
        found = {}
        for directory, id_, new in changes:
            if directory not in _PLUGIN_BEARING:
                continue
            plugins = new.plugins if new is not None else {}
            unknown = [name for name in plugins if self.registry.get(name) is None and not is_disabled(plugins[name])]
            key = f"{directory}/{id_}"
            if unknown or key in self._unknown:
                found[key] = tuple(unknown)
        return found

    def note_unknown(self, found: Mapping[str, tuple[str, ...]]) -> None:
        """Remember what was found."""
        for key, names in found.items():
            if names:
                self._unknown[key] = names
            else:
                self._unknown.pop(key, None)

    def warnings(self) -> Iterator[tuple[str, str]]:
        """Tell what does not work as it is written: the key of a record, and what is wrong with it."""
        for key, names in self._unknown.items():
            for name in names:
                yield key, f"there is no plugin {name}; {self._lost(name)}"
        for key, reasons in self._unmade.items():
            for name, reason in reasons.items():
                yield key, f"plugin {name} cannot be made, and requests go on without it: {reason}"
        for name, keys in _places(self._rules).items():
            if len(keys) > 1:
                yield keys[0], f"plugin {name} is in more than one global rule ({', '.join(keys)}); {self._lost(name)}"
        for name, record in self.statistics.records.items():
            if name in self._suspended:
                yield f"plugins/{name}", f"it fails too often and is passed over; the last time: {record.last_failure}"
            elif record.failures:
                yield f"plugins/{name}", f"it has failed {record.failures} times; the last time: {record.last_failure}"
            if record.blocked:
                yield f"plugins/{name}", f"it has blocked the event loop {record.blocked} times"

    def is_unmade(self, name: str, key: str) -> bool:
        """Tell whether a plugin is passed over where it is configured, since it cannot be made there."""
        return name in self._unmade.get(key, {})

    def knows(self, key: str) -> bool:
        """Tell whether anything is kept of the plugins of a record, besides chains."""
        return key in self._made or key in self._unmade

    def _lost(self, name: str) -> str:
        """Say what becomes of requests without a plugin."""
        return "requests are refused" if self.registry.keeps_out(name) else "it does not run"

    def uses(self) -> dict[str, int]:
        """Count the records in which each plugin is in use: configured, and needed by a request since."""
        counts: dict[str, int] = {}
        for of_record in self._made.values():
            for name in of_record:
                counts[name] = counts.get(name, 0) + 1
        return counts

    def used_in(self, name: str) -> list[str]:
        """Return the keys of those records for one plugin."""
        return sorted(key for key, of_record in self._made.items() if name in of_record)

    @property
    def failures(self) -> dict[str, int]:
        """The number of exceptions, by plugin."""
        return {name: record.failures for name, record in self.statistics.records.items() if record.failures}

    @property
    def blocked(self) -> dict[str, int]:
        """The number of calls that kept the loop, by plugin."""
        return {name: record.blocked for name, record in self.statistics.records.items() if record.blocked}

    @property
    def suspended(self) -> frozenset[str]:
        """The plugins that are passed over for the time being, since they fail too often."""
        return frozenset(self._suspended)

    def _suspend(self, name: str) -> None:
        """Pass a plugin over for a while, unless it keeps somebody out."""
        if self.registry.keeps_out(name) or name in self._suspended:
            return
        log.error("plugin %s fails so often that it is passed over for %g s", name, self._window)
        self._suspended[name] = self.services.loop.call_later(self._window, self._resume, name)
        self._compile_anew()

    def _resume(self, name: str) -> None:
        del self._suspended[name]
        log.info("plugin %s is no longer passed over", name)
        self._compile_anew()

    def _compile_anew(self) -> None:
        self._rules_changed()
        self._of_consumers = {}
        self._router.version += 1

    def close(self) -> None:
        """Close all plugins."""
        for timer in self._suspended.values():
            timer.cancel()
        for of_record in self._made.values():
            for made in of_record.values():
                self._close(made)
        self._made.clear()
        self.services.close()


class _Staging:
    """The changes of a snapshot: routes that are not compiled need not be told."""

    def __init__(self, host: PluginHost) -> None:
        self._host = host
        self._changes: list[Change] = []
        self._unknown: dict[str, tuple[str, ...]] = {}
        self._has_consumers = False
        self._places: dict[str, frozenset[Place]] = {}

    def add(self, changes: Sequence[Change]) -> None:
        host = self._host
        self._unknown.update(host.find_unknown(changes))
        for change in changes:
            key = f"{change.directory}/{change.id}"
            places = _places_of(change.directory, change.new)
            if places or host._referring.has(key):
                self._places[key] = places
            if change.directory == "routes":
                if change.id in host._chains or host.knows(key):
                    self._changes.append(change)
            elif change.directory == "consumers":
                self._has_consumers = True
                if host.knows(key):
                    self._changes.append(change)
            elif change.directory in _CONCERNED:
                self._changes.append(change)

    def finish(self) -> Iterator[None]:
        return iter(())

    def commit(self) -> None:
        host = self._host
        for key, places in self._places.items():
            host._referring.note(key, places)
        host.note_unknown(self._unknown)
        host.changed(self._changes)
        if self._has_consumers:
            host._of_consumers.clear()

    def clean(self) -> Iterator[None]:
        return iter(())

    def drop(self) -> None:
        self._changes = []
        self._unknown = {}


def compiled_meta(config: Mapping[str, Any], keeps_out: bool = False) -> Meta:
    """Compile what a configuration says under ``_meta``; raises ConfigError.

    A filter that takes too long to evaluate exempts nobody from a plugin that keeps somebody out.
    """
    if "_meta" not in config:
        return Meta()
    meta = msgspec.convert(config["_meta"], PluginMeta)
    condition = compile_expression(meta.filter, "$._meta.filter", in_doubt=keeps_out) if meta.filter else None
    return Meta(meta.priority, condition, meta.error_response)


def fingerprint(config: Mapping[str, Any]) -> str:
    """Return the CRC-32 of a configuration, equal for equal ones however they are written."""
    return f"{crc32(msgspec.json.encode(config, order='sorted')):x}"


def _places(rules: Mapping[str, schema.GlobalRule]) -> dict[str, list[str]]:
    """Return by plugin the keys of the global rules that it is in."""
    found: dict[str, list[str]] = {}
    for id_, rule in sorted(rules.items()):
        for name in rule.plugins:
            found.setdefault(name, []).append(f"global_rules/{id_}")
    return found


def _places_of(directory: str, new: Any) -> frozenset[Place]:
    """Return the secrets that the plugins of a record refer to."""
    return places_in(new.plugins) if new is not None and directory in _PLUGIN_BEARING else frozenset()


def _missing(reason: str) -> Use:
    log.error("%s; requests get 503", reason)
    return Use("", Missing(reason), Meta(priority=1_000_000))
