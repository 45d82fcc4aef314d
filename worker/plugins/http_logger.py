"""Tells an HTTP server of requests, by POST (extra ``http``).

    uri             of the server
    auth_header     value of the field Authorization
    timeout         seconds
    concat_method   json: an array, or with a batch_max_size of 1 the entry itself; new_line: an entry in each line
    ssl_verify      whether the server's certificate is checked

An answer from 400 on means that it has not been taken. For what all loggers have in common see ``logger``.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.base import Scope
from worker.plugins.batch import SendFailed
from worker.plugins.guard_checks import check_field
from worker.plugins.http_client import HttpClient
from worker.plugins.logger import ContentConfig, Logger, joined

_TYPES = {"json": b"application/json", "new_line": b"text/plain"}


class HttpLoggerConfig(ContentConfig, kw_only=True):
    """Whom to tell."""

    uri: str
    auth_header: str | None = None
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 3
    concat_method: Literal["json", "new_line"] = "json"
    ssl_verify: bool = False


class HttpLogger(Logger[HttpLoggerConfig]):
    """Posts batches."""

    name = "http-logger"
    priority = 410
    Config = HttpLoggerConfig

    def __init__(self, config: HttpLoggerConfig, scope: Scope) -> None:
        HttpClient.require("http-logger")
        super().__init__(config, scope)
        self._fields = [(b"Content-Type", _TYPES[config.concat_method])]
        if config.auth_header is not None:
            self._fields.append((b"Authorization", config.auth_header.encode()))

    @classmethod
    def check(cls, config: Any) -> None:
        """Check the URI."""
        super().check(config)
        check_uri(config.uri, "$.uri")
        if config.auth_header is not None:
            check_field("Authorization", config.auth_header, "$.auth_header")

    async def send(self, batch: Sequence[bytes]) -> None:
        """Post a batch."""
        config = self.config
        body = joined(batch, config.batch_max_size == 1) if config.concat_method == "json" else b"\n".join(batch)
        await post(self.scope, config.uri, self._fields, body, config.timeout, config.ssl_verify)

    def server(self) -> str:
        """Return the host and port of the URI."""
        return self.config.uri.partition("://")[2].partition("/")[0]


def check_uri(uri: str, path: str) -> None:
    """Check that a text is the URI of an HTTP server; InvalidResource."""
    scheme, _, rest = uri.partition("://")
    if scheme.lower() not in ("http", "https") or not rest.partition("/")[0] or not uri.isprintable() or " " in uri:
        raise InvalidResource(path, "must be the URI of an HTTP server")


async def post(
    scope: Scope, uri: str, fields: Sequence[tuple[bytes, bytes]], body: bytes, within: float, verify: bool
) -> None:
    """Post something; SendFailed when the answer is an error, HttpFailed when there is none."""
    answer = await scope.services.http.request("POST", uri, fields=fields, body=body, within=within, verify=verify)
    if answer.status >= 400:
        raise SendFailed(f"{uri.partition('?')[0]} answers {answer.status}")
