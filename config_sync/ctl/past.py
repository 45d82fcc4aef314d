"""Watch, history, rollback: what happens to keys, and what has happened as far as etcd still knows."""

import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import msgspec

from config_sync.cache import Deletion, Event
from config_sync.ctl.comparison import changed_paths, readable, says_the_same
from config_sync.ctl.terminal import note, say
from config_sync.ctl.transfer import FINE, report_faults
from config_sync.ctl.validation import Validator
from config_sync.errors import ConfigError, RevisionCompacted, StoreError
from config_sync.etcd.transactions import Write

if TYPE_CHECKING:
    from config_sync.etcd.store import EtcdStore

RETRY_DELAY = 1.0  # seconds
QUIET = 1.0  # seconds without an event, after which a key that is gone has no more past; etcd needs 0.1


class Step(NamedTuple):
    """An event, and what was there before; None: nothing, or not known any more."""

    event: Event
    before: bytes | None


def watch(connect: "Callable[[], EtcdStore]", start_revision: int, as_json: bool, values: bool) -> NoReturn:
    """Print events as they come, from a revision on (0: from now on), until interrupted; survives any endpoint."""
    cursor = start_revision - 1 if start_revision else -1
    while True:
        try:
            with connect() as store:
                revision = store.revision()
                if cursor > revision:
                    note(f"etcd is at revision {revision}, below {cursor}: was it restored? Going on there")
                cursor = min(cursor, revision) if cursor >= 0 else revision
                note(f"watching {store.prefix} at {store.url} from revision {cursor + 1} on")
                for step in _steps(store, cursor):
                    say(_as_json(step.event) if as_json else described(step, values))
                    sys.stdout.flush()
                    cursor = step.event.mod_revision
        except RevisionCompacted as gone:
            note(f"{gone}; what happened from {cursor + 1} to {gone.oldest} is lost")
            cursor = gone.oldest
        except StoreError as error:
            if cursor < 0:
                raise
            note(f"{error}; trying again")
            time.sleep(RETRY_DELAY)


def _steps(store: "EtcdStore", cursor: int) -> Iterator[Step]:
    """Follow events after a revision.

    The watch begins at it: etcd loses deletes at the revision of a compaction, and says so only to a watch that
    begins before (etcd-http-gateway.md section 4.6).
    """
    with closing(store.watch(max(1, cursor))) as batches:
        for batch in batches:
            # The cursor of the caller stands within a revision until all of its events are printed.
            for event, before in zip(batch.events, batch.before, strict=True):
                if event.mod_revision > cursor:
                    yield Step(event, before)


def history(store: "EtcdStore", key: str, values: bool) -> int:
    """Print every version of a key that etcd still has, the oldest first."""
    steps, oldest = past_of(store, key)
    if oldest:
        note(f"etcd has compacted its history; what is known begins at revision {oldest}")
    if not steps:
        raise ConfigError(f"{key}: etcd knows nothing of it{'' if oldest else ': it was never written'}")
    for step in steps:
        say(described(step, values))
    return FINE


def past_of(store: "EtcdStore", key: str) -> tuple[list[Step], int]:
    """Return what is known of a key, and from which revision on (0: from the beginning)."""
    oldest, steps = 0, []
    while True:
        try:
            now = store.get(key)
            first = store.get(key, oldest) if oldest else None
            steps = [Step(first, None)] if first is not None else []
            last = now.mod_revision if now is not None else None
            if first is None or first.mod_revision != last:
                steps.extend(_until(store, key, oldest + 1, last))
        except RevisionCompacted as gone:
            oldest = gone.oldest or store.oldest_revision(key)
        else:
            return steps, oldest


def _until(store: "EtcdStore", key: str, start_revision: int, last: int | None) -> Iterator[Step]:
    with closing(store.watch(start_revision, key, QUIET if last is None else None)) as batches:
        for batch in batches:
            for event, before in zip(batch.events, batch.before, strict=True):
                yield Step(event, before)
                if last is not None and event.mod_revision >= last:
                    return


def rollback(store: "EtcdStore", key: str, revision: int, validator: Validator | None, dry_run: bool) -> int:
    """Write a key as it was at a revision, unless it is written by somebody else meanwhile."""
    now = store.get(key)
    try:
        then = store.get(key, revision)
    except RevisionCompacted as gone:
        raise RevisionCompacted(gone.oldest or store.oldest_revision(key)) from gone
    if then is None:
        raise ConfigError(
            f"{key}: was not there at revision {revision}; `propylon ctl history {key}` shows when it was"
        )
    if now is not None and says_the_same(now.value, then.value):
        say(f"{key} is what it was at revision {revision}")
        return FINE
    if validator is not None and report_faults([(key, then.value)], validator):
        raise ConfigError(f"{key}: what it was at revision {revision} is not valid (--no-validate writes it)")
    paths = f"  {', '.join(changed_paths(now.value, then.value))}" if now is not None else ""
    say(f"{'~' if now is not None else '+'} {key}{paths}")
    if dry_run:
        say(f"dry run: {key} would be what it was at revision {revision}")
        return FINE
    written = store.write([Write(key, then.value, now.mod_revision if now is not None else 0)])
    say(f"{key} is what it was at revision {revision}, at revision {written}")
    return FINE


def described(step: Step, values: bool) -> str:
    """Give the line of an event: what changed, and only on demand the value, which may hold secrets."""
    event, before = step
    if isinstance(event, Deletion):
        return f"{event.mod_revision}  delete  {event.key}"
    if event.version == 1:
        what = f"create  {event.key}"
    else:
        paths = changed_paths(before, event.value) if before is not None else []
        what = f"put     {event.key}  version {event.version}  {', '.join(paths)}".rstrip()
    return f"{event.mod_revision}  {what}" + (f"\n{readable(event.value)}" if values else "")


def _as_json(event: Event) -> str:
    key = event.key.encode("utf-8", "backslashreplace").decode()
    fields: dict[str, object] = {"revision": event.mod_revision, "key": key}
    if isinstance(event, Deletion):
        fields["type"] = "delete"
    else:
        fields |= {"type": "put", "create_revision": event.create_revision, "version": event.version}
        try:
            fields["value"] = msgspec.json.decode(event.value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            fields["base64"] = b64encode(event.value).decode()  # no JSON
    return msgspec.json.encode(fields).decode()
