"""Says whether an answer may wait in the gateway; here it never does.

``disable_proxy_buffering`` (false) changes nothing: every piece of an answer is sent on as it comes, and the upstream
is read from as fast as the client takes it.
"""

import msgspec

from worker.plugins.base import Plugin


class ProxyBufferingConfig(msgspec.Struct):
    """Whether answers are to be sent on as they come."""

    disable_proxy_buffering: bool = False


class ProxyBuffering(Plugin[ProxyBufferingConfig]):
    """Does nothing."""

    name = "proxy-buffering"
    priority = 21991
    Config = ProxyBufferingConfig
