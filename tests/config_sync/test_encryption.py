"""The keyring against what APISIX has written, and what must not be touched."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.encryption import Keyring
from tests.config_sync.schema.values import KEYS, encrypted

LONG_KEY = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("stored", "plain"),
    [("4y+JvURBE6ZwRbbgaryrhg==", "auth-one"), ("Miw9nx9VcNLvGX0g835QIQ==", "auth-two")],
)
def test_what_apisix_has_written(stored: str, plain: str) -> None:
    assert Keyring(KEYS).decrypt(stored) == plain


@given(st.text(max_size=100), st.sampled_from([*KEYS, LONG_KEY]))
def test_any_key_of_the_ring_fits(text: str, key: str) -> None:
    # A key tried before may by chance leave a padding that looks right, about once in 250 times, but not text.
    assert Keyring([key, *KEYS, LONG_KEY]).decrypt(encrypted(text, key)) == text


def test_keys_are_tried_in_order() -> None:
    for key in (*KEYS, LONG_KEY):
        assert (
            Keyring([*KEYS, LONG_KEY]).decrypt(encrypted("a text of several blocks", key)) == "a text of several blocks"
        )


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "auth-one",
            "a" * 24,
            "=" * 24,
            "é" * 24,
            "$env://KEY",
            "4y+JvURBE6ZwRbbgaryrhg",
            "4y+JvURBE6ZwRbbg\naryrhg==",
        ),
        encrypted("text", "another key of 1"),
        encrypted("text")[:-4],
    ],
)
def test_what_no_key_fits_stays_as_it_is(text: str) -> None:
    assert Keyring(KEYS).decrypt(text) == text
    assert Keyring([]).decrypt(text) == text


def test_keys_are_not_shown() -> None:
    assert KEYS[0] not in repr(Keyring(KEYS))


def test_what_is_plain_costs_no_memory() -> None:
    script = (
        "import sys; from config_sync.encryption import Keyring; ring = Keyring(['qeddd145sfvddff3']);"
        "ring.decrypt('plain'); assert 'cryptography' not in sys.modules;"
        "assert ring.decrypt('4y+JvURBE6ZwRbbgaryrhg==') == 'auth-one'; assert 'cryptography' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
