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
import re
from collections.abc import Awaitable, Sequence
from math import ceil
from time import time
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from zlib import crc32

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.answer import Answer, error_message
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import check_field
from worker.plugins.limiting.keys import combination_of, counter_name, encoded, key_of, refusal
from worker.plugins.limiting.patience import patiently
from worker.plugins.limiting.redis_batches import Batches
from worker.plugins.limiting.redis_client import RedisFailed, client_of, release
from worker.plugins.limiting.redis_config import SentinelConfig, check_redis
from worker.plugins.limiting.redis_counts import RedisCounts
from worker.shared_state.counters import REFUSED
from worker.shared_state.locks import Busy
from worker.variables import Template

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead

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

    limit_header: Name = "X-RateLimit-Limit"
    remaining_header: Name = "X-RateLimit-Remaining"
    reset_header: Name = "X-RateLimit-Reset"


class Ask(NamedTuple):
    """What a request asks of one limit."""

    limit: "Limit"
    key: bytes
    most: int
    window: int


class Quota(NamedTuple):
    """What came of it."""

    ask: Ask
    left: int  # negative: none, and this one is too much
    seconds: float


class LimitCount(Plugin[LimitCountConfig]):
    """Counts requests."""

    name = "limit-count"
    priority = 1002
    Config = LimitCountConfig
    Metadata = LimitCountMetadata

    def __init__(self, config: LimitCountConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        prefix = counter_name(scope) if config.group is None else self._join(config.group)
        self._redis = client_of(config, scope.services) if config.policy != "local" else None
        self._limits = _limits(config, prefix if self._redis else f"limit-count:{prefix}", scope.metadata)
        self._refusal = refusal(config.rejected_code, config.rejected_msg)
        self._slides = config.window_type == "sliding"
        self._counters = scope.services.counters
        self._remote: RedisCounts | Batches | None = None
        if self._redis is not None:
            counts = RedisCounts(self._redis)
            batched = config.sync_interval > 0
            self._remote = Batches(counts, config.sync_interval, scope.services) if batched else counts
        self._shows = config.show_limit_quota_header

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
                _Number(getattr(config, name), f"$.{name}")
            return
        if config.count is not None or config.time_window is not None:
            raise InvalidResource("$.rules", "cannot be given with count and time_window")
        keys: set[str] = set()
        for at, rule in enumerate(config.rules):
            _Number(rule.count, f"$.rules[{at}].count")
            _Number(rule.time_window, f"$.rules[{at}].time_window")
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
        if self._redis is not None:
            release(self._redis, self.scope.services)
        members = _groups.get(self.config.group or "", {})
        if members.pop(self.scope.key, None) and not members:
            del _groups[self.config.group or ""]

    def access(self, exchange: "Exchange") -> Answer | Awaitable[Answer | None] | None:
        """Count, and refuse what is too much."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        if run.kept(LimitCount):  # done by a workflow
            return None
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
        for ask in asks[len(quotas) :]:
            if self._slides:
                got = self._counters.slide(ask.key, ask.most, ask.window, time(), patient)
            else:
                got = self._counters.take(ask.key, ask.most, ask.window, patient)
            quotas.append(Quota(ask, *got))
            if got[0] == REFUSED:
                return self._refusal
        return None

    async def _take_remotely(
        self, remote: RedisCounts | Batches, asks: Sequence[Ask], quotas: list[Quota]
    ) -> Answer | None:
        try:
            for ask in asks:
                if self._slides and isinstance(remote, RedisCounts):
                    left, seconds = await remote.slide(ask.key, ask.most, ask.window)
                else:
                    left, seconds = await remote.take(ask.key, ask.most, ask.window)
                quotas.append(Quota(ask, left, seconds))
                if left < 0:
                    return self._refusal
        except RedisFailed:
            return self._uncounted()
        return None

    def _uncounted(self) -> Answer | None:
        return None if self.config.allow_degradation else error_message(500, "failed to limit count")

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Say what is left."""
        if not self._shows:
            return
        assert exchange.run is not None  # noqa: S101 - hooks run in one
        for quota in exchange.run.kept(self) or ():
            head.fields.lines = quota.ask.limit.fields.written(head.fields.lines, quota)


class Limit:
    """One limit, compiled."""

    __slots__ = ("_count", "_key", "_prefix", "_window", "fields")

    def __init__(self, count: "_Number", window: "_Number", key: Any, prefix: str, fields: "_Fields") -> None:
        self._count = count
        self._window = window
        self._key = key
        self._prefix = prefix
        self.fields = fields

    def ask(self, exchange: "Exchange") -> Ask | None:
        """Return what is to be counted; None when it does not concern the request.

        Raises:
            ValueError: it cannot be said how many there are.
        """
        key = self._key(exchange)
        if key is None:
            return None
        return Ask(self, encoded(f"{self._prefix}:{key}"), self._count.of(exchange), self._window.of(exchange))


class _Number:
    """A positive whole number, or a template that becomes one."""

    __slots__ = ("_number", "_template")

    def __init__(self, value: int | str, path: str) -> None:
        self._template = Template(value) if isinstance(value, str) else None
        self._number = value if isinstance(value, int) else 0
        if isinstance(value, str) and not Template(value).names:
            try:
                self._number, self._template = _positive(value), None
            except ValueError as error:
                raise InvalidResource(path, str(error)) from error

    def of(self, exchange: "Exchange") -> int:
        """Return it; ValueError when the template becomes something else."""
        return self._number if self._template is None else _positive(self._template.render(exchange))


def _positive(text: str) -> int:
    if not re.fullmatch(r"0*[1-9][0-9]{0,17}", text):
        raise ValueError(f"{text[:40]!r} is not a positive whole number")
    return int(text)


class _Fields:
    """The fields that say what is left of one limit."""

    __slots__ = ("_line", "_lowered", "_old")

    def __init__(self, names: Sequence[str], prefix: str) -> None:
        if prefix:
            names = [_prefixed(name, prefix) for name in names]
        for name in names:
            check_field(name, "", "$")
        encoded_names = [name.encode() for name in names]
        self._line = b"".join(b"%b: %%d\r\n" % name.replace(b"%", b"%%") for name in encoded_names)
        self._lowered = [name.lower() for name in encoded_names]
        self._old = re.compile(rb"(?im)^(?:%b):[^\r\n]*\r\n" % b"|".join(map(re.escape, encoded_names)))

    def written(self, lines: bytes, quota: Quota) -> bytes:
        """Return lines with these fields, in place of those that the upstream may have sent."""
        lowered = lines.lower()
        if any(name in lowered for name in self._lowered):
            lines = self._old.sub(b"", lines)
        return lines + self._line % (quota.ask.most, max(0, quota.left), ceil(quota.seconds))


def _prefixed(name: str, prefix: str) -> str:
    if "RateLimit-" in name:
        return name.replace("RateLimit-", f"{prefix}-RateLimit-", 1)
    return f"{prefix}-{name}"


def _limits(config: LimitCountConfig, prefix: str, metadata: LimitCountMetadata) -> list[Limit]:
    names = metadata.limit_header, metadata.remaining_header, metadata.reset_header
    if config.rules is None:
        assert config.count is not None and config.time_window is not None  # noqa: S101, PT018 - checked
        count, window = _Number(config.count, "$.count"), _Number(config.time_window, "$.time_window")
        return [Limit(count, window, key_of(config.key, config.key_type), prefix, _Fields(names, ""))]
    return [
        Limit(
            _Number(rule.count, "$.count"),
            _Number(rule.time_window, "$.time_window"),
            combination_of(rule.key),
            f"{prefix}:{number}",
            _Fields(names, rule.header_prefix or str(number)),
        )
        for number, rule in enumerate(config.rules, 1)
    ]


_groups: dict[str, dict[str, str]] = {}
"""By group the places that have joined it, with checksums of their configurations, which are to be equal."""
