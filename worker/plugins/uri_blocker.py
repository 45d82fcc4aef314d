"""Keeps out requests whose path or query holds what must not come through.

``block_rules``: regular expressions, each once, found anywhere in ``request_uri``: the normalised path with the query.
A request with one of them gets ``rejected_code``, with ``{"error_msg": rejected_msg}`` when that is set.

A search that takes longer than 2 ms counts as found.
"""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from config_sync.schema.fields import refuse_repeated
from worker.plugins.answer import Answer, error_message
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import any_of, check_regexes
from worker.variables import accessor

if TYPE_CHECKING:
    from worker.exchange import Exchange


class UriBlockerConfig(msgspec.Struct):
    """What is blocked, and what is answered."""

    block_rules: list[Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]]
    rejected_code: Annotated[int, msgspec.Meta(ge=200, le=599)] = 403
    rejected_msg: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    case_insensitive: bool = False


class UriBlocker(Plugin[UriBlockerConfig]):
    """Looks at path and query."""

    name = "uri-blocker"
    priority = 2900
    Config = UriBlockerConfig

    def __init__(self, config: UriBlockerConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._found = any_of(config.block_rules, config.case_insensitive, when_late=True)
        self._uri = accessor("request_uri")
        refused = config.rejected_code, config.rejected_msg
        self._refusal = Answer(refused[0]) if refused[1] is None else error_message(refused[0], refused[1])

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that the rules are regular expressions, each once."""
        refuse_repeated(config.block_rules, "$.block_rules")
        check_regexes(config.block_rules, "$.block_rules")

    def rewrite(self, exchange: "Exchange") -> Answer | None:
        """Refuse what a rule is found in."""
        return self._refusal if self._found(str(self._uri(exchange))) else None
