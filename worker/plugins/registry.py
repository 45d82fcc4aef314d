"""The plugins there are: built in, in a directory of the settings, or installed as an entry point.

A worker loads them before it accepts anybody, so that no import happens while requests are served; a reload therefore
brings new code. One that cannot be loaded keeps the worker from starting, for it may be one that keeps somebody out.
"""

import importlib
import importlib.util
import inspect
import logging
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from config_sync.errors import InvalidResource, SettingsError
from config_sync.schema.decoding import Lenient
from config_sync.secrets import Resolver
from worker.plugins.base import Plugin
from worker.plugins.references import resolved

log = logging.getLogger("propylon.plugins")

BUILT_IN = "worker.plugins"
ENTRY_POINTS = "propylon.plugins"
FOREIGN = "propylon_plugins"  # the package in which modules of the directory are
SYNCHRONOUS = ("header_filter", "body_filter", "log")
_NOT_ITS_OWN = frozenset(("_meta", "disable"))

PluginClass = type[Plugin[Any]]


class Registered:
    """A plugin class, with converters for what can be configured of it."""

    def __init__(self, plugin: PluginClass, source: str) -> None:
        """Take a class that was found in a place.

        Raises:
            SettingsError: it is not made as a plugin must be.
        """
        self.plugin = plugin
        self.name = plugin.name
        self.source = source
        for hook in SYNCHRONOUS:
            if inspect.iscoroutinefunction(getattr(plugin, hook)):
                raise SettingsError(f"{source}: {hook} must not be async: the answer is on its way")
        self._config: Lenient[msgspec.Struct] = Lenient(plugin.Config)
        self._metadata: Lenient[msgspec.Struct] = Lenient(plugin.Metadata)
        self._consumer: Lenient[msgspec.Struct] | None = Lenient(plugin.Consumer) if plugin.Consumer else None

    def config(self, value: Mapping[str, Any], path: str, warnings: list[str]) -> msgspec.Struct:
        """Convert a configuration, and check it; InvalidResource when it is not right."""
        config = _typed(self._config, value, path, warnings)
        try:
            self.plugin.check(config)
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


def _typed(
    converter: Lenient[msgspec.Struct], value: Mapping[str, Any], path: str, warnings: list[str]
) -> msgspec.Struct:
    own = {name: member for name, member in value.items() if name not in _NOT_ITS_OWN}
    return converter.typed(converter.relaxed(own, path, warnings), path)


class Registry:
    """Plugins by name; also the check of their configurations for the decoders (``PluginCheck``)."""

    def __init__(self, plugins: Mapping[str, Registered], secrets: Resolver | None = None) -> None:
        """Take plugins; what configurations refer to is looked up in ``secrets``, by default the environment."""
        self._plugins = plugins
        self.secrets = secrets or Resolver()

    def get(self, name: str) -> Registered | None:
        """Return a plugin that is there."""
        return self._plugins.get(name)

    def with_plugins(self, more: Iterable[Registered]) -> "Registry":
        """Return a registry with further plugins, which take the place of those of the same name."""
        return Registry({**self._plugins, **{registered.name: registered for registered in more}}, self.secrets)

    def names(self) -> list[str]:
        """Return the names of all plugins, by priority."""
        return sorted(self._plugins, key=lambda name: (-self._plugins[name].plugin.priority, name))

    def __call__(self, name: str, config: dict[str, Any], path: str, is_credential: bool, warnings: list[str]) -> None:
        """Check a configuration; unknown plugins are accepted, with a warning (data-model.md section 16)."""
        registered = self.get(name)
        if registered is None:
            warnings.append(f"{path}: there is no plugin {name}")
            return
        missing: list[str] = []
        plain = resolved(config, self.secrets, path, missing)
        warnings += [f"{at}: nothing is known of what it refers to" for at in missing]
        try:
            if is_credential:
                registered.consumer(plain, path, warnings)
            else:
                registered.config(plain, path, warnings)
        except InvalidResource as error:
            if error.path not in missing:  # what stands there then is not known
                raise

    def credential(self, name: str, config: Mapping[str, Any]) -> tuple[str, msgspec.Struct] | None:
        """Return by what a consumer is found that has this configuration, and its typed form; None: by nothing."""
        registered = self.get(name)
        if registered is None or registered.plugin.Consumer is None:
            return None
        missing: list[str] = []
        plain = resolved(config, self.secrets, "$", missing)
        if missing:
            log.error("a credential of %s opens nothing: nothing is known of what %s refers to", name, missing[0])
            return None
        try:
            typed = registered.consumer(plain, "$", [])
        except InvalidResource:
            return None  # it was good when it came: a variable or secret it refers to has gone
        except Exception:
            log.exception("a credential of %s opens nothing: the plugin has failed over it", name)
            return None
        return str(getattr(typed, registered.plugin.credential)), typed

    def plain(self, name: str, config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        """Return a configuration with what it refers to; a reference that leads nowhere stays as it is written."""
        missing: list[str] = []
        plain: Mapping[str, Any] = resolved(config, self.secrets, "$", missing)
        for path in missing:
            log.error("%s: plugin %s: nothing is known of what %s refers to", key, name, path)
        return plain

    def metadata(self, name: str, config: dict[str, Any], path: str, warnings: list[str]) -> None:
        """Check metadata; those of unknown plugins are accepted."""
        registered = self.get(name)
        if registered is not None:
            registered.metadata(config, path, warnings)


def load_registry(path: str = "", only: tuple[str, ...] = ()) -> Registry:
    """Import all plugins: those of ours, then the installed ones, then those in the directory ``path``.

    A later one of the same name takes the place of an earlier one. ``only`` names those that are wanted; none: all.

    Raises:
        SettingsError: one of them cannot be loaded, or is not made as a plugin must be.
    """
    found: dict[str, Registered] = {}
    for module, source in (*_built_in(), *_installed(), *_in_directory(path)):
        for plugin in _classes(module):
            try:
                registered = Registered(plugin, source)
            except TypeError as error:
                raise SettingsError(f"plugin {plugin.name} of {source}: {error}") from error
            if not only or registered.name in only:
                found[registered.name] = registered
    return Registry(found)


Found = tuple[ModuleType, str]


def _classes(module: ModuleType) -> Iterator[PluginClass]:
    for value in vars(module).values():
        is_own = isinstance(value, type) and issubclass(value, Plugin) and value.__module__ == module.__name__
        if is_own and "name" in vars(value):
            yield value


def import_built_in() -> None:
    """Import our own plugins, with the rights that the rest of our code is imported with; SettingsError as above."""
    for _ in _built_in():
        pass


def _built_in() -> Iterator[Found]:
    package = importlib.import_module(BUILT_IN)
    for module in pkgutil.walk_packages(package.__path__, f"{BUILT_IN}."):
        if module.name != f"{BUILT_IN}.testing":
            yield _imported(module.name, module.name)


def _installed() -> Iterator[Found]:
    for point in entry_points(group=ENTRY_POINTS):
        yield _imported(point.module, f"entry point {point.name} ({point.value})")


def _imported(name: str, source: str) -> Found:
    try:
        return importlib.import_module(name), source
    except Exception as error:  # a plugin's module may fail in any way
        raise SettingsError(f"plugins of {source} cannot be loaded: {type(error).__name__}: {error}") from error


def _in_directory(path: str) -> Iterator[Found]:
    directory = Path(path)
    if not path:
        return
    if not directory.is_dir():
        raise SettingsError(f"plugins.path: {directory} is not a directory")
    for file in sorted(directory.glob("*.py")):
        if not file.name.startswith(("_", "test_")):
            yield _loaded(file)


def _loaded(file: Path) -> Found:
    spec = importlib.util.spec_from_file_location(f"{FOREIGN}.{file.stem}", file)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - so for every .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # msgspec looks types up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a plugin's module may fail in any way
        del sys.modules[spec.name]
        raise SettingsError(f"plugins of {file} cannot be loaded: {type(error).__name__}: {error}") from error
    return module, str(file)
