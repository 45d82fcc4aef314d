"""Where plugins come from: built in, installed with an entry point, or in a directory of the settings.

A worker loads them before it accepts anybody, so that no import happens while requests are served; a reload therefore
brings new code. One that cannot be loaded keeps the worker from starting, for it may be one that keeps somebody out.
"""

import importlib
import logging
import pkgutil
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from config_sync.errors import SettingsError
from worker.plugins.base import Plugin
from worker.plugins.registry import PluginClass, Registered, Registry

log = logging.getLogger("propylon.plugins")

BUILT_IN = "worker.plugins"
ENTRY_POINTS = "propylon.plugins"
FOREIGN = "propylon_plugins"  # the package in which modules of the directory are

Found = tuple[PluginClass, str]  # with its source


def load_registry(path: str = "", enabled: tuple[str, ...] = ()) -> Registry:
    """Import all plugins: those of ours, then the installed ones, then those in the directory ``path``.

    A later one of the same name takes the place of an earlier one. ``enabled`` names those that are wanted; none: all.

    Raises:
        SettingsError: one of them cannot be loaded, or is not made as a plugin must be, or two are called the same.
    """
    importlib.invalidate_caches()
    found = dict(_built_in())
    for place in (_installed(), _in_directory(path)):
        found |= {name: registered.check() for name, registered in _registered(place).items()}
    for name in enabled:
        if name not in found:
            log.warning("plugins.enabled: there is no plugin %s", name)
    if not enabled:
        return Registry(found)
    kept = {name: registered for name, registered in found.items() if name in enabled}
    withheld = {name for name in found.keys() - kept.keys() if found[name].plugin.fails_closed}
    return Registry(kept, withheld=frozenset(withheld))


def _registered(place: Iterable[Found]) -> dict[str, Registered]:
    found: dict[str, Registered] = {}
    for plugin, source in place:
        registered = Registered(plugin, source)
        other = found.setdefault(registered.name, registered)
        if other.plugin is not plugin:
            raise SettingsError(f"plugin {registered.name} is in {other.source} and in {source}")
    return found


def import_built_in() -> None:
    """Import our own plugins, with the rights that the rest of our code is imported with; SettingsError as above.

    Workers that are forked from this process need not do so again.
    """
    _built_in()


@cache
def _built_in() -> Mapping[str, Registered]:
    package = importlib.import_module(BUILT_IN)
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{BUILT_IN}.")]
    return _registered(
        found for name in names if name != f"{BUILT_IN}.testing" for found in _classes(_imported(name, name), name)
    )


def _installed() -> Iterator[Found]:
    for point in entry_points(group=ENTRY_POINTS):
        source = f"entry point {point.name} ({_origin(point)})"
        try:
            named = point.load()
        except Exception as error:  # a plugin's module may fail in any way
            raise _not_loaded(source, error) from error
        classes = list(_classes(named, source)) if isinstance(named, ModuleType) else [(named, source)]
        if not classes or not all(_is_plugin(each) for each, _ in classes):
            raise SettingsError(f"{source} is neither a plugin with a name nor a module with one")
        yield from classes


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}, {point.value}" if point.dist is not None else point.value


def _in_directory(path: str) -> Iterator[Found]:
    if not path:
        return
    directory = Path(path)
    if not directory.is_dir():
        raise SettingsError(f"plugins.path: {directory} is not a directory")
    _become_package(directory)
    for file in sorted(directory.iterdir()):
        is_package = (file / "__init__.py").is_file()
        if (is_package or file.suffix == ".py") and not file.name.startswith(("_", "test_", "conftest")):
            yield from _classes(_imported(f"{FOREIGN}.{file.stem}", str(file)), str(file))


def _classes(module: ModuleType, source: str) -> Iterator[Found]:
    for value in vars(module).values():
        if _is_plugin(value) and f"{value.__module__}.".startswith(f"{module.__name__}."):
            yield value, source


def _is_plugin(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Plugin) and "name" in vars(value)


def _imported(name: str, source: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a plugin's module may fail in any way
        raise _not_loaded(source, error) from error


def _not_loaded(source: str, error: Exception) -> SettingsError:
    if isinstance(error, SyntaxError):
        reason = f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
        reason = f"{type(error).__name__}: {error} ({frames[-1].filename}:{frames[-1].lineno})"
    return SettingsError(f"plugins of {source} cannot be loaded: {reason}")


def _become_package(directory: Path) -> None:
    """Let the modules in a directory be those of a package, imported anew."""
    for name in [name for name in sys.modules if name == FOREIGN or name.startswith(f"{FOREIGN}.")]:
        del sys.modules[name]
    package = ModuleType(FOREIGN, "The modules in plugins.path.")
    package.__path__ = [str(directory)]
    sys.modules[FOREIGN] = package
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the modules of the directory, and of packages in it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{FOREIGN}."):
            return None
        finders = (FileFinder(each, (_Source, [".py"])) for each in path or ())
        return next((spec for finder in finders if (spec := finder.find_spec(fullname)) is not None), None)


class _Source(SourceFileLoader):
    """Reads a module from its source alone: kept bytecode may be of what the file was a moment ago."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code
