"""Protobuf files, for plugins that transcode (data-model.md section 11)."""

from typing import Annotated

from msgspec import Meta

from config_sync.encryption import Keyring
from config_sync.schema.decoding import Context, Kind
from config_sync.schema.fields import NamedResource, check_labels


class Proto(NamedResource, kw_only=True, forbid_unknown_fields=True):
    """The text of a ``.proto`` file, or a FileDescriptorSet in base64."""

    content: Annotated[str, Meta(min_length=1, max_length=1 << 20)]


def _check(proto: Proto, _: Context) -> None:
    check_labels(proto.labels, "$")


_PROTO = Kind(Proto, _check)


def decode_proto(id_: str, raw: bytes, keyring: Keyring | None = None) -> tuple[Proto, list[str]]:
    """Decode a value under ``protos/``; see ``Kind.decode``."""
    return _PROTO.decode(id_, raw, keyring)
