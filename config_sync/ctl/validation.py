"""What is wrong with values, without a store: each is decoded as a gateway would."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from config_sync.cache import place_of
from config_sync.errors import InvalidResource
from config_sync.schema import Decoder

# Where an id stands, by directory, and what it names (data-model.md section 14).
_REFERENCES = {
    "routes": {"service_id": "services", "plugin_config_id": "plugin_configs", "upstream_id": "upstreams"},
    "services": {"upstream_id": "upstreams"},
    "stream_routes": {"service_id": "services", "upstream_id": "upstreams"},
    "consumers": {"group_id": "consumer_groups"},
}


class Finding(NamedTuple):
    """Something about one place of one value."""

    key: str
    path: str
    text: str
    is_fault: bool  # else a warning

    def __str__(self) -> str:
        """Give the line that people read."""
        return f"{'error' if self.is_fault else 'warning'}: {self.key}: {self.path}: {self.text}"


class Validator:
    """Decodes as a gateway with these decoders would."""

    def __init__(self, decoders: Mapping[str, Decoder]) -> None:
        """Take decoders by directory."""
        self._decoders = decoders

    def examine(self, key: str, raw: bytes) -> Iterator[Finding]:
        """Say what there is to say about one value."""
        place = place_of(key)
        if place is None:
            yield Finding(key, "$", "is no resource that a gateway reads", False)
            return
        directory, id_ = place
        try:
            _, warnings = self._decoders[directory](id_, raw)
        except InvalidResource as fault:
            yield Finding(key, fault.path, fault.reason, True)
            return
        for warning in warnings:
            yield Finding(key, "$", warning, False)


def dangling(values: Mapping[str, bytes]) -> Iterator[Finding]:
    """Find references to what is not among the values: requests that need them will fail."""
    for key, raw in values.items():
        references = _REFERENCES.get(key.partition("/")[0])
        if references is None:
            continue
        try:
            value = msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        for name, directory in references.items():
            if name in value and f"{directory}/{value[name]}" not in values:
                yield Finding(key, f"$.{name}", f"{directory}/{value[name]} is not there", False)
