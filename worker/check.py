"""What a worker does at its start, done by a process that ends then: for the check of new settings and new code."""

import asyncio
import importlib
import pkgutil

import uvloop

import config_sync
import worker
from config_sync.errors import SettingsError
from config_sync.providers import open_provider
from config_sync.settings import Settings
from worker.context import WorkerContext
from worker.observability.line_file import check_writable
from worker.observability.logs import ErrorLog
from worker.plugins.loading import load_registry
from worker.process import drop_privileges, open_store
from worker.scoreboard import Scoreboard
from worker.upstream.tls import SYSTEM, build_context

# Of no worker: those of the master, which a reload does not replace, and those of tools, which bring grpc.
FOREIGN = ("worker.supervisor", "config_sync.ctl", "config_sync.etcd.store")


def check_worker(settings: Settings) -> None:
    """Import all code of workers, become whom they run as, and open what they open; binds no address.

    Raises:
        SettingsError: a setting is of no use.
        OSError: a file cannot be opened.
        Exception: what a module raises that cannot be imported.
    """
    import_everything()
    drop_privileges(settings.user)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    ErrorLog(settings.error_log_path(), settings.log_level, in_thread=False)
    access_log = settings.access_log_path()
    if access_log is not None:
        check_writable(access_log)
    registry = load_registry(settings.plugins.path, settings.plugins.enabled)
    store = open_store(settings, Scoreboard(1), registry)
    context = WorkerContext(settings, loop, store, registry=registry)
    open_provider(settings, store, loop, lambda _: None)
    authorities = settings.ssl.ssl_trusted_certificate
    if authorities != SYSTEM:
        try:
            build_context((), True, authorities)
        except OSError as error:
            raise SettingsError(f"ssl.ssl_trusted_certificate: {authorities}: {error.strerror or error}") from error
    context.close()


def import_everything() -> None:
    """Import every module that a worker may need; raises what a module raises."""
    for package in (worker, config_sync):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=_fail):
            if not module.name.startswith(FOREIGN):
                importlib.import_module(module.name)


def _fail(name: str) -> None:
    raise
