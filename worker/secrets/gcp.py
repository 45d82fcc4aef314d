"""Google Cloud Secret Manager, asked in the name of a service account.

``$secret://gcp/<id>/<name>`` is the text of the secret's latest version, ``$secret://gcp/<id>/<name>/<key>`` a member
of the JSON object that it holds. The account's key is in ``auth_config``, or in the file ``auth_file``.
"""

import asyncio
import base64
import binascii
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from config_sync.schema import Gcp
from config_sync.secrets import Resolver
from worker.plugins.http_client import HttpAnswer, HttpClient, HttpFailed
from worker.secrets.source import ANSWER_TIME, LARGEST, Plain, SecretFailed, SecretNotThere, decoded_object

TOKENS = "https://oauth2.googleapis.com/token"
ENTRIES = "https://secretmanager.googleapis.com/v1"
SCOPE = ("https://www.googleapis.com/auth/cloud-platform",)
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_TIME = 3600  # seconds that are asked for
SPARE = 60.0  # seconds before its end in which a token is not used any more


class Account(msgspec.Struct):
    """A service account, as Google's key files have it."""

    client_email: str
    private_key: str
    project_id: str
    token_uri: str | None = None
    scope: tuple[str, ...] = ()
    entries_uri: str | None = None


class GcpSource:
    """Reads the secrets of one project."""

    def __init__(self, settings: Gcp, http: HttpClient, environment: Resolver, loop: asyncio.AbstractEventLoop) -> None:
        """Settings may refer to the environment.

        Raises:
            ConfigError: there is no HTTP client.
        """
        http.require("$secret://gcp")
        self._settings = settings
        self._environment = environment
        self._http = http
        self._loop = loop
        self._token = ""
        self._token_until = 0.0
        self._asking = asyncio.Lock()

    async def fetch(self, name: str) -> dict[str, Any] | str:
        """Read a secret's text; see ``SecretSource``."""
        account = await self._loop.run_in_executor(None, self._account)
        token = await self._current_token(account)
        entries = (account.entries_uri or ENTRIES).rstrip("/")
        url = f"{entries}/projects/{quote(account.project_id)}/secrets/{quote(name)}/versions/latest:access"
        answer = await self._request("GET", url, [(b"Authorization", b"Bearer " + token.encode())])
        if answer.status == 404:
            raise SecretNotThere("Google has nothing of that name")
        if answer.status == 401:
            self._token_until = 0.0
        if answer.status != 200:
            raise SecretFailed(f"Google answers {answer.status}")
        payload = decoded_object(answer.body, "Google").get("payload")
        try:
            return base64.b64decode(payload["data"], validate=True).decode()  # type: ignore[index]  # caught
        except (TypeError, KeyError, binascii.Error, ValueError) as error:
            raise SecretFailed("the secret is no text") from error

    def _account(self) -> Account:
        """Return the account; reads a file."""
        settings = self._settings
        if settings.auth_file is not None:
            path = Plain(settings, self._environment)["auth_file"]
            try:
                return msgspec.json.decode(Path(path).read_bytes(), type=Account)
            except OSError as error:
                raise SecretFailed(f"auth_file {path}: {error.strerror}") from error
            except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                raise SecretFailed(f"auth_file {path} is no key of a service account") from error
        assert settings.auth_config is not None  # noqa: S101 - one of both is given
        plain = Plain(settings.auth_config, self._environment)
        return Account(
            plain["client_email"],
            plain["private_key"],
            plain["project_id"],
            settings.auth_config.token_uri,
            settings.auth_config.scope,
            settings.auth_config.entries_uri,
        )

    async def _current_token(self, account: Account) -> str:
        async with self._asking:
            if self._loop.time() > self._token_until:
                signed = await self._loop.run_in_executor(None, assertion, account, int(time.time()))
                form = urlencode({"grant_type": GRANT, "assertion": signed}).encode()
                kind = [(b"Content-Type", b"application/x-www-form-urlencoded")]
                answer = await self._request("POST", account.token_uri or TOKENS, kind, form)
                if answer.status != 200:
                    raise SecretFailed(f"Google gives no token, but {answer.status}")
                said = decoded_object(answer.body, "Google")
                token, lasts = said.get("access_token"), said.get("expires_in", TOKEN_TIME)
                if not isinstance(token, str) or not isinstance(lasts, int | float):
                    raise SecretFailed("what Google answers holds no token")
                self._token, self._token_until = token, self._loop.time() + lasts - SPARE
            return self._token

    async def _request(
        self, method: str, url: str, fields: list[tuple[bytes, bytes]], body: bytes | None = None
    ) -> HttpAnswer:
        try:
            return await self._http.request(
                method,
                url,
                fields=fields,
                body=body,
                within=ANSWER_TIME,
                verify=self._settings.ssl_verify,
                largest=LARGEST,
            )
        except HttpFailed as error:
            raise SecretFailed(str(error)) from error


def assertion(account: Account, now: int) -> str:
    """Sign that we are the account; takes a millisecond, and more the first time.

    Raises:
        SecretFailed: its key cannot be used.
    """
    import jwt

    claims = {
        "iss": account.client_email,
        "scope": " ".join(account.scope or SCOPE),
        "aud": account.token_uri or TOKENS,
        "iat": now,
        "exp": now + TOKEN_TIME,
    }
    try:
        return jwt.encode(claims, account.private_key, algorithm="RS256")
    except (ValueError, TypeError, jwt.PyJWTError) as error:
        raise SecretFailed("the private key of the service account cannot be used") from error
