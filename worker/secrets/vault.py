"""HashiCorp Vault: the key-value engine, of version 1 or 2, by its HTTP interface.

``$secret://vault/<id>/<name>/<key>`` is the member ``key`` of what is at ``<uri>/v1/<prefix>/<name>``. With version 2
of the engine ``data`` belongs in the prefix, as in ``kv/data/apisix``.
"""

from typing import Any
from urllib.parse import quote

from config_sync.schema import Vault
from config_sync.secrets import Resolver
from worker.plugins.http_client import HttpClient, HttpFailed
from worker.secrets.source import ANSWER_TIME, LARGEST, Plain, SecretFailed, SecretNotThere, decoded_object


class VaultSource:
    """Reads from one Vault."""

    def __init__(self, settings: Vault, http: HttpClient, environment: Resolver) -> None:
        """Settings may refer to the environment.

        Raises:
            ConfigError: there is no HTTP client.
        """
        http.require("$secret://vault")
        self._plain = Plain(settings, environment)
        self._has_namespace = settings.namespace is not None
        self._http = http

    async def fetch(self, name: str) -> dict[str, Any] | str:
        """Read what is at a path; see ``SecretSource``."""
        plain = self._plain
        url = "/".join((plain["uri"].rstrip("/"), "v1", quote(plain["prefix"].strip("/")), quote(name.strip("/"))))
        fields = [(b"X-Vault-Token", plain["token"].encode())]
        if self._has_namespace:
            fields.append((b"X-Vault-Namespace", plain["namespace"].encode()))
        try:
            answer = await self._http.request("GET", url, fields=fields, within=ANSWER_TIME, largest=LARGEST)
        except HttpFailed as error:
            raise SecretFailed(str(error)) from error
        if answer.status == 404:
            raise SecretNotThere("Vault has nothing there")
        if answer.status != 200:
            raise SecretFailed(f"Vault answers {answer.status}")
        return _values_in(answer.body)


def _values_in(body: bytes) -> dict[str, Any]:
    values = decoded_object(body, "Vault").get("data")
    if not isinstance(values, dict):
        raise SecretFailed("what Vault answers holds no data")
    inner = values.get("data")
    if isinstance(inner, dict) and isinstance(values.get("metadata"), dict):
        return inner  # version 2 of the engine
    return values
