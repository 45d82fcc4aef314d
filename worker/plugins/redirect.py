"""Sends clients to another address.

Exactly one of

    http_to_https           true: to the same address by https, 301 for GET and HEAD, otherwise 308
    uri                     where to; may hold variables
    regex_uri               a pattern for the decoded path, and its replacement with ``$1``, ``$2``, …; a request where
                            it is not found goes on

is given, and besides ``ret_code`` (302), ``encode_uri`` (false: ``Location`` is sent as it comes out; true: what cannot
stand in a path is percent-encoded in it) and ``append_query_string`` (false).

Whether a request came by http says ``X-Forwarded-Proto``, which is our own view unless the client is trusted. The port
for https is the settings' ``plugin_attr.redirect.https_port``; without it there is none, as for 443.

Answers 500 ``{"error_msg": …}`` when a search takes too long. Control characters that variables bring into
``Location`` become spaces.
"""

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote_from_bytes

import msgspec

from config_sync.errors import ConfigError, InvalidResource
from worker.plugins.answer import Answer, error_message
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import field_value
from worker.plugins.rewriting import Substitution, check_substitutions
from worker.variables import Template, accessor
from worker.variables.values import text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

_ENCODED_SAFE = "/!$&'()*+,;=:@~[]"
_proto = accessor("http_x_forwarded_proto")
_arguments = accessor("args")
_host = accessor("host")


class RedirectConfig(msgspec.Struct):
    """Where to, and how."""

    http_to_https: bool | None = None
    uri: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    regex_uri: list[str] | None = None
    ret_code: Annotated[int, msgspec.Meta(ge=200, le=599)] = 302
    encode_uri: bool = False
    append_query_string: bool = False


class Redirect(Plugin[RedirectConfig]):
    """Answers with ``Location``."""

    name = "redirect"
    priority = 900
    Config = RedirectConfig

    def __init__(self, config: RedirectConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._to_https = bool(config.http_to_https)
        self._port = https_port(scope.services.attribute(self.name).get("https_port")) if self._to_https else ""
        self._uri = Template(config.uri) if config.uri is not None else None
        self._substitution = Substitution(*config.regex_uri) if config.regex_uri is not None else None

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that it is clear where to."""
        given = [name for name in ("http_to_https", "uri", "regex_uri") if getattr(config, name)]
        if len(given) > 1 or (not given and config.http_to_https is None):
            raise InvalidResource("$", "exactly one of http_to_https, uri and regex_uri must be given")
        if config.regex_uri is not None:
            check_substitutions(config.regex_uri, "$.regex_uri")
            if len(config.regex_uri) > 2:
                raise InvalidResource("$.regex_uri", "must be one pattern and its replacement")

    def rewrite(self, exchange: "Exchange") -> Answer | None:
        """Answer, unless the request is to go on."""
        if self._to_https:
            return self._by_https(exchange)
        if self._uri is not None:
            return self._answer(exchange, self._uri.render(exchange))
        request = exchange.request
        if self._substitution is None or request is None:
            return None
        path = text_of(request.path)
        try:
            found = self._substitution.search(path)
        except TimeoutError:
            return error_message(500, f"failed to redirect: the pattern takes too long on {len(path)} characters")
        return self._answer(exchange, self._substitution.apply(path, found)) if found is not None else None

    def _by_https(self, exchange: "Exchange") -> Answer | None:
        request = exchange.request
        if request is None or (_proto(exchange) or exchange.downstream.scheme) != "http":
            return None
        status = 301 if request.method in (b"GET", b"HEAD") else 308
        location = f"https://{_host(exchange)}{self._port}{text_of(request.target)}"
        return Answer(status, None, [(b"Location", field_value(location))])

    def _answer(self, exchange: "Exchange", location: str) -> Answer:
        path, mark, query = location.partition("?")
        if self.config.encode_uri:
            path = quote_from_bytes(path.encode("utf-8", "surrogateescape"), safe=_ENCODED_SAFE)
        if self.config.append_query_string and (own := _arguments(exchange)):
            mark, query = "?", f"{query}&{own}" if mark else str(own)
        return Answer(self.config.ret_code, None, [(b"Location", field_value(f"{path}{mark}{query}"))])


def https_port(port: Any) -> str:
    """Return what stands behind the host for a port; ConfigError when it is none."""
    if port is None or port == 443:
        return ""
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise ConfigError("plugin_attr.redirect.https_port: must be a port")
    return f":{port}"
