"""Lets requests through, or keeps them out, by the host in their ``Referer``.

Exactly one of ``whitelist`` and ``blacklist``: hosts, or ``*`` and the end of hosts (``*.a.com`` is not ``a.com``).
Who is kept out gets 403 with ``{"message": message}``; so does who sends no Referer, or one that is no absolute URI
with http or https, unless ``bypass_missing``. Hosts are compared without regard to case and without the port.
"""

import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from config_sync.errors import InvalidResource
from config_sync.schema.fields import HOST
from worker.plugins.answer import Answer, message
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import check_exactly_one

if TYPE_CHECKING:
    from worker.exchange import Exchange

_REFERER = re.compile(rb"(?i)https?://(?:[^/?#@\\]*@)?(\[[0-9a-f:.]+\]|[^/?#@:\\\s\[\]]+)(?::[0-9]*)?(?:[/?#]|$)")

Hosts = Annotated[list[str], msgspec.Meta(min_length=1)]


class RefererRestrictionConfig(msgspec.Struct):
    """Who is let through, and what the others are told."""

    whitelist: Hosts | None = None
    blacklist: Hosts | None = None
    bypass_missing: bool = False
    message: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] = "Your referer host is not allowed"


class RefererRestriction(Plugin[RefererRestrictionConfig]):
    """Looks at Referer."""

    name = "referer-restriction"
    priority = 2990
    Config = RefererRestrictionConfig

    def __init__(self, config: RefererRestrictionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        hosts = [host.lower().encode() for host in config.whitelist or config.blacklist or ()]
        self._passes = config.whitelist is not None  # whom the list names
        self._hosts = frozenset(host for host in hosts if not host.startswith(b"*"))
        self._suffixes = tuple(host[1:] for host in hosts if host.startswith(b"*"))
        self._refusal = message(403, config.message)

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that there is one list, of hosts."""
        check_exactly_one(config, "whitelist", "blacklist")
        for name in ("whitelist", "blacklist"):
            for at, host in enumerate(getattr(config, name) or ()):
                if HOST.fullmatch(host) is None:
                    raise InvalidResource(f"$.{name}[{at}]", "is no host, nor * and the end of hosts")

    def access(self, exchange: "Exchange") -> Answer | None:
        """Refuse what the list does not let through."""
        referer = exchange.request.header(b"referer") if exchange.request is not None else None
        found = _REFERER.match(referer) if referer else None
        if found is None:
            return None if self.config.bypass_missing else self._refusal
        host = found[1].lower()
        is_listed = host in self._hosts or host.endswith(self._suffixes)
        return None if is_listed is self._passes else self._refusal
