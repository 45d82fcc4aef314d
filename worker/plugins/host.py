"""PluginHost: which plugins apply to a request, kept equal to the configuration.

A route's chain is compiled at its first request after a change of anything that it is made of, and a route to which
no plugin applies has none. What is compiled is kept by route; a change throws away the chains that it concerns, and
no others. The plugins themselves are kept by ``PluginMaker``, and a new chain has the old objects as long as they stay
the same; what does not work of them, ``Troubles`` knows.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from config_sync import schema
from config_sync.cache import Change, ConfigStore
from config_sync.merge import Merged, PluginUse, Stored, laid_over, merge
from config_sync.schema.plugins import is_disabled
from config_sync.secrets import Place
from worker.consumers import AttachedConsumer, Consumers
from worker.plugins.chain import Chain, Meta, Use
from worker.plugins.host_staging import HostStaging
from worker.plugins.making import PluginMaker
from worker.plugins.references import PLUGIN_BEARING, Referring, places_of
from worker.plugins.registry import Registry
from worker.plugins.services import PluginServices
from worker.plugins.stand_ins import FailClosed, Missing
from worker.plugins.troubles import Troubles, rules_of

if TYPE_CHECKING:
    from worker.routing.route import Route
    from worker.routing.router import Router

log = logging.getLogger("propylon.plugins")

MISSING = object()
MOST_CONSUMER_CHAINS = 10_000
_CONCERNED = PLUGIN_BEARING | {"plugin_metadata", "plugins"}


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
        self._follows_list = services.settings.plugins.listed_only
        self.troubles = Troubles(registry, services, self._compile_anew)
        self.statistics = self.troubles.statistics
        self.maker = PluginMaker(registry, services, self.troubles)
        self._chains: dict[str, Chain | None] = {}  # by route
        self._of_consumers: dict[tuple[Chain, str], Chain] = {}  # by the chain before, and consumer
        self._parts: dict[str, set[str]] = {}  # the routes whose chains a record is part of …
        self._parts_of: dict[str, tuple[str, ...]] = {}  # … and the other way round
        self._rules: dict[str, schema.GlobalRule] = {}
        self._referring = Referring()  # the records with plugins that refer to secrets
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
            found.brought = (*found.consumer_rewrite(chain), *found.access)
            if len(self._of_consumers) >= MOST_CONSUMER_CHAINS:
                self._of_consumers.clear()
            self._of_consumers[chain, consumer.username] = found
        return found

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
            made = self.maker.use(name, use.config, use.key) if not use.is_disabled else None
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
                made = self.maker.use(name, use.config, use.key)
                if made is not None:
                    uses.append(made)
        return uses

    # changes

    def changed(self, changes: Sequence[Change]) -> None:
        """Throw away what changes concern; called by the store, between two requests."""
        self.troubles.note_unknown(self.troubles.find_unknown(changes))
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
                    self.maker.list_changed(new)
            else:
                self._drop_all_of(directory, id_)
            self.maker.forget(key, new)
            self.troubles.forget_unmade(key)
            self._referring.note(key, places_of(directory, new))
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
            self.maker.note_metadata(id_, new.config if new is not None else None)

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
            self.maker.forget_secret(key, place)
            directory, _, id_ = key.partition("/")
            if directory == "global_rules":
                self._rules_changed()
            self._drop_all_of(directory, id_)
            self._of_consumers.clear()
            self._router.version += 1
            yield

    def _rules_changed(self) -> None:
        self._chains = {}
        self._parts = {}
        self._parts_of = {}
        self.troubles.forget_all_unmade()
        uses = []
        for name, keys in rules_of(self._rules).items():
            key = keys[0]
            if len(keys) > 1:
                lost = self.troubles.loss_of(name)
                log.error("plugin %s is in more than one global rule (%s); %s", name, ", ".join(keys), lost)
                if self.registry.keeps_out(name):
                    uses.append(Use(name, FailClosed(name), Meta(), key))
                continue
            config = self._rules[key.partition("/")[2]].plugins[name]
            use = self.maker.use(name, config, key) if not is_disabled(config) else None
            if use is not None:
                uses.append(use)
        self._global_uses = tuple(uses)
        try:
            self.no_route = self._chain(()) if uses else None
        except Exception:  # of a plugin that is made as none can be: nobody is let past the others because of it
            log.exception("the global rules cannot be put together, and all requests are refused")
            self._global_uses = (Use("global_rules", FailClosed("global_rules"), Meta(), ""),)
            self.no_route = self._chain(())

    def stage(self) -> HostStaging:
        """Begin to collect the changes of a snapshot."""
        return HostStaging(self._referring, self.troubles, self._concerns, self._take)

    def _concerns(self, change: Change) -> bool:
        """Tell whether anything that has been made may be another one after a change in a snapshot."""
        key = f"{change.directory}/{change.id}"
        if change.directory == "routes":
            return change.id in self._chains or self.maker.knows(key)
        if change.directory == "consumers":
            return self.maker.knows(key)
        return change.directory in _CONCERNED

    def _take(self, changes: Sequence[Change], has_consumers: bool) -> None:
        """Take over what concerns this in a snapshot."""
        self.changed(changes)
        if has_consumers:
            self._of_consumers.clear()

    def _compile_anew(self) -> None:
        self._rules_changed()
        self._of_consumers = {}
        self._router.version += 1

    def close(self) -> None:
        """Close all plugins."""
        self.troubles.close()
        self.maker.close()
        self.services.close()

    # what is told of plugins

    def metadata(self, name: str) -> msgspec.Struct | None:
        """Return the metadata of a plugin, with defaults; None when there is no such plugin."""
        return self.maker.metadata(name)

    def is_enabled(self, name: str) -> bool:
        """Tell whether a plugin runs where it is configured, as far as the list of the configuration says."""
        return self.maker.is_enabled(name)

    def is_unmade(self, name: str, key: str) -> bool:
        """Tell whether a plugin is passed over where it is configured, since it cannot be made there."""
        return self.troubles.is_unmade(name, key)

    def uses(self) -> dict[str, int]:
        """Count the records in which each plugin is in use: configured, and needed by a request since."""
        return self.maker.uses()

    def used_in(self, name: str) -> list[str]:
        """Return the keys of those records for one plugin."""
        return self.maker.used_in(name)

    def warnings(self) -> Iterator[tuple[str, str]]:
        """Tell what does not work as it is written: the key of a record, and what is wrong with it."""
        return self.troubles.warnings(self._rules)

    @property
    def failures(self) -> dict[str, int]:
        """The number of exceptions, by plugin."""
        return self.troubles.failures

    @property
    def blocked(self) -> dict[str, int]:
        """The number of calls that kept the loop, by plugin."""
        return self.troubles.blocked

    @property
    def suspended(self) -> frozenset[str]:
        """The plugins that are passed over for the time being, since they fail too often."""
        return self.troubles.suspended


def _missing(reason: str) -> Use:
    log.error("%s; requests get 503", reason)
    return Use("", Missing(reason), Meta(priority=1_000_000))
