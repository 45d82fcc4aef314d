"""PluginMaker: the plugin objects of a worker, kept by the record they are written in.

As long as configuration and metadata stay the same, so does the object. One that is not needed any more is closed.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import msgspec

from config_sync import schema
from config_sync.errors import ConfigError
from config_sync.schema.plugins import PluginMeta, is_disabled
from config_sync.secrets import Place, places_in
from worker.plugins.base import FAILURES, Plugin, Scope
from worker.plugins.chain import Meta, Use
from worker.plugins.registry import Registered, Registry
from worker.plugins.services import PluginServices
from worker.plugins.stand_ins import FailClosed
from worker.plugins.troubles import Troubles
from worker.routing.expressions import compile_expression

log = logging.getLogger("propylon.plugins")


class Made:
    """A plugin object, and what it was made of."""

    __slots__ = ("config", "metadata", "places", "plugin")

    def __init__(
        self, config: Mapping[str, Any], metadata: Mapping[str, Mapping[str, Any]], plugin: Plugin[Any]
    ) -> None:
        self.places = places_in(config)  # the secrets it refers to
        self.config = config
        self.metadata = metadata
        self.plugin = plugin


class PluginMaker:
    """Makes plugins when they are needed, and closes them when they are not."""

    def __init__(self, registry: Registry, services: PluginServices, troubles: Troubles) -> None:
        self.made: dict[str, dict[str, Made]] = {}  # by record and plugin
        self._registry = registry
        self._services = services
        self._troubles = troubles
        self._listed: frozenset[str] | None = None  # the plugins that are enabled; None: all
        self._metadata: dict[str, Mapping[str, Any]] = {}

    # making

    def use(self, name: str, config: Mapping[str, Any], key: str) -> Use | None:
        """Return a plugin in its place; None for one that is not known and whose absence opens nothing."""
        registered = self._registry.get(name) if self.is_enabled(name) else None
        if registered is None:
            if not self._registry.keeps_out(name):
                log.warning("%s: there is no plugin %s; it does not run", key, name)
                return None
            log.error(
                "%s: there is no plugin %s, so requests are refused; remove it, or set its _meta.disable", key, name
            )
            return Use(name, FailClosed(name), Meta(), key)
        if self._troubles.is_suspended(name):
            return None
        try:
            use = Use(name, self._plugin(registered, config, key), compiled_meta(config, registered.fails_closed), key)
        except ConfigError as error:
            return self._stand_in(registered, key, error)
        except FAILURES as error:
            self._troubles.statistics.failed(name, error)
            return self._stand_in(registered, key, error)
        self._troubles.note_made(name, key)
        return use

    def _stand_in(self, registered: Registered, key: str, error: BaseException) -> Use | None:
        """Return what is in the place of a plugin that cannot be made; None where requests do not need it."""
        name = registered.name
        reason = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        if not registered.only_observes:
            log.error("%s: plugin %s cannot be made, so requests are refused: %s", key, name, reason)
            return Use(name, FailClosed(name), Meta(), key)
        log.error("%s: plugin %s cannot be made, so requests go on without it: %s", key, name, reason)
        self._troubles.note_unmade(name, key, reason)
        return None

    def _plugin(self, registered: Registered, config: Mapping[str, Any], key: str) -> Plugin[Any]:
        name, known = registered.name, self._metadata
        metadata = {each: known[each] for each in (name, *registered.plugin.reads_metadata_of) if each in known}
        of_record = self.made.setdefault(key, {})
        made = of_record.get(name)
        if made is not None and made.config == config and made.metadata == metadata:
            return made.plugin
        if made is not None:
            del of_record[name]
            self._close(made)
        typed = registered.metadata(metadata.get(name, {}), "$", [])
        scope = Scope(name, key, fingerprint(config), typed, self._services, name in metadata, metadata)
        plain = self._registry.plain(name, config, key)
        plugin = registered.plugin(registered.config(plain, "$", []), scope)
        of_record[name] = Made(config, metadata, plugin)
        return plugin

    # what they are made of besides their configuration

    def metadata(self, name: str) -> msgspec.Struct | None:
        """Return the metadata of a plugin, with defaults; None when there is no such plugin."""
        registered = self._registry.get(name)
        return registered.metadata(self._metadata.get(name, {}), "$", []) if registered is not None else None

    def note_metadata(self, name: str, config: Mapping[str, Any] | None) -> None:
        """Know what is written as metadata of a plugin, or do not know it any more."""
        self._metadata.pop(name, None)
        if config is not None:
            self._metadata[name] = config

    def is_enabled(self, name: str) -> bool:
        """Tell whether a plugin runs where it is configured, as far as the list of the configuration says."""
        return self._listed is None or name in self._listed

    def list_changed(self, new: Sequence[schema.ListedPlugin] | None) -> None:
        """Enable the plugins of a list alone, and close the others."""
        self._listed = None if new is None else frozenset(listed.name for listed in new if not listed.stream)
        for key, of_record in list(self.made.items()):
            for name in [name for name in of_record if not self.is_enabled(name)]:
                self._close(of_record.pop(name))
            if not of_record:
                del self.made[key]

    # closing

    def forget(self, key: str, new: Any) -> None:
        """Close the plugins of a record that are not in it any more, or not as they were."""
        of_record = self.made.get(key)
        if of_record is None:
            return
        plugins = new.plugins if new is not None else {}
        for name, made in list(of_record.items()):
            config = plugins.get(name)
            if config is None or config != made.config or is_disabled(config):
                del of_record[name]
                self._close(made)
        if not of_record:
            del self.made[key]

    def forget_secret(self, key: str, place: Place) -> None:
        """Close the plugins of a record that were made with a secret."""
        of_record = self.made.get(key, {})
        for name in [name for name, made in of_record.items() if place in made.places]:
            self._close(of_record.pop(name))

    def _close(self, made: Made) -> None:
        """Let a plugin give back what it holds; whatever it does, the rest goes on."""
        try:
            made.plugin.close()
        except FAILURES as error:
            name = type(made.plugin).name
            self._troubles.statistics.failed(name, error)

    def close(self) -> None:
        """Close all plugins."""
        for of_record in self.made.values():
            for made in of_record.values():
                self._close(made)
        self.made.clear()

    # what is told

    def knows(self, key: str) -> bool:
        """Tell whether anything is kept of the plugins of a record."""
        return key in self.made or self._troubles.has_unmade(key)

    def uses(self) -> dict[str, int]:
        """Count the records in which each plugin is in use: configured, and needed by a request since."""
        counts: dict[str, int] = {}
        for of_record in self.made.values():
            for name in of_record:
                counts[name] = counts.get(name, 0) + 1
        return counts

    def used_in(self, name: str) -> list[str]:
        """Return the keys of those records for one plugin."""
        return sorted(key for key, of_record in self.made.items() if name in of_record)


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
