"""What is kept and what is told: records of the store, the items made of them, changes, and who hears of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from config_sync import schema
from config_sync.digest import MODULUS, record_hash
from config_sync.errors import InvalidResource

Decoder = Callable[[str, bytes], tuple[Any, Sequence[str]]]


class Entry(NamedTuple):
    """A key-value record as the store holds it."""

    key: str  # below the prefix, as in "routes/1"
    value: bytes
    mod_revision: int
    create_revision: int = 0
    version: int = 0


class Deletion(NamedTuple):
    """A key that is no more."""

    key: str
    mod_revision: int


Event = Entry | Deletion


class Item(msgspec.Struct, frozen=True, gc=False):
    """One key of a directory; never changed, only replaced, so a list of items is a snapshot."""

    id: str
    raw: bytes  # as it is in the store
    good: bytes | None  # of the last good value: ``raw`` itself while that is valid; None: there was none
    mod_revision: int
    create_revision: int
    version: int

    def is_of(self, entry: Entry) -> bool:
        """Tell whether this is the very record."""
        # The revision alone does not tell: a store that was wiped counts from 1 again.
        return (
            self.mod_revision == entry.mod_revision
            and self.create_revision == entry.create_revision
            and self.version == entry.version
            and self.raw == entry.value
        )


@dataclass(frozen=True)
class Rejected:
    """A value that is not valid."""

    key: str
    path: str
    reason: str
    revision: int


class Change(NamedTuple):
    """A value that listeners have to take over; None stands for absence."""

    directory: str
    id: str
    new: Any


class Decoded(NamedTuple):
    """What has become of a record."""

    item: Item
    value: Any
    fault: InvalidResource | None


class PrefixCache:
    """The items of one directory by id."""

    __slots__ = ("directory", "items")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.items: dict[str, Item] = {}

    def __repr__(self) -> str:
        """Show directory and size."""
        return f"<PrefixCache {self.directory} {len(self.items)}>"


class Staging(Protocol):
    """A listener's preparation of many changes that become visible together."""

    def add(self, changes: Sequence[Change]) -> None:
        """Prepare changes; nothing is visible yet."""

    def finish(self) -> Iterator[None]:
        """Prepare, in steps, all that ``commit`` would take long for."""

    def commit(self) -> None:
        """Make all of it visible; quick."""

    def clean(self) -> Iterator[None]:
        """Put away, in steps, what has been replaced."""

    def drop(self) -> None:
        """Forget it all."""


class Observer(Protocol):
    """Who is told of records rather than of values: a relay, the snapshot on disk."""

    def applied(self, events: Sequence[Event], revision: int) -> None:
        """Events have been applied; without any the store is known to be up to date at a revision."""

    def replaced(self, revision: int) -> None:
        """A complete snapshot has been taken over."""


Listener = Callable[[Sequence[Change]], None]
Weigher = Callable[[str, str], int]


def place_of(key: str) -> tuple[str, str] | None:
    """Split a key below the prefix into directory and id; None for what is no resource.

    Placeholders (a directory with an empty id), directories we do not know (``gen_id``, ``data_plane``) and what
    is nested below services are no resources (data-model.md section 1).
    """
    directory, slash, id_ = key.partition("/")
    if directory == "plugins":
        return None if slash else (directory, "")
    if not id_ or directory not in schema.DIRECTORIES or (directory == "services" and "/" in id_):
        return None
    return directory, id_


def key_of(directory: str, id_: str) -> str:
    """Put a key together again."""
    return f"{directory}/{id_}" if id_ else directory


def item_hash(directory: str, item: Item) -> int:
    """Hash an item as ``config_sync.digest`` says."""
    return record_hash(key_of(directory, item.id), item.mod_revision, item.raw)


def digest_of(directory: str, items: Iterable[Item]) -> int:
    """Compute the digest of a directory anew."""
    return sum(item_hash(directory, item) for item in items) % MODULUS
