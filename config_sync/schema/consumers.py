"""Consumers and their credentials (data-model.md section 6). Both lie under ``consumers/``; the key's depth tells."""

from typing import Annotated

from msgspec import Meta

from config_sync import sensitive
from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema.decoding import Context, Kind, PluginCheck
from config_sync.schema.fields import NOTHING, Id, LabelledResource, NamedResource, check_labels, shown
from config_sync.schema.plugins import PluginConfigs, check_plugins

_LONGEST_CREDENTIAL_ID = 128

Username = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[a-zA-Z0-9_\-]+\Z")]


class Consumer(LabelledResource, kw_only=True, forbid_unknown_fields=True):
    """Who uses the gateway; ``username`` is the last part of the key."""

    username: Username | None = None
    group_id: Id = None
    plugins: PluginConfigs = NOTHING


class Credential(NamedResource, kw_only=True, forbid_unknown_fields=True):
    """One more way for a consumer to prove who it is; ``id`` is ``<username>/credentials/<id>``."""

    # In a file the id is written in its long form.
    id: Annotated[str, Meta(max_length=_LONGEST_CREDENTIAL_ID, pattern=r"^[a-zA-Z0-9_\-./]+\Z")] | None = None
    plugins: PluginConfigs = NOTHING

    @property
    def username(self) -> str:
        """Whose credential it is."""
        return (self.id or "").partition("/")[0]


def _check_consumer(consumer: Consumer, context: Context) -> None:
    check_labels(consumer.labels, "$")
    check_plugins(consumer.plugins, "$.plugins", context, sensitive.CONSUMER, credentials=True)


def _check_credential(credential: Credential, context: Context) -> None:
    check_labels(credential.labels, "$")
    if len(credential.plugins) > 1:
        raise InvalidResource("$.plugins", "must hold one plugin; write another credential for another one")
    for name in credential.plugins:
        if name not in context.credentials:
            raise InvalidResource(f"$.plugins[{shown(name)}]", "is no plugin that authenticates a consumer")
    check_plugins(credential.plugins, "$.plugins", context, sensitive.CREDENTIAL, credentials=True)


_CONSUMER = Kind(Consumer, _check_consumer)
_CREDENTIAL = Kind(Credential, _check_credential)


def decode_consumer(
    id_: str, raw: bytes, keyring: Keyring | None = None, check_plugin: PluginCheck | None = None
) -> tuple[Consumer, list[str]] | tuple[Credential, list[str]]:
    """Decode a value under ``consumers/``; see ``Kind.decode``."""
    parts = id_.split("/")
    if len(parts) == 3 and parts[1] == "credentials" and parts[0] and parts[2]:
        return _CREDENTIAL.decode(id_, raw, keyring, check_plugin)
    if len(parts) != 1:
        raise InvalidResource("$", "the key must be consumers/<username> or consumers/<username>/credentials/<id>")
    consumer, warnings = _CONSUMER.decode(id_, raw, keyring, check_plugin)
    if consumer.username is not None and consumer.username != id_:
        warnings.append(f"$.username: {shown(consumer.username)} is not what the key says; {id_!r} is used")
    consumer.username = id_
    return consumer, warnings
