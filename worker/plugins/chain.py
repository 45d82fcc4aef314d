"""Chain: the plugins that apply to a request, compiled into one row of hooks for each phase.

In each phase the plugins of global rules come first, then those of the route as merged (plugins.md section 1), each
sorted by priority, then by name. What ``_meta`` says is compiled into the hooks: a plugin without it pays nothing for
it. ``run`` carries out a phase that may answer.
"""

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec

from config_sync.schema import AUTHENTICATION
from worker.errors import BodyNeeded, PluginFailed, ProxyError
from worker.http.relay import buffer_body
from worker.plugins.answer import Answer
from worker.plugins.base import FAILURES, Plugin
from worker.plugins.registry import are_added_names
from worker.plugins.stand_ins import FAIL_CLOSED
from worker.plugins.statistics import PluginRecord, PluginStatistics
from worker.plugins.tasks import in_task

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead

BLOCKING_TIME = 0.02  # seconds in one call after which a plugin is said to block the loop

RequestHook = Callable[["Exchange"], "Answer | Awaitable[Answer | None] | None"]
HeaderHook = Callable[["Exchange", "ResponseHead"], None]
AddedFields = Callable[["Exchange"], bytes]
BodyHook = Callable[["Exchange", bytes, bool], "bytes | Awaitable[bytes]"]
LogHook = Callable[["Exchange"], None]
Condition = Callable[["Exchange"], bool]


class Meta:
    """What a plugin's ``_meta`` says, compiled."""

    __slots__ = ("error_response", "filter", "priority")

    def __init__(
        self, priority: int | None = None, condition: Condition | None = None, error_response: Any = None
    ) -> None:
        self.priority = priority
        self.filter = condition
        self.error_response: bytes | None = None
        if isinstance(error_response, str):
            self.error_response = error_response.encode()
        elif error_response is not None:
            self.error_response = msgspec.json.encode(error_response) + b"\n"


class Use:
    """A plugin in its place in a list, with its ``_meta``; ``key`` is the record in which it is written."""

    __slots__ = ("key", "meta", "name", "plugin")

    def __init__(self, name: str, plugin: Plugin[Any], meta: Meta, key: str = "") -> None:
        self.name = name
        self.key = key
        self.plugin = plugin
        self.meta = meta

    @property
    def fails_closed(self) -> bool:
        """Whether it is never passed over."""
        plugin = self.plugin
        is_known = self.name in AUTHENTICATION or self.name in FAIL_CLOSED
        return is_known or plugin.fails_closed or plugin.Consumer is not None

    @property
    def order(self) -> tuple[int, str]:
        """By what a list is sorted: the priority, descending, then the name."""
        own = self.meta.priority
        return -(self.plugin.priority if own is None else own), self.name


class Step:
    """A hook that may answer."""

    __slots__ = ("error_response", "hook", "name", "record")

    def __init__(self, use: Use, hook: RequestHook, record: PluginRecord) -> None:
        self.name = use.name
        self.record = record
        self.hook = hook if use.meta.filter is None else _filtered_request(use, hook)
        self.error_response = use.meta.error_response

    def answered(self, answer: Answer) -> Answer:
        """Return what the client gets for what the hook has answered."""
        if self.error_response is None or answer.status < 400:
            return answer
        return Answer(answer.status, self.error_response, answer.fields)


class Chain:
    """The hooks of each phase; nothing in a chain is ever changed."""

    __slots__ = (
        "access",
        "added",
        "added_names",
        "authenticating",
        "before_proxy",
        "body_filter",
        "brought",
        "bypass",
        "closed",
        "filters",
        "global_uses",
        "header_filter",
        "log",
        "rewrite",
        "statistics",
        "uses",
    )

    def __init__(
        self, global_uses: Sequence[Use], uses: Sequence[Use], statistics: PluginStatistics, bypass: bool = False
    ) -> None:
        """Compile lists; with ``bypass`` a plugin that fails is passed over instead of failing the request."""
        own = {use.name for use in uses}
        of_rules = [use for use in global_uses if not (use.plugin.prefers_route and use.name in own)]
        self.global_uses = tuple(sorted(of_rules, key=lambda use: use.order))
        self.uses = tuple(sorted(uses, key=lambda use: use.order))
        self.statistics = statistics
        self.bypass = bypass
        everyone = (*self.global_uses, *self.uses)
        self.closed = frozenset(use.name for use in everyone if use.fails_closed)
        self.authenticating = frozenset(use.name for use in everyone if use.plugin.Consumer is not None)
        self.rewrite = self._steps(everyone, "rewrite")
        self.access = self._steps(everyone, "access")
        self.brought = self.access  # what runs once the consumer is known: see ``consumer_rewrite``
        self.before_proxy = self._steps(everyone, "before_proxy")
        answering = sorted(everyone, key=lambda use: use.plugin.comes_last)
        self.header_filter: tuple[tuple[PluginRecord, HeaderHook], ...] = tuple(
            (statistics.of(use.name), use.plugin.header_filter if use.meta.filter is None else _filtered_header(use))
            for use in answering
            if _overrides(use.plugin, "header_filter")
        )
        self.body_filter: tuple[tuple[PluginRecord, BodyHook], ...] = tuple(
            (statistics.of(use.name), use.plugin.body_filter if use.meta.filter is None else _filtered_body(use))
            for use in answering
            if _overrides(use.plugin, "body_filter")
        )
        self.filters = bool(self.header_filter or self.body_filter)
        # What to do instead of all of them with answers whose heads only get longer; empty where there is more to do.
        adding = [use for use in answering if _overrides(use.plugin, "header_filter")]
        only_adds = not self.body_filter and all(map(_adds, adding))
        names = [name for use in adding for name in use.plugin.added_names] if only_adds else []
        only_adds = only_adds and len(set(names)) == len(names)
        self.added: tuple[tuple[PluginRecord, AddedFields], ...] = tuple(
            (statistics.of(use.name), use.plugin.added_fields) for use in adding if only_adds
        )
        self.added_names = tuple(b"\n%b:" % name for name in names) if only_adds else ()
        self.log: tuple[tuple[PluginRecord, LogHook], ...] = tuple(
            (statistics.of(use.name), use.plugin.log if use.meta.filter is None else _filtered_log(use))
            for use in everyone
            if _overrides(use.plugin, "log")
        )

    def consumer_rewrite(self, before: "Chain") -> tuple[Step, ...]:
        """Return the rewrite hooks of what a consumer has brought that did not run before it was known."""
        ran = {use.name for use in before.uses}
        left_out = {*ran, *AUTHENTICATION, *self.authenticating, "multi-auth"}
        brought = [use for use in self.uses if use.name not in left_out]
        return self._steps(brought, "rewrite")

    def _steps(self, uses: Sequence[Use], hook: str) -> tuple[Step, ...]:
        return tuple(
            Step(use, getattr(use.plugin, hook), self.statistics.of(use.name))
            for use in uses
            if _overrides(use.plugin, hook)
        )

    def run(self, exchange: "Exchange", steps: Sequence[Step]) -> "Answer | Awaitable[Answer | None] | None":
        """Carry out a phase, until one of its hooks answers; from one on that waits, the rest of it is awaited.

        Raises:
            ProxyError: what a hook has raised; PluginFailed for whatever else it was.
        """
        is_timed = exchange.run.is_timed  # type: ignore[union-attr]  # hooks run in one
        began = perf_counter()
        for step in steps:
            try:
                answer = step.hook(exchange)
            except BodyNeeded as needed:
                if is_timed:
                    self.took(step.record, 0.0, is_timed)
                return self._go_on(exchange, steps, step, self._call_with_body(exchange, step, needed.limit))
            except ProxyError:
                raise
            except FAILURES as error:
                self.failed(step.name, error)
                answer = None
            now = perf_counter()
            if is_timed or now - began > BLOCKING_TIME:
                self.took(step.record, now - began, is_timed)
            began = now
            if answer is not None:
                if isinstance(answer, Answer):
                    return step.answered(answer)
                # an async hook's, or of one that waits now and then
                return self._go_on(exchange, steps, step, self._wait(exchange, step, answer))
        return None

    async def _go_on(
        self, exchange: "Exchange", steps: Sequence[Step], step: Step, waiting: "Awaitable[Answer | None]"
    ) -> Answer | None:
        """Wait for a step of a phase, and carry out the rest of it."""
        answer = await waiting
        if answer is not None:
            return step.answered(answer)
        rest = self.run(exchange, steps[steps.index(step) + 1 :])
        return rest if rest is None or isinstance(rest, Answer) else await rest

    async def _wait(self, exchange: "Exchange", step: Step, awaitable: Awaitable[Answer | None]) -> Answer | None:
        """Wait for what a hook awaits."""
        try:
            return _checked(await in_task(exchange, awaitable))
        except BodyNeeded as needed:
            return await self._call_with_body(exchange, step, needed.limit)
        except ProxyError:
            raise
        except FAILURES as error:
            self.failed(step.name, error)
            return None

    async def _call_with_body(self, exchange: "Exchange", step: Step, limit: int) -> Answer | None:
        """Call a hook again, and wait for it, when ``limit`` bytes of the body have been received.

        It may ask once more, for more than that: its filter may have wanted to see less than the hook itself.
        """
        seen = -1
        try:
            while limit > seen:
                await buffer_body(exchange, limit)
                seen = limit
                try:
                    answer = step.hook(exchange)
                    if answer is not None and not isinstance(answer, Answer):
                        answer = await in_task(exchange, answer)
                    return _checked(answer)
                except BodyNeeded as more:
                    limit = more.limit
            raise RuntimeError(f"it asks for {limit} bytes of the body, and has been shown {seen}")
        except ProxyError:
            raise
        except FAILURES as error:
            self.failed(step.name, error)
            return None

    def took(self, record: PluginRecord, seconds: float, is_timed: bool) -> None:
        """Note how long a call has taken."""
        if is_timed:
            record.calls += 1
            record.seconds += seconds
        if seconds > BLOCKING_TIME:
            self.statistics.blocked(record.name, seconds)

    def failed(self, name: str, error: BaseException, may_bypass: bool = True) -> None:
        """Note that a plugin has raised an exception, and fail the request unless it is, and may, be bypassed.

        Raises:
            PluginFailed: the plugin is not to be bypassed; one that keeps somebody out never is.
        """
        self.statistics.failed(name, error)
        if not (self.bypass and may_bypass) or name in self.closed:
            raise PluginFailed(f"plugin {name} has failed: {type(error).__name__}") from error


def _checked(answer: object) -> Answer | None:
    """Return what a hook has answered, which may be anything."""
    if answer is None or isinstance(answer, Answer):
        return answer
    raise TypeError(f"it has returned a {type(answer).__name__} instead of an Answer")


def _overrides(plugin: Plugin[Any], hook: str) -> bool:
    return hook not in plugin.unused and getattr(type(plugin), hook) is not getattr(Plugin, hook)


def _adds(use: Use) -> bool:
    """Tell whether what the plugin adds is all that its filter does: not where one of the two is inherited."""
    filtering = next(kind for kind in type(use.plugin).__mro__ if "header_filter" in vars(kind))
    return use.meta.filter is None and "added_fields" in vars(filtering) and are_added_names(use.plugin.added_names)


def _applies(use: Use) -> Condition:
    """Return the verdict of a plugin's ``_meta.filter``, found out once for each request, at its first use."""
    condition = use.meta.filter
    assert condition is not None  # noqa: S101 - only asked for those that have one

    def applies(exchange: "Exchange") -> bool:
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        if run.filtered is None:
            run.filtered = {}
        verdict = run.filtered.get(use)
        if verdict is None:
            verdict = run.filtered[use] = condition(exchange)
        return verdict

    return applies


def _filtered_request(use: Use, hook: RequestHook) -> RequestHook:
    applies = _applies(use)
    passed_over: RequestHook | None = getattr(use.plugin, "passed_over", None)
    if passed_over is None:
        return lambda exchange: hook(exchange) if applies(exchange) else None
    return lambda exchange: (hook if applies(exchange) else passed_over)(exchange)


def _still_applies(use: Use) -> Condition:
    """Return the verdict for the phases of the answer: a body that nobody has read by then is not looked at."""
    applies = _applies(use)

    def still_applies(exchange: "Exchange") -> bool:
        try:
            return applies(exchange)
        except BodyNeeded:
            return False

    return still_applies


def _filtered_header(use: Use) -> HeaderHook:
    applies, hook = _still_applies(use), use.plugin.header_filter
    return lambda exchange, head: hook(exchange, head) if applies(exchange) else None


def _filtered_body(use: Use) -> BodyHook:
    applies, hook = _still_applies(use), use.plugin.body_filter
    return lambda exchange, data, is_last: hook(exchange, data, is_last) if applies(exchange) else data


def _filtered_log(use: Use) -> LogHook:
    applies, hook = _still_applies(use), use.plugin.log
    return lambda exchange: hook(exchange) if applies(exchange) else None
