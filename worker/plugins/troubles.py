"""Troubles: what does not work of the plugins as they are configured, and which are passed over for that.

A plugin may not be there, or may not be made; it may be in more than one global rule; its calls may fail, or block the
event loop. All of it is told by ``warnings``, by the record that it is in.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from config_sync import schema
from config_sync.cache import Change
from config_sync.schema.plugins import is_disabled
from worker.plugins.references import PLUGIN_BEARING
from worker.plugins.registry import Registry
from worker.plugins.services import PluginServices
from worker.plugins.statistics import PluginStatistics

log = logging.getLogger("propylon.plugins")


class Troubles:
    """What goes wrong in the plugins of one worker."""

    def __init__(self, registry: Registry, services: PluginServices, switched: Callable[[], None]) -> None:
        """Call ``switched`` when a plugin is passed over from now on, and when it is not any more."""
        settings = services.settings.plugins
        self.statistics = PluginStatistics(settings.failure_budget, settings.failure_window, self._suspend)
        self._registry = registry
        self._services = services
        self._switched = switched
        self._window = settings.failure_window
        self._suspended: dict[str, asyncio.TimerHandle] = {}  # plugins that fail too often
        self._unknown: dict[str, tuple[str, ...]] = {}  # by record, plugins that are not there
        self._unmade: dict[str, dict[str, str]] = {}  # by record, plugins that are passed over, and why

    # plugins that are not there

    def find_unknown(self, changes: Sequence[Change]) -> dict[str, tuple[str, ...]]:
        """Return by record which plugins in it are not there, as far as that was not known before."""
        found = {}
        for directory, id_, new in changes:
            if directory not in PLUGIN_BEARING:
                continue
            plugins = new.plugins if new is not None else {}
            unknown = [name for name in plugins if self._registry.get(name) is None and not is_disabled(plugins[name])]
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

    # plugins that cannot be made

    def note_unmade(self, name: str, key: str, reason: str) -> None:
        """Remember that a plugin is passed over in a record, since it cannot be made there."""
        self._unmade.setdefault(key, {})[name] = reason

    def note_made(self, name: str, key: str) -> None:
        """Remember that a plugin has been made after all."""
        self._unmade.get(key, {}).pop(name, None)

    def is_unmade(self, name: str, key: str) -> bool:
        """Tell whether a plugin is passed over in a record, since it cannot be made there."""
        return name in self._unmade.get(key, {})

    def has_unmade(self, key: str) -> bool:
        """Tell whether plugins of a record are remembered that could not be made."""
        return key in self._unmade

    def forget_unmade(self, key: str) -> None:
        """Forget which plugins of a record could not be made: it is another one now."""
        self._unmade.pop(key, None)

    def forget_all_unmade(self) -> None:
        """Forget them of all records: all are made anew."""
        self._unmade = {}

    # plugins that fail too often

    @property
    def suspended(self) -> frozenset[str]:
        """The plugins that are passed over for the time being, since they fail too often."""
        return frozenset(self._suspended)

    def is_suspended(self, name: str) -> bool:
        """Tell whether a plugin is one of them."""
        return name in self._suspended

    def _suspend(self, name: str) -> None:
        """Pass a plugin over for a while, unless it keeps somebody out."""
        if self._registry.keeps_out(name) or name in self._suspended:
            return
        log.error("plugin %s fails so often that it is passed over for %g s", name, self._window)
        self._suspended[name] = self._services.loop.call_later(self._window, self._resume, name)
        self._switched()

    def _resume(self, name: str) -> None:
        del self._suspended[name]
        log.info("plugin %s is no longer passed over", name)
        self._switched()

    # what is told

    def warnings(self, rules: Mapping[str, schema.GlobalRule]) -> Iterator[tuple[str, str]]:
        """Tell what does not work as it is written: the key of a record, and what is wrong with it."""
        for key, names in self._unknown.items():
            for name in names:
                yield key, f"there is no plugin {name}; {self.loss_of(name)}"
        for key, reasons in self._unmade.items():
            for name, reason in reasons.items():
                yield key, f"plugin {name} cannot be made, and requests go on without it: {reason}"
        for name, keys in rules_of(rules).items():
            if len(keys) > 1:
                lost = self.loss_of(name)
                yield keys[0], f"plugin {name} is in more than one global rule ({', '.join(keys)}); {lost}"
        for name, record in self.statistics.records.items():
            if name in self._suspended:
                yield f"plugins/{name}", f"it fails too often and is passed over; the last time: {record.last_failure}"
            elif record.failures:
                yield f"plugins/{name}", f"it has failed {record.failures} times; the last time: {record.last_failure}"
            if record.blocked:
                yield f"plugins/{name}", f"it has blocked the event loop {record.blocked} times"

    @property
    def failures(self) -> dict[str, int]:
        """The number of exceptions, by plugin."""
        return {name: record.failures for name, record in self.statistics.records.items() if record.failures}

    @property
    def blocked(self) -> dict[str, int]:
        """The number of calls that kept the loop, by plugin."""
        return {name: record.blocked for name, record in self.statistics.records.items() if record.blocked}

    def loss_of(self, name: str) -> str:
        """Say what becomes of requests without a plugin."""
        return "requests are refused" if self._registry.keeps_out(name) else "it does not run"

    def close(self) -> None:
        """Let no plugin come back any more."""
        for timer in self._suspended.values():
            timer.cancel()


def rules_of(rules: Mapping[str, schema.GlobalRule]) -> dict[str, list[str]]:
    """Return by plugin the keys of the global rules that it is in."""
    found: dict[str, list[str]] = {}
    for id_, rule in sorted(rules.items()):
        for name in rule.plugins:
            found.setdefault(name, []).append(f"global_rules/{id_}")
    return found
