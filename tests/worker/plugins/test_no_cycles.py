"""The collector comes by rarely: what configuration changes leave behind must go by itself."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

from tests.worker.plugins.receivers import until
from worker.plugins.testing import PluginKit

ADDRESS = {"host": "127.0.0.1", "port": 1}
PLUGINS: dict[str, dict[str, Any]] = {
    "prometheus": {},
    "http-logger": {"uri": "http://127.0.0.1:1/"},
    "tcp-logger": ADDRESS,
    "udp-logger": ADDRESS,
    "syslog": ADDRESS,
    "file-logger": {},
    "opentelemetry": {"sampler": {"name": "always_on"}},
    "zipkin": {"endpoint": "http://127.0.0.1:1/", "sample_ratio": 1},
}


@pytest.mark.parametrize("plugin", PLUGINS, ids=list(PLUGINS))
def test_a_removed_plugin_leaves_no_cycle(plugin: str, tmp_path: Path) -> None:
    config = dict(PLUGINS[plugin])
    if plugin == "file-logger":
        config["path"] = str(tmp_path / "log")
    with PluginKit(
        {plugin: config}, {"plugin_metadata/opentelemetry": {"collector": {"address": "127.0.0.1:1"}}}
    ) as kit:
        kit.request()
        made = weakref.ref(kit.context.plugins.maker.made["routes/kit"][plugin].plugin)
        kit.run(kit.context.plugins.services.flush(5))
        gc.collect()
        gc.disable()
        try:
            kit.put("routes/kit", {"uri": "/*", "upstream": {"nodes": {"127.0.0.1:1980": 1}}})
            kit.request()
            kit.run(until(lambda: made() is None))
        finally:
            gc.enable()
