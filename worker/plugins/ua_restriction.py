"""Lets clients through, or keeps them out, by their ``User-Agent``.

Exactly one of ``allowlist`` and ``denylist``: regular expressions, found anywhere, with regard to case. Who is kept out
gets 403 with ``{"message": message}``; so does who sends no User-Agent, unless ``bypass_missing``.

Several User-Agent fields are looked at as one, joined by commas. A search that takes longer than 2 ms counts against
the client.
"""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from worker.plugins.answer import Answer, message
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import any_of, check_exactly_one, check_regexes
from worker.variables.values import text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

Patterns = Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)]


class UaRestrictionConfig(msgspec.Struct):
    """Who is let through, and what the others are told."""

    allowlist: Patterns | None = None
    denylist: Patterns | None = None
    bypass_missing: bool = False
    message: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] = "Not allowed"


class UaRestriction(Plugin[UaRestrictionConfig]):
    """Looks at User-Agent."""

    name = "ua-restriction"
    priority = 2999
    Config = UaRestrictionConfig

    def __init__(self, config: UaRestrictionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._passes = config.allowlist is not None  # whom the list names
        self._found = any_of(config.allowlist or config.denylist or (), when_late=not self._passes)
        self._refusal = message(403, config.message)

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that there is one list, of regular expressions."""
        check_exactly_one(config, "allowlist", "denylist")
        check_regexes(config.allowlist, "$.allowlist")
        check_regexes(config.denylist, "$.denylist")

    def access(self, exchange: "Exchange") -> Answer | None:
        """Refuse whom the list does not let through."""
        agent = exchange.request.header(b"user-agent") if exchange.request is not None else None
        if agent is None:
            return None if self.config.bypass_missing else self._refusal
        return None if self._found(text_of(agent)) is self._passes else self._refusal
