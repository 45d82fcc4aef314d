"""Keeps answers, and gives them again without asking the upstream.

    cache_strategy        ``disk`` (the default) or ``memory``
    cache_zone            one of the settings' ``proxy_cache.zones``, of that kind (``disk_cache_one``)
    cache_key             texts with variables, together the name of what is kept (``["$host", "$request_uri"]``)
    cache_method          of GET, HEAD and POST (GET and HEAD); the answer to HEAD is given from that
                          to GET, and not kept
    cache_http_status     which answers are kept (200, 301, 404)
    cache_ttl             seconds (300), in memory. On disk an answer says itself how long, or it is the settings'
                          ``proxy_cache.cache_ttl``
    cache_bypass          texts with variables: unless they are together empty or ``0``, nothing that is kept is given
    no_cache              likewise: the answer is not kept
    cache_control         whether Cache-Control of requests counts (false), and in memory that of answers for how long
    hide_cache_headers    whether clients do not see Expires and Cache-Control (false)
    consumer_isolation    whether each consumer has answers of its own (true)
    cache_set_cookie      whether answers with Set-Cookie are kept (false)
    max_resp_body_size    bytes (64 MiB) of a body beyond which it is not kept

``Apisix-Cache-Status`` says what became of a request: HIT, MISS, EXPIRED (it was too old), STALE (for what the request
demands) or BYPASS; ``Age`` how old an answer from memory is. PURGE throws away what is kept for a key: 200, or 404 when
there was nothing. With ``cache_control`` a request ``only-if-cached`` gets 504 when there is nothing.

Answers that say private, no-store, no-cache or ``Vary: *`` are not kept, nor are parts (206); up to 64 variants are, by
the fields that Vary names. Of several requests for what is not there one goes upstream, the others wait for its answer,
up to 5 s. All workers share what is kept. When a zone is full, what has ended goes first,
then what nobody has asked for for longest.
"""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from config_sync.errors import InvalidResource
from worker.edited_request import edit
from worker.errors import BodyNeeded
from worker.fields import FieldLines
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.proxy_cache import freshness, store
from worker.plugins.proxy_cache.entry import Description, Entry, Kind, name_of
from worker.plugins.proxy_cache.zones import find_zone, in_thread, open_zone
from worker.variables import Template

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from config_sync.settings import Settings
    from worker.exchange import Exchange
    from worker.messages import Request
    from worker.plugins.response_head import ResponseHead

LOCK_TIME = 5.0  # seconds that a request waits for another's answer
AT_ONCE = 131_072  # bytes that are read from memory, or written there, without a thread
PARTIAL = 206
_NOT_KEPT = frozenset(
    (b"server", b"date", b"age", b"apisix-cache-status", b"x-apisix-upstream-status", b"content-length")
)
_CONDITIONS = re.compile(rb"(?i)\n(?:If-(?:None-)?Match|If-(?:Un)?Modified-Since|If-Range|Range):[^\r\n]*\r(?=\n)")

MISS, HIT, EXPIRED, STALE, BYPASS = b"MISS", b"HIT", b"EXPIRED", b"STALE", b"BYPASS"

KeyPart = Annotated[str, msgspec.Meta(min_length=1)]


class ProxyCacheConfig(msgspec.Struct):
    """What is kept, where and how long."""

    cache_strategy: Literal["disk", "memory"] = "disk"
    cache_zone: Annotated[str, msgspec.Meta(min_length=1, max_length=100)] = "disk_cache_one"
    cache_key: Annotated[list[KeyPart], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["$host", "$request_uri"]
    )
    cache_method: Annotated[list[Literal["GET", "HEAD", "POST"]], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["GET", "HEAD"]
    )
    cache_http_status: Annotated[list[Annotated[int, msgspec.Meta(ge=200, le=599)]], msgspec.Meta(min_length=1)] = (
        msgspec.field(default_factory=lambda: [200, 301, 404])
    )
    cache_ttl: Annotated[int, msgspec.Meta(ge=1)] = 300
    cache_bypass: list[KeyPart] = []
    no_cache: list[KeyPart] = []
    cache_control: bool = False
    hide_cache_headers: bool = False
    consumer_isolation: bool = True
    cache_set_cookie: bool = False
    max_resp_body_size: Annotated[int, msgspec.Meta(ge=1)] = 64 * 1024 * 1024


class State:
    """What becomes of one request."""

    __slots__ = ("entry", "is_leader", "keeps", "key", "pieces", "request", "size", "status")

    def __init__(self, request: "Request", key: bytes) -> None:
        self.request = request
        self.key = key
        self.status = MISS
        self.keeps = False  # the answer may be kept
        self.is_leader = False  # others wait for the answer
        self.entry: Entry | None = None  # that is being received …
        self.pieces: list[bytes] = []  # … so far
        self.size = 0


class ProxyCache(Plugin[ProxyCacheConfig]):
    """Keeps answers."""

    name = "proxy-cache"
    priority = 1085
    Config = ProxyCacheConfig

    def __init__(self, config: ProxyCacheConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        services = scope.services
        self._in_memory = config.cache_strategy == "memory"
        self._zone = open_zone(services, config.cache_zone, self._in_memory)
        self._services = services
        self._own_ttl = services.settings.proxy_cache.cache_ttl
        self._key = [Template(part) for part in config.cache_key]
        self._bypass = [Template(part) for part in config.cache_bypass]
        self._no_cache = [Template(part) for part in config.no_cache]
        self._methods = frozenset(method.encode() for method in config.cache_method)
        self._statuses = frozenset(config.cache_http_status)

    @classmethod
    def check(cls, config: Any) -> None:
        """Check what a type does not say."""
        if len(set(config.cache_method)) != len(config.cache_method):
            raise InvalidResource("$.cache_method", "has a method twice")

    @classmethod
    def check_settings(cls, config: Any, settings: "Settings") -> None:
        """Check that there is such a zone."""
        find_zone(settings, config.cache_zone, config.cache_strategy == "memory")

    # the request

    def access(self, exchange: "Exchange") -> "Answer | Awaitable[Answer | None] | None":
        """Give what is kept."""
        request, run = exchange.request, exchange.run
        assert request is not None and run is not None  # noqa: S101, PT018 - hooks run in one
        key = self._key_of(exchange)
        if request.method == b"PURGE":
            return self._purged(key)
        state = State(request, key)
        run.keep(self, state)
        if request.method not in self._methods:
            return None
        said = freshness.directives(request.header(b"cache-control")) if self.config.cache_control else {}
        if "no-store" in said or "no-cache" in said or is_true(self._bypass, exchange):
            state.status = BYPASS
            state.keeps = not self._in_memory and "no-store" not in said
            return None
        state.keeps = request.method != b"HEAD"
        is_true(self._no_cache, exchange)  # so that the body is there which it may depend on when the answer comes
        if state.keeps and _CONDITIONS.search(request.block) is not None:
            edit(exchange).replace_lines(_CONDITIONS, b"")  # what is kept is a whole answer
        if not self._in_memory:
            return self._access_later(state, said)
        try:
            entry = store.find(self._zone, key, request.header, AT_ONCE)
        except OverflowError:
            return self._access_later(state, said)
        return self._decided(state, said, entry)

    def _key_of(self, exchange: "Exchange") -> bytes:
        key = "".join([template.render(exchange) for template in self._key]).encode("utf-8", "surrogateescape")
        run = exchange.run
        consumer = run.consumer.username if run is not None and run.consumer is not None else ""
        return b"%b\0%b" % (key, consumer.encode()) if self.config.consumer_isolation else key

    async def _purged(self, key: bytes) -> Answer:
        there_was = await in_thread(self._services, store.purge, self._zone, key)
        return Answer(200 if there_was else 404)

    async def _access_later(self, state: State, said: dict[str, str]) -> Answer | None:
        decided = self._decided(state, said, await self._found(state))
        return decided if decided is None or isinstance(decided, Answer) else await decided

    def _found(self, state: State) -> "Awaitable[Entry | None]":
        return in_thread(self._services, store.find, self._zone, state.key, state.request.header)

    def _decided(
        self, state: State, said: dict[str, str], entry: Entry | None
    ) -> "Answer | Awaitable[Answer | None] | None":
        """Return the answer that is kept, or see to it that one is fetched, by us or by whoever is at it."""
        now = time.time()
        answer = self._answer(state, said, entry, now)
        if answer is not None:
            return answer
        if "only-if-cached" in said:
            return Answer(504)
        if not state.keeps or passes(entry, now):
            return None
        if self._in_memory:
            state.is_leader = self._zone.lock(name_of(state.key))
            return None if state.is_leader else self._followed(state, said)
        return self._led_or_followed(state, said)

    async def _led_or_followed(self, state: State, said: dict[str, str]) -> Answer | None:
        return None if await self._leads(state) else await self._followed(state, said)

    async def _leads(self, state: State) -> bool:
        """Try to be the one who fetches the answer; a client that goes away meanwhile does not hold the others up."""
        name = name_of(state.key)
        locking = in_thread(self._services, self._zone.lock, name)
        try:
            state.is_leader = await asyncio.shield(locking)
        except asyncio.CancelledError:
            locking.add_done_callback(lambda locking: self._unlock_later(name) if locking.result() else None)
            raise
        return state.is_leader

    def _unlock_later(self, name: str) -> None:
        in_thread(self._services, self._zone.unlock, name)

    async def _followed(self, state: State, said: dict[str, str]) -> Answer | None:
        """Wait for another's answer; go upstream when there is none."""
        loop, name = self._services.loop, name_of(state.key)
        until, pause = loop.time() + LOCK_TIME, 0.005
        while loop.time() < until:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.1)
            if await in_thread(self._services, self._zone.is_locked, name):
                continue
            entry = await self._found(state)
            answer = self._answer(state, said, entry, time.time())
            if answer is not None:
                return answer
            if passes(entry, time.time()):
                return None
            if await self._leads(state):
                return None
        return None

    def _answer(self, state: State, said: dict[str, str], entry: Entry | None, now: float) -> Answer | None:
        """Return the answer that is kept, if it may be given."""
        state.status = MISS
        if entry is None:
            return None
        description, age = entry.description, entry.age(now)
        if description.kind is not Kind.ANSWER:
            return None
        if age >= description.ttl and not age - description.ttl <= (freshness.seconds(said.get("max-stale")) or -1.0):
            state.status = EXPIRED
            return None
        most, least = freshness.seconds(said.get("max-age")), freshness.seconds(said.get("min-fresh"))
        if (most is not None and age > most) or (least is not None and description.ttl - age < least):
            state.status = STALE
            return None
        state.status = HIT
        state.keeps = False
        fields = [*description.fields, (b"Age", b"%d" % age)] if self._in_memory else description.fields
        condition = state.request.header(b"if-none-match")
        tag = next((value for name, value in fields if name.lower() == b"etag"), None)
        if condition is not None and tag is not None and freshness.matches(condition, tag):
            return Answer(304, b"", [field for field in fields if field[0].lower() != b"content-type"])
        return Answer(description.status, entry.body, fields)

    # the answer

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Say what became of the request, and decide whether the answer is kept."""
        run = exchange.run
        state: State | None = run.kept(self) if run is not None else None
        if state is None:
            return
        state.entry, state.pieces, state.size = None, [], 0
        if state.keeps and head.is_from_upstream:
            state.entry = self._begun(exchange, state, head)
            if state.entry is None and state.is_leader:
                self._release(state, passes=True)
        head.fields.set(b"Apisix-Cache-Status", state.status)
        if self.config.hide_cache_headers:
            head.fields.remove(b"Expires")
            head.fields.remove(b"Cache-Control")

    def _begun(self, exchange: "Exchange", state: State, head: "ResponseHead") -> Entry | None:
        """Return what is to be kept of an answer, whose body is to come; None when nothing is."""
        fields, now = head.fields, time.time()
        if head.status not in self._statuses or head.status == PARTIAL or not head.has_body:
            return None
        if (head.content_length or 0) > self.config.max_resp_body_size:
            return None
        if not freshness.may_be_kept(fields, self.config.cache_set_cookie) or is_true(self._no_cache, exchange):
            return None
        own = freshness.ttl_of(fields, now) if self.config.cache_control or not self._in_memory else None
        usual = self.config.cache_ttl if self._in_memory else self._own_ttl
        ttl = usual if own is None else own
        if ttl <= 0:
            return None
        # Without what plugins have added for this client (ids, tokens): they do so again for the next.
        received = FieldLines(head.received_fields).items()
        kept = [(name, value) for name, value in received if name.lower() not in _NOT_KEPT]
        description = Description(
            kind=Kind.ANSWER,
            key=state.key,
            stored=now,
            ttl=float(ttl),
            status=head.status,
            fields=kept,
            vary=freshness.varies_by(fields),
        )
        return Entry(description)

    def body_filter(self, exchange: "Exchange", data: bytes, is_last: bool) -> bytes:
        """Collect the body."""
        run = exchange.run
        state: State | None = run.kept(self) if run is not None else None
        if state is None or state.entry is None:
            return data
        state.pieces.append(data)
        state.size += len(data)
        if state.size > self.config.max_resp_body_size:
            state.entry, state.pieces = None, []
            if state.is_leader:
                self._release(state, passes=True)
        elif is_last:
            state.entry.body = b"".join(state.pieces)
            state.pieces = []
            self._keep(state, state.entry)
        return data

    def _keep(self, state: State, entry: Entry) -> None:
        if self._in_memory and state.size <= AT_ONCE:
            store.keep(self._zone, entry, state.request.header)
            self._release(state)
        else:
            self._services.spawn(self._keep_later(state, entry, state.is_leader))
            state.is_leader = False

    async def _keep_later(self, state: State, entry: Entry, is_leader: bool) -> None:
        try:
            await in_thread(self._services, store.keep, self._zone, entry, state.request.header)
        finally:
            if is_leader:
                await in_thread(self._services, self._zone.unlock, name_of(state.key))

    def _release(self, state: State, passes: bool = False) -> None:
        """Let those go on who wait; with ``passes`` they need not wait for a while."""
        if not state.is_leader:
            return
        state.is_leader = False
        if self._in_memory:
            self._released(state.key, passes)
        else:
            in_thread(self._services, self._released, state.key, passes)

    def _released(self, key: bytes, passes: bool) -> None:
        if passes:
            store.keep_pass(self._zone, key)
        self._zone.unlock(name_of(key))

    def log(self, exchange: "Exchange") -> None:
        """Let those go on who wait for an answer that has failed."""
        run = exchange.run
        state: State | None = run.kept(self) if run is not None else None
        if state is not None:
            self._release(state)


def passes(entry: Entry | None, now: float) -> bool:
    """Tell whether nobody is to wait for an answer."""
    return entry is not None and entry.description.kind is Kind.PASS and entry.age(now) < entry.description.ttl


def is_true(templates: Sequence[Template], exchange: "Exchange") -> bool:
    """Tell whether texts are together neither empty nor ``0``."""
    try:
        return "".join([template.render(exchange) for template in templates]) not in ("", "0") if templates else False
    except BodyNeeded:
        if exchange.run is not None and exchange.run.head is not None:
            return True  # nobody has read the request's body, and it is too late now: it is not kept
        raise
