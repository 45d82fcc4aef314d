"""Cross-origin requests: answers preflights, and tells browsers which origins may read answers.

Every OPTIONS request is answered with 200 and an empty body, before any authentication. Answers to origins that are
allowed get ``Access-Control-*``, in place of what the upstream has sent of them; others go through without.

    allow_origins                   "*": all; "**": all, echoed; else origins, joined by commas
    allow_methods, allow_headers    sent as they are; "**": all of them, and those that are asked for
    expose_headers                  sent as it is
    max_age                         seconds that a browser keeps the answer to a preflight; -1: not at all
    allow_credential                whether cookies and the like may be sent along; "*" must not stand anywhere then
    allow_origins_by_regex          counts alone when it is given
    allow_origins_by_metadata       keys of ``allow_origins`` in the metadata, which hold more origins
    timing_allow_origins, timing_allow_origins_by_regex
                                    who gets ``Timing-Allow-Origin``, by the same rules

A regular expression whose search takes longer than 2 ms counts as not found.
"""

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from config_sync.errors import InvalidResource
from worker.edited_request import EditedRequest
from worker.fields import field_line
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import any_of, check_field, check_regexes
from worker.variables.values import text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead

EVERY_METHOD = "GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE"
ANY, ECHO = "*", "**"
_OURS = re.compile(
    rb"(?im)^Access-Control-(?:Allow-(?:Origin|Methods|Headers|Credentials)|Max-Age|Expose-Headers):[^\r\n]*\r\n"
)

Origins = Annotated[str, msgspec.Meta(min_length=1)]
Patterns = Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)]
Allowed = Callable[[bytes | None], bytes | None]
"""Takes a request's Origin; returns what is to be sent as the origin that is allowed, None when none is."""


class CorsConfig(msgspec.Struct):
    """Who may read what."""

    allow_origins: Origins = ANY
    allow_methods: str = ANY
    allow_headers: str = ANY
    expose_headers: str = ""
    max_age: int = 5
    allow_credential: bool = False
    allow_origins_by_regex: Patterns | None = None
    allow_origins_by_metadata: Patterns | None = None
    timing_allow_origins: Origins | None = None
    timing_allow_origins_by_regex: Patterns | None = None


class CorsMetadata(msgspec.Struct):
    """Origins by a name that configurations refer to, each as in ``allow_origins``."""

    allow_origins: dict[str, str] = {}


class Cors(Plugin[CorsConfig]):
    """Answers OPTIONS, and adds ``Access-Control-*`` to answers."""

    name = "cors"
    priority = 4000
    Config = CorsConfig
    Metadata = CorsMetadata

    def __init__(self, config: CorsConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        if config.allow_origins_by_regex is not None:
            self._allowed = _by_regex(config.allow_origins_by_regex)
        else:
            named = [scope.metadata.allow_origins.get(key) for key in config.allow_origins_by_metadata or ()]
            self._allowed = _first(_listed(origins) for origins in (config.allow_origins, *named) if origins)
        self._timing: Allowed | None = None
        if config.timing_allow_origins_by_regex is not None:
            self._timing = _by_regex(config.timing_allow_origins_by_regex)
        elif config.timing_allow_origins is not None:
            self._timing = _listed(config.timing_allow_origins)
        self._varies = config.allow_origins != ANY
        self._echoes_headers = config.allow_headers == ECHO
        methods = EVERY_METHOD if config.allow_methods == ECHO else config.allow_methods
        self._lines = field_line(b"Access-Control-Allow-Methods", methods.encode())
        self._lines += field_line(b"Access-Control-Max-Age", b"%d" % config.max_age)
        if config.expose_headers:
            self._lines += field_line(b"Access-Control-Expose-Headers", config.expose_headers.encode())
        if not self._echoes_headers:
            self._lines += field_line(b"Access-Control-Allow-Headers", config.allow_headers.encode())
        if config.allow_credential:
            self._lines += field_line(b"Access-Control-Allow-Credentials", b"true")

    @classmethod
    def check(cls, config: Any) -> None:
        """Check patterns, what is sent as it is, and that credentials go to nobody unnamed."""
        for name in ("allow_origins_by_regex", "timing_allow_origins_by_regex"):
            check_regexes(getattr(config, name), f"$.{name}")
        for name in ("allow_origins", "allow_methods", "allow_headers", "expose_headers", "timing_allow_origins"):
            value = getattr(config, name)
            if value == ANY and config.allow_credential:
                raise InvalidResource(f"$.{name}", 'must not be "*" when allow_credential is true')
            if value is not None:
                check_field("Access-Control-Allow-Origin", value, f"$.{name}")

    def rewrite(self, exchange: "Exchange") -> Answer | None:
        """Answer OPTIONS."""
        request = exchange.request
        return Answer(200, b"") if request is not None and request.method == b"OPTIONS" else None

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Tell who may read the answer."""
        request = exchange.request
        if isinstance(request, EditedRequest):
            request = request.original  # browsers compare with what they have sent
        origin = request.header(b"origin") if request is not None else None
        if self._varies:
            head.fields.lines += b"Vary: Origin\r\n"
        allowed = self._allowed(origin)
        if allowed is not None:
            lines = field_line(b"Access-Control-Allow-Origin", allowed) + self._lines
            if self._echoes_headers and request is not None:
                asked = request.header(b"access-control-request-headers")
                if asked is not None:
                    lines += field_line(b"Access-Control-Allow-Headers", asked)
            received = head.fields.lines
            if b"access-control-" in received.lower():
                received = _OURS.sub(b"", received)
            head.fields.lines = received + lines
        if self._timing is not None:
            allowed = self._timing(origin)
            if allowed is not None:
                head.fields.set(b"Timing-Allow-Origin", allowed)


def _listed(origins: str) -> Allowed:
    """Compile a list of origins."""
    if origins == ANY:
        return lambda _: b"*"
    if origins == ECHO:
        return lambda origin: origin or b"*"
    entries = frozenset(entry.strip().encode() for entry in origins.split(","))
    return lambda origin: origin if origin in entries else None


def _by_regex(patterns: list[str]) -> Allowed:
    found = any_of(patterns)
    return lambda origin: origin if origin and found(text_of(origin)) else None


def _first(each: Iterable[Allowed]) -> Allowed:
    """Ask one after the other."""
    every = tuple(each)
    if len(every) == 1:
        return every[0]

    def allowed(origin: bytes | None) -> bytes | None:
        for one in every:
            found = one(origin)
            if found is not None:
                return found
        return None

    return allowed
