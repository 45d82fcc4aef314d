"""PluginRun: what the plugins of one exchange have found out and decided."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worker.consumers import AttachedConsumer
    from worker.plugins.answer import Answer
    from worker.plugins.chain import Chain, Use
    from worker.plugins.filters import BodyFilters
    from worker.plugins.response_head import ResponseHead
    from worker.upstream.peer import UpstreamCell


class PluginRun:
    """Kept by an exchange to which plugins apply; None where there are none."""

    __slots__ = (
        "answer",
        "body",
        "chain",
        "client",
        "consumer",
        "data",
        "filtered",
        "head",
        "is_timed",
        "sent_at",
        "sent_head",
        "upstream",
    )

    def __init__(self, chain: "Chain", started: float, is_timed: bool) -> None:
        self.chain = chain  # what applies; another one once a consumer with plugins is attached
        self.is_timed = is_timed  # whether it is told how long plugins take
        self.client: tuple[str, int] | None = None  # address and port, when a plugin has found out
        self.consumer: AttachedConsumer | None = None
        self.upstream: UpstreamCell | None = None  # instead of the route's
        self.answer: Answer | None = None  # what a plugin has answered
        self.sent_at = started  # when it has turned to peers, by the loop's clock; as it began unless it waited
        self.sent_head = b""  # of the answer; empty: that of the upstream's answer, unchanged
        self.head: ResponseHead | None = None  # of the answer, once it goes through the header filters
        self.body: BodyFilters | None = None
        self.data: dict[Any, Any] | None = None  # what plugins keep of this exchange; keys are the plugins themselves
        self.filtered: dict[Use, bool] | None = None  # verdicts of ``_meta.filter``

    def keep(self, plugin: object, value: object) -> None:
        """Keep something for a later hook of the same plugin."""
        if self.data is None:
            self.data = {}
        self.data[plugin] = value

    def kept(self, plugin: object) -> Any:
        """Return what was kept; None when nothing was."""
        return self.data.get(plugin) if self.data is not None else None
