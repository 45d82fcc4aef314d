"""In which order and portions changes are written.

References are resolved when a request needs them (data-model.md section 14): what is referred to is put before
what refers to it, and deleted after. A portion is one transaction, which gateways apply at one instant.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

MOST_OPERATIONS = 128  # etcd's --max-txn-ops
MOST_BYTES = 1_000_000  # well below etcd's --max-request-bytes, 1.5 MiB, with what gRPC and raft add
_BYTES_PER_OPERATION = 64  # framing of a comparison and an operation

_ORDER = (
    *("secrets", "ssls", "ssl", "protos", "proto", "plugin_metadata", "plugin_configs", "upstreams"),
    *("services", "consumer_groups", "consumers", "global_rules", "routes", "stream_routes", "plugins"),
)
_RANK = {directory: rank for rank, directory in enumerate(_ORDER)}


class Write(NamedTuple):
    """A key to put, or to delete when there is no value."""

    key: str  # below the prefix
    value: bytes | None
    mod_revision: int  # what the key must have now; 0: it must not be there


def planned(values: Mapping[str, bytes], deletions: Sequence[str], revisions: Mapping[str, int]) -> list[Write]:
    """Order what is to be written; ``revisions`` holds the ``mod_revision`` of each key that is there."""
    puts = sorted(values, key=_rank)
    gone = sorted(deletions, key=_rank, reverse=True)
    return [
        *(Write(key, values[key], revisions.get(key, 0)) for key in puts),
        *(Write(key, None, revisions.get(key, 0)) for key in gone),
    ]


def portions(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Cut into transactions that etcd takes; a value beyond the bound goes alone."""
    portion: list[Write] = []
    size = 0
    for write in writes:
        cost = _BYTES_PER_OPERATION + 3 * len(write.key) + len(write.value or b"")
        if portion and (len(portion) == MOST_OPERATIONS or size + cost > MOST_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(write)
        size += cost
    if portion:
        yield portion


def _rank(key: str) -> tuple[int, str]:
    return _RANK.get(key.partition("/")[0], 0), key
