"""Lets so many requests through in a time.

    count, time_window   how many in how many seconds; whole numbers, or templates of such
    key, key_type        what is counted: a variable (``var``, by default ``remote_addr``), a template
                         (``var_combination``), or everything together (``constant``)
    rules                instead of these: an array of {count, time_window, key, header_prefix}, whose keys are
                         templates. All apply in order; one whose key has no variable with a value is passed over
    window_type          ``fixed``: begins with the first request of a key. ``sliding``: the requests of this window of
                         the clock, and of the one before as much as it reaches into the last ``time_window`` seconds
    group                places with the same group, and the same configuration, count together
    rejected_code        of the answer to what is too much (503), ``rejected_msg`` its ``error_msg``
    policy               where is counted: ``local``, all workers of this node together, exactly, and over reloads; in
                         a Redis (extra ``redis``), for several nodes: ``redis`` with redis_host, redis_port,
                         redis_username, redis_password, redis_database, redis_timeout (ms), redis_ssl,
                         redis_ssl_verify, redis_keepalive_pool; ``redis-cluster`` with redis_cluster_nodes (host:port),
                         redis_cluster_name, redis_cluster_ssl, redis_cluster_ssl_verify; ``redis-sentinel`` with
                         redis_sentinels ({host, port}), redis_master_name, redis_role, redis_connect_timeout,
                         redis_read_timeout, sentinel_username, sentinel_password
    sync_interval        with a Redis and fixed windows: count here, and tell the Redis only every so many seconds (at
                         least 0.1; -1: with each request)
    show_limit_quota_header
                         every answer says what is left: X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset
                         (seconds), with ``1-``, ``2-`` or ``header_prefix`` before RateLimit for rules. The metadata
                         ``limit_header``, ``remaining_header``, ``reset_header`` give them other names
    allow_degradation    when it cannot be counted, requests pass; else they get 500 "failed to limit count"

A key without a value is the client's address. Where ``count`` is a template, the first request of a window decides how
many there are. Configurations of a group that differ count apart, and the log says so. A change of the configuration
begins new counts. ``redis_keepalive_timeout`` changes nothing: connections stay open.
"""

import logging
from collections.abc import Awaitable, Sequence
from time import time
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zlib import crc32

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.answer import Answer, error_message
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import check_field
from worker.plugins.limiting.keys import combination_of, counter_name, key_of, refusal
from worker.plugins.limiting.limits import Ask, Limit, Number, Quota
from worker.plugins.limiting.patience import patiently
from worker.plugins.limiting.quota_fields import NAMES, QuotaFields, check_names
from worker.plugins.limiting.redis_batches import Batches
from worker.plugins.limiting.redis_client import RedisClient, RedisFailed, client_of
from worker.plugins.limiting.redis_config import SentinelConfig, check_redis
from worker.plugins.limiting.redis_counts import RedisCounts
from worker.shared_state.counters import REFUSED
from worker.shared_state.locks import Busy

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.chain import RequestHook
    from worker.plugins.response_head import ResponseHead
    from worker.plugins.run import PluginRun

log = logging.getLogger("propylon.plugins")

LEAST_INTERVAL = 0.1  # seconds

Whole = Annotated[int, msgspec.Meta(ge=1)] | Annotated[str, msgspec.Meta(min_length=1)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class Rule(msgspec.Struct):
    """One of several limits."""

    count: Whole
    time_window: Whole
    key: Name
    header_prefix: Name | None = None


class LimitCountConfig(SentinelConfig, kw_only=True):
    """How many requests, of whom, in what time."""

    count: Whole | None = None
    time_window: Whole | None = None
    rules: Annotated[list[Rule], msgspec.Meta(min_length=1)] | None = None
    key: str = "remote_addr"
    key_type: Literal["var", "var_combination", "constant"] = "var"
    window_type: Literal["fixed", "sliding"] = "fixed"
    group: Name | None = None
    rejected_code: Annotated[int, msgspec.Meta(ge=200, le=599)] = 503
    rejected_msg: Name | None = None
    sync_interval: float = -1
    show_limit_quota_header: bool = True


class LimitCountMetadata(msgspec.Struct):
    """The names of the fields that say what is left."""

    limit_header: Name = NAMES[0]
    remaining_header: Name = NAMES[1]
    reset_header: Name = NAMES[2]


class LimitCount(Plugin[LimitCountConfig]):
    """Counts requests."""

    name = "limit-count"
    priority = 1002
    Config = LimitCountConfig
    Metadata = LimitCountMetadata

    def __init__(self, config: LimitCountConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        is_local = config.policy == "local"
        prefix = counter_name(scope) if config.group is None else self._join(config.group)
        self._limits = _limits(config, f"limit-count:{prefix}" if is_local else prefix, scope)
        self._refusal = refusal(config.rejected_code, config.rejected_msg)
        self._slides = config.window_type == "sliding"
        self._shows = config.show_limit_quota_header
        self.added_names = tuple(name for limit in self._limits for name in limit.fields.names)
        if not self._shows:
            self.unused = frozenset(("header_filter",))
        self._counters = scope.services.counters
        only = self._limits[0]
        is_ours = type(self).access is LimitCount.access
        if is_ours and is_local and not self._slides and config.rules is None and only.most and only.window:
            self.access = self._counting(only)  # type: ignore[method-assign,assignment]  # a closure is quicker
        self._redis: RedisClient | None = None
        self._remote: RedisCounts | Batches | None = None
        if not is_local:
            self._redis = client_of(config, scope.services)
            counts = RedisCounts(self._redis)
            batched = config.sync_interval > 0
            self._remote = Batches(counts, config.sync_interval, scope.services) if batched else counts

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that there is one limit or several, what they are made of, and where is counted."""
        check_redis(config)
        if config.sync_interval != -1:
            if config.sync_interval < LEAST_INTERVAL:
                raise InvalidResource("$.sync_interval", f"must be -1, or at least {LEAST_INTERVAL}")
            if config.policy == "local" or config.window_type != "fixed":
                raise InvalidResource("$.sync_interval", "needs a Redis and fixed windows")
        cls._check_limits(config)

    @staticmethod
    def _check_limits(config: LimitCountConfig) -> None:
        if config.rules is None:
            for name in ("count", "time_window"):
                if getattr(config, name) is None:
                    raise InvalidResource("$", "count and time_window, or rules, must be given")
                Number(getattr(config, name), f"$.{name}")
            return
        if config.count is not None or config.time_window is not None:
            raise InvalidResource("$.rules", "cannot be given with count and time_window")
        keys: set[str] = set()
        for at, rule in enumerate(config.rules):
            Number(rule.count, f"$.rules[{at}].count")
            Number(rule.time_window, f"$.rules[{at}].time_window")
            if rule.key in keys:
                raise InvalidResource(f"$.rules[{at}].key", "another rule has the same key")
            keys.add(rule.key)
            if rule.header_prefix is not None:
                check_field(rule.header_prefix, "", f"$.rules[{at}].header_prefix")

    def _join(self, group: str) -> str:
        """Join a group, and return how the names of its counters begin."""
        mine = f"{crc32(msgspec.json.encode(self.config)):x}"
        members = _groups.setdefault(group, {})
        members[self.scope.key] = mine
        others = [place for place, checksum in members.items() if checksum != mine]
        if others:
            log.error("limit-count of group %s: %s counts apart from %s", group, self.scope.key, ", ".join(others))
        return f"{group}:{mine}"

    def close(self) -> None:
        """Leave the group and the Redis."""
        self.__dict__.pop("access", None)  # which has us
        if self._redis is not None:
            self._redis.leave()
        members = _groups.get(self.config.group or "", {})
        if members.pop(self.scope.key, None) and not members:
            del _groups[self.config.group or ""]

    def access(self, exchange: "Exchange") -> Answer | Awaitable[Answer | None] | None:
        """Count, and refuse what is too much."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        if run.kept(LimitCount):  # done by a workflow
            return None
        return self._take_all(exchange, run)

    def _counting(self, limit: Limit) -> "RequestHook":
        """Make the hook for the usual case: one limit, of which nothing depends on the request but its key."""
        take, names, key_of, most, window = self._counters.take, limit.names, limit.key_of, limit.most, limit.window
        shows, lines, refusal = self._shows, limit.fields.lines, self._refusal

        def access(exchange: "Exchange") -> Answer | Awaitable[Answer | None] | None:
            run = exchange.run
            assert run is not None  # noqa: S101 - hooks run in one
            data = run.data
            if data is not None and data.get(LimitCount):  # done by a workflow
                return None
            name = names.get(key_of(exchange)) or limit.name(exchange)
            try:
                left, seconds = take(name, most, window)
            except Busy:
                return self._take_all(exchange, run)
            if not shows:
                return refusal if left == REFUSED else None
            if data is None:
                run.data = {self: lines(most, left, seconds)}
            else:
                data[self] = lines(most, left, seconds)
            return refusal if left == REFUSED else None

        return access

    def _take_all(self, exchange: "Exchange", run: "PluginRun") -> Answer | Awaitable[Answer | None] | None:
        try:
            asks = [ask for limit in self._limits if (ask := limit.ask(exchange)) is not None]
        except ValueError as error:
            log.error("%s: plugin %s cannot count: %s", self.scope.key, self.name, error)
            return self._uncounted()
        quotas: list[Quota] = []
        run.keep(self, quotas)
        if self._remote is not None:
            return self._take_remotely(self._remote, asks, quotas)
        try:
            return self._take(asks, quotas, True)
        except Busy:
            return patiently(lambda patient: self._take(asks, quotas, patient))

    def _take(self, asks: Sequence[Ask], quotas: list[Quota], patient: bool) -> Answer | None:
        for limit, name, most, window in asks[len(quotas) :]:
            if self._slides:
                left, seconds = self._counters.slide(name, most, window, time(), patient)
            else:
                left, seconds = self._counters.take(name, most, window, patient)
            quotas.append((limit, most, left, seconds))
            if left == REFUSED:
                return self._refusal
        return None

    async def _take_remotely(
        self, remote: RedisCounts | Batches, asks: Sequence[Ask], quotas: list[Quota]
    ) -> Answer | None:
        try:
            for limit, name, most, window in asks:
                if self._slides and isinstance(remote, RedisCounts):
                    left, seconds = await remote.slide(name, most, window)
                else:
                    left, seconds = await remote.take(name, most, window)
                quotas.append((limit, most, left, seconds))
                if left < 0:
                    return self._refusal
        except RedisFailed:
            return self._uncounted()
        return None

    def _uncounted(self) -> Answer | None:
        return None if self.config.allow_degradation else error_message(500, "failed to limit count")

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Say what is left."""
        if not self._shows:  # a workflow asks all the same
            return
        assert exchange.run is not None  # noqa: S101 - hooks run in one
        fields, kept = head.fields, exchange.run.kept(self)
        if isinstance(kept, bytes):
            fields.lines = self._limits[0].fields.removed(fields.lines) + kept
            return
        for limit, most, left, seconds in kept or ():
            fields.lines = limit.fields.removed(fields.lines) + limit.fields.lines(most, left, seconds)

    def added_fields(self, exchange: "Exchange") -> bytes:
        """Say what is left."""
        kept = exchange.run.kept(self)  # type: ignore[union-attr]  # hooks run in one
        if isinstance(kept, bytes):
            return kept
        return b"".join([limit.fields.lines(most, left, seconds) for limit, most, left, seconds in kept or ()])


def _limits(config: LimitCountConfig, prefix: str, scope: Scope) -> list[Limit]:
    names = _field_names(scope)
    if config.rules is None:
        assert config.count is not None and config.time_window is not None  # noqa: S101, PT018 - checked
        count, window = Number(config.count, "$.count"), Number(config.time_window, "$.time_window")
        return [Limit(count, window, key_of(config.key, config.key_type), prefix, QuotaFields(names))]
    return [
        Limit(
            Number(rule.count, "$.count"),
            Number(rule.time_window, "$.time_window"),
            combination_of(rule.key),
            f"{prefix}:{number}",
            QuotaFields(names, rule.header_prefix or str(number)),
        )
        for number, rule in enumerate(config.rules, 1)
    ]


def _field_names(scope: Scope) -> tuple[str, ...]:
    """Return the names that metadata give the fields; the usual ones when they cannot be names."""
    metadata: LimitCountMetadata = scope.metadata
    names = metadata.limit_header, metadata.remaining_header, metadata.reset_header
    try:
        check_names(names)
    except InvalidResource as error:
        log.error("plugin_metadata/limit-count: %s; the fields have their usual names", error.reason)
        return NAMES
    return names


_groups: dict[str, dict[str, str]] = {}
"""By group the places that have joined it, with checksums of their configurations, which are to be equal."""
