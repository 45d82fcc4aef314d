"""basic-auth: consumers prove who they are with a name and a password (RFC 7617).

Fields: ``hide_credentials``, ``realm`` (``basic``), ``anonymous_consumer``. In a consumer or credential: ``username``,
``password``.

Answers 401 ``Missing authorization in request``, ``Invalid authorization in request`` (not Basic, not base64, no colon)
or ``Invalid user authorization``, with ``WWW-Authenticate: Basic realm="basic"``. The password is all
that follows the first colon, with its white space; APISIX drops what follows a second colon, and all white space, so
that ``bob:p:x`` opened what ``bob:p`` opens. An empty ``password`` in a consumer is refused.
"""

import binascii
from hmac import compare_digest
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from worker.consumers import AttachedConsumer
from worker.edited_request import edit
from worker.plugins.authentication import NO_CONSUMER, AuthenticationConfig, Authenticator, Realm
from worker.variables.values import text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

MISSING = "Missing authorization in request"
MALFORMED = "Invalid authorization in request"


class BasicAuthConfig(AuthenticationConfig, kw_only=True):
    """Nothing of its own."""

    realm: Realm = "basic"


class BasicAuthConsumer(msgspec.Struct):
    """What a consumer shows."""

    username: str
    password: Annotated[str, Meta(min_length=1)]


class BasicAuth(Authenticator[BasicAuthConfig]):
    """Finds the consumer of a name, and compares the password."""

    name = "basic-auth"
    priority = 2520
    Config = BasicAuthConfig
    Consumer = BasicAuthConsumer
    credential = "username"
    scheme = "Basic"

    def authenticate(self, exchange: "Exchange") -> AttachedConsumer | str:
        """Look the name up, and compare."""
        value = exchange.request.header(b"authorization")  # type: ignore[union-attr]  # there is one
        if value is None:
            return MISSING
        pair = credentials(value)
        if pair is None:
            return MALFORMED
        name, password = pair
        found = self.consumers.find(self.name, text_of(name))
        expected = found.auth.password.encode("utf-8", "surrogateescape") if found is not None else b""
        is_right = compare_digest(password, expected)  # also for a name that nobody has
        return found if found is not None and is_right else NO_CONSUMER

    def hide(self, exchange: "Exchange") -> None:
        """Take the field away."""
        edit(exchange).remove_field(b"Authorization")


def credentials(value: bytes) -> tuple[bytes, bytes] | None:
    """Take a value of Authorization apart; None when it is not of this scheme, or malformed."""
    scheme, _, encoded = value.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        plain = binascii.a2b_base64(encoded.strip(b" \t"), strict_mode=True)
    except binascii.Error:
        return None
    name, colon, password = plain.partition(b":")
    return (name, password) if colon else None
