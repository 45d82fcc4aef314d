"""How Vault is asked, and what is made of its answers."""

import asyncio
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from config_sync import schema
from config_sync.errors import ConfigError
from config_sync.secrets import Resolver
from tests.fakes.vault import Vault
from worker.plugins.http_client import HttpClient
from worker.secrets.source import SecretFailed, SecretNotThere
from worker.secrets.vault import VaultSource


@pytest.fixture
def vault() -> Iterator[Vault]:
    running = Vault({"kv/apisix/jack": {"key": "k", "number": 7}, "kv/apisix/team/a b": {"key": "spaced"}})
    yield running
    running.close()


def fetch(settings: dict[str, Any], name: str = "jack", environment: dict[str, str] | None = None) -> Any:
    async def work() -> Any:
        http = HttpClient(asyncio.get_running_loop())
        try:
            return await VaultSource(schema.Vault(**settings), http, Resolver(environment or {})).fetch(name)
        finally:
            http.close()
            await asyncio.sleep(0)

    return asyncio.run(work())


def test_a_secret_is_read_below_the_prefix_with_the_token(vault: Vault) -> None:
    assert fetch(vault.settings()) == {"key": "k", "number": 7}
    (asked,) = vault.asked
    assert (asked.method, asked.path) == ("GET", "/v1/kv/apisix/jack")
    assert asked.fields["x-vault-token"] == "root"
    assert "x-vault-namespace" not in asked.fields


def test_names_and_slashes(vault: Vault) -> None:
    assert fetch(vault.settings("/kv/apisix/", uri=f"{vault.url}/"), "team/a b") == {"key": "spaced"}
    assert vault.asked[0].path == "/v1/kv/apisix/team/a%20b"


def test_a_namespace_is_named(vault: Vault) -> None:
    fetch(vault.settings(namespace="team"))
    assert vault.asked[0].fields["x-vault-namespace"] == "team"


def test_version_2_of_the_engine(vault: Vault) -> None:
    vault.values["kv/data/apisix/jack"] = {"data": {"key": "two"}, "metadata": {"version": 3}}
    assert fetch(vault.settings("kv/data/apisix")) == {"key": "two"}
    vault.values["kv/apisix/odd"] = {"data": {"key": "one"}, "other": "x"}
    assert fetch(vault.settings(), "odd") == {"data": {"key": "one"}, "other": "x"}


def test_settings_may_refer_to_the_environment(vault: Vault) -> None:
    settings = vault.settings() | {"token": "$env://TOKEN", "uri": "$ENV://ALL/uri"}
    environment = {"TOKEN": "root", "ALL": f'{{"uri": "{vault.url}"}}'}
    assert fetch(settings, environment=environment) == {"key": "k", "number": 7}
    with pytest.raises(SecretFailed, match="what uri refers to"):
        fetch(settings)


def test_what_is_not_there_is_told_apart_from_what_cannot_be_known(vault: Vault) -> None:
    with pytest.raises(SecretNotThere):
        fetch(vault.settings(), "jill")
    with pytest.raises(SecretFailed, match="403"):
        fetch(vault.settings() | {"token": "other"})
    vault.status = 503
    with pytest.raises(SecretFailed, match="503"):
        fetch(vault.settings())
    with pytest.raises(SecretFailed, match="/v1/kv/apisix/jack"):
        fetch(vault.settings() | {"uri": "http://127.0.0.1:1"})


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b"{}", b'{"data":null}', b'{"data":"x"}', b'{"data":' * 5000])
def test_an_answer_that_makes_no_sense_is_a_failure(vault: Vault, body: bytes) -> None:
    vault.body = body or b" "
    with pytest.raises(SecretFailed, match="what Vault answers"):
        fetch(vault.settings())


def test_without_an_http_client_nothing_can_be_asked(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install propylon\[http\]"):
        fetch(vault.settings())
