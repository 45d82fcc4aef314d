"""The plugins there are, by name, and what may be configured of them."""

import inspect
import logging
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from config_sync import schema
from config_sync.errors import InvalidResource, SettingsError
from config_sync.schema import AUTHENTICATION
from config_sync.schema.decoding import Lenient
from config_sync.secrets import Resolver
from worker.plugins.base import Plugin
from worker.plugins.references import is_same_place, resolved
from worker.plugins.stand_ins import FAIL_CLOSED

if TYPE_CHECKING:
    from config_sync.settings import Settings

log = logging.getLogger("propylon.plugins")

HOOKS = ("rewrite", "access", "before_proxy", "header_filter", "body_filter", "log")
SYNCHRONOUS = ("header_filter", "added_fields", "body_filter", "log")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_NOT_ITS_OWN = frozenset(("_meta", "disable"))

PluginClass = type[Plugin[Any]]


class Registered:
    """A plugin class, with converters for what can be configured of it, which are made when they are needed."""

    def __init__(self, plugin: PluginClass, source: str) -> None:
        """Take a class that was found in a place."""
        self.plugin = plugin
        self.name = plugin.name
        self.source = source

    def check(self) -> "Registered":
        """Return itself.

        Raises:
            SettingsError: the class is not made as a plugin must be.
        """
        fault = _fault(self.plugin)
        if fault:
            raise SettingsError(f"plugin {self.name} of {self.source}: {fault}")
        try:
            _ = self._config, self._metadata, self._consumer
        except (TypeError, NameError, AttributeError) as error:  # an annotation that msgspec cannot read
            raise SettingsError(f"plugin {self.name} of {self.source}: {error}") from error
        return self

    @cached_property
    def _config(self) -> Lenient[msgspec.Struct]:
        return Lenient(self.plugin.Config)

    @cached_property
    def _metadata(self) -> Lenient[msgspec.Struct]:
        return Lenient(self.plugin.Metadata)

    @cached_property
    def _consumer(self) -> Lenient[msgspec.Struct] | None:
        return Lenient(self.plugin.Consumer) if self.plugin.Consumer else None

    @property
    def fails_closed(self) -> bool:
        """Whether nobody gets through where it cannot run."""
        plugin = self.plugin
        is_known = self.name in AUTHENTICATION or self.name in FAIL_CLOSED
        return is_known or plugin.fails_closed or plugin.Consumer is not None

    @property
    def only_observes(self) -> bool:
        """Whether requests go on without it where it cannot be made."""
        return self.plugin.only_observes and not self.fails_closed

    @property
    def phases(self) -> tuple[str, ...]:
        """The hooks it has."""
        return phases_of(self.plugin)

    def config(
        self, value: Mapping[str, Any], path: str, warnings: list[str], settings: "Settings | None" = None
    ) -> msgspec.Struct:
        """Convert a configuration, and check it, also against settings; InvalidResource when it is not right."""
        config = _typed(self._config, value, path, warnings)
        try:
            self.plugin.check(config)
            if settings is not None:
                self.plugin.check_settings(config, settings)
        except InvalidResource as error:
            raise InvalidResource(path + error.path.removeprefix("$"), error.reason) from error
        return config

    def metadata(self, value: Mapping[str, Any], path: str, warnings: list[str]) -> msgspec.Struct:
        """Convert metadata; InvalidResource when they are not right."""
        return _typed(self._metadata, value, path, warnings)

    def consumer(self, value: Mapping[str, Any], path: str, warnings: list[str]) -> msgspec.Struct:
        """Convert the configuration in a consumer; InvalidResource when it is not right."""
        if self._consumer is None:
            raise InvalidResource(path, f"{self.name} does not authenticate consumers")
        config = _typed(self._consumer, value, path, warnings)
        try:
            self.plugin.check_consumer(config)
        except InvalidResource as error:
            raise InvalidResource(path + error.path.removeprefix("$"), error.reason) from error
        return config


def are_added_names(names: object) -> bool:
    """Tell whether the names of fields that a plugin adds are as they must be."""
    return isinstance(names, tuple) and all(isinstance(name, bytes) and name == name.lower() for name in names)


def phases_of(plugin: PluginClass) -> tuple[str, ...]:
    """Return the hooks that a plugin has."""
    return tuple(hook for hook in HOOKS if getattr(plugin, hook) is not getattr(Plugin, hook))


def _fault(plugin: PluginClass) -> str:
    """Return what is wrong with how a plugin is made; empty for nothing."""
    if not isinstance(plugin.name, str) or _NAME.fullmatch(plugin.name) is None:
        return "its name must be letters, digits, dots, - and _"
    if not isinstance(plugin.priority, int):
        return "its priority must be an integer"
    for attribute in ("Config", "Metadata", "Consumer"):
        value = getattr(plugin, attribute)
        is_struct = isinstance(value, type) and issubclass(value, msgspec.Struct)
        if not (is_struct or (attribute == "Consumer" and value is None)):
            return f"its {attribute} must be a msgspec.Struct"
    if plugin.Consumer is not None and plugin.credential not in plugin.Consumer.__struct_fields__:
        return "its credential must be a field of its Consumer"
    if not are_added_names(plugin.added_names):
        return "its added_names must be a tuple of bytes, in lower case"
    for hook in (*phases_of(plugin), "added_fields"):
        own, wanted = getattr(plugin, hook), inspect.signature(getattr(Plugin, hook)).parameters
        if hook in SYNCHRONOUS and inspect.iscoroutinefunction(own):
            return f"{hook} must not be async: the answer is on its way"
        try:
            inspect.signature(own).bind(*wanted)
        except TypeError:
            return f"{hook} must take ({', '.join(wanted)})"
    return ""


def _typed(
    converter: Lenient[msgspec.Struct], value: Mapping[str, Any], path: str, warnings: list[str]
) -> msgspec.Struct:
    own = {name: member for name, member in value.items() if name not in _NOT_ITS_OWN}
    return converter.typed(converter.relaxed(own, path, warnings), path)


class Registry:
    """Plugins by name; also the check of their configurations for the decoders (``PluginCheck``)."""

    def __init__(
        self,
        plugins: Mapping[str, Registered],
        secrets: Resolver | None = None,
        withheld: frozenset[str] = frozenset(),
    ) -> None:
        """Take plugins.

        Args:
            plugins: by name.
            secrets: where what configurations refer to is looked up; by default the environment.
            withheld: names of plugins that keep somebody out and are not enabled.
        """
        self._plugins = plugins
        self._withheld = withheld
        self.secrets = secrets or Resolver()
        self.settings: Settings | None = None  # against which configurations are checked
        own = (name for name, registered in plugins.items() if registered.plugin.Consumer is not None)
        self.credentials = schema.AUTHENTICATION.union(own)  # plugins whose configuration in a consumer is one

    def get(self, name: str) -> Registered | None:
        """Return a plugin that is there."""
        return self._plugins.get(name)

    def keeps_out(self, name: str) -> bool:
        """Tell whether nobody may get through in the absence of a plugin."""
        registered = self._plugins.get(name)
        return name in FAIL_CLOSED or name in self._withheld or (registered is not None and registered.fails_closed)

    def with_plugins(self, more: Iterable[Registered]) -> "Registry":
        """Return a registry with further plugins, which take the place of those of the same name."""
        plugins = {**self._plugins, **{registered.name: registered for registered in more}}
        return Registry(plugins, withheld=self._withheld)

    def names(self) -> list[str]:
        """Return the names of all plugins, by priority."""
        return sorted(self._plugins, key=lambda name: (-self._plugins[name].plugin.priority, name))

    def __call__(self, name: str, config: dict[str, Any], path: str, is_credential: bool, warnings: list[str]) -> None:
        """Check a configuration; unknown plugins are accepted, with a warning (data-model.md section 16)."""
        registered = self.get(name)
        if registered is None:
            warnings.append(f"{path}: there is no plugin {name}")
            return
        missing: dict[str, str] = {}
        plain = resolved(config, self._known_to_all, path, missing)
        warnings += [f"{at}: nothing is known of what it refers to" for at in self._lost(missing)]
        try:
            if is_credential:
                registered.consumer(plain, path, warnings)
            else:
                registered.config(plain, path, warnings, self.settings)
        except InvalidResource as error:
            if not any(is_same_place(error.path, at) for at in missing):  # what stands there then is not known
                raise

    def _known_to_all(self, reference: str) -> str | None:
        """Return what a reference stands for, if all workers are of one mind about it; a secret is asked for only."""
        found = self.secrets.resolve(reference)
        return None if self.secrets.is_managed(reference) else found

    def credential(self, name: str, config: Mapping[str, Any], key: str) -> tuple[str, msgspec.Struct] | None:
        """Return by what a consumer is found that has this configuration, and its typed form; None: by nothing.

        ``key`` is that of the record it stands in.
        """
        registered = self.get(name)
        if registered is None or registered.plugin.Consumer is None:
            return None
        missing: dict[str, str] = {}
        plain = resolved(config, self.secrets.resolve, "$", missing)
        for path in self._lost(missing):
            log.error("%s: %s opens nothing: nothing is known of what %s refers to", key, name, path)
        if missing:
            return None
        try:
            typed = registered.consumer(plain, "$", [])
        except InvalidResource as error:  # it was good when it came: what it refers to is not any more
            log.error("%s: %s opens nothing: %s %s", key, name, error.path, error.reason)
            return None
        except Exception:
            log.exception("a credential of %s opens nothing: the plugin has failed over it", name)
            return None
        return str(getattr(typed, registered.plugin.credential)), typed

    def plain(self, name: str, config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        """Return a configuration with what it refers to; a reference that leads nowhere stays as it is written."""
        missing: dict[str, str] = {}
        plain: Mapping[str, Any] = resolved(config, self.secrets.resolve, "$", missing)
        for path in self._lost(missing):
            log.error("%s: plugin %s: nothing is known of what %s refers to", key, name, path)
        return plain

    def _lost(self, missing: Mapping[str, str]) -> list[str]:
        """Return the paths of references that nobody is going to say anything about."""
        return [path for path, reference in missing.items() if not self.secrets.is_managed(reference)]

    def metadata(self, name: str, config: dict[str, Any], path: str, warnings: list[str]) -> None:
        """Check metadata; those of unknown plugins are accepted."""
        registered = self.get(name)
        if registered is not None:
            registered.metadata(config, path, warnings)
