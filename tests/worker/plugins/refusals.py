"""What is said of configurations that cannot be."""

from collections.abc import Mapping
from typing import Any

from worker.plugins.testing import PluginKit


def complaint(name: str, config: Mapping[str, Any]) -> str:
    """Return what is wrong with a plugin's configuration: the path inside it and the reason; empty for nothing."""
    with PluginKit() as kit:
        try:
            kit.put("routes/refused", {"uri": "/refused", "plugins": {name: config}})
        except AssertionError as error:
            rejected = error.args[0]
            return f"{rejected.path}: {rejected.reason}".removeprefix(f"$.plugins['{name}']")
    return ""
