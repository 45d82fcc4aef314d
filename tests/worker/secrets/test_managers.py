"""Which source is made of which settings."""

import json
from typing import Any

import pytest

from config_sync import schema
from config_sync.secrets import Resolver
from worker.plugins.testing import PluginKit
from worker.secrets.aws import AwsSource
from worker.secrets.gcp import GcpSource
from worker.secrets.managers import MANAGERS, open_source
from worker.secrets.source import SecretSource
from worker.secrets.vault import VaultSource

SETTINGS: dict[str, tuple[dict[str, Any], type[SecretSource]]] = {
    "vault": ({"uri": "http://a", "prefix": "kv", "token": "t"}, VaultSource),
    "aws": ({"access_key_id": "a", "secret_access_key": "b"}, AwsSource),
    "gcp": ({"auth_file": "/nowhere"}, GcpSource),
}


@pytest.mark.parametrize("manager", MANAGERS)
def test_each_manager_has_a_source(manager: str) -> None:
    record, kind = SETTINGS[manager]
    settings = schema.decode_secret(f"{manager}/1", json.dumps(record).encode())[0]
    with PluginKit() as kit:
        assert type(open_source(settings, kit.context.plugins.services, Resolver())) is kind
