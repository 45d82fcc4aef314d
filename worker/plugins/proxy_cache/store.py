"""Finding, keeping and throwing away answers in a zone, with their variants; all of it may wait for a disk."""

import time

from worker.plugins.proxy_cache.entry import MOST_VARIANTS, Description, Entry, Header, Kind, decoded, name_of
from worker.plugins.proxy_cache.zone import Zone

PASS_TIME = 5.0  # seconds in which nobody waits for an answer that was not to be kept


def find(zone: Zone, key: bytes, header: Header, most: int = -1) -> Entry | None:
    """Return the entry for a request with these fields, fresh or not; OverflowError as ``Zone.read``."""
    entry = decoded(zone.read(name_of(key), most), key)
    if entry is None or entry.description.kind is not Kind.VARIANTS:
        return entry
    return decoded(zone.read(name_of(key, entry.description.vary, header), most), key)


def keep(zone: Zone, entry: Entry, header: Header) -> bool:
    """Keep an answer for requests whose fields are the same as far as it depends on them; tell whether it is."""
    description = entry.description
    ends = description.stored + description.ttl
    name = name_of(description.key, description.vary, header if description.vary else None)
    if description.vary and not _noted(zone, description, name, ends):
        return False
    return zone.write(name, entry.encoded(), ends)


def _noted(zone: Zone, description: Description, name: str, ends: float) -> bool:
    """Note a variant; False when there are too many."""
    key = description.key
    entry = decoded(zone.read(name_of(key)), key)
    known: list[str] = []
    if entry is not None and entry.description.kind is Kind.VARIANTS:
        same = entry.description.vary == description.vary
        known = entry.description.variants if same else []
        ends = max(ends, entry.description.stored + entry.description.ttl) if same else ends
        if same and name in known and ends <= entry.description.stored + entry.description.ttl:
            return True
    if name not in known:
        known = [each for each in known if len(known) < MOST_VARIANTS or zone.read(each) is not None]
        if len(known) >= MOST_VARIANTS:
            return False
        known = [*known, name]
    stored = description.stored
    index = Description(
        kind=Kind.VARIANTS, key=key, stored=stored, ttl=ends - stored, vary=description.vary, variants=known
    )
    return zone.write(name_of(key), Entry(index).encoded(), ends)


def keep_pass(zone: Zone, key: bytes) -> None:
    """Note for a while that the answers for a key are not to be kept, unless there is an answer."""
    name, now = name_of(key), time.time()
    entry = decoded(zone.read(name), key)
    if entry is None or (entry.description.kind is not Kind.VARIANTS and entry.age(now) >= entry.description.ttl):
        description = Description(kind=Kind.PASS, key=key, stored=now, ttl=PASS_TIME)
        zone.write(name, Entry(description).encoded(), now + PASS_TIME)


def purge(zone: Zone, key: bytes) -> bool:
    """Throw away all that is kept for a key; tell whether there was an answer."""
    name = name_of(key)
    entry = decoded(zone.read(name), key)
    if entry is None:
        return False
    there_was = entry.description.kind is Kind.ANSWER
    for variant in entry.description.variants:
        there_was |= zone.remove(variant)
    return zone.remove(name) and there_was
