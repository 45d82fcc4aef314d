"""Import, export, diff, validate: between a file in APISIX's standalone format and etcd."""

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from config_sync.cache import Entry, place_of
from config_sync.ctl.comparison import Comparison, changed_paths, compare
from config_sync.ctl.terminal import note, say, tracked
from config_sync.ctl.validation import Validator, dangling
from config_sync.errors import ConfigError, StoreError, WriteConflict
from config_sync.etcd.transactions import Write, planned, portions
from config_sync.standalone import read_standalone, write_standalone

if TYPE_CHECKING:
    from config_sync.etcd.store import EtcdStore

FINE, DIFFERENT, FAILED = 0, 1, 2  # exit codes


def read_file(name: str) -> dict[str, bytes]:
    """Read a file (``-``: standard input) as values by key below the prefix.

    Raises:
        ConfigError: it cannot be read, or is not of the format.
    """
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return read_standalone(text, os.environ)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


def read_store(store: "EtcdStore") -> dict[str, Entry]:
    """Read all resources, at one revision; ids, leases and placeholders of other tools are left out."""
    found: dict[str, Entry] = {}
    pages = store.pages()
    first = next(pages)
    rest = (page.entries for page in pages)
    for entries in tracked(chain([first.entries], rest), "reading", first.left):
        found.update((entry.key, entry) for entry in entries if place_of(entry.key) is not None)
    return found


def validate(name: str, validator: Validator) -> int:
    """Say what is wrong with a file."""
    values = read_file(name)
    faults = report_faults(values.items(), validator)
    for finding in dangling(values):
        note(str(finding))
    say(f"{name}: {counted(len(values), 'object')}, {faults} not valid")
    return DIFFERENT if faults else FINE


def report_faults(values: Iterable[tuple[str, bytes]], validator: Validator) -> int:
    """Print what is found in values; returns how many of them are not valid."""
    faults = 0
    for key, raw in values:
        findings = list(validator.examine(key, raw))
        faults += any(finding.is_fault for finding in findings)
        for finding in findings:
            note(str(finding))
    return faults


def diff(store: "EtcdStore", name: str) -> int:
    """Say what an import of the file, with ``--prune``, would change."""
    wanted = read_file(name)
    stored = {key: entry.value for key, entry in read_store(store).items()}
    comparison = compare(wanted, stored)
    show(comparison, wanted, stored)
    say(summary(comparison, prune=True))
    return FINE if comparison.is_empty() else DIFFERENT


def import_file(store: "EtcdStore", name: str, validator: Validator | None, prune: bool, dry_run: bool) -> int:
    """Write to etcd what differs from the file; without a validator, whatever it is."""
    wanted = read_file(name)
    entries = read_store(store)
    stored = {key: entry.value for key, entry in entries.items()}
    comparison = compare(wanted, stored)
    if not prune:
        comparison = Comparison(comparison.added, comparison.changed, [], comparison.equal)
    values = {key: wanted[key] for key in (*comparison.added, *comparison.changed)}
    if validator is not None and report_faults(values.items(), validator):
        raise ConfigError(f"{name}: nothing is written, since some objects are not valid (--no-validate writes them)")
    if dry_run:
        show(comparison, wanted, stored)
        say(f"dry run: {summary(comparison, prune)}")
        return FINE
    for key in comparison.removed:
        say(f"- {key}")
    writes = planned(values, comparison.removed, {key: entry.mod_revision for key, entry in entries.items()})
    revision = _write(store, writes)
    say(f"{summary(comparison, prune)}{f', at revision {revision}' if writes else ''}")
    return FINE


def _write(store: "EtcdStore", writes: list[Write]) -> int:
    """Write in portions; returns the revision of the last one."""
    revision = done = 0
    for portion in tracked(portions(writes), "writing", len(writes)):
        try:
            revision = store.write(portion)
        except StoreError as error:
            reason = str(error) if isinstance(error, WriteConflict) else f"{_span(portion)}: {error}"
            raise StoreError(
                f"{reason}; {done} of {len(writes)} changes are written, import again for the others"
            ) from error
        except KeyboardInterrupt:
            note(f"interrupted: {done} or {done + len(portion)} of {len(writes)} changes are written")
            raise
        done += len(portion)
    return revision


def _span(portion: list[Write]) -> str:
    return portion[0].key if len(portion) == 1 else f"{portion[0].key} to {portion[-1].key}"


def export(store: "EtcdStore", name: str | None) -> int:
    """Write what is in etcd to a file, or to standard output."""
    values = {key: entry.value for key, entry in read_store(store).items()}
    unreadable = sorted(key for key, raw in values.items() if not _is_resource(key, raw))
    text = write_standalone({key: raw for key, raw in values.items() if key not in unreadable})
    if name is None or name == "-":
        sys.stdout.write(text)
    else:
        _write_file(Path(name), text)
        note(f"{name}: {counted(len(values) - len(unreadable), 'object')}")
    if unreadable:
        raise ConfigError(f"{', '.join(unreadable)}: cannot stand in a file, being no JSON of the kind or no text")
    return FINE


def show(comparison: Comparison, wanted: Mapping[str, bytes], stored: Mapping[str, bytes]) -> None:
    """Print a line for each difference: what is added, removed, and where values differ, but no values."""
    for key in comparison.added:
        say(f"+ {key}")
    for key in comparison.changed:
        say(f"~ {key}  {', '.join(changed_paths(stored[key], wanted[key]))}")
    for key in comparison.removed:
        say(f"- {key}")


def summary(comparison: Comparison, prune: bool) -> str:
    """Give the line of totals."""
    removed = f", {len(comparison.removed)} deleted" if prune else ""
    return f"{len(comparison.added)} added, {len(comparison.changed)} changed{removed}, {comparison.equal} equal"


def counted(number: int, noun: str) -> str:
    """Say how many."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _is_resource(key: str, raw: bytes) -> bool:
    try:
        key.encode()  # keys of etcd are bytes, those of a file text
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeError):
        return False
    return isinstance(value, list if key == "plugins" else dict)


def _write_file(path: Path, text: str) -> None:
    """Replace a file as a whole; it may hold secrets, so nobody else may read it."""
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            temporary = Path(file.name)
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
