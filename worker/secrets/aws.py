"""AWS Secrets Manager: GetSecretValue, signed with Signature Version 4.

``$secret://aws/<id>/<name>`` is the text of the secret's current version, ``$secret://aws/<id>/<name>/<key>`` a member
of the JSON object that it holds.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from config_sync.schema import Aws
from config_sync.secrets import Resolver
from worker.plugins.http_client import HttpClient, HttpFailed
from worker.secrets.source import ANSWER_TIME, LARGEST, Plain, SecretFailed, SecretNotThere, decoded_object

SERVICE = "secretsmanager"


class AwsSource:
    """Reads from the Secrets Manager of one account and region."""

    def __init__(self, settings: Aws, http: HttpClient, environment: Resolver) -> None:
        """Settings may refer to the environment.

        Raises:
            ConfigError: there is no HTTP client.
        """
        http.require("$secret://aws")
        self._plain = Plain(settings, environment)
        self._has_token = settings.session_token is not None
        self._has_url = settings.endpoint_url is not None
        self._http = http

    async def fetch(self, name: str) -> dict[str, Any] | str:
        """Read a secret's text; see ``SecretSource``."""
        plain = self._plain
        region = plain["region"]
        url = plain["endpoint_url"] if self._has_url else f"https://{SERVICE}.{region}.amazonaws.com"
        host = urlsplit(url).netloc
        body = msgspec.json.encode({"SecretId": name, "VersionStage": "AWSCURRENT"})
        fields = {
            "content-type": "application/x-amz-json-1.1",
            "host": host,
            "x-amz-date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            "x-amz-target": f"{SERVICE}.GetSecretValue",
        }
        if self._has_token:
            fields["x-amz-security-token"] = plain["session_token"]
        signer = Signer(plain["access_key_id"], plain["secret_access_key"], region, SERVICE)
        fields["authorization"] = signer.authorization("POST", "/", "", fields, body)
        del fields["host"]  # which is sent anyway
        try:
            answer = await self._http.request(
                "POST",
                f"{url.rstrip('/')}/",
                fields=[(key.encode(), value.encode()) for key, value in fields.items()],
                body=body,
                within=ANSWER_TIME,
                largest=LARGEST,
            )
        except HttpFailed as error:
            raise SecretFailed(str(error)) from error
        said = decoded_object(answer.body, "AWS")
        kind = str(said.get("__type", "")).rpartition("#")[2]
        if kind == "ResourceNotFoundException":
            raise SecretNotThere("AWS has nothing of that name")
        if answer.status != 200:
            raise SecretFailed(f"AWS answers {answer.status} {kind}")
        text = said.get("SecretString")
        if not isinstance(text, str):
            raise SecretFailed("the secret is no text")
        return text


class Signer(NamedTuple):
    """Who signs requests to a service."""

    key_id: str
    secret: str
    region: str
    service: str

    def authorization(self, method: str, path: str, query: str, fields: Mapping[str, str], body: bytes) -> str:
        """Return the field that goes with a request; names of ``fields`` are in lower case, ``x-amz-date`` is one.

        ``query`` is percent-encoded, and sorted.
        """
        moment = fields["x-amz-date"]
        names = ";".join(sorted(fields))
        lines = [f"{name}:{' '.join(fields[name].split())}" for name in sorted(fields)]
        request = "\n".join((method, path, query, *lines, "", names, hashlib.sha256(body).hexdigest()))
        scope = f"{moment[:8]}/{self.region}/{self.service}/aws4_request"
        text = "\n".join(("AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()))
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        return f"AWS4-HMAC-SHA256 Credential={self.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
