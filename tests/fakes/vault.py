"""A Vault with a key-value engine, as far as it is read."""

import json
from typing import Any
from urllib.parse import unquote

from tests.fakes.http_service import Asked, HttpService


class Vault(HttpService):
    """Holds what is at paths below ``/v1/``."""

    def __init__(self, values: dict[str, Any] | None = None, token: str = "root") -> None:
        self.values = values or {}
        self.token = token
        self.status = 200
        self.body: bytes | None = None  # instead of what it holds
        super().__init__(self._answer)

    def _answer(self, asked: Asked) -> tuple[int, bytes]:
        if self.body is not None or self.status != 200:
            return self.status, self.body or b"{}"
        if asked.fields.get("x-vault-token") != self.token:
            return 403, b'{"errors":["permission denied"]}'
        value = self.values.get(unquote(asked.path.removeprefix("/v1/")))
        if value is None:
            return 404, b'{"errors":[]}'
        return 200, json.dumps({"lease_id": "", "renewable": False, "data": value}).encode()

    def settings(self, prefix: str = "kv/apisix", **more: Any) -> dict[str, Any]:
        """Return a record by which it is reached."""
        return {"uri": self.url, "prefix": prefix, "token": self.token, **more}
