"""Consumers by what they prove themselves with: for each authenticating plugin a dictionary, changed entry by entry.

A credential belongs to the consumer whose name is in its key; without that consumer it opens nothing. Where two have
the same value, the one whose key comes first counts, in all workers alike.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from config_sync import schema
from config_sync.cache import Change

log = logging.getLogger("propylon.consumers")


class AttachedConsumer(NamedTuple):
    """Who a request is from, and how that was proved."""

    username: str
    credential_id: str | None
    group_id: str | None
    labels: Mapping[str, Any]
    has_plugins: bool
    auth: Any  # the consumer's or credential's configuration of the plugin that has found it

    @property
    def custom_id(self) -> str | None:
        """The label that is told to upstreams."""
        value = self.labels.get("custom_id")
        return None if value is None else str(value)


class _Owner(NamedTuple):
    """One record with credentials in it."""

    username: str
    credential_id: str | None
    found_by: tuple[tuple[str, str], ...]  # plugin and value


class Consumers:
    """All consumers and credentials, ready to be found."""

    def __init__(self, decode: "Callable[[str, Mapping[str, Any]], tuple[str, msgspec.Struct] | None]") -> None:
        """``decode`` makes of a plugin's name and configuration the value it is found by, and the typed form."""
        self._decode = decode
        self._consumers: dict[str, schema.Consumer] = {}
        self._owners: dict[str, _Owner] = {}
        self._found: dict[str, dict[str, dict[str, Any]]] = {}  # by plugin, value and key of the record

    def changed(self, changes: Sequence[Change]) -> None:
        """Take over changes of the directory ``consumers``; others are passed over."""
        for change in changes:
            if change.directory == "consumers":
                self._forget(change.id)
                if change.new is not None:
                    self._enter(change.id, change.new)

    def _enter(self, key: str, new: "schema.Consumer | schema.Credential") -> None:
        if isinstance(new, schema.Credential):
            username, credential_id = new.username, key.rpartition("/")[2]
        else:
            username, credential_id = key, None
            self._consumers[key] = new
        found_by: list[tuple[str, str]] = []
        for plugin, config in new.plugins.items():
            decoded = self._decode(plugin, config)
            if decoded is not None:
                value, auth = decoded
                self._found.setdefault(plugin, {}).setdefault(value, {})[key] = auth
                found_by.append((plugin, value))
        if found_by:
            self._owners[key] = _Owner(username, credential_id, tuple(found_by))

    def _forget(self, key: str) -> None:
        self._consumers.pop(key, None)
        owner = self._owners.pop(key, None)
        for plugin, value in owner.found_by if owner is not None else ():
            entries = self._found[plugin]
            del entries[value][key]
            if not entries[value]:
                del entries[value]

    def find(self, plugin: str, value: str) -> AttachedConsumer | None:
        """Return whom a value stands for with an authenticating plugin."""
        entries = self._found.get(plugin, {}).get(value)
        for key in sorted(entries) if entries else ():
            owner = self._owners[key]
            attached = self.attached(owner.username, owner.credential_id, entries[key])  # type: ignore[index]
            if attached is not None:
                return attached
        return None

    def attached(self, username: str, credential_id: str | None = None, auth: Any = None) -> AttachedConsumer | None:
        """Return a consumer by name, as for ``anonymous_consumer``; None when there is none."""
        consumer = self._consumers.get(username)
        if consumer is None:
            return None
        others = consumer.plugins.keys() - schema.AUTHENTICATION
        return AttachedConsumer(username, credential_id, consumer.group_id, consumer.labels or {}, bool(others), auth)

    def __len__(self) -> int:
        return len(self._consumers)
