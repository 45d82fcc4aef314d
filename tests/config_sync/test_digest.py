"""The digest: a sum over records, whatever their order, that nothing in a record escapes."""

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from config_sync.digest import MODULUS, record_hash
from config_sync.records import Item, digest_of

TEXTS = st.text(alphabet="ab/", max_size=4)
RECORDS = st.tuples(TEXTS, st.integers(0, 3), st.binary(max_size=3))


def item(id_: str, revision: int = 1, raw: bytes = b"{}") -> Item:
    return Item(id_, raw, raw, revision, revision, 1)


def test_a_hash_is_what_the_documentation_says() -> None:
    expected = blake2b(b"routes/1\0" + (7).to_bytes(8, "big") + b"{}", digest_size=16).digest()
    assert record_hash("routes/1", 7, b"{}") == int.from_bytes(expected, "big")
    assert digest_of("routes", [item("1", 7)]) == record_hash("routes/1", 7, b"{}")


def test_a_directory_that_is_one_key_is_hashed_by_its_name() -> None:
    assert digest_of("plugins", [item("")]) == record_hash("plugins", 1, b"{}")


def test_keys_that_are_no_text_are_hashed_by_their_bytes() -> None:
    key = b"routes/\xff".decode("utf-8", "surrogateescape")
    expected = blake2b(b"routes/\xff\0" + (1).to_bytes(8, "big"), digest_size=16).digest()
    assert record_hash(key, 1, b"") == int.from_bytes(expected, "big")


@given(RECORDS, RECORDS)
def test_different_records_have_different_hashes(one: tuple[str, int, bytes], other: tuple[str, int, bytes]) -> None:
    assert (record_hash(*one) == record_hash(*other)) == (one == other)


@given(st.lists(st.integers(0, 99), unique=True))
def test_the_order_does_not_matter_and_taking_out_undoes_putting_in(ids: list[int]) -> None:
    items = [item(str(id_)) for id_ in ids]
    digest = digest_of("routes", items)
    assert digest == digest_of("routes", reversed(items))
    assert 0 <= digest < MODULUS
    for gone in items:
        digest = (digest - digest_of("routes", [gone])) % MODULUS
    assert digest == 0
