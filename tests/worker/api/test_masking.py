"""Secrets do not show, and what is none stays."""

import pytest

from worker.api.masking import MASK, masked


@pytest.mark.parametrize(
    ("directory", "value", "shown"),
    [
        ("ssls", {"cert": "c", "key": "k", "keys": ["k"]}, {"cert": "c", "key": MASK, "keys": [MASK]}),
        ("upstreams", {"key": "remote_addr", "hash_on": "vars"}, {"key": "remote_addr", "hash_on": "vars"}),
        ("upstreams", {"tls": {"client_key": "k"}}, {"tls": {"client_key": MASK}}),
        ("consumers", {"plugins": {"key-auth": {"key": "k"}}}, {"plugins": {"key-auth": {"key": MASK}}}),
        ("secrets", {"token": "t", "uri": "u"}, {"token": MASK, "uri": "u"}),
        ("routes", {"plugins": {"x": {"key": "$env://K"}}}, {"plugins": {"x": {"key": "$env://K"}}}),
        ("routes", {"plugins": {"x": {"secret": {"a": ["b"]}}}}, {"plugins": {"x": {"secret": {"a": [MASK]}}}}),
        ("routes", {"plugins": {"x": {"client-secret": "s"}}}, {"plugins": {"x": {"client-secret": MASK}}}),
        ("routes", {"plugins": {"x": {"hide_credentials": True}}}, {"plugins": {"x": {"hide_credentials": True}}}),
        ("plugins", [{"name": "key-auth"}], [{"name": "key-auth"}]),
    ],
)
def test_masked(directory: str, value: object, shown: object) -> None:
    assert masked(directory, value) == shown
