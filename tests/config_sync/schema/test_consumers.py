"""Consumers and credentials: told apart by their keys, readable with the keyring."""

from typing import Any

import pytest

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema import Consumer, Credential, decode_consumer
from tests.config_sync.schema.values import KEYS, encrypted, raw


def test_a_consumer_in_full() -> None:
    value = {"username": "jack", "group_id": 3, "plugins": {"key-auth": {"key": "k"}}, "labels": {"custom_id": "x"}}
    consumer, warnings = decode_consumer("jack", raw(value))
    assert isinstance(consumer, Consumer)
    assert (consumer.id, consumer.username, consumer.group_id, warnings) == ("jack", "jack", "3", [])


def test_the_key_says_who_it_is() -> None:
    consumer, warnings = decode_consumer("jack", raw({"plugins": []}))
    assert isinstance(consumer, Consumer)
    assert (consumer.username, warnings) == ("jack", [])
    consumer, warnings = decode_consumer("jack", raw({"username": "jill"}))
    assert isinstance(consumer, Consumer)
    assert consumer.username == "jack"
    assert warnings == ["$.username: 'jill' is not what the key says; 'jack' is used"]


@pytest.mark.parametrize("id_", ["c1", "jack/credentials/c1", 1])
def test_a_credential(id_: object) -> None:
    value = {"id": id_, "plugins": {"key-auth": {"key": "k"}}}
    if id_ == 1:
        del value["id"]
    credential, _ = decode_consumer("jack/credentials/c1", raw(value))
    assert isinstance(credential, Credential)
    assert (credential.id, credential.username) == ("jack/credentials/c1", "jack")


def test_credentials_are_decrypted_and_other_plugins_too() -> None:
    plugins = {
        "key-auth": {"key": "4y+JvURBE6ZwRbbgaryrhg=="},
        "csrf": {"key": encrypted("c")},
        "ldap-auth": {"user_dn": encrypted("u")},
    }
    consumer, _ = decode_consumer("jack", raw({"plugins": plugins}), Keyring(KEYS))
    assert consumer.plugins == {
        "key-auth": {"key": "auth-one"},
        "csrf": {"key": "c"},
        "ldap-auth": {"user_dn": encrypted("u")},  # is not among the fields that are encrypted
    }


def test_fields_stay_as_they_are_when_none_is_encrypted() -> None:
    plugins = {"key-auth": {"key": "4y+JvURBE6ZwRbbgaryrhg=="}}
    for keyring in (None, Keyring(KEYS, are_fields_encrypted=False)):
        consumer, _ = decode_consumer("jack", raw({"plugins": plugins}), keyring)
        assert consumer.plugins == plugins


@pytest.mark.parametrize(
    ("key", "value", "path"),
    [
        ("jack", {"username": "a b"}, "$.username"),
        ("jack", {"username": "a\n"}, "$.username"),
        ("jack", {"username": 5}, "$.username"),
        ("jack", {"group_id": "a/b"}, "$.group_id"),
        ("jack", {"plugins": {"key-auth": "x"}}, "$.plugins['key-auth']"),
        ("jack/credentials/", {}, "$"),
        ("jack/credentials/a/b", {}, "$"),
        ("jack/other/a", {}, "$"),
        ("jack/x", {}, "$"),
        ("j/credentials/c", {"plugins": {"key-auth": {}, "jwt-auth": {}}}, "$.plugins"),
        ("j/credentials/c", {"plugins": {"limit-count": {}}}, "$.plugins['limit-count']"),
        ("j/credentials/c", {"name": ""}, "$.name"),
    ],
)
def test_bad_consumers_name_the_place(key: str, value: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        decode_consumer(key, raw(value))
    assert caught.value.path == path
