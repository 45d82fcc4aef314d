"""Tells of this gateway on the control interface: ``GET /v1/server_info``.

The answer has ``id``, which stays the same for a host and runtime directory, ``hostname``, ``version``, and
``boot_time``, when the worker that answers was started, in seconds since 1970. It is there as long as the settings'
``plugins.enabled`` do not leave the plugin out; nothing is configured of it.
"""

import os
import socket
import time
import uuid
from typing import TYPE_CHECKING, Any

from worker.plugins.base import NoConfig, Plugin
from worker.supervisor.command import own_version

if TYPE_CHECKING:
    from config_sync.settings import Settings


class ServerInfo(Plugin[NoConfig]):
    """Runs in no phase."""

    name = "server-info"
    priority = 990


def server_info(settings: "Settings", born_ns: int) -> dict[str, Any]:
    """Return what there is to tell; ``born_ns`` is of the monotonic clock."""
    hostname = socket.gethostname()
    place = f"{hostname}:{os.path.abspath(settings.runtime_dir)}"
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, place)),
        "hostname": hostname,
        "version": own_version(),
        "boot_time": int(time.time() - (time.monotonic_ns() - born_ns) / 1e9),
    }
