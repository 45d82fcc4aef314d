"""How secret managers are reached (data-model.md section 11); the manager's name is the first part of the id."""

from typing import Annotated

import msgspec
from msgspec import Meta

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema.decoding import Context, Kind
from config_sync.schema.fields import Resource

LongId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-zA-Z0-9_\-./]+\Z")] | None


class SecretManagerSettings(Resource, kw_only=True, forbid_unknown_fields=True):
    """What all managers have; ``id`` is ``<manager>/<id>``."""

    id: LongId = None


class Vault(SecretManagerSettings, kw_only=True, forbid_unknown_fields=True):
    """HashiCorp Vault."""

    uri: str
    prefix: str
    token: str
    namespace: str | None = None


class Aws(SecretManagerSettings, kw_only=True, forbid_unknown_fields=True):
    """AWS Secrets Manager."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    region: str = "us-east-1"
    endpoint_url: str | None = None


class GcpAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service account of Google Cloud."""

    client_email: str
    private_key: str
    project_id: str
    token_uri: str | None = None
    scope: tuple[str, ...] = ()
    entries_uri: str | None = None


class Gcp(SecretManagerSettings, kw_only=True, forbid_unknown_fields=True):
    """Google Cloud Secret Manager."""

    auth_config: GcpAccount | None = None
    auth_file: str | None = None
    ssl_verify: bool = True


def _check_gcp(settings: Gcp, _: Context) -> None:
    if (settings.auth_config is None) is (settings.auth_file is None):
        raise InvalidResource("$", "one of auth_config and auth_file is required")


def _accept(_: SecretManagerSettings, __: Context) -> None:
    return


_KINDS: "dict[str, Kind[Vault] | Kind[Aws] | Kind[Gcp]]" = {
    "vault": Kind(Vault, _accept),
    "aws": Kind(Aws, _accept),
    "gcp": Kind(Gcp, _check_gcp),
}


def decode_secret(id_: str, raw: bytes, keyring: Keyring | None = None) -> tuple[SecretManagerSettings, list[str]]:
    """Decode a value under ``secrets/``; see ``Kind.decode``."""
    manager, _, name = id_.partition("/")
    if not name or "/" in name:
        raise InvalidResource("$", "the key must be secrets/<manager>/<id>")
    if manager not in _KINDS:
        raise InvalidResource("$", f"{manager!r} is no secret manager; there are {', '.join(_KINDS)}")
    return _KINDS[manager].decode(id_, raw, keyring)
