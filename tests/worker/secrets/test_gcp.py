"""How Google Cloud Secret Manager is asked, and what is made of its answers."""

import asyncio
import base64
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from config_sync import schema
from config_sync.secrets import Resolver
from tests.fakes.http_service import Asked, HttpService
from worker.plugins.http_client import HttpClient
from worker.secrets.gcp import GRANT, GcpSource
from worker.secrets.source import SecretFailed, SecretNotThere


@lru_cache(maxsize=1)
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem() -> str:
    kind = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return private_key().private_bytes(serialization.Encoding.PEM, *kind).decode()


class Google(HttpService):
    """Gives tokens to who signs, and secrets to who has a token."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.claims: list[dict[str, Any]] = []
        self.lasts = 3600
        self.error: tuple[int, bytes] | None = None
        super().__init__(self._answer)

    def _answer(self, asked: Asked) -> tuple[int, bytes]:
        if asked.path == "/token":
            return self._token(asked)
        if asked.fields.get("authorization") != f"Bearer token-{len(self.claims)}":
            return 401, b"{}"
        if self.error is not None:
            return self.error
        name = asked.path.removeprefix("/v1/projects/p/secrets/").removesuffix("/versions/latest:access")
        if name not in self.values:
            return 404, b"{}"
        return 200, json.dumps({"name": name, "payload": {"data": self.values[name]}}).encode()

    def _token(self, asked: Asked) -> tuple[int, bytes]:
        form = {name: values[0] for name, values in parse_qs(asked.body.decode()).items()}
        assert form["grant_type"] == GRANT
        try:
            claims = jwt.decode(form["assertion"], private_key().public_key(), ["RS256"], audience=f"{self.url}/token")
        except jwt.PyJWTError:
            return 400, b'{"error":"invalid_grant"}'
        self.claims.append(claims)
        return 200, json.dumps({"access_token": f"token-{len(self.claims)}", "expires_in": self.lasts}).encode()

    def account(self, **more: Any) -> dict[str, Any]:
        """Return the key of an account."""
        return {
            "client_email": "a@p.iam",
            "private_key": pem(),
            "project_id": "p",
            "token_uri": f"{self.url}/token",
            "entries_uri": f"{self.url}/v1",
            **more,
        }


@pytest.fixture
def google() -> Iterator[Google]:
    running = Google({"jack": base64.b64encode(b'{"key":"k"}').decode(), "odd": "%", "bytes": "/w=="})
    yield running
    running.close()


def fetch(settings: dict[str, Any], *names: str) -> list[Any]:
    async def work() -> list[Any]:
        loop = asyncio.get_running_loop()
        http = HttpClient(loop)
        typed = schema.decode_secret("gcp/1", json.dumps(settings).encode())[0]
        assert isinstance(typed, schema.Gcp)
        source = GcpSource(typed, http, Resolver({"KEY": pem()}), loop)
        try:
            return [await source.fetch(name) for name in names or ("jack",)]
        finally:
            http.close()
            await asyncio.sleep(0)

    return asyncio.run(work())


def test_a_secret_is_its_text_and_a_token_serves_for_several(google: Google) -> None:
    assert fetch({"auth_config": google.account()}, "jack", "jack") == ['{"key":"k"}'] * 2
    (claims,) = google.claims
    assert (claims["iss"], claims["exp"] - claims["iat"]) == ("a@p.iam", 3600)
    assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"


def test_a_token_near_its_end_is_replaced(google: Google) -> None:
    google.lasts = 30
    assert fetch({"auth_config": google.account()}, "jack", "jack") == ['{"key":"k"}'] * 2
    assert len(google.claims) == 2


def test_scopes_and_references(google: Google) -> None:
    account = google.account(scope=["a", "b"], private_key="$env://KEY")
    assert fetch({"auth_config": account}) == ['{"key":"k"}']
    assert google.claims[0]["scope"] == "a b"


def test_the_account_may_be_in_a_file(google: Google, tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps({**google.account(), "type": "service_account"}))
    assert fetch({"auth_file": str(path)}) == ['{"key":"k"}']
    path.write_text("{}")
    with pytest.raises(SecretFailed, match="no key of a service account"):
        fetch({"auth_file": str(path)})
    with pytest.raises(SecretFailed, match="No such file"):
        fetch({"auth_file": str(tmp_path / "none")})


def test_what_is_not_there_is_told_apart_from_what_cannot_be_known(google: Google) -> None:
    settings = {"auth_config": google.account()}
    with pytest.raises(SecretNotThere):
        fetch(settings, "nobody")
    for name in ("odd", "bytes"):
        with pytest.raises(SecretFailed, match="no text"):
            fetch(settings, name)
    with pytest.raises(SecretFailed, match="private key"):
        fetch({"auth_config": google.account(private_key="x")})
    google.error = 503, b""
    with pytest.raises(SecretFailed, match="503"):
        fetch(settings)
    google.error = 200, b"x"
    with pytest.raises(SecretFailed, match="cannot be read"):
        fetch(settings)


def test_no_token_no_secret(google: Google) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kind = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    wrong = other.private_bytes(serialization.Encoding.PEM, *kind).decode()
    with pytest.raises(SecretFailed, match="no token, but 400"):
        fetch({"auth_config": google.account(private_key=wrong)})
