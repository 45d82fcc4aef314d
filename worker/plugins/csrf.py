"""Lets requests that change something through only with a token that the client has had from us.

Every answer brings a new token as a cookie. A request with a method other than GET, HEAD and OPTIONS must have it both
in this cookie and in a field of the same name, so that only pages of the own origin can send it; else it gets 401 with
``{"error_msg": …}``.

    key        what tokens are signed with
    expires    seconds that a token counts; 0: for ever, and the cookie as long as the browser runs
    name       of cookie and field

Tokens are those of APISIX: base64 of ``{"random", "expires", "sign"}``, where ``expires`` is the time of issue.
"""

import hashlib
import hmac
import math
import time
from base64 import b64decode, b64encode
from email.utils import formatdate
from random import SystemRandom
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from worker.plugins.answer import Answer, error_message
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import check_field
from worker.variables import accessor

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead

SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_NO_FIELD = error_message(401, "no csrf token in headers")
_NO_COOKIE = error_message(401, "no csrf cookie")
_MISMATCH = error_message(401, "csrf token mismatch")
_INVALID = error_message(401, "Failed to verify the csrf token signature")
_random = SystemRandom()


class CsrfConfig(msgspec.Struct):
    """How tokens are made."""

    key: Annotated[str, msgspec.Meta(min_length=1)]
    expires: Annotated[int, msgspec.Meta(ge=0)] = 7200
    name: Annotated[str, msgspec.Meta(min_length=1)] = "apisix-csrf-token"


class _Token(msgspec.Struct):
    random: int | float
    expires: int | float
    sign: str


_decode = msgspec.json.Decoder(_Token).decode


class Csrf(Plugin[CsrfConfig]):
    """Gives tokens out, and asks for them."""

    name = "csrf"
    priority = 2980
    Config = CsrfConfig

    def __init__(self, config: CsrfConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._field = config.name.encode()
        self._cookie = accessor(f"cookie_{config.name}")

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that the name can be that of a cookie and of a field."""
        check_field(config.name, "", "$.name")

    def access(self, exchange: "Exchange") -> Answer | None:
        """Refuse what changes something and has no valid token."""
        request = exchange.request
        if request is None or request.method in SAFE:
            return None
        field = request.header(self._field)
        if not field:
            return _NO_FIELD
        cookie = self._cookie(exchange)
        if not isinstance(cookie, str) or not cookie:
            return _NO_COOKIE
        token = cookie.encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(token, field):
            return _MISMATCH
        return None if self.is_valid(token, time.time()) else _INVALID

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Give the client a new token."""
        now = int(time.time())
        until = (
            b";Expires=" + formatdate(now + self.config.expires, usegmt=True).encode() if self.config.expires else b""
        )
        cookie = b"%b=%b;path=/;SameSite=Lax%b" % (self._field, self.token(now), until)
        head.fields.add(b"Set-Cookie", cookie)

    def token(self, now: int) -> bytes:
        """Make a token."""
        number = f"{_random.random():.14g}"
        sign = self._sign(number, f"{now}")
        return b64encode(f'{{"random":{number},"expires":{now},"sign":"{sign}"}}'.encode())

    def is_valid(self, text: bytes, now: float) -> bool:
        """Tell whether we have made a token, and it is not too old."""
        try:
            token = _decode(b64decode(text, validate=True))
            number, issued = f"{token.random:.14g}", f"{token.expires:.14g}"
        except (ValueError, OverflowError, RecursionError, msgspec.DecodeError):
            return False
        if not math.isfinite(token.expires) or (self.config.expires and now - token.expires > self.config.expires):
            return False
        return hmac.compare_digest(self._sign(number, issued).encode(), token.sign.encode())

    def _sign(self, number: str, issued: str) -> str:
        return hashlib.sha256(f"{{expires:{issued},random:{number},key:{self.config.key}}}".encode()).hexdigest()
