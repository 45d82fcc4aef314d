"""A zone: what workers share, of a bounded size."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.plugins.proxy_cache import store
from worker.plugins.proxy_cache.entry import Description, Entry, Kind, decoded, name_of
from worker.plugins.proxy_cache.zone import KEPT_AFTER_END, LOCK_AGE, Zone

SOON = 1_000.0


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    return Zone(tmp_path / "zone", 10_000, is_in_memory=True)


def name(number: int) -> str:
    return name_of(str(number).encode())


def test_what_is_written_can_be_read_until_it_is_removed(zone: Zone) -> None:
    assert zone.read(name(1)) is None
    assert zone.write(name(1), b"a" * 100, time.time() + SOON)
    assert zone.write(name(1), b"b" * 50, time.time() + SOON)
    assert (zone.read(name(1)), zone.usage) == (b"b" * 50, 50)
    with pytest.raises(OverflowError):
        zone.read(name(1), 49)
    assert zone.remove(name(1))
    assert not zone.remove(name(1))
    assert (zone.read(name(1)), zone.usage) == (None, 0)


def test_another_process_sees_the_same(zone: Zone, tmp_path: Path) -> None:
    other = Zone(tmp_path / "zone", 10_000, is_in_memory=True)
    zone.write(name(1), b"a", time.time() + SOON)
    assert (other.read(name(1)), other.usage) == (b"a", 1)


def test_there_is_never_more_than_its_size(zone: Zone) -> None:
    now = time.time()
    assert not zone.write(name(0), b"x" * 2_501, now + SOON)
    written = [number for number in range(20) if zone.write(name(number), b"x" * 1_000, now + SOON + number)]
    assert (written, zone.is_full, zone.usage) == (list(range(10)), True, 10_000)
    zone.sweep()
    assert (zone.is_full, zone.usage) == (False, 8_000)
    assert [number for number in range(10) if zone.read(name(number)) is not None] == list(range(2, 10))


def test_what_nobody_reads_goes_first(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.time() - SOON]  # some file systems note the time of reading themselves
    monkeypatch.setattr(time, "time", lambda: now[0])
    for number in range(10):
        assert zone.write(name(number), b"x" * 1_000, now[0] + (5 if number == 5 else SOON))
        now[0] += 2
    for number in (0, 2):
        zone.read(name(number))
    assert not zone.write(name(10), b"x" * 1_000, now[0] + SOON)
    zone.sweep()
    assert [number for number in range(11) if zone.read(name(number)) is not None] == [0, 2, 3, 4, 6, 7, 8, 9]


def test_what_has_ended_is_swept_after_a_while(zone: Zone) -> None:
    now = time.time()
    zone.write(name(1), b"a", now - KEPT_AFTER_END - 5)
    zone.write(name(2), b"b", now - 5)
    zone.sweep()
    assert (zone.read(name(1)), zone.read(name(2)), zone.usage) == (None, b"b", 1)


def test_a_wrong_usage_is_mended(zone: Zone, tmp_path: Path) -> None:
    zone.write(name(1), b"abc", time.time() + SOON)
    (tmp_path / "zone" / "usage").write_bytes((10**9).to_bytes(8, "little"))
    zone.sweep()
    assert zone.usage == 3


def test_one_holds_a_lock_until_it_is_old(zone: Zone, tmp_path: Path) -> None:
    assert zone.lock(name(1))
    assert not zone.lock(name(1))
    assert zone.is_locked(name(1))
    zone.unlock(name(1))
    assert not zone.is_locked(name(1))
    assert zone.lock(name(1))
    then = time.time() - LOCK_AGE - 1
    os.utime(tmp_path / "zone" / "lock" / name(1), (then, then))
    assert not zone.is_locked(name(1))
    assert zone.lock(name(1))


def test_directories_of_others_are_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    for directory in (open_to_all, tmp_path / "link"):
        with pytest.raises(PermissionError):
            Zone(directory, 1, is_in_memory=False)


def answer(key: bytes, vary: list[bytes], body: bytes = b"body") -> Entry:
    description = Description(kind=Kind.ANSWER, key=key, stored=time.time(), ttl=SOON, status=200, vary=vary)
    return Entry(description, body)


def test_an_entry_of_another_key_or_a_broken_one_is_none(zone: Zone) -> None:
    written = answer(b"k", []).encoded()
    found = decoded(written, b"k")
    assert found is not None
    assert found.body == b"body"
    for broken in (b"", b"\0", written[:-1], written + b"x", b"\xff" * 40, b"\0\0\0\x05hello"):
        assert decoded(broken, b"k") is None
    assert decoded(written, b"other") is None


def test_what_is_not_to_be_kept_replaces_no_answer(zone: Zone) -> None:
    store.keep_pass(zone, b"k")
    found = store.find(zone, b"k", lambda _: None)
    assert found is not None
    assert found.description.kind is Kind.PASS
    assert not store.purge(zone, b"k")
    assert store.keep(zone, answer(b"k", []), lambda _: None)
    store.keep_pass(zone, b"k")
    found = store.find(zone, b"k", lambda _: None)
    assert found is not None
    assert found.body == b"body"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([[], [b"a"], [b"b"], [b"a", b"b"]]), st.binary(max_size=1),
                          st.binary(max_size=1)), min_size=1, max_size=8))  # fmt: skip
def test_what_was_kept_last_for_the_same_fields_is_found(
    tmp_path_factory: pytest.TempPathFactory, kept: list[tuple[list[bytes], bytes, bytes]]
) -> None:
    """As long as all answers depend on the same fields, each request has its own."""
    zone = Zone(tmp_path_factory.mktemp("law") / "zone", 100_000, is_in_memory=True)
    vary = kept[0][0]
    expected: dict[tuple[bytes, ...], bytes] = {}
    for number, (_, first, second) in enumerate(kept):
        fields = {b"a": first, b"b": second}
        store.keep(zone, answer(b"k", vary, str(number).encode()), fields.get)
        expected[tuple(fields[name] for name in vary)] = str(number).encode()
    for _, first, second in kept:
        fields = {b"a": first, b"b": second}
        found = store.find(zone, b"k", fields.get)
        assert found is not None
        assert found.body == expected[tuple(fields[name] for name in vary)]
