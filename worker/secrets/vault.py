"""HashiCorp Vault: the key-value engine, of version 1 or 2, by its HTTP interface.

``$secret://vault/<id>/<name>/<key>`` is the member ``key`` of what is at ``<uri>/v1/<prefix>/<name>``. With version 2
of the engine ``data`` belongs in the prefix, as in ``kv/data/apisix``.
"""

from typing import Any
from urllib.parse import quote

import msgspec

from config_sync.schema import Vault
from config_sync.secrets import Resolver, is_reference
from worker.plugins.http_client import HttpClient, HttpFailed
from worker.secrets.source import SecretFailed, SecretNotThere

ANSWER_TIME = 5.0  # seconds
LARGEST = 1024 * 1024  # bytes; Vault's own limit


class VaultSource:
    """Reads from one Vault."""

    def __init__(self, settings: Vault, http: HttpClient, environment: Resolver) -> None:
        """Settings may refer to the environment.

        Raises:
            ConfigError: there is no HTTP client.
        """
        http.require("$secret://vault")
        self._settings = settings
        self._http = http
        self._environment = environment

    async def fetch(self, name: str) -> dict[str, Any] | str:
        """Read what is at a path; see ``SecretSource``."""
        url = "/".join(
            (self._plain("uri").rstrip("/"), "v1", quote(self._plain("prefix").strip("/")), quote(name.strip("/")))
        )
        fields = [(b"X-Vault-Token", self._plain("token").encode())]
        if self._settings.namespace is not None:
            fields.append((b"X-Vault-Namespace", self._plain("namespace").encode()))
        try:
            answer = await self._http.request("GET", url, fields=fields, within=ANSWER_TIME, largest=LARGEST)
        except HttpFailed as error:
            raise SecretFailed(str(error)) from error
        if answer.status == 404:
            raise SecretNotThere("Vault has nothing there")
        if answer.status != 200:
            raise SecretFailed(f"Vault answers {answer.status}")
        return _values_in(answer.body)

    def _plain(self, field: str) -> str:
        text: str = getattr(self._settings, field)
        found = self._environment.resolve(text) if is_reference(text) else text
        if found is None:
            raise SecretFailed(f"nothing is known of what {field} refers to")
        return found


def _values_in(body: bytes) -> dict[str, Any]:
    try:
        values = msgspec.json.decode(body, type=dict[str, Any]).get("data")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise SecretFailed("Vault's answer cannot be read")
    inner = values.get("data")
    if isinstance(inner, dict) and isinstance(values.get("metadata"), dict):
        return inner  # version 2 of the engine
    return values
