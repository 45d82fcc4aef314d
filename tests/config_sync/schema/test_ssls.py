"""Certificates: names, pairs, keys in any of their forms."""

from typing import Any

import pytest

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema import decode_ssl
from tests.config_sync.schema.values import CERTIFICATE, KEY, KEYS, encrypted, raw

PAIR = {"cert": CERTIFICATE, "key": KEY}


def test_a_certificate_in_full() -> None:
    value = {
        **PAIR,
        "snis": ["*.A.com", "b.com."],
        "certs": [CERTIFICATE],
        "keys": [encrypted(KEY)],
        "client": {"ca": CERTIFICATE, "skip_mtls_uri_regex": ["^/open"]},
        "ssl_protocols": ["TLSv1.3"],
    }
    ssl, warnings = decode_ssl("1", raw(value), Keyring(KEYS))
    assert warnings == []
    assert (ssl.type, ssl.status, ssl.snis, ssl.keys) == ("server", 1, ("*.a.com", "b.com"), (KEY,))
    assert ssl.client is not None
    assert ssl.client.depth == 1


def test_a_client_certificate_needs_no_name() -> None:
    assert decode_ssl("1", raw({**PAIR, "type": "client"}))[0].snis == ()


@pytest.mark.parametrize("reference", ["$secret://vault/1/ssl/key", "$ENV://KEY"])
def test_references_are_not_checked(reference: str) -> None:
    ssl, _ = decode_ssl("1", raw({"sni": "a.com", "cert": reference, "key": reference}), Keyring(KEYS))
    assert (ssl.cert, ssl.key) == (reference, reference)


def test_without_a_keyring_a_key_stays_as_it_is() -> None:
    assert decode_ssl("1", raw({**PAIR, "sni": "a", "key": encrypted(KEY)}))[0].key == encrypted(KEY)


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({}, "$"),
        ({"sni": "a", "snis": ["b"]}, "$.snis"),
        ({"snis": []}, "$.snis"),
        ({"sni": "a b"}, "$.sni"),
        ({"sni": "a", "type": "both"}, "$.type"),
        ({"sni": "a", "cert": "short"}, "$.cert"),
        ({"sni": "a", "key": encrypted(KEY, "k" * 32)}, "$.key"),
        ({"sni": "a", "key": "-----BEGIN"}, "$.key"),
        ({"sni": "a", "certs": [CERTIFICATE]}, "$.keys"),
        ({"sni": "a", "certs": ["x"], "keys": [KEY]}, "$.certs[0]"),
        ({"sni": "a", "certs": [CERTIFICATE], "keys": ["x"]}, "$.keys[0]"),
        ({"sni": "a", "client": {}}, "$.client"),
        ({"sni": "a", "client": {"ca": CERTIFICATE, "depth": -1}}, "$.client.depth"),
        ({"sni": "a", "client": {"ca": CERTIFICATE, "skip_mtls_uri_regex": ["("]}}, "$.client.skip_mtls_uri_regex[0]"),
        ({"sni": "a", "ssl_protocols": ["SSLv3"]}, "$.ssl_protocols[0]"),
        ({"sni": "a", "ssl_protocols": ["TLSv1.2", "TLSv1.2"]}, "$.ssl_protocols"),
        ({"sni": "a", "status": 2}, "$.status"),
    ],
)
def test_bad_certificates_name_the_place(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        decode_ssl("1", raw({**PAIR, **changes}), Keyring(KEYS))
    assert caught.value.path == path
    assert KEY not in str(caught.value)
